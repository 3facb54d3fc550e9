//! `config.json` of an `AutoencoderKL` or `AutoencoderTiny`, and our configs of them, in both directions.
//!
//! A key that is absent means what diffusers' code has as its default.

use ddpm_model::autoencoder::{AutoencoderKLConfig, AutoencoderTinyConfig, VqModelConfig};
use ddpm_model::network::{NetworkError, Problem};
use serde_json::{Value, json};

use super::json::Keys;
use super::unet_config::{MOST_BLOCKS, MOST_CHANNELS, MOST_LEVELS, MOST_PIXELS};
use super::{DiffusersError, VERSION};

/// The class of the autoencoder of latent diffusion.
pub const KL_CLASS: &str = "AutoencoderKL";
/// The class of TAESD.
pub const TINY_CLASS: &str = "AutoencoderTiny";
/// The class of the autoencoder with a codebook.
pub const VQ_CLASS: &str = "VQModel";

/// The only blocks that levels are made of.
const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";
/// No real codebook comes near; a larger claim is refused before memory is taken.
const MOST_CODES: usize = 1 << 24;

const KNOWN_KL: [&str; 18] = [
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "force_upcast",
    "in_channels",
    "latent_channels",
    "latents_mean",
    "latents_std",
    "layers_per_block",
    "mid_block_add_attention",
    "norm_num_groups",
    "out_channels",
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "up_block_types",
    "use_post_quant_conv",
    "use_quant_conv",
];

const KNOWN_VQ: [&str; 18] = [
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "force_upcast",
    "in_channels",
    "latent_channels",
    "layers_per_block",
    "lookup_from_codebook",
    "mid_block_add_attention",
    "norm_num_groups",
    "norm_type",
    "num_vq_embeddings",
    "out_channels",
    "sample_size",
    "scaling_factor",
    "up_block_types",
    "vq_embed_dim",
    // Of diffusers' first releases, without a meaning today.
    "double_z",
];

const KNOWN_TINY: [&str; 17] = [
    "act_fn",
    // A copy of the encoder's that diffusers writes and does not read.
    "block_out_channels",
    "decoder_block_out_channels",
    "encoder_block_out_channels",
    "force_upcast",
    "in_channels",
    "latent_channels",
    "latent_magnitude",
    "latent_shift",
    "num_decoder_blocks",
    "num_encoder_blocks",
    "out_channels",
    "scaling_factor",
    "shift_factor",
    "upsample_fn",
    "upsampling_scaling_factor",
    "sample_size",
];

/// The config of an `AutoencoderKL`.
pub fn read(json: &Value) -> Result<AutoencoderKLConfig, DiffusersError> {
    let keys = Keys::of(json)?;
    keys.word("_class_name", None, &[(KL_CLASS, ())])?;
    keys.only(&KNOWN_KL)?;
    let config = networks(keys, &AutoencoderKLConfig::default())?;
    without_problems(config.problems())?;
    Ok(config)
}

/// The config of a `VQModel`.
pub fn read_vq(json: &Value) -> Result<VqModelConfig, DiffusersError> {
    let keys = Keys::of(json)?;
    keys.word("_class_name", None, &[(VQ_CLASS, ())])?;
    keys.only(&KNOWN_VQ)?;
    keys.must_be("norm_type", "group")?;
    keys.must_be("lookup_from_codebook", false)?;
    let usual = VqModelConfig::default();
    let networks = networks(keys, &usual.networks)?;
    let latent = networks.latent_channels;
    let config = VqModelConfig {
        num_vq_embeddings: keys.whole("num_vq_embeddings", Some(usual.num_vq_embeddings), MOST_CODES)?,
        vq_embed_dim: keys.whole("vq_embed_dim", Some(latent), MOST_CHANNELS)?,
        networks,
    };
    without_problems(config.problems())?;
    Ok(config)
}

/// What an `AutoencoderKL` and a `VQModel` have in common.
fn networks(keys: Keys<'_>, usual: &AutoencoderKLConfig) -> Result<AutoencoderKLConfig, DiffusersError> {
    keys.word("act_fn", Some(()), &[("silu", ()), ("swish", ())])?;
    let count = |key: &str, default: usize| keys.whole(key, Some(default), MOST_CHANNELS);
    let block_out_channels =
        keys.wholes("block_out_channels", &usual.block_out_channels, MOST_LEVELS, [1, MOST_CHANNELS])?;
    check_blocks(keys, "down_block_types", DOWN_BLOCK, block_out_channels.len())?;
    check_blocks(keys, "up_block_types", UP_BLOCK, block_out_channels.len())?;
    Ok(AutoencoderKLConfig {
        in_channels: count("in_channels", usual.in_channels)?,
        out_channels: count("out_channels", usual.out_channels)?,
        block_out_channels,
        layers_per_block: keys.whole("layers_per_block", Some(usual.layers_per_block), MOST_BLOCKS)?,
        latent_channels: count("latent_channels", usual.latent_channels)?,
        norm_num_groups: count("norm_num_groups", usual.norm_num_groups)?,
        sample_size: sample_size(keys, usual.sample_size)?,
        scaling_factor: keys.number("scaling_factor", usual.scaling_factor)?,
        shift_factor: optional(keys, "shift_factor", |keys, key| keys.number(key, 0.0))?,
        latents_mean: optional(keys, "latents_mean", numbers)?,
        latents_std: optional(keys, "latents_std", numbers)?,
        force_upcast: keys.flag("force_upcast", usual.force_upcast)?,
        use_quant_conv: keys.flag("use_quant_conv", usual.use_quant_conv)?,
        use_post_quant_conv: keys.flag("use_post_quant_conv", usual.use_post_quant_conv)?,
        mid_block_add_attention: keys.flag("mid_block_add_attention", usual.mid_block_add_attention)?,
    })
}

