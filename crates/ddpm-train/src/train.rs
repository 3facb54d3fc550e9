//! A training from beginning to end: what was asked for, what that means, and the run it becomes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use burn::module::Module;
use burn::optim::OptimizerRecord;
use burn::tensor::Device;
use burn_train::renderer::MetricsRenderer;
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use ddpm_data::random::{Stream, mix};
use ddpm_data::{OrderedLoader, Split};
use ddpm_families::family::any_module::AnyModule;
use ddpm_families::family::erased::Memory;
use ddpm_families::family::{AnyError, HeldOut, HeldOutSetup, Preview, PreviewSetup};
use ddpm_families::parameters::settle;
use ddpm_files::runs::{RUNS, RunFolder};
use ddpm_kernels::Precision;
use ddpm_kernels::memory;

use crate::batches::Batches;
use crate::checkpoint::{Checkpoint, CheckpointError, Found, TrainState, restore};
use crate::config::load::Source;
use crate::config::series_file::SeriesExperiment;
use crate::config::{Balance, Experiment};
use crate::manifest;
use crate::metrics::{JsonLines, STEP_LOSS, StepMetric, fields, truncate_after};
use crate::plan::{Plan, names_of};
use crate::progress::{Display, PlainRenderer, Reporter};
use crate::rate::RateSchedule;
use crate::report;
use crate::run_folder::{begins_again, lock, new_run, set_aside_damaged, write_records};
use crate::signals;
use crate::started_as::{self, quoted};
use crate::strategy::{Outcome, StepStrategy, divergence_words, missing_weights};
use crate::tensorboard::EventFile;
use crate::train_step::TrainModel;
use crate::trained_part::trained_numbers;
use ddpm_console::say;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name or file of the experiment.
    pub experiment: String,
    /// A file of time series to train on: instead of an experiment, one that follows from what is in it.
    pub data: Option<PathBuf>,
    /// With it: steps to forecast.
    pub horizon: Option<usize>,
    /// Changes to the experiment.
    pub set: Vec<String>,
    /// The run to go on with, instead of a new one.
    pub resume: Option<String>,
    /// The step of the run to go on from, instead of its newest good checkpoint.
    pub step: Option<u64>,
    /// A snapshot whose weights a new run starts from.
    pub from: Option<PathBuf>,
    /// The devices, which share every batch; none for that of the compiled-in feature.
    pub devices: Vec<String>,
    /// The folder of all runs.
    pub runs: PathBuf,
    /// Burn's dashboard.
    pub tui: bool,
    /// Look for the layer in which a step that is not finite begins to be so.
    pub detect_anomaly: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Default for Options {
    /// A new run in `runs`, on the device of the compiled-in feature.
    fn default() -> Self {
        Self {
            experiment: String::new(),
            data: None,
            horizon: None,
            set: Vec::new(),
            resume: None,
            step: None,
            from: None,
            devices: Vec::new(),
            runs: RUNS.into(),
            tui: false,
            detect_anomaly: false,
            dry_run: false,
        }
    }
}

/// How it ended well.
#[derive(Debug)]
pub enum Finish {
    /// All steps are done.
    Done(PathBuf),
    /// Somebody stopped it; everything is saved.
    Interrupted(PathBuf),
    /// Nothing was to be done.
    DryRun,
}

/// The arguments of the command line do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub(crate) String);

/// The exit code after a second signal: nothing was saved since the last checkpoint.
const LEFT_AT_ONCE: i32 = 131;

/// Trains.
pub fn run(options: &Options) -> anyhow::Result<Finish> {
    run_for(Caller::CommandLine, options, None)
}

/// Who trains, and so how a run that was stopped is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The program `ddpm-train`.
    CommandLine,
    /// Another program, by [`Trainer`](crate::Trainer).
    Trainer,
}

/// Trains `experiment`, or the one that the options name.
pub(crate) fn run_for(caller: Caller, options: &Options, experiment: Option<Source>) -> anyhow::Result<Finish> {
    if options.tui && !cfg!(feature = "tui") {
        return Err(UsageError("--tui: the dashboard is not compiled in; build with `--features tui`".into()).into());
    }
    let of_data = options.data.as_ref().filter(|_| options.resume.is_none() && experiment.is_none());
    let of_data = of_data.map(|path| SeriesExperiment::find(path, options.horizon)).transpose()?;
    of_data.iter().flat_map(|of_data| &of_data.found).for_each(|line| say!("{line}"));
    let next = of_data.as_ref().map(|of_data| of_data.next.clone());
    let plan = Plan::make(options, experiment.or(of_data.map(|of_data| of_data.source)))?;
    if options.dry_run {
        plan.describe()?;
        return Ok(Finish::DryRun);
    }
    let finish = train(plan, options, caller)?;
    if let (Finish::Done(_), Some(next)) = (&finish, next) {
        say!("to use the model: {next}");
    }
    Ok(finish)
}

