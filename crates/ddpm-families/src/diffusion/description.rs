//! What a snapshot of the family says about itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ddpm_data::{DataConfig, DataInfo};
use ddpm_model::network::NetworkConfig;
use serde::{Deserialize, Serialize};

use super::config::DiffusionConfig;
use super::networks;
use crate::diffusers::pipeline::read_json;
use crate::snapshot::SnapshotError;

/// The header key under which the config lies.
pub(crate) const CONFIG_KEY: &str = "ddpm";
/// Raised when an old reader would misunderstand a new snapshot.
const FORMAT: u32 = 1;
/// No header of a real file comes near this; a larger claim is refused before memory is taken.
const LARGEST_HEADER: u64 = 64 << 20;

/// What a snapshot says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotConfig {
    /// Version of this description.
    pub format: u32,
    /// The network, with every size resolved.
    #[serde(deserialize_with = "networks::of_snapshot")]
    pub network: NetworkConfig,
    /// The process it was trained for.
    pub diffusion: DiffusionConfig,
    /// What it was trained on: shape, classes, units.
    pub data: DataInfo,
    /// Where that came from; sampling does not need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<DataConfig>,
    /// The experiment it comes from, or the name of a pipeline that others trained.
    pub experiment: String,
    /// Optimiser steps behind it.
    pub step: u64,
    /// Items seen.
    pub images_seen: u64,
    /// How the previews of its experiment were sampled, which is how it is sampled unless a sampler is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// The latents that the network denoises, where it does not denoise the data themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<LatentInfo>,
    /// The text that the network is conditioned on, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextInfo>,
}

/// What a network of latents denoises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatentInfo {
    /// Their shape, `[C, H, W]`.
    pub shape: Vec<usize>,
}

/// What a network of text was trained with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextInfo {
    /// The prompts of the previews of its experiment.
    #[serde(default)]
    pub prompts: Vec<String>,
}

/// A sampler and how many steps it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// The name of the sampler, which options may follow.
    pub sampler: String,
    /// Its steps.
    pub steps: usize,
    /// The scale of classifier-free guidance, where a model is conditioned on prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
}

impl SnapshotConfig {
    /// A description in the current format.
    pub fn new(
        network: NetworkConfig,
        diffusion: DiffusionConfig,
        data: DataInfo,
        source: impl Into<Option<DataConfig>>,
        experiment: &str,
    ) -> Self {
        Self {
            format: FORMAT,
            network,
            diffusion,
            data,
            source: source.into(),
            experiment: experiment.into(),
            step: 0,
            images_seen: 0,
            sampling: None,
            latents: None,
            text: None,
        }
    }

    /// What the network denoises: the data, or latents of them.
    pub fn denoised(&self) -> DataInfo {
        match &self.latents {
            Some(latents) => self.data.as_latents(&latents.shape),
            None => self.data.clone(),
        }
    }

    /// A description of what others trained.
    pub fn foreign(network: NetworkConfig, diffusion: DiffusionConfig, data: DataInfo, name: &str) -> Self {
        Self::new(network, diffusion, data, None, name)
    }

    /// What it is a snapshot of, in words.
    pub fn origin(&self) -> String {
        match self.source {
            Some(_) => format!("{} after step {}", self.experiment, self.step),
            None => self.experiment.clone(),
        }
    }
}

/// The description in the header of a file of weights.
pub(crate) fn read_config(path: &Path) -> Result<SnapshotConfig, SnapshotError> {
    let header = read_header(path)?;
    let config =
        header.get("__metadata__").and_then(|metadata| metadata.get(CONFIG_KEY)).and_then(|text| text.as_str());
    let missing = || SnapshotError::NotASnapshot {
        path: path.to_path_buf(),
        reason: format!(
            "its header has no `{CONFIG_KEY}` entry, which snapshots in one file have; of a snapshot that is a pipeline, \
             and of a folder of diffusers, name the folder"
        ),
    };
    description(path, serde_json::from_str(config.ok_or_else(missing)?))
}

/// The description in a file of its own.
pub(crate) fn own_config(path: &Path) -> Result<SnapshotConfig, SnapshotError> {
    description(path, serde_json::from_value(read_json(path)?))
}

fn description(path: &Path, read: serde_json::Result<SnapshotConfig>) -> Result<SnapshotConfig, SnapshotError> {
    let not = |reason: String| SnapshotError::NotASnapshot { path: path.to_path_buf(), reason };
    let config = read.map_err(|error| not(format!("its description is not understood: {error}")))?;
    if config.format != FORMAT {
        return Err(not(format!("its description has format {}; this program reads format {FORMAT}", config.format)));
    }
    check_items(&config).map_err(not)?;
    Ok(config)
}

/// Refuses a description of items that its network cannot make: what is trusted here would end in a panic later.
fn check_items(config: &SnapshotConfig) -> Result<(), String> {
    check_units(&config.data)?;
    let shape = &config.denoised().shape;
    config.network.validate(shape).map_err(|error| format!("its network cannot make items of shape {shape:?}: {error}"))
}

/// Refuses items without values, and units that are not one for each channel.
pub(crate) fn check_units(data: &DataInfo) -> Result<(), String> {
    let (shape, units) = (&data.shape, &data.units);
    let channels = shape.first().copied().unwrap_or(0);
    if units.scale.len() != channels || units.shift.len() != channels {
        return Err(format!("its items have shape {shape:?}, but {} units", units.scale.len()));
    }
    if data.values_per_item() == 0 || shape.is_empty() {
        return Err(format!("its items have shape {shape:?}, which holds no value"));
    }
    Ok(())
}

/// Reads the header of a safetensors file: eight bytes of length, then JSON.
fn read_header(path: &Path) -> Result<serde_json::Value, SnapshotError> {
    let io = |error| SnapshotError::Io { path: path.to_path_buf(), error };
    let not = |reason: String| SnapshotError::NotASnapshot { path: path.to_path_buf(), reason };
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| not("the file is shorter than a safetensors header".into()))?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEADER || length + 8 > size {
        return Err(not(format!("it is not a safetensors file: its header would take {length} of {size} bytes")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    serde_json::from_slice(&header).map_err(|error| not(format!("its safetensors header is not JSON: {error}")))
}
