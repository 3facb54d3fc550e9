//! The family `diffusion`: a network that learns to take noise away (Ho et al. 2020, and what came of it).

pub mod captions;
pub mod config;
pub mod description;
mod latent_cache;
pub mod latents;
pub mod loss;
pub mod networks;
pub mod noising;
pub mod preview;
pub mod quartiles;
pub mod start;
pub mod tables;
pub mod trained;
pub mod validation;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use ddpm_data::augment::AugmentConfig;
use ddpm_data::{DataInfo, Flip, OpenData, StreamItem};
use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::{MemoryEstimate, Network, NetworkConfig};
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::pass::Pass;
use ddpm_model::resample::{LossHistory, LossSecondMoment};
use ddpm_model::schedule::Schedule;
use ddpm_weights::lora::TrainedFactors;
use serde::{Deserialize, Serialize};
use toml::Table;

use self::captions::Captions;
use self::latents::cache_folder;
use self::loss::Objective;
use self::noising::{Labels, NoisedBatch, Noising, draw_by_importance};
use self::quartiles::Quartiles;
use self::start::Start;
use self::tables::{DiffusionTables, PreviewKeys, TimeSampling};
use self::trained::TrainedDiffusion;
use crate::family::any_module::AnyModule;
use crate::family::stored::ModelCard;
use crate::family::trained::Trained;
use crate::family::{
    AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Progress, RowLoss,
    StartingWeights, StepLosses, Subject,
};
use crate::latent::FrozenParts;
use crate::loss_sum::LossSum;
use crate::snapshot::{LatentInfo, Sampling, Snapshot, SnapshotConfig, SnapshotError, TextInfo, Written};

/// A diffusion model of images or points.
#[derive(Clone, Debug)]
pub struct DiffusionFamily {
    tables: DiffusionTables,
    /// The forward process.
    pub process: Arc<Diffusion>,
    noising: Noising,
    quartiles: Quartiles,
    origin: Origin,
    /// What is noised: the data, or latents of them.
    denoised: DataInfo,
}

/// What importance sampling and the metrics remember of the losses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossMemory {
    /// The losses since the last regular line of metrics, by the quarter of the noise levels.
    #[serde(default)]
    pub quartiles: [LossSum; 4],
    /// The losses that the steps of the next items are drawn by; only where they are drawn by importance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_history: Option<LossHistory>,
}

impl DiffusionFamily {
    /// The family for data of which only the description is known.
    pub fn new(tables: DiffusionTables, origin: Origin) -> Result<Self, Problem> {
        Self::with_parts(tables, origin, FrozenParts::default(), false)
    }

    /// As [`new`](Self::new), with the frozen parts of the model. Where images are another each time, they are encoded
    /// `in_batch`.
    pub(super) fn with_parts(
        tables: DiffusionTables,
        origin: Origin,
        parts: FrozenParts,
        in_batch: bool,
    ) -> Result<Self, Problem> {
        let latents = parts.first_stage.map(|stage| tables.encoder(stage, &origin.data, in_batch)).transpose()?;
        let denoised = match &latents {
            Some(encoder) => origin.data.as_latents(&encoder.latent),
            None => origin.data.clone(),
        };
        let process = tables.diffusion.init().map_err(|error| ("diffusion.schedule".to_string(), error.to_string()))?;
        let process = Arc::new(process);
        let noising = Noising {
            diffusion: process.clone(),
            labels: labels(&tables.model, tables.train.label_drop),
            offset_noise: tables.diffusion.offset_noise,
            self_conditioning: tables.diffusion.self_conditioning,
            shape: denoised.shape.clone(),
            latents,
            captions: parts.text.map(|text| Captions::new(text, tables.train.label_drop)),
        };
        let quartiles = Quartiles::of(&process);
        Ok(Self { tables, process, noising, quartiles, origin, denoised })
    }

