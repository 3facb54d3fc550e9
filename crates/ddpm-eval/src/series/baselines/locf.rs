//! The last observation carried forward; before the first, the mean of the training windows.

use super::{ImputationTask, fill, neighbors};
use crate::EvaluationError;
use crate::series::rows::Predictions;

pub(super) fn impute(task: &ImputationTask<'_>) -> Result<Predictions, EvaluationError> {
    task.by_variable("the last observation", |given, mean| {
        let neighbors = neighbors(given);
        fill(given, |step| neighbors[step][0].map_or(mean, |place| given[place]))
    })
}
