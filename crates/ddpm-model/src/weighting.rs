//! The weight of the squared error at each noise level.
//!
//! In the literature a weight belongs to the error of one prediction. Here every kind is defined for the
//! error of `x_0`, and `Weighting::of_prediction_error` converts it, so that one denoiser has one loss
//! whatever its network predicts. Noise levels are drawn as the schedule has them: no kind divides by their
//! density.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::bound::LossTerms;
use crate::gaussian::GaussianDiffusion;
use crate::noise_level::per_row;
use crate::prediction::Prediction;

/// The weight of the squared error as a function of the signal-to-noise ratio. Each is given on the error it is defined
/// for; the other predictions get the equivalent. The weights of Song et al. (2021) are `snr` for sigma^2 on the score
/// (for `"eps"` the simple one is the same) and `likelihood` for g^2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weighting {
    /// 1 on the error of whatever is predicted: `L_simple` (Ho et al. 2020, eq. 14).
    // Braces here and below, because serde does not look for unknown keys beside a bare name.
    Simple {},
    /// `SNR` on the error of `x_0`: as if the noise were predicted (Salimans & Ho 2022, section 4).
    Snr {},
    /// `min(SNR, gamma)` on the error of `x_0` (Hang et al. 2023).
    MinSnr {
        /// The SNR above which all levels count the same.
        #[serde(default = "default_min_snr_gamma")]
        gamma: f64,
    },
    /// `(k + SNR)^-gamma` on the error of the noise (Choi et al. 2022).
    P2 {
        /// Keeps the weight finite where there is no signal.
        #[serde(default = "default_one")]
        k: f64,
        /// How strongly clean levels are weighted down.
        #[serde(default = "default_one")]
        gamma: f64,
    },
    /// `sigmoid(bias - log SNR)` on the error of the noise (Kingma & Gao 2023; Hoogeboom et al. 2024).
    Sigmoid {
        /// The log-SNR at which the weight is a half.
        #[serde(default)]
        bias: f64,
    },
    /// `(sigma^2 + sigma_data^2) / (sigma sigma_data)^2` on the error of `x_0`, where `sigma^2 = 1 / SNR`
    /// (Karras et al. 2022, table 1).
    Edm {
        /// Standard deviation of the data.
        #[serde(default = "default_sigma_data")]
        sigma_data: f64,
    },
    /// `g(t)^2` on the error of the score, in continuous time only: the bound on the likelihood (Song et al. 2021b, eq.
    /// 7).
    Likelihood {},
}

impl Default for Weighting {
    fn default() -> Self {
        Self::Simple {}
    }
}

fn default_min_snr_gamma() -> f64 {
    5.0
}

fn default_one() -> f64 {
    1.0
}

fn default_sigma_data() -> f64 {
    0.5
}

