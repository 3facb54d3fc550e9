//! The training loop, read from top to bottom: gradients, a step, the averages, and what is kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burn::data::dataloader::{DataLoaderIterator, Progress as Share};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn_train::{EventProcessorTraining, Learner, LearnerEvent, TrainLoader, TrainingComponents, TrainingItem};
use ddpm_data::random::{Stream, mix};
use ddpm_families::family::erased::Memory;
use ddpm_families::family::{Progress, StepLosses};
use ddpm_families::parameters::gradients_of;
use ddpm_families::snapshot::Written;
use ddpm_files::runs::{step_name, steps_in, width_name};
use ddpm_kernels::among_the_kernels;
use ddpm_model::ema::{gamma_of, power_decay};

use crate::anomaly;
use crate::checkpoint::{Checkpoint, CheckpointError, OptimizerTap, TrainState, prune};
use crate::clip_and_average::{clip_global_norm, scale_gradients, weight_norm};
use crate::config::OnNonFinite;
use crate::devices::Workers;
use crate::divergence::Divergence;
use crate::memory::resident_mib;
use crate::metrics::read_lines;
use crate::strategy::{Outcome, StepStrategy, divergence_words, missing_weights};
use crate::train_error::{Diagnosis, TrainError, seen};
use crate::train_step::{StepReport, TrainBatch, TrainModel};
use crate::trained_part::factors_of;

/// What burn-train gives a strategy besides the learner.
type Parts = TrainingComponents<TrainModel>;

/// Where the batches of the steps come from.
type Batches<'a> = Box<dyn DataLoaderIterator<TrainBatch> + 'a>;

/// A training that is under way.
pub(crate) struct Loop<'a> {
    strategy: &'a StepStrategy,
    state: TrainState,
    /// What the family remembers from step to step.
    memory: Memory,
    ema: TrainModel,
    post_hoc: Vec<(f64, TrainModel)>,
    tap: OptimizerTap<TrainModel>,
    /// When the present stretch of steps began, and after how many items: for images/s.
    window: (Instant, u64),
    /// How long it waited for data in that stretch.
    waited: Duration,
    /// The step of the last checkpoint, and when it was written.
    checkpoint: (u64, Instant),
    /// The step of the last snapshot.
    snapshot: u64,
    /// Whether the loss runs away.
    divergence: Divergence,
    /// Whether that was said already.
    warned: bool,
}

/// The gradients of a whole batch.
struct Gradients {
    /// The loss, and what became of each row.
    report: StepReport,
    /// For each parameter that has one.
    of_parameters: GradientsParams,
    /// The batches, where the step may be computed once more.
    batches: Vec<TrainBatch>,
}

/// Why there are no gradients.
enum Fault {
    Data(String),
    Device(String),
}

impl Fault {
    /// The error of a step, before which everything is saved.
    fn at(self, step: u64, saved: PathBuf) -> TrainError {
        match self {
            Self::Data(reason) => TrainError::Data { step, reason, saved },
            Self::Device(reason) => TrainError::Device { step, reason, saved },
        }
    }
}

impl<'a> Loop<'a> {
    /// A training that begins where the strategy does.
    pub(crate) fn new(strategy: &'a StepStrategy) -> Self {
        let state = strategy.state.clone();
        Self {
            strategy,
            memory: strategy.memory.clone(),
            ema: strategy.ema.clone(),
            post_hoc: strategy.post_hoc.clone(),
            tap: OptimizerTap::default(),
            window: (Instant::now(), state.images_seen),
            waited: Duration::ZERO,
            checkpoint: (state.step, Instant::now()),
            snapshot: state.step,
            divergence: Divergence::of_lines(&read_lines(&strategy.run.metrics()).unwrap_or_default()),
            warned: false,
            state,
        }
    }

    /// What it leaves behind.
    pub(crate) fn outcome(self, error: Option<TrainError>) -> Outcome {
        Outcome { state: self.state, error, diverged: self.divergence.verdict() }
    }

