//! Noise in continuous time: paths from data to noise, each the marginals of a linear SDE.
//!
//! A path is two functions of the time `t`, from 0 to 1: `x_t = alpha(t) x_0 + sigma(t) eps`. They determine
//! its SDE `dx = f(t) x dt + g(t) dw` too, because the moments of that SDE force
//! `f = alpha' / alpha` and `g^2 = 2 sigma sigma' - 2 f sigma^2`.

use serde::{Deserialize, Serialize};

use crate::noise_level::{NoiseLevel, NoiseRange};
use crate::schedule::Schedule;

/// The sigma over alpha below which noise is left out: an eighth of what rounding to 8 bits does to an image.
const CLEANEST: f64 = 1e-3;
/// The sigma over alpha above which nothing of the data is left.
const NOISIEST: f64 = 1e3;

/// How data become noise: `x_t = alpha(t) x_0 + sigma(t) eps` for times from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Path {
    /// Variance-preserving SDE: `dx = -beta x / 2 dt + sqrt(beta) dw` with beta rising linearly (Song et al. 2021, eq.
    /// 11), the limit of DDPM in many small steps. alpha^2 = exp(-B), sigma^2 = 1 - exp(-B), B the integral of beta.
    Vp {
        /// Beta at time 0.
        #[serde(default = "default_beta_min")]
        beta_min: f64,
        /// Beta at time 1.
        #[serde(default = "default_beta_max")]
        beta_max: f64,
    },
    /// The same alpha with less noise: sigma = 1 - exp(-B) (Song et al. 2021, eq. 12).
    SubVp {
        /// Beta at time 0.
        #[serde(default = "default_beta_min")]
        beta_min: f64,
        /// Beta at time 1.
        #[serde(default = "default_beta_max")]
        beta_max: f64,
    },
    /// Variance-exploding SDE: alpha = 1, sigma geometric in t (Song et al. 2021, eq. 9). Also the path of NCSN and of
    /// EDM, which only draw their times otherwise.
    Ve {
        /// Standard deviation of the noise at time 0.
        #[serde(default = "default_sigma_min")]
        sigma_min: f64,
        /// Standard deviation of the noise at time 1.
        #[serde(default = "default_sigma_max")]
        sigma_max: f64,
    },
    /// The straight line `(1 - t) x_0 + t eps`: flow matching, rectified flow (Lipman et al. 2023; Liu et al. 2023).
    // Braces, because serde does not look for unknown keys beside a bare name.
    Linear {},
}

fn default_beta_min() -> f64 {
    0.1
}

fn default_beta_max() -> f64 {
    20.0
}

fn default_sigma_min() -> f64 {
    0.01
}

fn default_sigma_max() -> f64 {
    50.0
}

impl Path {
    /// The invalid numbers, each with its key and the reason.
    pub fn problems(self) -> Vec<(&'static str, String)> {
        let fault = |key, found: f64, expected: String| (key, format!("is {found}, expected {expected}"));
        let mut faults = Vec::new();
        match self {
            Self::Vp { beta_min, beta_max } | Self::SubVp { beta_min, beta_max } => {
                if !(beta_min > 0.0 && beta_min.is_finite()) {
                    faults.push(fault("beta_min", beta_min, "a positive number".into()));
                }
                // Half of the integral of beta is how often e the data are divided by.
                if !(beta_max >= beta_min && beta_max <= 1000.0) {
                    faults.push(fault("beta_max", beta_max, "a number from beta_min to 1000".into()));
                }
            }
            Self::Ve { sigma_min, sigma_max } => {
                if !(sigma_min > 0.0 && sigma_min.is_finite()) {
                    faults.push(fault("sigma_min", sigma_min, "a positive number".into()));
                }
                if !(sigma_max > sigma_min && sigma_max.is_finite()) {
                    faults.push(fault("sigma_max", sigma_max, "a number above sigma_min".into()));
                }
            }
            Self::Linear {} => {}
        }
        faults
    }

