//! Metrics of probabilistic forecasts. Three different numbers are called "CRPS"; here each has its own name.
//!
//! - [`ScoredSamples::quantile_crps`] with [`Quantile::Nearest`]: that of GluonTS;
//! - the same with [`Quantile::Linear`]: that of CSDI;
//! - [`ScoredSamples::energy_crps`]: E|X - y| - E|X - X'| / 2, per entry and in the units of the data.
//!
//! CRPS-sum is any of them after [`ScoredSamples::sum_over_variables`].

use super::rows::{Rows, mean_of_finite};
use crate::EvaluationError;

/// Samples of some forecasts, and the targets.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredSamples {
    /// Forecasts, samples of each, times, variables: [B, S, L, K].
    shape: [usize; 4],
    /// The samples of every entry, sorted: [B, L, K, S].
    sorted: Vec<f64>,
    /// [B, L, K].
    target: Vec<f64>,
    /// The weight of every entry: 0 for those that are left out.
    mask: Vec<f64>,
}

/// How a quantile is computed from S sorted samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// The sample of number (S - 1) q, rounded, halves to even.
    Nearest,
    /// Linear interpolation between the two neighbors.
    Linear,
    /// The lower of the two neighbors, as PyTorch's median.
    Lower,
}

/// The levels 0.05, 0.10 to 0.95.
pub fn usual_levels() -> Vec<f64> {
    (1..20).map(|i| f64::from(i) / 20.0).collect()
}

impl ScoredSamples {
    /// From samples [B, S, L, K] and targets [B, L, K]; the mask has the shape of the targets, and 1 where an entry
    /// counts.
    pub fn new(
        shape: [usize; 4],
        samples: &[f64],
        target: &[f64],
        mask: Option<&[f64]>,
    ) -> Result<Self, EvaluationError> {
        let [b, s, l, k] = shape;
        let entries = b * l * k;
        let fits = samples.len() == entries * s && target.len() == entries;
        let mask = mask.map_or_else(|| vec![1.0; entries], <[f64]>::to_vec);
        if !fits || mask.len() != entries || entries * s == 0 {
            return Err(EvaluationError::TooFew {
                what: "a forecast",
                least: entries * s.max(1),
                found: samples.len(),
            });
        }
        let mut sorted = Vec::with_capacity(samples.len());
        for entry in 0..entries {
            let (forecast, rest) = (entry / (l * k), entry % (l * k));
            let mut own: Vec<f64> = (0..s).map(|sample| samples[(forecast * s + sample) * l * k + rest]).collect();
            own.sort_by(f64::total_cmp);
            sorted.extend(own);
        }
        Ok(Self { shape, sorted, target: target.to_vec(), mask })
    }

    /// The forecast of the sum over all variables, from the samples that this one was made of. Without a mask: a sum
    /// with a part missing is another quantity.
    pub fn sum_over_variables(shape: [usize; 4], samples: &[f64], target: &[f64]) -> Result<Self, EvaluationError> {
        let [b, s, l, k] = shape;
        let sums = |values: &[f64]| values.chunks_exact(k.max(1)).map(|entry| entry.iter().sum()).collect::<Vec<f64>>();
        Self::new([b, s, l, 1], &sums(samples), &sums(target), None)
    }

    /// The same where every entry of the sum counts by the share of its variables that count, as CSDI does it: all
    /// variables are summed nevertheless.
    pub fn masked_sum_over_variables(
        shape: [usize; 4],
        samples: &[f64],
        target: &[f64],
        mask: &[f64],
    ) -> Result<Self, EvaluationError> {
        let variables = shape[3].max(1);
        let share = |entry: &[f64]| entry.iter().sum::<f64>() / variables as f64;
        let mask = mask.chunks_exact(variables).map(share).collect();
        let sum = Self::sum_over_variables(shape, samples, target)?;
        sum.with_mask(mask)
    }

    fn with_mask(self, mask: Vec<f64>) -> Result<Self, EvaluationError> {
        match mask.len() == self.target.len() {
            true => Ok(Self { mask, ..self }),
            false => Err(EvaluationError::TooFew {
                what: "the mask of a forecast",
                least: self.target.len(),
                found: mask.len(),
            }),
        }
    }

