//! Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3).
//!
//! Guidance drives x_0 out of [-1, 1], and clipping makes whole regions flat there. Instead every sample is cut at
//! a high percentile s of its own `|x_0|`, if that is above 1, and divided by it:
//! `x_0 = clamp(x_0, -s, s) / s`.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

/// Where x_0 is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Share of the values of a sample below the cut, such as 0.995; between two values the cut is interpolated.
    pub percentile: f64,
    /// Upper limit of the cut; 1 is clipping.
    pub maximum: f64,
}

impl Threshold {
    /// A percentile without an upper limit.
    pub const fn at(percentile: f64) -> Self {
        Self { percentile, maximum: f64::INFINITY }
    }

    /// Whether there is such a threshold.
    pub fn is_sound(&self) -> bool {
        self.percentile > 0.0 && self.percentile <= 1.0 && self.maximum >= 1.0
    }

    /// x_0 between -1 and 1.
    pub fn apply<const D: usize>(&self, x_0: Tensor<D>) -> Tensor<D> {
        let rows = x_0.dims()[0];
        let flat = x_0.clone().reshape([rows, x_0.shape().num_elements() / rows]);
        let mut per_row = [1; D];
        per_row[0] = rows;
        let s = self.cut(flat.abs()).reshape(per_row);
        (x_0 / s).clamp(-1.0, 1.0)
    }

    /// s of every row, shape `[B, 1]`.
    fn cut(&self, sizes: Tensor<2>) -> Tensor<2> {
        let last = sizes.dims()[1] - 1;
        let sorted = sizes.sort(1);
        let place = self.percentile * last as f64;
        let low = place as usize;
        let at = |index: usize| sorted.clone().narrow(1, index, 1);
        let (a, b) = (at(low), at((low + 1).min(last)));
        let s = (a.clone() + (b - a) * (place - low as f64)).clamp_min(1.0);
        if self.maximum.is_finite() { s.clamp_max(self.maximum) } else { s }
    }
}

/// A denoiser whose x_0 is cut so. The eps that goes with it follows from that x_0.
pub struct Thresholded<'a, const D: usize> {
    /// The denoiser inside.
    pub inner: &'a dyn Denoiser<D>,
    /// Where it is cut.
    pub threshold: Threshold,
}

impl<const D: usize> Denoiser<D> for Thresholded<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let denoised = self.inner.denoise(x_t, level);
        Denoised { x_0: self.threshold.apply(denoised.x_0), ..denoised }
    }
}
