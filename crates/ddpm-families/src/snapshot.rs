//! Snapshots of the family `diffusion` (format 1): a folder with weights to sample from and all that sampling needs to know,
//! usable with nothing else. Those of other families (format 2): [`crate::family::stored`].
//!
//! A snapshot of a U-Net of images is a pipeline of diffusers, with a [`SnapshotConfig`] in [`OWN`] beside it that
//! says what diffusers has no word for. Where it has none for the network or its diffusion, `model.safetensors`
//! carries the weights under PyTorch's names and, in its header, the same description. Pipelines that others wrote
//! are read as they are. A model of latents or of text has its frozen parts in `vae`, `text_encoder` and `tokenizer`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use ddpm_data::{DataConfig, DataInfo};
use ddpm_files::WriteError;
use ddpm_files::atomic::AtomicFolder;
use ddpm_model::bound::Loss;
use ddpm_model::continuous::{ContinuousDiffusion, Target};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{ScheduleConfig, ScheduleError};
use ddpm_model::variance::Variance;
use ddpm_model::weighting::Weighting;
use ddpm_sampling::job::TrainedModel;
use ddpm_weights::lora::{self, TrainedFactors};
use ddpm_weights::{Scheme, Weights, WeightsError, load_into};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::checksums;
use crate::diffusers::DiffusersError;
use crate::diffusers::pipeline::{Files, Layout, read_json};
use crate::diffusers::scheduler_config::SchedulerConfig;
use crate::diffusion::networks;
use crate::latent::{FrozenError, FrozenParts};

/// The description in a snapshot that is a pipeline.
pub const OWN: &str = "ddpm.json";
/// The one file of a snapshot that is none.
pub const WEIGHTS: &str = "model.safetensors";
/// The header key under which the config lies.
const CONFIG_KEY: &str = "ddpm";
/// Raised when an old reader would misunderstand a new snapshot.
const FORMAT: u32 = 1;
/// No header of a real file comes near this; a larger claim is refused before memory is taken.
const LARGEST_HEADER: u64 = 64 << 20;

/// Time is discrete, with a schedule of steps, unless `continuous` is given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionConfig {
    /// The noise schedule.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The variance of the reverse steps.
    pub variance: Variance,
    /// What training minimises.
    pub loss: Loss,
    /// Weight of the squared error at each noise level; not with the losses `"kl"` and `"rescaled-kl"`.
    pub weighting: Weighting,
    /// Rescales the schedule to zero terminal SNR: nothing of the data is left at its last step. Needs another
    /// prediction than `"eps"`.
    pub zero_terminal_snr: bool,
    /// Standard deviation of extra noise that is the same all over a channel; 0.1 helps with very dark and very bright
    /// images. Only with the loss `"mse"` and a fixed variance.
    pub offset_noise: f64,
    /// Conditions the network on t scaled to a thousand steps, whatever the length of the schedule, as
    /// improved-diffusion can.
    pub rescaled_times: bool,
    /// Conditions the network on its own last estimate of x_0, in half of training and all of sampling. Needs a
    /// prediction whose estimate stays bounded: `"x0"` or `"v"`, or in continuous time `"flow"` or `"edm"`.
    pub self_conditioning: bool,
    /// Continuous time in place of the schedule. Then `schedule`, `prediction`, `variance`, `loss`, `zero_terminal_snr`
    /// and `rescaled_times` must be left out: another value than the default is refused, the default is reported as not
    /// read.
    pub continuous: Option<ContinuousDiffusion>,
}

impl Serialize for DiffusionConfig {
    /// Beside a path in continuous time, what is about counted steps is left out.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = serializer.serialize_map(None)?;
        let of_steps = self.continuous.is_none();
        if of_steps {
            keys.serialize_entry("schedule", &self.schedule)?;
            keys.serialize_entry("prediction", &self.prediction)?;
            keys.serialize_entry("variance", &self.variance)?;
            keys.serialize_entry("loss", &self.loss)?;
        }
        keys.serialize_entry("weighting", &self.weighting)?;
        if of_steps {
            keys.serialize_entry("zero_terminal_snr", &self.zero_terminal_snr)?;
        }
        keys.serialize_entry("offset_noise", &self.offset_noise)?;
        if of_steps && self.rescaled_times {
            keys.serialize_entry("rescaled_times", &true)?;
        }
        if self.self_conditioning {
            keys.serialize_entry("self_conditioning", &true)?;
        }
        if let Some(continuous) = &self.continuous {
            keys.serialize_entry("continuous", continuous)?;
        }
        keys.end()
    }
}