    /// The forecast of every step and of so many variables in the columns of samples and targets, of which only those
    /// steps count where every variable counts: a sum with a part missing is another quantity. `None` if there is no such
    /// step.
    pub fn complete_sum_over_variables(
        shape: [usize; 4],
        samples: &[f64],
        target: &[f64],
        mask: &[f64],
    ) -> Result<Option<Self>, EvaluationError> {
        let complete = |entry: &[f64]| f64::from(u8::from(entry.iter().all(|value| *value > 0.0)));
        let mask: Vec<f64> = mask.chunks_exact(shape[3].max(1)).map(complete).collect();
        match mask.iter().any(|value| *value > 0.0) {
            true => Ok(Some(Self::sum_over_variables(shape, samples, target)?.with_mask(mask)?)),
            false => Ok(None),
        }
    }

    /// The forecast of one variable.
    pub fn variable(&self, variable: usize) -> Self {
        let [b, s, l, k] = self.shape;
        let own = |values: &[f64]| values.iter().skip(variable).step_by(k).copied().collect::<Vec<f64>>();
        let sorted = self.sorted.chunks_exact(s).skip(variable).step_by(k).flatten().copied().collect();
        Self { shape: [b, s, l, 1], sorted, target: own(&self.target), mask: own(&self.mask) }
    }

    /// The number of entries that count.
    pub fn scored(&self) -> usize {
        self.counted().count()
    }

    /// The entries that count; there may be no value where one does not.
    fn counted(&self) -> impl Iterator<Item = (&[f64], f64, f64)> {
        self.entries().filter(|(_, _, mask)| *mask > 0.0)
    }

    fn entries(&self) -> impl Iterator<Item = (&[f64], f64, f64)> {
        let [_, s, _, _] = self.shape;
        self.sorted.chunks_exact(s).zip(&self.target).zip(&self.mask).map(|((own, y), mask)| (own, *y, *mask))
    }

    /// The quantile of every entry, [B, L, K].
    pub fn quantiles(&self, level: f64, rule: Quantile) -> Vec<f64> {
        self.entries().map(|(own, _, _)| quantile(own, level, rule)).collect()
    }

    /// Twice the sum over the entries of |(f - y) (1[y <= f] - q)|, at every level q.
    pub fn quantile_losses(&self, levels: &[f64], rule: Quantile) -> Vec<f64> {
        let loss = |level: f64| {
            let of_entry = |(own, y, mask): (&[f64], f64, f64)| {
                let f = quantile(own, level, rule);
                mask * ((f - y) * (f64::from(u8::from(y <= f)) - level)).abs()
            };
            2.0 * self.counted().map(of_entry).sum::<f64>()
        };
        levels.iter().map(|level| loss(*level)).collect()
    }

    /// The sum of |y|, which losses are divided by.
    pub fn absolute_target_sum(&self) -> f64 {
        self.counted().map(|(_, y, mask)| mask * y.abs()).sum()
    }

    /// The mean over the levels of the quantile loss, divided by the sum of |y|: dimensionless.
    pub fn quantile_crps(&self, levels: &[f64], rule: Quantile) -> f64 {
        let losses = self.quantile_losses(levels, rule);
        losses.iter().sum::<f64>() / losses.len() as f64 / self.absolute_target_sum()
    }

    /// E|X - y| - E|X - X'| / 2 of every entry, [B, L, K] (Gneiting & Raftery 2007 (21)). The second mean is over all
    /// S^2 pairs, or over the S (S - 1) of different samples, which is fair to few samples.
    pub fn energy_crps(&self, pairs: Pairs) -> Vec<f64> {
        self.entries().map(|(own, y, _)| energy_form(own, y, pairs)).collect()
    }

    /// The mean over the entries that count of [`Self::energy_crps`], in the units of the data.
    pub fn mean_energy_crps(&self, pairs: Pairs) -> f64 {
        self.mean(|own, y| energy_form(own, y, pairs))
    }

    /// The same divided by the mean of |y|: dimensionless as [`Self::quantile_crps`] is, and smaller than it by a few
    /// per cent, because it takes all levels and not nineteen.
    pub fn normalized_energy_crps(&self, pairs: Pairs) -> f64 {
        self.mean_energy_crps(pairs) / self.mean(|_, y| y.abs())
    }

