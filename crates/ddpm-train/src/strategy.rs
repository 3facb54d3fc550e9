//! The training loop: burn-train's `Learner` driven step by step, read from top to bottom.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burn::data::dataloader::Progress;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use burn_train::{
    EventProcessorTraining, Learner, LearnerEvent, SupervisedLearningStrategy, SupervisedTrainingEventProcessor,
    TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use ddpm_data::ReadingSpeed;
use ddpm_data::random::{Stream, mix};
use ddpm_infer::runs::{RunFolder, step_name, steps_in, width_name};
use ddpm_infer::snapshot::{Snapshot, SnapshotConfig, Written};
use ddpm_model::ema::{gamma_of, power_decay};
use ddpm_model::resample::LossSecondMoment;

use crate::anomaly::{self, Anomaly};
use crate::checkpoint::{Checkpoint, CheckpointError, OptimizerTap, TrainState, prune, remove_half_written};
use crate::config::{Experiment, OnNonFinite};
use crate::devices::Workers;
use crate::divergence::Divergence;
use crate::memory::resident_mib;
use crate::metrics::read_lines;
use crate::model::{StepReport, TrainModel};
use crate::noising::draw_by_importance;
use crate::optim::{clip_global_norm, ema_update, scale_gradients, weight_norm};
use crate::parameters::gradients_of;
use crate::preview::Preview;
use crate::progress::Reporter;
use crate::quartiles::Quartiles;
use crate::trained_part::with_frozen_of;
use crate::validation::{HeldOut, Validation};

/// Why training stopped before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or gradient that is not finite.
    #[error(
        "step {step}: {what} is not finite (learning rate {learning_rate:e}, last finite loss {last_finite_loss}{}); \
         the weights before this step lie in {saved}{}",
        skips(*.skipped),
        seen(.closer)
    )]
    NotFinite {
        /// The step that was being taken.
        step: u64,
        /// Loss or gradient, and the first parameter whose gradient it is.
        what: String,
        /// Its learning rate.
        learning_rate: f64,
        /// The loss of the last step that had one.
        last_finite_loss: f64,
        /// Steps just before that were skipped.
        skipped: u64,
        /// The checkpoint to inspect.
        saved: PathBuf,
        /// What a closer look at the step showed, if there was one.
        closer: Option<Closer>,
    },
    /// The data gave out.
    #[error("step {step}: {reason}; everything before this step is saved in {saved}")]
    Data {
        /// The step that was being taken.
        step: u64,
        /// What the data said.
        reason: String,
        /// The checkpoint to go on from.
        saved: PathBuf,
    },
    /// One of several devices failed.
    #[error("step {step}: {reason}; everything before this step is saved in {saved}")]
    Device {
        /// The step that was being taken.
        step: u64,
        /// Which device, and what it said.
        reason: String,
        /// The checkpoint to go on from.
        saved: PathBuf,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint of step {step} could not be written: {source}")]
    Checkpoint {
        /// The step.
        step: u64,
        /// Why.
        source: CheckpointError,
    },
    /// A snapshot could not be written.
    #[error("the snapshot of step {step} could not be written: {source}")]
    Snapshot {
        /// The step.
        step: u64,
        /// Why.
        source: ddpm_infer::snapshot::SnapshotError,
    },
}

fn skips(steps: u64) -> String {
    if steps == 0 { String::new() } else { format!(", after {steps} skipped in a row") }
}

/// What computing a step once more showed: where it stops being finite, unless it is finite this time.
type Closer = Option<Box<Anomaly>>;

fn seen(closer: &Option<Closer>) -> String {
    match closer {
        Some(Some(anomaly)) => format!("\n{anomaly}"),
        Some(None) => "\ncomputed once more, the step is finite: this device does not repeat itself".into(),
        None => "; --resume with --detect-anomaly says in which layer it begins".into(),
    }
}

