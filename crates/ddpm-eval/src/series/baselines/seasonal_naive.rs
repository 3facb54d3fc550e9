//! The value one period before, or as many periods before as it takes to find one.

use super::ForecastTask;
use crate::EvaluationError;
use crate::series::rows::{Predictions, means};

pub(super) fn forecast(task: &ForecastTask<'_>, period: usize) -> Result<Predictions, EvaluationError> {
    let shortest = task.histories.iter().map(|history| history.len()).min().unwrap_or(0);
    if period == 0 || shortest < period {
        return Err(EvaluationError::TooFew { what: "a history of one period", least: period.max(1), found: shortest });
    }
    let means = means(task.train, "seasonal naive")?;
    Ok(task.points(|history, step, variable| {
        let periods = (1..).map_while(|periods| (history.len() + step).checked_sub(periods * period));
        let before = periods.filter(|row| *row < history.len()).map(|row| history.at(row, variable));
        before.into_iter().find(|value| value.is_finite()).unwrap_or(means[variable])
    }))
}