    /// The mean over the entries that count of [`Self::energy_crps`] divided by a scale of each variable, such as its
    /// standard deviation.
    pub fn scaled_energy_crps(&self, pairs: Pairs, scales: &[f64]) -> f64 {
        self.scaled_mean(|place| scales[place % self.shape[3]], |own, y| energy_form(own, y, pairs))
    }

    /// Mean of |y - median| over the scale of its forecast and variable, [B, K]: with the [`seasonal_errors`] of what
    /// came before each forecast it is MASE (Hyndman & Koehler 2006). Entries with a scale of 0 or none are left out.
    pub fn scaled_mae(&self, scales: &[f64], rule: Quantile) -> f64 {
        let [_, _, l, k] = self.shape;
        let scale = |place: usize| scales[place / (l * k) * k + place % k];
        self.scaled_mean(scale, |own, y| (quantile(own, 0.5, rule) - y).abs())
    }

    fn scaled_mean(&self, scale: impl Fn(usize) -> f64, value: impl Fn(&[f64], f64) -> f64) -> f64 {
        let (mut weighted, mut weights) = (0.0, 0.0);
        for (place, (own, y, mask)) in self.entries().enumerate() {
            let scale = scale(place);
            if mask > 0.0 && scale > 0.0 && scale.is_finite() {
                weighted += mask * value(own, y) / scale;
                weights += mask;
            }
        }
        weighted / weights
    }

    /// Mean of |y - f| over the entries that count, f being the median.
    pub fn mae(&self, rule: Quantile) -> f64 {
        self.mean(|own, y| (quantile(own, 0.5, rule) - y).abs())
    }

    /// Root of the mean squared error of `point`.
    pub fn rmse(&self, point: Point) -> f64 {
        self.mean(|own, y| (point.of(own) - y).powi(2)).sqrt()
    }

    /// The sum of |y - median| over the sum of |y| (ND).
    pub fn normalized_deviation(&self, rule: Quantile) -> f64 {
        self.mae(rule) / self.mean(|_, y| y.abs())
    }

    /// Root of the mean of y^2.
    pub fn target_rms(&self) -> f64 {
        self.mean(|_, y| y * y).sqrt()
    }

    /// RMSE of the mean forecast over the mean of |y| (NRMSE).
    pub fn normalized_rmse(&self) -> f64 {
        self.rmse(Point::Mean) / self.mean(|_, y| y.abs())
    }

    /// The share of entries within the central interval that should hold a share `level` of them.
    pub fn coverage(&self, level: f64) -> f64 {
        let bound = |own: &[f64], side: f64| quantile(own, 0.5 + side * level / 2.0, Quantile::Linear);
        self.mean(|own, y| f64::from(u8::from(bound(own, -1.0) <= y && y <= bound(own, 1.0))))
    }

    /// The share of entries that are at most their quantile of this level, and should be `level`.
    pub fn share_below(&self, level: f64, rule: Quantile) -> f64 {
        self.mean(|own, y| f64::from(u8::from(y <= quantile(own, level, rule))))
    }

    /// The mean absolute error of these shares over the levels.
    pub fn calibration_error(&self, levels: &[f64], rule: Quantile) -> f64 {
        levels.iter().map(|level| (self.share_below(*level, rule) - level).abs()).sum::<f64>() / levels.len() as f64
    }

    /// What GluonTS 0.17 prints as `MAE_Coverage`, for comparison with its tables only: it compares every level with the
    /// share of the *last* one (a variable of a loop before), where [`Self::calibration_error`] takes each level's own.
    pub fn gluonts_mae_coverage(&self, levels: &[f64]) -> f64 {
        let share = levels.last().map_or(f64::NAN, |last| self.share_below(*last, Quantile::Nearest));
        levels.iter().map(|level| (share - level).abs()).sum::<f64>() / levels.len() as f64
    }

    fn mean(&self, value: impl Fn(&[f64], f64) -> f64) -> f64 {
        let weighted: f64 = self.counted().map(|(own, y, mask)| mask * value(own, y)).sum();
        weighted / self.counted().map(|(_, _, mask)| mask).sum::<f64>()
    }
}

