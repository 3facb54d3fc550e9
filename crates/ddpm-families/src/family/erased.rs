//! The edge of a family, where its types are forgotten: the trainer sees one type of model, batch, memory and tables.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use ddpm_data::augment::AugmentConfig;
use ddpm_data::{OpenData, StreamItem};
use ddpm_kernels::Precision;
use ddpm_model::network::MemoryEstimate;
use ddpm_model::pass::Pass;
use ddpm_weights::lora::TrainedFactors;
use serde::Serialize;
use toml::Table;

use super::any_module::AnyModule;
use super::registry::default_family;
use super::stored::ModelCard;
use super::trained::Trained;
use super::{
    AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Progress, StartingWeights,
    StepLosses, Subject,
};
use crate::snapshot::{SnapshotError, Written};

/// A family as the registry has it: before an experiment says anything.
pub trait FamilyKind: Sync {
    /// What `family = "..."` calls it.
    fn name(&self) -> &'static str;
    /// What it is, in one line.
    fn about(&self) -> &'static str;
    /// Its sections, each with the keys that must be in it.
    fn sections(&self) -> &'static [(&'static str, &'static str)];
    /// Its keys in sections that every family has.
    fn shared_keys(&self) -> &'static [(&'static str, &'static str)];
    /// The titles of its numbers in `metrics.jsonl`: [`Family::CURVES`] and [`Family::MEASURES`].
    fn titles(&self) -> Vec<(&'static str, &'static str)>;
    /// Reads its sections.
    fn read(&self, tables: Table) -> Result<FamilyTables, String>;
    /// Weights that a run can start from.
    fn starting_weights(&self, path: &Path, device: &Device) -> Result<Box<dyn StartingWeights>, AnyError>;
    /// [`Family::foreign`].
    fn foreign(&self, path: &Path) -> Result<Option<ModelCard>, SnapshotError>;
    /// The model of a snapshot, for use.
    fn open(
        &self,
        card: ModelCard,
        folder: &Path,
        device: &Device,
        precision: Precision,
    ) -> Result<Box<dyn Trained>, AnyError>;
}

/// The registry's entry of a family.
pub struct Of<F>(PhantomData<fn() -> F>);

impl<F> Of<F> {
    /// The entry.
    pub const NEW: Self = Self(PhantomData);
}

impl<F: Family> FamilyKind for Of<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn about(&self) -> &'static str {
        F::ABOUT
    }

    fn sections(&self) -> &'static [(&'static str, &'static str)] {
        F::SECTIONS
    }

    fn shared_keys(&self) -> &'static [(&'static str, &'static str)] {
        F::SHARED_KEYS
    }

    fn titles(&self) -> Vec<(&'static str, &'static str)> {
        F::CURVES.iter().chain(F::MEASURES).copied().collect()
    }

    fn read(&self, tables: Table) -> Result<FamilyTables, String> {
        Ok(FamilyTables::of::<F>(F::read(tables)?))
    }

    fn starting_weights(&self, path: &Path, device: &Device) -> Result<Box<dyn StartingWeights>, AnyError> {
        F::starting_weights(path, device)
    }

    fn foreign(&self, path: &Path) -> Result<Option<ModelCard>, SnapshotError> {
        F::foreign(path)
    }

    fn open(
        &self,
        card: ModelCard,
        folder: &Path,
        device: &Device,
        precision: Precision,
    ) -> Result<Box<dyn Trained>, AnyError> {
        let (experiment, data, source) = (card.experiment.clone(), card.data.clone(), card.source.clone());
        let origin = Origin { experiment, data, source };
        let family = F::restored(F::read(card.tables.clone())?, origin)?;
        let mut model = Family::load(&family, folder, device)?;
        Family::set_precision(&family, &mut model, precision);
        Ok(family.trained(model, card))
    }
}

/// The sections of an experiment that belong to its family.
pub struct FamilyTables(Box<dyn AnyTables>);

impl FamilyTables {
    /// Those of a family.
    pub fn of<F: Family>(tables: F::Tables) -> Self {
        Self(Box::new(TablesOf::<F>(tables)))
    }

