//! Diffusion in continuous time: score-based models, EDM and flow matching as one.
//!
//! The network `F` predicts a mixture of data and noise that depends on the time alone. Its output becomes the
//! denoiser `D(x_t) = c_skip x_t + c_out F(c_in x_t, c_noise)` of Karras et al. 2022 (7), whatever the mixture is:
//! noise, score, velocity and EDM's own differ in two coefficients.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::denoiser::{Denoised, Denoiser, time_tensor};
use crate::gaussian::mean_per_row;
use crate::noise_level::{NoiseLevel, per_row};
use crate::path::Path;
use crate::time_density::TimeDensity;
use crate::weighting::Weighting;

/// Standard deviation of the data that EDM assumes by default.
const USUAL_SIGMA_DATA: f64 = 0.5;
/// The network's time input at time 1: its sinusoids are made for a thousand steps.
const LAST_NETWORK_TIME: f64 = 999.0;

/// What the network outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The noise eps; the score times minus sigma.
    #[default]
    Eps,
    /// The data x_0.
    X0,
    /// The velocity `alpha eps - sigma x_0` (Salimans & Ho 2022).
    V,
    /// The score of the noisy data, `-eps / sigma` in expectation (Song & Ermon 2019).
    Score,
    /// The velocity `dx_t / dt = alpha' x_0 + sigma' eps` of the path (Lipman et al. 2023).
    Flow,
    /// The preconditioned mixture of unit size, F of Karras et al. (2022).
    Edm,
}

/// Continuous time: score-based models, EDM and flow matching. Any sampler takes any of these networks: what counts of
/// a noise level is sigma over alpha. There is no bound to train or to measure; `cargo xtask likelihood` uses the
/// probability-flow ODE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContinuousDiffusion {
    /// How data become noise.
    pub path: Path,
    /// What the network predicts.
    #[serde(default)]
    pub prediction: Target,
    /// The distribution of training times.
    #[serde(default)]
    pub times: TimeDensity,
    /// Standard deviation of the data, for `"edm"` only; left out: 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
}

/// The coefficients around the network, Karras et al. 2022 (7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconditioning {
    /// Factor of `x_t` in the denoiser's output.
    pub c_skip: f64,
    /// Factor of the network's output.
    pub c_out: f64,
    /// Factor of the network's input.
    pub c_in: f64,
    /// The network's time input.
    pub c_noise: f64,
}

/// `of_x_0 x_0 + of_eps eps`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mixture {
    of_x_0: f64,
    of_eps: f64,
}

impl ContinuousDiffusion {
    /// The invalid values, each with its key and the reason.
    pub fn problems(&self) -> Vec<(String, String)> {
        let path = self.path.problems().into_iter().map(|(key, message)| (format!("path.{key}"), message));
        let times = self.times.problems().into_iter().map(|(key, message)| (format!("times.{key}"), message));
        let sigma_data = match (self.sigma_data, self.prediction) {
            (None, _) => None,
            (Some(_), prediction) if prediction != Target::Edm => Some("belongs to prediction = \"edm\"".to_string()),
            (Some(value), _) => {
                (!(value > 0.0 && value.is_finite())).then(|| format!("is {value}, expected a positive number"))
            }
        };
        path.chain(times).chain(sigma_data.map(|message| ("sigma_data".to_string(), message))).collect()
    }

    /// The assumed standard deviation of the data.
    fn deviation(&self) -> f64 {
        self.sigma_data.unwrap_or(USUAL_SIGMA_DATA)
    }

    /// The mixture that the network is to predict at a time.
    fn mixture(&self, t: f64) -> Mixture {
        let NoiseLevel { alpha, sigma } = self.path.level(t);
        match self.prediction {
            Target::Eps => Mixture { of_x_0: 0.0, of_eps: 1.0 },
            Target::X0 => Mixture { of_x_0: 1.0, of_eps: 0.0 },
            Target::V => Mixture { of_x_0: -sigma, of_eps: alpha },
            Target::Score => Mixture { of_x_0: 0.0, of_eps: -1.0 / sigma },
            Target::Flow => {
                let rates = self.path.rates(t);
                Mixture { of_x_0: rates.alpha, of_eps: rates.sigma }
            }
            Target::Edm => {
                // Karras et al. 2022, table 1: F = (x_0 - c_skip y) / c_out for y = x_0 + s eps. With their
                // c_skip = d^2 / (s^2 + d^2) and c_out = s d / sqrt(s^2 + d^2), in sigma and alpha:
                let d = self.deviation();
                let size = sigma.hypot(alpha * d);
                Mixture { of_x_0: sigma / (d * size), of_eps: -alpha * d / size }
            }
        }
    }

