//! Values with independent Gaussian errors.

use std::f64::consts::TAU;

use burn::tensor::Tensor;

/// `-ln(2 pi) / 2 - ln sigma - (x - mean)^2 / (2 sigma^2)` for each value; `log_sigma` is of the same shape, or of size 1
/// where it is shared.
pub fn log_prob<const D: usize>(x: Tensor<D>, mean: Tensor<D>, log_sigma: Tensor<D>) -> Tensor<D> {
    let z = (x - mean) * (-log_sigma.clone()).exp();
    z.square().mul_scalar(-0.5) - log_sigma - 0.5 * TAU.ln()
}

/// The shared `ln sigma` under which these errors are most likely, of size 1 in every dimension: half the logarithm of
/// their mean square (Rybkin et al. 2021).
pub fn optimal_log_sigma<const D: usize>(x: Tensor<D>, mean: Tensor<D>) -> Tensor<D> {
    (x - mean).square().mean().reshape([1; D]).clamp_min(SMALLEST_VARIANCE).log().mul_scalar(0.5)
}

/// What a variance is taken to be at least: errors of exact zeros have no density.
const SMALLEST_VARIANCE: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tolerance};

    #[test]
    fn it_is_the_density_and_the_optimal_sigma_is_its_maximum() {
        let device = Device::default();
        let x = Tensor::<2>::from_floats([[1.0, -2.0], [0.5, 3.0]], &device);
        let mean = Tensor::<2>::from_floats([[0.0, -2.0], [0.5, 1.0]], &device);
        let at = |log_sigma: f64| log_prob(x.clone(), mean.clone(), Tensor::full([1, 1], log_sigma, &device));
        let wanted = Tensor::<2>::from_floats([[-1.418_938_5, -0.918_938_5], [-0.918_938_5, -2.918_938_5]], &device);
        at(0.0).into_data().assert_approx_eq::<f32>(&wanted.into_data(), Tolerance::absolute(1e-6));

        let best = optimal_log_sigma(x.clone(), mean.clone()).into_scalar::<f64>();
        assert!((best - 0.5 * 1.25f64.ln()).abs() < 1e-6, "{best}");
        let total = |log_sigma| at(log_sigma).sum().into_scalar::<f64>();
        assert!(total(best) > total(best - 0.1) && total(best) > total(best + 0.1));
    }
}
