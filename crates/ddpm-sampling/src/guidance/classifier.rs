//! Classifier guidance (Dhariwal & Nichol 2021): along the gradient of a classifier of noisy data.
//!
//! `eps = eps - scale sigma grad log p(y | x_t)`, their algorithm 2. At scale 1 and with the exact classifier this
//! is Bayes' rule: the answer under y of an unconditional denoiser.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

use super::{Guide, Guided};

/// A denoiser, pushed to where a classifier sees y.
pub struct ClassifierGuidance<'a, const D: usize, F> {
    /// The denoiser inside.
    pub inner: &'a dyn Denoiser<D>,
    /// The gradient of `log p(y | x_t)` by x_t, of the shape of x_t.
    pub gradient: F,
    /// Weight of the gradient: 0 is none.
    pub scale: f64,
}

impl<const D: usize, F> Guide<D> for ClassifierGuidance<'_, D, F>
where
    F: Fn(&Tensor<D>, NoiseLevel) -> Tensor<D>,
{
    fn plain(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        self.inner.denoise(x_t, level)
    }

    fn both(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Guided<D> {
        let plain = self.inner.denoise(x_t, level);
        // The paper's change of eps, as one of x_0 = (x_t - sigma eps) / alpha.
        let push = (self.gradient)(x_t, level) * (self.scale * level.sigma.powi(2) / level.alpha);
        let guided = Denoised { x_0: plain.x_0.clone() + push, variance_logit: plain.variance_logit.clone() };
        Guided { plain, guided }
    }
}

impl<const D: usize, F> Denoiser<D> for ClassifierGuidance<'_, D, F>
where
    F: Fn(&Tensor<D>, NoiseLevel) -> Tensor<D>,
{
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        self.both(x_t, level).guided
    }
}
