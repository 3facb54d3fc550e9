//! Gaussian diffusion, one function for every step of the derivation.
//!
//! Equation numbers are those of Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models".
//! Everything works on tensors of any rank with the batch first and the channels (or coordinates) second.
//! `t` has one step per row, counted from 0, so that the paper's `x_1` is `t = 0` and its `x_0` is the data.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::denoiser::Denoised;
use crate::noise_level::{NoiseLevel, per_row};
use crate::prediction::{Prediction, v_from_x_0_and_eps, x_0_from_eps, x_0_from_v};
use crate::schedule::Schedule;
use crate::variance::{
    Variance, fixed_large_variance, fixed_small_log_variance, fixed_small_variance, learned_log_variance,
};

/// Clipping of a predicted `x_0` before it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clip {
    /// Nothing: data without bounds, such as points.
    None,
    /// Clamped to the interval from -1 to 1, where images live.
    #[default]
    Unit,
}

impl Clip {
    /// Applies the choice.
    pub fn apply<const D: usize>(self, x_0: Tensor<D>) -> Tensor<D> {
        match self {
            Self::None => x_0,
            Self::Unit => x_0.clamp(-1.0, 1.0),
        }
    }
}

/// A diagonal Gaussian. The variances may have singleton dimensions and broadcast against the mean.
#[derive(Clone, Debug)]
pub struct Moments<const D: usize> {
    /// The mean.
    pub mean: Tensor<D>,
    /// The variance.
    pub variance: Tensor<D>,
    /// The logarithm of the variance, kept finite where the variance is 0.
    pub log_variance: Tensor<D>,
}

/// The reverse step `p(x_{t-1} | x_t)` and the estimate of the data that it is computed from.
#[derive(Clone, Debug)]
pub struct ReverseStep<const D: usize> {
    /// The distribution of `x_{t-1}`.
    pub moments: Moments<D>,
    /// The estimate of the data, after clipping.
    pub x_0: Tensor<D>,
}

/// A schedule together with what the network predicts under it.
///
/// # Shapes
///
/// `x_0`, `x_t` and `eps` are `[B, ..]` with the channels second, `t` has `B` steps from 0, losses are `[B]`. A network with a
/// learned variance outputs twice the channels.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use ddpm_model::gaussian::GaussianDiffusion;
/// use ddpm_model::prediction::Prediction;
/// use ddpm_model::schedule::ScheduleConfig;
/// use ddpm_model::variance::Variance;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let diffusion =
///     GaussianDiffusion::new(ScheduleConfig::default().init()?, Prediction::Eps, Variance::FixedSmall);
/// let noise = || Tensor::<4>::random([2, 3, 8, 8], Distribution::Normal(0.0, 1.0), &Device::default());
/// let (x_0, eps, t) = (noise(), noise(), [10, 900]);
/// let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
///
/// // The loss of a network that always says 0 (Ho et al. 2020, eq. 14): the mean square of the noise.
/// let target = diffusion.target(&x_0, &x_t, &eps, &t);
/// let losses = diffusion.l_simple(x_t.zeros_like(), target);
/// assert_eq!(losses.dims(), [2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct GaussianDiffusion {
    /// How noise grows.
    pub schedule: Schedule,
    /// What the network outputs.
    pub prediction: Prediction,
    /// Where the variance of reverse steps comes from.
    pub variance: Variance,
    /// Whether the step is rescaled to a chain of a thousand steps for the network (Nichol & Dhariwal 2021).
    pub rescaled_times: bool,
}

impl GaussianDiffusion {
    /// Puts the three together.
    pub fn new(schedule: Schedule, prediction: Prediction, variance: Variance) -> Self {
        Self { schedule, prediction, variance, rescaled_times: false }
    }

    /// The network's time input at these steps, which may be fractional.
    pub fn network_times(&self, steps: &[f64]) -> Vec<f64> {
        let scale = if self.rescaled_times { 1000.0 / self.schedule.len() as f64 } else { 1.0 };
        steps.iter().map(|step| step * scale).collect()
    }

