//! What burn-train's `Learner` trains: a network together with the loss of its diffusion process.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_train::metric::Adaptor;
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use ddpm_model::bound::Loss;
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::concat_estimate;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::Network;
use ddpm_model::noise_level::per_row;
use ddpm_model::pass::Pass;
use ddpm_model::weighting::Weighting;

use crate::validation::HeldOut;

/// One batch, with everything random about it already drawn.
#[derive(Clone, Debug)]
pub struct TrainBatch<const D: usize> {
    /// The data, `[B, ..]`.
    pub x_0: Tensor<D>,
    /// The noise, of the same shape.
    pub eps: Tensor<D>,
    /// The training time of every row: a step of the chain, or a time of the path.
    pub times: Vec<f64>,
    /// What the network is conditioned on.
    pub condition: Condition,
    /// The augmentation labels, `[B, augment_dim]`, where the network is conditioned on them.
    pub augment_labels: Option<Tensor<2>>,
    /// Share of this batch in the optimiser step: 1 over the number of parts.
    pub share: f64,
    /// Factor of the loss on its way back; the gradients have it.
    pub loss_scale: f64,
    /// Place of the first row in the endless stream of items.
    pub first_item: u64,
    /// For a self-conditioned network, which rows it is shown its own estimate of: 1 or 0.
    pub shown: Option<Vec<f64>>,
    /// The weight that undoes the choice of each row's step, where steps are drawn by importance.
    pub importance: Option<Vec<f64>>,
}

impl<const D: usize> TrainBatch<D> {
    /// The same batch on another device.
    pub(crate) fn on(self, device: &Device) -> Self {
        Self {
            x_0: self.x_0.to_device(device),
            eps: self.eps.to_device(device),
            condition: match self.condition {
                Condition::None => Condition::None,
                Condition::Class(classes) => Condition::Class(classes.to_device(device)),
            },
            augment_labels: self.augment_labels.map(|labels| labels.to_device(device)),
            ..self
        }
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
    /// Mean losses since the last line of metrics of the four quarters of the noise levels; only where a line is due.
    pub quartiles: [Option<f64>; 4],
    /// Norm of all weights together; only where a line is due.
    pub weight_norm: Option<f64>,
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
    pub held_out: Option<HeldOut>,
    /// Place of the first row in the endless stream of items.
    pub first_item: u64,
    /// Training time of each row, and its loss without its importance; until the step is counted.
    pub rows: Vec<(f64, f64)>,
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

/// The network under its objective. `D` is the rank of a batch: 2 for points, 4 for images.
#[derive(Module, Debug)]
pub struct TrainModel<const D: usize> {
    /// The network; the only part with parameters.
    pub net: Network,
    #[module(skip)]
    diffusion: Arc<Diffusion>,
    #[module(skip)]
    objective: Loss,
    #[module(skip)]
    weighting: Weighting,
}

impl<const D: usize> TrainModel<D> {
    /// A network to be trained under `diffusion`.
    pub fn new(net: Network, diffusion: Arc<Diffusion>, objective: Loss, weighting: Weighting) -> Self {
        Self { net, diffusion, objective, weighting }
    }

    /// The loss of each row: by default `L_simple`, eq. 14 of Ho et al. 2020.
    pub fn row_losses(&self, batch: &TrainBatch<D>) -> Tensor<1> {
        self.row_losses_in(batch, &Pass::default())
    }

    /// The same in a pass that may be looked at.
    pub fn row_losses_in(&self, batch: &TrainBatch<D>, pass: &Pass<'_>) -> Tensor<1> {
        let TrainBatch { condition, augment_labels, .. } = batch;
        let network = |x, t| self.net.forward_with(x, t, condition, augment_labels.clone(), pass);
        self.row_losses_of(batch, network)
    }

    /// The same, with somebody between the loss and the network. What is asked last, the loss is made of.
    pub(crate) fn row_losses_of(
        &self,
        batch: &TrainBatch<D>,
        ask: impl Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
    ) -> Tensor<1> {
        let TrainBatch { x_0, eps, times, .. } = batch;
        let estimate = batch.shown.as_ref().map(|shown| self.estimate(batch, shown, &ask));
        let network = |x: Tensor<D>, t: Tensor<1>| match estimate {
            Some(estimate) => ask(concat_estimate(x, Some(estimate)), t),
            None => ask(x, t),
        };
        self.diffusion.row_losses(self.objective, self.weighting, network, x_0, times, eps)
    }

    /// What the network says of the data before it is shown anything, for the rows that are shown it (Chen et al.
    /// 2023, algorithm 1). Nothing is learned from how it came about.
    fn estimate(
        &self,
        batch: &TrainBatch<D>,
        shown: &[f64],
        ask: &impl Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
    ) -> Tensor<D> {
        let TrainBatch { x_0, eps, times, .. } = batch;
        let network = |x, t| ask(concat_estimate(x, None), t);
        let x_t = self.diffusion.q_sample(x_0, times, eps);
        let estimate = self.diffusion.denoise_rows(network, &x_t, times).detach();
        per_row(shown, &estimate) * estimate
    }

    /// The loss of the batch, and that of its rows without their importance.
    fn loss(&self, batch: &TrainBatch<D>) -> (Tensor<1>, Tensor<1>) {
        let rows = self.row_losses(batch);
        let seen = rows.clone().detach();
        match &batch.importance {
            None => (rows.mean(), seen),
            Some(importance) => ((per_row(importance, &rows) * rows).mean(), seen),
        }
    }
}

impl<const D: usize> TrainStep for TrainModel<D> {
    type Input = TrainBatch<D>;
    type Output = StepReport;

    fn step(&self, batch: TrainBatch<D>) -> TrainOutput<StepReport> {
        let (loss, row_losses, gradients) = ddpm_kernels::among_the_kernels(&batch.x_0.device(), || {
            let (loss, row_losses) = self.loss(&batch);
            let loss = loss.mul_scalar(batch.share);
            let gradients = loss.clone().mul_scalar(batch.loss_scale).backward();
            (loss, row_losses, gradients)
        });
        let first_item = batch.first_item;
        let rows = batch.times.into_iter().zip(row_losses.into_data().iter::<f64>()).collect();
        let report = StepReport { loss: host(loss), first_item, rows, ..StepReport::default() };
        TrainOutput::new(self, gradients, report)
    }
}

impl<const D: usize> InferenceStep for TrainModel<D> {
    type Input = TrainBatch<D>;
    type Output = StepReport;

    fn step(&self, batch: TrainBatch<D>) -> StepReport {
        StepReport { loss: host(self.loss(&batch).0), ..StepReport::default() }
    }
}

/// Reads one number back from the device.
pub(crate) fn host(scalar: Tensor<1>) -> f64 {
    scalar.into_scalar::<f64>()
}
