//! A family of models: what it reads of an experiment, what is trained, and how. The trainer knows no more of it.
//!
//! A family is one folder that implements [`Family`], and one line of the [registry]. It is typed inside; at its edge
//! [`erased`] forgets the types, so that the trainer is compiled once, whatever families there are.

pub mod any_module;
pub mod erased;
pub mod registry;
pub mod stored;
pub mod trained;

use std::error::Error;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use ddpm_data::augment::AugmentConfig;
use ddpm_data::{DataConfig, DataInfo, OpenData, StreamItem};
use ddpm_kernels::Precision;
use ddpm_model::network::MemoryEstimate;
use ddpm_model::pass::Pass;
use ddpm_weights::lora::TrainedFactors;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};
use toml::Table;

use self::any_module::AnyModule;
use self::stored::ModelCard;
use self::trained::Trained;
use crate::parameters::settle;
use crate::snapshot::{SnapshotError, Written};

/// What a family says when something cannot be done.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Something that is wrong with an experiment: the key, dotted, and what was expected there.
pub type Problem = (String, String);

/// What a model is trained on.
pub struct Subject<'a> {
    /// The name of the experiment.
    pub experiment: &'a str,
    /// The section `[data]`.
    pub config: &'a DataConfig,
    /// The data behind it.
    pub data: &'a OpenData,
    /// Whether the classes of the data are used to balance them.
    pub balanced: bool,
    /// Where frozen parts of the model go.
    pub device: &'a Device,
}

/// Where a model comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The name of the experiment.
    pub experiment: String,
    /// What it was trained on.
    pub data: DataInfo,
    /// The section `[data]`, where it is known.
    pub source: Option<DataConfig>,
}

impl Subject<'_> {
    /// What of it a snapshot keeps.
    pub fn origin(&self) -> Origin {
        let (experiment, source) = (self.experiment.to_string(), Some(self.config.clone()));
        Origin { experiment, data: self.data.info.clone(), source }
    }
}

/// A family of models with everything resolved: sizes that follow from the data are known, and nothing is checked again.
pub trait Family: Sized + Debug + Send + Sync + 'static {
    /// What `family = "..."` calls it.
    const NAME: &'static str;
    /// What it is, in one line.
    const ABOUT: &'static str;
    /// Its sections of an experiment, each with the keys that must be in it; more than once where kinds have keys of their own.
    const SECTIONS: &'static [(&'static str, &'static str)];
    /// Its keys in the sections that every family has: `("train", "label_drop")`.
    const SHARED_KEYS: &'static [(&'static str, &'static str)] = &[];
    /// What it makes of the losses between two lines of `metrics.jsonl`: the names there, each with a title.
    const CURVES: &'static [(&'static str, &'static str)] = &[];
    /// What it measures of held-out data, likewise.
    const MEASURES: &'static [(&'static str, &'static str)] = &[];

    /// Its sections of an experiment, as serde reads them; those shared with the trainer hold its own keys only.
    type Tables: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;
    /// What is trained.
    type Model: Module + ModuleDisplay + Sync;
    /// Items with every random number already drawn.
    type Batch: Clone + Debug + Send + Sync;
    /// State kept between steps besides the weights; it goes into the checkpoint.
    type Memory: Clone + Debug + Serialize + DeserializeOwned + Send + Sync;

    /// Reads its sections. What serde cannot say of a key is said here.
    fn read(tables: Table) -> Result<Self::Tables, String> {
        Self::Tables::deserialize(toml::Value::Table(tables)).map_err(|error| error.message().to_string())
    }

    /// What is wrong with values that are of the right type, before the data are known.
    fn problems(tables: &Self::Tables) -> Vec<Problem>;

    /// What was given and is not read, and the like.
    fn notes(_: &Self::Tables) -> Vec<String> {
        Vec::new()
    }

    /// Whether a forward pass in training draws from the device's generator, as dropout does.
    fn has_dropout(_: &Self::Tables) -> bool {
        false
    }

    /// Fills in what follows from the data. Every problem at once.
    fn resolve(tables: Self::Tables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>>;

    /// Weights that a run can start from, of a snapshot of this family.
    fn starting_weights(path: &Path, device: &Device) -> Result<Box<dyn StartingWeights>, AnyError> {
        stored::starting_weights::<Self>(path, device)
    }

    /// Its sections, resolved.
    fn tables(&self) -> &Self::Tables;

    /// Where its model comes from.
    fn origin(&self) -> &Origin;

    /// What a person should know before training on these data.
    fn remarks(&self, _: &Subject<'_>) -> Vec<String> {
        Vec::new()
    }

    /// The model before training.
    fn init(&self, device: &Device) -> Self::Model;

    /// Has the model compute in this precision; its weights stay as they are.
    fn set_precision(&self, _: &mut Self::Model, _: Precision) {}

    /// What a model of so many parameters needs for a batch of so many items.
    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate;

    /// Items, one after the other in the stream, as a batch on a device. Whatever is random about an item is a function
    /// of the seed and of its place in the stream.
    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> Self::Batch;

    /// The batch on another device.
    fn to_device(&self, batch: Self::Batch, device: &Device) -> Self::Batch;

    /// The items that it learns from and is measured by, where they are others than those that the data open with: windows
    /// of series, of a length of its own.
    fn items(&self, data: OpenData) -> OpenData {
        data
    }

    /// How images are changed as they are read.
    fn augmentation(&self) -> AugmentConfig {
        AugmentConfig::default()
    }

    /// The loss of a batch.
    fn losses(&self, model: &Self::Model, batch: &Self::Batch, pass: &Pass<'_>) -> Losses;

    /// The time of every row, where a family has such: how far it is noised.
    fn times(&self, _: &Self::Batch) -> Vec<f64> {
        Vec::new()
    }

    /// The memory of a run before its first step, or of one that is resumed and had none.
    fn first_memory(&self) -> Self::Memory;

    /// Changes what depends on the steps before: importance sampling, a weight that rises.
    fn redraw(&self, _: &mut Self::Batch, _: &Self::Memory, _: u64) {}

    /// Remembers a step that was taken.
    fn remember(&self, _: &mut Self::Memory, _: &StepLosses) {}

    /// The values of [`Self::CURVES`] since the last line of metrics.
    fn curves(&self, _: &Self::Memory) -> Vec<Option<f64>> {
        Vec::new()
    }

    /// A line of metrics was written: sums begin again.
    fn clear_sums(&self, _: &mut Self::Memory) {}

    /// What is measured of held-out data while training.
    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<Self::Model>>, AnyError>;

    /// What is drawn while training.
    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<Self::Model>>, AnyError>;

    /// Writes the model as a snapshot, usable with nothing else; the folder appears complete or not at all.
    fn save(&self, model: &Self::Model, progress: Progress, dir: &Path) -> Result<Written, SnapshotError> {
        stored::save(self, model, progress, dir)
    }

    /// As [`save`](Self::save), of a model with factors of LoRA next to frozen weights. What others can add to the weights
    /// that the model started from may go into a file of its own.
    fn save_adapted(
        &self,
        model: &Self::Model,
        _: &TrainedFactors,
        progress: Progress,
        dir: &Path,
    ) -> Result<Written, SnapshotError> {
        self.save(model, progress, dir)
    }

    /// The model of a folder that [`save`](Self::save) wrote, or that a card of [`Self::foreign`] describes.
    fn load(&self, folder: &Path, device: &Device) -> Result<Self::Model, SnapshotError> {
        stored::load_weights(settle(self.init(device)), folder)
    }

    /// The card of a folder of another project that holds a model of this family.
    fn foreign(_: &Path) -> Result<Option<ModelCard>, SnapshotError> {
        Ok(None)
    }

    /// The family as a snapshot describes it: resolved sections, and where the model comes from.
    fn restored(tables: Self::Tables, origin: Origin) -> Result<Self, AnyError>;

    /// The model for use.
    fn trained(self, model: Self::Model, card: ModelCard) -> Box<dyn Trained>;
}

/// The loss of a batch.
pub struct Losses {
    /// What is minimised, `[1]`.
    pub loss: Tensor<1>,
    /// The loss of each row before any weight of the row, `[B]`, detached.
    pub rows: Tensor<1>,
    /// What else of the batch is to be remembered, `[1]` each, detached: the terms of the loss.
    pub parts: Vec<Tensor<1>>,
}

/// What became of a step, on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepLosses {
    /// Each row of the batch.
    pub rows: Vec<RowLoss>,
    /// [`Losses::parts`], as means over the batch.
    pub parts: Vec<f64>,
}

