//! The diffusion transformer of Peebles & Xie (2023): images as tokens of square patches, and normalizations that time and
//! class scale, shift and gate ("adaLN-Zero").
//!
//! Field names spell the keys of diffusers' `DiTTransformer2DModel`.

mod block;
mod config;
mod position;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, conv2d, modulated_layer_norm, silu, transposed};

use self::block::{BlockContext, DiTBlock};
use crate::condition::Condition;
use crate::pass::Pass;
use crate::transformer::{apply, mask_bias};
use crate::unet::layers::{Start, linear};
pub use config::DiTConfig;
pub use position::position_table;

/// Added to the variance in the last normalization.
const LAST_NORM_EPS: f64 = 1e-6;

impl DiTConfig {
    /// Builds the network. The config must have no [`problems`](Self::problems).
    pub fn init(&self, device: &Device) -> DiT {
        let (patch, width) = (self.patch_size, self.hidden_size);
        let mut proj = Conv2dConfig::new([self.in_channels, width], [patch; 2])
            .with_stride([patch; 2])
            .with_initializer(Initializer::XavierUniform { gain: 1.0 })
            .init(device);
        proj.bias = Some(Initializer::Zeros.init([width], device));
        DiT {
            pos_embed: PatchEmbedding { proj },
            transformer_blocks: (0..self.depth).map(|i| DiTBlock::init(self, i, device)).collect(),
            proj_out_1: linear(width, 2 * width, Start::Zero, device),
            proj_out_2: linear(width, patch * patch * self.out_channels, Start::Zero, device),
            config: self.clone(),
            precision: Precision::F32,
        }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct DiT {
    pos_embed: PatchEmbedding,
    transformer_blocks: Vec<DiTBlock>,
    /// Shift and scale of the last normalization.
    proj_out_1: Linear,
    proj_out_2: Linear,
    #[module(skip)]
    config: DiTConfig,
    #[module(skip)]
    pub(crate) precision: Precision,
}

impl DiT {
    /// The config that this network was built from.
    pub fn config(&self) -> &DiTConfig {
        &self.config
    }

    /// `x_t` `[B, C, H, W]` at the times `[B]` to the prediction `[B, C_out, H, W]`.
    pub fn forward(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        self.forward_in(x_t, t, condition, &Pass::default())
    }

    /// As [`forward`](Self::forward), with a pass that can observe every layer.
    pub(crate) fn forward_in(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition, pass: &Pass<'_>) -> Tensor<4> {
        let (pass, dtype) = (&pass.of(self.precision), x_t.dtype());
        let [batch, _, height, width] = x_t.dims();
        let grid = [height, width].map(|size| size / self.config.patch_size);
        let context = self.context(t, condition, batch, pass);

        let mut h = self.patches(x_t, grid, pass);
        let mut conditioning = None;
        for (i, block) in self.transformer_blocks.iter().enumerate() {
            let pass = &pass.inside(format_args!("transformer_blocks.{i}"));
            // Without an embedding of its own a block has that of the first one.
            let own = block.embed(&context, pass).or(conditioning.clone());
            let Some(own) = own else { continue };
            h = block.forward(h, own.clone(), &context, pass);
            conditioning.get_or_insert(own);
        }
        if let Some(conditioning) = conditioning {
            let ends = apply("proj_out_1", &self.proj_out_1, conditioning, pass);
            let [shift, scale] = [0, 1].map(|i| ends.clone().narrow(1, i * h.dims()[2], h.dims()[2]));
            h = pass.joined("norm_out", modulated_layer_norm(h, scale, shift, LAST_NORM_EPS));
        }
        let h = apply("proj_out_2", &self.proj_out_2, h, pass);
        self.image(h, grid).cast(dtype)
    }

    /// The image as tokens with positions, `[B, T, D]`.
    fn patches(&self, x_t: Tensor<4>, grid: [usize; 2], pass: &Pass<'_>) -> Tensor<3> {
        let [batch, width] = [x_t.dims()[0], self.config.hidden_size];
        let h = pass
            .layer("pos_embed.proj", pass.precision.carried(x_t), |x| conv2d(&self.pos_embed.proj, x, pass.precision));
        let tokens = grid[0] * grid[1];
        let h = transposed(h.reshape([batch, width, tokens]));
        let table = position_table(width, grid, self.config.sample_size / self.config.patch_size);
        let table: Vec<f32> = table.into_iter().map(|value| value as f32).collect();
        let places = Tensor::<1>::from_floats(table.as_slice(), &h.device()).reshape([1, tokens, width]);
        let dtype = h.dtype();
        pass.joined("pos_embed", h + places.cast(dtype))
    }

    /// The tokens `[B, T, patch^2 C]` as an image.
    fn image(&self, h: Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<4> {
        let (patch, channels, batch) = (self.config.patch_size, self.config.out_channels, h.dims()[0]);
        h.reshape([batch, rows, columns, patch, patch, channels]).permute([0, 5, 1, 3, 2, 4]).reshape([
            batch,
            channels,
            rows * patch,
            columns * patch,
        ])
    }

    fn context(&self, t: Tensor<1>, condition: &Condition, batch: usize, pass: &Pass<'_>) -> BlockContext {
        let device = t.device();
        let sinusoids = self.config.embedding.embed(t, config::TIME_WIDTH);
        let tokens = (self.config.token_width > 0).then(|| match condition {
            Condition::Tokens(tokens) => (tokens.states.clone(), tokens.mask.clone().map(mask_bias)),
            // One token of zeros stands for none.
            _ => (Tensor::zeros([batch, 1, self.config.token_width], &device), None),
        });
        BlockContext {
            sinusoids,
            condition: condition.clone(),
            null_class: self.config.null_class(),
            tokens: tokens.map(|(states, bias)| (pass.precision.carried(states), bias)),
        }
    }
}

/// A module of its own so that the key of the convolution is `pos_embed.proj`, as in diffusers' files.
#[derive(Module, Debug)]
struct PatchEmbedding {
    proj: Conv2d,
}

/// The activated embedding, which every block projects.
fn activated(embedding: Tensor<2>) -> Tensor<2> {
    silu(embedding)
}

#[cfg(test)]
mod tests;
