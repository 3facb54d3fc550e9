//! A logistic distribution in bins: the likelihood of data with a finite number of levels.
//!
//! The `levels` values are evenly spaced from -1 to 1. A bin reaches half way to the next level on both sides; the lowest
//! and the highest one are open. With `a` and `b` the standardized upper and lower edge of a bin, its probability is
//! `sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))`. The logarithm of the right-hand side neither
//! cancels nor underflows, however far in the tail the bin is.

use std::f64::consts::LN_2;

use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

/// Log scales below have the same effect as this one: the inverse of the scale must be finite in f32.
const LOWEST_LOG_SCALE: f64 = -70.0;

/// One logistic distribution per value, for data with this many levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscretizedLogistic {
    /// Number of values, at least 2; 256 for bytes.
    pub levels: usize,
}

impl DiscretizedLogistic {
    /// `ln P(x)` of every value, in the shape that `x`, `mean` and `log_scale` broadcast to. `x` is one of the levels.
    pub fn log_prob<const D: usize>(&self, x: Tensor<D>, mean: Tensor<D>, log_scale: Tensor<D>) -> Tensor<D> {
        let ends = Ends::of(&x, self.levels);
        bin_log_prob(x - mean, log_scale, &ends, half_width(self.levels))
    }

    /// Levels that are drawn by `uniform`, which lies strictly between 0 and 1.
    pub fn sample<const D: usize>(&self, mean: Tensor<D>, log_scale: Tensor<D>, uniform: Tensor<D>) -> Tensor<D> {
        self.nearest_level(mean + log_scale.exp() * logit(uniform))
    }

    /// The level in whose bin each value lies.
    pub fn nearest_level<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let half = half_width(self.levels);
        ((x.clamp(-1.0, 1.0) + 1.0) / (2.0 * half)).round() * (2.0 * half) - 1.0
    }
}

/// Half the width of a bin.
pub(super) fn half_width(levels: usize) -> f64 {
    1.0 / (levels.max(2) - 1) as f64
}

/// The standard logistic distribution's value with this probability below it.
pub(super) fn logit<const D: usize>(uniform: Tensor<D>) -> Tensor<D> {
    uniform.clone().log() - (uniform * -1.0 + 1.0).log()
}

/// Which values lie in one of the two open bins: 0 there, 1 elsewhere.
pub(super) struct Ends<const D: usize> {
    not_lowest: Tensor<D>,
    not_highest: Tensor<D>,
}

impl<const D: usize> Ends<D> {
    /// A value belongs to an open bin where it is about a quarter of half a bin from -1 or 1: for bytes beyond 0.999, the
    /// bound of Salimans et al. (2017).
    pub(super) fn of(x: &Tensor<D>, levels: usize) -> Self {
        let bound = 1.0 - 0.255 * half_width(levels);
        let as_factor = |inside: Tensor<D, Bool>| inside.float().cast(x.dtype());
        Self {
            not_lowest: as_factor(x.clone().greater_equal_elem(-bound)),
            not_highest: as_factor(x.clone().lower_equal_elem(bound)),
        }
    }

    /// 1 where the bin has two edges.
    pub(super) fn inner(&self) -> Tensor<D> {
        self.not_lowest.clone() * self.not_highest.clone()
    }
}

/// The inverse of the scale, finite for any log scale.
pub(super) fn inverse_scale<const D: usize>(log_scale: Tensor<D>) -> Tensor<D> {
    log_scale.clamp_min(LOWEST_LOG_SCALE).neg().exp()
}

/// The logarithm of the probability of the bins around values that are `centered` on the means.
pub(super) fn bin_log_prob<const D: usize>(
    centered: Tensor<D>,
    log_scale: Tensor<D>,
    ends: &Ends<D>,
    half_width: f64,
) -> Tensor<D> {
    let log_scale = log_scale.clamp_min(LOWEST_LOG_SCALE);
    let inverse = inverse_scale(log_scale.clone());
    let upper = (centered.clone() + half_width) * inverse.clone();
    let lower = (centered - half_width) * inverse;
    let below_upper = log_sigmoid(upper) * ends.not_highest.clone();
    let above_lower = log_sigmoid(lower.neg()) * ends.not_lowest.clone();
    let width = log_one_minus_exp(log_scale.neg() + (2.0 * half_width).ln());
    below_upper + above_lower + width * ends.inner()
}

/// `ln(1 - exp(-d))` from `ln d`, with finite gradients: a series where d is small and loses its digits in the difference.
fn log_one_minus_exp<const D: usize>(log_d: Tensor<D>) -> Tensor<D> {
    let d = log_d.clone().exp();
    let is_small = d.clone().lower_elem(LN_2);
    let small = log_d + log_ratio_series(d.clone().clamp_max(LN_2));
    let large = d.clamp_min(LN_2).neg().exp().neg().log1p();
    large.mask_where(is_small, small)
}

