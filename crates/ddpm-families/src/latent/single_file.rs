//! Single files of Stable Diffusion 1 and 2 that no pipeline folder describes: the networks follow from the names and shapes of
//! their weights, and what shapes do not say is what these models have.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use ddpm_model::network::NetworkConfig;
use ddpm_model::text::ClipTextConfig;
use ddpm_weights::Weights;
use ddpm_weights::names::SingleFile;
use serde_json::{Value, json};

use super::pipeline::{LatentPipeline, load_network, read_scheduler_file};
use super::{FirstStage, LatentError, PromptEncoder, TOKENIZER, TextEncoder};
use crate::diffusers::autoencoder::load_autoencoder_with;
use crate::diffusers::scheduler_config::SchedulerConfig;
use crate::diffusers::unet_config::UNetFile;
use crate::diffusers::{DiffusersError, autoencoder_config, condition_unet_config};
use crate::snapshot::SnapshotError;

/// Attention heads of Stable Diffusion 1, at every level.
const HEADS: usize = 8;
/// Width of an attention head, in the text encoders and in the U-Net of Stable Diffusion 2.
const HEAD_WIDTH: usize = 64;

/// The shapes of weights by their names.
struct Shapes(BTreeMap<String, Vec<usize>>);

impl Shapes {
    fn of_weights(weights: &Weights) -> Self {
        Self(weights.tensors().iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect())
    }

    fn of(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// One size of a tensor that must be there.
    fn size(&self, name: &str, dimension: usize) -> Result<usize, String> {
        let shape = self.of(name).ok_or_else(|| format!("has no tensor {name}"))?;
        shape.get(dimension).copied().ok_or_else(|| format!("{name} has the shape {shape:?}"))
    }

    /// How many there are of names that a number is in, from 0 on.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&number| self.of(&name(number)).is_some()).count()
    }
}

/// A level of a U-Net.
#[derive(Default)]
struct Level {
    channels: usize,
    blocks: usize,
    /// Transformer blocks after each residual block.
    depth: usize,
}

/// The levels of a U-Net, the finest first.
fn levels(shapes: &Shapes) -> Result<Vec<Level>, String> {
    let mut levels = vec![Level::default()];
    for n in 1.. {
        let at = |rest: &str| format!("input_blocks.{n}.{rest}");
        if shapes.of(&at("0.op.weight")).is_some() {
            levels.push(Level::default());
        } else if let (Some(level), Some(_)) = (levels.last_mut(), shapes.of(&at("0.in_layers.0.weight"))) {
            level.channels = shapes.size(&at("0.out_layers.3.weight"), 0)?;
            level.depth = shapes.count(|k| at(&format!("1.transformer_blocks.{k}.norm1.weight")));
            level.blocks += 1;
        } else {
            break;
        }
    }
    Ok(levels)
}

