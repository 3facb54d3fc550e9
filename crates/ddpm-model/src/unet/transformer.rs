//! The spatial transformer of latent diffusion (Rombach et al. 2022): the pixels of a feature map attend to one another and to
//! the tokens of the condition.
//!
//! Field names spell the keys of diffusers' `Transformer2DModel`.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, add, conv2d, dense_channels, group_norm, layer_norm, transposed};

use super::layers::{Norm, Start, conv1x1, linear};
use super::stages::Transformer;
use crate::condition::Tokens;
use crate::pass::Pass;
use crate::transformer::{Activation, FeedForward, TokenAttention, TokenAttentionConfig, mask_bias};

/// Added to the variance in the group normalization in front of a transformer, whatever the network has elsewhere.
const GROUP_NORM_EPS: f64 = 1e-6;
/// Added to the variance in the normalizations of a transformer block.
const LAYER_NORM_EPS: f64 = 1e-5;

/// What the pixels attend to, prepared once for all layers.
pub(crate) struct Context {
    states: Tensor<3>,
    bias: Option<Tensor<4>>,
}

impl Context {
    /// Of the tokens of a condition. Without any, each row has one token that is all zeros.
    pub(crate) fn of(tokens: Option<&Tokens>, [batch, width]: [usize; 2], like: &Tensor<4>, pass: &Pass<'_>) -> Self {
        let states = match tokens {
            Some(tokens) => tokens.states.clone(),
            None => Tensor::zeros([batch, 1, width], (&like.device(), like.dtype())),
        };
        let bias = tokens.and_then(|tokens| tokens.mask.clone()).map(mask_bias);
        Self { states: pass.precision.carried(states), bias }
    }
}

/// A group normalization, a projection, transformer blocks and another projection, with a residual connection.
#[derive(Module, Debug)]
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl Transformer {
    pub(crate) fn init(&self, channels: usize, device: &Device) -> SpatialTransformer {
        let projection = |start| match self.linear_projection {
            true => Projection::Dense(linear(channels, channels, start, device)),
            false => Projection::Conv(conv1x1([channels; 2], start, device)),
        };
        SpatialTransformer {
            norm: Norm { groups: self.norm_groups, eps: GROUP_NORM_EPS }.init(channels, device),
            proj_in: projection(Start::Random),
            transformer_blocks: (0..self.depth).map(|_| self.block(channels, device)).collect(),
            proj_out: projection(Start::Zero),
        }
    }

    fn block(&self, channels: usize, device: &Device) -> TransformerBlock {
        let norm = || LayerNormConfig::new(channels).with_epsilon(LAYER_NORM_EPS).init(device);
        let attention = |token_width| {
            let config = TokenAttentionConfig { channels, token_width, heads: self.heads, bias: false };
            config.init(Start::Random, device)
        };
        TransformerBlock {
            norm1: norm(),
            attn1: attention(channels),
            norm2: norm(),
            attn2: attention(self.token_width),
            norm3: norm(),
            ff: FeedForward::init(channels, Activation::GatedGelu, device),
        }
    }
}

impl SpatialTransformer {
    /// `[B, C, H, W]` to the same shape.
    pub(crate) fn forward(&self, x: Tensor<4>, context: &Context, pass: &Pass<'_>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let h = pass.layer("norm", x.clone(), |x| group_norm(&self.norm, x));
        let h = pass.layer("proj_in", h, |h| self.proj_in.forward(h, pass.precision));
        let mut h = transposed(h.reshape([batch, channels, height * width]));
        for (i, block) in self.transformer_blocks.iter().enumerate() {
            h = block.forward(h, context, &pass.inside(format_args!("transformer_blocks.{i}")));
        }
        let h = transposed(h).reshape([batch, channels, height, width]);
        let h = pass.layer("proj_out", h, |h| self.proj_out.forward(h, pass.precision));
        pass.joined("sum", add(x, h))
    }
}

/// A projection of every pixel: the same numbers, stored in one of two ways.
#[derive(Module, Debug)]
enum Projection {
    Conv(Conv2d),
    Dense(Linear),
}

impl Projection {
    fn forward(&self, x: Tensor<4>, precision: Precision) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv2d(conv, x, precision),
            Self::Dense(layer) => dense_channels(layer, x, precision),
        }
    }
}

#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: TokenAttention,
    norm2: LayerNorm,
    attn2: TokenAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn forward(&self, x: Tensor<3>, context: &Context, pass: &Pass<'_>) -> Tensor<3> {
        let normalized = |name: &str, norm: &LayerNorm, x: &Tensor<3>| {
            pass.layer(name, x.clone(), |x: Tensor<3>| layer_norm(norm, LAYER_NORM_EPS, x))
        };
        let h = normalized("norm1", &self.norm1, &x);
        let h = self.attn1.forward(h.clone(), h, None, &pass.inside(format_args!("attn1")));
        let x = add(x, h);
        let h = normalized("norm2", &self.norm2, &x);
        let (states, bias) = (context.states.clone(), context.bias.clone());
        let x = add(x, self.attn2.forward(h, states, bias, &pass.inside(format_args!("attn2"))));
        let h = normalized("norm3", &self.norm3, &x);
        pass.joined("sum", add(x, self.ff.forward(h, &pass.inside(format_args!("ff")))))
    }
}
