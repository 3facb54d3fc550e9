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
///
/// # Shapes
///
/// `x_0`, `x_t` and `eps` are `[B, ..]` with the channels second; there are `B` times; losses are `[B]`.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use ddpm_model::bound::Loss;
/// use ddpm_model::diffusion::Diffusion;
/// use ddpm_model::gaussian::GaussianDiffusion;
/// use ddpm_model::prediction::Prediction;
/// use ddpm_model::schedule::ScheduleConfig;
/// use ddpm_model::variance::Variance;
/// use ddpm_model::weighting::Weighting;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let schedule = ScheduleConfig::default().init()?;
/// let diffusion = Diffusion::from(GaussianDiffusion::new(schedule, Prediction::V, Variance::FixedSmall));
/// let noise = || Tensor::<2>::random([3, 2], Distribution::Normal(0.0, 1.0), &Device::default());
/// let (x_0, eps, times) = (noise(), noise(), [0.0, 500.0, 999.0]);
/// let network = |x_t: Tensor<2>, _t: Tensor<1>| x_t;
/// let losses = diffusion.row_losses(Loss::Mse, Weighting::default(), network, &x_0, &times, &eps);
/// assert_eq!(losses.dims(), [3]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub enum Diffusion {
    /// Discrete steps (Ho et al. 2020).
    Discrete(GaussianDiffusion),
    /// A path over the times between 0 and 1.
    Continuous(ContinuousDiffusion),
}

impl From<GaussianDiffusion> for Diffusion {
    fn from(diffusion: GaussianDiffusion) -> Self {
        Self::Discrete(diffusion)
    }
}

impl From<ContinuousDiffusion> for Diffusion {
    fn from(diffusion: ContinuousDiffusion) -> Self {
        Self::Continuous(diffusion)
    }
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