    /// Steps until there are enough, or somebody stops it.
    pub(crate) fn run(
        &mut self,
        parts: &mut Parts,
        learner: &mut Learner<TrainModel>,
        train: &TrainLoader<TrainModel>,
    ) -> Result<(), TrainError> {
        self.save_missing_weights()?;
        let steps = self.strategy.experiment.train.steps;
        let train = self.unseen(train);
        let mut batches = train.iter();
        let workers = Workers::new(&self.strategy.devices);
        let first = self.state.step;
        while self.state.step < steps && !parts.interrupter.should_stop() {
            let gradients = match self.gradients(&workers, learner, &mut batches) {
                Ok(gradients) => gradients,
                Err(fault) => return Err(fault.at(self.state.step + 1, self.save_checkpoint(parts, learner)?)),
            };
            let mut report = self.step(gradients, parts, learner)?;
            report.held_out = self.measure_held_out();
            self.log(report, parts, learner);
            // Some devices compile and choose their kernels in the first step: it stays out of images/s.
            if self.state.step == first + 1 {
                self.window = (Instant::now(), self.state.images_seen);
                self.waited = Duration::ZERO;
            }
            self.keep(parts, learner)?;
        }
        self.keep_last(parts, learner)
    }

    /// The items after those already seen: the stream is a function of (seed, item).
    fn unseen(&self, train: &TrainLoader<TrainModel>) -> TrainLoader<TrainModel> {
        let config = &self.strategy.experiment.train;
        let left = config.steps.saturating_sub(self.state.step);
        let end = self.state.images_seen + left * config.batch_size as u64;
        train.slice(self.state.images_seen as usize, end as usize)
    }

    /// 1. Gradients of the whole batch, in parts.
    fn gradients(
        &mut self,
        workers: &Workers,
        learner: &Learner<TrainModel>,
        batches: &mut Batches<'_>,
    ) -> Result<Gradients, Fault> {
        self.seed_dropout();
        let mut accumulator = GradientsAccumulator::new();
        let mut report = StepReport::default();
        let mut computed = Vec::new();
        for _ in 0..self.strategy.experiment.train.accumulate {
            let given = (0..workers.count()).map(|_| self.next_batch(batches)).collect::<Result<Vec<_>, _>>()?;
            if self.strategy.detect_anomaly {
                computed.extend(given.iter().cloned());
            }
            let outputs = workers.compute(learner, given).map_err(|error| Fault::Device(error.to_string()))?;
            for output in outputs {
                report.loss += output.item.loss;
                report.losses.extend(output.item.losses);
                report.statistics.extend(output.item.statistics);
                accumulator.accumulate(&learner.model(), output.grads);
            }
        }
        Ok(Gradients { report, of_parameters: accumulator.grads(), batches: computed })
    }

    /// Waits for a batch, and draws again what depends on the steps before.
    fn next_batch(&mut self, batches: &mut Batches<'_>) -> Result<TrainBatch, Fault> {
        let start = Instant::now();
        let next = batches.next();
        self.waited += start.elapsed();
        let mut batch = match next {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return Err(Fault::Data(error.to_string())),
            None => return Err(Fault::Data("the data came to an end".into())),
        };
        let seed = self.strategy.experiment.train.seed;
        self.strategy.family.redraw(&mut batch.batch, &self.memory, seed);
        batch.loss_scale = self.state.loss_scale.map_or(1.0, |scale| scale.factor);
        Ok(batch)
    }