    /// What a snapshot says about itself.
    fn snapshot(&self, progress: Progress) -> SnapshotConfig {
        let Origin { experiment, data, source } = &self.origin;
        let Progress { step, images_seen } = progress;
        let (network, diffusion) = (self.tables.model.clone(), self.tables.diffusion.clone());
        let PreviewKeys { sampler, steps, guidance, prompts } = self.tables.preview.clone();
        let latents = self.noising.latents.as_ref().map(|_| LatentInfo { shape: self.denoised.shape.clone() });
        let text = self.noising.captions.as_ref().map(|_| TextInfo { prompts });
        let config = SnapshotConfig::new(network, diffusion, data.clone(), source.clone(), experiment);
        let sampling = Some(Sampling { sampler, steps, guidance });
        SnapshotConfig { step, images_seen, latents, text, sampling, ..config }
    }

    /// The frozen parts of the model.
    fn parts(&self) -> FrozenParts {
        FrozenParts {
            first_stage: self.noising.latents.as_ref().map(|encoder| encoder.stage.clone()),
            text: self.noising.captions.as_ref().map(|captions| captions.encoder().clone()),
        }
    }

    /// The loss under this process.
    pub fn objective(&self) -> Objective<'_> {
        let (loss, weighting) = (self.tables.diffusion.loss, self.tables.diffusion.weighting);
        Objective { diffusion: &self.process, loss, weighting }
    }

    /// The network of a model of this family.
    pub fn network(model: &AnyModule) -> &Network {
        model.get().unwrap_or_else(|| unreachable!("a model of another family"))
    }
}

/// Which labels the network is conditioned on.
fn labels(network: &NetworkConfig, drop: f64) -> Labels {
    match network.null_class() {
        _ if network.num_classes() == 0 => Labels::Unused,
        None => Labels::Kept,
        Some(null_class) => Labels::Dropped { null_class, share: drop },
    }
}