    /// Eq. 2, a draw of `q(x_t | x_{t-1})`: `x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps`.
    pub fn q_step<const D: usize>(&self, x_previous: Tensor<D>, t: &[usize], eps: Tensor<D>) -> Tensor<D> {
        let keep = self.rows(t, &x_previous, |t| (1.0 - self.schedule.betas[t]).sqrt());
        let add = self.rows(t, &x_previous, |t| self.schedule.betas[t].sqrt());
        keep * x_previous + add * eps
    }

    /// Eq. 4 by reparameterisation, a draw of `q(x_t | x_0)`: `x_t = alpha x_0 + sigma eps`.
    pub fn q_sample<const D: usize>(&self, x_0: Tensor<D>, t: &[usize], eps: Tensor<D>) -> Tensor<D> {
        let alpha = self.rows(t, &x_0, |t| self.schedule.level(t).alpha);
        let sigma = self.rows(t, &x_0, |t| self.schedule.level(t).sigma);
        alpha * x_0 + sigma * eps
    }

    /// Eq. 4, the moments of `q(x_t | x_0)`.
    pub fn q_mean_variance<const D: usize>(&self, x_0: Tensor<D>, t: &[usize]) -> Moments<D> {
        let variance = |t: usize| 1.0 - self.schedule.alphas_bar[t];
        Moments {
            variance: self.rows(t, &x_0, variance),
            log_variance: self.rows(t, &x_0, |t| variance(t).ln()),
            mean: self.rows(t, &x_0, |t| self.schedule.level(t).alpha) * x_0,
        }
    }

    /// Eq. 6 and 7, the moments of `q(x_{t-1} | x_t, x_0)`.
    pub fn q_posterior<const D: usize>(&self, x_0: Tensor<D>, x_t: Tensor<D>, t: &[usize]) -> Moments<D> {
        Moments {
            variance: self.rows(t, &x_0, |t| self.schedule.posterior_variance[t]),
            log_variance: self.rows(t, &x_0, |t| self.schedule.posterior_log_variance_clipped[t]),
            mean: self.posterior_mean(x_0, x_t, t),
        }
    }

    /// Eq. 7, the mean of `q(x_{t-1} | x_t, x_0)`.
    pub fn posterior_mean<const D: usize>(&self, x_0: Tensor<D>, x_t: Tensor<D>, t: &[usize]) -> Tensor<D> {
        let (coef1, coef2) = self.posterior_mean_coefs(t, &x_0);
        coef1 * x_0 + coef2 * x_t
    }

    /// Eq. 7 solved for `x_0`.
    pub fn x_0_from_posterior_mean<const D: usize>(&self, x_t: Tensor<D>, mean: Tensor<D>, t: &[usize]) -> Tensor<D> {
        let (coef1, coef2) = self.posterior_mean_coefs(t, &x_t);
        (mean - coef2 * x_t) / coef1
    }

    /// Eq. 11, the mean of a reverse step: `1 / sqrt(1 - beta_t) (x_t - beta_t / sigma eps)`.
    ///
    /// The same as eq. 7 of the `x_0` implied by `eps`, and more accurate where alpha is small.
    pub fn mean_from_eps<const D: usize>(&self, x_t: Tensor<D>, eps: Tensor<D>, t: &[usize]) -> Tensor<D> {
        let scale = self.rows(t, &x_t, |t| (1.0 - self.schedule.betas[t]).sqrt());
        let share = self.rows(t, &x_t, |t| self.schedule.betas[t] / self.schedule.level(t).sigma);
        (x_t - share * eps) / scale
    }

    /// The target of the network's output for these data, this noise and these steps.
    pub fn target<const D: usize>(&self, x_0: &Tensor<D>, x_t: &Tensor<D>, eps: &Tensor<D>, t: &[usize]) -> Tensor<D> {
        match self.prediction {
            Prediction::Eps => eps.clone(),
            Prediction::X0 => x_0.clone(),
            Prediction::PosteriorMean => self.posterior_mean(x_0.clone(), x_t.clone(), t),
            Prediction::V => v_from_x_0_and_eps(x_0.clone(), eps.clone(), &self.levels(t)),
        }
    }

