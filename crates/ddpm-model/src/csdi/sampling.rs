//! Ancestral sampling of what is missing, as the original does it. All noise is passed in.

use burn::tensor::Tensor;

use super::{Csdi, MaskedSeries};
use crate::gaussian::GaussianDiffusion;
use crate::noise_level::per_row;
use crate::pass::Pass;

impl Csdi {
    /// Noises that a sample takes, each of the shape of the series.
    pub fn noises_per_sample(&self) -> usize {
        let steps = self.config().steps;
        if self.config().unconditional { 2 * steps } else { steps }
    }

    /// One sample of the whole series, `[B, K, L]`. [`MaskedSeries::with_given_values`] puts back what is given, which the
    /// original does not.
    ///
    /// Noises are in the order of their use: where the network is unconditional, first those of the given values, from the
    /// cleanest step on; then the start; then one for each step but the last.
    pub fn sample(
        &self,
        series: &MaskedSeries,
        side: &Tensor<4>,
        diffusion: &GaussianDiffusion,
        noises: Vec<Tensor<3>>,
        pass: &Pass<'_>,
    ) -> Tensor<3> {
        debug_assert_eq!(noises.len(), self.noises_per_sample());
        let batch = series.values().dims()[0];
        let mut noises = noises.into_iter();
        let history = match self.config().unconditional {
            true => noised_history(series, diffusion, noises.by_ref().take(diffusion.schedule.len())),
            false => Vec::new(),
        };
        let mut x = noises.next().unwrap_or_else(|| series.values().zeros_like());
        for t in (0..diffusion.schedule.len()).rev() {
            let noisy = match history.get(t) {
                Some(known) => series.mixed(known.clone(), x.clone()),
                None => x.clone(),
            };
            let times = vec![t; batch];
            let eps = self.predict(series, noisy, side.clone(), &times, pass);
            x = diffusion.mean_from_eps(x, eps, &times);
            if let (true, Some(noise)) = (t > 0, noises.next()) {
                let scale = per_row(&[diffusion.schedule.posterior_variance[t].sqrt()], &noise);
                x = x + scale * noise;
            }
        }
        x
    }
}

/// The given values at every step, noisier from step to step.
fn noised_history(
    series: &MaskedSeries,
    diffusion: &GaussianDiffusion,
    noises: impl Iterator<Item = Tensor<3>>,
) -> Vec<Tensor<3>> {
    let batch = series.values().dims()[0];
    let steps = noises.enumerate().scan(series.values(), |x, (t, noise)| {
        *x = diffusion.q_step(x.clone(), &vec![t; batch], noise);
        Some(x.clone())
    });
    steps.collect()
}
