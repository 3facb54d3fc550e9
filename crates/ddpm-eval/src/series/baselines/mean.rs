//! The mean of the training data, for all of the horizon.

use super::ForecastTask;
use crate::EvaluationError;
use crate::series::rows::{Predictions, means};

pub(super) fn forecast(task: &ForecastTask<'_>) -> Result<Predictions, EvaluationError> {
    let means = means(task.train, "the mean")?;
    Ok(task.points(|_, _, variable| means[variable]))
}
