//! `model_index.json` of a latent pipeline: its class, and the classes of its parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::diffusers::DiffusersError;
use crate::diffusers::pipeline::{INDEX, read_json};
use crate::snapshot::{Snapshot, SnapshotError};

/// The pipelines that can be opened.
const CLASSES: [&str; 8] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "DiTPipeline",
    "LDMPipeline",
];
/// What may be in a pipeline and says nothing about its images.
const IDLE: [&str; 3] = ["feature_extractor", "image_encoder", "safety_checker"];
const PARTS: [&str; 9] =
    ["unet", "transformer", "vae", "vqvae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"];

/// What `model_index.json` says.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    pub(super) class: String,
    /// The class of each part that is there.
    parts: BTreeMap<String, String>,
    /// Whether no negative prompt means zeros, and not the empty prompt.
    pub(super) zeros_for_none: bool,
}

/// Whether this is a latent diffusion model: a pipeline, or a snapshot of ours.
pub fn is_latent_pipeline(path: &Path) -> bool {
    Index::is_in(path) || Snapshot::describe(path).is_ok_and(|config| config.latents.is_some())
}

impl Index {
    /// Whether a folder has one, of a pipeline that can be opened.
    pub(super) fn is_in(folder: &Path) -> bool {
        let class =
            read_json(&folder.join(INDEX)).ok().and_then(|json| Some(json.get("_class_name")?.as_str()?.to_string()));
        class.is_some_and(|class| CLASSES.contains(&class.as_str()))
    }

    pub(super) fn read(folder: &Path) -> Result<Self, SnapshotError> {
        let path = folder.join(INDEX);
        let json = read_json(&path)?;
        let refuse = |key: &str, found: &Value, expected: String| SnapshotError::Diffusers {
            path: path.clone(),
            error: DiffusersError::Value { key: key.into(), found: found.to_string(), expected },
        };
        let class = json.get("_class_name").unwrap_or(&Value::Null);
        let Some(name) = class.as_str().filter(|name| CLASSES.contains(name)) else {
            return Err(refuse("_class_name", class, CLASSES.join(", ")));
        };
        let mut parts = BTreeMap::new();
        for (key, part) in json.as_object().into_iter().flatten().filter(|(_, part)| part.is_array()) {
            let Some(class) = part.get(1).and_then(Value::as_str) else { continue };
            if PARTS.contains(&key.as_str()) {
                parts.insert(key.clone(), class.to_string());
            } else if !IDLE.contains(&key.as_str()) {
                return Err(refuse(key, part, format!("no such part, but {}", PARTS.join(", "))));
            }
        }
        let zeros_for_none = json.get("force_zeros_for_empty_prompt").and_then(Value::as_bool).unwrap_or(true);
        Ok(Self { class: name.to_string(), parts, zeros_for_none, path })
    }

    /// The class of a part.
    pub(super) fn part(&self, name: &str) -> Option<&str> {
        self.parts.get(name).map(String::as_str)
    }

    /// Whether it is one of Stable Diffusion XL.
    pub(super) fn is_xl(&self) -> bool {
        self.class.starts_with("StableDiffusionXL")
    }

    /// Whether it is one of Stable Diffusion 1 or 2, which do not believe everything in the file of the scheduler.
    pub(super) fn is_stable_diffusion(&self) -> bool {
        self.class.starts_with("StableDiffusion") && !self.is_xl()
    }

    /// An error about a key of the file.
    pub(super) fn missing(&self, key: &str, expected: &str) -> SnapshotError {
        let error = DiffusersError::Missing { key: key.into(), expected: expected.into() };
        SnapshotError::Diffusers { path: self.path.clone(), error }
    }

    /// An error about a part of a class that cannot be read.
    pub(super) fn unsupported(&self, key: &str, expected: &str) -> SnapshotError {
        let found = self.part(key).unwrap_or_default().to_string();
        let error = DiffusersError::Value { key: key.into(), found, expected: expected.into() };
        SnapshotError::Diffusers { path: self.path.clone(), error }
    }
}
