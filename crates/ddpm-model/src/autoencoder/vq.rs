//! The vector-quantized autoencoder of latent diffusion (Esser et al. 2021; Rombach et al. 2022), as diffusers' `VQModel`
//! computes it: every vector of a latent is replaced by the nearest one of a codebook before it is decoded.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor};
use ddpm_kernels::{Precision, conv2d};
use serde::{Deserialize, Serialize};

use super::config::AutoencoderKLConfig;
use super::kl::{Decoder, Encoder};
use crate::network::Problem;
use crate::pass::Pass;
use crate::unet::layers::{Start, conv1x1};

/// The description of a `VQModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqModelConfig {
    /// The networks and the scale of the latents. The encoder has `latent_channels` channels out, as there is no variance.
    pub networks: AutoencoderKLConfig,
    /// Vectors of the codebook.
    pub num_vq_embeddings: usize,
    /// Width of these vectors.
    pub vq_embed_dim: usize,
}

impl Default for VqModelConfig {
    fn default() -> Self {
        let networks =
            AutoencoderKLConfig { latent_channels: 3, force_upcast: false, ..AutoencoderKLConfig::default() };
        Self { networks, num_vq_embeddings: 256, vq_embed_dim: 3 }
    }
}

impl VqModelConfig {
    /// All reasons why this network cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let counts = [("num_vq_embeddings", self.num_vq_embeddings), ("vq_embed_dim", self.vq_embed_dim)];
        let zero = counts.into_iter().filter(|&(_, count)| count == 0);
        let mut problems: Vec<Problem> = zero.map(|(key, _)| Problem::new(key, "must be at least 1")).collect();
        problems.extend(self.networks.problems());
        problems
    }

    /// Builds the network. The config must have no [`problems`](Self::problems).
    pub fn init(&self, device: &Device) -> VqModel {
        let (latent, width) = (self.networks.latent_channels, self.vq_embed_dim);
        let start = Initializer::Uniform {
            min: -1.0 / self.num_vq_embeddings as f64,
            max: 1.0 / self.num_vq_embeddings as f64,
        };
        VqModel {
            encoder: self.networks.encoder(latent, device),
            quant_conv: conv1x1([latent, width], Start::Random, device),
            quantize: Codebook {
                embedding: EmbeddingConfig::new(self.num_vq_embeddings, width).with_initializer(start).init(device),
            },
            post_quant_conv: conv1x1([width, latent], Start::Random, device),
            decoder: self.networks.decoder(device),
            config: self.clone(),
            precision: Precision::F32,
        }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct VqModel {
    encoder: Encoder,
    quant_conv: Conv2d,
    quantize: Codebook,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    #[module(skip)]
    config: VqModelConfig,
    #[module(skip)]
    precision: Precision,
}

#[derive(Module, Debug)]
struct Codebook {
    embedding: Embedding,
}

impl VqModel {
    /// The config that this network was built from.
    pub fn config(&self) -> &VqModelConfig {
        &self.config
    }

    /// Images `[B, C, H, W]` to latents `[B, D, h, w]`, which are not quantized.
    pub fn encode(&self, x: Tensor<4>) -> Tensor<4> {
        debug_assert_eq!(self.config.networks.check_images(&x.dims()), Ok(()));
        let (pass, dtype) = (&Pass::default().of(self.precision), x.dtype());
        let h = self.encoder.forward(pass.precision.carried(x), &pass.inside(format_args!("encoder")));
        pass.layer("quant_conv", h, |h| conv2d(&self.quant_conv, h, pass.precision)).cast(dtype)
    }

    /// The rows of the codebook that are nearest to the vectors of latents `[B, D, h, w]`: `[B, h, w]`.
    pub fn nearest(&self, z: Tensor<4>) -> Tensor<3, Int> {
        let [batch, width, rows, columns] = z.dims();
        let z = z.permute([0, 2, 3, 1]).reshape([batch * rows * columns, width]);
        let codes = self.quantize.embedding.weight.val();
        // |z - e|^2 without |z|^2, which is the same for all codes.
        let lengths = codes.clone().square().sum_dim(1).swap_dims(0, 1);
        let distances = lengths - z.matmul(codes.swap_dims(0, 1)) * 2.0;
        distances.argmin(1).reshape([batch, rows, columns])
    }

    /// Latents `[B, D, h, w]` with every vector replaced by the nearest one of the codebook.
    pub fn quantize(&self, z: Tensor<4>) -> Tensor<4> {
        let [batch, width, rows, columns] = z.dims();
        let nearest = self.nearest(z).reshape([batch * rows * columns]);
        let codes = self.quantize.embedding.weight.val().select(0, nearest);
        codes.reshape([batch, rows, columns, width]).permute([0, 3, 1, 2])
    }

    /// Latents `[B, D, h, w]`, not scaled, to images `[B, C, H, W]`, by way of the codebook.
    pub fn decode(&self, z: Tensor<4>) -> Tensor<4> {
        let (pass, dtype) = (&Pass::default().of(self.precision), z.dtype());
        let z = pass.precision.carried(self.quantize(z));
        let h = pass.layer("post_quant_conv", z, |z| conv2d(&self.post_quant_conv, z, pass.precision));
        self.decoder.forward(h, &pass.inside(format_args!("decoder"))).cast(dtype)
    }

    /// The same network with this scale of its latents.
    pub fn with_scaling_factor(mut self, scaling_factor: f64) -> Self {
        self.config.networks.scaling_factor = scaling_factor;
        self
    }

    /// Has the network compute in this precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }
}
