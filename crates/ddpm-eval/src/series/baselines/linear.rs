//! Linear interpolation between the nearest observations; outside of them the nearest.

use super::{ImputationTask, fill, neighbors};
use crate::EvaluationError;
use crate::series::rows::Predictions;

pub(super) fn impute(task: &ImputationTask<'_>) -> Result<Predictions, EvaluationError> {
    task.by_variable("linear interpolation", |given, mean| {
        let neighbors = neighbors(given);
        fill(given, |step| match neighbors[step] {
            [Some(from), Some(to)] => {
                given[from] + (given[to] - given[from]) * (step - from) as f64 / (to - from) as f64
            }
            [Some(place), None] | [None, Some(place)] => given[place],
            [None, None] => mean,
        })
    })
}
