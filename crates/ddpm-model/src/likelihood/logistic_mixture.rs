//! The discretized mixture of logistics of PixelCNN++ (Salimans et al. 2017), as VDVAE (Child 2021) has it.
//!
//! A pixel is drawn from one of K mixture components, the same for all its channels. In color images the means of green and
//! blue depend linearly on the channels before them. The parameters of a pixel are, in this order: K mixture logits, then
//! for each channel K means, K log scales and, for color only, K coefficients.

use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::discretized_logistic::{Ends, bin_log_prob, half_width, inverse_scale, logit};

const LOWEST_LOG_SCALE: f64 = -7.0;
/// Bins that are less probable have the density at their center instead.
const LOWEST_PROBABILITY: f64 = 1e-5;
/// Uniform numbers stay this far from 0 and 1.
const UNIFORM_MARGIN: f64 = 1e-5;

/// How bins far from every mean are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tails {
    /// As published: log scales from -7 on, and the density times the width of the bin where the bin's probability is at
    /// most 1e-5. Bits per dimension are comparable with those of papers.
    #[default]
    Density,
    /// The probability of the bin for any log scale.
    Exact,
}

/// The likelihood of a pixel as a mixture of K discretized logistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogisticMixture {
    /// Number K of mixture components.
    pub mixtures: usize,
    /// Channels of the image; 3 are red, green and blue, which depend on each other.
    pub channels: usize,
    /// Number of values of a channel, evenly spaced from -1 to 1; 256 for bytes.
    pub levels: usize,
    /// How bins far from every mean are computed.
    pub tails: Tails,
}

/// The uniform numbers that a sample needs.
#[derive(Clone, Debug)]
pub struct MixtureUniforms {
    /// They choose the components, `[B, K, H, W]`.
    pub mixture: Tensor<4>,
    /// They choose the values, `[B, C, H, W]`.
    pub logistic: Tensor<4>,
}

impl LogisticMixture {
    /// As VDVAE has it: bytes, with the published tails.
    pub fn of_bytes(mixtures: usize, channels: usize) -> Self {
        Self { mixtures, channels, levels: 256, tails: Tails::Density }
    }

    /// Number of parameters of a pixel: the channels that a network puts out.
    pub fn parameters(&self) -> usize {
        let per_channel = if self.is_color() { 3 } else { 2 };
        self.mixtures * (1 + per_channel * self.channels)
    }

    /// `ln P` of every pixel `[B, H, W]`, from the parameters `[B, P, H, W]` and the levels `target` `[B, C, H, W]`.
    pub fn log_prob(&self, parameters: Tensor<4>, target: Tensor<4>) -> Tensor<3> {
        let components = self.components(parameters);
        let values: Vec<Tensor<4>> = target.clone().split(1, 1);
        let means = (0..self.channels).map(|c| components.mean(c, &values[..c])).collect();
        let means: Tensor<5> = Tensor::stack(means, 1);
        let log_prob = self.component_log_prob(target.unsqueeze_dim(2), means, components.log_scales);
        let of_channels: Tensor<4> = log_prob.sum_dim(1).squeeze_dim(1);
        log_sum_exp(of_channels + log_softmax(components.logits, 1))
    }

    /// `ln P` of every image `[B]`, in nats.
    pub fn log_prob_of_images(&self, parameters: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        let of_pixels = self.log_prob(parameters, target);
        of_pixels.flatten::<2>(1, 2).sum_dim(1).squeeze_dim(1)
    }

    /// The mean `[B, C, H, W]`: of each component the most probable pixel, where every channel stays in the range of the
    /// data, and of these the average.
    pub fn mean(&self, parameters: Tensor<4>) -> Tensor<4> {
        let components = self.components(parameters);
        let weights = log_softmax(components.logits.clone(), 1).exp();
        let pixels = self.pixels(&components, |_, mean| mean);
        let averages = pixels.into_iter().map(|values| (values * weights.clone()).sum_dim(1)).collect();
        Tensor::cat(averages, 1)
    }

    /// A sample `[B, C, H, W]` between -1 and 1. As in VDVAE it is not rounded to a level.
    pub fn sample(&self, parameters: Tensor<4>, uniforms: MixtureUniforms) -> Tensor<4> {
        let within = |uniform: Tensor<4>| uniform * (1.0 - 2.0 * UNIFORM_MARGIN) + UNIFORM_MARGIN;
        let components = self.components(parameters);
        let gumbel = within(uniforms.mixture).log().neg().log().neg();
        let chosen = (components.logits.clone() + gumbel).argmax(1);
        let components = components.chosen(&chosen);
        let noise = logit(within(uniforms.logistic));
        let values = self
            .pixels(&components, |c, mean| mean + components.log_scales_of(c).exp() * noise.clone().narrow(1, c, 1));
        Tensor::cat(values, 1)
    }

