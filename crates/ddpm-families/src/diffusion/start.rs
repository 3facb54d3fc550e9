//! Training that starts from the weights of a snapshot, ours or a pipeline of diffusers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use ddpm_data::{DataInfo, Units};
use ddpm_model::network::{Network, NetworkConfig};

use super::DiffusionFamily;
use crate::diffusers::unet_config;
use crate::family::any_module::AnyModule;
use crate::family::erased::FamilyTables;
use crate::family::{AnyError, StartingWeights};
use crate::latent::{LatentError, LatentPipeline, PromptEncoder, is_latent_pipeline};
use crate::snapshot::{DiffusionConfig, LatentInfo, OWN, Snapshot, SnapshotConfig, SnapshotError, TextInfo};

/// Why training cannot start from a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum FineTuneError {
    /// It cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It is a pipeline of diffusers that cannot be read.
    #[error("--from {path}: {error}")]
    Pipeline {
        /// The pipeline.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<LatentError>,
    },
    /// It is a pipeline of diffusers that is sampled from, but not trained.
    #[error("--from {path}: a {class} {reason}; expected a StableDiffusionPipeline of Stable Diffusion 1 or 2")]
    Untrainable {
        /// The pipeline.
        path: PathBuf,
        /// Its class.
        class: String,
        /// Why not.
        reason: &'static str,
    },
    /// It is one of another network.
    #[error(
        "--from {path}: its network is not that of the experiment (without [model], an experiment takes it from there):\n  {}",
        .differences.join("\n  ")
    )]
    Network {
        /// The snapshot.
        path: PathBuf,
        /// Where they differ.
        differences: Vec<String>,
    },
    /// The weights do not fit.
    #[error("{path}: {reason}")]
    Weights {
        /// The snapshot.
        path: PathBuf,
        /// What Burn said.
        reason: String,
    },
    /// It is one of another family.
    #[error("--from {path}: a snapshot of family diffusion, and the experiment is of family {family}")]
    Family {
        /// The snapshot.
        path: PathBuf,
        /// The family of the experiment.
        family: &'static str,
    },
}

/// Weights to start from, and where they come from.
#[derive(Debug)]
pub struct Start {
    path: PathBuf,
    config: SnapshotConfig,
    network: Network,
}

impl Start {
    /// Reads a snapshot, or the folder of a pipeline.
    pub fn open(path: &Path, device: &Device) -> Result<Self, FineTuneError> {
        if is_latent_pipeline(path) && !path.join(OWN).is_file() {
            return Self::open_pipeline(path, device);
        }
        let Snapshot { config, network, .. } = Snapshot::load(path, device)?;
        Ok(Self { path: path.to_path_buf(), config, network })
    }

    /// Reads a text-to-image pipeline of others.
    fn open_pipeline(path: &Path, device: &Device) -> Result<Self, FineTuneError> {
        let of_path = |error| FineTuneError::Pipeline { path: path.to_path_buf(), error: Box::new(error) };
        let pipeline = LatentPipeline::open(path, device).map_err(of_path)?;
        if let Some(reason) = untrainable(&pipeline) {
            return Err(FineTuneError::Untrainable { path: path.to_path_buf(), class: pipeline.class, reason });
        }
        let [height, width] = pipeline.image_size();
        let channels = pipeline.image_channels();
        let data = DataInfo {
            name: "images".into(),
            shape: vec![channels, height, width],
            classes: Vec::new(),
            units: Units::identity(channels),
            series: None,
            latent: false,
            has_captions: true,
        };
        let latents = pipeline.latent_info(pipeline.latent_size).shape;
        let diffusion = pipeline.scheduler.diffusion;
        let config = SnapshotConfig {
            latents: Some(LatentInfo { shape: latents }),
            text: Some(TextInfo::default()),
            ..SnapshotConfig::foreign(pipeline.config, diffusion, data, &pipeline.class)
        };
        Ok(Self { path: path.to_path_buf(), config, network: pipeline.network })
    }
}

/// What of a pipeline cannot be trained here.
fn untrainable(pipeline: &LatentPipeline) -> Option<&'static str> {
    match &pipeline.text {
        Some(PromptEncoder::Last(_)) => {
            pipeline.sees_masked_images().then_some("has a network that sees the image that it repaints")
        }
        Some(PromptEncoder::Penultimate { .. }) => Some("has text encoders that are not trained with"),
        None => Some("has no prompts"),
    }
}

impl StartingWeights for Start {
    /// The network, and the diffusion and the frozen parts where they are left out as well.
    fn sections(&self) -> toml::Table {
        let config = &self.config;
        let sections = [
            ("model", toml::Value::try_from(&config.network)),
            ("diffusion", toml::Value::try_from(&config.diffusion)),
        ];
        let sections = sections.into_iter().filter_map(|(name, section)| Some((name.to_string(), section.ok()?)));
        let path = self.path.to_string_lossy().into_owned();
        let part = |name: &str, key: &str| {
            let section = toml::Table::from_iter([(key.to_string(), path.clone().into())]);
            (name.to_string(), toml::Value::Table(section))
        };
        let latents = config.latents.iter().map(|_| part("latents", "autoencoder"));
        let text = config.text.iter().map(|_| part("text", "encoder"));
        sections.chain(latents).chain(text).collect()
    }

