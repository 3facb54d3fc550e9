//! The first stage: a frozen autoencoder, from images to the latents that are denoised and back.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use ddpm_data::fnv1a;
use ddpm_kernels::Precision;
use ddpm_model::autoencoder::diagonal_gaussian::DiagonalGaussian;
use ddpm_model::autoencoder::{AutoencoderKL, AutoencoderKLConfig, VqModel};
use ddpm_weights::Weights;
use serde_json::Value;

use super::Tiles;
use crate::diffusers::autoencoder::{load_autoencoder, load_autoencoder_of, load_vq_model};
use crate::diffusers::autoencoder_config::VQ_CLASS;
use crate::diffusers::pipeline::{CONFIG, read_json};
use crate::snapshot::SnapshotError;

/// The folder of an autoencoder with a posterior in a pipeline.
pub const FIRST_STAGE: &str = "vae";
/// The folders of the autoencoder in a pipeline: with a posterior, and with a codebook.
const FOLDERS: [&str; 2] = [FIRST_STAGE, "vqvae"];

/// A frozen autoencoder. Its latents are scaled, as the network that denoises them sees them.
#[derive(Clone, Debug)]
pub enum FirstStage {
    /// The autoencoder of latent diffusion with a Gaussian posterior.
    Kl(AutoencoderKL),
    /// That with a codebook.
    Vq(VqModel),
}

/// Why there is no such first stage.
#[derive(Debug, thiserror::Error)]
pub enum FirstStageError {
    /// The folder cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Images of another shape.
    #[error(
        "the autoencoder takes images of {channels} channels with sides that are multiples of {factor}, not {shape:?}"
    )]
    Images {
        /// Its channels.
        channels: usize,
        /// How many pixels become one latent pixel, along each side.
        factor: usize,
        /// The shape that was given.
        shape: Vec<usize>,
    },
}

