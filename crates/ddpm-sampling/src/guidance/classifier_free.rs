//! Classifier-free guidance (Ho & Salimans 2022): away from the unconditional prediction.
//!
//! `eps = eps_u + scale (eps_c - eps_u)`, their (6) with scale = 1 + w. The score is that of
//! `p(x_t | c)^scale p(x_t)^(1 - scale)`, which is no noised distribution of anything: guided samples are not
//! samples of a tilted data distribution, only pushed towards one.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

use super::{Guide, Guided, extrapolate};

/// A denoiser under a class, pushed away from one under none.
pub struct ClassifierFree<'a, const D: usize> {
    /// Where both answers come from.
    pub answers: Answers<'a, D>,
    /// Weight of the answer under the class: 1 is that answer, 0 the one under no class.
    pub scale: f64,
}

/// Where the answers under a class and under none come from.
#[derive(Clone, Copy)]
pub enum Answers<'a, const D: usize> {
    /// Two denoisers.
    Apart {
        /// Under the class.
        conditional: &'a dyn Denoiser<D>,
        /// Under none.
        unconditional: &'a dyn Denoiser<D>,
    },
    /// One network, evaluated once on twice the rows.
    Together {
        /// Under the class, for when nothing else is needed.
        conditional: &'a dyn Denoiser<D>,
        /// For twice the rows: the first half under the class, the second half under none.
        twice: &'a dyn Denoiser<D>,
    },
}

impl<const D: usize> Guide<D> for ClassifierFree<'_, D> {
    fn plain(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let (Answers::Apart { conditional, .. } | Answers::Together { conditional, .. }) = self.answers;
        conditional.denoise(x_t, level)
    }

    fn both(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Guided<D> {
        let (plain, weaker) = match self.answers {
            Answers::Apart { conditional, unconditional } => {
                (conditional.denoise(x_t, level), unconditional.denoise(x_t, level))
            }
            Answers::Together { twice, .. } => {
                halves(twice.denoise(&Tensor::cat(vec![x_t.clone(), x_t.clone()], 0), level))
            }
        };
        Guided { guided: extrapolate(&plain, weaker, self.scale), plain }
    }
}

impl<const D: usize> Denoiser<D> for ClassifierFree<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        if self.scale == 1.0 { self.plain(x_t, level) } else { self.both(x_t, level).guided }
    }
}

fn halves<const D: usize>(of: Denoised<D>) -> (Denoised<D>, Denoised<D>) {
    let rows = of.x_0.dims()[0] / 2;
    let half = |start: usize| Denoised {
        x_0: of.x_0.clone().narrow(0, start, rows),
        variance_logit: of.variance_logit.clone().map(|logit| logit.narrow(0, start, rows)),
    };
    (half(0), half(rows))
}
