//! `config.json` of a `UNet2DConditionModel` and [`UNetConfig`], in both directions.
//!
//! A key that is absent means what diffusers' code has as its default.

use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::network::NetworkError;
use ddpm_model::unet::{
    AddedEmbeddingConfig, CrossAttentionConfig, DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNetConfig,
};
use serde_json::{Value, json};

use super::json::Keys;
use super::unet_config::{MOST_BLOCKS, MOST_CHANNELS, MOST_LEVELS, UNetFile, sample_size};
use super::{DiffusersError, VERSION};

/// The class of a U-Net that attends to tokens.
pub const CLASS: &str = "UNet2DConditionModel";
/// The size that the published networks have, for a file that names none.
const USUAL_SIZE: [usize; 2] = [64, 64];
/// The size and the crop of an image, and the size that is wanted: the numbers that Stable Diffusion XL is conditioned on.
const SIZES: usize = 6;
const DOWN: [&str; 2] = ["DownBlock2D", "CrossAttnDownBlock2D"];
const UP: [&str; 2] = ["UpBlock2D", "CrossAttnUpBlock2D"];
const MIDDLE: &str = "UNetMidBlock2DCrossAttn";

/// Keys that are read.
const READ: [&str; 21] = [
    "act_fn",
    "addition_embed_type",
    "addition_time_embed_dim",
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "dropout",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "norm_eps",
    "norm_num_groups",
    "out_channels",
    "projection_class_embeddings_input_dim",
    "sample_size",
    "transformer_layers_per_block",
    "up_block_types",
    "use_linear_projection",
];

