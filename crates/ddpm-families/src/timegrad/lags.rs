//! How many steps back the values are that the recurrent network reads, where the experiment does not say it.

use ddpm_data::series::{Frequency, SeriesSet, Table};
use ddpm_model::timegrad::features::Unit;

use super::features::periods;

/// A season shows again at its multiples, where by chance the peak may be a little higher.
const SHARE_OF_HIGHEST: f64 = 0.8;
/// The longest season that is looked for.
const LONGEST_SEASON: usize = 400;
/// A season is where values this far apart have at least this correlation.
const LEAST_CORRELATION: f64 = 0.1;

/// By the frequency: those of pytorch-ts; for several months, a year.
pub fn lags_of_frequency(frequency: Frequency) -> Vec<usize> {
    let periods = periods(frequency);
    match (periods.unit, 12usize.checked_div(periods.multiple as usize)) {
        (Unit::Month, Some(year)) if year > 1 => vec![1, year],
        (Unit::Month, _) => vec![1],
        _ => periods.lags().to_vec(),
    }
}

/// By the training data: the last two steps, and one season ago where the data have a season.
pub(super) fn lags_of_data(set: &SeriesSet) -> Vec<usize> {
    let longest = set.series().iter().enumerate().max_by_key(|(number, _)| set.steps(*number).len());
    let Some((number, series)) = longest else { return vec![1] };
    let steps = set.steps(number);
    let columns: Vec<Vec<f64>> =
        (0..series.target.variables()).map(|variable| centered(&series.target, steps.clone(), variable)).collect();
    let most = (steps.len() / 4).min(LONGEST_SEASON);
    let correlations: Vec<f64> = (0..=most).map(|lag| correlation(&columns, lag)).collect();
    match season(&correlations) {
        Some(season) => vec![1, 2, season],
        None => vec![1, 2],
    }
}

/// The observed values of a variable less their mean, in units of their deviation; 0 where nothing was observed.
fn centered(table: &Table, steps: std::ops::Range<usize>, variable: usize) -> Vec<f64> {
    let values: Vec<Option<f64>> =
        steps.filter(|step| *step < table.steps()).map(|step| table.given(step, variable)).collect();
    let seen = || values.iter().copied().flatten();
    let count = seen().count().max(1) as f64;
    let mean = seen().sum::<f64>() / count;
    let deviation = (seen().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let unit = if deviation > 0.0 { deviation } else { 1.0 };
    values.into_iter().map(|value| value.map_or(0.0, |value| (value - mean) / unit)).collect()
}

/// The mean over the variables of their correlation with themselves so many steps before.
fn correlation(columns: &[Vec<f64>], lag: usize) -> f64 {
    let of_one = |values: &Vec<f64>| {
        let products = values.iter().zip(values.iter().skip(lag)).map(|(a, b)| a * b);
        products.sum::<f64>() / values.len().saturating_sub(lag).max(1) as f64
    };
    columns.iter().map(of_one).sum::<f64>() / columns.len().max(1) as f64
}

/// The first peak of correlations by lag that is nearly as high as the highest one.
fn season(correlations: &[f64]) -> Option<usize> {
    let peaks: Vec<usize> = (3..correlations.len().saturating_sub(1))
        .filter(|&lag| {
            let [before, at, after] = [-1isize, 0, 1].map(|k| correlations[(lag as isize + k) as usize]);
            at > before && at >= after && at > LEAST_CORRELATION
        })
        .collect();
    let highest = peaks.iter().map(|&lag| correlations[lag]).fold(0.0, f64::max);
    peaks.into_iter().find(|&lag| correlations[lag] >= SHARE_OF_HIGHEST * highest)
}