/// Which pairs of samples a mean is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// All, each sample with itself as well.
    All,
    /// Those of different samples.
    Different,
}

impl Pairs {
    fn count(self, s: f64) -> f64 {
        match self {
            Self::All => s * s,
            Self::Different => s * (s - 1.0),
        }
    }
}

/// A point forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The mean of the samples.
    Mean,
    /// Their median.
    Median,
    /// The lower of the two middle samples where their number is even, as PyTorch's median.
    LowerMedian,
}

impl Point {
    fn of(self, sorted: &[f64]) -> f64 {
        match self {
            Self::Mean => sorted.iter().sum::<f64>() / sorted.len() as f64,
            Self::Median => quantile(sorted, 0.5, Quantile::Linear),
            Self::LowerMedian => quantile(sorted, 0.5, Quantile::Lower),
        }
    }
}

/// The mean over forecasts and times of E|X - y| - E|X - X'| / 2 with the Euclidean norm over the variables, all pairs:
/// unlike CRPS it is sensitive to the dependence between variables.
pub fn energy_score([b, s, l, k]: [usize; 4], samples: &[f64], target: &[f64]) -> f64 {
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let of_entry = |(forecast, time): (usize, usize)| {
        let own = |sample: usize| {
            let start = ((forecast * s + sample) * l + time) * k;
            &samples[start..start + k]
        };
        let y = &target[(forecast * l + time) * k..][..k];
        let to_target: f64 = (0..s).map(|i| distance(own(i), y)).sum();
        let between: f64 = (0..s).map(|i| (0..s).map(|j| distance(own(i), own(j))).sum::<f64>()).sum();
        to_target / s as f64 - between / (2 * s * s) as f64
    };
    (0..b).flat_map(|forecast| (0..l).map(move |time| (forecast, time))).map(of_entry).sum::<f64>() / (b * l) as f64
}

/// E|X - y| - E|X - X'| / 2 of sorted samples.
fn energy_form(sorted: &[f64], y: f64, pairs: Pairs) -> f64 {
    let s = sorted.len() as f64;
    let to_target: f64 = sorted.iter().map(|x| (x - y).abs()).sum();
    // The i-th is subtracted S - 1 - i times and added i times; every pair comes twice.
    let weight = |i: usize| 2.0 * i as f64 - (s - 1.0);
    let between: f64 = 2.0 * sorted.iter().enumerate().map(|(i, x)| weight(i) * x).sum::<f64>();
    to_target / s - between / (2.0 * pairs.count(s))
}

/// The mean of |y_t - y_(t - period)| of every variable, over the steps with both values: the scale of MASE. NaN where
/// there is no such step.
pub fn seasonal_errors(rows: Rows<'_>, period: usize) -> Vec<f64> {
    let of_variable = |variable: usize| {
        let difference = |step: usize| (rows.at(step, variable) - rows.at(step - period, variable)).abs();
        mean_of_finite((period..rows.len()).map(difference))
    };
    (0..rows.variables()).map(of_variable).collect()
}

