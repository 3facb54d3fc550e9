//! The names of pesser's PyTorch translation of the original DDPM, which numbers levels from the image on both ways.

use super::modules::{Module, Place};
use super::{LayerNames, Projections};

pub(super) const LAYERS: LayerNames = LayerNames {
    norm1: "norm1",
    conv1: "conv1",
    time: "temb_proj",
    norm2: "norm2",
    conv2: "conv2",
    shortcut: "nin_shortcut",
    attention_norm: "norm",
    attention: Projections::Apart(["q", "k", "v"]),
    attention_out: "proj_out",
};

/// A module's name. There are no residual resamplers and no classes there; both would show as unexpected keys.
pub(super) fn name(module: &Module) -> String {
    match module.place {
        Place::ConvIn => "conv_in".into(),
        Place::Time(layer) => format!("temb.dense.{layer}"),
        Place::Classes => "class_embedding".into(),
        Place::Augment => "augment_embedding".into(),
        Place::Added(layer) => format!("add_embedding.linear_{}", layer + 1),
        Place::Down { level, block } => format!("down.{level}.block.{block}"),
        Place::DownAttention { level, block } => format!("down.{level}.attn.{block}"),
        Place::Downsample { level } => format!("down.{level}.downsample.conv"),
        Place::Middle(block) => format!("mid.block_{}", block + 1),
        Place::MiddleAttention => "mid.attn_1".into(),
        Place::Up { level, block } => format!("up.{level}.block.{block}"),
        Place::UpAttention { level, block } => format!("up.{level}.attn.{block}"),
        Place::Upsample { level, .. } => format!("up.{level}.upsample.conv"),
        Place::NormOut => "norm_out".into(),
        Place::ConvOut => "conv_out".into(),
    }
}