    /// The coefficients around the network at a time.
    pub fn preconditioning(&self, t: f64) -> Preconditioning {
        let NoiseLevel { alpha, sigma } = self.path.level(t);
        let Mixture { of_x_0: a, of_eps: b } = self.mixture(t);
        // F = a x_0 + b eps and x_t = alpha x_0 + sigma eps, solved for x_0.
        let determinant = b * alpha - a * sigma;
        let c_in = match (self.prediction, self.path) {
            (Target::Edm, _) => 1.0 / sigma.hypot(alpha * self.deviation()),
            // Where the variance explodes, the input is scaled back to the size of the data.
            (_, Path::Ve { .. }) => 1.0 / sigma.hypot(1.0),
            _ => 1.0,
        };
        let [first, last] = self.path.times();
        Preconditioning {
            c_skip: b / determinant,
            c_out: -sigma / determinant,
            c_in,
            // Song et al. 2021; on the path of EDM this is a linear function of its ln(sigma) / 4.
            c_noise: LAST_NETWORK_TIME * t.clamp(first, last),
        }
    }

    /// A draw of `q(x_t | x_0)`: `x_t = alpha x_0 + sigma eps`.
    pub fn q_sample<const D: usize>(&self, x_0: &Tensor<D>, times: &[f64], eps: &Tensor<D>) -> Tensor<D> {
        let alpha = rows(times, x_0, |t| self.path.level(t).alpha);
        let sigma = rows(times, x_0, |t| self.path.level(t).sigma);
        alpha * x_0.clone() + sigma * eps.clone()
    }

    /// The target of the network's output.
    pub fn target<const D: usize>(&self, x_0: &Tensor<D>, times: &[f64], eps: &Tensor<D>) -> Tensor<D> {
        let of_x_0 = rows(times, x_0, |t| self.mixture(t).of_x_0);
        let of_eps = rows(times, x_0, |t| self.mixture(t).of_eps);
        of_x_0 * x_0.clone() + of_eps * eps.clone()
    }

    /// The denoiser: evaluates the preconditioned network.
    pub fn denoise<const D: usize>(
        &self,
        network: impl FnOnce(Tensor<D>, Tensor<1>) -> Tensor<D>,
        x_t: &Tensor<D>,
        times: &[f64],
    ) -> Tensor<D> {
        let output = self.evaluate(network, x_t, times);
        let c_skip = rows(times, x_t, |t| self.preconditioning(t).c_skip);
        let c_out = rows(times, x_t, |t| self.preconditioning(t).c_out);
        c_skip * x_t.clone() + c_out * output
    }

    /// The network's raw output, for the scaled input and its own time.
    fn evaluate<const D: usize>(
        &self,
        network: impl FnOnce(Tensor<D>, Tensor<1>) -> Tensor<D>,
        x_t: &Tensor<D>,
        times: &[f64],
    ) -> Tensor<D> {
        let c_in = rows(times, x_t, |t| self.preconditioning(t).c_in);
        let c_noise: Vec<f64> = times.iter().map(|&t| self.preconditioning(t).c_noise).collect();
        let batch = if c_noise.len() == 1 { vec![c_noise[0]; x_t.dims()[0]] } else { c_noise };
        network(c_in * x_t.clone(), time_tensor(&batch, x_t))
    }

    /// The weighted squared error of every row, `[B]`: denoising score matching, whatever is predicted.
    pub fn loss<const D: usize>(
        &self,
        network: impl FnOnce(Tensor<D>, Tensor<1>) -> Tensor<D>,
        weighting: Weighting,
        x_0: &Tensor<D>,
        times: &[f64],
        eps: &Tensor<D>,
    ) -> Tensor<1> {
        let x_t = self.q_sample(x_0, times, eps);
        let error = self.evaluate(network, &x_t, times) - self.target(x_0, times, eps);
        let squared = mean_per_row(error.square());
        let weights: Vec<f64> = times.iter().map(|&t| self.weight(weighting, t)).collect();
        per_row(&weights, &squared) * squared
    }

