//! `config.json` of a `DiTTransformer2DModel` as a [`DiTConfig`].

use ddpm_model::dit::DiTConfig;
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::network::NetworkError;
use serde_json::Value;

use super::DiffusersError;
use super::json::Keys;
use super::unet_config::{MOST_BLOCKS, MOST_CHANNELS, MOST_PIXELS};

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