impl Weighting {
    /// The invalid numbers, each with its key and the reason.
    pub fn problems(self) -> Vec<(&'static str, String)> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let numbers = match self {
            Self::Simple {} | Self::Snr {} | Self::Likelihood {} => vec![],
            Self::MinSnr { gamma } => vec![("gamma", gamma, positive(gamma), "a positive number")],
            Self::P2 { k, gamma } => vec![
                ("k", k, positive(k), "a positive number"),
                ("gamma", gamma, gamma >= 0.0 && gamma.is_finite(), "a number of at least 0"),
            ],
            Self::Sigmoid { bias } => vec![("bias", bias, bias.is_finite(), "a finite number")],
            Self::Edm { sigma_data } => vec![("sigma_data", sigma_data, positive(sigma_data), "a positive number")],
        };
        let faulty = numbers.into_iter().filter(|(_, _, fine, _)| !fine);
        faulty.map(|(key, value, _, expected)| (key, format!("is {value}, expected {expected}"))).collect()
    }

    /// The weight on the squared error of `x_0`, finite down to an SNR of 0; `None` where the ratio alone does not
    /// determine it: `Simple` belongs to the error of whatever is predicted, `Likelihood` to a path.
    pub fn of_x_0_error(self, log_snr: f64) -> Option<f64> {
        let snr = log_snr.exp();
        match self {
            Self::Simple {} | Self::Likelihood {} => None,
            Self::Snr {} => Some(snr),
            Self::MinSnr { gamma } => Some(snr.min(gamma)),
            // An error of eps is sqrt(SNR) times that of x_0.
            Self::P2 { k, gamma } => Some(snr * (k + snr).powf(-gamma)),
            // SNR sigmoid(b - log SNR) = e^b sigmoid(log SNR - b)
            Self::Sigmoid { bias } => Some(bias.exp() / (1.0 + (bias - log_snr).exp())),
            // (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / sigma_data^2 + 1 / sigma^2
            Self::Edm { sigma_data } => Some(sigma_data.powi(-2) + snr),
        }
    }

    /// The weight on the squared error of eps, x_0 or v at a variance-preserving level.
    ///
    /// `x_0_factor` is the error of the prediction over the error of `x_0` for a prediction that depends on
    /// more than the level; see [`GaussianDiffusion::weights`].
    fn of_prediction_error(self, log_snr: f64, prediction: Prediction, x_0_factor: impl Fn() -> f64) -> f64 {
        let Some(of_x_0) = self.of_x_0_error(log_snr) else { return 1.0 };
        let snr = log_snr.exp();
        match prediction {
            Prediction::X0 => of_x_0,
            // x_0 = (x_t - sigma eps) / alpha: |error of eps|^2 = SNR |error of x_0|^2
            Prediction::Eps => of_x_0 / snr,
            // x_0 = alpha x_t - sigma v: |error of v|^2 = |error of x_0|^2 / sigma^2, and 1 / sigma^2 = SNR + 1
            Prediction::V => of_x_0 / (snr + 1.0),
            Prediction::PosteriorMean => of_x_0 / x_0_factor().powi(2),
        }
    }
}

impl GaussianDiffusion {
    /// The weight on the squared error of each row's prediction.
    pub fn weights(&self, weighting: Weighting, t: &[usize]) -> Vec<f64> {
        t.iter()
            .map(|&t| {
                let log_snr = self.schedule.level(t).log_snr();
                weighting.of_prediction_error(log_snr, self.prediction, || self.schedule.posterior_mean_coef1[t])
            })
            .collect()
    }

