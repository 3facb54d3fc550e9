//! Series with missing values as the network takes them, and its loss.

use burn::tensor::{Int, Tensor, TensorData};

use super::Csdi;
use crate::gaussian::GaussianDiffusion;
use crate::pass::Pass;

/// Series of which some values are observed, and some of those are given to the network; the others are its targets. All
/// are `[B, K, L]`; masks are 1 where something is.
#[derive(Clone, Debug)]
pub struct MaskedSeries {
    values: Tensor<3>,
    observed: Tensor<3>,
    given: Tensor<3>,
}

impl MaskedSeries {
    /// Values that were not observed have no effect: 0 takes their place.
    pub fn new(values: Tensor<3>, observed: Tensor<3>, given: Tensor<3>) -> Self {
        let values = values.mask_fill(observed.clone().equal_elem(0), 0.0);
        Self { values, observed, given }
    }

    /// The observed values, and 0 elsewhere.
    pub fn values(&self) -> Tensor<3> {
        self.values.clone()
    }

    /// The mask of what is given to the network.
    pub fn given(&self) -> Tensor<3> {
        self.given.clone()
    }

    /// The mask of what the network is to predict: observed, but not given.
    pub fn target(&self) -> Tensor<3> {
        self.observed.clone() - self.given.clone()
    }

    /// `x` with the given values in their places, bit for bit.
    pub fn with_given_values(&self, x: Tensor<3>) -> Tensor<3> {
        x.mask_where(self.given.clone().equal_elem(1), self.values())
    }

    /// `known` where values are given, `x` elsewhere.
    pub(super) fn mixed(&self, known: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        known * self.given() + x * self.not_given()
    }

    /// The input of a network: the given values and, elsewhere, the noisy ones; or, unconditional, the noisy ones alone.
    pub fn input(&self, noisy: Tensor<3>, unconditional: bool) -> Tensor<4> {
        match unconditional {
            true => noisy.unsqueeze_dim(1),
            false => Tensor::stack(vec![self.values() * self.given(), noisy * self.not_given()], 1),
        }
    }

    fn not_given(&self) -> Tensor<3> {
        self.given.ones_like() - self.given()
    }
}

/// The mean over the targets of the squared error, of all series together; 0 where there is no target.
pub fn masked_loss(noise: Tensor<3>, predicted: Tensor<3>, target: Tensor<3>) -> Tensor<1> {
    let error = (noise - predicted) * target.clone();
    let count = target.sum().clamp_min(1.0);
    error.clone().mul(error).sum() / count
}

/// Of series `[B, K, L]` the variables with these numbers, `[B, N]`, in their order: `[B, N, L]`.
pub fn select_variables(x: Tensor<3>, variables: Tensor<2, Int>) -> Tensor<3> {
    let ([_, _, length], [batch, count]) = (x.dims(), variables.dims());
    x.gather(1, variables.unsqueeze_dim::<3>(2).expand([batch, count, length]))
}

impl Csdi {
    /// The training loss at one step for each series, `t`, with this noise.
    pub fn loss(
        &self,
        series: &MaskedSeries,
        side: Tensor<4>,
        diffusion: &GaussianDiffusion,
        t: &[usize],
        noise: Tensor<3>,
        pass: &Pass<'_>,
    ) -> Tensor<1> {
        let noisy = diffusion.q_sample(series.values(), t, noise.clone());
        let predicted = self.predict(series, noisy, side, t, pass);
        masked_loss(noise, predicted, series.target())
    }

    /// The mean of the loss over all steps, each with its own noise: what the original validates by.
    pub fn loss_of_all_steps(
        &self,
        series: &MaskedSeries,
        side: &Tensor<4>,
        diffusion: &GaussianDiffusion,
        noises: Vec<Tensor<3>>,
        pass: &Pass<'_>,
    ) -> Tensor<1> {
        let batch = series.values.dims()[0];
        let steps = noises.len().max(1) as f64;
        let losses = noises
            .into_iter()
            .enumerate()
            .map(|(t, noise)| self.loss(series, side.clone(), diffusion, &vec![t; batch], noise, pass));
        let zero = Tensor::zeros([1], (&side.device(), side.dtype()));
        losses.fold(zero, |sum, loss| sum + loss) * (1.0 / steps)
    }

    /// The noise that the network predicts in noisy series at these steps, one for each.
    pub(super) fn predict(
        &self,
        series: &MaskedSeries,
        noisy: Tensor<3>,
        side: Tensor<4>,
        t: &[usize],
        pass: &Pass<'_>,
    ) -> Tensor<3> {
        let steps: Vec<i64> = t.iter().map(|&t| t as i64).collect();
        let steps = Tensor::from_data(TensorData::from(steps.as_slice()), &noisy.device());
        self.forward(series.input(noisy, self.config().unconditional), side, steps, pass)
    }
}
