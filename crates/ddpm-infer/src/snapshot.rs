//! Snapshots: a folder with weights to sample from and all that sampling needs to know, usable with nothing else.
//!
//! `model.safetensors` carries the weights under PyTorch's names and, in its header, a [`SnapshotConfig`] as JSON.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::Device;
use ddpm_data::{DataConfig, DataInfo};
use ddpm_model::bound::Loss;
use ddpm_model::continuous::{ContinuousDiffusion, Target};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{ScheduleConfig, ScheduleError};
use ddpm_model::variance::Variance;
use ddpm_model::weighting::Weighting;
use serde::{Deserialize, Serialize};

/// The one file of a snapshot folder.
pub const WEIGHTS: &str = "model.safetensors";
/// The header key under which the config lies.
const CONFIG_KEY: &str = "ddpm";
/// Raised when an old reader would misunderstand a new snapshot.
const FORMAT: u32 = 1;
/// No header of a real file comes near this; a larger claim is refused before memory is taken.
const LARGEST_HEADER: u64 = 64 << 20;

/// `[diffusion]`: the forward process, what the network predicts of it, and how that is learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionConfig {
    /// The noise schedule.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The variance of the reverse process.
    pub variance: Variance,
    /// What training minimises.
    pub loss: Loss,
    /// How much the squared error counts at each noise level.
    pub weighting: Weighting,
    /// Stretches the schedule until nothing of the data is left at its last step.
    pub zero_terminal_snr: bool,
    /// Standard deviation of noise that is the same all over a channel, added to that of training.
    pub offset_noise: f64,
    /// Whether the network is told its step as if there were a thousand of them.
    #[serde(skip_serializing_if = "is_false")]
    pub rescaled_times: bool,
    /// Whether the network is told its own last estimate of the data, in half of training and all of sampling.
    #[serde(skip_serializing_if = "is_false")]
    pub self_conditioning: bool,
    /// A path in continuous time in place of the schedule of steps and what belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuous: Option<ContinuousDiffusion>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl DiffusionConfig {
    /// The process with its tables.
    pub fn init(&self) -> Result<Diffusion, ScheduleError> {
        match self.continuous {
            Some(continuous) => Ok(Diffusion::Continuous(continuous)),
            None => self.chain().map(Diffusion::Discrete),
        }
    }

    /// The process of counted steps.
    fn chain(&self) -> Result<GaussianDiffusion, ScheduleError> {
        let schedule = match (self.schedule.init()?, self.zero_terminal_snr) {
            (schedule, false) => schedule,
            (schedule, true) => schedule.with_zero_terminal_snr()?,
        };
        let rescaled_times = self.rescaled_times;
        Ok(GaussianDiffusion { rescaled_times, ..GaussianDiffusion::new(schedule, self.prediction, self.variance) })
    }

    /// What is wrong with values that are of the right type, key by key.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems: Vec<(String, String)> =
            self.weighting.problems().into_iter().map(|(key, message)| (format!("weighting.{key}"), message)).collect();
        let mut report = |key: &str, message: &str| problems.push((key.into(), message.into()));
        if let Some(continuous) = &self.continuous {
            for (key, message) in continuous.problems() {
                report(&format!("continuous.{key}"), &message);
            }
            self.step_problems(&mut report);
        } else if self.weighting == (Weighting::Likelihood {}) {
            report("weighting", "\"likelihood\" needs a path in continuous time; over steps, use loss = \"kl\"");
        }
        if self.self_conditioning && !self.has_bounded_estimate() {
            report(
                "self_conditioning",
                "needs a prediction whose x_0 stays bounded where noise is all there is: \"x0\" or \"v\", or \"flow\" or \
                 \"edm\" in continuous time",
            );
        }
        if let Err(error) = self.chain() {
            report("schedule", &error.to_string());
        }
        if self.zero_terminal_snr && self.prediction == Prediction::Eps {
            report(
                "zero_terminal_snr",
                "needs prediction = \"v\" or \"x0\": where there is no signal, the noise says nothing about the data",
            );
        }
        if self.weighting != Weighting::default() && matches!(self.loss, Loss::Kl | Loss::RescaledKl) {
            report("weighting", "weighs the squared error, which the loss \"kl\" does not have");
        }
        if self.offset_noise > 0.0 && (self.loss != Loss::Mse || self.variance == Variance::Learned) {
            report(
                "offset_noise",
                "is not the noise that the bound is about: it needs loss = \"mse\" and a fixed variance",
            );
        }
        if !(self.offset_noise >= 0.0 && self.offset_noise.is_finite()) {
            report("offset_noise", &format!("must not be negative, but is {}", self.offset_noise));
        }
        problems
    }

    /// What is said about steps where there are none.
    fn step_problems(&self, report: &mut impl FnMut(&str, &str)) {
        let usual = Self::default();
        for (key, differs) in [
            ("schedule", self.schedule != usual.schedule),
            ("prediction", self.prediction != usual.prediction),
            ("variance", self.variance != usual.variance),
            ("loss", self.loss != usual.loss),
            ("zero_terminal_snr", self.zero_terminal_snr),
            ("rescaled_times", self.rescaled_times),
        ] {
            if differs {
                report(key, "is about counted steps and has no meaning beside [diffusion.continuous]");
            }
        }
    }

    fn has_bounded_estimate(&self) -> bool {
        match &self.continuous {
            Some(continuous) => !matches!(continuous.prediction, Target::Eps | Target::Score),
            None => matches!(self.prediction, Prediction::X0 | Prediction::V),
        }
    }
}