/// An `AutoencoderKL` as diffusers describes it, with every key that it writes.
pub fn write(config: &AutoencoderKLConfig) -> Value {
    let levels = config.block_out_channels.len();
    json!({
        "_class_name": KL_CLASS,
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": config.block_out_channels,
        "down_block_types": vec![DOWN_BLOCK; levels],
        "force_upcast": config.force_upcast,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "latents_mean": config.latents_mean,
        "latents_std": config.latents_std,
        "layers_per_block": config.layers_per_block,
        "mid_block_add_attention": config.mid_block_add_attention,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "sample_size": config.sample_size,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor,
        "up_block_types": vec![UP_BLOCK; levels],
        "use_post_quant_conv": config.use_post_quant_conv,
        "use_quant_conv": config.use_quant_conv,
    })
}

/// The config of an `AutoencoderTiny`.
pub fn read_tiny(json: &Value) -> Result<AutoencoderTinyConfig, DiffusersError> {
    let keys = Keys::of(json)?;
    keys.word("_class_name", None, &[(TINY_CLASS, ())])?;
    keys.only(&KNOWN_TINY)?;
    keys.must_be("act_fn", "relu")?;
    keys.must_be("upsample_fn", "nearest")?;
    keys.must_be("upsampling_scaling_factor", 2)?;
    let usual = AutoencoderTinyConfig::default();
    let count = |key: &str, default: usize| keys.whole(key, Some(default), MOST_CHANNELS);
    let widths = |key: &str, default: &[usize]| keys.wholes(key, default, MOST_LEVELS, [1, MOST_CHANNELS]);
    let blocks = |key: &str, default: &[usize]| keys.wholes(key, default, MOST_LEVELS, [0, MOST_BLOCKS]);
    let config = AutoencoderTinyConfig {
        in_channels: count("in_channels", usual.in_channels)?,
        out_channels: count("out_channels", usual.out_channels)?,
        encoder_block_out_channels: widths("encoder_block_out_channels", &usual.encoder_block_out_channels)?,
        decoder_block_out_channels: widths("decoder_block_out_channels", &usual.decoder_block_out_channels)?,
        latent_channels: count("latent_channels", usual.latent_channels)?,
        num_encoder_blocks: blocks("num_encoder_blocks", &usual.num_encoder_blocks)?,
        num_decoder_blocks: blocks("num_decoder_blocks", &usual.num_decoder_blocks)?,
        latent_magnitude: keys.number("latent_magnitude", usual.latent_magnitude)?,
        latent_shift: keys.number("latent_shift", usual.latent_shift)?,
        scaling_factor: keys.number("scaling_factor", usual.scaling_factor)?,
        shift_factor: keys.number("shift_factor", usual.shift_factor)?,
        force_upcast: keys.flag("force_upcast", usual.force_upcast)?,
    };
    without_problems(config.problems())?;
    Ok(config)
}

/// An `AutoencoderTiny` as diffusers describes it, with every key that it writes.
pub fn write_tiny(config: &AutoencoderTinyConfig) -> Value {
    json!({
        "_class_name": TINY_CLASS,
        "_diffusers_version": VERSION,
        "act_fn": "relu",
        "block_out_channels": config.encoder_block_out_channels,
        "decoder_block_out_channels": config.decoder_block_out_channels,
        "encoder_block_out_channels": config.encoder_block_out_channels,
        "force_upcast": config.force_upcast,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "latent_magnitude": config.latent_magnitude,
        "latent_shift": config.latent_shift,
        "num_decoder_blocks": config.num_decoder_blocks,
        "num_encoder_blocks": config.num_encoder_blocks,
        "out_channels": config.out_channels,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    })
}

