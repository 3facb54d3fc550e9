//! A snapshot as families store it: the description in `ddpm.json`, which names the family (format 2), and the weights
//! next to it.
//!
//! Snapshots of family diffusion have the same description. As they may be pipelines of diffusers, or of format 1, the
//! rest of them is [`crate::snapshot`]'s.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::Device;
use ddpm_data::{DataConfig, DataInfo};
use ddpm_files::atomic::AtomicFolder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use super::any_module::AnyModule;
use super::erased::FamilyTables;
use super::registry::families;
use super::{AnyError, Family, Origin, Progress, StartingWeights};
use crate::checksums;
use crate::diffusers::pipeline::read_json;
use crate::diffusion::DiffusionFamily;
use crate::snapshot::{OWN, SnapshotError, WEIGHTS, Written, io, save_weights, write_json};

/// The format of all snapshots. Raised when an old reader would misunderstand a new snapshot.
pub const FORMAT: u32 = 2;
/// The format of before, which names no family: it was of family diffusion only.
const FIRST_FORMAT: u32 = 1;

/// What a snapshot says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelCard {
    /// Version of this description.
    pub format: u32,
    /// The family of the model.
    pub family: String,
    /// The sections of the experiment that belong to the family, resolved.
    pub tables: Table,
    /// What it was trained on: shape, classes, units.
    pub data: DataInfo,
    /// Where that came from; using the model does not need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<DataConfig>,
    /// The experiment it comes from.
    pub experiment: String,
    /// Optimiser steps behind it.
    pub step: u64,
    /// Items seen.
    pub images_seen: u64,
    /// CRC-32 of the files of the folder.
    #[serde(default)]
    pub checksums: std::collections::BTreeMap<String, String>,
}

impl ModelCard {
    /// The card of a snapshot of any family but diffusion; none of any other path. Snapshots of family diffusion, of
    /// either format, are described by [`Snapshot::describe`](crate::snapshot::Snapshot::describe), as pipelines of
    /// diffusers are.
    pub fn find(path: &Path) -> Result<Option<Self>, SnapshotError> {
        let own = path.join(OWN);
        if !own.is_file() {
            return families().into_iter().find_map(|family| family.foreign(path).transpose()).transpose();
        }
        let card = Self::of_json(&own, &read_json(&own)?)?;
        Ok(card.filter(|card| card.family != DiffusionFamily::NAME))
    }

    /// The card that the description in a file is; none where it is of format 1.
    pub(crate) fn of_json(file: &Path, json: &Value) -> Result<Option<Self>, SnapshotError> {
        let not = |reason: String| SnapshotError::NotASnapshot { path: file.to_path_buf(), reason };
        let format = json.get("format").and_then(Value::as_u64);
        if format == Some(FIRST_FORMAT.into()) {
            return Ok(None);
        }
        if format != Some(FORMAT.into()) {
            let found = json.get("format").map_or("none".into(), Value::to_string);
            let reads = format!("this program reads formats {FIRST_FORMAT} and {FORMAT}");
            return Err(not(format!("its description has format {found}; {reads}")));
        }
        let card =
            Self::deserialize(json).map_err(|error| not(format!("its description is not understood: {error}")))?;
        check_units(&card.data).map_err(not)?;
        Ok(Some(card))
    }

    /// The card of a model that is still trained.
    pub fn in_training<F: Family>(family: &F) -> Self {
        let Origin { experiment, data, source } = family.origin().clone();
        Self {
            format: FORMAT,
            family: F::NAME.into(),
            tables: Table::try_from(family.tables()).unwrap_or_default(),
            data,
            source,
            experiment,
            step: 0,
            images_seen: 0,
            checksums: Default::default(),
        }
    }

    /// What it is a snapshot of, in words.
    pub fn origin(&self) -> String {
        format!("{} after step {}", self.experiment, self.step)
    }
}

/// Writes a model as the folder `dir`, which appears complete or not at all.
pub fn save<F: Family>(family: &F, model: &F::Model, progress: Progress, dir: &Path) -> Result<Written, SnapshotError> {
    save_as(family, progress, dir, |folder| {
        let weights = folder.path().join(WEIGHTS);
        save_weights(&model.clone().materialize(), &weights, folder)?;
        Ok(vec![weights])
    })?;
    Ok(Written::Own { reason: format!("diffusers has no pipeline of family {}", F::NAME) })
}

