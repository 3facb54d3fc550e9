//! The last value of every variable, for all of the horizon.

use super::ForecastTask;
use crate::EvaluationError;
use crate::series::rows::{Predictions, means};

pub(super) fn forecast(task: &ForecastTask<'_>) -> Result<Predictions, EvaluationError> {
    let means = means(task.train, "the last value")?;
    Ok(task.points(|history, _, variable| {
        history.column(variable).rev().find(|value| value.is_finite()).unwrap_or(means[variable])
    }))
}
