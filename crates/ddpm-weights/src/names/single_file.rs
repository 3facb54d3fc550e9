//! Single files of Stable Diffusion, with the names of latent diffusion: all networks in one file, each behind a prefix.

use crate::Weights;

const NETWORK: &str = "model.diffusion_model.";
const AVERAGE: &str = "model_ema.";
const FIRST_STAGE: &str = "first_stage_model.";
const TEXT_ENCODER: &str = "cond_stage_model.transformer.";

/// The networks in a single file, each under the names of its own project.
#[derive(Debug)]
pub struct SingleFile {
    /// The U-Net.
    pub network: Weights,
    /// The autoencoder.
    pub first_stage: Weights,
    /// The text encoder; without tensors where the file has none of CLIP's names.
    pub text_encoder: Weights,
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
            let names: std::collections::BTreeMap<String, String> = names
                .map(|name| {
                    (format!("{AVERAGE}{}", format!("diffusion_model.{name}").replace('.', "")), name.to_string())
                })
                .collect();
            weights.renamed(|name| names.get(name).cloned())
        };
        Self {
            network: if averaged { of_average() } else { behind(NETWORK) },
            first_stage: behind(FIRST_STAGE),
            text_encoder: behind(TEXT_ENCODER),
        }
    }
}
