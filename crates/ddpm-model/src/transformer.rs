//! What the transformers of several networks share: attention between sequences of tokens, `[batch, tokens, channels]`.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{dense, gated_gelu, tanh_gelu, token_attention};

use crate::pass::Pass;
use crate::unet::layers::{Start, linear, unbiased};

/// How many times as wide a feed-forward part is inside.
const WIDENING: usize = 4;

/// Added to a score that must not count: softmax makes 0 of it.
pub(crate) const HIDDEN: f64 = -1e9;

/// Attention of queries `[B, Q, C]` to keys and values `[B, K, C]`, with the channels shared among the heads; `bias` is added
/// to the scores, `[B, heads, Q, K]` or 1 in place of the first three. Gives `[B, Q, C]`.
pub(crate) fn attend([q, k, v]: [Tensor<3>; 3], heads: usize, bias: Option<Tensor<4>>, pass: &Pass<'_>) -> Tensor<3> {
    pass.joined("attention", token_attention([q, k, v], heads, bias, pass.precision))
}

/// A dense layer on every token.
pub(crate) fn apply<const D: usize>(name: &str, linear: &Linear, x: Tensor<D>, pass: &Pass<'_>) -> Tensor<D> {
    pass.layer(name, x, |x| dense(linear, x, pass.precision))
}

/// The bias that hides what comes later in a sequence of so many tokens: `[1, 1, Q, K]`.
pub(crate) fn causal_bias(tokens: usize, device: &Device) -> Tensor<4> {
    let hidden = (0..tokens).flat_map(|query| (0..tokens).map(move |key| if key > query { HIDDEN } else { 0.0 }));
    let hidden: Vec<f32> = hidden.map(|bias| bias as f32).collect();
    Tensor::<1>::from_floats(hidden.as_slice(), device).reshape([1, 1, tokens, tokens])
}

/// The bias that hides the tokens whose mask `[B, K]` is 0: `[B, 1, 1, K]`.
pub(crate) fn mask_bias(mask: Tensor<2>) -> Tensor<4> {
    let [batch, tokens] = mask.dims();
    ((-mask + 1.0) * HIDDEN).reshape([batch, 1, 1, tokens])
}

/// Attention from tokens of `channels` to others, or to themselves.
#[derive(Clone, Copy)]
pub(crate) struct TokenAttentionConfig {
    pub(crate) channels: usize,
    /// Width of those that are attended to.
    pub(crate) token_width: usize,
    pub(crate) heads: usize,
    /// Whether queries, keys and values have a bias.
    pub(crate) bias: bool,
}

impl TokenAttentionConfig {
    /// With these initial weights of the last projection.
    pub(crate) fn init(&self, out: Start, device: &Device) -> TokenAttention {
        let project = |inputs| match self.bias {
            true => linear(inputs, self.channels, Start::Random, device),
            false => unbiased(inputs, self.channels, device),
        };
        TokenAttention {
            to_q: project(self.channels),
            to_k: project(self.token_width),
            to_v: project(self.token_width),
            to_out: vec![linear(self.channels, self.channels, out, device)],
            heads: self.heads,
        }
    }
}

/// The module; the names of its fields are those of diffusers' files.
#[derive(Module, Debug)]
pub(crate) struct TokenAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    // diffusers keeps the projection in a list, so its key is `to_out.0`.
    to_out: Vec<Linear>,
    heads: usize,
}

impl TokenAttention {
    /// From `x` `[B, Q, C]` to `[B, K, D]`; gives `[B, Q, C]`.
    pub(crate) fn forward(&self, x: Tensor<3>, to: Tensor<3>, bias: Option<Tensor<4>>, pass: &Pass<'_>) -> Tensor<3> {
        let q = apply("to_q", &self.to_q, x, pass);
        let k = apply("to_k", &self.to_k, to.clone(), pass);
        let v = apply("to_v", &self.to_v, to, pass);
        let h = attend([q, k, v], self.heads, bias, pass);
        self.to_out.iter().fold(h, |h, layer| apply("to_out.0", layer, h, pass))
    }
}

/// The activation inside a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// A gated linear unit (Shazeer 2020): values times the exact GELU of as many gates.
    GatedGelu,
    /// GELU by the hyperbolic tangent.
    TanhGelu,
}

/// Two dense layers on every token. diffusers numbers the layers, so their keys are `net.0.proj` and `net.2`.
#[derive(Module, Debug)]
pub(crate) struct FeedForward {
    net: Vec<FeedForwardLayer>,
}

#[derive(Module, Debug)]
enum FeedForwardLayer {
    Widening(Widening),
    /// It has a number of its own, but nothing to do here.
    Dropout(Dropout),
    Dense(Linear),
}

#[derive(Module, Debug)]
struct Dropout {}

#[derive(Module, Debug)]
struct Widening {
    proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    pub(crate) fn init(channels: usize, activation: Activation, device: &Device) -> Self {
        let inner = WIDENING * channels;
        let outputs = if activation == Activation::GatedGelu { 2 * inner } else { inner };
        let proj = linear(channels, outputs, Start::Random, device);
        let net = vec![
            FeedForwardLayer::Widening(Widening { proj, activation }),
            FeedForwardLayer::Dropout(Dropout {}),
            FeedForwardLayer::Dense(linear(inner, channels, Start::Random, device)),
        ];
        Self { net }
    }

    /// `[B, T, C]` to the same shape.
    pub(crate) fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        self.net.iter().fold(x, |x, layer| match layer {
            FeedForwardLayer::Widening(layer) => layer.forward(x, pass),
            FeedForwardLayer::Dropout(_) => x,
            FeedForwardLayer::Dense(layer) => apply("net.2", layer, x, pass),
        })
    }
}

impl Widening {
    fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        let h = apply("net.0.proj", &self.proj, x, pass);
        let h = match self.activation {
            Activation::TanhGelu => tanh_gelu(h),
            Activation::GatedGelu => gated_gelu(h),
        };
        pass.joined("net.0", h)
    }
}