/// What the loop leaves behind; `fit` can only return the model.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counters after the last step.
    pub state: TrainState,
    /// Why it stopped early, unless it was asked to.
    pub error: Option<TrainError>,
    /// The smoothed loss and its lowest value, if the run has diverged.
    pub diverged: Option<[f64; 2]>,
}

/// The step loop with all it needs besides the `Learner`.
pub struct StepStrategy<const D: usize> {
    /// The resolved experiment.
    pub experiment: Experiment,
    /// What a snapshot says about itself, but for the counters.
    pub snapshot: SnapshotConfig,
    /// Where everything goes.
    pub run: RunFolder,
    /// Whose checkpoints they are: experiment and beginning of the run.
    pub origin: String,
    /// How losses are told apart by noise level.
    pub quartiles: Quartiles,
    /// The devices, with autodiff; the first of them is the main one.
    pub devices: Vec<Device>,
    /// Counters to begin from.
    pub state: TrainState,
    /// The averaged weights to begin from; with the parameter ids of the trained ones.
    pub ema: TrainModel<D>,
    /// The averages that are kept besides, with their widths; likewise.
    pub post_hoc: Vec<(f64, TrainModel<D>)>,
    /// How fast the data are read.
    pub reading: Arc<ReadingSpeed>,
    /// Makes pictures, unless there are to be none.
    pub preview: Option<Preview>,
    /// Looks at held-out data.
    pub validation: Option<Validation<D>>,
    /// Whether a step that is not finite is computed once more, to find where that begins.
    pub detect_anomaly: bool,
    /// Says what happens.
    pub reporter: Reporter,
    /// Takes the result.
    pub outcome: Arc<Mutex<Outcome>>,
}

impl<const D: usize> SupervisedLearningStrategy<TrainModel<D>> for StepStrategy<D> {
    fn fit(
        &self,
        mut parts: TrainingComponents<TrainModel<D>>,
        mut learner: Learner<TrainModel<D>>,
        train: TrainLoader<TrainModel<D>>,
        _valid: ValidLoader<TrainModel<D>>,
        epoch: usize,
    ) -> (TrainModel<D>, SupervisedTrainingEventProcessor<TrainModel<D>>) {
        let total_items = self.experiment.train.steps as usize;
        let start = LearnerEvent::StartSplit { epoch_number: epoch, total_items };
        parts.interrupter.fail_on_error(parts.event_processor.process_train(start));

        let mut run = Loop {
            strategy: self,
            state: self.state.clone(),
            ema: self.ema.clone(),
            post_hoc: self.post_hoc.clone(),
            tap: OptimizerTap::default(),
            window: (Instant::now(), self.state.images_seen),
            waited: Duration::ZERO,
            checkpoint: (self.state.step, Instant::now()),
            snapshot: self.state.step,
            divergence: Divergence::of_lines(&read_lines(&self.run.metrics()).unwrap_or_default()),
            warned: false,
        };
        let error = run.run(&mut parts, &mut learner, &train).err();

        parts.interrupter.fail_on_error(parts.event_processor.process_train(LearnerEvent::EndSplit(epoch)));
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) =
            Outcome { state: run.state, error, diverged: run.divergence.verdict() };
        (learner.model(), parts.event_processor)
    }
}

impl<const D: usize> StepStrategy<D> {
    /// Brings an average of the weights up to date after a step.
    fn average(&self, average: &mut TrainModel<D>, model: &TrainModel<D>, decay: f64) {
        ema_update(average, model, decay);
        if !self.experiment.fine_tune.is_everything() {
            *average = with_frozen_of(average.clone(), model);
        }
    }
}

struct Loop<'a, const D: usize> {
    strategy: &'a StepStrategy<D>,
    state: TrainState,
    ema: TrainModel<D>,
    post_hoc: Vec<(f64, TrainModel<D>)>,
    tap: OptimizerTap<TrainModel<D>>,
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