/// Writes the files of a model, and the card of its family with their sums.
pub fn save_as<F: Family>(
    family: &F,
    progress: Progress,
    dir: &Path,
    write: impl FnOnce(&AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError>,
) -> Result<(), SnapshotError> {
    let folder = AtomicFolder::begin(dir)?;
    let files = write(&folder)?;
    let tables = Table::try_from(family.tables());
    let tables = tables.map_err(|error| io(&folder.path().join(OWN))(std::io::Error::other(error)))?;
    let Progress { step, images_seen } = progress;
    let card = ModelCard { tables, step, images_seen, ..ModelCard::in_training(family) };
    write_card(card, &files, &folder)?;
    Ok(folder.commit()?)
}

/// Writes the card of a snapshot, with the sums of its files.
pub(crate) fn write_card(card: ModelCard, files: &[PathBuf], folder: &AtomicFolder) -> Result<(), SnapshotError> {
    let checksums = checksums::of_files(folder.path(), files).map_err(io(folder.path()))?;
    write_json(&folder.path().join(OWN), &ModelCard { checksums, ..card }, folder)
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

/// The model with the weights of a snapshot. None may be missing or left over.
pub fn load_weights<M: Module>(mut model: M, folder: &Path) -> Result<M, SnapshotError> {
    let file: PathBuf = folder.join(WEIGHTS);
    let not = |reason: String| SnapshotError::NotASnapshot { path: file.clone(), reason };
    let mut store = SafetensorsStore::from_file(&file)
        .with_from_adapter(PyTorchToBurnAdapter)
        .skip_enum_variants(true)
        .allow_partial(false);
    let applied = model.load_from(&mut store).map_err(|error| not(error.to_string()))?;
    match (&applied.missing[..], &applied.unused[..]) {
        ([], []) => Ok(model),
        (missing, unused) => Err(not(format!("weights are missing: {missing:?}, or left over: {unused:?}"))),
    }
}

/// The weights of a snapshot of a family, for a run to start from.
pub fn starting_weights<F: Family>(path: &Path, device: &Device) -> Result<Box<dyn StartingWeights>, AnyError> {
    let not = |reason: String| SnapshotError::NotASnapshot { path: path.to_path_buf(), reason };
    let card = ModelCard::find(path)?
        .filter(|card| card.family == F::NAME)
        .ok_or_else(|| not(format!("no snapshot of family {}", F::NAME)))?;
    let (experiment, data, source) = (card.experiment.clone(), card.data.clone(), card.source.clone());
    let family = F::restored(F::read(card.tables.clone())?, Origin { experiment, data, source })?;
    let model = family.load(path, device)?;
    Ok(Box::new(Start::<F> { path: path.to_path_buf(), card, model }))
}

/// The weights of a snapshot, and what it says about itself.
#[derive(Debug)]
struct Start<F: Family> {
    path: PathBuf,
    card: ModelCard,
    model: F::Model,
}

/// The section of the network.
const MODEL: &str = "model";

impl<F: Family> StartingWeights for Start<F> {
    fn sections(&self) -> Table {
        self.card.tables.clone()
    }

    fn name_in(&self, file: &Path, _: &FamilyTables) -> PathBuf {
        file.to_path_buf()
    }

    fn check(&self, tables: &FamilyTables) -> Result<(), AnyError> {
        let path = self.path.display();
        if tables.get::<F>().is_none() {
            let family = tables.name();
            return Err(
                format!("--from {path}: of family {}, and the experiment is of family {family}", F::NAME).into()
            );
        }
        let (is, was) = (tables.sections()?, &self.card.tables);
        match is.get(MODEL) == was.get(MODEL) {
            true => Ok(()),
            false => Err(format!(
                "--from {path}: its [{MODEL}] is not that of the experiment (without that section, an experiment takes \
                 it from there)"
            )
            .into()),
        }
    }

    fn describe(&self, _: &FamilyTables) -> Vec<String> {
        vec![format!("starting from {}, {}", self.path.display(), self.card.origin())]
    }

    fn load_into(self: Box<Self>, model: AnyModule) -> Result<AnyModule, AnyError> {
        let record = self.model.into_record();
        model.try_load_record(record).map_err(|error| format!("{}: {error}", self.path.display()).into())
    }
}