/// The `config.json` of the U-Net.
fn unet(shapes: &Shapes) -> Result<Value, String> {
    if shapes.of("label_emb.0.0.weight").is_some() {
        return Err("is of Stable Diffusion XL: pass a pipeline folder as --config".into());
    }
    let levels = levels(shapes)?;
    let first = levels.iter().position(|level| level.depth > 0).ok_or("has no transformers: pass a pipeline folder")?;
    // Behind the first convolution, and the blocks and downsamplers of the levels before.
    let place = 1 + levels[..first].iter().map(|level| level.blocks + 1).sum::<usize>();
    let transformer = format!("input_blocks.{place}.1.");
    let width = shapes.size(&format!("{transformer}transformer_blocks.0.attn2.to_k.weight"), 1)?;
    let is_linear = shapes.of(&format!("{transformer}proj_in.weight")).is_some_and(|shape| shape.len() == 2);
    let heads: Vec<usize> =
        levels.iter().map(|level| if is_linear { level.channels / HEAD_WIDTH } else { HEADS }).collect();
    let kinds = |attending: &str, plain: &str| -> Vec<String> {
        levels.iter().map(|level| if level.depth > 0 { attending } else { plain }.to_string()).collect()
    };
    let mut up = kinds("CrossAttnUpBlock2D", "UpBlock2D");
    up.reverse();
    Ok(json!({
        "_class_name": condition_unet_config::CLASS,
        "in_channels": shapes.size("input_blocks.0.0.weight", 1)?,
        "out_channels": shapes.size("out.2.weight", 0)?,
        "block_out_channels": levels.iter().map(|level| level.channels).collect::<Vec<_>>(),
        "layers_per_block": levels[0].blocks,
        "down_block_types": kinds("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": up,
        "transformer_layers_per_block": levels.iter().map(|level| level.depth.max(1)).collect::<Vec<_>>(),
        "cross_attention_dim": width,
        "attention_head_dim": heads,
        "use_linear_projection": is_linear,
        "sample_size": if is_linear { 96 } else { 64 },
        "norm_num_groups": groups(levels.iter().map(|level| level.channels)),
    }))
}

/// The groups of a normalization: 32, or as many as divide all numbers of channels.
fn groups(channels: impl Iterator<Item = usize> + Clone) -> usize {
    let divides = |groups: &usize| channels.clone().all(|channels| channels.is_multiple_of(*groups));
    [32, 16, 8, 4, 2].into_iter().find(divides).unwrap_or(1)
}

/// The `config.json` of the autoencoder.
fn autoencoder(shapes: &Shapes) -> Result<Value, String> {
    let levels = shapes.count(|level| format!("encoder.down.{level}.block.0.conv1.weight"));
    let channels = |level: usize| shapes.size(&format!("encoder.down.{level}.block.0.conv1.weight"), 0);
    let channels = (0..levels).map(channels).collect::<Result<Vec<_>, _>>()?;
    if channels.is_empty() {
        return Err("has no autoencoder (first_stage_model.encoder.down.*)".into());
    }
    Ok(json!({
        "_class_name": autoencoder_config::KL_CLASS,
        "in_channels": shapes.size("encoder.conv_in.weight", 1)?,
        "out_channels": shapes.size("decoder.conv_out.weight", 0)?,
        "latent_channels": shapes.size("post_quant_conv.weight", 0)?,
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "layers_per_block": shapes.count(|block| format!("encoder.down.0.block.{block}.conv1.weight")),
        "norm_num_groups": groups(channels.iter().copied()),
        "scaling_factor": 0.18215,
    }))
}

/// The config of the text encoder, that of CLIP or of OpenCLIP, whose weights have the names of CLIP.
fn text_encoder(shapes: &Shapes, is_open_clip: bool) -> Result<ClipTextConfig, String> {
    let (embeddings, layers) = ("text_model.embeddings", "text_model.encoder.layers");
    let width = shapes.size(&format!("{embeddings}.token_embedding.weight"), 1)?;
    let json = json!({
        "vocab_size": shapes.size(&format!("{embeddings}.token_embedding.weight"), 0)?,
        "hidden_size": width,
        "max_position_embeddings": shapes.size(&format!("{embeddings}.position_embedding.weight"), 0)?,
        "num_hidden_layers": shapes.count(|layer| format!("{layers}.{layer}.layer_norm1.weight")),
        "intermediate_size": shapes.size(&format!("{layers}.0.mlp.fc1.weight"), 0)?,
        "num_attention_heads": (width / HEAD_WIDTH).max(1),
        "hidden_act": if is_open_clip { "gelu" } else { "quick_gelu" },
    });
    let config = ClipTextConfig::from_transformers(&json).map_err(|error| error.to_string())?;
    match config.problems().into_iter().next() {
        Some(problem) => Err(format!("the text encoder's {}: {}", problem.key, problem.message)),
        None => Ok(config),
    }
}

/// The scheduler that comes with Stable Diffusion 1, or 2 at 768 pixels.
fn scheduler(is_second: bool) -> Value {
    json!({
        "_class_name": if is_second { "DDIMScheduler" } else { "PNDMScheduler" },
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "prediction_type": if is_second { "v_prediction" } else { "epsilon" },
        "set_alpha_to_one": false, "steps_offset": 1,
    })
}

impl LatentPipeline {
    /// Reads a single file, of which `folder` has the tokenizer, and the scheduler where that is not the usual one.
    pub(super) fn of_shapes(
        file: &Path,
        parts: SingleFile,
        folder: &Path,
        device: &Device,
    ) -> Result<Self, LatentError> {
        let mismatch = |reason: String| LatentError::Mismatch { path: file.into(), reason };
        let at = |error: DiffusersError| SnapshotError::Diffusers { path: file.into(), error };
        let tokenizer = Some(folder.join(TOKENIZER)).filter(|within| within.is_dir());
        let tokenizer = tokenizer.unwrap_or_else(|| folder.into());
        let is_second = parts.is_open_clip;

        let UNetFile { config, size } =
            condition_unet_config::read(&unet(&Shapes::of_weights(&parts.network)).map_err(mismatch)?).map_err(at)?;
        let config = NetworkConfig::UNet(config);
        let mut network = config.init(device);
        load_network(&mut network, parts.network)?;
        let described =
            autoencoder_config::read(&autoencoder(&Shapes::of_weights(&parts.first_stage)).map_err(mismatch)?)
                .map_err(at)?;
        let first_stage = FirstStage::Kl(load_autoencoder_with(&described, parts.first_stage, device)?);
        if parts.text_encoder.tensors().is_empty() {
            return Err(mismatch(
                "has no text encoder (cond_stage_model.*): pass a pipeline folder as --config".into(),
            ));
        }
        let described = text_encoder(&Shapes::of_weights(&parts.text_encoder), is_second).map_err(mismatch)?;
        let text = TextEncoder::open_as(described, &tokenizer, parts.text_encoder, device)?;
        let scheduler = match read_scheduler_file(folder, None)? {
            Some(scheduler) => scheduler,
            None => SchedulerConfig::read(&scheduler(is_second)).map_err(at)?,
        };
        let pipeline = Self {
            class: "StableDiffusionPipeline".into(),
            network,
            config,
            first_stage,
            text: Some(PromptEncoder::Last(text)),
            scheduler: scheduler.clone(),
            latent_size: size,
            device: device.clone(),
            own: None,
            tiles: None,
            is_stable_diffusion: true,
        };
        pipeline.check_parts(file)?;
        Ok(pipeline.with_scheduler(scheduler))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The shapes that descriptions follow from, as the files of Stable Diffusion have them.
    fn shapes(width: usize, linear: bool) -> Shapes {
        let mut shapes = BTreeMap::new();
        let mut put = |name: String, shape: &[usize]| drop(shapes.insert(name, shape.to_vec()));
        put("input_blocks.0.0.weight".into(), &[320, 4, 3, 3]);
        put("out.2.weight".into(), &[4, 320, 3, 3]);
        let mut number = 1;
        for (level, channels) in [320, 640, 1280, 1280].into_iter().enumerate() {
            for _ in 0..2 {
                put(format!("input_blocks.{number}.0.in_layers.0.weight"), &[channels]);
                put(format!("input_blocks.{number}.0.out_layers.3.weight"), &[channels, channels, 3, 3]);
                if level < 3 {
                    let at = format!("input_blocks.{number}.1");
                    let kernel = if linear { vec![channels; 2] } else { vec![channels, channels, 1, 1] };
                    put(format!("{at}.proj_in.weight"), &kernel);
                    put(format!("{at}.transformer_blocks.0.norm1.weight"), &[channels]);
                    put(format!("{at}.transformer_blocks.0.attn2.to_k.weight"), &[channels, width]);
                }
                number += 1;
            }
            if level < 3 {
                put(format!("input_blocks.{number}.0.op.weight"), &[channels, channels, 3, 3]);
                number += 1;
            }
            for block in 0..2 {
                let channels = [128, 256, 512, 512][level];
                put(format!("encoder.down.{level}.block.{block}.conv1.weight"), &[channels, channels, 3, 3]);
            }
        }
        put("encoder.conv_in.weight".into(), &[128, 3, 3, 3]);
        put("decoder.conv_out.weight".into(), &[3, 128, 3, 3]);
        put("post_quant_conv.weight".into(), &[4, 4, 1, 1]);
        Shapes(shapes)
    }

    /// The configs on the hub of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-2-1, as far as they differ from
    /// the defaults of diffusers.
    #[test]
    fn the_networks_of_stable_diffusion_are_known_by_their_shapes() {
        let down = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"];
        let up = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"];
        let on_the_hub = |more: Value| {
            let mut json = json!({"_class_name": "UNet2DConditionModel", "down_block_types": down,
                "up_block_types": up, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2});
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            condition_unet_config::read(&json).unwrap()
        };
        let found = |width, linear| condition_unet_config::read(&unet(&shapes(width, linear)).unwrap()).unwrap();
        let first = json!({"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64});
        let (first, found_first) = (on_the_hub(first), found(768, false));
        assert_eq!((found_first.config, found_first.size), (first.config, first.size));
        let second = json!({"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "sample_size": 96,
            "use_linear_projection": true});
        let (second, found_second) = (on_the_hub(second), found(1024, true));
        assert_eq!((found_second.config, found_second.size), (second.config, second.size));

        let vae = json!({"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512],
            "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
            "layers_per_block": 2, "latent_channels": 4});
        let found = autoencoder_config::read(&autoencoder(&shapes(768, false)).unwrap()).unwrap();
        assert_eq!(found, autoencoder_config::read(&vae).unwrap());
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |name: &str| {
            let mut shapes = shapes(768, false);
            shapes.0.remove(name).unwrap();
            unet(&shapes).unwrap_err()
        };
        assert!(without("out.2.weight").contains("has no tensor out.2.weight"));
        let mut xl = shapes(2048, true);
        xl.0.insert("label_emb.0.0.weight".into(), vec![1280, 2816]);
        assert!(unet(&xl).unwrap_err().contains("--config"));
        assert!(text_encoder(&xl, true).unwrap_err().contains("token_embedding"));
    }
}