    /// Channel after channel the value that is made of its mean, clamped before it enters the next.
    fn pixels(&self, components: &Components, value: impl Fn(usize, Tensor<4>) -> Tensor<4>) -> Vec<Tensor<4>> {
        let mut values = Vec::new();
        for c in 0..self.channels {
            let mean = components.mean(c, &values);
            values.push(value(c, mean).clamp(-1.0, 1.0));
        }
        values
    }

    /// `ln P` of values `[B, C, 1, H, W]` under each component, `[B, C, K, H, W]`.
    fn component_log_prob(&self, x: Tensor<5>, means: Tensor<5>, log_scales: Tensor<5>) -> Tensor<5> {
        let ends = Ends::of(&x, self.levels);
        let half_width = half_width(self.levels);
        let centered = x - means;
        let bin = bin_log_prob(centered.clone(), log_scales.clone(), &ends, half_width);
        if self.tails == Tails::Exact {
            return bin;
        }
        let standard = centered * inverse_scale(log_scales.clone());
        let density = log_sigmoid(standard.clone()) + log_sigmoid(standard.neg()) - log_scales;
        let is_inner = ends.inner().greater_elem(0.5).expand(bin.dims());
        let is_improbable = bin.clone().lower_equal_elem(LOWEST_PROBABILITY.ln());
        bin.mask_where(is_inner.bool_and(is_improbable), density + (2.0 * half_width).ln())
    }

    fn is_color(&self) -> bool {
        self.channels == 3
    }

    fn components(&self, parameters: Tensor<4>) -> Components {
        let [batch, found, height, width] = parameters.dims();
        debug_assert_eq!(found, self.parameters(), "parameters of a pixel");
        let (k, channels) = (self.mixtures, self.channels);
        let per_channel = if self.is_color() { 3 } else { 2 };
        let logits = parameters.clone().narrow(1, 0, k);
        let of_channels: Tensor<5> =
            parameters.narrow(1, k, found - k).reshape([batch, channels, per_channel * k, height, width]);
        let part = |i: usize| of_channels.clone().narrow(2, i * k, k);
        let log_scales = match self.tails {
            Tails::Density => part(1).clamp_min(LOWEST_LOG_SCALE),
            Tails::Exact => part(1),
        };
        let coefficients = self.is_color().then(|| part(2).tanh());
        Components { logits, means: part(0), log_scales, coefficients }
    }
}

/// The parameters of the components: `[B, K, H, W]`, and of each channel `[B, C, K, H, W]`.
struct Components {
    logits: Tensor<4>,
    means: Tensor<5>,
    log_scales: Tensor<5>,
    /// Green on red, blue on red, blue on green.
    coefficients: Option<Tensor<5>>,
}

impl Components {
    /// The means `[B, K, H, W]` of a channel, given the values of the channels before it.
    fn mean(&self, channel: usize, before: &[Tensor<4>]) -> Tensor<4> {
        let mean = channel_of(&self.means, channel);
        let Some(coefficients) = &self.coefficients else { return mean };
        let term = |i: usize, value: usize| channel_of(coefficients, i) * before[value].clone();
        match channel {
            1 => mean + term(0, 0),
            2 => mean + term(1, 0) + term(2, 1),
            _ => mean,
        }
    }

    fn log_scales_of(&self, channel: usize) -> Tensor<4> {
        channel_of(&self.log_scales, channel)
    }

    /// The parameters of the component `[B, 1, H, W]` alone.
    fn chosen(&self, component: &Tensor<4, Int>) -> Self {
        let of_channels = |x: &Tensor<5>| {
            let mut dims = x.dims();
            dims[2] = 1;
            x.clone().gather(2, component.clone().unsqueeze_dim::<5>(1).expand(dims))
        };
        Self {
            logits: self.logits.clone().gather(1, component.clone()),
            means: of_channels(&self.means),
            log_scales: of_channels(&self.log_scales),
            coefficients: self.coefficients.as_ref().map(of_channels),
        }
    }
}

fn channel_of(x: &Tensor<5>, channel: usize) -> Tensor<4> {
    x.clone().narrow(1, channel, 1).squeeze_dim(1)
}

