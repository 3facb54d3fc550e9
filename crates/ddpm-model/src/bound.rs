//! The variational bound on the negative log-likelihood, in bits per dimension, and the losses built from it.
//!
//! Eq. 5 of Ho et al. 2020: `L = L_T + sum over t of L_{t-1} + L_0`. The decoder of `L_0` (eq. 13) takes data
//! to be 8-bit values scaled to the interval from -1 to 1, so the figures mean something for images only.

use std::f64::consts::{FRAC_2_PI, LN_2};

use burn::tensor::activation::sigmoid;
use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use crate::gaussian::{Clip, GaussianDiffusion, ReverseStep, mean_per_row};
use crate::noise_level::per_row;
use crate::prediction::eps_from_x_0;
use crate::variance::Variance;

/// What a training step minimizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// `L_simple`; with learned variance the term of the variational bound is added, to train the variance.
    #[default]
    Mse,
    /// The same with the term of the bound times `T / 1000`: `L_hybrid` (Nichol & Dhariwal 2021).
    RescaledMse,
    /// The term of the variational bound.
    Kl,
    /// The term of the bound times `T`: an unbiased estimate of the whole bound but for its constant `L_T`.
    RescaledKl,
}

/// A loss and its parts, one value per row, each of shape `[B]`.
#[derive(Clone, Debug)]
pub struct LossTerms {
    /// What is minimized.
    pub loss: Tensor<1>,
    /// The squared error, where it is a part of the loss.
    pub mse: Option<Tensor<1>>,
    /// The term of the bound in bits per dimension (rescaled as in the loss), where it is a part.
    pub vb: Option<Tensor<1>>,
}

/// The bound of a batch, term by term. Columns of `[B, T]` are steps, so column `t` is `L_t` and column 0 `L_0`.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The whole bound in bits per dimension, `[B]`.
    pub total_bpd: Tensor<1>,
    /// `L_T` in bits per dimension, `[B]`.
    pub prior_bpd: Tensor<1>,
    /// The terms below `L_T` in bits per dimension, `[B, T]`.
    pub terms_bpd: Tensor<2>,
    /// Squared error of the estimate of the data, `[B, T]`.
    pub x_0_mse: Tensor<2>,
    /// Squared error of the noise implied by that estimate, `[B, T]`.
    pub eps_mse: Tensor<2>,
}

impl GaussianDiffusion {
    /// `L_T` of eq. 5, the divergence of `q(x_T | x_0)` from the standard normal: bits per dimension, `[B]`.
    pub fn prior_bpd<const D: usize>(&self, x_0: &Tensor<D>) -> Tensor<1> {
        let last = self.schedule.len() - 1;
        let alpha_bar = self.schedule.alphas_bar[last];
        // KL(N(m, v) || N(0, 1)) = (m^2 + v - 1 - ln v) / 2. With v = 1 - alpha_bar the last three are
        // a tiny difference of numbers near 1, which f32 cannot represent: they stay on the host.
        let of_variance = -alpha_bar - (-alpha_bar).ln_1p();
        let of_mean = mean_per_row(x_0.clone().square()) * alpha_bar;
        (of_mean + of_variance) * (0.5 / LN_2)
    }

    /// `L_{t-1}` of eq. 5 for rows with `t > 0`, `L_0` (eq. 13) for rows with `t = 0`: bits per dimension, `[B]`.
    pub fn vb_term_bpd<const D: usize>(
        &self,
        step: &ReverseStep<D>,
        x_0: &Tensor<D>,
        x_t: &Tensor<D>,
        t: &[usize],
    ) -> Tensor<1> {
        let p = step.moments.clone();
        let decoder = |p_log_variance: Tensor<D>| {
            let log_likelihood = discretized_gaussian_log_likelihood(x_0.clone(), p.mean.clone(), p_log_variance * 0.5);
            mean_per_row(log_likelihood) * (-1.0 / LN_2)
        };
        let divergence = |p_log_variance: Tensor<D>| {
            let q = self.q_posterior(x_0.clone(), x_t.clone(), t);
            let kl = normal_kl(q.mean, q.log_variance, p.mean.clone(), p_log_variance);
            mean_per_row(kl) * (1.0 / LN_2)
        };
        let first = t.iter().filter(|&&t| t == 0).count();
        if first == 0 {
            return divergence(p.log_variance);
        }
        if first == t.len() {
            return decoder(p.log_variance);
        }
        let is_first: Vec<f64> = t.iter().map(|&t| f64::from(u8::from(t == 0))).collect();
        let kl = divergence(p.log_variance.clone());
        let is_first: Tensor<1, Bool> = per_row(&is_first, &kl).greater_elem(0.5);
        kl.mask_where(is_first, decoder(p.log_variance))
    }

