//! The variational bound on the negative log-density of continuous data, in nats.
//!
//! Eq. 5 of Ho et al. 2020 with a Gaussian decoder in place of the one for 8-bit values (eq. 13). With fixed variances every
//! term is a constant for each value and a multiple of the squared error of the estimate of `x_0`: these errors, added up
//! over the values of an item, are all that a network has to be evaluated for. The rest is done in f64.

use std::f64::consts::TAU;

use crate::schedule::Schedule;

/// The variances of the reverse steps, all of which give a bound; the tighter one depends on the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReverseVariance {
    /// The posterior variance, and that of step 1 at step 0: exact for data that are one point.
    FixedSmall,
    /// `beta_t` at every step: exact for data that are standard normal, and near for any density that changes little over the
    /// noise of a step.
    FixedLarge,
}

impl ReverseVariance {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FixedSmall, Self::FixedLarge];

    /// Its name, as in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::FixedSmall => "fixed-small",
            Self::FixedLarge => "fixed-large",
        }
    }

    fn of_step(self, schedule: &Schedule, t: usize) -> f64 {
        match self {
            Self::FixedSmall => schedule.posterior_log_variance_clipped[t].exp(),
            Self::FixedLarge => schedule.betas[t],
        }
    }
}

/// A term of the bound as a function of how many values there are and of a sum of squares over them.
#[derive(Clone, Copy, Debug)]
struct Term {
    /// For each value.
    constant: f64,
    /// Of the sum of squares.
    factor: f64,
}

impl Term {
    fn of(self, values: usize, squares: f64) -> f64 {
        values as f64 * self.constant + self.factor * squares
    }
}

/// The terms of the bound under a schedule.
#[derive(Clone, Debug)]
pub struct DensityTerms {
    prior: Term,
    decoder: Term,
    /// Those of the steps from 1 on.
    divergences: Vec<Term>,
}

/// The bound of an item, in nats: an upper bound of minus the logarithm of its density.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DensityBound {
    /// `L_T`, the divergence of `q(x_T | x_0)` from the standard normal.
    pub prior: f64,
    /// The divergences of all steps but the last one, `L_1` to `L_{T-1}`.
    pub divergence: f64,
    /// `L_0`, of a Gaussian decoder.
    pub decoder: f64,
}

impl DensityBound {
    /// The whole bound.
    pub fn total(&self) -> f64 {
        self.prior + self.divergence + self.decoder
    }
}

impl DensityTerms {
    /// The terms of a chain with these variances.
    pub fn new(schedule: &Schedule, variance: ReverseVariance) -> Self {
        let alpha_bar = schedule.alphas_bar[schedule.len() - 1];
        let divergence = |t: usize| {
            // Both means have the same share of x_t: they differ by that of x_0 alone.
            let (q, p) = (schedule.posterior_variance[t], variance.of_step(schedule, t));
            let ratio = q / p;
            Term {
                constant: 0.5 * (ratio - 1.0 - ratio.ln()),
                factor: 0.5 * schedule.posterior_mean_coef1[t].powi(2) / p,
            }
        };
        let decoder = variance.of_step(schedule, 0);
        Self {
            // KL(N(m, v) || N(0, 1)) = (m^2 + v - 1 - ln v) / 2 with v = 1 - alpha_bar.
            prior: Term { constant: 0.5 * (-alpha_bar - (-alpha_bar).ln_1p()), factor: 0.5 * alpha_bar },
            // The mean of the last step is the estimate of x_0 itself.
            decoder: Term { constant: 0.5 * (TAU * decoder).ln(), factor: 0.5 / decoder },
            divergences: (1..schedule.len()).map(divergence).collect(),
        }
    }

    /// The bound of an item of so many values, with the sum of their squares, and for every step from 0 on the sum of the
    /// squared errors of the estimate of `x_0`.
    pub fn bound(&self, values: usize, squares: f64, errors: &[f64]) -> DensityBound {
        let divergences = self.divergences.iter().zip(errors.iter().skip(1));
        DensityBound {
            prior: self.prior.of(values, squares),
            divergence: divergences.map(|(term, error)| term.of(values, *error)).sum(),
            decoder: self.decoder.of(values, errors.first().copied().unwrap_or(0.0)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::schedule::ScheduleConfig;

    /// By how much the bound lies above the entropy of data N(0, deviation^2), where the denoiser is exact: the mean of the
    /// errors is then the variance of x_0 given x_t.
    fn gap(schedule: &Schedule, variance: ReverseVariance, deviation: f64) -> f64 {
        let power = deviation * deviation;
        let error = |t: usize| {
            let level = schedule.level(t);
            let [signal, noise] = [level.alpha, level.sigma].map(|x| x * x);
            power * noise / (signal * power + noise)
        };
        let errors: Vec<f64> = (0..schedule.len()).map(|t| 1000.0 * error(t)).collect();
        let found = DensityTerms::new(schedule, variance).bound(1000, 1000.0 * power, &errors);
        found.total() / 1000.0 - 0.5 * (TAU * std::f64::consts::E * power).ln()
    }

    #[test]
    fn the_bound_of_an_exact_denoiser_of_a_gaussian_lies_right_above_its_entropy() {
        let linear = |steps, beta_end| ScheduleConfig::Linear { steps, beta_start: 1e-4, beta_end }.init().unwrap();
        let (coarse, fine) = (linear(100, 0.1), linear(1000, 0.02));
        for deviation in [0.1, 0.3, 2.0] {
            for variance in ReverseVariance::ALL {
                let gaps = [&coarse, &fine].map(|schedule| gap(schedule, variance, deviation));
                assert!(gaps[1] > 0.0 && gaps[1] < gaps[0], "{variance:?} {deviation}: {gaps:?}");
            }
            let tight = gap(&fine, ReverseVariance::FixedLarge, deviation);
            assert!(tight < 0.02, "{deviation}: {tight}");
        }
        // The chain of standard normal data is stationary: nothing is lost. Too small a variance loses half a nat.
        assert!(gap(&coarse, ReverseVariance::FixedLarge, 1.0).abs() < 1e-12);
        let small = gap(&fine, ReverseVariance::FixedSmall, 1.0);
        assert!((small - 0.5786).abs() < 1e-3, "{small}");
    }

    #[test]
    fn a_chain_of_one_step_is_a_prior_and_a_decoder() {
        let schedule = ScheduleConfig::Constant { steps: 1, beta: 0.5 }.init().unwrap();
        for variance in ReverseVariance::ALL {
            let found = DensityTerms::new(&schedule, variance).bound(2, 3.0, &[1.5]);
            assert_eq!(found.divergence, 0.0);
            assert!((found.prior - (-0.5 - 0.5f64.ln() + 0.25 * 3.0)).abs() < 1e-12);
            assert!((found.total() - found.prior - (TAU * 0.5).ln() - 1.5).abs() < 1e-12);
        }
    }
}
