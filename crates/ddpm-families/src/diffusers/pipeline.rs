//! The folder of a pipeline: where diffusers keeps network, weights and scheduler, and what it says of them.
//!
//! Two layouts exist: `unet/` and `scheduler/` beside `model_index.json`, and all files side by side (the first
//! repositories on the hub).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ddpm_data::{DataInfo, Units};
use ddpm_files::atomic::AtomicFolder;
use ddpm_model::network::NetworkConfig;
use serde_json::{Value, json};

use super::json::parse;
use super::scheduler_config::SchedulerConfig;
use super::unet_config::{self, UNetFile};
use super::{DiffusersError, VERSION, condition_unet_config};
use crate::snapshot::{SnapshotConfig, SnapshotError};

/// The weights of a network.
pub const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
/// What a pipeline says of its parts.
pub(crate) const INDEX: &str = "model_index.json";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const SCHEDULER: &str = "scheduler_config.json";
/// No file of settings comes near this; a larger one is refused before memory is taken.
const LARGEST_FILE: u64 = 64 << 20;

/// Where the parts of a pipeline lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The folder with the network's config and weights.
    pub network: PathBuf,
    /// The file of the scheduler.
    pub scheduler: PathBuf,
    /// `model_index.json`, if there is one.
    pub index: Option<PathBuf>,
}

impl Layout {
    /// The parts within `dir`, if it is a pipeline.
    pub fn find(dir: &Path) -> Option<Self> {
        let index = Some(dir.join(INDEX)).filter(|file| file.is_file());
        let network = [dir.join("unet"), dir.into()].into_iter().find(|folder| folder.join(CONFIG).is_file())?;
        let scheduler = match network == dir {
            true => dir.join(SCHEDULER),
            false => dir.join("scheduler").join(SCHEDULER),
        };
        Some(Self { network, scheduler, index })
    }

    /// The parts of a folder that is written.
    pub fn in_folders(dir: &Path) -> Self {
        Self {
            network: dir.join("unet"),
            scheduler: dir.join("scheduler").join(SCHEDULER),
            index: Some(dir.join(INDEX)),
        }
    }

    /// The file of the weights.
    pub fn weights(&self) -> PathBuf {
        self.network.join(WEIGHTS)
    }

    /// The name of the pipeline and the class of its scheduler, where `model_index.json` has them.
    fn parts(&self) -> Result<(Option<String>, Option<String>), SnapshotError> {
        let Some(file) = &self.index else { return Ok((None, None)) };
        let index = read_json(file)?;
        let at = |error| SnapshotError::Diffusers { path: file.clone(), error };
        let parts =
            index.as_object().ok_or_else(|| at(DiffusersError::Json { reason: "expected an object".into() }))?;
        let class = |part: &Value| part.get(1).and_then(Value::as_str).map(String::from);
        for (key, part) in parts.iter().filter(|(key, part)| !key.starts_with('_') && part.is_array()) {
            let expected = match (key.as_str(), class(part).as_deref()) {
                ("scheduler", Some(_)) | ("unet", Some("UNet2DModel")) | (_, None) => continue,
                ("unet", _) => "UNet2DModel",
                _ => "no such part: a pipeline here is a unet and a scheduler",
            };
            let (key, found, expected) = (key.clone(), part.to_string(), expected.into());
            return Err(at(DiffusersError::Value { key, found, expected }));
        }
        let name = parts.get("_class_name").and_then(Value::as_str).map(String::from);
        Ok((name, parts.get("scheduler").and_then(class)))
    }

    /// The class of the scheduler, whatever other parts there are.
    fn scheduler_class(&self) -> Result<Option<String>, SnapshotError> {
        let Some(file) = &self.index else { return Ok(None) };
        Ok(read_json(file)?["scheduler"][1].as_str().map(String::from))
    }

    /// The scheduler. Its class is that of `model_index.json`, which diffusers goes by too.
    pub fn read_scheduler(&self) -> Result<SchedulerConfig, SnapshotError> {
        let mut json = read_json(&self.scheduler)?;
        if let (Some(class), Some(keys)) = (self.scheduler_class()?, json.as_object_mut()) {
            keys.insert("_class_name".into(), class.into());
        }
        let at = |error| SnapshotError::Diffusers { path: self.scheduler.clone(), error };
        SchedulerConfig::read(&json).map_err(at)
    }

