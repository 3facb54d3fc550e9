//! The loss of a network under its diffusion process. The formulas are in `ddpm_model`: `GaussianDiffusion::loss` in `bound.rs`,
//! for DDPM `GaussianDiffusion::l_simple`.

use burn::tensor::Tensor;
use ddpm_model::bound::Loss;
use ddpm_model::denoiser::concat_estimate;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::Network;
use ddpm_model::noise_level::per_row;
use ddpm_model::pass::Pass;
use ddpm_model::weighting::Weighting;

use super::noising::NoisedBatch;
use crate::family::Losses;

/// What is minimised.
#[derive(Clone, Copy, Debug)]
pub struct Objective<'a> {
    /// The forward process.
    pub diffusion: &'a Diffusion,
    /// The loss of a row.
    pub loss: Loss,
    /// How much it counts at each noise level.
    pub weighting: Weighting,
}

impl Objective<'_> {
    /// The loss of the batch: the mean of its rows, each divided by how much more often its step is drawn.
    pub fn losses(&self, network: &Network, batch: &NoisedBatch, pass: &Pass<'_>) -> Losses {
        let NoisedBatch { condition, augment_labels, .. } = batch;
        let rows = self.row_losses(batch, |x, t| network.forward_with(x, t, condition, augment_labels.clone(), pass));
        let seen = rows.clone().detach();
        let loss = match &batch.importance {
            None => rows.mean(),
            Some(importance) => (per_row(importance, &rows) * rows).mean(),
        };
        Losses { loss, rows: seen, parts: Vec::new() }
    }

    /// The loss of each row: by default `L_simple`, eq. 14 of Ho et al. 2020. A self-conditioned network is evaluated
    /// twice; the loss is that of the second evaluation.
    pub(crate) fn row_losses(
        &self,
        batch: &NoisedBatch,
        network: impl Fn(Tensor<4>, Tensor<1>) -> Tensor<4>,
    ) -> Tensor<1> {
        let NoisedBatch { x_0, eps, times, .. } = batch;
        let estimate = batch.shown.as_ref().map(|shown| self.estimate(batch, shown, &network));
        let conditioned = |x: Tensor<4>, t: Tensor<1>| match estimate {
            Some(estimate) => network(concat_estimate(x, Some(estimate)), t),
            None => network(x, t),
        };
        self.diffusion.row_losses(self.loss, self.weighting, conditioned, x_0, times, eps)
    }

    /// The network's estimate of the data before it is shown any, for the rows that are shown it (Chen et al. 2023,
    /// algorithm 1). Nothing is learned from how it came about.
    fn estimate(
        &self,
        batch: &NoisedBatch,
        shown: &[f64],
        network: &impl Fn(Tensor<4>, Tensor<1>) -> Tensor<4>,
    ) -> Tensor<4> {
        let NoisedBatch { x_0, eps, times, .. } = batch;
        let first = |x, t| network(concat_estimate(x, None), t);
        let x_t = self.diffusion.q_sample(x_0, times, eps);
        let estimate = self.diffusion.denoise_rows(first, &x_t, times).detach();
        per_row(shown, &estimate) * estimate
    }
}