    /// The two halves of a network's output: the prediction, and the variance logit where it is learned.
    pub fn split_output<const D: usize>(&self, output: Tensor<D>) -> (Tensor<D>, Option<Tensor<D>>) {
        match self.variance {
            Variance::FixedSmall | Variance::FixedLarge => (output, None),
            Variance::Learned => {
                let channels = output.dims()[1] / 2;
                let prediction = output.clone().narrow(1, 0, channels);
                (prediction, Some(output.narrow(1, channels, channels)))
            }
        }
    }

    /// Eq. 14 with the sum over pixels taken as a mean: the squared error of each row, shape `[B]`.
    pub fn l_simple<const D: usize>(&self, prediction: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
        mean_per_row((target - prediction).square())
    }

    /// The estimate of `x_0` from a prediction (the first half of the network's output).
    pub fn x_0_from_prediction<const D: usize>(&self, prediction: Tensor<D>, x_t: Tensor<D>, t: &[usize]) -> Tensor<D> {
        match self.prediction {
            Prediction::Eps => x_0_from_eps(x_t, prediction, &self.levels(t)),
            Prediction::X0 => prediction,
            Prediction::PosteriorMean => self.x_0_from_posterior_mean(x_t, prediction, t),
            Prediction::V => x_0_from_v(x_t, prediction, &self.levels(t)),
        }
    }

    /// Eq. 1, the reverse step `p(x_{t-1} | x_t)` that a network's output stands for.
    pub fn p_mean_variance<const D: usize>(
        &self,
        output: Tensor<D>,
        x_t: Tensor<D>,
        t: &[usize],
        clip: Clip,
    ) -> ReverseStep<D> {
        let (prediction, variance_logit) = self.split_output(output);
        self.reverse_step(prediction, variance_logit, x_t, t, clip)
    }

    /// [`GaussianDiffusion::p_mean_variance`] from the two halves of the output.
    pub fn reverse_step<const D: usize>(
        &self,
        prediction: Tensor<D>,
        variance_logit: Option<Tensor<D>>,
        x_t: Tensor<D>,
        t: &[usize],
        clip: Clip,
    ) -> ReverseStep<D> {
        let (variance, log_variance) = self.p_variance(variance_logit, &x_t, t);
        let x_0 = clip.apply(self.x_0_from_prediction(prediction.clone(), x_t.clone(), t));
        let mean = match self.prediction {
            // Used as it is: recomputing it from x_0 would divide by a coefficient and multiply it back.
            Prediction::PosteriorMean => prediction,
            Prediction::Eps | Prediction::X0 | Prediction::V => self.posterior_mean(x_0.clone(), x_t, t),
        };
        ReverseStep { moments: Moments { mean, variance, log_variance }, x_0 }
    }

    /// The variance of a reverse step and its logarithm, shaped to broadcast against `like`.
    ///
    /// Learned variance without a logit (from a denoiser that has none) is treated as fixed-large.
    pub fn p_variance<const D: usize>(
        &self,
        variance_logit: Option<Tensor<D>>,
        like: &Tensor<D>,
        t: &[usize],
    ) -> (Tensor<D>, Tensor<D>) {
        let schedule = &self.schedule;
        match (self.variance, variance_logit) {
            (Variance::Learned, Some(logit)) => {
                let log_variance = learned_log_variance(schedule, t, logit);
                (log_variance.clone().exp(), log_variance)
            }
            (Variance::FixedSmall, _) => (
                self.rows(t, like, |t| fixed_small_variance(schedule, t)),
                self.rows(t, like, |t| fixed_small_log_variance(schedule, t)),
            ),
            (Variance::FixedLarge, _) | (Variance::Learned, None) => (
                self.rows(t, like, |t| fixed_large_variance(schedule, t)),
                self.rows(t, like, |t| fixed_large_variance(schedule, t).ln()),
            ),
        }
    }