    /// The tables, if they are of this family.
    pub fn get<F: Family>(&self) -> Option<&F::Tables> {
        self.0.as_any().downcast_ref::<TablesOf<F>>().map(|tables| &tables.0)
    }

    /// What `family = "..."` calls the family.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The sections as TOML.
    pub fn sections(&self) -> Result<Table, toml::ser::Error> {
        self.0.sections()
    }

    /// What is wrong with values that are of the right type.
    pub fn problems(&self) -> Vec<Problem> {
        self.0.problems()
    }

    /// What was given and is not read, and the like.
    pub fn notes(&self) -> Vec<String> {
        self.0.notes()
    }

    /// Whether a forward pass in training draws from the device's generator.
    pub fn has_dropout(&self) -> bool {
        self.0.has_dropout()
    }

    /// The family, with what follows from the data filled in.
    pub fn resolve(&self, subject: &Subject<'_>) -> Result<Arc<dyn AnyFamily>, Vec<Problem>> {
        self.0.resolve(subject)
    }
}

impl Clone for FamilyTables {
    fn clone(&self) -> Self {
        Self(self.0.clone_box())
    }
}

impl fmt::Debug for FamilyTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for FamilyTables {
    /// Those of the default family where nothing is said of it.
    fn default() -> Self {
        let family = default_family();
        family.read(minimal(family)).unwrap_or_else(|error| unreachable!("the shortest tables of a family: {error}"))
    }
}

/// The sections of a family that must be there, as short as they can be.
pub fn minimal(family: &dyn FamilyKind) -> Table {
    let mut tables = Table::new();
    for (name, needed) in family.sections().iter().filter(|(name, needed)| !needed.is_empty() && !name.contains('.')) {
        let section = needed.parse::<Table>().unwrap_or_default();
        tables.entry(*name).or_insert(section.into());
    }
    tables
}

trait AnyTables: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn clone_box(&self) -> Box<dyn AnyTables>;
    fn sections(&self) -> Result<Table, toml::ser::Error>;
    fn problems(&self) -> Vec<Problem>;
    fn notes(&self) -> Vec<String>;
    fn has_dropout(&self) -> bool;
    fn resolve(&self, subject: &Subject<'_>) -> Result<Arc<dyn AnyFamily>, Vec<Problem>>;
    fn as_any(&self) -> &dyn Any;
}

struct TablesOf<F: Family>(F::Tables);