    /// 2. A step of the optimizer, if everything is finite; and 3. the averages of the weights.
    fn step(
        &mut self,
        gradients: Gradients,
        parts: &mut Parts,
        learner: &mut Learner<TrainModel>,
    ) -> Result<StepReport, TrainError> {
        let Gradients { mut report, of_parameters: mut grads, batches } = gradients;
        let experiment = &self.strategy.experiment;
        if let Some(scale) = self.state.loss_scale {
            scale_gradients(&learner.model(), &mut grads, 1.0 / scale.factor);
        }
        let (model, device) = (learner.model(), &self.strategy.devices[0]);
        report.grad_norm =
            among_the_kernels(device, || clip_global_norm(&model, &mut grads, experiment.optimizer.clip_norm));
        drop(model);
        report.learning_rate = experiment.optimizer.rate_at(self.state.step, experiment.train.batch_size);
        let at_fault = non_finite(&report, &learner.model(), &grads);
        let is_large = at_fault.is_none() && is_above(report.grad_norm, experiment.optimizer.skip_norm);
        learner.lr_step();
        match &at_fault {
            // The price of the largest scale that there is room for.
            Some(_) if report.loss.is_finite() && self.lower_loss_scale() => self.state.skipped += 1,
            Some(what) => {
                let diagnosis = self.strategy.detect_anomaly.then(|| {
                    // With the same dropout as before, on one device.
                    self.seed_dropout();
                    anomaly::find(&learner.model(), &batches, &grads).map(Box::new)
                });
                self.skip(what, diagnosis, &report, parts, learner)?;
            }
            None if is_large => self.skip_large(&report, parts, learner)?,
            None => {
                learner.model().set_statistics(std::mem::take(&mut report.statistics));
                among_the_kernels(device, || learner.optimizer_step(grads));
                self.count(&report);
            }
        }
        self.average(&mut report, at_fault.is_none() && !is_large, learner);
        Ok(report)
    }

    /// 3. The averages of the weights; those of a step that was not taken stay as they are.
    fn average(&mut self, report: &mut StepReport, taken: bool, learner: &Learner<TrainModel>) {
        let Self { strategy, state, .. } = self;
        let (ema, batch_size) = (&strategy.experiment.ema, strategy.experiment.train.batch_size);
        state.step += 1;
        report.ema_decay = ema.decay_at(state.step as usize, state.images_seen, batch_size);
        for (width, average) in self.post_hoc.iter_mut().filter(|_| taken) {
            let decay = power_decay(batch_size, state.images_seen, gamma_of(*width));
            strategy.average(average, &learner.model(), decay);
        }
        state.images_seen += batch_size as u64;
        if taken {
            strategy.average(&mut self.ema, &learner.model(), report.ema_decay);
        }
    }

    /// 4. Images, checkpoints, snapshots, where they are due.
    fn keep(&mut self, parts: &mut Parts, learner: &Learner<TrainModel>) -> Result<(), TrainError> {
        let Loop { strategy: StepStrategy { experiment, .. }, .. } = self;
        let (step, last) = (self.state.step, self.state.step == experiment.train.steps);
        if last || due(step, experiment.preview.every) {
            self.preview();
        }
        // Before the snapshot: if there is no room for that, the run goes on from here.
        if last || due(step, experiment.train.checkpoint_every) || self.checkpoint_is_late() {
            self.save_checkpoint(parts, learner)?;
        }
        if last || due(step, experiment.train.snapshot_every) {
            self.save_snapshot()?;
        }
        match &experiment.ema.post_hoc {
            Some(post_hoc) if last || due(step, post_hoc.every) => self.save_averages(),
            _ => Ok(()),
        }
    }

    /// Stopped on request: nothing is lost, and there is something to sample from.
    fn keep_last(&mut self, parts: &mut Parts, learner: &Learner<TrainModel>) -> Result<(), TrainError> {
        if self.checkpoint.0 != self.state.step {
            self.save_checkpoint(parts, learner)?;
        }
        if self.snapshot != self.state.step {
            self.save_snapshot()?;
        }
        Ok(())
    }

    /// Whether `train.checkpoint_minutes` have passed since the last checkpoint.
    fn checkpoint_is_late(&self) -> bool {
        let minutes = self.strategy.experiment.train.checkpoint_minutes;
        minutes > 0.0 && self.checkpoint.1.elapsed().as_secs_f64() >= 60.0 * minutes
    }