impl FirstStage {
    /// Reads the autoencoder of a pipeline, or a folder that is one.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, FirstStageError> {
        let part = FOLDERS.map(|part| folder.join(part)).into_iter().find(|part| part.is_dir());
        let folder = part.as_deref().unwrap_or(folder);
        let json = read_json(&folder.join(CONFIG))?;
        match json.get("_class_name").and_then(Value::as_str) {
            Some(VQ_CLASS) => Ok(Self::Vq(load_vq_model(folder, device)?)),
            _ => Ok(Self::Kl(load_autoencoder(folder, device)?)),
        }
    }

    /// The autoencoder that the folder of a pipeline describes, with these weights.
    pub fn open_with(folder: &Path, weights: Weights, device: &Device) -> Result<Self, FirstStageError> {
        Ok(Self::Kl(load_autoencoder_of(&folder.join(FOLDERS[0]), weights, device)?))
    }

    /// The factor of its latents.
    pub fn scale(&self) -> f64 {
        self.networks().scaling_factor
    }

    /// The same first stage with another factor of its latents.
    pub fn scaled_by(self, factor: f64) -> Self {
        match self {
            Self::Kl(autoencoder) => Self::Kl(autoencoder.with_scaling_factor(factor)),
            Self::Vq(autoencoder) => Self::Vq(autoencoder.with_scaling_factor(factor)),
        }
    }

    /// A number that another first stage does not have: of its weights and its config.
    pub fn fingerprint(&self) -> u64 {
        let mut visitor = Fingerprint(fnv1a(format!("{:?}", self.networks()).bytes()));
        match self {
            Self::Kl(autoencoder) => autoencoder.visit(&mut visitor),
            Self::Vq(autoencoder) => autoencoder.visit(&mut visitor),
        }
        visitor.0
    }

    /// The same first stage, computing in this precision.
    pub fn in_precision(mut self, precision: Precision) -> Self {
        match &mut self {
            Self::Kl(autoencoder) => autoencoder.set_precision(precision),
            Self::Vq(autoencoder) => autoencoder.set_precision(precision),
        }
        self
    }

    /// The description of its networks.
    fn networks(&self) -> &AutoencoderKLConfig {
        match self {
            Self::Kl(autoencoder) => autoencoder.config(),
            Self::Vq(autoencoder) => &autoencoder.config().networks,
        }
    }

    /// The name of its folder in a pipeline.
    pub fn folder(&self) -> &'static str {
        match self {
            Self::Kl(_) => FOLDERS[0],
            Self::Vq(_) => FOLDERS[1],
        }
    }

    /// Channels of the images.
    pub fn image_channels(&self) -> usize {
        self.networks().in_channels
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(autoencoder) => autoencoder.config().latent_channels,
            Self::Vq(autoencoder) => autoencoder.config().vq_embed_dim,
        }
    }

    /// How many pixels become one latent pixel, along each side.
    pub fn factor(&self) -> usize {
        self.networks().size_ratio()
    }

    /// The shape of the latents of images of this shape, `[C, H, W]`.
    pub fn latent_shape(&self, image: &[usize]) -> Result<[usize; 3], FirstStageError> {
        let factor = self.factor();
        let (channels, latent_channels) = (self.image_channels(), self.latent_channels());
        match *image {
            [given, height, width]
                if given == channels && height * width > 0 && height % factor == 0 && width % factor == 0 =>
            {
                Ok([latent_channels, height / factor, width / factor])
            }
            _ => Err(FirstStageError::Images { channels, factor, shape: image.to_vec() }),
        }
    }

    /// Images `[B, C, H, W]` between -1 and 1 to scaled latents `[B, L, h, w]`: the mean of the posterior, or a sample of it
    /// by this noise. With a codebook there is no posterior.
    pub fn encode(&self, images: Tensor<4>, noise: Option<Tensor<4>>) -> Tensor<4> {
        self.encode_in(images, noise, None)
    }

    /// As [`encode`](Self::encode), in tiles if there are some.
    pub fn encode_in(&self, images: Tensor<4>, noise: Option<Tensor<4>>, tiles: Option<Tiles>) -> Tensor<4> {
        let latents = match self {
            Self::Kl(autoencoder) => {
                let posterior = match tiles {
                    None => autoencoder.encode(images),
                    Some(tiles) => DiagonalGaussian::from_moments(tiles.encode(images, |tile| {
                        let posterior = autoencoder.encode(tile);
                        Tensor::cat(vec![posterior.mean(), posterior.log_variance()], 1)
                    })),
                };
                match noise {
                    Some(noise) => posterior.sample(noise),
                    None => posterior.mean(),
                }
            }
            Self::Vq(autoencoder) => match tiles {
                None => autoencoder.encode(images),
                Some(tiles) => tiles.encode(images, |tile| autoencoder.encode(tile)),
            },
        };
        self.networks().scale_latents(latents)
    }

    /// Mean and standard deviation of the posterior of images, `[B, L, h, w]` each, as scaled as the latents. With a codebook
    /// nothing is left open: the deviation is 0.
    pub fn posterior(&self, images: Tensor<4>) -> [Tensor<4>; 2] {
        match self {
            Self::Kl(autoencoder) => {
                let posterior = autoencoder.encode(images);
                let mean = autoencoder.scale_latents(posterior.mean());
                let above = autoencoder.scale_latents(posterior.mean() + posterior.std());
                [mean.clone(), above - mean]
            }
            Self::Vq(autoencoder) => {
                let latents = self.networks().scale_latents(autoencoder.encode(images));
                [latents.clone(), latents.zeros_like()]
            }
        }
    }

    /// Scaled latents `[B, L, h, w]` to images `[B, C, H, W]`, which may lie a little outside of [-1, 1].
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Kl(autoencoder) => autoencoder.decode(autoencoder.unscale_latents(latents)),
            Self::Vq(autoencoder) => autoencoder.decode(self.networks().unscale_latents(latents)),
        }
    }

    /// As [`decode`](Self::decode), in tiles if there are some.
    pub fn decode_in(&self, latents: Tensor<4>, tiles: Option<Tiles>) -> Tensor<4> {
        match tiles {
            None => self.decode(latents),
            Some(tiles) => tiles.decode(latents, |tile| self.decode(tile)),
        }
    }

    /// About how many bytes it takes to decode so many pixels at once: the features before and after the convolutions of the
    /// finest level.
    pub fn bytes_to_decode(&self, pixels: usize) -> usize {
        let channels: usize = self.networks().block_out_channels.iter().take(2).sum();
        2 * size_of::<f32>() * channels.saturating_mul(pixels)
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        let devices = match self {
            Self::Kl(autoencoder) => autoencoder.devices(),
            Self::Vq(autoencoder) => autoencoder.devices(),
        };
        devices.into_iter().next().unwrap_or_default()
    }
}

/// A hash of all weights, in their order.
struct Fingerprint(u64);

impl ModuleVisitor for Fingerprint {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data();
        let bytes = values.iter::<f32>().flat_map(f32::to_le_bytes);
        self.0 = fnv1a(self.0.to_le_bytes().into_iter().chain(bytes));
    }
}
