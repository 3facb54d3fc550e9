//! Autoencoders: images or points to latents and back.

pub mod convolutional;
pub mod diagonal_gaussian;
pub mod elbo;
pub mod perceptron;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::Precision;
use serde::{Deserialize, Serialize};

use self::convolutional::{Convolutional, ConvolutionalConfig};
use self::diagonal_gaussian::DiagonalGaussian;
use self::perceptron::{Perceptron, PerceptronConfig};
use crate::network::Problem;
use crate::pass::Pass;

/// The config of an autoencoder's networks, tagged by its `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AutoencoderConfig {
    /// Dense layers, for points and small images; one vector as the latent.
    Mlp(PerceptronConfig),
    /// Residual convolutions, for images; one vector as the latent.
    Conv(ConvolutionalConfig),
}

impl AutoencoderConfig {
    /// All reasons why the networks cannot be built for items of this shape; a point `[N]` is `[N, 1, 1]`.
    pub fn problems(&self, shape: [usize; 3]) -> Vec<Problem> {
        match self {
            Self::Mlp(config) => config.problems(),
            Self::Conv(config) => config.problems(shape),
        }
    }

    /// The shape of a latent.
    pub fn latent_shape(&self, _: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Mlp(config) => [config.latent, 1, 1],
            Self::Conv(config) => [config.latent, 1, 1],
        }
    }

    /// Builds the networks for items of this shape, where the decoder gives `outputs` numbers in place of each channel.
    /// There must be no [`problems`](Self::problems).
    pub fn init(&self, shape: [usize; 3], outputs: usize, device: &Device) -> Autoencoder {
        match self {
            Self::Mlp(config) => Autoencoder::Mlp(config.init(shape, outputs, device)),
            Self::Conv(config) => Autoencoder::Conv(config.init(shape, outputs, device)),
        }
    }

    /// Values that a training step keeps for one item.
    pub fn kept_values(&self, shape: [usize; 3], outputs: usize) -> usize {
        match self {
            Self::Mlp(config) => config.kept_values(shape, outputs),
            Self::Conv(config) => config.kept_values(shape, outputs),
        }
    }
}

/// Encoder and decoder.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per process: a box would only be in the way of Burn's derive.
pub enum Autoencoder {
    /// Dense layers.
    Mlp(Perceptron),
    /// Residual convolutions.
    Conv(Convolutional),
}

impl Autoencoder {
    /// The approximate posterior `q(z|x)` of items `[B, C, H, W]`.
    pub fn encode(&self, x: Tensor<4>, precision: Precision, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        let pass = &pass.of(precision);
        match self {
            Self::Mlp(network) => network.encode(x, pass),
            Self::Conv(network) => network.encode(x, pass),
        }
    }

    /// What the likelihood `p(x|z)` takes, `[B, outputs, H, W]`, of latents `[B, ..]`.
    pub fn decode(&self, z: Tensor<4>, precision: Precision, pass: &Pass<'_>) -> Tensor<4> {
        let pass = &pass.of(precision);
        match self {
            Self::Mlp(network) => network.decode(z, pass),
            Self::Conv(network) => network.decode(z, pass),
        }
    }
}
