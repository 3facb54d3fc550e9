//! The names of improved-diffusion and guided-diffusion, where blocks are numbered through all levels.

use ddpm_model::unet::UNetConfig;

use super::modules::{Kind, Module, Place};
use super::{LayerNames, Projections, QkvOrder};

pub(super) const fn layers(order: QkvOrder) -> LayerNames {
    LayerNames {
        norm1: "in_layers.0",
        conv1: "in_layers.2",
        time: "emb_layers.1",
        norm2: "out_layers.0",
        conv2: "out_layers.3",
        shortcut: "skip_connection",
        attention_norm: "norm",
        attention: Projections::Joint("qkv", order),
        attention_out: "proj_out",
    }
}

/// A module's name. On the way down the first convolution and each downsampler count as blocks; on the way up an
/// upsampler belongs to the block before it.
pub(super) fn name(module: &Module, config: &UNetConfig) -> String {
    let blocks = config.blocks_per_level;
    let down = |level: usize, block: usize| 1 + level * (blocks + 1) + block;
    let up = |level: usize, block: usize| (config.multipliers.len() - 1 - level) * (blocks + 1) + block;
    let (op, conv) = match module.kind {
        Kind::Residual { .. } => ("", ""),
        _ => (".op", ".conv"),
    };
    match module.place {
        Place::ConvIn => "input_blocks.0.0".into(),
        Place::Time(layer) => format!("time_embed.{}", 2 * layer),
        Place::Classes => "label_emb".into(),
        Place::Augment => "augment_embedding".into(),
        // Of Stable Diffusion XL, which has no classes.
        Place::Added(layer) => format!("label_emb.0.{}", 2 * layer),
        Place::Down { level, block } => format!("input_blocks.{}.0", down(level, block)),
        Place::DownAttention { level, block } => format!("input_blocks.{}.1", down(level, block)),
        Place::Downsample { level } => format!("input_blocks.{}.0{op}", down(level, blocks)),
        Place::Middle(block) => format!("middle_block.{}", if config.middle_attention { 2 * block } else { block }),
        Place::MiddleAttention => "middle_block.1".into(),
        Place::Up { level, block } => format!("output_blocks.{}.0", up(level, block)),
        Place::UpAttention { level, block } => format!("output_blocks.{}.1", up(level, block)),
        Place::Upsample { level, attention } => {
            format!("output_blocks.{}.{}{conv}", up(level, blocks), 1 + usize::from(attention))
        }
        Place::NormOut => "out.0".into(),
        Place::ConvOut => "out.2".into(),
    }
}
