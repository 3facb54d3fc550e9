//! The period of a series, found by autocorrelation.

use std::ops::RangeInclusive;

use ddpm_data::series::Frequency;

use super::rows::{Rows, WindowArray, mean_of_finite};

/// Lags beyond this are not searched, only tried where the frequency suggests them.
const LONGEST: usize = 400;
/// Rows and variables that are looked at; more do not change a period.
const MOST_ROWS: usize = 20_000;
const MOST_VARIABLES: usize = 16;
/// Least autocorrelation at the period, and least rise to it from the lowest at a shorter lag.
const LEAST: f64 = 0.2;
/// A shorter period is preferred if its autocorrelation is at least this share of the largest.
const SHARE: f64 = 0.8;
/// By how much a usual period may miss the top of its peak: a year is not a whole number of days.
const TOLERANCE: f64 = 0.1;

/// The usual periods of series of a frequency, in steps, from the shortest.
pub fn candidates(frequency: Frequency) -> Vec<usize> {
    const HOUR: u32 = 3600;
    const DAY: u32 = 24 * HOUR;
    let steps = |seconds: u32, of: &[u32]| -> Vec<usize> {
        of.iter().filter(|period| **period >= 2 * seconds).map(|period| (period / seconds) as usize).collect()
    };
    match frequency {
        Frequency::Seconds(seconds @ 1..HOUR) => steps(seconds, &[HOUR, DAY, 7 * DAY]),
        Frequency::Seconds(seconds @ HOUR..DAY) => steps(seconds, &[DAY, 7 * DAY]),
        Frequency::Seconds(seconds) if seconds == DAY => vec![7, 365],
        Frequency::Seconds(seconds) => steps(seconds, &[365 * DAY]),
        Frequency::BusinessDays => vec![5, 261],
        Frequency::Months(months) => {
            (12 / months.max(1) >= 2).then(|| (12 / months.max(1)) as usize).into_iter().collect()
        }
    }
}

/// The period of a series, if it has one. `usual` are periods to try first, such as [`candidates`]; without one that fits,
/// all lags up to a sixth of the series are searched.
pub fn find(rows: Rows<'_>, usual: &[usize]) -> Option<usize> {
    let longest = (rows.len() / 3).min(2 * LONGEST);
    let usual = usual.iter().copied().filter(|period| *period <= rows.len() / 2);
    let known = usual.clone().max().unwrap_or(0);
    let correlations = Autocorrelation::of([rows].into_iter(), longest.max(known + reach(known)));
    let usual = correlations.best(usual.map(|lag| (lag, correlations.peak(lag, TOLERANCE))));
    let repeated = |lag: usize| correlations.peak(lag, 0.0).filter(|_| correlations.repeats(lag));
    usual.or_else(|| correlations.best((2..=longest / 2).map(|lag| (lag, repeated(lag)))))
}

/// The range of periods of windows: around the one that is most common, from two thirds to one and a half of it. Each
/// window may have a period of its own.
pub fn range_of_windows(windows: WindowArray<'_>) -> Option<RangeInclusive<usize>> {
    let length = windows.shape()[1];
    let longest = (length / 2).min(LONGEST);
    let correlations = Autocorrelation::of(windows.windows(), longest + reach(longest));
    let period = correlations.best((2..=longest).map(|lag| (lag, correlations.peak(lag, 0.0))))?;
    Some((period * 2 / 3).max(1)..=(period * 3 / 2).min(length - 1))
}

/// Lags as near as this to a peak are lower: peaks are the wider the longer the period.
fn reach(lag: usize) -> usize {
    (lag / 16).max(1)
}

/// Autocorrelations at lags from 0, the mean over variables, of series less their linear trend.
struct Autocorrelation(Vec<f64>);

impl Autocorrelation {
    fn of<'a>(series: impl Iterator<Item = Rows<'a>>, longest: usize) -> Self {
        let mut sums = vec![[0.0; 2]; longest + 1];
        let mut rows_left = MOST_ROWS;
        for rows in series {
            let rows = rows.first(rows_left);
            rows_left -= rows.len();
            let stride = rows.variables().div_ceil(MOST_VARIABLES);
            for variable in (0..rows.variables()).step_by(stride) {
                add_products(&without_trend(&rows.column(variable).collect::<Vec<f64>>()), &mut sums);
            }
            if rows_left == 0 {
                break;
            }
        }
        let at_0 = sums[0][0] / sums[0][1];
        Self(sums.iter().map(|[sum, count]| sum / count / at_0).collect())
    }

    /// The shortest lag whose peak is about as high as the highest.
    fn best(&self, peaks: impl Iterator<Item = (usize, Option<f64>)>) -> Option<usize> {
        let peaks: Vec<(usize, f64)> = peaks.filter_map(|(lag, peak)| Some((lag, peak?))).collect();
        let highest = peaks.iter().map(|(_, peak)| *peak).fold(f64::NAN, f64::max);
        peaks.iter().filter(|(_, peak)| *peak >= SHARE * highest).map(|(lag, _)| *lag).min()
    }

    /// The autocorrelation at a lag that it rises to from its lowest at a shorter one; `None` where there is no peak: a
    /// level that wanders is most like what is nearest. What is near the peak may be higher by `tolerance`.
    fn peak(&self, lag: usize, tolerance: f64) -> Option<f64> {
        let at = *self.0.get(lag)?;
        let near = self.0.get(lag.checked_sub(reach(lag))?..=lag + reach(lag))?;
        let lowest = self.0[..lag].iter().copied().fold(f64::INFINITY, f64::min);
        let is_peak = lag >= 2 && near.iter().all(|near| at >= near - tolerance);
        (is_peak && at >= LEAST && at - lowest >= LEAST).then_some(at)
    }

    /// Whether it rises to twice the lag, too.
    fn repeats(&self, lag: usize) -> bool {
        let [between, twice] = [lag + lag / 2, 2 * lag].map(|lag| self.0.get(lag).copied().unwrap_or(f64::NAN));
        twice >= LEAST / 2.0 && twice - between >= LEAST / 2.0
    }
}