    /// The weight on the squared error of the prediction at a time.
    pub fn weight(&self, weighting: Weighting, t: f64) -> f64 {
        let log_snr = self.path.level(t).log_snr();
        let of_x_0 = match weighting {
            // g^2 on the score, of which an error is alpha / sigma^2 times that of x_0 (Song et al. 2021b (7)).
            Weighting::Likelihood {} => {
                let NoiseLevel { alpha, sigma } = self.path.level(t);
                Some(self.path.drift_and_diffusion(t).1 * alpha.powi(2) / sigma.powi(4))
            }
            other => other.of_x_0_error(log_snr),
        };
        // The denoiser's error is c_out times the network's.
        of_x_0.map_or(1.0, |of_x_0| of_x_0 * self.preconditioning(t).c_out.powi(2))
    }
}

/// A network of continuous time as a [`Denoiser`], at noise levels on any path: of a level only the ratio of sigma
/// to alpha counts, and `x_t` is scaled to the level of that ratio on the network's own path.
#[derive(Debug)]
pub struct ContinuousDenoiser<'a, F> {
    network: F,
    diffusion: &'a ContinuousDiffusion,
}

impl<'a, F> ContinuousDenoiser<'a, F> {
    /// Wraps a network that was trained under `diffusion`.
    pub fn new(network: F, diffusion: &'a ContinuousDiffusion) -> Self {
        Self { network, diffusion }
    }
}

impl<const D: usize, F> Denoiser<D> for ContinuousDenoiser<'_, F>
where
    F: Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
{
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let path = self.diffusion.path;
        let t = path.time_of_ratio(level.ratio());
        let x_t = x_t.clone() * (path.level(t).alpha / level.alpha);
        Denoised { x_0: self.diffusion.denoise(&self.network, &x_t, &[t]), variance_logit: None }
    }
}

