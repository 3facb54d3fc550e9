//! What diffusers writes, in our words.

use std::path::Path;

use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::Device;
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::unet::{DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNet, UNetConfig};
use serde_json::Value;

use super::{cases, whole, whole_numbers};

/// The weights of a `UNet2DModel`, under the names of today or of old.
pub fn unet_weights(path: &Path) -> SafetensorsStore {
    SafetensorsStore::from_file(path)
        .with_from_adapter(PyTorchToBurnAdapter)
        .skip_enum_variants(true)
        .with_key_remapping(r"\.query\.", ".to_q.")
        .with_key_remapping(r"\.key\.", ".to_k.")
        .with_key_remapping(r"\.value\.", ".to_v.")
        .with_key_remapping(r"\.proj_attn\.", ".to_out.0.")
}

/// The network with those weights, none of which may be missing or left over, and how many tensors they are.
pub fn load_unet(config: &UNetConfig, weights: &Path, device: &Device) -> (UNet, usize) {
    let mut network = config.init(device);
    let result = network.load_from(&mut unet_weights(weights)).unwrap();
    assert!(result.missing.is_empty() && result.errors.is_empty(), "{}: {result}", weights.display());
    assert!(result.unused.is_empty(), "{}: unused {:?}", weights.display(), result.unused);
    (network, result.applied.len())
}

/// A `config.json` of diffusers in our words. What it cannot say fails loudly.
pub fn unet_config(json: &Value) -> UNetConfig {
    let one_of = |key: &str, allowed: &[Value]| {
        assert!(allowed.contains(&json[key]), "{key} = {} is not supported", json[key]);
    };
    one_of("_class_name", &["UNet2DModel".into()]);
    one_of("act_fn", &["silu".into()]);
    one_of("center_input_sample", &[Value::Null, false.into()]);
    one_of("class_embed_type", &[Value::Null]);
    one_of("mid_block_scale_factor", &[Value::Null, 1.into(), 1.0.into()]);
    one_of("mid_block_type", &[Value::Null, "UNetMidBlock2D".into()]);
    one_of("num_train_timesteps", &[Value::Null]);
    one_of("time_embedding_dim", &[Value::Null]);
    one_of("time_embedding_type", &[Value::Null, "positional".into()]);

    let channels = whole_numbers(&json["block_out_channels"]);
    let down = blocks(json, "down_block_types", "Down");
    let up = blocks(json, "up_block_types", "Up");
    let mirrored: Vec<_> = up.iter().rev().map(|block| block.attention).collect();
    let attention: Vec<_> = down.iter().map(|block| block.attention).collect();
    assert_eq!(attention, mirrored, "attention on the way down and up must be on the same levels");
    // The last block of either way does not resample.
    let resampling: Vec<Resampling> =
        [&down, &up].into_iter().flat_map(|way| way.iter().take(way.len() - 1).map(|block| block.resampling)).collect();
    let resampling = match resampling.first() {
        None => Resampling::Conv,
        Some(&first) => {
            assert!(resampling.iter().all(|&kind| kind == first), "mixed resampling is not supported");
            first
        }
    };

    let sample_size = whole(json, "sample_size");
    let time_shift = match json["resnet_time_scale_shift"].as_str() {
        None | Some("default") => TimeShift::Additive,
        Some("scale_shift") => TimeShift::ScaleShift,
        Some(other) => panic!("resnet_time_scale_shift = {other} is not supported"),
    };
    let flip = json.get("flip_sin_to_cos").is_none_or(|flip| flip.as_bool().unwrap());
    UNetConfig {
        in_channels: whole(json, "in_channels"),
        out_channels: whole(json, "out_channels"),
        sample_size,
        base_channels: channels[0],
        multipliers: channels.iter().map(|&c| c as f64 / channels[0] as f64).collect(),
        blocks_per_level: whole(json, "layers_per_block"),
        attention_resolutions: (0..channels.len())
            .filter(|&level| attention[level])
            .map(|level| sample_size >> level)
            .collect(),
        middle_attention: json["add_attention"].as_bool().unwrap_or(true),
        middle_attention_norm: match (json["attn_norm_num_groups"].as_u64(), time_shift) {
            (Some(groups), _) => MiddleNorm::Groups(groups as usize),
            (None, TimeShift::Additive) => MiddleNorm::Same,
            (None, TimeShift::ScaleShift) => MiddleNorm::None,
        },
        heads: match json.get("attention_head_dim") {
            // Absent is not null: the code's default is 8, null is one head.
            None => Heads::Width { width: 8 },
            Some(Value::Null) => Heads::Count(1),
            Some(width) => Heads::Width { width: width.as_u64().unwrap() as usize },
        },
        dropout: json["dropout"].as_f64().unwrap_or(0.0),
        norm_groups: json["norm_num_groups"].as_u64().unwrap_or(32) as usize,
        norm_eps: json["norm_eps"].as_f64().unwrap_or(1e-5),
        time_shift,
        resampling,
        downsample_padding: match json["downsample_padding"].as_u64().unwrap_or(1) {
            0 => DownsamplePadding::RightBottom,
            1 => DownsamplePadding::Symmetric,
            other => panic!("downsample_padding = {other} is not supported"),
        },
        embedding: SinusoidConfig {
            order: if flip { SinusoidOrder::CosSin } else { SinusoidOrder::SinCos },
            frequency_shift: json["freq_shift"].as_u64().unwrap_or(0) as usize,
        },
        classes: json["num_class_embeds"].as_u64().unwrap_or(0) as usize,
        null_class: false,
    }
}

struct Block {
    attention: bool,
    resampling: Resampling,
}

/// The blocks of one way, `Down` or `Up`.
fn blocks(json: &Value, key: &str, way: &str) -> Vec<Block> {
    let plain = format!("{way}Block2D");
    let attention = format!("Attn{way}Block2D");
    let residual = format!("Resnet{way}sampleBlock2D");
    let of_attention = match json[format!("{}sample_type", way.to_lowercase())].as_str() {
        None | Some("conv") => Resampling::Conv,
        Some("resnet") => Resampling::Residual,
        Some(other) => panic!("{way}: sample_type {other} is not supported"),
    };
    cases(json, key)
        .iter()
        .map(|name| match name.as_str().unwrap() {
            name if name == plain => Block { attention: false, resampling: Resampling::Conv },
            name if name == attention => Block { attention: true, resampling: of_attention },
            name if name == residual => Block { attention: false, resampling: Resampling::Residual },
            name => panic!("{key}: a block {name} is not supported"),
        })
        .collect()
}