/// Keys of which only one value is supported.
fn fixed() -> [(&'static str, Value); 25] {
    [
        ("attention_type", json!("default")),
        ("center_input_sample", json!(false)),
        ("class_embed_type", Value::Null),
        ("class_embeddings_concat", json!(false)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("cross_attention_norm", Value::Null),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("mid_block_only_cross_attention", json!(false)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!(MIDDLE)),
        ("num_attention_heads", Value::Null),
        ("num_class_embeds", Value::Null),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("time_embedding_act_fn", Value::Null),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", json!("positional")),
        ("timestep_post_act", Value::Null),
    ]
}

/// Keys that say nothing here: how diffusers computes, and what only other networks read.
const IDLE: [&str; 2] = ["addition_embed_type_num_heads", "upcast_attention"];

/// A `config.json` in our words.
pub fn read(json: &Value) -> Result<UNetFile, DiffusersError> {
    let keys = Keys::of(json)?;
    keys.word("_class_name", None, &[(CLASS, ())])?;
    let known: Vec<&str> = READ.into_iter().chain(IDLE).chain(fixed().iter().map(|(key, _)| *key)).collect();
    keys.only(&known)?;
    for (key, value) in fixed() {
        keys.must_be(key, value)?;
    }
    keys.word("act_fn", Some(()), &[("silu", ()), ("swish", ())])?;
    let channels = keys.wholes("block_out_channels", &[320, 640, 1280, 1280], MOST_LEVELS, [1, MOST_CHANNELS])?;
    let levels = channels.len();
    let attention = attention(keys, levels)?;
    let size = if keys.get("sample_size").is_null() { USUAL_SIZE } else { sample_size(keys)? };
    let flipped = keys.flag("flip_sin_to_cos", true)?;
    let count = |key: &str, default: usize| keys.whole(key, Some(default), MOST_CHANNELS);
    let config = UNetConfig {
        in_channels: count("in_channels", 4)?,
        out_channels: count("out_channels", 4)?,
        sample_size: size[0],
        base_channels: channels[0],
        multipliers: channels.iter().map(|&count| count as f64 / channels[0] as f64).collect(),
        blocks_per_level: keys.whole("layers_per_block", Some(2), MOST_BLOCKS)?,
        attention_resolutions: (0..levels).filter(|&level| attention[level]).map(|level| size[0] >> level).collect(),
        heads: Heads::Count(1),
        dropout: keys.number("dropout", 0.0)?,
        norm_groups: count("norm_num_groups", 32)?,
        norm_eps: keys.number("norm_eps", 1e-5)?,
        time_shift: TimeShift::Additive,
        downsample_padding: match keys.whole("downsample_padding", Some(1), 1)? {
            0 => DownsamplePadding::RightBottom,
            _ => DownsamplePadding::Symmetric,
        },
        embedding: SinusoidConfig {
            order: if flipped { SinusoidOrder::CosSin } else { SinusoidOrder::SinCos },
            frequency_shift: keys.whole("freq_shift", Some(0), 1)?,
        },
        cross_attention: Some(CrossAttentionConfig {
            token_width: count("cross_attention_dim", 1280)?,
            depths: by_level(keys, "transformer_layers_per_block", 1, levels)?,
            // This is the number of heads, whatever its name.
            heads: by_level(keys, "attention_head_dim", 8, levels)?,
            linear_projection: keys.flag("use_linear_projection", false)?,
            added: added(keys)?,
        }),
        ..UNetConfig::default()
    };
    let problems = config.problems(&[config.out_channels, size[0], size[1]]);
    match problems.is_empty() {
        true => Ok(UNetFile { config, size }),
        false => Err(NetworkError::Config { problems }.into()),
    }
}

/// Which levels have transformers, the same on both ways.
fn attention(keys: Keys<'_>, levels: usize) -> Result<Vec<bool>, DiffusersError> {
    let way = |key: &str, [plain, attending]: [&str; 2], reversed: bool| {
        if !keys.has(key) {
            let mut usual = vec![true; 4];
            usual[if reversed { 0 } else { 3 }] = false;
            return Ok(usual);
        }
        let named = |value: &Value| match value.as_str() {
            Some(name) if name == plain => Some(false),
            Some(name) if name == attending => Some(true),
            _ => None,
        };
        let blocks: Option<Vec<bool>> = keys.list(key, MOST_LEVELS)?.iter().map(named).collect();
        blocks.ok_or_else(|| keys.refuse(key, &format!("{plain}, {attending}")))
    };
    let down = way("down_block_types", DOWN, false)?;
    if down.len() != levels {
        return Err(keys.refuse("down_block_types", &format!("{levels} blocks, as block_out_channels has")));
    }
    match way("up_block_types", UP, true)?.iter().rev().eq(&down) {
        true => Ok(down),
        false => Err(keys.refuse("up_block_types", "transformers on the levels that have them in down_block_types")),
    }
}

/// One number for all levels, or one for each.
fn by_level(keys: Keys<'_>, key: &str, default: usize, levels: usize) -> Result<Vec<usize>, DiffusersError> {
    match keys.get(key) {
        Value::Array(_) => {
            let each = keys.wholes(key, &[], MOST_LEVELS, [1, MOST_CHANNELS])?;
            if each.len() == levels { Ok(each) } else { Err(keys.refuse(key, &format!("one number, or {levels}"))) }
        }
        _ => Ok(vec![keys.whole(key, Some(default), MOST_CHANNELS)?; levels]),
    }
}

/// What is added to the embedding of the time.
fn added(keys: Keys<'_>) -> Result<Option<AddedEmbeddingConfig>, DiffusersError> {
    if keys.get("addition_embed_type").is_null() {
        return Ok(None);
    }
    keys.word("addition_embed_type", None, &[("text_time", ())])?;
    let size_width = keys.whole("addition_time_embed_dim", None, MOST_CHANNELS)?;
    let key = "projection_class_embeddings_input_dim";
    let width = keys.whole(key, None, MOST_CHANNELS)?;
    match width.checked_sub(SIZES * size_width).filter(|width| *width > 0) {
        Some(pooled_width) => Ok(Some(AddedEmbeddingConfig { pooled_width, sizes: SIZES, size_width })),
        None => Err(keys.refuse(key, &format!("more than {SIZES} times addition_time_embed_dim"))),
    }
}

/// Our words as a `config.json`, or why there is none.
pub fn write(config: &UNetConfig, size: [usize; 2]) -> Result<Value, String> {
    let Some(cross) = &config.cross_attention else {
        return Err("it attends to no tokens (model.cross_attention)".into());
    };
    if let Some(reason) = inexpressible(config) {
        return Err(reason.into());
    }
    let channels = config.level_channels();
    let levels = channels.len();
    let heads: Vec<usize> =
        (0..levels).map(|level| cross.heads_at(level).unwrap_or_else(|| config.heads.count(channels[level]))).collect();
    let name = |kinds: [&'static str; 2], level: usize| kinds[usize::from(config.attends(level))];
    let mut json = json!({
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "addition_embed_type": cross.added.map(|_| "text_time"),
        "addition_time_embed_dim": cross.added.map(|added| added.size_width),
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "cross_attention_dim": cross.token_width,
        "down_block_types": (0..levels).map(|level| name(DOWN, level)).collect::<Vec<_>>(),
        "downsample_padding": match config.downsample_padding {
            DownsamplePadding::RightBottom => 0,
            DownsamplePadding::Symmetric => 1,
        },
        "dropout": config.dropout,
        "flip_sin_to_cos": config.embedding.order == SinusoidOrder::CosSin,
        "freq_shift": config.embedding.frequency_shift,
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks_per_level,
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.out_channels,
        "projection_class_embeddings_input_dim": cross.added.map(|added| added.width()),
        "sample_size": if size[0] == size[1] { json!(size[0]) } else { json!(size) },
        "transformer_layers_per_block": (0..levels).map(|level| cross.depth_at(level)).collect::<Vec<_>>(),
        "up_block_types": (0..levels).rev().map(|level| name(UP, level)).collect::<Vec<_>>(),
        "use_linear_projection": cross.linear_projection,
    });
    for (key, value) in fixed() {
        json[key] = value;
    }
    Ok(json)
}

/// What of a network diffusers has no word for.
fn inexpressible(config: &UNetConfig) -> Option<&'static str> {
    let first = config.level_channels().first().copied();
    let reasons = [
        (config.classes > 0, "it has classes besides its tokens (model.classes)"),
        (config.augment_dim > 0, "it is conditioned on augmentation labels (augment.probability)"),
        (!config.middle_attention, "its middle has no transformer (model.middle_attention)"),
        (config.middle_attention_norm != MiddleNorm::Same, "its middle has another norm (model.middle_attention_norm)"),
        (config.time_shift != TimeShift::Additive, "its blocks are scaled by the time (model.time_shift)"),
        (config.resampling != Resampling::Conv, "it resamples in residual blocks (model.resampling)"),
        (config.heads_up.is_some(), "it has other heads on the way up (model.heads_up)"),
        (
            first != Some(config.base_channels),
            "its first level has other channels than its first convolution (model.multipliers)",
        ),
    ];
    reasons.into_iter().find(|(applies, _)| *applies).map(|(_, reason)| reason)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stable_diffusion() -> Value {
        json!({"_class_name": CLASS, "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64})
    }

    #[test]
    fn absent_keys_are_the_defaults_of_diffusers_and_what_is_read_is_written() {
        let file = read(&stable_diffusion()).unwrap();
        assert_eq!(file.config.level_channels(), [320, 640, 1280, 1280]);
        assert_eq!(file.config.attention_resolutions, [64, 32, 16]);
        let cross = file.config.cross_attention.clone().unwrap();
        assert_eq!((cross.token_width, cross.heads, cross.depths), (768, vec![8; 4], vec![1; 4]));
        assert_eq!(read(&write(&file.config, file.size).unwrap()).unwrap(), file);
        let mut xl = stable_diffusion();
        for (key, value) in [
            ("addition_embed_type", json!("text_time")),
            ("addition_time_embed_dim", json!(256)),
            ("projection_class_embeddings_input_dim", json!(2816)),
            ("transformer_layers_per_block", json!([1, 2, 10, 1])),
            ("use_linear_projection", json!(true)),
        ] {
            xl[key] = value;
        }
        let file = read(&xl).unwrap();
        let added = file.config.cross_attention.as_ref().unwrap().added.unwrap();
        assert_eq!((added.pooled_width, added.sizes, added.size_width), (1280, 6, 256));
        assert_eq!(read(&write(&file.config, file.size).unwrap()).unwrap(), file);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_key() {
        let refuse = |key: &str, value: Value, part: &str| {
            let mut json = stable_diffusion();
            json[key] = value;
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains(part), "{message}");
        };
        refuse("_class_name", json!("UNet2DModel"), CLASS);
        refuse("class_embed_type", json!("timestep"), "timestep");
        refuse("attention_head_dim", json!([8, 8]), "one number, or 4");
        refuse("up_block_types", json!(vec!["UpBlock2D"; 4]), "transformers on the levels");
        refuse("down_block_types", json!(["SimpleCrossAttnDownBlock2D"]), "CrossAttnDownBlock2D");
        refuse("addition_embed_type", json!("image"), "text_time");
        refuse("quantum", json!(1), "not known");
    }
}