impl Family for DiffusionFamily {
    const NAME: &'static str = "diffusion";
    const ABOUT: &'static str = "diffusion, score and flow models of images and points";
    const SECTIONS: &'static [(&'static str, &'static str)] = DiffusionTables::SECTIONS;
    const SHARED_KEYS: &'static [(&'static str, &'static str)] = DiffusionTables::SHARED_KEYS;
    const CURVES: &'static [(&'static str, &'static str)] = &[
        ("loss_q1", "Loss, least noise"),
        ("loss_q2", "Loss, second quarter"),
        ("loss_q3", "Loss, third quarter"),
        ("loss_q4", "Loss, most noise"),
    ];
    const MEASURES: &'static [(&'static str, &'static str)] =
        &[("valid_bpd", "Bits per dimension, held out"), ("valid_loss", "Loss, held out")];

    type Tables = DiffusionTables;
    type Model = Network;
    type Batch = NoisedBatch;
    type Memory = LossMemory;

    fn read(tables: Table) -> Result<DiffusionTables, String> {
        DiffusionTables::read(tables)
    }

    fn problems(tables: &DiffusionTables) -> Vec<Problem> {
        tables.problems()
    }

    fn notes(tables: &DiffusionTables) -> Vec<String> {
        tables.notes()
    }

    fn has_dropout(tables: &DiffusionTables) -> bool {
        tables.has_dropout()
    }

    fn resolve(tables: DiffusionTables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        let (tables, parts) = tables.with_parts(subject.data, subject.device)?;
        let tables = tables.with_data(subject.config, subject.data, &parts)?;
        let in_batch = tables.augment != AugmentConfig::default() || subject.data.flip != Flip::Never;
        Self::with_parts(tables, subject.origin(), parts, in_batch).map_err(|problem| vec![problem])
    }

    fn starting_weights(path: &Path, device: &Device) -> Result<Box<dyn StartingWeights>, AnyError> {
        Ok(Box::new(Start::open(path, device)?))
    }

    fn tables(&self) -> &DiffusionTables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn remarks(&self, subject: &Subject<'_>) -> Vec<String> {
        let schedule = self.process.schedule().and_then(Schedule::warning);
        let schedule = schedule.map(|warning| format!("warning: diffusion.schedule: {warning}"));
        let unlearned = if subject.balanced { Vec::new() } else { self.tables.remarks(subject.config, subject.data) };
        let notes = unlearned.into_iter().map(|note| format!("note: {note}"));
        notes.chain(schedule).collect()
    }

    fn init(&self, device: &Device) -> Network {
        self.tables.model.init(device)
    }

    fn set_precision(&self, model: &mut Network, precision: Precision) {
        model.set_precision(precision);
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        self.tables.model.memory_estimate(parameters, &self.denoised.shape, batch)
    }

    fn augmentation(&self) -> AugmentConfig {
        self.tables.augment
    }

    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> NoisedBatch {
        self.noising.apply(items, seed, device)
    }

    fn items(&self, data: OpenData) -> OpenData {
        let cache = self.tables.latents.as_ref().and_then(|latents| cache_folder(&latents.autoencoder));
        match &self.noising.latents {
            Some(encoder) => encoder.items(data, cache),
            None => data,
        }
    }

    fn to_device(&self, batch: NoisedBatch, device: &Device) -> NoisedBatch {
        batch.on(device)
    }

    fn losses(&self, model: &Network, batch: &NoisedBatch, pass: &Pass<'_>) -> Losses {
        self.objective().losses(model, batch, pass)
    }

    fn times(&self, batch: &NoisedBatch) -> Vec<f64> {
        batch.times.clone()
    }

    fn first_memory(&self) -> LossMemory {
        let by_importance = self.tables.train.time_sampling == TimeSampling::LossSecondMoment;
        let schedule = self.process.schedule().filter(|_| by_importance);
        LossMemory { loss_history: schedule.map(|schedule| LossHistory::new(schedule.len())), ..LossMemory::default() }
    }

    /// All parts of a step draw by the history before it, so that their number changes nothing.
    fn redraw(&self, batch: &mut NoisedBatch, memory: &LossMemory, seed: u64) {
        if let Some(history) = &memory.loss_history {
            draw_by_importance(batch, seed, &LossSecondMoment::default().probabilities(history));
        }
    }

    fn remember(&self, memory: &mut LossMemory, step: &StepLosses) {
        for RowLoss { time, loss } in &step.rows {
            memory.quartiles[self.quartiles.index(*time)].add(*loss);
        }
        if let Some(history) = &mut memory.loss_history {
            let (steps, losses): (Vec<usize>, Vec<f64>) =
                step.rows.iter().map(|row| (row.time as usize, row.loss)).unzip();
            LossSecondMoment::default().record(history, &steps, &losses);
        }
    }

    fn curves(&self, memory: &LossMemory) -> Vec<Option<f64>> {
        memory.quartiles.iter().map(LossSum::mean).collect()
    }

    fn clear_sums(&self, memory: &mut LossMemory) {
        memory.quartiles = Default::default();
    }

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<Network>>, AnyError> {
        Ok(Box::new(validation::Validation::read(self, setup)?))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<Network>>, AnyError> {
        Ok(Box::new(preview::SamplesPreview::new(self, setup)?))
    }

    fn save(&self, model: &Network, progress: Progress, dir: &Path) -> Result<Written, SnapshotError> {
        // Factors that are trained beside weights become part of these.
        let network = burn::module::Module::materialize(model.clone());
        Snapshot::save_with(&network, &self.snapshot(progress), &self.parts(), dir)
    }

    fn save_adapted(
        &self,
        model: &Network,
        factors: &TrainedFactors,
        progress: Progress,
        dir: &Path,
    ) -> Result<Written, SnapshotError> {
        let network = burn::module::Module::materialize(model.clone());
        Snapshot::save_adapted(&network, factors, &self.snapshot(progress), &self.parts(), dir)
    }

    fn restored(tables: DiffusionTables, origin: Origin) -> Result<Self, AnyError> {
        Self::new(tables, origin).map_err(|(key, message)| format!("{key}: {message}").into())
    }

    fn trained(self, model: Network, card: ModelCard) -> Box<dyn Trained> {
        Box::new(TrainedDiffusion::new(self, model, card))
    }
}
