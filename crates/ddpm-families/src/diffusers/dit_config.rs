//! `config.json` of a `DiTTransformer2DModel` and [`DiTConfig`], in both directions.

use ddpm_model::dit::DiTConfig;
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::network::NetworkError;
use serde_json::{Value, json};

use super::json::Keys;
use super::unet_config::{MOST_BLOCKS, MOST_CHANNELS, MOST_PIXELS};
use super::{DiffusersError, VERSION};

/// The class of a diffusion transformer.
pub const CLASS: &str = "DiTTransformer2DModel";

const KNOWN: [&str; 17] = [
    "activation_fn",
    "attention_bias",
    "attention_head_dim",
    "dropout",
    "in_channels",
    "norm_elementwise_affine",
    "norm_eps",
    "norm_num_groups",
    "norm_type",
    "num_attention_heads",
    "num_embeds_ada_norm",
    "num_layers",
    "out_channels",
    "patch_size",
    "sample_size",
    "upcast_attention",
    // Of the class that it was published under.
    "attention_type",
];

/// A `config.json` in our words.
pub fn read(json: &Value) -> Result<DiTConfig, DiffusersError> {
    let keys = Keys::of(json)?;
    // The published files have the class of diffusers' first releases, which is more general.
    keys.word("_class_name", None, &[(CLASS, ()), ("Transformer2DModel", ())])?;
    keys.only(&KNOWN)?;
    keys.must_be("activation_fn", "gelu-approximate")?;
    keys.must_be("attention_bias", true)?;
    keys.must_be("attention_type", "default")?;
    keys.must_be("norm_elementwise_affine", false)?;
    keys.must_be("norm_type", "ada_norm_zero")?;
    let count = |key: &str, default: usize| keys.whole(key, Some(default), MOST_CHANNELS);
    let heads = count("num_attention_heads", 16)?;
    let in_channels = count("in_channels", 4)?;
    let config = DiTConfig {
        in_channels,
        out_channels: count("out_channels", in_channels)?,
        sample_size: keys.whole("sample_size", Some(32), MOST_PIXELS)?,
        patch_size: keys.whole("patch_size", Some(2), MOST_PIXELS)?,
        hidden_size: heads.saturating_mul(count("attention_head_dim", 72)?),
        depth: keys.whole("num_layers", Some(28), MOST_BLOCKS)?,
        heads,
        norm_eps: keys.number("norm_eps", 1e-5)?,
        shared_embedding: false,
        embedding: SinusoidConfig { order: SinusoidOrder::CosSin, frequency_shift: 1 },
        classes: count("num_embeds_ada_norm", 1000)?,
        null_class: true,
        ..DiTConfig::default()
    };
    let problems = config.problems(&[config.in_channels, config.sample_size, config.sample_size]);
    match problems.is_empty() {
        true => Ok(config),
        false => Err(NetworkError::Config { problems }.into()),
    }
}

/// Our words as a `config.json`, or why there is none.
pub fn write(config: &DiTConfig) -> Result<Value, String> {
    if config.token_width > 0 {
        return Err("it attends to the tokens of a condition (model.token_width)".into());
    }
    if config.shared_embedding {
        return Err("its blocks share one embedding of time and class (model.shared_embedding)".into());
    }
    if config.classes == 0 || !config.null_class {
        return Err("it has no classes with a null class (model.classes, model.null_class)".into());
    }
    let usual = SinusoidConfig { order: SinusoidOrder::CosSin, frequency_shift: 1 };
    if config.embedding != usual {
        return Err("its embedding of the time is another one (model.embedding)".into());
    }
    Ok(json!({
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "activation_fn": "gelu-approximate",
        "attention_bias": true,
        "attention_head_dim": config.hidden_size / config.heads.max(1),
        "dropout": 0.0,
        "in_channels": config.in_channels,
        "norm_elementwise_affine": false,
        "norm_eps": config.norm_eps,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": config.heads,
        "num_embeds_ada_norm": config.classes,
        "num_layers": config.depth,
        "out_channels": config.out_channels,
        "patch_size": config.patch_size,
        "sample_size": config.sample_size,
        "upcast_attention": false,
    }))
}