fn quantile(sorted: &[f64], level: f64, rule: Quantile) -> f64 {
    let last = sorted.len() - 1;
    let place = last as f64 * level;
    match rule {
        Quantile::Nearest => sorted[(place.round_ties_even() as usize).min(last)],
        Quantile::Lower => sorted[(place.floor() as usize).min(last)],
        Quantile::Linear => {
            let below = (place.floor() as usize).min(last);
            let above = (below + 1).min(last);
            sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_median_and_masked_sums() {
        // One forecast, four samples, one time, two variables, of which one counts.
        let (shape, samples) = ([1, 4, 1, 2], [4.0, 1.0, 1.0, 1.0, 3.0, 1.0, 2.0, 1.0]);
        let forecast = ScoredSamples::new(shape, &samples, &[2.0, 1.0], Some(&[1.0, 0.0])).unwrap();
        assert_eq!((forecast.mae(Quantile::Lower), forecast.mae(Quantile::Linear)), (0.0, 0.5));
        assert_eq!((forecast.rmse(Point::LowerMedian), forecast.rmse(Point::Median)), (0.0, 0.5));
        let sum = ScoredSamples::masked_sum_over_variables(shape, &samples, &[2.0, 1.0], &[1.0, 0.0]).unwrap();
        assert_eq!((sum.absolute_target_sum(), sum.quantiles(0.5, Quantile::Lower)), (1.5, vec![3.0]));
        assert!(ScoredSamples::masked_sum_over_variables(shape, &samples, &[2.0, 1.0], &[1.0]).is_err());
    }

    #[test]
    fn what_does_not_count_may_be_missing() {
        let samples = [1.0, 10.0, 3.0, 10.0];
        let forecast = ScoredSamples::new([1, 2, 1, 2], &samples, &[2.5, f64::NAN], Some(&[1.0, 0.0])).unwrap();
        assert_eq!((forecast.mae(Quantile::Linear), forecast.scored()), (0.5, 1));
        assert_eq!(forecast.quantile_losses(&[0.5], Quantile::Linear), [0.5]);
        assert_eq!(forecast.normalized_deviation(Quantile::Linear), 0.2);
        let sum =
            |mask| ScoredSamples::complete_sum_over_variables([1, 2, 1, 2], &samples, &[2.5, 10.0], mask).unwrap();
        assert_eq!(sum(&[1.0, 1.0]).unwrap().mae(Quantile::Linear), 0.5);
        assert!(sum(&[1.0, 0.0]).is_none());
    }

    #[test]
    fn seasonal_errors_skip_what_is_missing() {
        let rows = [1.0, 0.0, 2.0, f64::NAN, 4.0, 0.0, 1.0, f64::NAN];
        let errors = seasonal_errors(Rows::new(&rows, 2, 0).unwrap(), 2);
        assert_eq!(errors, [2.0, 0.0]);
        assert!(seasonal_errors(Rows::new(&rows, 2, 0).unwrap(), 4)[0].is_nan());
    }

    #[test]
    fn by_hand() {
        // One forecast, three samples, one time, two variables.
        let samples = [1.0, 10.0, 3.0, 10.0, 2.0, 10.0];
        let forecast = ScoredSamples::new([1, 3, 1, 2], &samples, &[2.5, 10.0], None).unwrap();
        assert_eq!(forecast.quantiles(0.5, Quantile::Linear), [2.0, 10.0]);
        assert_eq!(forecast.quantiles(0.25, Quantile::Linear)[0], 1.5);
        // (S - 1) q = 0.5 is rounded to even.
        assert_eq!(forecast.quantiles(0.25, Quantile::Nearest)[0], 1.0);
        assert_eq!((forecast.mae(Quantile::Linear), forecast.rmse(Point::Median)), (0.25, (0.125_f64).sqrt()));
        assert_eq!(forecast.quantile_losses(&[0.5], Quantile::Linear), [0.5]);
        assert_eq!(forecast.coverage(0.5), 1.0);
        assert_eq!(forecast.share_below(0.5, Quantile::Linear), 0.5);
        assert_eq!(forecast.calibration_error(&[0.5, 0.75], Quantile::Linear), 0.125);
        assert_eq!(forecast.gluonts_mae_coverage(&[0.5, 0.75]), 0.375);
        let crps = forecast.energy_crps(Pairs::Different);
        // Mean |x - y| = (1.5 + 0.5 + 0.5) / 3, mean |x - x'| = 4/3.
        assert!((crps[0] - (2.5 / 3.0 - 2.0 / 3.0)).abs() < 1e-12 && crps[1].abs() < 1e-12);
        let half = ScoredSamples::new([1, 3, 1, 2], &samples, &[2.5, 10.0], Some(&[1.0, 0.0])).unwrap();
        assert_eq!(half.mae(Quantile::Linear), 0.5);
        assert_eq!(half.mean_energy_crps(Pairs::Different), crps[0]);
        assert_eq!(forecast.variable(0).mae(Quantile::Linear), 0.5);
        assert_eq!(half.scaled_energy_crps(Pairs::Different, &[2.0, 0.0]), crps[0] / 2.0);
        assert_eq!(forecast.scaled_mae(&[0.25, 1.0], Quantile::Linear), 1.0);
        assert!(ScoredSamples::new([1, 3, 1, 2], &samples[1..], &[2.5, 10.0], None).is_err());
    }
}
