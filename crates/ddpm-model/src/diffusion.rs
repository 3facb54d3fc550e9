//! The diffusion process of a model: a chain of discrete steps, or a path in continuous time.

use burn::tensor::Tensor;

use crate::bound::Loss;
use crate::continuous::{ContinuousDenoiser, ContinuousDiffusion};
use crate::denoiser::{Denoised, Denoiser, DiscreteDenoiser, time_tensor};
use crate::gaussian::GaussianDiffusion;
use crate::noise_level::{NoiseLevel, NoiseRange};
use crate::schedule::Schedule;
use crate::variance::Variance;
use crate::weighting::Weighting;

/// A diffusion process with what the network predicts of it.
#[derive(Clone, Debug)]
pub enum Diffusion {
    /// Discrete steps (Ho et al. 2020).
    Discrete(GaussianDiffusion),
    /// A path over the times between 0 and 1.
    Continuous(ContinuousDiffusion),
}

impl Diffusion {
    /// Where the variance of a step of ancestral sampling comes from.
    pub fn variance(&self) -> Variance {
        match self {
            Self::Discrete(diffusion) => diffusion.variance,
            Self::Continuous(_) => Variance::default(),
        }
    }

    /// A draw of `q(x_t | x_0)`, each row at its training time: a step of the chain, or a time of the path.
    pub fn q_sample<const D: usize>(&self, x_0: &Tensor<D>, times: &[f64], eps: &Tensor<D>) -> Tensor<D> {
        match self {
            Self::Discrete(diffusion) => diffusion.q_sample(x_0.clone(), &steps(times), eps.clone()),
            Self::Continuous(diffusion) => diffusion.q_sample(x_0, times, eps),
        }
    }

    /// The loss of every row, `[B]`, for its training time and its noise.
    #[allow(clippy::too_many_arguments)] // the objective, the network, and the four parts of a training pair
    pub fn row_losses<const D: usize>(
        &self,
        objective: Loss,
        weighting: Weighting,
        network: impl FnOnce(Tensor<D>, Tensor<1>) -> Tensor<D>,
        x_0: &Tensor<D>,
        times: &[f64],
        eps: &Tensor<D>,
    ) -> Tensor<1> {
        match self {
            Self::Discrete(diffusion) => {
                let t = steps(times);
                let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
                let output = network(x_t.clone(), time_tensor(&diffusion.network_times(times), &x_t));
                let terms = diffusion.loss(objective, output, x_0, &x_t, eps, &t);
                diffusion.weighted_loss(weighting, terms, &t)
            }
            Self::Continuous(diffusion) => diffusion.loss(network, weighting, x_0, times, eps),
        }
    }

    /// The estimate of `x_0` at one noise level, from one evaluation of the network.
    pub fn denoise<const D: usize>(
        &self,
        network: impl Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
        x_t: &Tensor<D>,
        level: NoiseLevel,
    ) -> Denoised<D> {
        match self {
            Self::Discrete(diffusion) => DiscreteDenoiser::new(network, diffusion).denoise(x_t, level),
            Self::Continuous(diffusion) => ContinuousDenoiser::new(network, diffusion).denoise(x_t, level),
        }
    }

    /// The estimate of `x_0` for rows that each have their own training time.
    pub fn denoise_rows<const D: usize>(
        &self,
        network: impl Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
        x_t: &Tensor<D>,
        times: &[f64],
    ) -> Tensor<D> {
        match self {
            Self::Discrete(diffusion) => {
                let t = steps(times);
                let output = network(x_t.clone(), time_tensor(&diffusion.network_times(times), x_t));
                let (prediction, _) = diffusion.split_output(output);
                diffusion.x_0_from_prediction(prediction, x_t.clone(), &t)
            }
            Self::Continuous(diffusion) => diffusion.denoise(network, x_t, times),
        }
    }
}

/// Training times of a chain as step numbers.
fn steps(times: &[f64]) -> Vec<usize> {
    times.iter().map(|&time| time as usize).collect()
}

impl NoiseRange for Diffusion {
    fn schedule(&self) -> Option<&Schedule> {
        match self {
            Self::Discrete(diffusion) => Some(&diffusion.schedule),
            Self::Continuous(_) => None,
        }
    }

    fn level_at(&self, share: f64) -> NoiseLevel {
        match self {
            Self::Discrete(diffusion) => diffusion.schedule.level_at(share),
            Self::Continuous(diffusion) => diffusion.path.level_at(share),
        }
    }
}