fn train(mut plan: Plan, options: &Options, caller: Caller) -> anyhow::Result<Finish> {
    let mut model = first_model(&mut plan)?;
    memory::for_training(model.parameters);
    plan.warn(model.parameters);
    // The run folder, and what was left in it.
    let run = match &plan.resumed {
        Some((run, _)) => run.clone(),
        None => new_run(&options.runs, &plan.name)?,
    };
    let lock = lock(&run)?;
    let found = model.restore(&plan, &run, options)?;
    let (experiment, state) = (&plan.experiment, &model.state);
    if state.step >= experiment.train.steps && missing_weights(&run, experiment, state.step) == [false; 2] {
        say!("{}: {} steps are done; to go further: --set train.steps=N", run.0.display(), state.step);
        return Ok(Finish::Done(run.0));
    }
    match found {
        Some(found) => set_aside_damaged(&found)?,
        None if plan.resumed.is_some() => say!("{} has no checkpoint yet: it begins again at step 0", run.0.display()),
        None => {}
    }
    let begun = manifest::Start::now(&names_of(&plan.devices), plan.precision(), state.step);
    let manifest = write_records(&run, &plan, model.parameters, begun)?;
    plan.announce(&run, model.parameters, state.step);
    if !experiment.fine_tune.is_everything() {
        say!("{} of the parameters are trained", trained_numbers(&model.live.net));
    }
    let outcome = launch(&plan, model, &run, manifest.origin(), options)?;
    drop(lock);
    finish(&plan, run, &outcome, |run| resume_words(caller, run, options))
}

/// A model with all that changes from step to step.
struct State {
    /// How many numbers it has, before anything is trained next to them.
    parameters: usize,
    /// The devices, with autodiff.
    devices: Vec<Device>,
    /// What is trained.
    live: TrainModel,
    /// Its average.
    ema: TrainModel,
    /// The averages that are kept besides, with their widths.
    post_hoc: Vec<(f64, TrainModel)>,
    /// The moments of the optimizer.
    moments: Option<OptimizerRecord>,
    state: TrainState,
    memory: Memory,
}

/// The model before the first step: freshly drawn, or with the weights of a snapshot.
fn first_model(plan: &mut Plan) -> anyhow::Result<State> {
    let precision = plan.precision();
    let Plan { experiment, family, devices, .. } = plan;
    let train = &experiment.train;
    let parameters = family.init(&devices[0].device).num_params();
    let devices: Vec<Device> = devices
        .iter()
        .map(|open| match train.gradient_checkpointing {
            true => open.device.clone().autodiff().gradient_checkpointing(),
            false => open.device.clone().autodiff(),
        })
        .collect();
    devices[0].seed(mix(train.seed, Stream::Init, 0));
    let mut net = settle(family.init(&devices[0]));
    family.set_precision(&mut net, precision);
    if let Some(start) = plan.start.take() {
        net = settle(start.load_into(net).map_err(anyhow::Error::from_boxed)?);
    }
    let live = TrainModel::new(experiment.fine_tune.apply(net), family.clone());
    let ema = live.clone().valid();
    let post_hoc = widths(experiment).iter().map(|&width| (width, ema.clone())).collect();
    let mut state = TrainState::default();
    if train.precision == Precision::F16 {
        state.loss_scale.get_or_insert_default();
    }
    Ok(State { parameters, devices, live, ema, post_hoc, moments: None, state, memory: family.first_memory() })
}

/// The widths of the averages that are kept for later.
fn widths(experiment: &Experiment) -> &[f64] {
    experiment.ema.post_hoc.as_ref().map(|post_hoc| &post_hoc.widths[..]).unwrap_or_default()
}

impl State {
    /// Takes everything from the checkpoint of a run that is resumed, if it has one.
    fn restore(&mut self, plan: &Plan, run: &RunFolder, options: &Options) -> anyhow::Result<Option<Found>> {
        let Some((_, manifest)) = plan.resumed.as_ref().filter(|(run, _)| !begins_again(run, options)) else {
            return Ok(None);
        };
        let widths = widths(&plan.experiment);
        let (checkpoint, found) = Checkpoint::choose(&run.checkpoints(), options.step, widths, &manifest.origin())
            .with_context(|| format!("cannot resume {}", run.0.display()))?;
        let path = &found.path;
        self.live.net = restore(self.live.net.clone(), checkpoint.model, path)?;
        self.ema = self.live.clone().valid();
        self.post_hoc.iter_mut().for_each(|(_, average)| *average = self.ema.clone());
        self.ema.net = restore(self.ema.net.clone(), checkpoint.ema, path)?;
        for ((_, record), (_, average)) in checkpoint.post_hoc.into_iter().zip(&mut self.post_hoc) {
            average.net = restore(average.net.clone(), record, path)?;
        }
        self.moments = Some(checkpoint.optimizer);
        let first_scale = self.state.loss_scale;
        self.state = checkpoint.state;
        self.state.loss_scale = self.state.loss_scale.or(first_scale);
        if !self.state.memory.is_null() {
            self.memory = plan.family.recall(self.state.memory.take()).map_err(|error| CheckpointError::State {
                path: path.join("state.json"),
                reason: format!("memory: {error}"),
            })?;
        }
        Ok(Some(found))
    }
}