impl<const D: usize> Loop<'_, D> {
    fn run(
        &mut self,
        parts: &mut TrainingComponents<TrainModel<D>>,
        learner: &mut Learner<TrainModel<D>>,
        train: &TrainLoader<TrainModel<D>>,
    ) -> Result<(), TrainError> {
        let config = &self.strategy.experiment.train;
        self.save_missing_weights()?;
        // The items after those already seen: the stream is a function of (seed, item).
        let left = config.steps.saturating_sub(self.state.step);
        let end = self.state.images_seen + left * config.batch_size as u64;
        let train = train.slice(self.state.images_seen as usize, end as usize);
        let mut batches = train.iter();
        let mut is_first = true;
        let by_loss = LossSecondMoment::default();
        let workers = Workers::new(&self.strategy.devices);

        while self.state.step < config.steps && !parts.interrupter.should_stop() {
            // 1. Gradients of the whole batch, in parts.
            self.seed_dropout();
            let mut accumulator = GradientsAccumulator::new();
            let mut report = StepReport::default();
            // All parts draw by the history before the step, so that their number changes nothing.
            let probabilities = self.state.loss_history.as_ref().map(|history| by_loss.probabilities(history));
            let mut drawn = Vec::new();
            let mut computed = Vec::new();
            for _ in 0..config.accumulate {
                let mut given = Vec::with_capacity(workers.count());
                for _ in 0..workers.count() {
                    let asked = Instant::now();
                    let next = batches.next();
                    self.waited += asked.elapsed();
                    let mut batch = match next {
                        Some(Ok(batch)) => batch,
                        fault => {
                            let ended = || "the data came to an end".to_string();
                            let reason = fault.and_then(Result::err).map_or_else(ended, |error| error.to_string());
                            let saved = self.save_checkpoint(parts, learner)?;
                            return Err(TrainError::Data { step: self.state.step + 1, reason, saved });
                        }
                    };
                    if let Some(probabilities) = &probabilities {
                        drawn.extend(draw_by_importance(&mut batch, config.seed, probabilities));
                    }
                    batch.loss_scale = self.state.loss_scale.map_or(1.0, |scale| scale.factor);
                    given.push(batch);
                }
                if self.strategy.detect_anomaly {
                    computed.extend(given.iter().cloned());
                }
                let outputs = match workers.compute(learner, given) {
                    Ok(outputs) => outputs,
                    Err(error) => {
                        let reason = error.to_string();
                        let saved = self.save_checkpoint(parts, learner)?;
                        return Err(TrainError::Device { step: self.state.step + 1, reason, saved });
                    }
                };
                for output in outputs {
                    report.loss += output.item.loss;
                    report.rows.extend(output.item.rows);
                    accumulator.accumulate(&learner.model(), output.grads);
                }
            }

            // 2. A step of the optimiser, if everything is finite.
            let mut grads = accumulator.grads();
            if let Some(scale) = self.state.loss_scale {
                scale_gradients(&learner.model(), &mut grads, 1.0 / scale.factor);
            }
            report.grad_norm =
                clip_global_norm(&learner.model(), &mut grads, self.strategy.experiment.optimizer.clip_norm);
            report.learning_rate = self.strategy.experiment.optimizer.rate_at(self.state.step, config.batch_size);
            let what = non_finite(&report, &learner.model(), &grads);
            learner.lr_step();
            match &what {
                // The price of the largest scale that there is room for.
                Some(_) if report.loss.is_finite() && self.lower_loss_scale() => self.state.skipped += 1,
                Some(what) => {
                    let look_closer = || {
                        // With the same dropout as before, on one device.
                        self.seed_dropout();
                        anomaly::find(&learner.model(), &computed, &grads).map(Box::new)
                    };
                    let closer = self.strategy.detect_anomaly.then(look_closer);
                    self.skip(what, closer, &report, parts, learner)?;
                }
                None => {
                    learner.optimizer_step(grads);
                    self.count(&report);
                    if let Some(scale) = &mut self.state.loss_scale {
                        scale.held();
                    }
                    if let Some(history) = &mut self.state.loss_history {
                        let losses: Vec<f64> = report.rows.iter().map(|(_, loss)| *loss).collect();
                        by_loss.record(history, &drawn, &losses);
                    }
                }
            }

            // 3. The averages of the weights.
            self.state.step += 1;
            report.ema_decay = self.strategy.experiment.ema.decay_at(
                self.state.step as usize,
                self.state.images_seen,
                config.batch_size,
            );
            let taken = what.is_none();
            for (width, average) in self.post_hoc.iter_mut().filter(|_| taken) {
                let decay = power_decay(config.batch_size, self.state.images_seen, gamma_of(*width));
                self.strategy.average(average, &learner.model(), decay);
            }
            self.state.images_seen += config.batch_size as u64;
            if taken {
                self.strategy.average(&mut self.ema, &learner.model(), report.ema_decay);
            }

            // 4. Numbers, pictures, checkpoints, snapshots.
            report.held_out = self.validate();
            self.log(report, parts, learner);
            // Some devices compile and choose their kernels in the first step: it stays out of images/s.
            if std::mem::take(&mut is_first) {
                self.window = (Instant::now(), self.state.images_seen);
                self.waited = Duration::ZERO;
            }
            let last = self.state.step == config.steps;
            if last || due(self.state.step, self.strategy.experiment.preview.every) {
                self.preview();
            }
            // Before the snapshot: if there is no room for that, the run goes on from here.
            if last || due(self.state.step, config.checkpoint_every) || self.checkpoint_is_late() {
                self.save_checkpoint(parts, learner)?;
            }
            if last || due(self.state.step, config.snapshot_every) {
                self.save_snapshot()?;
            }
            let post_hoc = &self.strategy.experiment.ema.post_hoc;
            if post_hoc.as_ref().is_some_and(|post_hoc| last || due(self.state.step, post_hoc.every)) {
                self.save_averages()?;
            }
        }
        // Stopped on request: nothing is lost, and there is something to sample from.
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
        closer: Option<Closer>,
        report: &StepReport,
        parts: &mut TrainingComponents<TrainModel<D>>,
        learner: &Learner<TrainModel<D>>,
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
                closer,
            });
        }
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        self.state.skipped_since_line += 1;
        self.strategy.reporter.say(&format!(
            "warning: step {step}: {what} is not finite; the step is skipped ({} in a row, at most {}){}",
            skipped + 1,
            config.max_skips,
            closer.map_or_else(String::new, |closer| seen(&Some(closer)))
        ));
        Ok(())
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
        let state = &mut self.state;
        state.skipped_in_a_row = 0;
        state.last_finite_loss = report.loss;
        state.loss_sum += report.loss;
        state.loss_count += 1;
        self.divergence.see(report.loss, 1.0);
        for (time, loss) in &report.rows {
            state.quartiles[self.strategy.quartiles.index(*time)].add(*loss);
        }
    }

    fn log(
        &mut self,
        mut report: StepReport,
        parts: &mut TrainingComponents<TrainModel<D>>,
        learner: &Learner<TrainModel<D>>,
    ) {
        let config = &self.strategy.experiment.train;
        let state = &mut self.state;
        report.step = state.step;
        report.images_seen = state.images_seen;
        report.skipped = state.skipped;
        report.rows = Vec::new();
        let (since, items) = self.window;
        report.images_per_sec = (state.images_seen - items) as f64 / since.elapsed().as_secs_f64();
        // The last step always has a line; one that falls between two regular ones is dropped on resumption.
        let regular = due(state.step, config.log_every);
        if regular || state.step == config.steps {
            // Not a number would mean that no line is due; an infinity becomes `null`.
            let mean = if state.loss_count > 0 { state.loss_sum / state.loss_count as f64 } else { f64::INFINITY };
            report.mean_loss = Some(mean);
            report.quartiles = state.quartiles.map(|losses| losses.mean());
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
            state.quartiles = Default::default();
            self.window = (Instant::now(), state.images_seen);
            self.waited = Duration::ZERO;
        }
        let progress = Progress::new(report.step as usize, config.steps as usize, Some("steps".into()));
        let (step, rate) = (report.step as usize, report.learning_rate);
        let item = TrainingItem::new(report, progress, Some(step), Some(rate.into()));
        parts.interrupter.fail_on_error(parts.event_processor.process_train(LearnerEvent::ProcessedItem(item)));
    }

    fn save_checkpoint(
        &mut self,
        parts: &mut TrainingComponents<TrainModel<D>>,
        learner: &Learner<TrainModel<D>>,
    ) -> Result<PathBuf, TrainError> {
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
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            model: learner.model().net.into_record(),
            ema: self.ema.net.clone().into_record(),
            post_hoc: self
                .post_hoc
                .iter()
                .map(|(width, average)| (*width, average.net.clone().into_record()))
                .collect(),
            optimizer,
        };
        let saved = checkpoint.save(&checkpoints, &self.strategy.origin).map_err(|error| {
            remove_half_written(&checkpoints);
            failed(error)
        })?;
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

    fn save_weights(&self, model: &TrainModel<D>, dir: &Path) -> Result<Written, TrainError> {
        let step = self.state.step;
        let config = SnapshotConfig { step, images_seen: self.state.images_seen, ..self.strategy.snapshot.clone() };
        // Factors that are trained beside weights become part of these.
        Snapshot::save(&model.net.clone().materialize(), &config, dir).map_err(|source| {
            dir.parent().into_iter().for_each(remove_half_written);
            TrainError::Snapshot { step, source }
        })
    }

    /// What the averaged weights make of held-out data, where it is time for it and a regular line of metrics is due:
    /// so it is on the same lines whether the run was stopped or not.
    fn validate(&mut self) -> Option<HeldOut> {
        let (step, line) = (self.state.step, self.strategy.experiment.train.log_every);
        let every = self.strategy.experiment.validation.every;
        let validation = self.strategy.validation.as_ref()?;
        if !due(step, line) || step / every == (step - line) / every {
            return None;
        }
        let start = Instant::now();
        let held_out = validation.measure(&self.ema);
        self.window.0 += start.elapsed();
        Some(held_out)
    }

    /// A picture that cannot be made is no reason to stop training.
    fn preview(&mut self) {
        let Some(preview) = &self.strategy.preview else { return };
        let step = self.state.step;
        let start = Instant::now();
        let drawn = preview.draw(&self.ema.net, &self.strategy.run.previews(), &step_name(step));
        self.strategy.reporter.say(&match drawn {
            Ok(picture) => format!("step {step}: preview {}", picture.display()),
            Err(error) => format!("warning: step {step}: no preview: {error}"),
        });
        // Pictures are not training: they stay out of images/s.
        self.window.0 += start.elapsed();
    }
}

