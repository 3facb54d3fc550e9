//! Autoencoders: images or points to latents and back.
//!
//! Field names of `AutoencoderKL` and `AutoencoderTiny` spell the keys of diffusers, so that weights pass in and out by
//! name.

mod config;
pub mod convolutional;
pub mod diagonal_gaussian;
pub mod elbo;
mod kl;
pub mod perceptron;
mod tiny;
pub mod vanilla;
mod vq;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::Precision;
use serde::{Deserialize, Serialize};

pub use self::config::{AutoencoderKLConfig, Level};
use self::convolutional::{Convolutional, ConvolutionalConfig};
pub use self::diagonal_gaussian::DiagonalGaussian;
pub use self::kl::AutoencoderKL;
use self::perceptron::{Perceptron, PerceptronConfig};
pub use self::tiny::{AutoencoderTiny, AutoencoderTinyConfig};
use self::vanilla::{Vanilla, VanillaConfig};
pub use self::vq::{VqModel, VqModelConfig};
use crate::network::{NetworkError, Problem};
use crate::pass::Pass;

/// The config of an autoencoder's networks, tagged by its `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AutoencoderConfig {
    /// Dense layers, for points and small images; one vector as the latent.
    Mlp(PerceptronConfig),
    /// Residual convolutions, for images; one vector as the latent.
    Conv(ConvolutionalConfig),
    /// The autoencoder of latent diffusion, for images; a smaller image as the latent. The keys are those of diffusers'
    /// `AutoencoderKL`; `in_channels`, `out_channels` and `sample_size` follow from the data.
    Kl(AutoencoderKLConfig),
    /// Strided convolutions with batch normalization, for images: the network of PyTorch-VAE's `VanillaVAE`; one vector as
    /// the latent.
    Vanilla(VanillaConfig),
}

impl AutoencoderConfig {
    /// With what follows from the data: the shape of the items, and the numbers that the decoder gives in place of each
    /// channel.
    pub fn with_io(mut self, shape: [usize; 3], outputs: usize) -> Self {
        if let Self::Kl(config) = &mut self {
            (config.in_channels, config.out_channels, config.sample_size) = (shape[0], outputs, shape[1]);
        }
        self
    }

    /// With what follows from the likelihood: whether values of images have a Gaussian, whose mean is in [-1, 1] as they are.
    pub fn with_gaussian_images(mut self, are_gaussian: bool) -> Self {
        if let Self::Vanilla(config) = &mut self {
            config.tanh.get_or_insert(are_gaussian);
        }
        self
    }

    /// All reasons why the networks cannot be built for items of this shape; a point `[N]` is `[N, 1, 1]`.
    pub fn problems(&self, shape: [usize; 3]) -> Vec<Problem> {
        match self {
            Self::Mlp(config) => config.problems(),
            Self::Conv(config) => config.problems(shape),
            Self::Kl(config) => {
                let mut problems = config.problems();
                let [channels, height, width] = shape;
                if let Err(NetworkError::Input { reason, .. }) = config.check_images(&[1, channels, height, width]) {
                    problems.push(Problem::new("block_out_channels", reason));
                }
                problems
            }
            Self::Vanilla(config) => config.problems(shape),
        }
    }

    /// The shape of a latent.
    pub fn latent_shape(&self, shape: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Mlp(config) => [config.latent, 1, 1],
            Self::Conv(config) => [config.latent, 1, 1],
            Self::Kl(config) => config.latent_shape(shape),
            Self::Vanilla(config) => [config.latent, 1, 1],
        }
    }

    /// Builds the networks for items of this shape, where the decoder gives `outputs` numbers in place of each channel.
    /// There must be no [`problems`](Self::problems).
    pub fn init(&self, shape: [usize; 3], outputs: usize, device: &Device) -> Autoencoder {
        match self {
            Self::Mlp(config) => Autoencoder::Mlp(config.init(shape, outputs, device)),
            Self::Conv(config) => Autoencoder::Conv(config.init(shape, outputs, device)),
            Self::Kl(config) => Autoencoder::Kl(config.init(device)),
            Self::Vanilla(config) => Autoencoder::Vanilla(config.init(shape, outputs, device)),
        }
    }

    /// Values that a training step keeps for one item.
    pub fn kept_values(&self, shape: [usize; 3], outputs: usize) -> usize {
        match self {
            Self::Mlp(config) => config.kept_values(shape, outputs),
            Self::Conv(config) => config.kept_values(shape, outputs),
            Self::Kl(config) => config.kept_values(shape),
            Self::Vanilla(config) => config.kept_values(shape, outputs),
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
    /// The autoencoder of latent diffusion.
    Kl(AutoencoderKL),
    /// Strided convolutions with batch normalization.
    Vanilla(Vanilla),
}

impl Autoencoder {
    /// The approximate posterior `q(z|x)` of items `[B, C, H, W]`.
    pub fn encode(&self, x: Tensor<4>, precision: Precision, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        let pass = &pass.of(precision);
        match self {
            Self::Mlp(network) => network.encode(x, pass),
            Self::Conv(network) => network.encode(x, pass),
            Self::Kl(network) => network.encode_with(x, pass),
            Self::Vanilla(network) => network.encode(x, pass),
        }
    }

    /// Has the networks compute in this precision; weights stay as they are.
    pub fn set_precision(&mut self, precision: Precision) {
        if let Self::Kl(network) = self {
            network.set_precision(precision);
        }
    }

    /// What the likelihood `p(x|z)` takes, `[B, outputs, H, W]`, of latents `[B, ..]`.
    pub fn decode(&self, z: Tensor<4>, precision: Precision, pass: &Pass<'_>) -> Tensor<4> {
        let pass = &pass.of(precision);
        match self {
            Self::Mlp(network) => network.decode(z, pass),
            Self::Conv(network) => network.decode(z, pass),
            Self::Kl(network) => network.decode_with(z, pass),
            Self::Vanilla(network) => network.decode(z, pass),
        }
    }
}