/// The learner, and its loop until the run is done or stopped.
fn launch(plan: &Plan, model: State, run: &RunFolder, origin: String, options: &Options) -> anyhow::Result<Outcome> {
    let Plan { experiment, family, .. } = plan;
    let train = &experiment.train;
    let State { devices, live, ema, post_hoc, moments, state, memory, .. } = model;
    truncate_after(&run.metrics(), state.last_line())?;
    let events = train.tensorboard.then(|| EventFile::rebuild(run)).transpose();
    let events = events.with_context(|| format!("cannot write the events of {}", run.0.display()))?;
    let learner = learner(experiment, live, moments, state.step);
    let (loader, reading) = batches(plan, &devices)?;
    let held_out = held_out(plan);
    let preview = preview(plan)?;

    let interrupter = Interrupter::new();
    let display = if options.tui { Display::Dashboard } else { Display::Plain };
    let reporter = Reporter::new(display);
    stop_on_signals(&interrupter, &reporter)?;
    let measured = held_out.as_ref().map(|held_out| held_out.names()).unwrap_or_default();
    let fields = fields(&family.curve_names(), &measured, experiment.optimizer.skip_norm > 0.0);
    let lines = JsonLines::append(&run.metrics(), fields.clone(), events, reporter.clone())?;
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let strategy = StepStrategy {
        experiment: experiment.clone(),
        family: family.clone(),
        run: run.clone(),
        origin,
        devices,
        state,
        memory,
        ema,
        post_hoc,
        reading,
        preview,
        held_out,
        detect_anomaly: options.detect_anomaly,
        reporter: reporter.clone(),
        outcome: outcome.clone(),
    };
    let mut training = SupervisedTraining::<TrainModel>::new(&run.0, loader.clone(), loader)
        .with_application_logger(None)
        .with_interrupter(interrupter.clone())
        .with_metric_logger(lines)
        .renderer(renderer(display, &interrupter, &reporter, train.steps))
        .metric_train_numeric(StepMetric::new(STEP_LOSS));
    // Counters last, for the dashboard.
    let (counters, values) = fields.split_at(2);
    for field in values.iter().chain(counters) {
        training = training.metric_train_numeric(StepMetric::new(*field));
    }
    let result = training.with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy))).launch(learner);
    // The dashboard gives the screen back when it is dropped.
    drop(result.renderer);
    reporter.close();

    let mut outcome = std::mem::take(&mut *outcome.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(error) = outcome.error.take() {
        return Err(error).with_context(|| format!("{} stopped", run.0.display()));
    }
    if let Some(error) = result.error {
        anyhow::bail!("{} stopped: {error}", run.0.display());
    }
    Ok(outcome)
}

/// The model with its optimizer, whose moments a checkpoint may have, and its learning rate.
fn learner(
    experiment: &Experiment,
    live: TrainModel,
    moments: Option<OptimizerRecord>,
    step: u64,
) -> Learner<TrainModel> {
    let Experiment { optimizer: config, train, .. } = experiment;
    let optimizer = match moments {
        Some(record) => config.init(&live.net).load_record(record),
        None => config.init(&live.net),
    };
    let rate = RateSchedule { config: config.clone(), batch_size: train.batch_size, step };
    Learner::new(live, optimizer, rate)
}

/// The batches of all steps, and how fast their items are read.
fn batches(plan: &Plan, devices: &[Device]) -> anyhow::Result<(Arc<Batches>, Arc<ddpm_data::ReadingSpeed>)> {
    let train = &plan.experiment.train;
    let parts = train.accumulate * devices.len();
    let items = OrderedLoader::new(&plan.data, train.batch_size / parts, train.seed)?.with_workers(train.workers);
    let items = items.augmented(plan.family.augmentation());
    let items = match train.balance {
        Balance::Items => items,
        Balance::Classes => items.balanced(&plan.data)?,
    };
    let reading = items.speed();
    let (family, device) = (plan.family.clone(), devices[0].clone());
    Ok((Arc::new(Batches { items, family, seed: train.seed, parts, device }), reading))
}

