//! The mean of what a window has of a variable.

use super::{ImputationTask, fill};
use crate::EvaluationError;
use crate::series::rows::{Predictions, mean_of_finite};

pub(super) fn impute(task: &ImputationTask<'_>) -> Result<Predictions, EvaluationError> {
    task.by_variable("the mean of observed values", |given, mean| {
        let own = mean_of_finite(given.iter().copied());
        fill(given, |_| if own.is_finite() { own } else { mean })
    })
}