    /// A run may have ended between a checkpoint and the snapshot of the same step: it is written now.
    fn save_missing_weights(&mut self) -> Result<(), TrainError> {
        let [snapshot, averages] = missing_weights(&self.strategy.run, &self.strategy.experiment, self.state.step);
        if snapshot {
            self.save_snapshot()?;
        }
        if averages { self.save_averages() } else { Ok(()) }
    }

    /// Dropout is a function of (seed, step), and of the device where there are several.
    fn seed_dropout(&self) {
        let (seed, step) = (self.strategy.experiment.train.seed, self.state.step);
        for (number, device) in self.strategy.devices.iter().enumerate() {
            device.seed(mix(seed, Stream::Dropout, step | (number as u64) << 48));
        }
    }

    /// A step that would poison the weights is not taken: they are saved as they are, or the run goes on without it.
    fn skip(
        &mut self,
        what: &str,
        diagnosis: Option<Diagnosis>,
        report: &StepReport,
        parts: &mut Parts,
        learner: &Learner<TrainModel>,
    ) -> Result<(), TrainError> {
        let config = &self.strategy.experiment.train;
        let step = self.state.step + 1;
        let skipped = self.state.skipped_in_a_row;
        if config.on_non_finite == OnNonFinite::Stop || skipped >= config.max_skips {
            return Err(TrainError::NotFinite {
                step,
                what: what.into(),
                learning_rate: report.learning_rate,
                last_finite_loss: self.state.last_finite_loss,
                skipped,
                saved: self.save_checkpoint(parts, learner)?,
                diagnosis,
            });
        }
        let diagnosis = diagnosis.map_or_else(String::new, |diagnosis| seen(&Some(diagnosis)));
        self.count_skip(&format!("{what} is not finite"), &diagnosis);
        Ok(())
    }

    /// A step whose gradients are above `optimizer.skip_norm` is not taken; too many in a row stop the run.
    fn skip_large(
        &mut self,
        report: &StepReport,
        parts: &mut Parts,
        learner: &mut Learner<TrainModel>,
    ) -> Result<(), TrainError> {
        let (norm, limit) = (report.grad_norm, self.strategy.experiment.optimizer.skip_norm);
        let skipped = self.state.skipped_in_a_row;
        if skipped >= self.strategy.experiment.train.max_skips {
            let (step, learning_rate) = (self.state.step + 1, report.learning_rate);
            let saved = self.save_checkpoint(parts, learner)?;
            return Err(TrainError::TooLarge { step, norm, limit, learning_rate, skipped, saved });
        }
        self.count_skip(&format!("the norm of the gradients, {norm:.4}, is above optimizer.skip_norm = {limit}"), "");
        Ok(())
    }

    /// Counts a step that is not taken, and says why.
    fn count_skip(&mut self, why: &str, more: &str) {
        let most = self.strategy.experiment.train.max_skips;
        let state = &mut self.state;
        state.skipped += 1;
        state.skipped_in_a_row += 1;
        state.skipped_since_line += 1;
        let (step, in_a_row) = (state.step + 1, state.skipped_in_a_row);
        self.strategy.reporter.say(&format!(
            "warning: step {step}: {why}; the step is skipped ({in_a_row} in a row, at most {most}){more}"
        ));
    }

    /// Whether gradients that are not finite may be due to the factor of the loss, which is then halved.
    fn lower_loss_scale(&mut self) -> bool {
        let Some(scale) = &mut self.state.loss_scale else { return false };
        let lowered = scale.overflowed();
        if lowered {
            let (step, factor) = (self.state.step + 1, scale.factor);
            let line = format!("step {step}: the gradients were too large for f16; the loss is now scaled by {factor}");
            self.strategy.reporter.say(&line);
        }
        lowered
    }