    /// The loss of each row with its squared error weighted. The term of the bound, which has its own weights,
    /// stays as it is.
    pub fn weighted_loss(&self, weighting: Weighting, terms: LossTerms, t: &[usize]) -> Tensor<1> {
        match (weighting, terms.mse) {
            (Weighting::Simple {}, _) | (_, None) => terms.loss,
            (_, Some(mse)) => {
                let weighted = per_row(&self.weights(weighting, t), &mse) * mse;
                match terms.vb {
                    Some(vb) => weighted + vb,
                    None => weighted,
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::bound::Loss;
    use crate::prediction::{eps_from_x_0, v_from_x_0_and_eps};
    use crate::schedule::ScheduleConfig;
    use crate::variance::Variance;
    use burn::tensor::{DType, Device, TensorData};

    const ALL: [Weighting; 5] = [
        Weighting::Snr {},
        Weighting::MinSnr { gamma: 5.0 },
        Weighting::P2 { k: 1.0, gamma: 0.5 },
        Weighting::Sigmoid { bias: -1.0 },
        Weighting::Edm { sigma_data: 0.5 },
    ];

    fn tensor(seed: f64) -> Tensor<2> {
        let values: Vec<f64> = (0..12).map(|i| (seed + 1.7 * f64::from(i)).sin()).collect();
        Tensor::from_data(TensorData::new(values, [4, 3]), (&Device::flex(), DType::F64))
    }

    fn values(x: Tensor<1>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    #[test]
    fn one_denoiser_has_one_loss_whatever_its_network_predicts() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let (x_0, eps, found) = (tensor(0.1), tensor(2.3), tensor(4.2));
        let t = [0, 100, 500, 999];
        for weighting in ALL {
            let losses =
                [Prediction::X0, Prediction::Eps, Prediction::V, Prediction::PosteriorMean].map(|prediction| {
                    let diffusion = GaussianDiffusion::new(schedule.clone(), prediction, Variance::FixedLarge);
                    let levels = diffusion.levels(&t);
                    let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
                    let eps_found = eps_from_x_0(x_t.clone(), found.clone(), &levels);
                    let output = match prediction {
                        Prediction::X0 => found.clone(),
                        Prediction::Eps => eps_found,
                        Prediction::V => v_from_x_0_and_eps(found.clone(), eps_found, &levels),
                        Prediction::PosteriorMean => diffusion.posterior_mean(found.clone(), x_t.clone(), &t),
                    };
                    let terms = diffusion.loss(Loss::Mse, output, &x_0, &x_t, &eps, &t);
                    values(diffusion.weighted_loss(weighting, terms, &t))
                });
            for other in &losses[1..] {
                for (a, b) in losses[0].iter().zip(other) {
                    assert!((a - b).abs() < 1e-9 * a, "{weighting:?}: {losses:?}");
                }
            }
        }
    }

    #[test]
    fn weights_are_those_of_the_papers() {
        let on = |weighting: Weighting, prediction, snr: f64| {
            weighting.of_prediction_error(snr.ln(), prediction, || f64::NAN)
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12 * b, "{a} {b}");
        for snr in [0.01, 1.0, 4.0, 300.0f64] {
            near(on(Weighting::Snr {}, Prediction::Eps, snr), 1.0);
            let min_snr = Weighting::MinSnr { gamma: 5.0 };
            near(on(min_snr, Prediction::Eps, snr), snr.min(5.0) / snr);
            near(on(min_snr, Prediction::V, snr), snr.min(5.0) / (snr + 1.0));
            near(on(Weighting::P2 { k: 1.0, gamma: 0.5 }, Prediction::Eps, snr), 1.0 / (1.0 + snr).sqrt());
            near(on(Weighting::Sigmoid { bias: 2.0 }, Prediction::Eps, snr), 1.0 / (1.0 + snr * (-2.0f64).exp()));
            let (variance, data) = (1.0 / snr, 0.25);
            near(on(Weighting::Edm { sigma_data: 0.5 }, Prediction::X0, snr), (variance + data) / (variance * data));
            // With data of unit variance the EDM weight is that of v as it is.
            near(on(Weighting::Edm { sigma_data: 1.0 }, Prediction::V, snr), 1.0);
            near(on(Weighting::Simple {}, Prediction::V, snr), 1.0);
        }
    }

    #[test]
    fn weights_are_finite_where_nothing_of_the_data_is_left() {
        for weighting in ALL {
            for prediction in [Prediction::X0, Prediction::V] {
                let weight = weighting.of_prediction_error(f64::NEG_INFINITY, prediction, || f64::NAN);
                assert!(weight.is_finite(), "{weighting:?} {prediction:?}: {weight}");
            }
        }
    }

    #[test]
    fn the_bound_keeps_its_own_weights() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let diffusion = GaussianDiffusion::new(schedule, Prediction::Eps, Variance::Learned);
        let (x_0, eps, t) = (tensor(0.1), tensor(2.3), [1, 100, 500, 999]);
        let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
        let output = Tensor::cat(vec![tensor(4.2), tensor(0.4)], 1);
        let terms = diffusion.loss(Loss::RescaledMse, output, &x_0, &x_t, &eps, &t);
        let (mse, vb) = (values(terms.mse.clone().unwrap()), values(terms.vb.clone().unwrap()));
        let weighting = Weighting::MinSnr { gamma: 5.0 };
        let weights = diffusion.weights(weighting, &t);
        let found = values(diffusion.weighted_loss(weighting, terms.clone(), &t));
        for row in 0..4 {
            assert!((found[row] - (weights[row] * mse[row] + vb[row])).abs() < 1e-12);
        }
        let unweighted = values(diffusion.weighted_loss(Weighting::Simple {}, terms.clone(), &t));
        assert_eq!(unweighted, values(terms.loss));
    }

    #[test]
    fn the_config_is_a_kind_with_its_numbers() {
        let parse = |json: &str| serde_json::from_str::<Weighting>(json).map_err(|error| error.to_string());
        assert_eq!(parse(r#"{"kind":"min-snr"}"#), Ok(Weighting::MinSnr { gamma: 5.0 }));
        assert_eq!(parse(r#"{"kind":"p2","gamma":0.5}"#), Ok(Weighting::P2 { k: 1.0, gamma: 0.5 }));
        assert!(parse(r#"{"kind":"snr","gamma":5.0}"#).is_err());
        assert_eq!(Weighting::P2 { k: 0.0, gamma: 1.0 }.problems()[0].0, "k");
        assert!(ALL.iter().all(|weighting| weighting.problems().is_empty()));
    }
}