    /// The whole bound of eq. 5, which evaluates the network at every step from the noisiest to the cleanest.
    ///
    /// `noise(t)` returns the standard normal draw of a step, in the shape of `x_0`; `network(x_t, t)` the
    /// output for steps that are the same in all rows.
    pub fn bound<const D: usize>(
        &self,
        x_0: &Tensor<D>,
        clip: Clip,
        mut noise: impl FnMut(usize) -> Tensor<D>,
        mut network: impl FnMut(Tensor<D>, &[usize]) -> Tensor<D>,
    ) -> Bound {
        let rows = x_0.dims()[0];
        let (mut terms, mut x_0_mse, mut eps_mse) = (Vec::new(), Vec::new(), Vec::new());
        for t in (0..self.schedule.len()).rev() {
            let t = vec![t; rows];
            let eps = noise(t[0]);
            let x_t = self.q_sample(x_0.clone(), &t, eps.clone());
            let output = network(x_t.clone(), &t);
            let step = self.p_mean_variance(output, x_t.clone(), &t, clip);
            terms.push(self.vb_term_bpd(&step, x_0, &x_t, &t));
            let eps_found = eps_from_x_0(x_t, step.x_0.clone(), &self.levels(&t));
            x_0_mse.push(mean_per_row((step.x_0 - x_0.clone()).square()));
            eps_mse.push(mean_per_row((eps_found - eps).square()));
        }
        let columns = |mut noisiest_first: Vec<Tensor<1>>| {
            noisiest_first.reverse();
            Tensor::stack::<2>(noisiest_first, 1)
        };
        let terms_bpd = columns(terms);
        let prior_bpd = self.prior_bpd(x_0);
        Bound {
            total_bpd: terms_bpd.clone().sum_dim(1).reshape([rows]) + prior_bpd.clone(),
            prior_bpd,
            terms_bpd,
            x_0_mse: columns(x_0_mse),
            eps_mse: columns(eps_mse),
        }
    }

    /// The loss of each row, given the network's output at `x_t = q_sample(x_0, t, eps)`.
    pub fn loss<const D: usize>(
        &self,
        loss: Loss,
        output: Tensor<D>,
        x_0: &Tensor<D>,
        x_t: &Tensor<D>,
        eps: &Tensor<D>,
        t: &[usize],
    ) -> LossTerms {
        let steps = self.schedule.len() as f64;
        let vb_scale = match loss {
            Loss::Mse | Loss::Kl => 1.0,
            Loss::RescaledMse => steps / 1000.0,
            Loss::RescaledKl => steps,
        };
        let (prediction, variance_logit) = self.split_output(output);
        let vb = |prediction: Tensor<D>| {
            let step = self.reverse_step(prediction, variance_logit, x_t.clone(), t, Clip::None);
            self.vb_term_bpd(&step, x_0, x_t, t) * vb_scale
        };
        match loss {
            Loss::Kl | Loss::RescaledKl => {
                let vb = vb(prediction);
                LossTerms { loss: vb.clone(), mse: None, vb: Some(vb) }
            }
            Loss::Mse | Loss::RescaledMse => {
                // Section 3.1 of Nichol & Dhariwal 2021: the bound trains the variance but not the mean.
                let vb = (self.variance == Variance::Learned).then(|| vb(prediction.clone().detach()));
                let target = self.target(x_0, x_t, eps, t);
                let mse = self.l_simple(prediction, target);
                LossTerms {
                    loss: match &vb {
                        Some(vb) => mse.clone() + vb.clone(),
                        None => mse.clone(),
                    },
                    mse: Some(mse),
                    vb,
                }
            }
        }
    }
}

/// `KL(N(mean1, e^log_variance1) || N(mean2, e^log_variance2))` in nats, entry by entry.
pub fn normal_kl<const D: usize>(
    mean1: Tensor<D>,
    log_variance1: Tensor<D>,
    mean2: Tensor<D>,
    log_variance2: Tensor<D>,
) -> Tensor<D> {
    let log_ratio = log_variance1 - log_variance2.clone();
    let distance = (mean1 - mean2).square() * log_variance2.neg().exp();
    (log_ratio.clone().exp() - log_ratio - 1.0 + distance) * 0.5
}