    /// The estimate of the data from a network's output at one noise level that all rows share.
    ///
    /// The posterior mean is defined between two steps: at a level between steps the nearest step is used.
    pub fn denoised<const D: usize>(&self, output: Tensor<D>, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        let (prediction, variance_logit) = self.split_output(output);
        let x_t = x_t.clone();
        let x_0 = match self.prediction {
            Prediction::Eps => x_0_from_eps(x_t, prediction, &[level]),
            Prediction::X0 => prediction,
            Prediction::PosteriorMean => {
                let t = self.schedule.time_of(level).round() as usize;
                self.x_0_from_posterior_mean(x_t, prediction, &[t])
            }
            Prediction::V => x_0_from_v(x_t, prediction, &[level]),
        };
        Denoised { x_0, variance_logit }
    }

    /// The noise levels of the steps.
    pub fn levels(&self, t: &[usize]) -> Vec<NoiseLevel> {
        t.iter().map(|&t| self.schedule.level(t)).collect()
    }

    fn posterior_mean_coefs<const D: usize>(&self, t: &[usize], like: &Tensor<D>) -> (Tensor<D>, Tensor<D>) {
        (
            self.rows(t, like, |t| self.schedule.posterior_mean_coef1[t]),
            self.rows(t, like, |t| self.schedule.posterior_mean_coef2[t]),
        )
    }

    /// A coefficient per row's step, shaped to broadcast against `like`.
    fn rows<const D: usize>(&self, t: &[usize], like: &Tensor<D>, coefficient: impl Fn(usize) -> f64) -> Tensor<D> {
        let values: Vec<f64> = t.iter().map(|&t| coefficient(t)).collect();
        per_row(&values, like)
    }
}