/// Over the second dimension.
fn log_sum_exp(x: Tensor<4>) -> Tensor<3> {
    let largest = x.clone().detach().max_dim(1);
    let sum = (x - largest.clone()).exp().sum_dim(1).log() + largest;
    sum.squeeze_dim(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution, TensorData};

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn pixel(of: &[f64]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(of.to_vec(), [1, of.len(), 1, 1]), (&Device::default(), DType::F32))
    }

    #[test]
    fn the_probabilities_of_all_gray_levels_sum_to_one() {
        for levels in [2, 17, 256] {
            let mixture = LogisticMixture { mixtures: 2, channels: 1, levels, tails: Tails::Exact };
            assert_eq!(mixture.parameters(), 6);
            let parameters = pixel(&[0.4, -1.0, 0.2, -0.9, -2.0, -8.0]);
            let total: f64 = (0..levels)
                .map(|k| pixel(&[2.0 * k as f64 / (levels - 1) as f64 - 1.0]))
                .map(|x| values(mixture.log_prob(parameters.clone(), x))[0].exp())
                .sum();
            assert!((total - 1.0).abs() < 2e-5, "{levels}: {total}");
        }
    }

    #[test]
    fn published_tails_are_the_exact_ones_where_bins_are_probable() {
        let parameters = pixel(&[0.4, -1.0, 0.2, -0.9, -2.0, -1.0]);
        for x in [-1.0, -0.6, 0.2, 1.0] {
            let log_prob = |tails| {
                let mixture = LogisticMixture { mixtures: 2, channels: 1, levels: 16, tails };
                values(mixture.log_prob(parameters.clone(), pixel(&[x])))[0]
            };
            assert!((log_prob(Tails::Exact) - log_prob(Tails::Density)).abs() < 1e-6, "{x}");
        }
        // 1.5 wide scales of e^-5 away: the density at the center times the width of a bin.
        let far = LogisticMixture { mixtures: 1, channels: 1, levels: 16, tails: Tails::Density };
        let found = values(far.log_prob(pixel(&[0.0, -1.0, -5.0]), pixel(&[0.2])))[0];
        let wanted = 5.0 - 1.2 * 5.0_f64.exp() - 7.5_f64.ln();
        assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
    }

    #[test]
    fn the_mean_is_the_average_of_samples_of_narrow_components() {
        let mixture = LogisticMixture::of_bytes(2, 3);
        let parameters = pixel(&[
            0.3, -0.2, 0.5, -0.5, -7., -7., 0.4, -0.3, 0.1, 0.2, -7., -7., 0.3, 0.9, 0.6, -0.4, -7., -7., 1.2, 0.3,
        ]);
        let draws = 4000;
        let many = parameters.clone().expand([draws, 20, 1, 1]);
        // Evenly spread over all five numbers, and the same in every run.
        let spread = |steps: &[f64]| {
            let value = |i: usize| ((i / steps.len() + 1) as f64 * steps[i % steps.len()]).fract();
            let values: Vec<f64> = (0..draws * steps.len()).map(value).collect();
            Tensor::from_data(TensorData::new(values, [draws, steps.len(), 1, 1]), (&Device::default(), DType::F32))
        };
        let uniforms = MixtureUniforms {
            mixture: spread(&[2.0_f64.sqrt(), 3.0_f64.sqrt()]),
            logistic: spread(&[5.0_f64.sqrt(), 7.0_f64.sqrt(), 11.0_f64.sqrt()]),
        };
        let average = values(mixture.sample(many, uniforms).mean_dim(0));
        for (found, wanted) in average.into_iter().zip(values(mixture.mean(parameters))) {
            assert!((found - wanted).abs() < 0.01, "{found} {wanted}");
        }
    }

    #[test]
    fn gradients_are_finite_for_wild_parameters() {
        let device = Device::default().autodiff();
        for tails in [Tails::Density, Tails::Exact] {
            for channels in [1, 3] {
                let mixture = LogisticMixture { mixtures: 3, channels, levels: 256, tails };
                let shape = [8, mixture.parameters(), 4, 4];
                let parameters = Tensor::<4>::random(shape, Distribution::Normal(0.0, 60.0), &device).require_grad();
                let target = Tensor::random([8, channels, 4, 4], Distribution::Uniform(-1.0, 1.0), &device);
                let log_prob = mixture.log_prob_of_images(parameters.clone(), target.sign());
                let gradients = log_prob.clone().sum().backward();
                let gradient = values(parameters.grad(&gradients).unwrap());
                assert!(values(log_prob).into_iter().chain(gradient).all(f64::is_finite), "{tails:?} {channels}");
            }
        }
    }
}
