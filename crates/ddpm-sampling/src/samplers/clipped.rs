//! Keeping the prediction of x_0 where data can be.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::gaussian::Clip;
use ddpm_model::noise_level::NoiseLevel;

/// A denoiser whose x_0 is clipped. The eps that goes with it follows from the clipped x_0.
pub struct Clipped<'a, const D: usize> {
    /// The denoiser inside.
    pub inner: &'a dyn Denoiser<D>,
    /// What is done to its x_0.
    pub clip: Clip,
}

impl<const D: usize> Denoiser<D> for Clipped<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let denoised = self.inner.denoise(x_t, level);
        Denoised { x_0: self.clip.apply(denoised.x_0), ..denoised }
    }
}