    /// The pipeline as one of our snapshots, and its scheduler.
    pub fn read(&self) -> Result<(SnapshotConfig, SchedulerConfig), SnapshotError> {
        let (name, _) = self.parts()?;
        let file = self.network.join(CONFIG);
        let at = |error| SnapshotError::Diffusers { path: file.clone(), error };
        let UNetFile { config, size: [height, width] } = unet_config::read(&read_json(&file)?).map_err(at)?;
        if !self.scheduler.is_file() {
            let reason =
                format!("{} is missing, which says what the network was trained for", self.scheduler.display());
            return Err(SnapshotError::NotASnapshot { path: self.network.clone(), reason });
        }
        let scheduler = self.read_scheduler()?;
        let expected = scheduler.diffusion.variance.output_channels(config.in_channels);
        if config.out_channels != expected {
            return Err(at(DiffusersError::Value {
                key: "out_channels".into(),
                found: config.out_channels.to_string(),
                expected: format!(
                    "{expected}: {} in, and a variance that is {:?} in {}",
                    config.in_channels,
                    scheduler.diffusion.variance,
                    self.scheduler.display()
                ),
            }));
        }
        let data = DataInfo {
            name: "images".into(),
            shape: vec![config.in_channels, height, width],
            classes: (0..config.classes).map(|class| class.to_string()).collect(),
            units: Units::identity(config.in_channels),
            series: None,
            latent: false,
            has_captions: false,
        };
        let name = name.unwrap_or_else(|| "UNet2DModel".into());
        let network = NetworkConfig::UNet(config);
        Ok((SnapshotConfig::foreign(network, scheduler.diffusion.clone(), data, &name), scheduler))
    }
}

/// The files of a pipeline beside its weights, not written yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    unet: Value,
    scheduler: Value,
}

impl Files {
    /// What diffusers would say of a snapshot; or why it has no words for it.
    ///
    /// The scheduler is that of ancestral sampling unless there is another.
    pub fn of(config: &SnapshotConfig, scheduler: Option<&SchedulerConfig>) -> Result<Self, String> {
        let denoised = config.denoised();
        let (NetworkConfig::UNet(network), &[_, height, width]) = (&config.network, denoised.shape.as_slice()) else {
            return Err("it is no U-Net of images".into());
        };
        let scheduler = match (scheduler, denoised.latent) {
            (Some(scheduler), _) => scheduler.clone(),
            (None, false) => SchedulerConfig::of_diffusion(&config.diffusion)?,
            (None, true) => SchedulerConfig::of_latents(&config.diffusion)?,
        };
        let unet = match (&config.latents, &config.text) {
            (None, None) => unet_config::write(network, [height, width])?,
            (Some(_), Some(_)) if network.cross_attention.as_ref().is_some_and(|cross| cross.added.is_some()) => {
                return Err("its pipeline gives no added embeddings (model.cross_attention.added)".into());
            }
            (Some(_), Some(_)) => condition_unet_config::write(network, [height, width])?,
            (Some(_), None) => return Err("diffusers has no pipeline of such latents without text".into()),
            (None, Some(_)) => return Err("diffusers has no pipeline of text without latents".into()),
        };
        Ok(Self { unet, scheduler: scheduler.write() })
    }

    /// Writes them into a snapshot of this layout and says which they are. Weights go to [`Layout::weights`].
    pub fn write(&self, layout: &Layout, snapshot: &AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut index = json!({
            "_class_name": "DDPMPipeline",
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", self.scheduler["_class_name"]],
            "unet": ["diffusers", self.unet["_class_name"]],
        });
        if self.unet["_class_name"] == condition_unet_config::CLASS {
            index["_class_name"] = "StableDiffusionPipeline".into();
            index["vae"] = json!(["diffusers", "AutoencoderKL"]);
            index["text_encoder"] = json!(["transformers", "CLIPTextModel"]);
            index["tokenizer"] = json!(["transformers", "CLIPTokenizer"]);
            index["requires_safety_checker"] = false.into();
            for part in ["safety_checker", "feature_extractor", "image_encoder"] {
                index[part] = json!([null, null]);
            }
        }
        let files = [(layout.network.join(CONFIG), &self.unet), (layout.scheduler.clone(), &self.scheduler)];
        let mut written = Vec::new();
        for (file, json) in files.into_iter().chain(layout.index.clone().map(|file| (file, &index))) {
            snapshot.write(&file, format!("{json:#}\n"))?;
            written.push(file);
        }
        Ok(written)
    }
}

/// A file of JSON as Python writes it.
pub fn read_json(path: &Path) -> Result<Value, SnapshotError> {
    let io = |error| SnapshotError::Io { path: path.into(), error };
    let mut text = String::new();
    File::open(path).map_err(io)?.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(io)?;
    let at = |error| SnapshotError::Diffusers { path: path.into(), error };
    if text.len() as u64 > LARGEST_FILE {
        return Err(at(DiffusersError::Json { reason: format!("the file is larger than {LARGEST_FILE} bytes") }));
    }
    parse(&text).map_err(at)
}
