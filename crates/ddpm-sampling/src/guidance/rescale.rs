//! Guidance that keeps the deviation of the plain answer (Lin et al. 2023, section 3.4).
//!
//! Strong guidance makes images harsh: x_0 spreads wider than any data. With one deviation a sample, over
//! everything but the batch: `x_rescaled = x_guided std(x_plain) / std(x_guided)` (15),
//! `x = phi x_rescaled + (1 - phi) x_guided` (16). Both are taken of x_0, so that the result does not depend on
//! what the network predicts, or, as the pipelines of diffusers do, of what the network predicts.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

use ddpm_model::prediction::{Prediction, eps_from_x_0, v_from_x_0_and_eps, x_0_from_eps, x_0_from_v};

use super::{Guide, Guided};

/// Guidance whose answer gets a share of its deviation back.
pub struct Rescaled<'a, const D: usize> {
    /// The guidance inside.
    pub inner: &'a dyn Guide<D>,
    /// The share: 0 changes nothing, 1 restores the deviation.
    pub phi: f64,
    /// What is rescaled: eps, v or x_0.
    pub of: Prediction,
}

impl<const D: usize> Guide<D> for Rescaled<'_, D> {
    fn plain(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        self.inner.plain(x_t, level)
    }

    fn both(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Guided<D> {
        let Guided { plain, guided } = self.inner.both(x_t, level);
        let [plain_output, guided_output] = [&plain, &guided].map(|answer| self.output(answer, x_t, level));
        let deviation_guided = deviation(&guided_output);
        // What has no deviation has none to lose: it stays, instead of becoming 0 / 0.
        let flat = deviation_guided.clone().equal_elem(0.0);
        let ratio = (deviation(&plain_output) / deviation_guided).mask_fill(flat, 1.0);
        // (15) and (16)
        let output = guided_output * (ratio * self.phi + (1.0 - self.phi));
        let x_0 = match self.of {
            Prediction::Eps => x_0_from_eps(x_t.clone(), output, &[level]),
            Prediction::V => x_0_from_v(x_t.clone(), output, &[level]),
            Prediction::X0 | Prediction::PosteriorMean => output,
        };
        Guided { plain, guided: Denoised { x_0, ..guided } }
    }
}

impl<const D: usize> Denoiser<D> for Rescaled<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        match self.phi {
            0.0 => self.inner.denoise(x_t, level),
            _ => self.both(x_t, level).guided,
        }
    }
}

impl<const D: usize> Rescaled<'_, D> {
    /// What is rescaled of an answer.
    fn output(&self, answer: &Denoised<D>, x_t: &Tensor<D>, level: NoiseLevel) -> Tensor<D> {
        let eps = || eps_from_x_0(x_t.clone(), answer.x_0.clone(), &[level]);
        match self.of {
            Prediction::Eps => eps(),
            Prediction::V => v_from_x_0_and_eps(answer.x_0.clone(), eps(), &[level]),
            Prediction::X0 | Prediction::PosteriorMean => answer.x_0.clone(),
        }
    }
}

/// The deviation of every row, shape `[B, 1, ..]`.
fn deviation<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    let rows = x.dims()[0];
    let mut per_row = [1; D];
    per_row[0] = rows;
    let flat = x.clone().reshape([rows, x.shape().num_elements() / rows]);
    let centred = flat.clone() - flat.mean_dim(1);
    centred.square().mean_dim(1).sqrt().reshape(per_row)
}