/// Eq. 13, the log-probability in nats of the 8-bit value `x` under a Gaussian integrated over its bin.
///
/// The outermost bins reach to infinity. Probabilities are floored at 1e-12.
pub fn discretized_gaussian_log_likelihood<const D: usize>(
    x: Tensor<D>,
    mean: Tensor<D>,
    log_scale: Tensor<D>,
) -> Tensor<D> {
    let half_bin = 1.0 / 255.0;
    let inverse_scale = log_scale.neg().exp();
    let centred = x.clone() - mean;
    let below_upper_edge = normal_cdf(inverse_scale.clone() * (centred.clone() + half_bin));
    let above_lower_edge = normal_cdf(inverse_scale.clone() * (centred.clone().neg() + half_bin));
    // The bin is mirrored into the lower tail, where the two probabilities are small: in the upper tail
    // they are both near 1 and f32 loses their difference.
    let mirrored = centred.abs().neg();
    let inside = normal_cdf(inverse_scale.clone() * (mirrored.clone() + half_bin))
        - normal_cdf(inverse_scale * (mirrored - half_bin));
    let probability = inside
        .mask_where(x.clone().lower_elem(-0.999), below_upper_edge)
        .mask_where(x.greater_elem(0.999), above_lower_edge);
    probability.clamp_min(1e-12).log()
}