/// The mean over everything but the batch, shape `[B]`.
pub fn mean_per_row<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let rows = x.dims()[0];
    let columns = x.dims().iter().skip(1).product::<usize>();
    x.reshape([rows, columns]).mean_dim(1).reshape([rows])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::schedule::ScheduleConfig;
    use burn::tensor::{DType, Device, TensorData};

    fn diffusion(prediction: Prediction, variance: Variance) -> GaussianDiffusion {
        let schedule = ScheduleConfig::LinearRescaled { steps: 100 };
        GaussianDiffusion::new(schedule.init().unwrap(), prediction, variance)
    }

    fn tensor<const D: usize>(shape: [usize; D], dtype: DType, seed: f64) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| (seed + 1.7 * i as f64).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), dtype))
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn assert_near<const D: usize>(found: Tensor<D>, wanted: Tensor<D>) {
        let off = (found - wanted).abs().max().into_scalar::<f64>();
        assert!(off < 1e-10, "off by {off:e}");
    }

    #[test]
    fn posterior_is_bayes_rule() {
        let d = diffusion(Prediction::Eps, Variance::FixedSmall);
        for t in [1, 2, 50, 99] {
            let (x_0, x_t) = (0.4, -1.3);
            let single = |x: f64| Tensor::<2>::from_data(TensorData::from([[x]]), (&Device::flex(), DType::F64));
            let q = d.q_posterior(single(x_0), single(x_t), &[t]);

            // q(x_{t-1} | x_0) times q(x_t | x_{t-1}), completed to a square.
            let (beta, before) = (d.schedule.betas[t], d.schedule.alphas_bar[t - 1]);
            let precision = 1.0 / (1.0 - before) + (1.0 - beta) / beta;
            let mean = (before.sqrt() * x_0 / (1.0 - before) + (1.0 - beta).sqrt() * x_t / beta) / precision;
            assert!((q.mean.into_scalar::<f64>() - mean).abs() < 1e-12);
            assert!((q.variance.into_scalar::<f64>() * precision - 1.0).abs() < 1e-11);
        }
    }

    #[test]
    fn steps_compose_to_the_marginal() {
        let d = diffusion(Prediction::Eps, Variance::FixedSmall);
        let x_0 = tensor([2, 3], DType::F64, 0.0);
        let none = x_0.zeros_like();
        let (mut x_t, mut variance) = (x_0.clone(), 0.0);
        for t in 0..d.schedule.len() {
            let t = [t; 2];
            x_t = d.q_step(x_t, &t, none.clone());
            let kept = d.q_step(none.ones_like(), &t, none.clone());
            let added = d.q_step(none.clone(), &t, none.ones_like());
            let (kept, added) = (values(kept)[0], values(added)[0]);
            variance = kept * kept * variance + added * added;

            let q = d.q_mean_variance(x_0.clone(), &t);
            assert_near(x_t.clone(), q.mean);
            assert!((variance - values(q.variance)[0]).abs() < 1e-12);
            // The reparameterized draw has these moments: zero noise yields the mean, noise alone the deviation.
            assert_near(d.q_sample(x_0.clone(), &t, none.clone()), x_t.clone());
            let deviation = values(d.q_sample(none.clone(), &t, none.ones_like()))[0];
            assert!((deviation * deviation - variance).abs() < 1e-12);
        }
    }

    #[test]
    fn mean_from_eps_is_the_posterior_mean_of_its_x_0() {
        let d = diffusion(Prediction::Eps, Variance::FixedSmall);
        let t = [0, 1, 40, 99];
        let (x_t, eps) = (tensor([4, 3], DType::F64, 0.1), tensor([4, 3], DType::F64, 0.2));
        let x_0 = x_0_from_eps(x_t.clone(), eps.clone(), &d.levels(&t));
        let wanted = d.posterior_mean(x_0.clone(), x_t.clone(), &t);
        assert_near(d.mean_from_eps(x_t.clone(), eps, &t), wanted.clone());
        assert_near(d.x_0_from_posterior_mean(x_t, wanted, &t), x_0);
    }

    #[test]
    fn the_target_of_every_prediction_leads_back_to_the_data() {
        let t = [0, 1, 40, 99];
        let (x_0, eps) = (tensor([4, 2, 3], DType::F64, 0.3), tensor([4, 2, 3], DType::F64, 0.4));
        for prediction in [Prediction::Eps, Prediction::X0, Prediction::PosteriorMean, Prediction::V] {
            let d = diffusion(prediction, Variance::FixedLarge);
            let x_t = d.q_sample(x_0.clone(), &t, eps.clone());
            let target = d.target(&x_0, &x_t, &eps, &t);
            let step = d.p_mean_variance(target.clone(), x_t.clone(), &t, Clip::None);
            assert_near(step.x_0, x_0.clone());
            assert_near(step.moments.mean, d.posterior_mean(x_0.clone(), x_t, &t));
            assert_eq!(values(d.l_simple(target.clone(), target)), [0.0; 4]);
        }
    }

    #[test]
    fn rank_and_rows_do_not_matter() {
        let d = diffusion(Prediction::V, Variance::Learned);
        let t = [3, 77];
        for dtype in [DType::F32, DType::F64] {
            let x_0: Tensor<2> = tensor([2, 6], dtype, 0.5);
            let eps: Tensor<2> = tensor([2, 6], dtype, 0.6);
            let output: Tensor<2> = tensor([2, 12], dtype, 0.7);
            let deep = |x: &Tensor<2>, channels: usize| x.clone().reshape([2, channels, 3, 1]);

            let flat_x_t = d.q_sample(x_0.clone(), &t, eps.clone());
            let flat = d.p_mean_variance(output.clone(), flat_x_t.clone(), &t, Clip::Unit);
            let deep_x_t = d.q_sample(deep(&x_0, 2), &t, deep(&eps, 2));
            let step = d.p_mean_variance(deep(&output, 4), deep_x_t.clone(), &t, Clip::Unit);
            assert_eq!(values(flat_x_t.clone()), values(deep_x_t.clone()));
            assert_eq!(values(flat.moments.mean), values(step.moments.mean.clone()));
            assert_eq!(values(flat.moments.log_variance), values(step.moments.log_variance));

            // A row alone has the values it has in a batch.
            let row = |x: &Tensor<4>| x.clone().narrow(0, 1, 1);
            let alone = d.p_mean_variance(row(&deep(&output, 4)), row(&deep_x_t), &t[1..], Clip::Unit);
            assert_eq!(values(alone.moments.mean), values(row(&step.moments.mean)));
        }
    }

    #[test]
    fn clipping_is_a_choice() {
        let x = tensor([1, 5], DType::F32, 0.0) * 3.0;
        assert_eq!(values(Clip::None.apply(x.clone())), values(x.clone()));
        assert!(values(Clip::Unit.apply(x)).iter().all(|value| value.abs() <= 1.0));
    }
}