    /// Counts the losses of a step that was taken.
    fn count(&mut self, report: &StepReport) {
        let is_clipped = is_above(report.grad_norm, self.strategy.experiment.optimizer.clip_norm);
        let state = &mut self.state;
        state.clipped += u64::from(is_clipped);
        state.skipped_in_a_row = 0;
        state.last_finite_loss = report.loss;
        state.loss_sum += report.loss;
        state.loss_count += 1;
        self.divergence.see(report.loss, 1.0);
        if let Some(scale) = &mut state.loss_scale {
            scale.held();
        }
        self.strategy.family.remember(&mut self.memory, &report.losses);
    }

    fn log(&mut self, mut report: StepReport, parts: &mut Parts, learner: &Learner<TrainModel>) {
        let config = &self.strategy.experiment.train;
        let state = &mut self.state;
        report.step = state.step;
        report.images_seen = state.images_seen;
        report.clipped = state.clipped;
        report.skipped = state.skipped;
        report.losses = StepLosses::default();
        let (since, items) = self.window;
        report.images_per_sec = (state.images_seen - items) as f64 / since.elapsed().as_secs_f64();
        // The last step always has a line; one that falls between two regular ones is dropped on resumption.
        let regular = due(state.step, config.log_every);
        if regular || state.step == config.steps {
            // Not a number would mean that no line is due; an infinity becomes `null`.
            let mean = if state.loss_count > 0 { state.loss_sum / state.loss_count as f64 } else { f64::INFINITY };
            report.mean_loss = Some(mean);
            report.curves = self.strategy.family.curves(&self.memory);
            report.weight_norm = Some(weight_norm(&learner.model()));
            report.data_wait = Some(self.waited.as_secs_f64() / since.elapsed().as_secs_f64());
            report.data_per_sec = self.strategy.reading.take();
            report.memory_mib = resident_mib();
            report.time = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        }
        if let Some(values) = self.divergence.verdict().filter(|_| regular && !self.warned) {
            self.warned = true;
            let line = format!("warning: step {}: {}", state.step, divergence_words(values, report.learning_rate));
            self.strategy.reporter.say(&line);
        }
        if regular {
            (state.loss_sum, state.loss_count, state.skipped_since_line) = (0.0, 0, 0);
            self.strategy.family.clear_sums(&mut self.memory);
            self.window = (Instant::now(), state.images_seen);
            self.waited = Duration::ZERO;
        }
        let progress = Share::new(report.step as usize, config.steps as usize, Some("steps".into()));
        let (step, rate) = (report.step as usize, report.learning_rate);
        let item = TrainingItem::new(report, progress, Some(step), Some(rate.into()));
        parts.interrupter.fail_on_error(parts.event_processor.process_train(LearnerEvent::ProcessedItem(item)));
    }

    fn save_checkpoint(&mut self, parts: &mut Parts, learner: &Learner<TrainModel>) -> Result<PathBuf, TrainError> {
        // Every line of metrics up to this step is in the file before the checkpoint exists.
        parts.interrupter.fail_on_error(parts.event_processor.flush());
        let step = self.state.step;
        let failed = |source| TrainError::Checkpoint { step, source };
        let checkpoints = self.strategy.run.checkpoints();
        let optimizer = self.tap.record(learner, &parts.event_store).ok_or_else(|| {
            failed(CheckpointError::Record {
                path: checkpoints.clone(),
                reason: "the optimiser did not give up its state".into(),
            })
        })?;
        let memory = self
            .memory
            .to_json()
            .map_err(|error| failed(CheckpointError::State { path: checkpoints.clone(), reason: error.to_string() }))?;
        let checkpoint = Checkpoint {
            state: TrainState { memory, ..self.state.clone() },
            model: learner.model().net.into_record(),
            ema: self.ema.net.clone().into_record(),
            post_hoc: self
                .post_hoc
                .iter()
                .map(|(width, average)| (*width, average.net.clone().into_record()))
                .collect(),
            optimizer,
        };
        let saved = checkpoint.save(&checkpoints, &self.strategy.origin).map_err(failed)?;
        self.checkpoint = (step, Instant::now());
        prune(&checkpoints, self.strategy.experiment.train.keep_checkpoints);
        Ok(saved)
    }