    fn name_in(&self, file: &Path, tables: &FamilyTables) -> PathBuf {
        match tables.get::<DiffusionFamily>().is_some_and(|tables| tables.model == self.config.network) {
            true => format!("{} with the network of {}", file.display(), self.path.display()).into(),
            false => file.to_path_buf(),
        }
    }

    /// Its network must be that of the experiment, but for dropout.
    fn check(&self, tables: &FamilyTables) -> Result<(), AnyError> {
        let Some(tables) = tables.get::<DiffusionFamily>() else {
            let (path, family) = (self.path.clone(), tables.name());
            return Err(FineTuneError::Family { path, family }.into());
        };
        let differences = differences(&tables.model, &self.config.network);
        match differences.is_empty() {
            true => Ok(()),
            false => Err(FineTuneError::Network { path: self.path.clone(), differences }.into()),
        }
    }

    /// Where it comes from, and what the network was trained for that it will not be any more.
    fn describe(&self, tables: &FamilyTables) -> Vec<String> {
        let start = format!("starting from {}, {}", self.path.display(), self.config.origin());
        let keys = |config: &DiffusionConfig| toml::Table::try_from(config).unwrap_or_default();
        let diffusion = tables.get::<DiffusionFamily>().map(|tables| &tables.diffusion);
        let (is, was) = (diffusion.map(keys).unwrap_or_default(), keys(&self.config.diffusion));
        let changed = ["prediction", "schedule", "continuous"].into_iter().filter(|key| is.get(*key) != was.get(*key));
        let warning = |key| {
            let (is, was) = (said(is.get(key)), said(was.get(key)));
            format!("warning: it was trained otherwise: diffusion.{key} is {is} in the experiment, {was} there")
        };
        std::iter::once(start).chain(changed.map(warning)).collect()
    }

    fn load_into(self: Box<Self>, model: AnyModule) -> Result<AnyModule, AnyError> {
        let record = self.network.into_record();
        model
            .try_load_record(record)
            .map_err(|error| FineTuneError::Weights { path: self.path.clone(), reason: error.to_string() }.into())
    }
}

/// Where two networks differ, by the keys of an experiment. Networks of which diffusers says the same are the same,
/// whatever keys say so.
fn differences(here: &NetworkConfig, there: &NetworkConfig) -> Vec<String> {
    if let (Some(a), Some(b)) = (peers(here), peers(there))
        && a == b
    {
        return Vec::new();
    }
    let keys = |config: &NetworkConfig| toml::Table::try_from(config).unwrap_or_default();
    let (a, b) = (keys(here), keys(there));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).filter(|key| *key != "dropout").collect();
    let differing = names.into_iter().filter(|key| a.get(*key) != b.get(*key));
    // A key that says the same in other words is no difference.
    let tells = |key: &&String| {
        let mut changed = a.clone();
        match b.get(*key) {
            Some(value) => changed.insert(key.to_string(), value.clone()),
            None => changed.remove(*key),
        };
        match (changed.try_into().ok().as_ref().and_then(peers), peers(here)) {
            (Some(changed), Some(here)) => changed != here,
            _ => true,
        }
    };
    differing
        .filter(tells)
        .map(|key| format!("model.{key} is {} in the experiment, {} there", said(a.get(key)), said(b.get(key))))
        .collect()
}

/// What diffusers says of a network, if it can, but for its dropout.
fn peers(config: &NetworkConfig) -> Option<serde_json::Value> {
    let NetworkConfig::UNet(config) = config else { return None };
    let mut json = unet_config::write(config, [0; 2]).ok()?;
    json.as_object_mut()?.remove("dropout");
    Some(json)
}

/// A value as TOML.
fn said(value: Option<&toml::Value>) -> String {
    value.map_or("not set".into(), toml::Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddpm_model::unet::{Heads, UNetConfig};

    #[test]
    fn the_same_network_in_other_words_is_the_same() {
        let base = UNetConfig::cifar10();
        let said = |config: UNetConfig| {
            differences(&NetworkConfig::UNet(base.clone()), &NetworkConfig::UNet(config)).join("; ")
        };
        assert_eq!(said(UNetConfig { dropout: 0.0, ..base.clone() }), "");
        assert_eq!(
            said(UNetConfig { blocks_per_level: 3, ..base.clone() }),
            "model.blocks_per_level is 2 in the experiment, 3 there"
        );
        assert!(
            said(UNetConfig { heads: Heads::Width { width: 64 }, ..base.clone() })
                .contains("model.heads is 1 in the experiment, { width = 64 } there")
        );
        // What says the same in other words is not listed beside what does not.
        let even = UNetConfig { multipliers: vec![1.0; 4], heads: Heads::Count(2), ..base.clone() };
        let other = UNetConfig { heads: Heads::Width { width: 64 }, norm_eps: 1e-5, ..even.clone() };
        assert_eq!(
            differences(&NetworkConfig::UNet(even), &NetworkConfig::UNet(other)),
            ["model.norm_eps is 0.000001 in the experiment, 0.00001 there"]
        );
        let classes = |classes, null_class| UNetConfig { classes, null_class, ..base.clone() };
        let words = [classes(10, true), classes(11, false)].map(NetworkConfig::UNet);
        assert!(differences(&words[0], &words[1]).is_empty());
        let points = NetworkConfig::PointMlp(Default::default());
        assert!(!differences(&points, &words[0]).is_empty());
    }
}
