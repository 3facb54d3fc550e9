//! The folder of a latent pipeline: network, first stage, text encoders and scheduler. And snapshots of ours that are such
//! models without being pipelines of diffusers, which has no word for their network or their diffusion.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_data::DataInfo;
use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::{Network, NetworkConfig, NetworkError};
use ddpm_model::schedule::ScheduleError;
use ddpm_model::variance::Variance;
use ddpm_sampling::job::JobError;
use ddpm_sampling::plan::Clipping;
use ddpm_sampling::steps::Spacing;
use ddpm_weights::lora::{Lora, Part};
use ddpm_weights::names::SingleFile;
use ddpm_weights::{Scheme, Weights, load_dit, load_into};
use serde_json::Value;

use super::index::Index;
use super::{
    FirstStage, FirstStageError, FrozenParts, PromptEncoder, TEXT_ENCODER, TOKENIZER, TextEncoder, TextEncoderError,
    Tiles,
};
use crate::diffusers::pipeline::{CONFIG, SCHEDULER, read_json};
use crate::diffusers::scheduler_config::{Method, SchedulerConfig};
use crate::diffusers::unet_config::UNetFile;
use crate::diffusers::{DiffusersError, condition_unet_config, dit_config, unet_config};
use crate::snapshot::{OWN, Snapshot, SnapshotConfig, SnapshotError};

/// A latent diffusion model with all its parts.
#[derive(Clone, Debug)]
pub struct LatentPipeline {
    /// The class of the pipeline.
    pub class: String,
    /// What denoises latents.
    pub network: Network,
    /// Its description.
    pub config: NetworkConfig,
    /// Between images and latents.
    pub first_stage: FirstStage,
    /// From prompts to what the network is conditioned on, where it is.
    pub text: Option<PromptEncoder>,
    /// How diffusers samples.
    pub scheduler: SchedulerConfig,
    /// Height and width of the latents it was made for.
    pub latent_size: [usize; 2],
    /// Where the parts are.
    pub device: Device,
    /// What a snapshot of ours says about itself, where it is one.
    pub own: Option<SnapshotConfig>,
    /// Tiles in which images are decoded and encoded; without them each image is whole.
    pub tiles: Option<Tiles>,
    pub(super) is_stable_diffusion: bool,
}

