//! Autoguidance (Karras et al. 2024): away from the prediction of a weaker version of the same network.
//!
//! `D = D_guide + scale (D_network - D_guide)`, their (3). The guide, an earlier snapshot or a smaller network, is
//! under the same condition, so that the push is away from its mistakes and not towards the class.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

use super::{Guide, Guided, extrapolate};

/// A denoiser, pushed away from a weaker one.
pub struct AutoGuidance<'a, const D: usize> {
    /// The better one.
    pub network: &'a dyn Denoiser<D>,
    /// The weaker one.
    pub guide: &'a dyn Denoiser<D>,
    /// Weight of the better one: 1 is its answer, 0 the guide's.
    pub scale: f64,
}

impl<const D: usize> Guide<D> for AutoGuidance<'_, D> {
    fn plain(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        self.network.denoise(x_t, level)
    }

    fn both(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Guided<D> {
        let plain = self.network.denoise(x_t, level);
        let guided = extrapolate(&plain, self.guide.denoise(x_t, level), self.scale);
        Guided { plain, guided }
    }
}

impl<const D: usize> Denoiser<D> for AutoGuidance<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        self.both(x_t, level).guided
    }
}
