//! The interface of samplers and guidance: noisy data in, an estimate of the clean data out.

use std::cell::RefCell;

use burn::tensor::{DType, Tensor, TensorData};

use crate::diffusion::Diffusion;
use crate::gaussian::GaussianDiffusion;
use crate::noise_level::NoiseLevel;
use crate::prediction::eps_from_x_0;

/// Estimates the clean data at one noise level, which all rows share.
///
/// # Shapes
///
/// `x_t` and the estimate: `[B, ..]`, the same.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use ddpm_model::denoiser::{Denoised, Denoiser};
/// use ddpm_model::noise_level::NoiseLevel;
///
/// /// The exact denoiser of standard normal data: the mean of x_0 given x_t is alpha x_t.
/// struct StandardNormal;
///
/// impl<const D: usize> Denoiser<D> for StandardNormal {
///     fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
///         Denoised { x_0: x_t.clone() * level.alpha, variance_logit: None }
///     }
/// }
///
/// let (x_t, level) = (Tensor::<2>::ones([3, 2], &Device::default()), NoiseLevel { alpha: 0.8, sigma: 0.6 });
/// let denoised = StandardNormal.denoise(&x_t, level);
/// // The noise that goes with the estimate: (x_t - alpha x_0) / sigma = sigma x_t.
/// let off = (denoised.eps(&x_t, level) - x_t * 0.6).abs().max();
/// assert!(off.into_scalar::<f32>() < 1e-6);
/// ```
pub trait Denoiser<const D: usize> {
    /// The estimate for `x_t = alpha x_0 + sigma eps` at `level`.
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D>;
}

/// The output of a denoiser.
#[derive(Clone, Debug)]
pub struct Denoised<const D: usize> {
    /// The estimate of the clean data, not clipped: clipping is the sampler's choice.
    pub x_0: Tensor<D>,
    /// The network's output for the variance of the reverse step, where that is learned.
    pub variance_logit: Option<Tensor<D>>,
}

impl<const D: usize> Denoised<D> {
    /// The noise implied by the estimate of the data.
    pub fn eps(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Tensor<D> {
        eps_from_x_0(x_t.clone(), self.x_0.clone(), &[level])
    }
}

/// A network of integer steps as a [`Denoiser`].
///
/// `network(x_t, t)` gets the step of every row as a float, and holds its own condition. Levels between two entries of the
/// schedule are evaluated at a fractional step.
///
/// The estimate of x_0 is not clipped. From a prediction of eps it is `(x_t - sigma eps) / alpha`: where alpha is nearly 0,
/// as at the last steps of a cosine schedule, a small error of eps is a large one of x_0. Clip it (`Clipped` among the
/// samplers of ddpm-infer) where data lie in [-1, 1], or predict v or x_0.
///
/// # Shapes
///
/// `x_t` is `[B, ..]`, `t` is `[B]`; the output is that of `x_t`, with twice the channels for a learned variance.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use ddpm_model::denoiser::{Denoiser, DiscreteDenoiser};
/// use ddpm_model::gaussian::GaussianDiffusion;
/// use ddpm_model::prediction::Prediction;
/// use ddpm_model::schedule::ScheduleConfig;
/// use ddpm_model::variance::Variance;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let diffusion =
///     GaussianDiffusion::new(ScheduleConfig::default().init()?, Prediction::Eps, Variance::FixedSmall);
/// // Any function or module of your own; this one takes all of x_t for noise.
/// let network = |x_t: Tensor<2>, _t: Tensor<1>| x_t;
/// let denoiser = DiscreteDenoiser::new(network, &diffusion);
/// let x_t = Tensor::<2>::ones([3, 2], &Device::default());
/// assert_eq!(denoiser.denoise(&x_t, diffusion.schedule.level(500)).x_0.dims(), [3, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DiscreteDenoiser<'a, F> {
    network: F,
    diffusion: &'a GaussianDiffusion,
}

impl<'a, F> DiscreteDenoiser<'a, F> {
    /// Wraps a network that was trained under `diffusion`.
    pub fn new(network: F, diffusion: &'a GaussianDiffusion) -> Self {
        Self { network, diffusion }
    }
}

impl<const D: usize, F> Denoiser<D> for DiscreteDenoiser<'_, F>
where
    F: Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
{
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let time = self.diffusion.schedule.time_of(level);
        let times = time_tensor(&self.diffusion.network_times(&vec![time; x_t.dims()[0]]), x_t);
        let output = (self.network)(x_t.clone(), times);
        self.diffusion.denoised(output, x_t, level)
    }
}