/// What about a step is not finite: its loss or its gradient, and the first parameter whose gradient it is.
fn non_finite<const D: usize>(
    report: &StepReport,
    model: &TrainModel<D>,
    gradients: &GradientsParams,
) -> Option<String> {
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

/// Says that the loss runs away, and what may be at fault.
pub fn divergence_words([now, lowest]: [f64; 2], learning_rate: f64) -> String {
    format!(
        "the run diverges: the smoothed loss is {now:.3e}, and was {lowest:.3e} at its lowest; the learning rate is \
         {learning_rate:e}, and a lower optimizer.learning_rate may hold"
    )
}

/// Whether the snapshot, and the averages, that are due after a step are not there.
pub fn missing_weights(run: &RunFolder, experiment: &Experiment, step: u64) -> [bool; 2] {
    let is_due = |every| step > 0 && (step >= experiment.train.steps || due(step, every));
    let is_missing = |dir: PathBuf| !dir.join(step_name(step)).exists();
    let post_hoc = experiment.ema.post_hoc.as_ref().filter(|post_hoc| is_due(post_hoc.every));
    let mut averages = post_hoc.into_iter().flat_map(|post_hoc| &post_hoc.widths);
    [
        is_due(experiment.train.snapshot_every) && is_missing(run.snapshots()),
        averages.any(|width| is_missing(run.averages().join(width_name(*width)))),
    ]
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
