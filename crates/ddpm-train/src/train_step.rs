//! What burn-train's `Learner` trains: the model of a family, whichever that is; its forward and backward pass.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_train::metric::Adaptor;
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use ddpm_families::family::any_module::AnyModule;
use ddpm_families::family::erased::{AnyBatch, AnyFamily};
use ddpm_families::family::{Losses, RowLoss, StepLosses};
use ddpm_model::batch_norm::{BatchStatistic, BatchStatistics, with_statistics};
use ddpm_model::pass::Pass;

/// A part of the batch of a step: what the family made of some items, and what the loop adds to it.
#[derive(Clone, Debug)]
pub struct TrainBatch {
    /// The family's batch.
    pub batch: AnyBatch,
    /// Where it is.
    pub device: Device,
    /// Share of this batch in the optimiser step: 1 over the number of parts.
    pub share: f64,
    /// Factor of the loss on its way back; the gradients have it.
    pub loss_scale: f64,
    /// Place of the first row in the endless stream of items.
    pub first_item: u64,
}

impl TrainBatch {
    /// The same batch on another device.
    pub(crate) fn on(self, device: &Device, family: &dyn AnyFamily) -> Self {
        Self { batch: family.to_device(self.batch, device), device: device.clone(), ..self }
    }
}

/// What is known about one optimiser step, on the host.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// The step just taken, counted from 1.
    pub step: u64,
    /// Items seen so far.
    pub images_seen: u64,
    /// Loss of this step.
    pub loss: f64,
    /// Mean loss since the last line of metrics; only where a line is due.
    pub mean_loss: Option<f64>,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the weight average at this step.
    pub ema_decay: f64,
    /// What the family makes of the losses since the last line of metrics; only where a line is due.
    pub curves: Vec<(&'static str, Option<f64>)>,
    /// Norm of all weights together; only where a line is due.
    pub weight_norm: Option<f64>,
    /// Steps that were taken with clipped gradients so far.
    pub clipped: u64,
    /// Steps that were not taken so far.
    pub skipped: u64,
    /// Speed since the last line of metrics.
    pub images_per_sec: f64,
    /// Share of the time since the last line of metrics in which the step waited for its data; only where a line is due.
    pub data_wait: Option<f64>,
    /// Items a second that the loader could give; only where a line is due.
    pub data_per_sec: Option<f64>,
    /// What the process keeps in memory, in MiB; only where a line is due and the system says it.
    pub memory_mib: Option<f64>,
    /// Seconds since 1970; only where a line is due.
    pub time: Option<f64>,
    /// What the averaged weights make of held-out data; only where they are looked at.
    pub held_out: Vec<(&'static str, f64)>,
    /// Place of the first row in the endless stream of items.
    pub first_item: u64,
    /// What became of the rows and of the terms of the loss; until the step is counted.
    pub losses: StepLosses,
    /// What batch normalizations have seen of the batch; until the step is taken.
    pub statistics: Vec<BatchStatistic>,
}

impl ItemLazy for StepReport {
    fn sync(self) -> Result<Self, burn::tensor::ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<StepReport> for StepReport {
    fn adapt(&self) -> StepReport {
        self.clone()
    }
}

/// A model under the loss of its family.
#[derive(Module, Debug)]
pub struct TrainModel {
    /// The model; the only part with parameters.
    pub net: AnyModule,
    #[module(skip)]
    family: Arc<dyn AnyFamily>,
    /// For the step that is taken next. All clones share them, because burn-train gives its model away for that step only.
    #[module(skip)]
    statistics: Arc<Mutex<Vec<BatchStatistic>>>,
}

impl TrainModel {
    /// A model to be trained.
    pub fn new(net: AnyModule, family: Arc<dyn AnyFamily>) -> Self {
        Self { net, family, statistics: Arc::default() }
    }

    /// The family that it is of.
    pub fn family(&self) -> &dyn AnyFamily {
        &*self.family
    }

    /// Has the next step move the running averages of batch normalizations towards these statistics.
    pub(crate) fn set_statistics(&self, statistics: Vec<BatchStatistic>) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
    }

    /// The loss of a batch, in a pass that may be looked at.
    pub fn losses(&self, batch: &TrainBatch, pass: &Pass<'_>) -> Losses {
        self.family.losses(&self.net, &batch.batch, pass)
    }

    /// What became of each row, on the host.
    pub fn rows(&self, batch: &TrainBatch, losses: Tensor<1>) -> Vec<RowLoss> {
        let times = self.family.times(&batch.batch).into_iter().chain(std::iter::repeat(0.0));
        times.zip(losses.into_data().iter::<f64>()).map(|(time, loss)| RowLoss { time, loss }).collect()
    }
}

impl TrainStep for TrainModel {
    type Input = TrainBatch;
    type Output = StepReport;

    fn step(&self, batch: TrainBatch) -> TrainOutput<StepReport> {
        let (loss, rows, parts, gradients, statistics) = ddpm_kernels::among_the_kernels(&batch.device, || {
            let statistics = BatchStatistics::default();
            let Losses { loss, rows, parts } = self.losses(&batch, &Pass::default().training(&statistics));
            let loss = loss.mul_scalar(batch.share);
            let gradients = loss.clone().mul_scalar(batch.loss_scale).backward();
            (loss, rows, parts, gradients, statistics.into_values())
        });
        let parts = parts.into_iter().map(|part| batch.share * host(part)).collect();
        let losses = StepLosses { rows: self.rows(&batch, rows), parts };
        let (loss, first_item) = (host(loss), batch.first_item);
        let report = StepReport { loss, first_item, losses, statistics, ..StepReport::default() };
        TrainOutput::new(self, gradients, report)
    }

    fn optimize(self, optimizer: &mut ModuleOptimizer, rate: ModuleLearningRate, gradients: GradientsParams) -> Self {
        let statistics = std::mem::take(&mut *self.statistics.lock().unwrap_or_else(PoisonError::into_inner));
        let model = optimizer.step(rate, self, gradients);
        with_statistics(model, &statistics)
    }
}

impl InferenceStep for TrainModel {
    type Input = TrainBatch;
    type Output = StepReport;

    fn step(&self, batch: TrainBatch) -> StepReport {
        StepReport { loss: host(self.losses(&batch, &Pass::default()).loss), ..StepReport::default() }
    }
}

/// Reads one number back from the device.
pub(crate) fn host(scalar: Tensor<1>) -> f64 {
    scalar.into_scalar::<f64>()
}