impl DiffusionConfig {
    /// The keys about counted steps, which mean nothing beside `continuous`.
    pub const OF_STEPS: [&str; 6] =
        ["schedule", "prediction", "variance", "loss", "zero_terminal_snr", "rescaled_times"];

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
        for (key, differs) in Self::OF_STEPS.into_iter().zip([
            self.schedule != usual.schedule,
            self.prediction != usual.prediction,
            self.variance != usual.variance,
            self.loss != usual.loss,
            self.zero_terminal_snr,
            self.rescaled_times,
        ]) {
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

/// What can be wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// There is no snapshot at this path.
    #[error("{path} is not a snapshot: {reason}")]
    NotASnapshot {
        /// The file or folder.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A file of diffusers that cannot be followed.
    #[error("{path}: {error}")]
    Diffusers {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: DiffusersError,
    },
    /// The weights cannot be read, or are not those of the network that the snapshot describes.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A frozen part cannot be read.
    #[error(transparent)]
    Frozen(Box<FrozenError>),
}

impl From<FrozenError> for SnapshotError {
    fn from(error: FrozenError) -> Self {
        Self::Frozen(Box::new(error))
    }
}

/// A snapshot in memory.
#[derive(Debug)]
pub struct Snapshot {
    /// Its description.
    pub config: SnapshotConfig,
    /// The network with its weights.
    pub network: Network,
    /// What it denoises: the data, or latents of them.
    pub denoised: DataInfo,
    /// The autoencoder of its latents and the encoder of its text, where it has them.
    pub frozen: FrozenParts,
    /// How diffusers would sample from it, where it is a pipeline.
    pub scheduler: Option<SchedulerConfig>,
    /// Whether the description is our own, and not made of the files of a pipeline of others.
    pub is_ours: bool,
}

/// What a snapshot was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// A pipeline that samples as it is.
    Pipeline,
    /// A pipeline whose network asks for classes, which diffusers' ready-made pipelines do not give.
    PipelineOfClasses,
    /// Our own layout, because diffusers has no word for something.
    Own {
        /// For what.
        reason: String,
    },
}

impl Written {
    /// What there is to say about it, in one line.
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Pipeline => None,
            Self::PipelineOfClasses => Some(
                "diffusers opens the snapshot, but its pipeline gives no classes: call unet(x, t, class_labels)".into(),
            ),
            Self::Own { reason } => {
                Some(format!("the snapshot is complete for ddpm, but no pipeline of diffusers: {reason}"))
            }
        }
    }
}

impl Snapshot {
    /// Writes a trained network as the folder `dir`, which appears complete or not at all.
    pub fn save(network: &Network, config: &SnapshotConfig, dir: &Path) -> Result<Written, SnapshotError> {
        Self::save_with(network, config, &FrozenParts::default(), dir)
    }

    /// As [`save`](Self::save), with the frozen parts that it needs.
    pub fn save_with(
        network: &Network,
        config: &SnapshotConfig,
        frozen: &FrozenParts,
        dir: &Path,
    ) -> Result<Written, SnapshotError> {
        write(network, config, frozen, &Extra::default(), dir)
    }

    /// As [`save_with`](Self::save_with), of a network that these factors of LoRA were added to. A pipeline of prompts has
    /// them in a file of their own, for the weights that training started from.
    pub fn save_adapted(
        network: &Network,
        factors: &TrainedFactors,
        config: &SnapshotConfig,
        frozen: &FrozenParts,
        dir: &Path,
    ) -> Result<Written, SnapshotError> {
        write(network, config, frozen, &Extra { factors: Some(factors), scheduler: None }, dir)
    }

    /// Writes what was loaded, with the scheduler that came with it.
    pub fn save_again(&self, dir: &Path) -> Result<Written, SnapshotError> {
        write(
            &self.network,
            &self.config,
            &self.frozen,
            &Extra { scheduler: self.scheduler.as_ref(), factors: None },
            dir,
        )
    }