    /// The first and the last time that is trained and sampled.
    pub fn times(self) -> [f64; 2] {
        match self {
            Self::Vp { .. } | Self::SubVp { .. } => [self.time_of_ratio(CLEANEST), 1.0],
            Self::Ve { .. } => [0.0, 1.0],
            Self::Linear {} => [CLEANEST, NOISIEST].map(|ratio| self.time_of_ratio(ratio)),
        }
    }

    /// The noise level of a time.
    pub fn level(self, t: f64) -> NoiseLevel {
        match self {
            Self::Vp { beta_min, beta_max } => {
                let power = -beta_integral(beta_min, beta_max, t);
                NoiseLevel { alpha: (power / 2.0).exp(), sigma: (-power.exp_m1()).sqrt() }
            }
            Self::SubVp { beta_min, beta_max } => {
                let power = -beta_integral(beta_min, beta_max, t);
                NoiseLevel { alpha: (power / 2.0).exp(), sigma: -power.exp_m1() }
            }
            Self::Ve { sigma_min, sigma_max } => {
                NoiseLevel { alpha: 1.0, sigma: sigma_min * (sigma_max / sigma_min).powf(t) }
            }
            Self::Linear {} => NoiseLevel { alpha: 1.0 - t, sigma: t },
        }
    }

    /// The derivatives of alpha and sigma with respect to time.
    pub fn rates(self, t: f64) -> NoiseLevel {
        let NoiseLevel { alpha, sigma } = self.level(t);
        match self {
            Self::Vp { beta_min, beta_max } => {
                let beta = beta_min + (beta_max - beta_min) * t;
                NoiseLevel { alpha: -beta / 2.0 * alpha, sigma: beta / 2.0 * alpha.powi(2) / sigma }
            }
            Self::SubVp { beta_min, beta_max } => {
                let beta = beta_min + (beta_max - beta_min) * t;
                NoiseLevel { alpha: -beta / 2.0 * alpha, sigma: beta * alpha.powi(2) }
            }
            Self::Ve { sigma_min, sigma_max } => NoiseLevel { alpha: 0.0, sigma: sigma * (sigma_max / sigma_min).ln() },
            Self::Linear {} => NoiseLevel { alpha: -1.0, sigma: 1.0 },
        }
    }

    /// The time with this ratio of sigma to alpha. Beyond the ends of the path its formula is extrapolated.
    pub fn time_of_ratio(self, ratio: f64) -> f64 {
        match self {
            // sigma^2 / alpha^2 = e^B - 1
            Self::Vp { beta_min, beta_max } => time_of_beta_integral(beta_min, beta_max, ratio.powi(2).ln_1p()),
            // sigma / alpha = e^(B/2) - e^(-B/2)
            Self::SubVp { beta_min, beta_max } => {
                time_of_beta_integral(beta_min, beta_max, 2.0 * (ratio / 2.0).asinh())
            }
            Self::Ve { sigma_min, sigma_max } => (ratio / sigma_min).ln() / (sigma_max / sigma_min).ln(),
            Self::Linear {} => ratio / (1.0 + ratio),
        }
    }

    /// `f` and `g^2` of the SDE `dx = f x dt + g dw` that has the marginals of the path.
    pub fn drift_and_diffusion(self, t: f64) -> (f64, f64) {
        let (level, rates) = (self.level(t), self.rates(t));
        let f = rates.alpha / level.alpha;
        (f, 2.0 * level.sigma * (rates.sigma - f * level.sigma))
    }
}

impl NoiseRange for Path {
    fn schedule(&self) -> Option<&Schedule> {
        None
    }

    fn level_at(&self, share: f64) -> NoiseLevel {
        let [first, last] = self.times();
        NoiseLevel::from_ratio(self.level(first + (last - first) * share).ratio())
    }
}

/// The integral of beta from 0 to t.
fn beta_integral(beta_min: f64, beta_max: f64, t: f64) -> f64 {
    beta_min * t + (beta_max - beta_min) * t * t / 2.0
}