    fn save_snapshot(&mut self) -> Result<(), TrainError> {
        let dir = self.strategy.run.snapshots().join(step_name(self.state.step));
        let written = self.save_weights(&self.ema, &dir)?;
        self.snapshot = self.state.step;
        self.strategy.reporter.say(&format!("step {}: snapshot {}", self.state.step, dir.display()));
        // What holds for the first holds for all.
        let is_first = steps_in(&self.strategy.run.snapshots()).len() == 1;
        if let Some(remark) = written.remark().filter(|_| is_first) {
            self.strategy.reporter.say(&format!("note: {remark}"));
        }
        Ok(())
    }

    /// Stores the averages that one of another width can be made of after training.
    fn save_averages(&self) -> Result<(), TrainError> {
        for (width, average) in &self.post_hoc {
            let dir = self.strategy.run.averages().join(width_name(*width)).join(step_name(self.state.step));
            self.save_weights(average, &dir)?;
        }
        Ok(())
    }

    fn save_weights(&self, model: &TrainModel, dir: &Path) -> Result<Written, TrainError> {
        let TrainState { step, images_seen, .. } = self.state;
        let (family, progress) = (&self.strategy.family, Progress { step, images_seen });
        let saved = match &self.strategy.experiment.fine_tune.lora {
            Some(lora) => family.save_adapted(&model.net, &factors_of(&model.net, lora), progress, dir),
            None => family.save(&model.net, progress, dir),
        };
        saved.map_err(|source| TrainError::Snapshot { step, source })
    }

    /// What the averaged weights make of held-out data, where it is time for it and a regular line of metrics is due:
    /// so it is on the same lines whether the run was stopped or not.
    fn measure_held_out(&mut self) -> Vec<(&'static str, f64)> {
        let (step, line) = (self.state.step, self.strategy.experiment.train.log_every);
        let every = self.strategy.experiment.validation.every;
        let Some(held_out) = &self.strategy.held_out else { return Vec::new() };
        if !due(step, line) || step / every == (step - line) / every {
            return Vec::new();
        }
        let start = Instant::now();
        let values = held_out.measure(&self.ema.net);
        self.window.0 += start.elapsed();
        held_out.names().into_iter().zip(values).collect()
    }

    /// An image that cannot be made is no reason to stop training.
    fn preview(&mut self) {
        let Some(preview) = &self.strategy.preview else { return };
        let step = self.state.step;
        let start = Instant::now();
        let drawn = preview.draw(&self.ema.net, &self.strategy.run.previews(), &step_name(step));
        self.strategy.reporter.say(&match drawn {
            Ok(image) => format!("step {step}: preview {}", image.display()),
            Err(error) => format!("warning: step {step}: no preview: {error}"),
        });
        // Images are not training: they stay out of images/s.
        self.window.0 += start.elapsed();
    }
}

/// What about a step is not finite: its loss or its gradient, and the first parameter whose gradient it is.
fn non_finite(report: &StepReport, model: &TrainModel, gradients: &GradientsParams) -> Option<String> {
    let what = match (report.loss.is_finite(), report.grad_norm.is_finite()) {
        (false, _) => "the loss",
        (true, false) => "the gradient",
        (true, true) => return None,
    };
    let at_fault = gradients_of(&model.net, gradients).into_iter().find(|(_, gradient)| !gradient.are_finite());
    Some(match at_fault {
        Some((parameter, _)) => format!("{what} (first in the gradient of {parameter})"),
        // Every gradient is finite, and the sum of their squares too large for a number.
        None => what.into(),
    })
}

/// Whether a norm is above a limit; 0: there is none.
fn is_above(norm: f64, limit: f64) -> bool {
    limit > 0.0 && norm > limit
}

/// Whether something that happens every so many steps does at this one; 0: never.
pub(crate) fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