    /// Reads a snapshot folder, the file in it, or a folder of diffusers, onto `device`.
    pub fn load(path: &Path, device: &Device) -> Result<Self, SnapshotError> {
        let (config, weights, scheduler, is_ours) = match Layout::find(path) {
            Some(layout) => {
                let own = path.join(OWN);
                let is_ours = own.is_file();
                let (config, scheduler) = match is_ours {
                    true => (own_config(&own)?, layout.read_scheduler()?),
                    false => layout.read()?,
                };
                (config, Weights::find_in(&layout.network, None)?, Some(scheduler), is_ours)
            }
            None => {
                let file = weights_file(path)?;
                (read_config(&file)?, Weights::open(&file)?, None, true)
            }
        };
        let network = with_weights(config.network.init(device), &weights)?;
        let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
        let frozen = FrozenParts::open(folder, config.latents.is_some(), config.text.is_some(), device)?;
        let denoised = config.denoised();
        Ok(Self { config, network, denoised, frozen, scheduler, is_ours })
    }

    /// Reads only the description of what [`Snapshot::load`] reads.
    pub fn describe(path: &Path) -> Result<SnapshotConfig, SnapshotError> {
        match Layout::find(path) {
            Some(_) if path.join(OWN).is_file() => own_config(&path.join(OWN)),
            Some(layout) => Ok(layout.read()?.0),
            None => read_config(&weights_file(path)?),
        }
    }

    /// The scheduler that others chose for it. The one that every snapshot of ours is written with is none: it only says
    /// to diffusers what the process is.
    pub fn chosen_scheduler(&self) -> Option<&SchedulerConfig> {
        self.scheduler.as_ref().filter(|scheduler| !(self.is_ours && scheduler.is_as_exported()))
    }
}

/// A snapshot as a sampling job takes it.
pub fn trained<'a>(snapshot: &'a Snapshot, diffusion: &'a Diffusion) -> TrainedModel<'a> {
    let self_conditioned = snapshot.config.diffusion.self_conditioning;
    TrainedModel::of_network(&snapshot.network, diffusion, &snapshot.denoised, self_conditioned)
}

/// What a pipeline may have besides.
#[derive(Default)]
struct Extra<'a> {
    /// The scheduler that came with it.
    scheduler: Option<&'a SchedulerConfig>,
    /// The factors of LoRA that were added to its network.
    factors: Option<&'a TrainedFactors>,
}

fn write(
    network: &Network,
    config: &SnapshotConfig,
    frozen: &FrozenParts,
    extra: &Extra<'_>,
    dir: &Path,
) -> Result<Written, SnapshotError> {
    let folder = AtomicFolder::begin(dir)?;
    let parts = frozen.write(&folder)?;
    let written = match Files::of(config, extra.scheduler) {
        Ok(files) => {
            let layout = Layout::in_folders(folder.path());
            let mut written = files.write(&layout, &folder)?;
            save_weights(network, &layout.weights(), None, &folder)?;
            written.push(layout.weights());
            written.extend(parts);
            if let Some(factors) = extra.factors.filter(|_| config.text.is_some()) {
                written.push(write_factors(factors, &folder)?);
            }
            let checksums = checksums::of_files(folder.path(), &written).map_err(io(folder.path()))?;
            write_json(&folder.path().join(OWN), &Described { config, checksums }, &folder)?;
            if config.network.num_classes() > 0 { Written::PipelineOfClasses } else { Written::Pipeline }
        }
        Err(reason) => {
            let described = Described { config, checksums: BTreeMap::new() };
            let json = serde_json::to_string_pretty(&described);
            let json = json.map_err(|error| io(&folder.path().join(OWN))(error.into()))?;
            save_weights(network, &folder.path().join(WEIGHTS), Some(json), &folder)?;
            Written::Own { reason }
        }
    };
    folder.commit()?;
    Ok(written)
}

