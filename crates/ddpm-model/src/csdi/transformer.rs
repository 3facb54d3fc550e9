//! The transformers over the times and over the variables: one layer of PyTorch's `TransformerEncoder`, or of the package
//! `linear-attention-transformer`, whose keys the field names spell.

use burn::module::{Module, Param};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, attention, encoder_layer, gelu};

use super::layers::{apply, linear, with_rows};
use super::linear_attention::LinearEncoder;
use crate::pass::Pass;

/// Hidden width of the feed-forward part, whatever the channels.
const HIDDEN: usize = 64;

/// What the normalizations add to the variance.
const NORM_EPSILON: f64 = 1e-5;

/// One of the two kinds of transformers. There is no dropout, which the original trains with
/// at a rate of 0.1.
#[derive(Module, Debug)]
pub enum Encoder {
    /// With softmax over all pairs of places.
    Softmax(SoftmaxEncoder),
    /// With attention whose cost is linear in the number of places.
    Linear(LinearEncoder),
}

impl Encoder {
    pub(super) fn init(channels: usize, heads: usize, linear_attention: bool, device: &Device) -> Self {
        match linear_attention {
            true => Self::Linear(LinearEncoder::init(channels, heads, device)),
            false => Self::Softmax(SoftmaxEncoder::init(channels, heads, device)),
        }
    }

    /// Over the second dimension of `x`, `[B, S, N, C]`: for each of N items the places are a sequence.
    pub(super) fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        match self {
            Self::Softmax(encoder) => encoder.over_second(x, pass),
            Self::Linear(encoder) => by_items(x, |x| encoder.forward(x, pass)),
        }
    }
}

/// The items as sequences of their own, `[B, S, N, C]` as `[B N, S, C]`.
fn by_items(x: Tensor<4>, forward: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<4> {
    let [batch, places, items, channels] = x.dims();
    let sequences = x.swap_dims(1, 2).reshape([batch * items, places, channels]);
    forward(sequences).reshape([batch, items, places, channels]).swap_dims(1, 2)
}

/// PyTorch's `TransformerEncoder` of one layer.
#[derive(Module, Debug)]
pub struct SoftmaxEncoder {
    layers: Vec<EncoderLayer>,
}

impl SoftmaxEncoder {
    /// One layer.
    pub fn init(channels: usize, heads: usize, device: &Device) -> Self {
        Self { layers: vec![EncoderLayer::init(channels, heads, device)] }
    }

    fn over_second(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        self.layers.iter().enumerate().fold(x, |x, (i, layer)| {
            let fused = if pass.may_fuse() { layer.fused(x.clone()) } else { None };
            let pass = pass.inside(format_args!("layers.{i}"));
            fused.unwrap_or_else(|| by_items(x, |x| layer.forward(x, &pass)))
        })
    }

    /// `[N, S, C]` to the same shape.
    pub fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        let layers = self.layers.iter().enumerate();
        layers.fold(x, |x, (i, layer)| layer.forward(x, &pass.inside(format_args!("layers.{i}"))))
    }
}

/// PyTorch's `TransformerEncoderLayer` with normalizations after the sums and exact GELU.
#[derive(Module, Debug)]
struct EncoderLayer {
    self_attn: SelfAttention,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
}

impl EncoderLayer {
    fn init(channels: usize, heads: usize, device: &Device) -> Self {
        let norm = || LayerNormConfig::new(channels).with_epsilon(NORM_EPSILON).init(device);
        Self {
            self_attn: SelfAttention::init(channels, heads, device),
            linear1: linear(channels, HIDDEN, device),
            linear2: linear(HIDDEN, channels, device),
            norm1: norm(),
            norm2: norm(),
        }
    }

    /// By one kernel, where there is one.
    fn fused(&self, x: Tensor<4>) -> Option<Tensor<4>> {
        let dense = |linear: &Linear| Some((linear.weight.val(), linear.bias.as_ref()?.val()));
        let norm = |norm: &LayerNorm| Some((norm.gamma.val(), norm.beta.as_ref()?.val()));
        let attention = &self.self_attn;
        let layer = ddpm_kernels::EncoderLayer {
            heads: attention.heads,
            projection: (attention.in_proj_weight.val(), attention.in_proj_bias.val()),
            output: dense(&attention.out_proj)?,
            feed_forward: [dense(&self.linear1)?, dense(&self.linear2)?],
            norms: [norm(&self.norm1)?, norm(&self.norm2)?],
            epsilon: NORM_EPSILON,
        };
        encoder_layer(x, layer)
    }

    fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        let attended = self.self_attn.forward(x.clone(), &pass.inside(format_args!("self_attn")));
        let x = pass.layer("norm1", add(x, attended), |x| self.norm1.forward(x));
        let hidden = gelu(apply("linear1", &self.linear1, x.clone(), pass));
        let update = apply("linear2", &self.linear2, hidden, pass);
        pass.layer("norm2", add(x, update), |x| self.norm2.forward(x))
    }
}

/// PyTorch's `MultiheadAttention` of a sequence to itself.
#[derive(Module, Debug)]
struct SelfAttention {
    // Queries, keys and values, one below the other.
    in_proj_weight: Param<Tensor<2>>,
    in_proj_bias: Param<Tensor<1>>,
    out_proj: Linear,
    heads: usize,
}

impl SelfAttention {
    fn init(channels: usize, heads: usize, device: &Device) -> Self {
        // Variance scaling by the mean of inputs and outputs.
        let bound = (6.0 / (4 * channels) as f64).sqrt();
        let mut out_proj = linear(channels, channels, device);
        out_proj.bias = Some(Initializer::Zeros.init([channels], device));
        Self {
            in_proj_weight: Initializer::Uniform { min: -bound, max: bound }.init([3 * channels, channels], device),
            in_proj_bias: Initializer::Zeros.init([3 * channels], device),
            out_proj,
            heads,
        }
    }

    fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        let [batch, places, channels] = x.dims();
        let in_proj = with_rows(self.in_proj_weight.val(), Some(self.in_proj_bias.val()));
        let projected = apply("in_proj", &in_proj, x, pass);
        // [batch, places, channels] to the [batch, heads, width, places] that attention takes.
        let part = |i: usize| {
            let part = projected.clone().narrow(2, i * channels, channels);
            part.swap_dims(1, 2).reshape([batch, self.heads, channels / self.heads, places])
        };
        let attended = attention(part(0), part(1), part(2), pass.precision);
        let attended = pass.joined("attention", attended).reshape([batch, channels, places]).swap_dims(1, 2);
        apply("out_proj", &self.out_proj, attended, pass)
    }
}
