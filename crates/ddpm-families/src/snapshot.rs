//! Snapshots of the family `diffusion`: a folder with weights to sample from and all that sampling needs to know, usable
//! with nothing else. Those of other families: [`crate::family::stored`].
//!
//! Every snapshot has a [`ModelCard`](crate::family::stored::ModelCard) in [`OWN`]. One of a U-Net of images is a
//! pipeline of diffusers besides, and the card says what diffusers has no word for. Where it has none for the network
//! or its diffusion, [`WEIGHTS`] has the weights under PyTorch's names. Pipelines that others wrote are read as they are,
//! and so are snapshots of format 1, of which those that are no pipeline are a single file. A model of latents or of text
//! has its frozen parts in `vae`, `text_encoder` and `tokenizer`.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use ddpm_data::DataInfo;
use ddpm_files::WriteError;
use ddpm_files::atomic::AtomicFolder;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::Network;
use ddpm_sampling::job::TrainedModel;
use ddpm_weights::lora::{self, TrainedFactors};
use ddpm_weights::{Scheme, Weights, WeightsError, load_into};
use serde::Serialize;

use crate::diffusers::DiffusersError;
use crate::diffusers::pipeline::{Files, Layout};
use crate::diffusers::scheduler_config::SchedulerConfig;
pub use crate::diffusion::config::DiffusionConfig;
pub use crate::diffusion::description::{LatentInfo, Sampling, SnapshotConfig, TextInfo};
use crate::family::stored::write_card;
use crate::latent::{FrozenError, FrozenParts};

/// The description in a snapshot.
pub const OWN: &str = "ddpm.json";
/// The weights in a snapshot that is no pipeline.
pub const WEIGHTS: &str = "model.safetensors";

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
    /// It is of another family than can be used here.
    #[error("{path}: a snapshot of family {family}; expected one of family diffusion")]
    OtherFamily {
        /// Its description.
        path: PathBuf,
        /// Its family.
        family: String,
    },
    /// It is of a family that this program lacks.
    #[error("{path}: family {family} is not in this program")]
    UnknownFamily {
        /// The snapshot, or its description.
        path: PathBuf,
        /// Its family.
        family: String,
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

    /// Reads a snapshot folder, the one file of a snapshot of format 1, or a folder of diffusers, onto `device`.
    pub fn load(path: &Path, device: &Device) -> Result<Self, SnapshotError> {
        let (config, weights, scheduler, is_ours) = match Layout::find(path) {
            Some(layout) => {
                let own = path.join(OWN);
                let is_ours = own.is_file();
                let (config, scheduler) = match is_ours {
                    true => (SnapshotConfig::read(&own)?, layout.read_scheduler()?),
                    false => layout.read()?,
                };
                (config, Weights::find_in(&layout.network, None)?, Some(scheduler), is_ours)
            }
            None => {
                let (config, file) = no_pipeline(path)?;
                (config, Weights::open(&file)?, None, true)
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
            Some(_) if path.join(OWN).is_file() => SnapshotConfig::read(&path.join(OWN)),
            Some(layout) => Ok(layout.read()?.0),
            None => Ok(no_pipeline(path)?.0),
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
    let mut files = frozen.write(&folder)?;
    let (weights, written) = match Files::of(config, extra.scheduler) {
        Ok(pipeline) => {
            let layout = Layout::in_folders(folder.path());
            files.extend(pipeline.write(&layout, &folder)?);
            if let Some(factors) = extra.factors.filter(|_| config.text.is_some()) {
                files.push(write_factors(factors, &folder)?);
            }
            let has_classes = config.network.num_classes() > 0;
            (layout.weights(), if has_classes { Written::PipelineOfClasses } else { Written::Pipeline })
        }
        Err(reason) => (folder.path().join(WEIGHTS), Written::Own { reason }),
    };
    save_weights(network, &weights, &folder)?;
    files.push(weights);
    let card = config.card().map_err(|error| io(&folder.path().join(OWN))(std::io::Error::other(error)))?;
    write_card(card, &files, &folder)?;
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

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SnapshotError + use<> {
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

/// Writes weights into a snapshot under PyTorch's names.
pub(crate) fn save_weights<M: Module>(model: &M, file: &Path, snapshot: &AtomicFolder) -> Result<(), SnapshotError> {
    // Burn makes files that only their owner may read, unless they replace one: then they get its permissions.
    snapshot.write(file, "")?;
    let mut store = SafetensorsStore::from_file(file)
        .overwrite(true)
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true)
        .clear_metadata()
        .metadata("format", "pt");
    model.save_into(&mut store).map_err(|error| io(file)(std::io::Error::other(error.to_string())))
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

/// The description and the file of weights of a snapshot that is no pipeline.
fn no_pipeline(path: &Path) -> Result<(SnapshotConfig, PathBuf), SnapshotError> {
    let own = path.join(OWN);
    if own.is_file() {
        return Ok((SnapshotConfig::read(&own)?, weights_file(path)?));
    }
    let file = weights_file(path)?;
    Ok((SnapshotConfig::read_header(&file)?, file))
}

/// The folder of the snapshot that this file has the weights of, if it lies in one.
pub fn folder_of_weights(file: &Path) -> Option<&Path> {
    let folder = file.parent().filter(|_| file.ends_with(WEIGHTS))?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.join(OWN).is_file().then_some(folder)
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
