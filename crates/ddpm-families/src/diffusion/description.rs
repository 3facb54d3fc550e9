//! What a snapshot of the family says about itself, in the two formats there are: a card of all families, which is
//! written, and format 1, which is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ddpm_data::{DataConfig, DataInfo};
use ddpm_model::network::NetworkConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use super::config::DiffusionConfig;
use super::{DiffusionFamily, networks};
use crate::diffusers::pipeline::read_json;
use crate::family::Family;
use crate::family::registry::family;
use crate::family::stored::{FORMAT, ModelCard, check_units};
use crate::snapshot::{OWN, SnapshotError, folder_of_weights};

/// The key of format 1 in the header of a file of weights.
const HEADER_KEY: &str = "ddpm";
/// No header of a real file comes near this; a larger claim is refused before memory is taken.
const LARGEST_HEADER: u64 = 64 << 20;

/// What a snapshot says about itself. `Deserialize` reads the keys of format 1; what is written is its [card](Self::card).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SnapshotConfig {
    /// The network, with every size resolved.
    #[serde(deserialize_with = "networks::of_snapshot")]
    pub network: NetworkConfig,
    /// The process it was trained for.
    pub diffusion: DiffusionConfig,
    /// What it was trained on: shape, classes, units.
    pub data: DataInfo,
    /// Where that came from; sampling does not need it.
    #[serde(default)]
    pub source: Option<DataConfig>,
    /// The experiment it comes from, or the name of a pipeline that others trained.
    pub experiment: String,
    /// Optimiser steps behind it.
    pub step: u64,
    /// Items seen.
    pub images_seen: u64,
    /// How the previews of its experiment were sampled, which is how it is sampled unless a sampler is named.
    #[serde(default)]
    pub sampling: Option<Sampling>,
    /// The latents that the network denoises, where it does not denoise the data themselves.
    #[serde(default)]
    pub latents: Option<LatentInfo>,
    /// The text that the network is conditioned on, where it is.
    #[serde(default)]
    pub text: Option<TextInfo>,
}

