//! Single files of Stable Diffusion, with the names of latent diffusion: all networks in one file, each behind a prefix.

use std::collections::BTreeMap;

use crate::{StoredTensor, Weights};

const NETWORK: &str = "model.diffusion_model.";
const AVERAGE: &str = "model_ema.";
const FIRST_STAGE: &str = "first_stage_model.";
const TEXT_ENCODER: &str = "cond_stage_model.transformer.";
/// OpenCLIP's text encoder, in Stable Diffusion 2.
const OPEN_CLIP: &str = "cond_stage_model.model.";

/// The networks in a single file, each under the names of its own project.
#[derive(Debug)]
pub struct SingleFile {
    /// The U-Net.
    pub network: Weights,
    /// The autoencoder.
    pub first_stage: Weights,
    /// The text encoder under the names of CLIP; without tensors where the file has none.
    pub text_encoder: Weights,
    /// Whether the text encoder is OpenCLIP's.
    pub is_open_clip: bool,
}

impl SingleFile {
    /// Whether weights are those of such a file.
    pub fn is_one(weights: &Weights) -> bool {
        let has = |prefix: &str| weights.tensors().keys().any(|name| name.starts_with(prefix));
        has(NETWORK) && has(FIRST_STAGE)
    }

    /// Whether a file also has the average of the U-Net's weights.
    pub fn has_average(weights: &Weights) -> bool {
        weights.tensors().keys().any(|name| name.starts_with(AVERAGE))
    }

    /// Takes a file apart: with the U-Net's weights, or with their average, whose names have no dots behind the prefix.
    /// Schedules and counters are left out.
    pub fn of(weights: &Weights, averaged: bool) -> Self {
        let behind = |prefix: &'static str| weights.renamed(|name| name.strip_prefix(prefix).map(String::from));
        let of_average = || {
            let names = weights.tensors().keys().filter_map(|name| name.strip_prefix(NETWORK));
            let names: BTreeMap<String, String> = names
                .map(|name| {
                    (format!("{AVERAGE}{}", format!("diffusion_model.{name}").replace('.', "")), name.to_string())
                })
                .collect();
            weights.renamed(|name| names.get(name).cloned())
        };
        let is_open_clip = weights.tensors().keys().any(|name| name.starts_with(OPEN_CLIP));
        Self {
            network: if averaged { of_average() } else { behind(NETWORK) },
            first_stage: behind(FIRST_STAGE),
            text_encoder: if is_open_clip { of_open_clip(&behind(OPEN_CLIP)) } else { behind(TEXT_ENCODER) },
            is_open_clip,
        }
    }
}

/// OpenCLIP's text encoder under the names of CLIP, without its last layer, which Stable Diffusion 2 leaves out, and without the
/// projection.
fn of_open_clip(weights: &Weights) -> Weights {
    let block_of = |name: &str| name.strip_prefix("transformer.resblocks.")?.split('.').next()?.parse::<usize>().ok();
    let last = weights.tensors().keys().filter_map(|name| block_of(name)).max();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in weights.tensors().iter().filter(|(name, _)| last.is_none() || block_of(name) != last) {
        tensors.extend(named_as_clip(name, tensor));
    }
    Weights { path: weights.path().to_path_buf(), tensors, others: Vec::new() }
}

/// The tensors of CLIP that one of OpenCLIP stands for.
fn named_as_clip(name: &str, tensor: &StoredTensor) -> Vec<(String, StoredTensor)> {
    let one = |name: String| vec![(format!("text_model.{name}"), tensor.clone())];
    let Some((number, rest)) = name.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "token_embedding.weight" => one("embeddings.token_embedding.weight".into()),
            "positional_embedding" => one("embeddings.position_embedding.weight".into()),
            _ => match name.strip_prefix("ln_final.") {
                Some(rest) => one(format!("final_layer_norm.{rest}")),
                None => Vec::new(),
            },
        };
    };
    let layer = format!("encoder.layers.{number}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
        // Queries, keys and values lie one after the other.
        let width = tensor.shape().first().map_or(0, |rows| rows / 3);
        let part = |(place, part): (usize, &str)| {
            let name = format!("text_model.{layer}.self_attn.{part}_proj.{kind}");
            Some((name, tensor.rows(place * width..(place + 1) * width)?))
        };
        return ["q", "k", "v"].into_iter().enumerate().filter_map(part).collect();
    }
    let pairs = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    let renamed = pairs.into_iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", rest.strip_prefix(theirs)?)));
    one(format!("{layer}.{}", renamed.unwrap_or_else(|| rest.into())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn the_text_encoder_of_open_clip_has_the_names_of_clip() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let within = |name: &str| format!("{OPEN_CLIP}transformer.resblocks.{name}");
        let names = [
            (within("0.attn.in_proj_weight"), vec![6, 2]),
            (within("0.attn.in_proj_bias"), vec![6]),
            (within("0.mlp.c_fc.weight"), vec![4, 2]),
            (within("1.ln_1.weight"), vec![2]),
            (format!("{OPEN_CLIP}positional_embedding"), vec![3, 2]),
            (format!("{OPEN_CLIP}text_projection"), vec![2, 2]),
            (format!("{NETWORK}out.2.weight"), vec![1]),
            (format!("{FIRST_STAGE}decoder.conv_in.weight"), vec![1]),
        ];
        let tensors = names.iter().map(|(name, shape)| {
            let length = 4 * shape.iter().product::<usize>();
            let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[..length]).unwrap();
            (name.clone(), view)
        });
        let file = dir.path().join("model.safetensors");
        std::fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let weights = Weights::open(&file).unwrap();
        assert!(SingleFile::is_one(&weights));
        let parts = SingleFile::of(&weights, false);
        assert!(parts.is_open_clip);
        let text = parts.text_encoder.tensors();
        let layer = "text_model.encoder.layers.0";
        let read = |name: &str| text[name].read().unwrap();
        assert_eq!(read(&format!("{layer}.self_attn.k_proj.weight")), values[4..8]);
        assert_eq!(read(&format!("{layer}.self_attn.v_proj.bias")), values[4..6]);
        assert_eq!(text[&format!("{layer}.mlp.fc1.weight")].shape(), [4, 2]);
        assert_eq!(text["text_model.embeddings.position_embedding.weight"].shape(), [3, 2]);
        // Three projections with two tensors each; neither the last layer nor the projection.
        assert_eq!(text.len(), 3 * 2 + 2, "{:?}", text.keys());
    }
}
