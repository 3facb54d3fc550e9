//! The variance of the reverse step `p(x_{t-1} | x_t)`.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::noise_level::per_row;
use crate::schedule::Schedule;

/// Where the variance of a reverse step comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// The posterior variance, exact for data that are one point.
    FixedSmall,
    /// `beta_t`, exact for data that are standard normal.
    #[default]
    FixedLarge,
    /// Interpolated between the two by the network, which then has twice the output channels (Nichol & Dhariwal 2021).
    /// Images only.
    Learned,
}

impl Variance {
    /// Channels of the network's output for data of `data_channels` channels.
    pub fn output_channels(self, data_channels: usize) -> usize {
        match self {
            Self::FixedSmall | Self::FixedLarge => data_channels,
            Self::Learned => 2 * data_channels,
        }
    }
}

/// The variance of fixed-small: the posterior variance, which is 0 at `t = 0`.
pub fn fixed_small_variance(schedule: &Schedule, t: usize) -> f64 {
    schedule.posterior_variance[t]
}

/// The log-variance of fixed-small, with the value of step 1 at `t = 0` so that it stays finite.
pub fn fixed_small_log_variance(schedule: &Schedule, t: usize) -> f64 {
    schedule.posterior_log_variance_clipped[t]
}

/// The variance of fixed-large: `beta_t`, except at `t = 0`.
///
/// There the posterior variance of step 1 stands in, since the decoder of the bound would be far too wide
/// with `beta_0` (Ho et al. do the same; no sample depends on it).
pub fn fixed_large_variance(schedule: &Schedule, t: usize) -> f64 {
    match t {
        0 => schedule.posterior_log_variance_clipped[0].exp(),
        _ => schedule.betas[t],
    }
}

/// Eq. 15 of Nichol & Dhariwal 2021: `log Sigma = f log beta_t + (1 - f) log beta~_t` with `f = (logit + 1) / 2`.
///
/// `steps` has one entry per row, or a single one for all rows.
pub fn learned_log_variance<const D: usize>(schedule: &Schedule, steps: &[usize], logit: Tensor<D>) -> Tensor<D> {
    let log_betas: Vec<f64> = steps.iter().map(|&t| schedule.betas[t].ln()).collect();
    let log_posterior: Vec<f64> = steps.iter().map(|&t| schedule.posterior_log_variance_clipped[t]).collect();
    let (largest, smallest) = (per_row(&log_betas, &logit), per_row(&log_posterior, &logit));
    let f = (logit + 1.0) / 2.0;
    f.clone() * largest + (f.neg() + 1.0) * smallest
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::schedule::ScheduleConfig;
    use burn::tensor::{DType, Device};

    #[test]
    fn fixed_variances_at_the_first_step_borrow_from_the_second() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let posterior = schedule.posterior_variance[1];
        assert_eq!(fixed_small_variance(&schedule, 0), 0.0);
        assert_eq!(fixed_small_log_variance(&schedule, 0), posterior.ln());
        assert!((fixed_large_variance(&schedule, 0) - posterior).abs() < 1e-18);
        assert_eq!(fixed_large_variance(&schedule, 1), schedule.betas[1]);
    }

    #[test]
    fn learned_variance_runs_between_the_fixed_ones() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let logit = Tensor::<1>::ones([2], (&Device::flex(), DType::F64)).reshape([2, 1]);
        let at = |logit: Tensor<2>| {
            let log_variance = learned_log_variance(&schedule, &[5, 700], logit);
            log_variance.into_data().iter::<f64>().collect::<Vec<_>>()
        };
        let (large, small) = (at(logit.clone()), at(logit.neg()));
        for (row, t) in [5, 700].into_iter().enumerate() {
            assert!((large[row] - schedule.betas[t].ln()).abs() < 1e-12);
            assert!((small[row] - schedule.posterior_log_variance_clipped[t]).abs() < 1e-12);
        }
    }
}
