//! Training that starts from the weights of a snapshot, ours or a pipeline of diffusers.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use ddpm_infer::diffusers::unet_config;
use ddpm_infer::snapshot::{Snapshot, SnapshotError};
use ddpm_model::network::{Network, NetworkConfig};
use serde_json::Value;

use crate::checkpoint::{CheckpointError, restore};
use crate::config::Experiment;

/// Why training cannot start from a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum FineTuneError {
    /// It cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It is one of another network.
    #[error("--from {path}: its network is not that of the experiment: {}", .differences.join("; "))]
    Network {
        /// The snapshot.
        path: PathBuf,
        /// Where they differ.
        differences: Vec<String>,
    },
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

/// Weights to start from, and where they come from.
#[derive(Debug)]
pub struct Start {
    path: PathBuf,
    snapshot: Snapshot,
}

impl Start {
    /// Reads a snapshot and checks that its network is that of the experiment, but for dropout.
    pub fn read(path: &Path, experiment: &Experiment, device: &Device) -> Result<Self, FineTuneError> {
        let snapshot = Snapshot::load(path, device)?;
        let differences = differences(&experiment.model, &snapshot.config.network);
        let path = path.to_path_buf();
        match differences.is_empty() {
            true => Ok(Self { path, snapshot }),
            false => Err(FineTuneError::Network { path, differences }),
        }
    }

    /// What there is to say about it: whence, and what the network was trained for that it will not be any more.
    pub fn describe(&self, experiment: &Experiment) -> Vec<String> {
        let (was, is) = (&self.snapshot.config.diffusion, &experiment.diffusion);
        let mut lines = vec![format!("starting from {}, {}", self.path.display(), self.snapshot.config.origin())];
        if was.prediction != is.prediction {
            lines.push(format!("warning: it predicted {:?}, and here {:?}", was.prediction, is.prediction));
        }
        if was.schedule != is.schedule || was.continuous != is.continuous {
            lines.push("warning: it was trained under another noise schedule".into());
        }
        lines
    }

    /// The network with those weights.
    pub fn give(self, network: Network) -> Result<Network, FineTuneError> {
        Ok(restore(network, self.snapshot.network.into_record(), &self.path)?)
    }
}

/// Where two networks differ, in the words of diffusers where it has some: these say the same of networks that are
/// the same.
fn differences(here: &NetworkConfig, there: &NetworkConfig) -> Vec<String> {
    let size = match here {
        NetworkConfig::UNet(config) => [config.sample_size; 2],
        NetworkConfig::PointMlp(_) => [0; 2],
    };
    let peers = |config: &NetworkConfig| match config {
        NetworkConfig::UNet(config) => unet_config::write(config, size).ok(),
        NetworkConfig::PointMlp(_) => None,
    };
    let ours = |config: &NetworkConfig| serde_json::to_value(config).unwrap_or_default();
    let (a, b) = match (peers(here), peers(there)) {
        (Some(a), Some(b)) => (a, b),
        _ => (ours(here), ours(there)),
    };
    let none = serde_json::Map::new();
    let (a, b) = (a.as_object().unwrap_or(&none), b.as_object().unwrap_or(&none));
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).filter(|key| *key != "dropout").collect();
    keys.sort();
    keys.dedup();
    let said = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| format!("{key} is {} in the experiment, {} there", said(a.get(key)), said(b.get(key))))
        .collect()
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
            "layers_per_block is 2 in the experiment, 3 there"
        );
        assert!(said(UNetConfig { heads: Heads::Width { width: 64 }, ..base.clone() }).contains("attention_head_dim"));
        let classes = |classes, null_class| UNetConfig { classes, null_class, ..base.clone() };
        let words = [classes(10, true), classes(11, false)].map(NetworkConfig::UNet);
        assert!(differences(&words[0], &words[1]).is_empty());
        let points = NetworkConfig::PointMlp(Default::default());
        assert!(!differences(&points, &words[0]).is_empty());
    }
}
