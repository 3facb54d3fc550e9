//! The attention after a residual block: self-attention, or a transformer that attends to the condition as well.

use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{Device, Tensor};

use super::attention::SelfAttention;
use super::transformer::{Context, SpatialTransformer};
use crate::pass::Pass;

/// One of the two kinds. Unlike with a derived enum, the paths of the parameters do not name the kind: those of the
/// self-attention are in the checkpoints of all runs.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // One per block: a box would save nothing.
pub(crate) enum AttentionLayer {
    SelfAttention(SelfAttention),
    Transformer(SpatialTransformer),
}

impl AttentionLayer {
    /// `[B, C, H, W]` to the same shape. A network with transformers has a context.
    pub(crate) fn forward(&self, x: Tensor<4>, context: Option<&Context>, pass: &Pass<'_>) -> Tensor<4> {
        match (self, context) {
            (Self::SelfAttention(attention), _) => attention.forward(x, pass),
            (Self::Transformer(transformer), Some(context)) => transformer.forward(x, context, pass),
            (Self::Transformer(_), None) => x,
        }
    }
}

/// The same method of the module inside.
macro_rules! inner {
    ($this:expr, $module:ident => $call:expr) => {
        match $this {
            AttentionLayer::SelfAttention($module) => $call,
            AttentionLayer::Transformer($module) => $call,
        }
    };
}

/// The same method of the module inside, which gives a module of its type.
macro_rules! rewrapped {
    ($this:expr, $module:ident => $call:expr) => {
        match $this {
            AttentionLayer::SelfAttention($module) => AttentionLayer::SelfAttention($call),
            AttentionLayer::Transformer($module) => AttentionLayer::Transformer($call),
        }
    };
}

impl Module for AttentionLayer {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        inner!(self, module => module.visit(visitor));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        rewrapped!(self, module => module.map(mapper))
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        inner!(self, module => module.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        rewrapped!(self, module => module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        rewrapped!(self, module => module.to_device(device))
    }

    fn train(self) -> Self {
        rewrapped!(self, module => module.train())
    }

    fn valid(&self) -> Self {
        rewrapped!(self, module => module.valid())
    }

    fn materialize(self) -> Self {
        rewrapped!(self, module => module.materialize())
    }

    fn num_params(&self) -> usize {
        inner!(self, module => Module::num_params(module))
    }
}

impl std::fmt::Display for AttentionLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ModuleDisplay::format(self, DisplaySettings::default()))
    }
}

impl ModuleDisplayDefault for AttentionLayer {
    fn content(&self, content: Content) -> Option<Content> {
        inner!(self, module => ModuleDisplayDefault::content(module, content))
    }

    fn num_params(&self) -> usize {
        inner!(self, module => Module::num_params(module))
    }
}

impl ModuleDisplay for AttentionLayer {
    fn format(&self, settings: DisplaySettings) -> String {
        inner!(self, module => ModuleDisplay::format(module, settings))
    }
}