/// What a snapshot says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotConfig {
    /// Version of this description.
    pub format: u32,
    /// The network, with every size resolved.
    pub network: NetworkConfig,
    /// The process it was trained for.
    pub diffusion: DiffusionConfig,
    /// What it was trained on: shape, classes, units.
    pub data: DataInfo,
    /// Where that came from; sampling does not need it.
    pub source: DataConfig,
    /// The experiment it comes from.
    pub experiment: String,
    /// Optimiser steps behind it.
    pub step: u64,
    /// Items seen.
    pub images_seen: u64,
}

impl SnapshotConfig {
    /// A description in the current format.
    pub fn new(
        network: NetworkConfig,
        diffusion: DiffusionConfig,
        data: DataInfo,
        source: DataConfig,
        experiment: &str,
    ) -> Self {
        Self {
            format: FORMAT,
            network,
            diffusion,
            data,
            source,
            experiment: experiment.into(),
            step: 0,
            images_seen: 0,
        }
    }
}

/// What can be wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no snapshot at this path.
    #[error("{path} is not a snapshot: {reason}")]
    NotASnapshot {
        /// The file or folder.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The weights are not those of the network that the snapshot describes.
    #[error("{path}: the weights do not fit the network: {reason}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// The keys at fault.
        reason: String,
    },
}

/// A snapshot in memory.
#[derive(Debug)]
pub struct Snapshot {
    /// Its description.
    pub config: SnapshotConfig,
    /// The network with its weights.
    pub network: Network,
}

impl Snapshot {
    /// Writes the snapshot as the folder `dir`, which appears complete or not at all.
    pub fn save(network: &Network, config: &SnapshotConfig, dir: &Path) -> Result<(), SnapshotError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| SnapshotError::Io { path, source }
        };
        let aside = aside(dir);
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(io(&aside))?;
        }
        std::fs::create_dir_all(&aside).map_err(io(&aside))?;
        let file = aside.join(WEIGHTS);
        let json = serde_json::to_string(config)
            .map_err(|error| SnapshotError::Io { path: file.clone(), source: error.into() })?;
        let mut store = SafetensorsStore::from_file(&file)
            .with_to_adapter(BurnToPyTorchAdapter)
            .skip_enum_variants(true)
            .metadata("format", "pt")
            .metadata(CONFIG_KEY, json);
        network.save_into(&mut store).map_err(|error| SnapshotError::Io {
            path: file.clone(),
            source: std::io::Error::other(error.to_string()),
        })?;
        File::open(&file).and_then(|file| file.sync_all()).map_err(io(&file))?;
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(io(dir))?;
        }
        std::fs::rename(&aside, dir).map_err(io(dir))
    }

    /// Reads a snapshot folder, or the file in it, onto `device`.
    pub fn load(path: &Path, device: &Device) -> Result<Self, SnapshotError> {
        let file = weights_file(path)?;
        let config = read_config(&file)?;
        let mut network = config.network.init(device);
        let mut store = SafetensorsStore::from_file(&file)
            .with_from_adapter(PyTorchToBurnAdapter)
            .skip_enum_variants(true)
            .validate(false)
            .allow_partial(true);
        let result = network
            .load_from(&mut store)
            .map_err(|error| SnapshotError::NotASnapshot { path: file.clone(), reason: error.to_string() })?;
        let mut faults: Vec<String> = Vec::new();
        faults.extend(result.missing.iter().map(|(key, _)| format!("{key} is missing")));
        faults.extend(result.unused.iter().map(|key| format!("{key} is not part of the network")));
        faults.extend(result.errors.iter().map(ToString::to_string));
        if faults.is_empty() {
            Ok(Self { config, network })
        } else {
            Err(SnapshotError::Weights { path: file, reason: faults.join("; ") })
        }
    }
}

/// The folder beside `dir` in which it is prepared.
fn aside(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn weights_file(path: &Path) -> Result<PathBuf, SnapshotError> {
    let not = |reason: String| SnapshotError::NotASnapshot { path: path.to_path_buf(), reason };
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.exists() {
        return Err(not("there is nothing at this path".into()));
    }
    let file = path.join(WEIGHTS);
    if file.is_file() { Ok(file) } else { Err(not(format!("the folder holds no {WEIGHTS}"))) }
}

/// Reads the header: eight bytes of length, then JSON, whose `__metadata__` holds our description.
fn read_config(path: &Path) -> Result<SnapshotConfig, SnapshotError> {
    let io = |source| SnapshotError::Io { path: path.to_path_buf(), source };
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
    let header: serde_json::Value =
        serde_json::from_slice(&header).map_err(|error| not(format!("its safetensors header is not JSON: {error}")))?;
    let config = header
        .get("__metadata__")
        .and_then(|metadata| metadata.get(CONFIG_KEY))
        .and_then(|config| config.as_str())
        .ok_or_else(|| {
            not(format!("its header has no `{CONFIG_KEY}` entry, which ddpm-train writes with the weights"))
        })?;
    let config: SnapshotConfig =
        serde_json::from_str(config).map_err(|error| not(format!("its description is not understood: {error}")))?;
    if config.format != FORMAT {
        return Err(not(format!("its description has format {}; this program reads format {FORMAT}", config.format)));
    }
    Ok(config)
}
