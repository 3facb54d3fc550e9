//! The value one period before, or after, or two periods before, or after; else the mean of what is observed. Every window
//! has a period of its own: the lag with the largest mean product of observed pairs of all variables, less their means.

use std::ops::RangeInclusive;

use super::{ImputationTask, fill};
use crate::EvaluationError;
use crate::series::rows::{Predictions, Rows, mean_of_finite};

pub(super) fn impute(task: &ImputationTask<'_>, lags: RangeInclusive<usize>) -> Result<Predictions, EvaluationError> {
    let length = task.test.shape()[1];
    if lags.is_empty() || *lags.start() == 0 || *lags.end() >= length {
        let reason = format!("lags {lags:?} in windows of {length} steps; expected lags from 1 to below the length");
        return Err(EvaluationError::Argument { what: "period copy", reason });
    }
    task.by_window("period copy", |given, means| {
        let period = period(given, means, lags.clone());
        let column = |(variable, mean): (usize, &f64)| {
            let own: Vec<f64> = given.column(variable).collect();
            let observed = mean_of_finite(own.iter().copied());
            let otherwise = if observed.is_finite() { observed } else { *mean };
            fill(&own, |step| copied(&own, step, period).unwrap_or(otherwise))
        };
        means.iter().enumerate().map(column).collect()
    })
}

/// The nearest value that is there a whole number of periods away, up to two.
fn copied(column: &[f64], step: usize, period: usize) -> Option<f64> {
    let around = [1, 2].map(|n| [step.checked_sub(n * period), Some(step + n * period)]);
    let places = around.into_iter().flatten().flatten();
    places.filter_map(|place| column.get(place)).copied().find(|value| value.is_finite())
}

fn period(rows: Rows<'_>, means: &[f64], lags: RangeInclusive<usize>) -> usize {
    let product = |lag: usize| {
        let of_rows = |row: usize| {
            let pairs = rows.row(row).iter().zip(rows.row(row - lag)).zip(means);
            pairs.map(|((a, b), mean)| (a - mean) * (b - mean))
        };
        mean_of_finite((lag..rows.len()).flat_map(of_rows))
    };
    // The first of equal ones; a mean over no pairs is no number, and larger than none.
    let shortest = *lags.start();
    let largest = |best: (usize, f64), lag: usize| {
        let found = product(lag);
        if found > best.1 { (lag, found) } else { best }
    };
    lags.fold((shortest, f64::NEG_INFINITY), largest).0
}
