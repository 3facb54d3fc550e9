//! Noise levels: how much data and how much noise there is in `x_t`. The common coordinate of all parts of the project.

use burn::tensor::{Tensor, TensorData};

use crate::schedule::Schedule;

/// `x_t = alpha x_0 + sigma eps`, kept on the host in `f64`.
///
/// `alpha` is the square root of the paper's alpha-bar, never the `1 - beta` that Ho et al. call alpha.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// Factor of the data, `sqrt(alpha_bar)` in discrete DDPM.
    pub alpha: f64,
    /// Factor of the noise, `sqrt(1 - alpha_bar)` in discrete DDPM.
    pub sigma: f64,
}

impl NoiseLevel {
    /// The variance-preserving level of an alpha-bar.
    pub fn from_alpha_bar(alpha_bar: f64) -> Self {
        Self { alpha: alpha_bar.sqrt(), sigma: (1.0 - alpha_bar).sqrt() }
    }

    /// The variance-preserving level with this ratio of sigma to alpha.
    pub fn from_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (1.0 + ratio * ratio).sqrt();
        Self { alpha, sigma: ratio * alpha }
    }

    /// Sigma over alpha: the standard deviation of the noise relative to unscaled data, infinite where alpha is 0.
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// The natural logarithm of the signal-to-noise ratio `alpha^2 / sigma^2`.
    pub fn log_snr(self) -> f64 {
        2.0 * (self.alpha.ln() - self.sigma.ln())
    }
}

/// The noise levels that a network was trained on.
///
/// Samplers integrate in variance-preserving coordinates, in which x keeps its size, whatever path was trained: a level
/// is given by its ratio alone.
pub trait NoiseRange {
    /// The schedule, where the levels are those of discrete steps.
    fn schedule(&self) -> Option<&Schedule>;

    /// The variance-preserving level at a share of the way in time, from the cleanest (0) to the noisiest (1).
    fn level_at(&self, share: f64) -> NoiseLevel;
}

/// Host numbers as a tensor `[B, 1, ..]` that broadcasts against `like`, in its dtype and on its device.
///
/// One value serves the whole batch; otherwise there is one value per row. Burn promotes no dtype, so this
/// is the one place where a coefficient leaves `f64`.
pub fn per_row<const D: usize>(values: &[f64], like: &Tensor<D>) -> Tensor<D> {
    debug_assert!(
        values.len() == 1 || values.len() == like.dims()[0],
        "{} coefficients for a batch of {} rows",
        values.len(),
        like.dims()[0]
    );
    let mut shape = [1; D];
    shape[0] = values.len();
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&like.device(), like.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    #[test]
    fn variance_preserving_level_has_unit_power() {
        let level = NoiseLevel::from_alpha_bar(0.36);
        assert!((level.alpha - 0.6).abs() < 1e-15);
        assert!((level.sigma - 0.8).abs() < 1e-15);
        assert!((level.log_snr() - (0.36f64 / 0.64).ln()).abs() < 1e-14);
    }

    #[test]
    fn a_ratio_is_that_of_its_level() {
        for wanted in [0.0, 0.002, 1.0, 157.0] {
            let level = NoiseLevel::from_ratio(wanted);
            assert!((level.ratio() - wanted).abs() <= 1e-15 * wanted);
            assert!((level.alpha.powi(2) + level.sigma.powi(2) - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn coefficients_take_shape_and_dtype_of_the_data() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::F64] {
            let x = Tensor::<3>::zeros([2, 3, 4], (&device, dtype));
            let rows = per_row(&[0.1, 0.2], &x);
            assert_eq!(rows.dims(), [2, 1, 1]);
            assert_eq!(rows.dtype(), dtype);
            assert_eq!(per_row(&[0.1], &x).dims(), [1, 1, 1]);
        }
    }
}
