//! What the network predicts, and how each prediction turns into the others.
//!
//! Every conversion takes the noise levels of the batch: one per row, or a single one for all rows.
//! Conversions are separate functions and none is computed unless needed, because eps -> x_0 divides by
//! alpha (which vanishes at the noisy end) and x_0 -> eps divides by sigma (which vanishes at the other).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::noise_level::{NoiseLevel, per_row};

/// The quantity that the network is trained to output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise eps (Ho et al. 2020).
    #[default]
    Eps,
    /// The data x_0.
    X0,
    /// The mean of `q(x_{t-1} | x_t, x_0)`.
    PosteriorMean,
    /// The velocity `alpha eps - sigma x_0` (Salimans & Ho 2022).
    V,
}

/// `x_0 = (x_t - sigma eps) / alpha`, eq. 4 of Ho et al. 2020 solved for `x_0`.
pub fn x_0_from_eps<const D: usize>(x_t: Tensor<D>, eps: Tensor<D>, levels: &[NoiseLevel]) -> Tensor<D> {
    let (alpha, sigma) = alpha_sigma(levels, &x_t);
    (x_t - sigma * eps) / alpha
}

/// `eps = (x_t - alpha x_0) / sigma`, eq. 4 of Ho et al. 2020 solved for `eps`.
pub fn eps_from_x_0<const D: usize>(x_t: Tensor<D>, x_0: Tensor<D>, levels: &[NoiseLevel]) -> Tensor<D> {
    let (alpha, sigma) = alpha_sigma(levels, &x_t);
    (x_t - alpha * x_0) / sigma
}

/// `v = alpha eps - sigma x_0`, Salimans & Ho 2022, section 4.
pub fn v_from_x_0_and_eps<const D: usize>(x_0: Tensor<D>, eps: Tensor<D>, levels: &[NoiseLevel]) -> Tensor<D> {
    let (alpha, sigma) = alpha_sigma(levels, &x_0);
    alpha * eps - sigma * x_0
}

/// `x_0 = alpha x_t - sigma v`. Holds on variance-preserving levels, where `alpha^2 + sigma^2 = 1`.
pub fn x_0_from_v<const D: usize>(x_t: Tensor<D>, v: Tensor<D>, levels: &[NoiseLevel]) -> Tensor<D> {
    let (alpha, sigma) = alpha_sigma(levels, &x_t);
    alpha * x_t - sigma * v
}

/// `eps = sigma x_t + alpha v`. Holds on variance-preserving levels, where `alpha^2 + sigma^2 = 1`.
pub fn eps_from_v<const D: usize>(x_t: Tensor<D>, v: Tensor<D>, levels: &[NoiseLevel]) -> Tensor<D> {
    let (alpha, sigma) = alpha_sigma(levels, &x_t);
    sigma * x_t + alpha * v
}

fn alpha_sigma<const D: usize>(levels: &[NoiseLevel], like: &Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let alpha: Vec<f64> = levels.iter().map(|level| level.alpha).collect();
    let sigma: Vec<f64> = levels.iter().map(|level| level.sigma).collect();
    (per_row(&alpha, like), per_row(&sigma, like))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn tensor(values: &[f64]) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), [2, values.len() / 2]);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f64 {
        (a - b).abs().max().into_scalar::<f64>()
    }

    #[test]
    fn conversions_are_inverse_to_each_other() {
        let x_0 = tensor(&[0.3, -0.9, 0.5, 1.0, 0.0, -0.2]);
        let eps = tensor(&[-1.2, 0.4, 2.0, 0.1, -0.6, 0.7]);
        for alpha_bars in [vec![0.9999, 4.0e-5], vec![0.25]] {
            let levels: Vec<_> = alpha_bars.into_iter().map(NoiseLevel::from_alpha_bar).collect();
            let (alpha, sigma) = alpha_sigma(&levels, &x_0);
            let x_t = alpha * x_0.clone() + sigma * eps.clone();
            let v = v_from_x_0_and_eps(x_0.clone(), eps.clone(), &levels);

            let near = |found: Tensor<2>, wanted: &Tensor<2>| {
                assert!(distance(found, wanted.clone()) < 1e-12);
            };
            near(x_0_from_eps(x_t.clone(), eps.clone(), &levels), &x_0);
            near(eps_from_x_0(x_t.clone(), x_0.clone(), &levels), &eps);
            near(x_0_from_v(x_t.clone(), v.clone(), &levels), &x_0);
            near(eps_from_v(x_t, v, &levels), &eps);
        }
    }

    #[test]
    fn names_are_kebab_case() {
        let named = |name: &str| serde_json::from_str::<Prediction>(&format!("{name:?}")).unwrap();
        assert_eq!(named("eps"), Prediction::Eps);
        assert_eq!(named("x0"), Prediction::X0);
        assert_eq!(named("posterior-mean"), Prediction::PosteriorMean);
        assert_eq!(named("v"), Prediction::V);
    }
}