/// Why a pipeline cannot be opened, or cannot do what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum LatentError {
    /// A part cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The first stage, or images that are not for it.
    #[error(transparent)]
    FirstStage(#[from] FirstStageError),
    /// The text encoder, or a prompt that is not for it.
    #[error(transparent)]
    Text(#[from] TextEncoderError),
    /// Latents of a shape that is not for the network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A scheduler that cannot do it.
    #[error("{class}: {error}")]
    Scheduler {
        /// The class of the scheduler.
        class: &'static str,
        /// What is wrong.
        error: DiffusersError,
    },
    /// Parts that do not belong together.
    #[error("{}: {reason}", path.display())]
    Mismatch {
        /// The part at fault.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// Something that this pipeline cannot do.
    #[error("a {class} {reason}")]
    Cannot {
        /// The class of the pipeline.
        class: String,
        /// What it can do.
        reason: String,
    },
    /// A job that cannot be done.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl LatentPipeline {
    /// Reads a pipeline folder, or a snapshot of ours of a network of latents. Parts that do not belong together are an error
    /// that names the part.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, LatentError> {
        if Index::is_in(folder) { Self::open_from(folder, None, device) } else { Self::of_snapshot(folder, device) }
    }

    /// Reads a snapshot of ours that is no pipeline of diffusers.
    fn of_snapshot(path: &Path, device: &Device) -> Result<Self, LatentError> {
        let Snapshot { config: own, network, frozen: FrozenParts { first_stage, text }, .. } =
            Snapshot::load(path, device)?;
        let (Some(first_stage), Some(&[_, height, width])) =
            (first_stage, own.latents.as_ref().map(|latents| latents.shape.as_slice()))
        else {
            let reason = "is no snapshot of a network of latents [C, H, W]".into();
            return Err(LatentError::Mismatch { path: path.into(), reason });
        };
        let scheduler = SchedulerConfig {
            diffusion: own.diffusion.clone(),
            spacing: Spacing::Leading,
            steps_offset: 0,
            clipping: Clipping::None,
            method: Method::Ddim { ends_clean: true },
        };
        let pipeline = Self {
            class: "latent diffusion model".into(),
            network,
            config: own.network.clone(),
            first_stage,
            text: text.map(|text| PromptEncoder::Last(text.encoder)),
            scheduler: scheduler.clone(),
            latent_size: [height, width],
            device: device.clone(),
            own: Some(own),
            tiles: None,
            is_stable_diffusion: false,
        };
        pipeline.check_latents(path)?;
        Ok(pipeline.with_scheduler(scheduler))
    }

    /// Reads a single file of Stable Diffusion, as `.ckpt` or safetensors with the names of latent diffusion, of which
    /// `folder` has the rest: a pipeline folder, whose own weights are not read; or for the versions 1 and 2 at least a tokenizer.
    /// With `averaged` the U-Net has the averaged weights (EMA) in the file.
    pub fn open_single_file(file: &Path, folder: &Path, averaged: bool, device: &Device) -> Result<Self, LatentError> {
        let weights = Weights::open(file).map_err(SnapshotError::from)?;
        let mismatch = |reason: &str| LatentError::Mismatch { path: file.into(), reason: reason.into() };
        if !SingleFile::is_one(&weights) {
            return Err(mismatch("expected tensors named model.diffusion_model.* and first_stage_model.*"));
        }
        if averaged && !SingleFile::has_average(&weights) {
            return Err(mismatch("has no averaged weights (model_ema.*)"));
        }
        let parts = SingleFile::of(&weights, averaged);
        match Index::is_in(folder) {
            true => Self::open_from(folder, Some(parts), device),
            false => Self::of_shapes(file, parts, folder, device),
        }
    }

    /// Adds the factors of LoRA in a file, times a strength, to the weights of the networks that they are for, and says how many
    /// layers it changed.
    pub fn merge_lora(&mut self, lora: &Lora, strength: f64) -> Result<usize, LatentError> {
        let mut changed = 0;
        for part in lora.parts() {
            let encoders = self.text.as_mut().map_or(&mut [][..], PromptEncoder::encoders_mut);
            let merged = match (part, &mut self.network) {
                (Part::UNet, network @ Network::UNet(_)) | (Part::Transformer, network @ Network::DiT(_)) => {
                    lora.merge_into(part, network, strength)
                }
                (Part::TextEncoder, _) if !encoders.is_empty() => {
                    lora.merge_into(part, &mut encoders[0].network, strength)
                }
                (Part::TextEncoder2, _) if encoders.len() > 1 => {
                    lora.merge_into(part, &mut encoders[1].network, strength)
                }
                _ => {
                    let prefix = part.prefix().trim_end_matches('.');
                    let reason = format!("has factors of {prefix}, which a {} does not have", self.class);
                    return Err(LatentError::Mismatch { path: lora.path().into(), reason });
                }
            };
            changed += merged.map_err(SnapshotError::from)?;
        }
        Ok(changed)
    }

    fn open_from(folder: &Path, file: Option<SingleFile>, device: &Device) -> Result<Self, LatentError> {
        let index = Index::read(folder)?;
        let (of_network, of_first_stage, of_text) = match file {
            Some(file) => (Some(file.network), Some(file.first_stage), Some(file.text_encoder)),
            None => (None, None, None),
        };
        let (network, config, latent_size) = open_network(folder, &index, of_network, device)?;
        let first_stage = match of_first_stage {
            Some(weights) => FirstStage::open_with(folder, weights, device)?,
            None => FirstStage::open(folder, device)?,
        };
        let text = open_text(folder, &index, of_text, device)?;
        let scheduler = read_scheduler(folder, &index)?;
        let is_stable_diffusion = index.is_stable_diffusion();
        let device = device.clone();
        let pipeline = Self {
            class: index.class,
            network,
            config,
            first_stage,
            text,
            scheduler: scheduler.clone(),
            latent_size,
            device,
            own: folder.join(OWN).is_file().then(|| Snapshot::describe(folder)).transpose()?,
            tiles: None,
            is_stable_diffusion,
        };
        pipeline.check_parts(folder)?;
        pipeline.check_latents(folder)?;
        Ok(pipeline.with_scheduler(scheduler))
    }

    /// The same pipeline with another scheduler, as the pipeline of diffusers takes it: those of Stable Diffusion 1 and 2 always
    /// start at step 1 and never clip, whatever the file says, and that of DiT drops a learned variance.
    #[must_use]
    pub fn with_scheduler(mut self, mut scheduler: SchedulerConfig) -> Self {
        if self.is_stable_diffusion {
            scheduler.steps_offset = 1;
            if matches!(scheduler.clipping, Clipping::Clip { .. }) {
                scheduler.clipping = Clipping::None;
            }
        }
        if scheduler.diffusion.variance == Variance::Learned {
            scheduler.diffusion.variance = Variance::FixedSmall;
        }
        self.scheduler = scheduler;
        self
    }

    /// The same pipeline, computing in this precision, in which the weights of its network are kept.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self {
            network: self.network.in_precision(precision).with_kept_weights(),
            first_stage: self.first_stage.in_precision(precision),
            text: self.text.map(|text| text.in_precision(precision)),
            ..self
        }
    }

    /// Height and width of the images it was made for.
    pub fn image_size(&self) -> [usize; 2] {
        self.latent_size.map(|side| side * self.first_stage.factor())
    }

    /// Channels of the images.
    pub fn image_channels(&self) -> usize {
        self.first_stage.image_channels()
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        self.first_stage.latent_channels()
    }

    /// Whether the network sees the image that it repaints a part of, in channels of its own.
    pub fn sees_masked_images(&self) -> bool {
        in_channels(&self.config) == 2 * self.latent_channels() + 1
    }

    /// How many classes it is conditioned on, if it is.
    pub fn classes(&self) -> Option<usize> {
        Some(self.network.num_classes()).filter(|classes| *classes > 0)
    }

    /// The names of its classes, where they are known.
    pub fn class_names(&self) -> &[String] {
        self.own.as_ref().map_or(&[], |own| &own.data.classes)
    }

    /// The process that it was trained for.
    pub fn diffusion(&self) -> Result<Diffusion, LatentError> {
        let error =
            |error: ScheduleError| LatentError::Scheduler { class: self.scheduler.class(), error: error.into() };
        self.scheduler.diffusion.init().map_err(error)
    }

    /// The data that the network makes: latents of this height and width.
    pub fn latent_info(&self, [height, width]: [usize; 2]) -> DataInfo {
        DataInfo::of_latents(&[self.latent_channels(), height, width])
    }

    /// An error that says what this pipeline can do.
    pub(super) fn cannot(&self, reason: impl Into<String>) -> LatentError {
        LatentError::Cannot { class: self.class.clone(), reason: reason.into() }
    }

    /// Whether the first stage makes the latents that a snapshot of ours was trained on.
    fn check_latents(&self, path: &Path) -> Result<(), LatentError> {
        let Some((own, latents)) = self.own.as_ref().and_then(|own| Some((own, own.latents.as_ref()?))) else {
            return Ok(());
        };
        let found = self.first_stage.latent_shape(&own.data.shape)?;
        if latents.shape == found {
            return Ok(());
        }
        let reason = format!("makes latents of shape {found:?}, but the network was trained on {:?}", latents.shape);
        Err(LatentError::Mismatch { path: path.join(self.first_stage.folder()), reason })
    }

    pub(super) fn check_parts(&self, folder: &Path) -> Result<(), LatentError> {
        let mismatch = |part: &str, reason: String| LatentError::Mismatch { path: folder.join(part), reason };
        let (latent, inputs) = (self.latent_channels(), in_channels(&self.config));
        if ![latent, 2 * latent + 1].contains(&inputs) {
            let expected = format!("{latent}, or {} to repaint a part of an image", 2 * latent + 1);
            let reason = format!("latents have {latent} channels, but the network takes {inputs}; expected {expected}");
            return Err(mismatch(self.first_stage.folder(), reason));
        }
        let NetworkConfig::UNet(config) = &self.config else { return Ok(()) };
        match (&config.cross_attention, &self.text) {
            (Some(cross), Some(text)) => {
                if cross.token_width != text.width() {
                    let found = text.width();
                    let reason = format!("tokens are {found} wide, but the network takes {}", cross.token_width);
                    return Err(mismatch(TEXT_ENCODER, reason));
                }
                let wanted = cross.added.map(|added| added.pooled_width);
                if wanted.is_some() && wanted != text.pooled_width() {
                    let reason = format!("the whole prompt has a width of {:?}, not {wanted:?}", text.pooled_width());
                    return Err(mismatch("text_encoder_2", reason));
                }
                Ok(())
            }
            (Some(_), None) => Err(mismatch(TEXT_ENCODER, "is missing, but the network attends to tokens".into())),
            (None, _) => Ok(()),
        }
    }
}

