//! A U-Net with cross-attention as the `config.json` of a `UNet2DConditionModel`.

use ddpm_model::embedding::SinusoidOrder;
use ddpm_model::unet::{DownsamplePadding, MiddleNorm, Resampling, TimeShift, UNetConfig};
use serde_json::{Value, json};

use super::VERSION;

/// The class in diffusers.
pub const CONDITION_CLASS: &str = "UNet2DConditionModel";

/// Our words as a `config.json`, or why there is none.
pub fn write(config: &UNetConfig, size: [usize; 2]) -> Result<Value, String> {
    let Some(cross) = &config.cross_attention else {
        return Err("its network attends to no tokens (model.cross_attention)".into());
    };
    if let Some(reason) = inexpressible(config) {
        return Err(reason);
    }
    let channels = config.level_channels();
    let levels = 0..channels.len();
    let heads = |level: usize| cross.heads_at(level).unwrap_or(config.heads.count(channels[level]));
    let name = |level: usize, way: &str| match config.attends(level) {
        true => format!("CrossAttn{way}Block2D"),
        false => format!("{way}Block2D"),
    };
    Ok(json!({
        "_class_name": CONDITION_CLASS,
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        // The number of heads, whatever the name says.
        "attention_head_dim": levels.clone().map(heads).collect::<Vec<_>>(),
        "block_out_channels": channels,
        "center_input_sample": false,
        "cross_attention_dim": cross.token_width,
        "down_block_types": levels.clone().map(|level| name(level, "Down")).collect::<Vec<_>>(),
        "downsample_padding": match config.downsample_padding {
            DownsamplePadding::RightBottom => 0,
            DownsamplePadding::Symmetric => 1,
        },
        "dropout": config.dropout,
        "flip_sin_to_cos": config.embedding.order == SinusoidOrder::CosSin,
        "freq_shift": config.embedding.frequency_shift,
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks_per_level,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.out_channels,
        "resnet_time_scale_shift": match config.time_shift {
            TimeShift::Additive => "default",
            TimeShift::ScaleShift => "scale_shift",
        },
        "sample_size": if size[0] == size[1] { json!(size[0]) } else { json!(size) },
        "transformer_layers_per_block": levels.clone().map(|level| cross.depth_at(level)).collect::<Vec<_>>(),
        "up_block_types": levels.rev().map(|level| name(level, "Up")).collect::<Vec<_>>(),
        "use_linear_projection": cross.linear_projection,
    }))
}

/// What of a network diffusers has no word for.
fn inexpressible(config: &UNetConfig) -> Option<String> {
    let channels = config.level_channels();
    let added = config.cross_attention.as_ref().is_some_and(|cross| cross.added.is_some());
    let reasons = [
        (added, "its pipeline gives no added embeddings (model.cross_attention.added)"),
        (config.classes > 0, "it has classes besides its prompts (model.classes)"),
        (config.augment_dim > 0, "it was told how its training images were changed (augment.probability)"),
        (!config.middle_attention, "its middle has no transformer (model.middle_attention)"),
        (config.middle_attention_norm != MiddleNorm::Same, "its middle has another norm (model.middle_attention_norm)"),
        (config.resampling != Resampling::Conv, "it resamples in residual blocks (model.resampling)"),
        (config.heads_up.is_some(), "it has other heads on the way up (model.heads_up)"),
        (
            channels.first() != Some(&config.base_channels),
            "its first level has other channels than its first convolution (model.multipliers)",
        ),
    ];
    reasons.into_iter().find(|(applies, _)| *applies).map(|(_, reason)| reason.to_string())
}