/// The sections of an experiment that using the model needs: what the card of its snapshot has as its tables.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    #[serde(deserialize_with = "networks::of_snapshot")]
    model: NetworkConfig,
    diffusion: DiffusionConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preview: Option<Sampling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latents: Option<LatentInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<TextInfo>,
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
    /// A description of what is not trained yet.
    pub fn new(
        network: NetworkConfig,
        diffusion: DiffusionConfig,
        data: DataInfo,
        source: impl Into<Option<DataConfig>>,
        experiment: &str,
    ) -> Self {
        Self {
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

    /// The card that says the same.
    pub fn card(&self) -> Result<ModelCard, toml::ser::Error> {
        let sections = Sections {
            model: self.network.clone(),
            diffusion: self.diffusion.clone(),
            preview: self.sampling.clone(),
            latents: self.latents.clone(),
            text: self.text.clone(),
        };
        Ok(ModelCard {
            format: FORMAT,
            family: DiffusionFamily::NAME.into(),
            tables: Table::try_from(sections)?,
            data: self.data.clone(),
            source: self.source.clone(),
            experiment: self.experiment.clone(),
            step: self.step,
            images_seen: self.images_seen,
            checksums: Default::default(),
        })
    }

    /// What a card says, which is in this file.
    fn of_card(card: ModelCard, file: &Path) -> Result<Self, SnapshotError> {
        let ModelCard { family: name, tables, data, source, experiment, step, images_seen, .. } = card;
        if name != DiffusionFamily::NAME {
            let path = file.to_path_buf();
            return Err(match family(&name) {
                Ok(_) => SnapshotError::OtherFamily { path, family: name },
                Err(_) => SnapshotError::UnknownFamily { path, family: name },
            });
        }
        let read = Sections::deserialize(toml::Value::Table(tables));
        let Sections { model: network, diffusion, preview: sampling, latents, text } =
            read.map_err(|error| not_understood(file, error.message()))?;
        Ok(Self { network, diffusion, data, source, experiment, step, images_seen, sampling, latents, text })
    }

    /// The description in a file of its own, in either format.
    pub(crate) fn read(file: &Path) -> Result<Self, SnapshotError> {
        Self::of_json(file, &read_json(file)?)
    }

    /// The description in the header of a file of weights.
    pub(crate) fn read_header(file: &Path) -> Result<Self, SnapshotError> {
        let header = read_header(file)?;
        let described = header.get("__metadata__").and_then(|metadata| metadata.get(HEADER_KEY));
        let text = described.and_then(Value::as_str).ok_or_else(|| no_description(file))?;
        let json = serde_json::from_str(text).map_err(|error| not_understood(file, &error.to_string()))?;
        Self::of_json(file, &json)
    }

    fn of_json(file: &Path, json: &Value) -> Result<Self, SnapshotError> {
        let config = match ModelCard::of_json(file, json)? {
            Some(card) => Self::of_card(card, file)?,
            None => Self::deserialize(json).map_err(|error| not_understood(file, &error.to_string()))?,
        };
        let not = |reason: String| SnapshotError::NotASnapshot { path: file.to_path_buf(), reason };
        check_items(&config).map_err(not)?;
        Ok(config)
    }
}

fn not_understood(file: &Path, reason: &str) -> SnapshotError {
    let reason = format!("its description is not understood: {reason}");
    SnapshotError::NotASnapshot { path: file.to_path_buf(), reason }
}

/// The error about a file of weights without a description.
fn no_description(file: &Path) -> SnapshotError {
    let reason = match folder_of_weights(file) {
        Some(folder) => format!("it has only the weights of one; name its folder, {}", folder.display()),
        None => format!(
            "its header has no `{HEADER_KEY}` entry, which snapshots in one file have, and there is no {OWN} beside it; of \
             a snapshot that is a pipeline, and of a folder of diffusers, name the folder"
        ),
    };
    SnapshotError::NotASnapshot { path: file.to_path_buf(), reason }
}

/// Refuses a description of items that its network cannot make: what is trusted here would end in a panic later.
fn check_items(config: &SnapshotConfig) -> Result<(), String> {
    check_units(&config.data)?;
    let shape = &config.denoised().shape;
    config.network.validate(shape).map_err(|error| format!("its network cannot make items of shape {shape:?}: {error}"))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::module::Module;
    use burn::tensor::{Device, Int, Tensor};
    use ddpm_data::Units;
    use ddpm_model::custom::{CustomConfig, CustomNetwork, Io};

    use super::*;
    use crate::diffusion::tables::DiffusionTables;

    /// What is read of the card of a description, from its file.
    fn read_back(config: &SnapshotConfig) -> SnapshotConfig {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(OWN);
        std::fs::write(&file, serde_json::to_string_pretty(&config.card().unwrap()).unwrap()).unwrap();
        let card = ModelCard::of_json(&file, &read_json(&file).unwrap()).unwrap().unwrap();
        SnapshotConfig::of_card(card, &file).unwrap()
    }

    fn data(shape: &[usize]) -> DataInfo {
        DataInfo {
            name: "test".into(),
            shape: shape.to_vec(),
            classes: vec!["a".into()],
            units: Units { shift: vec![0.1; shape[0]], scale: vec![1.0 / 3.0; shape[0]] },
            series: None,
            latent: false,
            has_captions: false,
        }
    }

    /// The sections of an experiment that are of the family.
    fn tables(experiment: &mut Table) -> DiffusionTables {
        let previews = experiment.get_mut("preview").and_then(toml::Value::as_table_mut);
        previews.into_iter().for_each(|preview| preview.retain(|key, _| key != "every" && key != "count"));
        experiment.retain(|key, _| ["model", "diffusion", "preview"].contains(&key));
        DiffusionTables::read(experiment.clone()).unwrap()
    }

    #[test]
    fn what_every_experiment_writes_is_read_as_it_was() {
        let mut count = 0;
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments")).unwrap() {
            let file = entry.unwrap().path();
            let text = std::fs::read_to_string(&file).unwrap();
            let mut experiment = match text.parse::<Table>() {
                Ok(experiment) if !experiment.contains_key("family") => experiment,
                _ => continue,
            };
            let source = experiment["data"].clone().try_into::<DataConfig>().unwrap();
            let DiffusionTables { model, diffusion, preview, .. } = tables(&mut experiment);
            let shape = if model.kind() == "point-mlp" { &[2][..] } else { &[3, 32, 32] };
            let network = model.with_io(shape, diffusion.variance.output_channels(shape[0]));
            let plain = SnapshotConfig::new(network, diffusion, data(shape), source, "test");
            assert_eq!(read_back(&plain), plain, "{}", file.display());
            let sampling = Sampling { sampler: preview.sampler, steps: preview.steps, guidance: Some(0.1) };
            for prompts in [Vec::new(), vec!["small \"red\" circle".into(), String::new()]] {
                let full = SnapshotConfig {
                    sampling: Some(sampling.clone()),
                    latents: Some(LatentInfo { shape: vec![4, 8, 8] }),
                    text: Some(TextInfo { prompts }),
                    step: 7,
                    images_seen: 1 << 40,
                    source: None,
                    ..plain.clone()
                };
                assert_eq!(read_back(&full), full, "{}", file.display());
            }
            count += 1;
        }
        assert!(count > 10, "{count}");
    }

    #[derive(Module, Debug)]
    struct Own {}

    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Keys {
        rates: Vec<f32>,
        exact: f64,
        none: Vec<usize>,
        given: Option<f32>,
        left_out: Option<f32>,
    }

    impl CustomNetwork for Own {
        const KIND: &'static str = "own-of-descriptions";
        type Config = Keys;

        fn new(_: &Keys, _: &Io, _: &Device) -> Self {
            Self {}
        }

        fn forward(&self, x_t: Tensor<4>, _: Tensor<1>, _: Option<Tensor<1, Int>>) -> Tensor<4> {
            x_t
        }
    }

    #[test]
    fn a_network_of_a_program_of_its_own_is_read_as_it_was() {
        networks::register::<Own>();
        let keys = Keys {
            rates: vec![0.1, 1.0, -1e-30, f32::MAX],
            exact: 0.1 + 0.2,
            none: Vec::new(),
            given: Some(1.0 / 3.0),
            left_out: None,
        };
        let network = NetworkConfig::Custom(CustomConfig::new::<Own>(keys)).with_io(&[3, 8, 8], 3);
        let config = SnapshotConfig::new(network, DiffusionConfig::default(), data(&[3, 8, 8]), None, "own");
        assert_eq!(read_back(&config), config);
    }
}