/// The tanh approximation of the standard normal distribution function, as in the published figures.
///
/// `(1 + tanh z) / 2` is written as `sigmoid(2z)`, which keeps its digits in the lower tail.
fn normal_cdf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cubic = x.clone() + x.powi_scalar(3) * 0.044715;
    sigmoid(cubic * (2.0 * FRAC_2_PI.sqrt()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::prediction::Prediction;
    use crate::schedule::ScheduleConfig;
    use burn::tensor::{DType, Device, TensorData};

    fn tensor<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex(), dtype))
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// Standard normal draws by SplitMix64 and Box-Muller, enough for a test.
    fn normals(seed: u64, count: usize) -> Vec<f64> {
        let uniform = |index: u64| {
            let mut z = (seed << 32 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..count as u64)
            .map(|i| {
                let radius = (-2.0 * (1.0 - uniform(2 * i)).ln()).sqrt();
                radius * (std::f64::consts::TAU * uniform(2 * i + 1)).cos()
            })
            .collect()
    }

    #[test]
    fn the_bins_of_the_decoder_cover_everything() {
        let bins: Vec<f64> = (0..256).map(|i| 2.0 * f64::from(i) / 255.0 - 1.0).collect();
        for (centre, log_scale) in [(0.0, -2.0), (0.9, -1.0), (-0.3, 0.5)] {
            let log_likelihood = discretized_gaussian_log_likelihood(
                tensor(&bins, [1, 256], DType::F64),
                tensor(&[centre], [1, 1], DType::F64),
                tensor(&[log_scale], [1, 1], DType::F64),
            );
            let total = log_likelihood.exp().sum().into_scalar::<f64>();
            assert!((total - 1.0).abs() < 1e-9, "{total}");
        }
    }

    #[test]
    fn both_tails_of_the_decoder_are_equally_accurate_in_f32() {
        for x in [0.2, 1.0] {
            let at = |x: f64, dtype| {
                let one = |value: f64| tensor(&[value], [1, 1], dtype);
                discretized_gaussian_log_likelihood(one(x), one(0.0), one(-3.5)).into_scalar::<f64>()
            };
            let exact = at(x, DType::F64);
            assert!((at(-x, DType::F64) - exact).abs() < 1e-12 * exact.abs());
            assert!((at(-x, DType::F32) - exact).abs() < 1e-5 * exact.abs());
            assert!((at(x, DType::F32) - exact).abs() < 1e-5 * exact.abs());
        }
    }

    #[test]
    fn exact_denoiser_of_a_gaussian_reaches_its_entropy() {
        let (rows, columns) = (128, 256);
        let deviation = 0.25f64;
        let schedule = ScheduleConfig::LinearRescaled { steps: 200 }.init().unwrap();
        let diffusion = GaussianDiffusion::new(schedule, Prediction::X0, Variance::Learned);
        let draw = |seed: u64| normals(seed, rows * columns);
        // 8-bit data.
        let x_0: Vec<f64> = draw(1_000_000)
            .into_iter()
            .map(|z| (((deviation * z).clamp(-1.0, 1.0) + 1.0) * 127.5).round() / 127.5 - 1.0)
            .collect();
        let x_0 = tensor(&x_0, [rows, columns], DType::F32);
        let bound = diffusion.bound(
            &x_0,
            Clip::None,
            |t| tensor(&draw(t as u64), [rows, columns], DType::F32),
            |x_t, t| {
                // Data N(0, power) have a Gaussian reverse step: with its mean and variance the bound is tight.
                let (tables, t) = (&diffusion.schedule, t[0]);
                let (level, power) = (tables.level(t), deviation * deviation);
                let total = level.alpha.powi(2) * power + level.sigma.powi(2);
                let x_0 = x_t * (level.alpha * power / total);
                let variance_of_x_0 = power * level.sigma.powi(2) / total;
                let variance = tables.posterior_variance[t] + tables.posterior_mean_coef1[t].powi(2) * variance_of_x_0;
                let smallest = tables.posterior_log_variance_clipped[t];
                let f = (variance.ln() - smallest) / (tables.betas[t].ln() - smallest);
                let logit = x_0.full_like(2.0 * f - 1.0);
                Tensor::cat(vec![x_0, logit], 1)
            },
        );
        let found = mean(&values(bound.total_bpd));

        let centre = tensor(&[0.0], [1, 1], DType::F32);
        let log_scale = tensor(&[deviation.ln()], [1, 1], DType::F32);
        let exact = discretized_gaussian_log_likelihood(x_0, centre, log_scale);
        let exact = -mean(&values(exact)) / LN_2;
        let tau_e = std::f64::consts::TAU * std::f64::consts::E;
        let entropy = (0.5 * (tau_e * deviation * deviation).ln() - (2.0 / 255.0f64).ln()) / LN_2;
        assert!((exact - entropy).abs() < 0.03, "{exact} {entropy}");
        assert!((found - exact).abs() < 0.03, "{found} {exact}");
    }

    #[test]
    fn a_term_does_not_depend_on_the_other_rows() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let diffusion = GaussianDiffusion::new(schedule, Prediction::Eps, Variance::FixedLarge);
        let shape = [3, 4];
        let [x_0, eps, output] = [1, 2, 3].map(|seed| tensor(&normals(seed, 12), shape, DType::F64));
        let term = |rows: std::ops::Range<usize>, t: &[usize]| {
            let cut = |x: &Tensor<2>| x.clone().narrow(0, rows.start, rows.len());
            let (x_0, eps, output) = (cut(&x_0), cut(&eps), cut(&output));
            let x_t = diffusion.q_sample(x_0.clone(), t, eps);
            let step = diffusion.p_mean_variance(output, x_t.clone(), t, Clip::Unit);
            values(diffusion.vb_term_bpd(&step, &x_0, &x_t, t))
        };
        let together = term(0..3, &[0, 500, 0]);
        let apart = [term(0..1, &[0]), term(1..2, &[500]), term(2..3, &[0])].concat();
        assert_eq!(together, apart);
    }

    #[test]
    fn the_bound_in_the_hybrid_loss_trains_the_variance_alone() {
        let device = Device::flex().autodiff();
        let schedule = ScheduleConfig::default().init().unwrap();
        let diffusion = GaussianDiffusion::new(schedule, Prediction::Eps, Variance::Learned);
        let on_device = |seed: u64, columns: usize| {
            let data = TensorData::new(normals(seed, 3 * columns), [3, columns]);
            Tensor::<2>::from_data(data, (&device, DType::F64))
        };
        let (x_0, eps) = (on_device(1, 2), on_device(2, 2));
        let output = on_device(3, 4).require_grad();
        let t = [0, 1, 600];
        let x_t = diffusion.q_sample(x_0.clone(), &t, eps.clone());
        let terms = diffusion.loss(Loss::RescaledMse, output.clone(), &x_0, &x_t, &eps, &t);
        let gradients = terms.loss.sum().backward();
        let gradient = output.grad(&gradients).unwrap();

        // d/d(output) of the mean of (output - eps)^2 over two columns
        let wanted = output.inner().narrow(1, 0, 2) - eps.inner();
        let off = (gradient.clone().narrow(1, 0, 2) - wanted).abs().max();
        assert!(off.into_scalar::<f64>() < 1e-12);
        let of_variance = values(gradient.narrow(1, 2, 2));
        assert!(of_variance.iter().all(|g| g.is_finite() && *g != 0.0), "{of_variance:?}");
    }
}