/// The network of a trained model as a [`Denoiser`], whatever it was trained for.
///
/// `network(x_t, t)` is as for [`DiscreteDenoiser`]; for a self-conditioned one the estimate is concatenated to `x_t`.
#[derive(Debug)]
pub struct NetworkDenoiser<'a, const D: usize, F> {
    network: F,
    diffusion: &'a Diffusion,
    estimate: Estimate<D>,
}

/// Which estimate of the data a network is conditioned on (Chen et al. 2023, "self-conditioning").
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per denoiser, of which there are few
pub enum Estimate<const D: usize> {
    /// None: the network is not self-conditioned.
    Unused,
    /// Zeros, as at the start of sampling: the output then depends on `x_t` alone.
    Blank,
    /// The last estimate, zeros at first.
    Last(RefCell<Option<Tensor<D>>>),
}

impl<const D: usize> Estimate<D> {
    /// The network's input for `x`.
    fn input(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Unused => x,
            Self::Blank => concat_estimate(x, None),
            Self::Last(last) => concat_estimate(x, last.borrow().clone()),
        }
    }
}

/// The input of a self-conditioned network: `x` and the estimate (zeros for `None`), concatenated along the channels.
pub fn concat_estimate<const D: usize>(x: Tensor<D>, estimate: Option<Tensor<D>>) -> Tensor<D> {
    let estimate = estimate.unwrap_or_else(|| x.zeros_like());
    Tensor::cat(vec![x, estimate], 1)
}

impl<'a, const D: usize, F> NetworkDenoiser<'a, D, F> {
    /// Wraps a network that was trained under `diffusion`.
    pub fn new(network: F, diffusion: &'a Diffusion, estimate: Estimate<D>) -> Self {
        Self { network, diffusion, estimate }
    }
}

impl<const D: usize, F> Denoiser<D> for NetworkDenoiser<'_, D, F>
where
    F: Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
{
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let network = |x: Tensor<D>, t: Tensor<1>| (self.network)(self.estimate.input(x), t);
        let denoised = self.diffusion.denoise(network, x_t, level);
        if let Estimate::Last(last) = &self.estimate {
            last.replace(Some(denoised.x_0.clone()));
        }
        denoised
    }
}

/// Times (steps, possibly fractional) as the `[B]` tensor that networks take, on the device of `like`.
///
/// At least `f32` whatever the dtype of the data: in half precision steps 999 and 1000 are the same.
pub fn time_tensor<const D: usize>(times: &[f64], like: &Tensor<D>) -> Tensor<1> {
    let dtype = match like.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    let data = TensorData::new(times.to_vec(), [times.len()]);
    Tensor::from_data(data, (&like.device(), dtype))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::prediction::Prediction;
    use crate::schedule::ScheduleConfig;
    use crate::variance::Variance;
    use burn::tensor::Device;

    #[test]
    fn a_perfect_network_returns_the_data_whatever_it_predicts() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let tensor =
            |values: [[f64; 2]; 3]| Tensor::<2>::from_data(TensorData::from(values), (&Device::flex(), DType::F64));
        let x_0 = tensor([[0.1, -0.7], [1.0, 0.4], [-0.2, 0.0]]);
        let eps = tensor([[1.1, -0.3], [0.5, -2.0], [0.9, 0.2]]);
        for prediction in [Prediction::Eps, Prediction::X0, Prediction::PosteriorMean, Prediction::V] {
            for step in [0, 1, 500, 999] {
                let diffusion = GaussianDiffusion::new(schedule.clone(), prediction, Variance::Learned);
                let t = [step; 3];
                let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
                let target = diffusion.target(&x_0, &x_t, &eps, &t);
                let network = |_: Tensor<2>, times: Tensor<1>| {
                    let times: Vec<f64> = times.into_data().iter::<f64>().collect();
                    assert_eq!(times, [step as f64; 3]);
                    Tensor::cat(vec![target.clone(), x_0.clone()], 1)
                };
                let level = diffusion.schedule.level(step);
                let denoised = DiscreteDenoiser::new(network, &diffusion).denoise(&x_t, level);

                let off =
                    |found: Tensor<2>, wanted: &Tensor<2>| (found - wanted.clone()).abs().max().into_scalar::<f64>();
                assert!(off(denoised.eps(&x_t, level), &eps) < 1e-9, "{prediction:?} {step}");
                assert!(off(denoised.x_0, &x_0) < 1e-9, "{prediction:?} {step}");
                assert_eq!(off(denoised.variance_logit.unwrap(), &x_0), 0.0);
            }
        }
    }

    #[test]
    fn half_precision_data_get_times_in_f32() {
        let x = Tensor::<2>::zeros([1, 2], (&Device::flex(), DType::BF16));
        let times = time_tensor(&[999.0], &x);
        assert_eq!(times.dtype(), DType::F32);
        assert_eq!(times.into_scalar::<f32>(), 999.0);
    }
}
