//! The frozen parts of a model, and how they are written into a snapshot of it.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_files::atomic::AtomicFolder;
use ddpm_model::text::ClipText;

use super::{FIRST_STAGE, FirstStage, FirstStageError, TEXT_ENCODER, TOKENIZER, TextEncoder, TextEncoderError};
use crate::diffusers::autoencoder::write_autoencoder_in;
use crate::diffusers::pipeline::CONFIG;
use crate::snapshot::{SnapshotError, WEIGHTS, save_weights, write_json};

/// The files of a tokenizer, of which a folder has some.
const TOKENIZER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The frozen parts of a model: it is trained without them, and cannot be used without them.
#[derive(Clone, Debug, Default)]
pub struct FrozenParts {
    /// Between images and the latents that are denoised.
    pub first_stage: Option<FirstStage>,
    /// From prompts to tokens.
    pub text: Option<FrozenText>,
}

/// A text encoder with the files of its tokenizer, which are copied as they are.
#[derive(Clone, Debug)]
pub struct FrozenText {
    /// The encoder.
    pub encoder: TextEncoder,
    tokenizer: Vec<(String, Vec<u8>)>,
}

/// Why the frozen parts of a model cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrozenError {
    /// The first stage.
    #[error(transparent)]
    FirstStage(#[from] FirstStageError),
    /// The text encoder.
    #[error(transparent)]
    Text(#[from] TextEncoderError),
}

impl FrozenText {
    /// Reads `text_encoder` and `tokenizer` of a pipeline.
    pub fn open(pipeline: &Path, device: &Device) -> Result<Self, TextEncoderError> {
        let encoder = TextEncoder::open(pipeline, device)?;
        let folder = pipeline.join(TOKENIZER);
        let read = |name: &str| Some((name.to_string(), std::fs::read(folder.join(name)).ok()?));
        let tokenizer = TOKENIZER_FILES.iter().filter_map(|name| read(name)).collect();
        Ok(Self { encoder, tokenizer })
    }

    fn write(&self, folder: &AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError> {
        let at = |part: &str, name: &str| folder.path().join(part).join(name);
        let mut written = Vec::new();
        for (name, bytes) in &self.tokenizer {
            let file = at(TOKENIZER, name);
            folder.write(&file, bytes)?;
            written.push(file);
        }
        let tokenizer = &self.encoder.tokenizer;
        written.extend(write_text_encoder(&self.encoder.network, [tokenizer.start(), tokenizer.pad()], folder)?);
        Ok(written)
    }
}

/// Writes a text encoder, whose vocabulary has these tokens for the start of a sequence and for padding, as transformers
/// does into the folder of a pipeline. Gives its files.
pub fn write_text_encoder(
    network: &ClipText,
    [start, pad]: [u32; 2],
    folder: &AtomicFolder,
) -> Result<Vec<PathBuf>, SnapshotError> {
    let files = [CONFIG, WEIGHTS].map(|name| folder.path().join(TEXT_ENCODER).join(name));
    let config = network.config().to_transformers(start as usize, pad as usize);
    write_json(&files[0], &config, folder)?;
    save_weights(network, &files[1], folder)?;
    Ok(files.to_vec())
}

impl FrozenParts {
    /// Reads those that a snapshot has.
    pub fn open(snapshot: &Path, latents: bool, text: bool, device: &Device) -> Result<Self, FrozenError> {
        let first_stage = latents.then(|| FirstStage::open(snapshot, device)).transpose()?;
        let text = text.then(|| FrozenText::open(snapshot, device)).transpose()?;
        Ok(Self { first_stage, text })
    }

    /// Writes them into the folder of a snapshot, and gives their files.
    pub fn write(&self, folder: &AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut written = Vec::new();
        if let Some(FirstStage::Kl(autoencoder)) = &self.first_stage {
            written.extend(write_autoencoder_in(autoencoder, &folder.path().join(FIRST_STAGE), folder)?);
        }
        if let Some(text) = &self.text {
            written.extend(text.write(folder)?);
        }
        Ok(written)
    }
}
