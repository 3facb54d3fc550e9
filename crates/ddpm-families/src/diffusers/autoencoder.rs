//! The folder of an autoencoder, as `vae/` in a pipeline of diffusers: `config.json` and the weights.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use ddpm_files::atomic::AtomicFolder;
use ddpm_model::autoencoder::{AutoencoderKL, AutoencoderKLConfig, AutoencoderTiny, AutoencoderTinyConfig, VqModel};
use ddpm_weights::names::{AutoencoderNames, tiny_entries};
use ddpm_weights::{Weights, load_entries};
use serde_json::Value;

use super::DiffusersError;
use super::autoencoder_config::{KL_CLASS, read, read_tiny, read_vq, write, write_tiny};
use super::pipeline::{CONFIG, WEIGHTS, read_json};
use crate::snapshot::{SnapshotError, save_weights, write_json};

/// Writes an autoencoder as a folder under the names of diffusers.
pub fn save_autoencoder(model: &AutoencoderKL, folder: &Path) -> Result<(), SnapshotError> {
    save(model, &write(model.config()), folder)
}

/// Reads an `AutoencoderKL`, under the names of today or of the first releases of diffusers. No tensor may be missing or
/// left over.
pub fn load_autoencoder(folder: &Path, device: &Device) -> Result<AutoencoderKL, SnapshotError> {
    load_autoencoder_of(folder, Weights::find_in(folder, None)?, device)
}

/// Reads an `AutoencoderKL` that a folder describes and whose weights are elsewhere, also under the names of latent diffusion.
pub fn load_autoencoder_of(folder: &Path, weights: Weights, device: &Device) -> Result<AutoencoderKL, SnapshotError> {
    load_autoencoder_with(&describe_autoencoder(folder)?, weights, device)
}

/// An `AutoencoderKL` of this description with these weights.
pub fn load_autoencoder_with(
    config: &AutoencoderKLConfig,
    weights: Weights,
    device: &Device,
) -> Result<AutoencoderKL, SnapshotError> {
    let mut model = config.init(device);
    load_entries(&mut model, &weights, &AutoencoderNames::detect(&weights).entries(config))?;
    Ok(model)
}

/// Reads only the config of what [`load_autoencoder`] reads.
pub fn describe_autoencoder(folder: &Path) -> Result<AutoencoderKLConfig, SnapshotError> {
    config(folder, read)
}

/// Writes a TAESD as a folder under the names of diffusers.
pub fn save_tiny_autoencoder(model: &AutoencoderTiny, folder: &Path) -> Result<(), SnapshotError> {
    save(model, &write_tiny(model.config()), folder)
}

/// Reads an `AutoencoderTiny`. No tensor may be missing or left over.
pub fn load_tiny_autoencoder(folder: &Path, device: &Device) -> Result<AutoencoderTiny, SnapshotError> {
    let config: AutoencoderTinyConfig = config(folder, read_tiny)?;
    let weights = Weights::find_in(folder, None)?;
    let mut model = config.init(device);
    load_entries(&mut model, &weights, &tiny_entries(&config))?;
    Ok(model)
}

/// Reads a `VQModel`, under the names of today or of the first releases of diffusers. No tensor may be missing or left over.
pub fn load_vq_model(folder: &Path, device: &Device) -> Result<VqModel, SnapshotError> {
    let config = config(folder, read_vq)?;
    let weights = Weights::find_in(folder, None)?;
    let mut model = config.init(device);
    load_entries(&mut model, &weights, &AutoencoderNames::detect(&weights).vq_entries(&config))?;
    Ok(model)
}

fn config<C>(folder: &Path, read: impl FnOnce(&Value) -> Result<C, DiffusersError>) -> Result<C, SnapshotError> {
    let file = folder.join(CONFIG);
    let json = read_json(&file)?;
    read(&json).map_err(|error| SnapshotError::Diffusers { path: file, error })
}

/// Writes the files of an autoencoder into a folder that is being written, and gives their paths.
pub fn write_autoencoder(model: &AutoencoderKL, folder: &AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError> {
    write_files(model, &write(model.config()), folder)
}

fn save<M: Module>(model: &M, config: &Value, folder: &Path) -> Result<(), SnapshotError> {
    let folder = AtomicFolder::begin(folder)?;
    write_files(model, config, &folder)?;
    Ok(folder.commit()?)
}

/// Writes the files of an autoencoder into a folder within one that is being written, and gives their paths.
pub fn write_autoencoder_in(
    model: &AutoencoderKL,
    part: &Path,
    folder: &AtomicFolder,
) -> Result<Vec<PathBuf>, SnapshotError> {
    write_files_in(model, &write(model.config()), part, folder)
}

fn write_files<M: Module>(model: &M, config: &Value, folder: &AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError> {
    write_files_in(model, config, folder.path(), folder)
}

fn write_files_in<M: Module>(
    model: &M,
    config: &Value,
    part: &Path,
    folder: &AtomicFolder,
) -> Result<Vec<PathBuf>, SnapshotError> {
    let files = [CONFIG, WEIGHTS].map(|name| part.join(name));
    write_json(&files[0], config, folder)?;
    save_weights(model, &files[1], folder)?;
    Ok(files.to_vec())
}

/// Whether a folder is an `AutoencoderKL` by its `config.json`.
pub fn is_autoencoder(folder: &Path) -> bool {
    let class = read_json(&folder.join(CONFIG)).ok();
    class.is_some_and(|json| json.get("_class_name").and_then(Value::as_str) == Some(KL_CLASS))
}