/// The held-out data that are looked at while training. Without them there is a warning, and training.
fn held_out(plan: &Plan) -> Option<Box<dyn HeldOut<AnyModule>>> {
    let Plan { experiment, family, devices, .. } = plan;
    if experiment.validation.every == 0 {
        return None;
    }
    // Generated points are the same for every run, too.
    let data = ddpm_data::open(&experiment.data, Split::Test, 0).map_err(AnyError::from);
    let batch_size = experiment.train.batch_size / experiment.train.accumulate;
    let (count, device) = (experiment.validation.count, &devices[0].device);
    data.map(|data| family.items(data))
        .and_then(|data| family.held_out(&HeldOutSetup { data: &data, count, batch_size, device }))
        .map_err(|error| say!("warning: no validation: {error}"))
        .ok()
}

/// What makes images while training, unless there are to be none.
fn preview(plan: &Plan) -> anyhow::Result<Option<Box<dyn Preview<AnyModule>>>> {
    let Plan { experiment, family, devices, .. } = plan;
    let (count, seed) = (experiment.preview.count, experiment.train.seed);
    if count == 0 {
        return Ok(None);
    }
    let setup = PreviewSetup { count, seed, config: &experiment.data, device: &devices[0].device };
    family.preview(&setup).map(Some).map_err(anyhow::Error::from_boxed)
}

/// Writes the report, and says what became of the run and how to go on with it.
fn finish(
    plan: &Plan,
    run: RunFolder,
    outcome: &Outcome,
    resume_words: impl Fn(&RunFolder) -> String,
) -> anyhow::Result<Finish> {
    let Experiment { train, optimizer, .. } = &plan.experiment;
    if let Err(error) = report::write(std::slice::from_ref(&run), &run.0.join(report::NAME)) {
        say!("warning: no report: {error:#}");
    }
    if let Some(values) = outcome.diverged {
        let rate = optimizer.rate_at(outcome.state.step.saturating_sub(1), train.batch_size);
        say!("warning: {}", divergence_words(values, rate));
    }
    if optimizer.skip_norm > 0.0 {
        let (clip, skip) = (optimizer.clip_norm, optimizer.skip_norm);
        let TrainState { step, clipped, skipped, .. } = &outcome.state;
        say!("of {step} steps {clipped} were clipped (norm above {clip}) and {skipped} skipped (norm above {skip})");
    }
    if outcome.state.step < train.steps {
        let resume = resume_words(&run);
        say!("stopped after step {} of {}; to go on: {resume}", outcome.state.step, train.steps);
        return Ok(Finish::Interrupted(run.0));
    }
    Ok(Finish::Done(run.0))
}

/// Ctrl-C, SIGTERM and SIGHUP: the first signal finishes the step and saves, the second leaves at once.
fn stop_on_signals(interrupter: &Interrupter, reporter: &Reporter) -> anyhow::Result<()> {
    let (interrupter, reporter) = (interrupter.clone(), reporter.clone());
    let asked = AtomicBool::new(false);
    signals::on_stop(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(LEFT_AT_ONCE);
        }
        reporter.say("stopping after this step; once more to leave at once (back to the last checkpoint)");
        interrupter.stop(Some("signal"));
    })
    .context("cannot listen for Ctrl-C")
}

fn renderer(display: Display, interrupter: &Interrupter, reporter: &Reporter, total: u64) -> Box<dyn MetricsRenderer> {
    #[cfg(feature = "tui")]
    if display == Display::Dashboard {
        return Box::new(burn_train::renderer::tui::TuiMetricsRendererWrapper::new(interrupter.clone(), None));
    }
    let _ = (display, interrupter);
    Box::new(PlainRenderer::new(reporter.clone(), total))
}

/// What goes on with a run: the command, started as this program was, or the call.
fn resume_words(caller: Caller, run: &RunFolder, options: &Options) -> String {
    if caller == Caller::Trainer {
        return format!("Trainer::resume({:?})", run.0);
    }
    // A path that is no text can only be given by --runs.
    let name = run.0.to_str().map(OsStr::new).or(run.0.file_name()).unwrap_or_default();
    let mut words = vec![started_as::program(), "--resume".into(), quoted(name)];
    if options.runs != Path::new(RUNS) {
        words.extend(["--runs".into(), quoted(&options.runs)]);
    }
    match &options.devices[..] {
        [] => {}
        [device] => words.extend(["--device".into(), quoted(device)]),
        devices => words.extend(["--devices".into(), quoted(devices.join(","))]),
    }
    if options.tui {
        words.push("--tui".into());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_run_is_resumed_as_it_was_started() {
        let run = RunFolder("runs/own-1".into());
        let options = Options { devices: vec!["flex".into()], ..Options::default() };
        assert_eq!(resume_words(Caller::Trainer, &run, &options), "Trainer::resume(\"runs/own-1\")");
        let command = resume_words(Caller::CommandLine, &run, &options);
        assert!(command.ends_with("--resume runs/own-1 --device flex"), "{command}");
    }
}