/// Channels that a network takes.
fn in_channels(network: &NetworkConfig) -> usize {
    match network {
        NetworkConfig::UNet(config) => config.in_channels,
        NetworkConfig::DiT(config) => config.in_channels,
        _ => 0,
    }
}

/// The network of a pipeline with its weights, and height and width of the latents.
fn open_network(
    folder: &Path,
    index: &Index,
    weights: Option<Weights>,
    device: &Device,
) -> Result<(Network, NetworkConfig, [usize; 2]), SnapshotError> {
    let part = if index.part("transformer").is_some() { "transformer" } else { "unet" };
    let Some(class) = index.part(part) else { return Err(index.missing("unet", "a network, or `transformer`")) };
    let folder = folder.join(part);
    let file = folder.join(CONFIG);
    let json = read_json(&file)?;
    let at = |error| SnapshotError::Diffusers { path: file.clone(), error };
    let (config, size) = match class {
        condition_unet_config::CLASS => of_file(condition_unet_config::read(&json).map_err(at)?),
        unet_config::CLASS => of_file(unet_config::read(&json).map_err(at)?),
        dit_config::CLASS | "Transformer2DModel" => {
            let config = dit_config::read(&json).map_err(at)?;
            let size = [config.sample_size; 2];
            (NetworkConfig::DiT(config), size)
        }
        _ => return Err(index.unsupported(part, "UNet2DConditionModel, UNet2DModel or DiTTransformer2DModel")),
    };
    let mut network = config.init(device);
    let weights = match weights {
        Some(weights) => weights,
        None => Weights::find_in(&folder, None)?,
    };
    load_network(&mut network, weights)?;
    Ok((network, config, size))
}