/// Writes factors of a U-Net as diffusers has them, and gives their file.
fn write_factors(factors: &TrainedFactors, folder: &AtomicFolder) -> Result<PathBuf, SnapshotError> {
    let file = folder.path().join(lora::FILE);
    let bytes = lora::encode(lora::Part::UNet, factors.alpha, &factors.layers);
    folder.write(&file, bytes.map_err(|error| io(&file)(std::io::Error::other(error)))?)?;
    Ok(file)
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SnapshotError + use<> {
    let path = path.to_path_buf();
    move |error| SnapshotError::Io { path, error }
}

/// Writes a description as a file of its own in a snapshot.
pub(crate) fn write_json(
    file: &Path,
    description: &impl Serialize,
    snapshot: &AtomicFolder,
) -> Result<(), SnapshotError> {
    let json = serde_json::to_string_pretty(description).map_err(|error| io(file)(error.into()))?;
    Ok(snapshot.write(file, json)?)
}

/// A description as it is written, with the sums of the files that it describes.
#[derive(Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    config: &'a SnapshotConfig,
    // As `checksums::KEY` reads it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    checksums: BTreeMap<String, String>,
}

/// Writes weights into a snapshot under PyTorch's names, with a description and a sum in the header where there is a
/// description.
pub(crate) fn save_weights<M: Module>(
    model: &M,
    file: &Path,
    description: Option<String>,
    snapshot: &AtomicFolder,
) -> Result<(), SnapshotError> {
    let io = |error| SnapshotError::Io { path: file.to_path_buf(), error };
    // Burn makes files that only their owner may read, unless they replace one: then they get its permissions.
    snapshot.write(file, "")?;
    let mut store = SafetensorsStore::from_file(file)
        .overwrite(true)
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true)
        .clear_metadata()
        .metadata("format", "pt");
    let is_whole = description.is_some();
    if let Some(description) = description {
        store = store.metadata(CONFIG_KEY, description).metadata(checksums::HEADER_KEY, checksums::OPEN);
    }
    model.save_into(&mut store).map_err(|error| io(std::io::Error::other(error.to_string())))?;
    if is_whole {
        checksums::seal(file).map_err(io)?;
    }
    Ok(())
}

/// A network with the weights of a file, under the names of today or of the first versions of diffusers. None may be
/// missing or left over.
pub fn load_weights(network: Network, file: &Path) -> Result<Network, SnapshotError> {
    with_weights(network, &Weights::open(file)?)
}

fn with_weights(mut network: Network, weights: &Weights) -> Result<Network, SnapshotError> {
    let scheme = match (&network, Scheme::detect(weights)) {
        (Network::UNet(_), Ok(Scheme::DiffusersOfOld)) => Scheme::DiffusersOfOld,
        // Whatever else there is must have our own names, or every key is at fault.
        _ => Scheme::Diffusers,
    };
    load_into(&mut network, weights, scheme)?;
    Ok(network)
}

/// What there is to say of a path at which there is nothing: it may be the name of a model on the Hub.
pub fn nothing_at(path: &Path) -> String {
    let nothing = "there is nothing at this path";
    match hub_name(path) {
        Some((owner, name)) => format!(
            "{nothing}. It looks like a name on the Hugging Face Hub: download it first, `hf download {owner}/{name} \
             --local-dir {name}`, and give that folder"
        ),
        None => nothing.into(),
    }
}

/// `OWNER/NAME`, where there is no folder OWNER that a NAME could be missing in.
fn hub_name(path: &Path) -> Option<(&str, &str)> {
    let (owner, name) = path.to_str()?.split_once('/')?;
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphanumeric())
            && word.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char))
    };
    let is_file = [".safetensors", ".json", ".bin"].iter().any(|end| name.ends_with(end));
    (is_word(owner) && is_word(name) && !is_file && !Path::new(owner).exists()).then_some((owner, name))
}

fn weights_file(path: &Path) -> Result<PathBuf, SnapshotError> {
    let not = |reason: String| SnapshotError::NotASnapshot { path: path.to_path_buf(), reason };
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.exists() {
        return Err(not(nothing_at(path)));
    }
    let file = path.join(WEIGHTS);
    let missing = || not(format!("the folder holds no {WEIGHTS}, and no unet/config.json or config.json of diffusers"));
    if file.is_file() { Ok(file) } else { Err(missing()) }
}

/// The description in the header of a file of weights.
fn read_config(path: &Path) -> Result<SnapshotConfig, SnapshotError> {
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
fn own_config(path: &Path) -> Result<SnapshotConfig, SnapshotError> {
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
