//! The season, and residuals drawn from the training data: whatever came right before is ignored.

use ddpm_data::random::RngExt;

use super::ForecastTask;
use super::season::Season;
use crate::EvaluationError;
use crate::series::rows::{Predictions, Rows};

pub(super) fn forecast(task: &ForecastTask<'_>, season: Season) -> Result<Predictions, EvaluationError> {
    let season = season.fit(task.train)?;
    let variables = task.train.variables();
    let residuals = season.residuals(task.train);
    // Of one day, so that the variables keep their dependence.
    let complete: Vec<&[f64]> =
        residuals.chunks_exact(variables).filter(|row| row.iter().all(|value| value.is_finite())).collect();
    if complete.is_empty() {
        return Err(EvaluationError::TooFew { what: "residuals of complete rows", least: 1, found: 0 });
    }
    let prepare = |history: Rows<'_>| season.ahead(history, task.horizon);
    Ok(task.paths(prepare, |means, numbers, path| {
        for (row, mean) in path.chunks_exact_mut(variables).zip(means) {
            let residual = complete[numbers.random_range(0..complete.len())];
            row.iter_mut().zip(mean).zip(residual).for_each(|((value, mean), residual)| *value = mean + residual);
        }
    }))
}
