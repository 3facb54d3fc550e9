//! The variational bound of values of windows of series, given what a denoiser is conditioned on.

use burn::tensor::{Tensor, TensorData};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_model::density_bound::{DensityTerms, ReverseVariance};
use ddpm_model::gaussian::GaussianDiffusion;

use crate::family::trained::SeriesBoundTerms;

/// Values of windows, which are rows of equal number, one window after the other.
pub(crate) struct Scored<const D: usize> {
    /// The values as the network has them.
    pub(crate) x_0: Tensor<D>,
    /// 1 where a value is scored, else 0.
    pub(crate) mask: Tensor<D>,
    /// What addresses the noise of each window.
    pub(crate) numbers: Vec<u64>,
}

impl<const D: usize> Scored<D> {
    /// Sums of each window.
    fn sums(&self, x: Tensor<D>) -> Vec<f64> {
        let windows = self.numbers.len();
        let size = x.shape().num_elements() / windows.max(1);
        let sums: Tensor<2> = (x * self.mask.clone()).reshape([windows, size]).sum_dim(1);
        sums.into_data().iter::<f64>().collect()
    }

    /// The noise of a step of the chain: that of a window does not depend on the others.
    fn noise(&self, seed: u64, step: usize) -> Tensor<D> {
        let shape = self.x_0.dims();
        let size = shape.iter().product::<usize>() / self.numbers.len().max(1);
        let of = |number: &u64| normals(&mut rng(seed, Stream::Bound, number << 32 | step as u64), size);
        let values: Vec<f32> = self.numbers.iter().flat_map(of).collect();
        Tensor::from_data(TensorData::new(values, shape), &self.x_0.device())
    }

    /// The terms of each window, with one draw of the noise at every step. `network(x_t, t)` is the prediction at a step that
    /// all rows share.
    pub(crate) fn terms(
        &self,
        chain: &GaussianDiffusion,
        seed: u64,
        mut network: impl FnMut(Tensor<D>, usize) -> Tensor<D>,
    ) -> Vec<SeriesBoundTerms> {
        let error = |t: usize| {
            let x_t = chain.q_sample(self.x_0.clone(), &[t], self.noise(seed, t));
            let x_0 = chain.x_0_from_prediction(network(x_t.clone(), t), x_t, &[t]);
            self.sums((x_0 - self.x_0.clone()).square())
        };
        let errors: Vec<Vec<f64>> = (0..chain.schedule.len()).map(error).collect();
        let (counts, squares) = (self.sums(self.mask.clone()), self.sums(self.x_0.clone().square()));
        let chains = ReverseVariance::ALL.map(|variance| DensityTerms::new(&chain.schedule, variance));
        let of_window = |window: usize| {
            let errors: Vec<f64> = errors.iter().map(|of_step| of_step[window]).collect();
            let values = counts[window].round() as usize;
            let bounds = chains.each_ref().map(|terms| terms.bound(values, squares[window], &errors));
            SeriesBoundTerms { values, bounds, ..SeriesBoundTerms::default() }
        };
        (0..self.numbers.len()).map(of_window).collect()
    }
}