impl StepLosses {
    /// Adds what became of a part of the batch, whose means count with its share.
    pub fn extend(&mut self, part: Self) {
        self.rows.extend(part.rows);
        self.parts.resize(self.parts.len().max(part.parts.len()), 0.0);
        self.parts.iter_mut().zip(part.parts).for_each(|(sum, value)| *sum += value);
    }
}

/// What became of one row of a batch, on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowLoss {
    /// Its training time; 0 for families that have none.
    pub time: f64,
    /// Its loss before any weight of the row.
    pub loss: f64,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Optimiser steps.
    pub step: u64,
    /// Items seen.
    pub images_seen: u64,
}

/// What is needed to measure held-out data.
pub struct HeldOutSetup<'a> {
    /// The items that are not trained on.
    pub data: &'a OpenData,
    /// How many of them are looked at.
    pub count: usize,
    /// How many at once.
    pub batch_size: usize,
    /// Where the averaged weights are.
    pub device: &'a Device,
}

/// A measure of held-out data: always of the same items with the same noise, so that two figures can be compared.
pub trait HeldOut<M>: Send + Sync {
    /// The names of its values in `metrics.jsonl`.
    fn names(&self) -> Vec<&'static str>;
    /// Its values, for the averaged weights.
    fn measure(&self, model: &M) -> Vec<f64>;
}

/// What is needed to draw a preview.
pub struct PreviewSetup<'a> {
    /// How many samples.
    pub count: usize,
    /// The seed of the run.
    pub seed: u64,
    /// The section `[data]`.
    pub config: &'a DataConfig,
    /// Where the averaged weights are.
    pub device: &'a Device,
}

/// Images made while training: always from the same noise, so that two of them can be compared.
pub trait Preview<M>: Send + Sync {
    /// Writes the image `folder/name.*` and gives its path.
    fn draw(&self, model: &M, folder: &Path, name: &str) -> Result<PathBuf, AnyError>;
}

/// Weights that a run starts from: `--from SNAPSHOT`.
pub trait StartingWeights: Debug {
    /// The sections that an experiment takes from the snapshot where it has no `[model]`.
    fn sections(&self) -> Table;
    /// What messages about the model call the file of an experiment, which may have taken it from the snapshot.
    fn name_in(&self, file: &Path, tables: &erased::FamilyTables) -> PathBuf;
    /// Whether the model of the experiment is that of the snapshot.
    fn check(&self, tables: &erased::FamilyTables) -> Result<(), AnyError>;
    /// What a person should know of it, line by line.
    fn describe(&self, tables: &erased::FamilyTables) -> Vec<String>;
    /// The model with these weights.
    fn load_into(self: Box<Self>, model: AnyModule) -> Result<AnyModule, AnyError>;
}