/// `ln((1 - exp(-d)) / d)` for d up to ln 2, to 1e-12: the coefficients are `B_2n / (2n (2n)!)`, after `-d / 2`.
fn log_ratio_series<const D: usize>(d: Tensor<D>) -> Tensor<D> {
    const COEFFICIENTS: [f64; 4] = [-1.0 / 9_676_800.0, 1.0 / 181_440.0, -1.0 / 2_880.0, 1.0 / 24.0];
    let square = d.clone().square();
    let mut sum = square.clone() * (1.0 / 479_001_600.0);
    for coefficient in COEFFICIENTS {
        sum = (sum + coefficient) * square.clone();
    }
    sum - d * 0.5
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn row(of: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(of.to_vec(), [of.len()]), (device, dtype))
    }

    fn all_levels(levels: usize) -> Vec<f64> {
        (0..levels).map(|k| 2.0 * k as f64 / (levels - 1) as f64 - 1.0).collect()
    }

    #[test]
    fn the_probabilities_of_all_levels_sum_to_one() {
        for levels in [2, 3, 17, 256, 1024] {
            for (mean, log_scale) in [(0.0, 0.0), (0.3, -4.0), (-1.4, -2.0), (0.9, 3.0), (0.1, -9.0)] {
                let x = row(&all_levels(levels), DType::F32, &Device::default());
                let constant = |value: f64| x.zeros_like() + value;
                let likelihood = DiscretizedLogistic { levels };
                let total = likelihood.log_prob(x.clone(), constant(mean), constant(log_scale)).exp().sum();
                let total = values(total)[0];
                assert!((total - 1.0).abs() < 2e-5, "{levels} levels, {mean}, {log_scale}: {total}");
            }
        }
    }

    #[test]
    fn values_and_gradients_are_finite_everywhere() {
        let device = Device::default().autodiff();
        for log_scale in [-1e4, -200.0, -90.0, -20.0, -7.0, 0.0, 7.0, 50.0, 200.0] {
            for mean in [-30.0, -1.0, 0.0, 1e-3, 1.0, 1e4] {
                let x = row(&[-1.0, -1.0 / 255.0, 1.0 / 255.0, 1.0], DType::F32, &device);
                let mean = (x.zeros_like() + mean).require_grad();
                let log_scale = (x.zeros_like() + log_scale).require_grad();
                let log_prob = DiscretizedLogistic { levels: 256 }.log_prob(x, mean.clone(), log_scale.clone());
                let gradients = log_prob.clone().sum().backward();
                for found in [log_prob, mean.grad(&gradients).unwrap(), log_scale.grad(&gradients).unwrap()] {
                    let found = values(found);
                    assert!(found.iter().all(|value| value.is_finite()), "{found:?}");
                }
            }
        }
    }

    #[test]
    fn gradients_are_differences_of_values() {
        let device = Device::default().autodiff();
        let likelihood = DiscretizedLogistic { levels: 32 };
        let x = row(&all_levels(32), DType::F64, &device);
        for (mean, log_scale) in [(0.2, -1.0), (0.2, -6.0), (-0.7, 2.0), (1.0 / 31.0, -2.75)] {
            let parameters = [mean, log_scale].map(|value| (x.zeros_like() + value).require_grad());
            let log_prob = |[mean, log_scale]: [Tensor<1>; 2]| likelihood.log_prob(x.clone(), mean, log_scale);
            let gradients = log_prob(parameters.clone()).sum().backward();
            for (i, parameter) in parameters.iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = parameters.clone();
                    moved[i] = moved[i].clone() + by;
                    values(log_prob(moved))
                };
                let (above, below) = (moved(1e-5), moved(-1e-5));
                let found = values(parameter.grad(&gradients).unwrap());
                for (k, found) in found.into_iter().enumerate() {
                    let wanted = (above[k] - below[k]) / 2e-5;
                    assert!((found - wanted).abs() < 1e-5 * (1.0 + wanted.abs()), "level {k}: {found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn samples_are_levels_as_often_as_they_are_probable() {
        let (levels, draws) = (5, 4000);
        let uniform: Vec<f64> = (0..draws).map(|i| (i as f64 + 0.5) / draws as f64).collect();
        let uniform = row(&uniform, DType::F32, &Device::default());
        let constant = |value: f64| uniform.zeros_like() + value;
        let likelihood = DiscretizedLogistic { levels };
        let drawn = values(likelihood.sample(constant(0.3), constant(-1.2), uniform.clone()));
        for level in all_levels(levels) {
            let count = drawn.iter().filter(|&&value| (value - level).abs() < 1e-6).count();
            let log_prob = likelihood.log_prob(constant(level), constant(0.3), constant(-1.2));
            let expected = values(log_prob)[0].exp() * f64::from(draws);
            assert!((count as f64 - expected).abs() <= 2.0, "level {level}: {count} of {expected}");
        }
    }
}