fn of_file(UNetFile { config, size }: UNetFile) -> (NetworkConfig, [usize; 2]) {
    (NetworkConfig::UNet(config), size)
}

/// Gives a network its weights, under the names of any project.
pub(super) fn load_network(network: &mut Network, weights: Weights) -> Result<(), SnapshotError> {
    match network {
        Network::DiT(network) => Ok(load_dit(network, weights)?),
        network => {
            let scheme = Scheme::detect(&weights).unwrap_or(Scheme::Diffusers);
            Ok(load_into(network, &weights, scheme)?)
        }
    }
}

/// The text encoders of a pipeline, if it has any.
fn open_text(
    folder: &Path,
    index: &Index,
    mut weights: Option<Weights>,
    device: &Device,
) -> Result<Option<PromptEncoder>, LatentError> {
    let names = [(TEXT_ENCODER, TOKENIZER), ("text_encoder_2", "tokenizer_2")];
    let mut encoders = Vec::new();
    for (network, tokenizer) in names.into_iter().filter(|(network, _)| index.part(network).is_some()) {
        if !["CLIPTextModel", "CLIPTextModelWithProjection"].contains(&index.part(network).unwrap_or_default()) {
            return Err(index.unsupported(network, "CLIPTextModel or CLIPTextModelWithProjection").into());
        }
        let (network, tokenizer) = (folder.join(network), folder.join(tokenizer));
        encoders.push(match weights.take() {
            Some(weights) => TextEncoder::open_with(&network, &tokenizer, weights, device)?,
            None => TextEncoder::open_parts(&network, &tokenizer, device)?,
        });
    }
    Ok(match (index.is_xl(), encoders.len()) {
        (_, 0) => None,
        (true, _) => Some(PromptEncoder::Penultimate { encoders, zeros_for_none: index.zeros_for_none }),
        (false, _) => Some(PromptEncoder::Last(encoders.remove(0))),
    })
}

/// The scheduler. Its class is that of `model_index.json`, which diffusers goes by too.
fn read_scheduler(folder: &Path, index: &Index) -> Result<SchedulerConfig, SnapshotError> {
    let missing = || index.missing("scheduler", "a scheduler, with scheduler/scheduler_config.json next to this file");
    read_scheduler_file(folder, index.part("scheduler"))?.ok_or_else(missing)
}

/// The scheduler in a folder, if there is one, of this class or of the one in its file.
pub(super) fn read_scheduler_file(
    folder: &Path,
    class: Option<&str>,
) -> Result<Option<SchedulerConfig>, SnapshotError> {
    let file = folder.join("scheduler").join(SCHEDULER);
    if !file.is_file() {
        return Ok(None);
    }
    let mut json = read_json(&file)?;
    if let (Some(class), Some(keys)) = (class, json.as_object_mut()) {
        keys.insert("_class_name".into(), Value::from(class));
    }
    SchedulerConfig::read(&json).map(Some).map_err(|error| SnapshotError::Diffusers { path: file, error })
}
