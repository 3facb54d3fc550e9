//! The names of diffusers' `UNet2DModel`, which are our own.

use ddpm_model::unet::UNetConfig;

use super::modules::{Kind, Module, Place};
use super::{LayerNames, Projections};

/// Queries, keys, values.
pub(super) const PROJECTIONS: [&str; 3] = ["to_q", "to_k", "to_v"];

pub(super) const LAYERS: LayerNames = LayerNames {
    norm1: "norm1",
    conv1: "conv1",
    time: "time_emb_proj",
    norm2: "norm2",
    conv2: "conv2",
    shortcut: "conv_shortcut",
    attention_norm: "group_norm",
    attention: Projections::Apart(PROJECTIONS),
    attention_out: "to_out.0",
};

pub(super) const OLD_LAYERS: LayerNames =
    LayerNames { attention: Projections::Apart(["query", "key", "value"]), attention_out: "proj_attn", ..LAYERS };

/// A module's name. Blocks of the way up are numbered from the deepest.
pub(super) fn name(module: &Module, config: &UNetConfig) -> String {
    let up = |level| config.multipliers.len() - 1 - level;
    // A convolution is in a module of its own, a residual block does not.
    let resampler = match module.kind {
        Kind::Residual { .. } => "",
        _ => ".conv",
    };
    match module.place {
        Place::ConvIn => "conv_in".into(),
        Place::Time(layer) => format!("time_embedding.linear_{}", layer + 1),
        Place::Classes => "class_embedding".into(),
        Place::Augment => "augment_embedding".into(),
        Place::Added(layer) => format!("add_embedding.linear_{}", layer + 1),
        Place::Down { level, block } => format!("down_blocks.{level}.resnets.{block}"),
        Place::DownAttention { level, block } => format!("down_blocks.{level}.attentions.{block}"),
        Place::Downsample { level } => format!("down_blocks.{level}.downsamplers.0{resampler}"),
        Place::Middle(block) => format!("mid_block.resnets.{block}"),
        Place::MiddleAttention => "mid_block.attentions.0".into(),
        Place::Up { level, block } => format!("up_blocks.{}.resnets.{block}", up(level)),
        Place::UpAttention { level, block } => format!("up_blocks.{}.attentions.{block}", up(level)),
        Place::Upsample { level, .. } => format!("up_blocks.{}.upsamplers.0{resampler}", up(level)),
        Place::NormOut => "conv_norm_out".into(),
        Place::ConvOut => "conv_out".into(),
    }
}