/// A coefficient per row's time, shaped to broadcast against `like`.
fn rows<const D: usize>(times: &[f64], like: &Tensor<D>, coefficient: impl Fn(f64) -> f64) -> Tensor<D> {
    let values: Vec<f64> = times.iter().map(|&t| coefficient(t)).collect();
    per_row(&values, like)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    const PATHS: [Path; 4] = [
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        Path::SubVp { beta_min: 0.1, beta_max: 20.0 },
        Path::Ve { sigma_min: 0.01, sigma_max: 50.0 },
        Path::Linear {},
    ];
    const TARGETS: [Target; 6] = [Target::Eps, Target::X0, Target::V, Target::Score, Target::Flow, Target::Edm];

    fn every() -> impl Iterator<Item = ContinuousDiffusion> {
        PATHS.into_iter().flat_map(|path| TARGETS.map(|prediction| of(path, prediction)))
    }

    fn of(path: Path, prediction: Target) -> ContinuousDiffusion {
        ContinuousDiffusion { path, prediction, times: TimeDensity::default(), sigma_data: None }
    }

    fn tensor(values: [[f64; 2]; 3]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(values), (&Device::flex(), DType::F64))
    }

    fn data() -> (Tensor<2>, Tensor<2>) {
        (tensor([[0.1, -0.7], [1.0, 0.4], [-0.2, 0.0]]), tensor([[1.1, -0.3], [0.5, -2.0], [0.9, 0.2]]))
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f64 {
        (a - b).abs().max().into_scalar::<f64>()
    }

    #[test]
    fn a_perfect_network_returns_the_data_whatever_it_predicts() {
        let (x_0, eps) = data();
        for diffusion in every() {
            for t in [0.05, 0.5, 0.95] {
                let x_t = diffusion.q_sample(&x_0, &[t], &eps);
                let network = |_: Tensor<2>, _: Tensor<1>| diffusion.target(&x_0, &[t], &eps);
                let found = diffusion.denoise(network, &x_t, &[t]);
                assert!(distance(found, x_0.clone()) < 1e-9, "{diffusion:?} at {t}");
            }
        }
    }

    /// Karras et al. 2022, table 1, as it is printed.
    #[test]
    fn edm_is_preconditioned_as_published() {
        let d = 0.6;
        let diffusion = ContinuousDiffusion { sigma_data: Some(d), ..of(PATHS[2], Target::Edm) };
        for t in [0.0, 0.4, 1.0] {
            let sigma = PATHS[2].level(t).sigma;
            let found = diffusion.preconditioning(t);
            let near =
                |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12 * wanted.abs(), "{found} {wanted}");
            near(found.c_skip, d * d / (sigma * sigma + d * d));
            near(found.c_out, sigma * d / (sigma * sigma + d * d).sqrt());
            near(found.c_in, 1.0 / (sigma * sigma + d * d).sqrt());
            // lambda(sigma) c_out^2 = 1.
            near(diffusion.weight(Weighting::Edm { sigma_data: d }, t), 1.0);
            near(diffusion.weight(Weighting::Simple {}, t), 1.0);
        }
    }

    #[test]
    fn weights_are_those_of_denoising_score_matching() {
        for path in PATHS {
            for t in [0.1, 0.5, 0.9] {
                let near =
                    |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9 * wanted, "{found} {wanted}");
                let sigma = path.level(t).sigma;
                let g2 = path.drift_and_diffusion(t).1;
                // |sigma s + eps|^2, and g^2 |s + eps / sigma|^2 (Song et al. 2021 (7)).
                near(of(path, Target::Score).weight(Weighting::Snr {}, t), sigma * sigma);
                near(of(path, Target::Eps).weight(Weighting::Snr {}, t), 1.0);
                near(of(path, Target::Score).weight(Weighting::Likelihood {}, t), g2);
                near(of(path, Target::Eps).weight(Weighting::Likelihood {}, t), g2 / (sigma * sigma));
                near(of(path, Target::X0).weight(Weighting::Simple {}, t), 1.0);
            }
        }
    }

    #[test]
    fn the_loss_is_the_weighted_error_of_the_output() {
        let (x_0, eps) = data();
        let times = [0.2, 0.5, 0.8];
        for diffusion in every() {
            let target = diffusion.target(&x_0, &times, &eps);
            let network = |input: Tensor<2>, t: Tensor<1>| {
                assert_eq!((input.dims(), t.dims()), ([3, 2], [3]));
                target.clone() + 2.0
            };
            let weighting = Weighting::MinSnr { gamma: 5.0 };
            let found: Vec<f64> = diffusion.loss(network, weighting, &x_0, &times, &eps).into_data().iter().collect();
            for (found, t) in found.into_iter().zip(times) {
                let wanted = 4.0 * diffusion.weight(weighting, t);
                assert!((found - wanted).abs() < 1e-9 * wanted, "{diffusion:?}: {found} {wanted}");
            }
        }
    }

    /// The denoiser is one function of data plus noise, so it cannot matter in which coordinates it is evaluated.
    #[test]
    fn levels_of_any_path_are_accepted() {
        let (x_0, eps) = data();
        let levels = [NoiseLevel::from_alpha_bar(0.3), NoiseLevel { alpha: 1.0, sigma: 2.0 }];
        for diffusion in every() {
            for level in levels {
                let t = diffusion.path.time_of_ratio(level.ratio());
                let network = |input: Tensor<2>, times: Tensor<1>| {
                    // Scaled to unit size for data of unit size wherever the path explodes.
                    assert!(input.abs().max().into_scalar::<f64>() < 4.0 || diffusion.prediction == Target::Edm);
                    let time = times.into_data().iter::<f64>().next().unwrap();
                    assert!((time - 999.0 * t).abs() < 1e-9);
                    diffusion.target(&x_0, &[t], &eps)
                };
                let x_t = x_0.clone() * level.alpha + eps.clone() * level.sigma;
                let denoised = ContinuousDenoiser::new(network, &diffusion).denoise(&x_t, level);
                assert!(distance(denoised.x_0, x_0.clone()) < 1e-9, "{diffusion:?}");
            }
        }
    }

    #[test]
    fn invalid_values_are_named() {
        let config = |text: &str| serde_json::from_str::<ContinuousDiffusion>(text).unwrap().problems();
        assert!(config(r#"{"path":{"kind":"linear"},"prediction":"flow"}"#).is_empty());
        let keys: Vec<String> =
            config(r#"{"path":{"kind":"ve","sigma_min":-1.0},"times":{"kind":"levels","count":0},"sigma_data":0.5}"#)
                .into_iter()
                .map(|(key, _)| key)
                .collect();
        assert_eq!(keys, ["path.sigma_min", "times.count", "sigma_data"]);
    }
}
