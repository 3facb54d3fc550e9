//! The bottom-up network, from an image to a state at every resolution.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use super::blocks::EncoderBlock;
use super::config::{HvaeConfig, Layout};
use super::layers::{BottleneckBlock, BottleneckConfig, apply, conv, padded, pooled};
use crate::pass::Pass;

/// The last state of every resolution, `[B, C, R, R]` by R.
pub type Activations = BTreeMap<usize, Tensor<4>>;

#[derive(Module, Debug)]
pub(super) struct Encoder {
    in_conv: Conv2d,
    enc_blocks: Vec<BottleneckBlock>,
}

impl Encoder {
    pub(super) fn init(config: &HvaeConfig, layout: &Layout, device: &Device) -> Self {
        let last_scale = (1.0 / layout.encoder.len().max(1) as f64).sqrt();
        let block = |&EncoderBlock { resolution, .. }: &EncoderBlock| {
            let width = layout.width(resolution);
            let inside = config.bottleneck(width);
            BottleneckConfig { inputs: width, inside, outputs: width, resolution, last_scale }.init(device)
        };
        Self {
            in_conv: conv([config.image_channels, config.width], 3, 1.0, device),
            enc_blocks: layout.encoder.iter().map(block).collect(),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>, layout: &Layout, pass: &Pass<'_>) -> Activations {
        let mut state = apply("in_conv", &self.in_conv, x, pass);
        let mut activations = Activations::from([(state.dims()[2], state.clone())]);
        for (i, (block, EncoderBlock { pool, .. })) in self.enc_blocks.iter().zip(&layout.encoder).enumerate() {
            state = block.residual(state, &pass.inside(format_args!("enc_blocks.{i}")));
            if let Some(factor) = pool {
                state = pooled(state, *factor);
            }
            let resolution = state.dims()[2];
            state = padded(state, layout.width(resolution));
            activations.insert(resolution, state.clone());
        }
        activations
    }
}
