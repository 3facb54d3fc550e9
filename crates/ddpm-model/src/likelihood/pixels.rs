//! Likelihoods of images of 8 bits, which go from -1 to 1: what a decoder puts out for a pixel, and how probable the data
//! are under it.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use serde::{Deserialize, Serialize};

use super::bernoulli;
use super::discretized_logistic::DiscretizedLogistic;
use super::logistic_mixture::{LogisticMixture, MixtureUniforms, Tails};

/// The likelihood of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PixelLikelihood {
    /// A discretized mixture of logistics.
    LogisticMixture {
        /// Number of mixture components.
        #[serde(default = "ten_mixtures", alias = "num_mixtures")]
        mixtures: usize,
        /// Number of values of a channel; 256 for bytes.
        #[serde(default = "bytes")]
        levels: usize,
        /// How bins far from every mean are computed.
        #[serde(default)]
        tails: Tails,
    },
    /// One discretized logistic per channel: the means, then the log scales.
    DiscretizedLogistic {
        /// Number of values of a channel; 256 for bytes.
        #[serde(default = "bytes")]
        levels: usize,
    },
    /// The logits of independent Bernoulli variables: -1 is black, 1 is white, and values between them are read as
    /// probabilities.
    // With braces, for unknown keys to be refused.
    Bernoulli {},
}

fn ten_mixtures() -> usize {
    10
}

fn bytes() -> usize {
    256
}

impl Default for PixelLikelihood {
    fn default() -> Self {
        Self::LogisticMixture { mixtures: ten_mixtures(), levels: bytes(), tails: Tails::Density }
    }
}

impl PixelLikelihood {
    /// What is wrong with it.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::LogisticMixture { mixtures: 0, .. } => Some("0 mixtures, expected at least 1".into()),
            Self::LogisticMixture { levels: levels @ 0..2, .. }
            | Self::DiscretizedLogistic { levels: levels @ 0..2 } => {
                Some(format!("{levels} levels, expected at least 2"))
            }
            _ => None,
        }
    }

    /// Channels that the network puts out for images with this many channels.
    pub fn parameters(&self, channels: usize) -> usize {
        match *self {
            Self::LogisticMixture { mixtures, levels, tails } => {
                LogisticMixture { mixtures, channels, levels, tails }.parameters()
            }
            Self::DiscretizedLogistic { .. } => 2 * channels,
            Self::Bernoulli {} => channels,
        }
    }

    /// `ln P` of every image `[B]`, in nats, from the network's output `[B, P, H, W]` and the data `[B, C, H, W]`.
    pub fn log_prob(&self, output: Tensor<4>, data: Tensor<4>) -> Tensor<1> {
        let of_values = match *self {
            Self::LogisticMixture { mixtures, levels, tails } => {
                let mixture = LogisticMixture { mixtures, channels: data.dims()[1], levels, tails };
                return mixture.log_prob_of_images(output, data);
            }
            Self::DiscretizedLogistic { levels } => {
                let [mean, log_scale] = halves(output);
                DiscretizedLogistic { levels }.log_prob(data, mean, log_scale)
            }
            Self::Bernoulli {} => bernoulli::log_prob((data + 1.0).mul_scalar(0.5), output),
        };
        sum_per_image(of_values)
    }

    /// The mean `[B, C, H, W]` of the data under the network's output, for images with this many channels.
    pub fn mean(&self, output: Tensor<4>, channels: usize) -> Tensor<4> {
        match *self {
            Self::LogisticMixture { mixtures, levels, tails } => {
                LogisticMixture { mixtures, channels, levels, tails }.mean(output)
            }
            Self::DiscretizedLogistic { .. } => {
                let [mean, _] = halves(output);
                mean.clamp(-1.0, 1.0)
            }
            Self::Bernoulli {} => sigmoid(output).mul_scalar(2.0) - 1.0,
        }
    }

    /// Shapes of the uniform numbers that [`sample`](Self::sample) takes: those of the values, and of a mixture first
    /// those of the components.
    pub fn uniform_shapes(&self, [batch, channels, height, width]: [usize; 4]) -> UniformShapes {
        let mixture = match *self {
            Self::LogisticMixture { mixtures, .. } => Some([batch, mixtures, height, width]),
            _ => None,
        };
        UniformShapes { mixture, values: [batch, channels, height, width] }
    }

    /// Data drawn from the network's output by these uniform numbers.
    pub fn sample(&self, output: Tensor<4>, uniforms: Uniforms) -> Tensor<4> {
        let Uniforms { mixture, values } = uniforms;
        match *self {
            Self::LogisticMixture { mixtures, levels, tails } => {
                let channels = values.dims()[1];
                // Without numbers for the components the most probable one is taken.
                let mixture = mixture.unwrap_or_else(|| output.clone().narrow(1, 0, mixtures).zeros_like() + 0.5);
                let uniforms = MixtureUniforms { mixture, logistic: values };
                LogisticMixture { mixtures, channels, levels, tails }.sample(output, uniforms)
            }
            Self::DiscretizedLogistic { levels } => {
                let [mean, log_scale] = halves(output);
                DiscretizedLogistic { levels }.sample(mean, log_scale, values)
            }
            Self::Bernoulli {} => {
                let dtype = output.dtype();
                values.lower(sigmoid(output)).float().cast(dtype).mul_scalar(2.0) - 1.0
            }
        }
    }
}

/// Shapes of [`Uniforms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniformShapes {
    /// Of the numbers that choose mixture components, if there are any: `[B, K, H, W]`.
    pub mixture: Option<[usize; 4]>,
    /// Of the numbers that choose values: `[B, C, H, W]`.
    pub values: [usize; 4],
}

/// Numbers between 0 and 1 from which data are drawn.
#[derive(Clone, Debug)]
pub struct Uniforms {
    /// They choose mixture components.
    pub mixture: Option<Tensor<4>>,
    /// They choose values.
    pub values: Tensor<4>,
}

/// The two halves of the channels.
fn halves(x: Tensor<4>) -> [Tensor<4>; 2] {
    let half = x.dims()[1] / 2;
    [0, half].map(|start| x.clone().narrow(1, start, half))
}

fn sum_per_image(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1)
}