/// One block for each level, all of the one supported kind.
fn check_blocks(keys: Keys<'_>, key: &str, block: &str, levels: usize) -> Result<(), DiffusersError> {
    let expected = || format!("{levels} times {block}, once for each of block_out_channels");
    let blocks = match keys.has(key) {
        true => keys.list(key, MOST_LEVELS)?,
        // The default is one block.
        false if levels == 1 => return Ok(()),
        false => return Err(keys.refuse(key, &expected())),
    };
    let fits = blocks.len() == levels && blocks.iter().all(|name| name.as_str() == Some(block));
    if fits { Ok(()) } else { Err(keys.refuse(key, &expected())) }
}

/// A number for squares; of height and width diffusers uses the first.
fn sample_size(keys: Keys<'_>, default: usize) -> Result<usize, DiffusersError> {
    match keys.get("sample_size") {
        Value::Array(_) => Ok(keys.wholes("sample_size", &[], 2, [1, MOST_PIXELS])?[0]),
        _ => keys.whole("sample_size", Some(default), MOST_PIXELS),
    }
}

/// The value of a key, or none where it is absent or `null`.
fn optional<'a, T>(
    keys: Keys<'a>,
    key: &str,
    read: impl FnOnce(Keys<'a>, &str) -> Result<T, DiffusersError>,
) -> Result<Option<T>, DiffusersError> {
    match keys.get(key) {
        Value::Null => Ok(None),
        _ => read(keys, key).map(Some),
    }
}

fn numbers(keys: Keys<'_>, key: &str) -> Result<Vec<f64>, DiffusersError> {
    let list: Option<Vec<f64>> = keys.list(key, MOST_CHANNELS)?.iter().map(Value::as_f64).collect();
    list.ok_or_else(|| keys.refuse(key, "a list of numbers"))
}

fn without_problems(problems: Vec<Problem>) -> Result<(), DiffusersError> {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(DiffusersError::Network(NetworkError::Config { problems })),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stable_diffusion() -> AutoencoderKLConfig {
        AutoencoderKLConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            sample_size: 512,
            ..AutoencoderKLConfig::default()
        }
    }

    #[test]
    fn configs_lead_there_and_back() {
        let shifted = AutoencoderKLConfig {
            shift_factor: Some(0.0609),
            use_quant_conv: false,
            use_post_quant_conv: false,
            mid_block_add_attention: false,
            force_upcast: false,
            ..stable_diffusion()
        };
        let [mean, std] = [vec![0.5, -1.0, 0.0, 2.0], vec![1.0, 2.0, 3.0, 4.0]].map(Some);
        let standardized = AutoencoderKLConfig { latents_mean: mean, latents_std: std, ..stable_diffusion() };
        for config in [stable_diffusion(), shifted, standardized] {
            assert_eq!(read(&write(&config)).unwrap(), config);
        }
        let tiny = AutoencoderTinyConfig { latent_magnitude: 2.5, ..AutoencoderTinyConfig::default() };
        assert_eq!(read_tiny(&write_tiny(&tiny)).unwrap(), tiny);
    }

    #[test]
    fn absent_keys_are_the_defaults_of_diffusers() {
        let json = json!({"_class_name": KL_CLASS, "_diffusers_version": "0.2.2"});
        assert_eq!(read(&json).unwrap(), AutoencoderKLConfig::default());
        let json = json!({"_class_name": TINY_CLASS});
        assert_eq!(read_tiny(&json).unwrap(), AutoencoderTinyConfig::default());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_key() {
        let refuse = |key: &str, value: Value, parts: &[&str]| {
            let mut json = write(&stable_diffusion());
            json[key] = value;
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains(key) && parts.iter().all(|part| message.contains(part)), "{message}");
        };
        refuse("_class_name", json!("UNet2DModel"), &["UNet2DModel", KL_CLASS]);
        refuse("act_fn", json!("relu"), &["silu"]);
        refuse("quantum", json!(1), &["not known"]);
        refuse("down_block_types", json!(vec![DOWN_BLOCK; 3]), &["4 times DownEncoderBlock2D"]);
        refuse("up_block_types", json!(vec!["UpBlock2D"; 4]), &["UpBlock2D", UP_BLOCK]);
        refuse("block_out_channels", json!([0, 1, 2, 3]), &["from 1"]);
        refuse("norm_num_groups", json!(48), &["128 channels do not divide into 48 groups"]);
        refuse("scaling_factor", json!("big"), &["a number"]);
        refuse("latents_mean", json!([1, 2, 3, 4]), &["latents_std"]);
        refuse("layers_per_block", json!(1u64 << 40), &["up to 64"]);
        refuse("sample_size", json!([512, 0]), &["from 1"]);

        let mut json = write_tiny(&AutoencoderTinyConfig::default());
        json["upsampling_scaling_factor"] = json!(4);
        assert!(read_tiny(&json).unwrap_err().to_string().contains("upsampling_scaling_factor = 4"));
        assert!(read_tiny(&write(&stable_diffusion())).unwrap_err().to_string().contains(TINY_CLASS));
    }
}