impl<F: Family> fmt::Debug for TablesOf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<F: Family> AnyTables for TablesOf<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn clone_box(&self) -> Box<dyn AnyTables> {
        Box::new(Self(self.0.clone()))
    }

    fn sections(&self) -> Result<Table, toml::ser::Error> {
        Table::try_from(&self.0)
    }

    fn problems(&self) -> Vec<Problem> {
        F::problems(&self.0)
    }

    fn notes(&self) -> Vec<String> {
        F::notes(&self.0)
    }

    fn has_dropout(&self) -> bool {
        F::has_dropout(&self.0)
    }

    fn resolve(&self, subject: &Subject<'_>) -> Result<Arc<dyn AnyFamily>, Vec<Problem>> {
        Ok(Arc::new(F::resolve(self.0.clone(), subject)?))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A batch of whatever a family makes of items.
pub struct AnyBatch(Box<dyn DynBatch>);

impl AnyBatch {
    /// Forgets the type of a batch.
    pub fn of<F: Family>(batch: F::Batch) -> Self {
        Self(Box::new(batch))
    }
}

trait DynBatch: Any + fmt::Debug + Send + Sync {
    fn clone_box(&self) -> Box<dyn DynBatch>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<B: Clone + fmt::Debug + Send + Sync + 'static> DynBatch for B {
    fn clone_box(&self) -> Box<dyn DynBatch> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Clone for AnyBatch {
    fn clone(&self) -> Self {
        Self((*self.0).clone_box())
    }
}

impl fmt::Debug for AnyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a family remembers from step to step.
pub struct Memory(Box<dyn DynMemory>);

trait DynMemory: Any + fmt::Debug + Send + Sync {
    fn clone_box(&self) -> Box<dyn DynMemory>;
    fn to_json(&self) -> serde_json::Result<serde_json::Value>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<M: Clone + Serialize + fmt::Debug + Send + Sync + 'static> DynMemory for M {
    fn clone_box(&self) -> Box<dyn DynMemory> {
        Box::new(self.clone())
    }

    fn to_json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Memory {
    /// As the checkpoint has it.
    pub fn to_json(&self) -> serde_json::Result<serde_json::Value> {
        (*self.0).to_json()
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self((*self.0).clone_box())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A [`Family`] without its types. Model, batch and memory must be its own.
pub trait AnyFamily: fmt::Debug + Send + Sync {
    /// [`Family::NAME`].
    fn name(&self) -> &'static str;
    /// [`Family::tables`].
    fn tables(&self) -> FamilyTables;
    /// [`Family::remarks`].
    fn remarks(&self, subject: &Subject<'_>) -> Vec<String>;
    /// [`Family::init`].
    fn init(&self, device: &Device) -> AnyModule;
    /// [`Family::set_precision`].
    fn set_precision(&self, model: &mut AnyModule, precision: Precision);
    /// [`Family::memory_estimate`].
    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate;
    /// [`Family::items`].
    fn items(&self, data: OpenData) -> OpenData;
    /// [`Family::augmentation`].
    fn augmentation(&self) -> AugmentConfig;
    /// [`Family::batch`].
    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> AnyBatch;
    /// [`Family::to_device`].
    fn to_device(&self, batch: AnyBatch, device: &Device) -> AnyBatch;
    /// [`Family::losses`].
    fn losses(&self, model: &AnyModule, batch: &AnyBatch, pass: &Pass<'_>) -> Losses;
    /// [`Family::times`].
    fn times(&self, batch: &AnyBatch) -> Vec<f64>;
    /// [`Family::first_memory`].
    fn first_memory(&self) -> Memory;
    /// The memory that a checkpoint has.
    fn recall(&self, json: serde_json::Value) -> serde_json::Result<Memory>;
    /// [`Family::redraw`].
    fn redraw(&self, batch: &mut AnyBatch, memory: &Memory, seed: u64);
    /// [`Family::remember`].
    fn remember(&self, memory: &mut Memory, step: &StepLosses);
    /// The names and values of [`Family::curves`].
    fn curves(&self, memory: &Memory) -> Vec<(&'static str, Option<f64>)>;
    /// The names of [`Family::CURVES`].
    fn curve_names(&self) -> Vec<&'static str>;
    /// [`Family::clear_sums`].
    fn clear_sums(&self, memory: &mut Memory);
    /// [`Family::held_out`].
    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<AnyModule>>, AnyError>;
    /// [`Family::preview`].
    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<AnyModule>>, AnyError>;
    /// [`Family::save`].
    fn save(&self, model: &AnyModule, progress: Progress, dir: &Path) -> Result<Written, SnapshotError>;
    /// [`Family::save_adapted`].
    fn save_adapted(
        &self,
        model: &AnyModule,
        factors: &TrainedFactors,
        progress: Progress,
        dir: &Path,
    ) -> Result<Written, SnapshotError>;
}

impl<F: Family> AnyFamily for F {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn tables(&self) -> FamilyTables {
        FamilyTables::of::<F>(Family::tables(self).clone())
    }

    fn remarks(&self, subject: &Subject<'_>) -> Vec<String> {
        Family::remarks(self, subject)
    }

    fn init(&self, device: &Device) -> AnyModule {
        AnyModule::new(Family::init(self, device))
    }

    fn set_precision(&self, model: &mut AnyModule, precision: Precision) {
        match model.get_mut::<F::Model>() {
            Some(model) => Family::set_precision(self, model, precision),
            None => foreign::<F>("model"),
        }
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        Family::memory_estimate(self, parameters, batch)
    }

    fn items(&self, data: OpenData) -> OpenData {
        Family::items(self, data)
    }

    fn augmentation(&self) -> AugmentConfig {
        Family::augmentation(self)
    }

    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> AnyBatch {
        AnyBatch(Box::new(Family::batch(self, items, seed, device)))
    }

    fn to_device(&self, batch: AnyBatch, device: &Device) -> AnyBatch {
        let batch = batch.0.into_any().downcast::<F::Batch>().unwrap_or_else(|_| foreign::<F>("batch"));
        AnyBatch(Box::new(Family::to_device(self, *batch, device)))
    }

    fn losses(&self, model: &AnyModule, batch: &AnyBatch, pass: &Pass<'_>) -> Losses {
        Family::losses(self, model_of::<F>(model), batch_of::<F>(batch), pass)
    }

    fn times(&self, batch: &AnyBatch) -> Vec<f64> {
        Family::times(self, batch_of::<F>(batch))
    }

    fn first_memory(&self) -> Memory {
        Memory(Box::new(Family::first_memory(self)))
    }

    fn recall(&self, json: serde_json::Value) -> serde_json::Result<Memory> {
        Ok(Memory(Box::new(serde_json::from_value::<F::Memory>(json)?)))
    }

    fn redraw(&self, batch: &mut AnyBatch, memory: &Memory, seed: u64) {
        match (*batch.0).as_any_mut().downcast_mut::<F::Batch>() {
            Some(batch) => Family::redraw(self, batch, memory_of::<F>(memory), seed),
            None => foreign::<F>("batch"),
        }
    }

    fn remember(&self, memory: &mut Memory, step: &StepLosses) {
        Family::remember(self, memory_of_mut::<F>(memory), step);
    }

    fn curves(&self, memory: &Memory) -> Vec<(&'static str, Option<f64>)> {
        F::CURVES.iter().map(|(name, _)| *name).zip(Family::curves(self, memory_of::<F>(memory))).collect()
    }

    fn curve_names(&self) -> Vec<&'static str> {
        F::CURVES.iter().map(|(name, _)| *name).collect()
    }

    fn clear_sums(&self, memory: &mut Memory) {
        Family::clear_sums(self, memory_of_mut::<F>(memory));
    }

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<AnyModule>>, AnyError> {
        Ok(Box::new(Erased::<F, _>(Family::held_out(self, setup)?, PhantomData)))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<AnyModule>>, AnyError> {
        Ok(Box::new(Erased::<F, _>(Family::preview(self, setup)?, PhantomData)))
    }

    fn save(&self, model: &AnyModule, progress: Progress, dir: &Path) -> Result<Written, SnapshotError> {
        Family::save(self, model_of::<F>(model), progress, dir)
    }

    fn save_adapted(
        &self,
        model: &AnyModule,
        factors: &TrainedFactors,
        progress: Progress,
        dir: &Path,
    ) -> Result<Written, SnapshotError> {
        Family::save_adapted(self, model_of::<F>(model), factors, progress, dir)
    }
}

/// What looks at the model of a family, for whoever has it without its type.
struct Erased<F, T>(T, PhantomData<fn() -> F>);

impl<F: Family> HeldOut<AnyModule> for Erased<F, Box<dyn HeldOut<F::Model>>> {
    fn names(&self) -> Vec<&'static str> {
        self.0.names()
    }

    fn measure(&self, model: &AnyModule) -> Vec<f64> {
        self.0.measure(model_of::<F>(model))
    }
}

impl<F: Family> Preview<AnyModule> for Erased<F, Box<dyn Preview<F::Model>>> {
    fn draw(&self, model: &AnyModule, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        self.0.draw(model_of::<F>(model), folder, name)
    }
}

fn model_of<F: Family>(model: &AnyModule) -> &F::Model {
    model.get().unwrap_or_else(|| foreign::<F>("model"))
}

fn batch_of<F: Family>(batch: &AnyBatch) -> &F::Batch {
    (*batch.0).as_any().downcast_ref().unwrap_or_else(|| foreign::<F>("batch"))
}

fn memory_of<F: Family>(memory: &Memory) -> &F::Memory {
    (*memory.0).as_any().downcast_ref().unwrap_or_else(|| foreign::<F>("memory"))
}

fn memory_of_mut<F: Family>(memory: &mut Memory) -> &mut F::Memory {
    (*memory.0).as_any_mut().downcast_mut().unwrap_or_else(|| foreign::<F>("memory"))
}

/// A run has one family, which made all that it is given.
fn foreign<F: Family>(what: &str) -> ! {
    unreachable!("a {what} of another family than {}", F::NAME)
}
