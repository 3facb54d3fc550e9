//! The transformer of the package `linear-attention-transformer` (Shen et al. 2021, arXiv:1812.01243), one layer.
//!
//! Its keys: `layers.layers.0.0` is the attention, `layers.layers.0.1` the feed-forward part, each with `norm` and, under
//! `fn`, what follows the norm.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation::softmax};
use ddpm_kernels::{add, gelu};

use super::layers::{apply, linear};
use crate::pass::Pass;

/// Hidden width of the feed-forward part, as a multiple of the channels.
const EXPANSION: usize = 4;

/// The package's `LinearAttentionTransformer`.
#[derive(Module, Debug)]
pub struct LinearEncoder {
    layers: Sequence,
}

/// The package's `SequentialSequence`.
#[derive(Module, Debug)]
struct Sequence {
    layers: Vec<(Wrapped<LinearAttention>, Wrapped<Wrapped<FeedForward>>)>,
}

impl LinearEncoder {
    pub(super) fn init(channels: usize, heads: usize, device: &Device) -> Self {
        let norm = || Some(LayerNormConfig::new(channels).init(device));
        let attention = Wrapped { norm: norm(), inner: LinearAttention::init(channels, heads, device) };
        let feed_forward = Wrapped { norm: None, inner: FeedForward::init(channels, device) };
        let layers = vec![(attention, Wrapped { norm: norm(), inner: feed_forward })];
        Self { layers: Sequence { layers } }
    }

    pub(super) fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        self.layers.layers.iter().enumerate().fold(x, |x, (i, (attention, feed_forward))| {
            let pass_of = |part: usize| pass.inside(format_args!("layers.layers.{i}.{part}"));
            let update = attention.forward(x.clone(), &pass_of(0), |inner, x, pass| inner.forward(x, pass));
            let x = add(x, update);
            let chunked = |inner: &Wrapped<FeedForward>, x, pass: &Pass<'_>| {
                inner.forward(x, pass, |inner, x, pass| inner.forward(x, pass))
            };
            add(x.clone(), feed_forward.forward(x, &pass_of(1), chunked))
        })
    }
}

/// Attention that sums keys with values first: `softmax(q) (softmax(k)^T v)`.
#[derive(Module, Debug)]
struct LinearAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl LinearAttention {
    fn init(channels: usize, heads: usize, device: &Device) -> Self {
        let without_bias = || LinearConfig::new(channels, channels).with_bias(false).init(device);
        Self {
            to_q: without_bias(),
            to_k: without_bias(),
            to_v: without_bias(),
            to_out: linear(channels, channels, device),
            heads,
        }
    }

    fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        let [batch, places, channels] = x.dims();
        let width = channels / self.heads;
        let by_heads = |name, layer| {
            let projected = apply(name, layer, x.clone(), pass);
            projected.reshape([batch, places, self.heads, width]).swap_dims(1, 2)
        };
        let q = softmax(by_heads("to_q", &self.to_q), 3) * (1.0 / (width as f64).sqrt());
        let k = softmax(by_heads("to_k", &self.to_k), 2);
        let context = k.swap_dims(2, 3).matmul(by_heads("to_v", &self.to_v));
        let attended = q.matmul(context).swap_dims(1, 2).reshape([batch, places, channels]);
        apply("to_out", &self.to_out, pass.joined("attention", attended), pass)
    }
}

#[derive(Module, Debug)]
struct FeedForward {
    w1: Linear,
    w2: Linear,
}

impl FeedForward {
    fn init(channels: usize, device: &Device) -> Self {
        let hidden = EXPANSION * channels;
        Self { w1: linear(channels, hidden, device), w2: linear(hidden, channels, device) }
    }

    fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        apply("w2", &self.w2, gelu(apply("w1", &self.w1, x, pass)), pass)
    }
}

/// A module under the key `fn`, which no field can have as its name, after a norm where there is one.
#[derive(Clone, Debug)]
struct Wrapped<M> {
    norm: Option<LayerNorm>,
    inner: M,
}

impl<M> Wrapped<M> {
    fn forward(
        &self,
        x: Tensor<3>,
        pass: &Pass<'_>,
        inner: impl FnOnce(&M, Tensor<3>, &Pass<'_>) -> Tensor<3>,
    ) -> Tensor<3> {
        let x = match &self.norm {
            Some(norm) => pass.layer("norm", x, |x| norm.forward(x)),
            None => x,
        };
        inner(&self.inner, x, &pass.inside(format_args!("fn")))
    }
}

/// The container of the two parts, as visitors see it.
const CONTAINER: &str = "Struct:Wrapped";

impl<M: Module> Module for Wrapped<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.inner.collect_devices(self.norm.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        Self { norm: self.norm.fork(device), inner: self.inner.fork(device) }
    }

    fn to_device(self, device: &Device) -> Self {
        Self { norm: self.norm.to_device(device), inner: self.inner.to_device(device) }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("norm", CONTAINER);
        self.norm.visit(visitor);
        visitor.exit_module("norm", CONTAINER);
        visitor.enter_module("fn", CONTAINER);
        self.inner.visit(visitor);
        visitor.exit_module("fn", CONTAINER);
    }

    fn map<P: ModuleMapper>(self, mapper: &mut P) -> Self {
        mapper.enter_module("norm", CONTAINER);
        let norm = Module::map(self.norm, mapper);
        mapper.exit_module("norm", CONTAINER);
        mapper.enter_module("fn", CONTAINER);
        let inner = self.inner.map(mapper);
        mapper.exit_module("fn", CONTAINER);
        Self { norm, inner }
    }

    fn valid(&self) -> Self {
        Self { norm: self.norm.valid(), inner: self.inner.valid() }
    }

    fn train(self) -> Self {
        Self { norm: Module::train(self.norm), inner: self.inner.train() }
    }

    fn materialize(self) -> Self {
        Self { norm: self.norm.materialize(), inner: self.inner.materialize() }
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Wrapped<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("norm", &self.norm).add("fn", &self.inner).optional()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Wrapped<M> {}