/// [`beta_integral`] solved for t, in the form that loses no digits near 0.
fn time_of_beta_integral(beta_min: f64, beta_max: f64, integral: f64) -> f64 {
    2.0 * integral / (beta_min + (beta_min.powi(2) + 2.0 * (beta_max - beta_min) * integral).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: [Path; 5] = [
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        Path::Vp { beta_min: 3.0, beta_max: 3.0 },
        Path::SubVp { beta_min: 0.1, beta_max: 20.0 },
        Path::Ve { sigma_min: 0.01, sigma_max: 50.0 },
        Path::Linear {},
    ];

    fn near(found: f64, wanted: f64, tolerance: f64) {
        assert!((found - wanted).abs() <= tolerance * wanted.abs().max(1e-3), "{found} instead of {wanted}");
    }

    #[test]
    fn rates_are_the_derivatives_of_the_levels() {
        let h = 1e-6;
        for path in ALL {
            for t in [0.05, 0.3, 0.7, 0.95] {
                let (before, after, rates) = (path.level(t - h), path.level(t + h), path.rates(t));
                near((after.alpha - before.alpha) / (2.0 * h), rates.alpha, 1e-6);
                near((after.sigma - before.sigma) / (2.0 * h), rates.sigma, 1e-6);
            }
        }
    }

    #[test]
    fn a_time_is_that_of_its_ratio() {
        for path in ALL {
            let [first, last] = path.times();
            for t in [first, 0.1, 0.5, 0.9, last] {
                let level = path.level(t);
                near(path.time_of_ratio(level.ratio()), t, 1e-9);
            }
            assert!(first < last && last <= 1.0);
        }
    }

    /// Song et al. 2021 (9), (11), (12): the SDEs as they are published.
    #[test]
    fn the_sdes_are_the_published_ones() {
        let (beta_min, beta_max) = (0.1f64, 20.0);
        for t in [0.01f64, 0.4, 1.0] {
            let beta = beta_min + t * (beta_max - beta_min);
            let integral = beta_min * t + (beta_max - beta_min) * t * t / 2.0;
            let (f, g2) = Path::Vp { beta_min, beta_max }.drift_and_diffusion(t);
            near(f, -beta / 2.0, 1e-12);
            near(g2, beta, 1e-12);
            let (f, g2) = Path::SubVp { beta_min, beta_max }.drift_and_diffusion(t);
            near(f, -beta / 2.0, 1e-12);
            near(g2, beta * (1.0 - (-2.0 * integral).exp()), 1e-12);
            let (f, g2) = Path::Ve { sigma_min: 0.01, sigma_max: 50.0 }.drift_and_diffusion(t);
            assert_eq!(f, 0.0);
            let sigma = 0.01 * 5000f64.powf(t);
            near(g2, sigma * sigma * 2.0 * 5000f64.ln(), 1e-12);
        }
    }

    #[test]
    fn a_discrete_schedule_is_a_vp_path_in_small_steps() {
        let schedule = crate::schedule::ScheduleConfig::default().init().unwrap();
        let path = ALL[0];
        for step in [99, 499, 699] {
            let (discrete, continuous) = (schedule.level(step), path.level((step + 1) as f64 / 1000.0));
            near(discrete.alpha, continuous.alpha, 2e-2);
            near(discrete.sigma, continuous.sigma, 2e-2);
        }
    }

    #[test]
    fn the_config_is_a_kind_with_its_numbers() {
        let parse = |json: &str| serde_json::from_str::<Path>(json).map_err(|error| error.to_string());
        assert_eq!(parse(r#"{"kind":"ve","sigma_max":80.0}"#), Ok(Path::Ve { sigma_min: 0.01, sigma_max: 80.0 }));
        assert!(parse(r#"{"kind":"linear","sigma_max":80.0}"#).is_err());
        assert!(ALL.iter().all(|path| path.problems().is_empty()));
        let keys = |path: Path| path.problems().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(Path::Ve { sigma_min: 0.0, sigma_max: f64::NAN }), ["sigma_min", "sigma_max"]);
        assert_eq!(keys(Path::Vp { beta_min: 2.0, beta_max: 1.0 }), ["beta_max"]);
    }
}
