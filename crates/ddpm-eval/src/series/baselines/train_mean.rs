//! The mean of the training windows.

use super::{ImputationTask, fill};
use crate::EvaluationError;
use crate::series::rows::Predictions;

pub(super) fn impute(task: &ImputationTask<'_>) -> Result<Predictions, EvaluationError> {
    task.by_variable("the mean", |given, mean| fill(given, |_| mean))
}