/// Adds products of values a lag apart, divided by the variance, and their number.
fn add_products(values: &[f64], sums: &mut [[f64; 2]]) {
    let variance = mean_of_finite(values.iter().map(|value| value * value));
    if variance.is_nan() || variance <= 0.0 {
        return;
    }
    for (lag, sum) in sums.iter_mut().enumerate().take(values.len()) {
        for (a, b) in values.iter().zip(&values[lag..]) {
            let product = a * b;
            if product.is_finite() {
                sum[0] += product / variance;
                sum[1] += 1.0;
            }
        }
    }
}

/// The values less the line of least squares.
fn without_trend(values: &[f64]) -> Vec<f64> {
    let there = || values.iter().enumerate().filter(|(_, value)| value.is_finite());
    let mean = mean_of_finite(values.iter().copied());
    let middle = mean_of_finite(there().map(|(step, _)| step as f64));
    let along: f64 = there().map(|(step, value)| (step as f64 - middle) * (value - mean)).sum();
    let square: f64 = there().map(|(step, _)| (step as f64 - middle).powi(2)).sum();
    let slope = if square > 0.0 { along / square } else { 0.0 };
    values.iter().enumerate().map(|(step, value)| value - mean - slope * (step as f64 - middle)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::{Stream, normals, rng};

    fn noise(index: u64, count: usize) -> Vec<f64> {
        normals(&mut rng(3, Stream::Probe, index), count).into_iter().map(f64::from).collect()
    }

    fn series(count: usize, value: impl Fn(usize, f64) -> f64) -> Vec<f64> {
        noise(0, count).into_iter().enumerate().map(|(step, noise)| value(step, noise)).collect()
    }

    fn found(values: &[f64], usual: &[usize]) -> Option<usize> {
        find(Rows::new(values, 1, 0).unwrap(), usual)
    }

    #[test]
    fn a_season_is_found_under_noise_trend_and_gaps() {
        let season = |step: usize, period: f64| (step as f64 / period * std::f64::consts::TAU).sin();
        let mut values = series(600, |step, noise| 2.0 * season(step, 12.0) + noise + 0.05 * step as f64);
        values.iter_mut().step_by(7).for_each(|value| *value = f64::NAN);
        assert_eq!(found(&values, &[]), Some(12));
        assert_eq!(found(&values, &[7, 365]), Some(12));
        // Not a sine: one high value in 24.
        let spikes = series(480, |step, noise| if step % 24 == 5 { 5.0 } else { 0.3 * noise });
        assert_eq!(found(&spikes, &candidates(Frequency::Seconds(3600))), Some(24));
    }

    #[test]
    fn what_wanders_has_no_period() {
        for index in 0..5 {
            assert_eq!(found(&noise(index, 500), &[7, 365]), None);
            let mut level = 0.0;
            let walk: Vec<f64> = noise(index, 2000)
                .iter()
                .map(|step| {
                    level = 0.99 * level + step;
                    level
                })
                .collect();
            assert_eq!(found(&walk, &[7, 365]), None, "walk {index}");
        }
        assert_eq!(found(&[1.0; 50], &[]), None);
        assert_eq!(found(&[f64::NAN; 50], &[12]), None);
        assert_eq!(found(&[], &[12]), None);
    }

    #[test]
    fn frequencies_have_usual_periods() {
        assert_eq!(candidates(Frequency::Seconds(3600)), [24, 168]);
        assert_eq!(candidates(Frequency::Seconds(1800)), [2, 48, 336]);
        assert_eq!(candidates(Frequency::Seconds(86_400)), [7, 365]);
        assert_eq!(candidates(Frequency::Seconds(7 * 86_400)), [52]);
        assert_eq!(candidates(Frequency::Months(1)), [12]);
        assert_eq!(candidates(Frequency::Months(3)), [4]);
        assert!(candidates(Frequency::Months(12)).is_empty());
    }
}
