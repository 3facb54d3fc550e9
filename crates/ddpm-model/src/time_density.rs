//! The distribution of training times on a path.

use serde::{Deserialize, Serialize};

use crate::path::Path;

/// The distribution of training times. No loss is divided by it: where a published recipe has a weight and a density,
/// both count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimeDensity {
    /// Uniform in the time.
    Uniform {},
    /// Uniform in the log-SNR: with `"eps"` and the simple weight, the likelihood weighting by importance sampling
    /// (Song et al. 2021b, section 5.1).
    LogSnr {},
    /// `ln(sigma / alpha)` is normal: EDM (Karras et al. 2022, table 1).
    LogNormal {
        /// Mean of the logarithm.
        #[serde(default = "default_log_normal_mean")]
        mean: f64,
        /// Its standard deviation.
        #[serde(default = "default_log_normal_deviation")]
        deviation: f64,
    },
    /// `ln(t / (1 - t))` is normal: the middle of a straight path more often than its ends (Esser et al. 2024).
    LogitNormal {
        /// Mean of the logit.
        #[serde(default)]
        mean: f64,
        /// Its standard deviation.
        #[serde(default = "default_logit_normal_deviation")]
        deviation: f64,
    },
    /// Evenly spaced times, all alike: the noise scales of NCSN (Song & Ermon 2019).
    Levels {
        /// How many, at least 2.
        count: usize,
    },
}

fn default_log_normal_mean() -> f64 {
    -1.2
}

fn default_log_normal_deviation() -> f64 {
    1.2
}

fn default_logit_normal_deviation() -> f64 {
    1.0
}

impl Default for TimeDensity {
    fn default() -> Self {
        Self::Uniform {}
    }
}

impl TimeDensity {
    /// The invalid numbers, each with its key and the reason.
    pub fn problems(self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        match self {
            Self::Uniform {} | Self::LogSnr {} => {}
            Self::LogNormal { mean, deviation } | Self::LogitNormal { mean, deviation } => {
                if !mean.is_finite() {
                    faults.push(("mean", format!("is {mean}, expected a finite number")));
                }
                if !(deviation > 0.0 && deviation.is_finite()) {
                    faults.push(("deviation", format!("is {deviation}, expected a positive number")));
                }
            }
            Self::Levels { count } => {
                if count < 2 {
                    faults.push(("count", format!("is {count}, expected at least 2")));
                }
            }
        }
        faults
    }

    /// A time of the path, from a number that is uniform in [0, 1) and one that is standard normal.
    pub fn draw(self, path: Path, uniform: f64, normal: f64) -> f64 {
        let [first, last] = path.times();
        let between = |share: f64| first + (last - first) * share;
        let time = match self {
            Self::Uniform {} => between(uniform),
            Self::LogSnr {} => {
                let [clean, noisy] = [first, last].map(|t| path.level(t).log_snr());
                path.time_of_ratio((-0.5 * (clean + (noisy - clean) * uniform)).exp())
            }
            Self::LogNormal { mean, deviation } => path.time_of_ratio((mean + deviation * normal).exp()),
            Self::LogitNormal { mean, deviation } => 1.0 / (1.0 + (-mean - deviation * normal).exp()),
            Self::Levels { count } => between((uniform * count as f64).floor() / (count - 1) as f64),
        };
        time.clamp(first, last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const VE: Path = Path::Ve { sigma_min: 0.002, sigma_max: 80.0 };
    const VP: Path = Path::Vp { beta_min: 0.1, beta_max: 20.0 };

    #[test]
    fn quantiles_of_the_uniform_number_are_those_of_the_density() {
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
        let [first, last] = VP.times();
        near(TimeDensity::Uniform {}.draw(VP, 0.25, f64::NAN), first + (last - first) / 4.0);
        let log_snr = |t: f64| VP.level(t).log_snr();
        near(log_snr(TimeDensity::LogSnr {}.draw(VP, 0.25, f64::NAN)), 0.75 * log_snr(first) + 0.25 * log_snr(last));
        let levels = TimeDensity::Levels { count: 5 };
        let drawn: Vec<f64> = (0..10).map(|i| levels.draw(VE, f64::from(i) / 10.0, 0.0)).collect();
        assert_eq!(drawn, [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn normal_numbers_become_logarithms_and_logits() {
        let edm = TimeDensity::LogNormal { mean: -1.2, deviation: 1.2 };
        for normal in [-2.0, 0.0, 1.5] {
            let sigma = VE.level(edm.draw(VE, f64::NAN, normal)).sigma;
            assert!((sigma.ln() - (-1.2 + 1.2 * normal)).abs() < 1e-9);
            let t = TimeDensity::LogitNormal { mean: 0.5, deviation: 2.0 }.draw(Path::Linear {}, f64::NAN, normal);
            assert!(((t / (1.0 - t)).ln() - (0.5 + 2.0 * normal)).abs() < 1e-9);
        }
        // What is beyond the path is trained at its end.
        assert_eq!(edm.draw(VE, f64::NAN, 1e3), 1.0);
    }

    #[test]
    fn invalid_numbers_are_named() {
        let keys = |density: TimeDensity| density.problems().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(TimeDensity::LogNormal { mean: f64::NAN, deviation: 0.0 }), ["mean", "deviation"]);
        assert_eq!(keys(TimeDensity::Levels { count: 1 }), ["count"]);
        assert!(serde_json::from_str::<TimeDensity>(r#"{"kind":"uniform","count":3}"#).is_err());
    }
}
