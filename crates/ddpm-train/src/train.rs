//! A training from beginning to end: what was asked for, what that means, and the run it becomes.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use burn::module::Module;
use burn::tensor::Device;
use burn_train::renderer::MetricsRenderer;
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use ddpm_data::augment::AUGMENT_LABELS;
use ddpm_data::random::{Stream, mix};
use ddpm_data::{DataConfig, ImageLabels, OpenData, OrderedLoader, Split};
use ddpm_infer::device::{self, OpenDevice};
use ddpm_infer::inspect_data::checking_images;
use ddpm_infer::runs::{RUNS, RunFolder, list, steps_in, widths_in};
use ddpm_infer::sample::points_beside;
use ddpm_infer::snapshot::SnapshotConfig;
use ddpm_kernels::Precision;
use ddpm_model::bound::Loss;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::{NetworkConfig, NetworkError};
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::resample::LossHistory;
use ddpm_model::schedule::Schedule;
use ddpm_model::variance::Variance;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::checkpoint::{Checkpoint, Found, TrainState, prune, remove_half_written, restore, set_aside};
use crate::config::load::{ConfigError, Problem, Source};
use crate::config::{Balance, Experiment, TimeSampling};
use crate::fine_tune::Start;
use crate::manifest::{self, Manifest};
use crate::memory::Estimate;
use crate::metrics::{FIELDS, JsonLines, STEP_LOSS, StepMetric, truncate_after};
use crate::model::TrainModel;
use crate::noising::{Labels, Noising, NoisyLoader};
use crate::optim::settle;
use crate::output::print;
use crate::preview::Preview;
use crate::progress::{Display, PlainRenderer, Reporter};
use crate::quartiles::Quartiles;
use crate::rate::RateSchedule;
use crate::report;
use crate::say;
use crate::signals;
use crate::started_as::{self, quoted};
use crate::strategy::{Outcome, StepStrategy, divergence_words, missing_weights};
use crate::tensorboard::EventFile;
use crate::trained_part::trained_numbers;
use crate::validation::{Validation, ValidationError};

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name or file of the experiment.
    pub experiment: String,
    /// Changes to it.
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

/// The words of the command line do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// The exit code after a second signal: nothing was saved since the last checkpoint.
const LEFT_AT_ONCE: i32 = 131;

/// How long a trainer that was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keys that may change when a run goes on. With any other key it would be another run.
const RESUMABLE: [&str; 16] = [
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.snapshot_every",
    "train.workers",
    "train.accumulate",
    "train.on_non_finite",
    "train.max_skips",
    "train.gradient_checkpointing",
    "train.tensorboard",
    "preview.",
    "validation.",
    "optimizer.learning_rate",
    "data.on_bad_file",
];

/// Trains.
pub fn run(options: &Options) -> anyhow::Result<Finish> {
    if options.tui && !cfg!(feature = "tui") {
        return Err(UsageError("--tui: the dashboard is not compiled in; build with `--features tui`".into()).into());
    }
    let plan = Plan::make(options)?;
    if options.dry_run {
        plan.describe()?;
        return Ok(Finish::DryRun);
    }
    // The rank of a batch is that of an item and one more.
    match plan.data.info.shape.len() {
        1 => plan.train::<2>(options),
        3 => plan.train::<4>(options),
        rank => anyhow::bail!("items of rank {rank} are not supported: expected [N] or [C, H, W]"),
    }
}

/// Everything that can be known before the first step.
struct Plan {
    name: String,
    experiment: Experiment,
    data: OpenData,
    diffusion: Diffusion,
    /// The first of them is the main one.
    devices: Vec<OpenDevice>,
    resumed: Option<(RunFolder, Manifest)>,
    /// The snapshot that a run starts from.
    from: Option<PathBuf>,
    start: Option<Start>,
}

impl Plan {
    fn make(options: &Options) -> anyhow::Result<Self> {
        let resumed = options.resume.as_deref().map(|run| resumable(&options.runs, run, &options.set)).transpose()?;
        let source = match &resumed {
            Some((run, _)) => Source::File(run.config()),
            None => Source::find(&options.experiment)?,
        };
        let name = resumed.as_ref().map_or_else(|| source.name(), |(_, manifest)| manifest.experiment.clone());
        let file = source.file();
        let devices = open_devices(&options.devices)?;
        let from = options.from.as_ref().map(|from| from.canonicalize().unwrap_or_else(|_| from.clone()));
        // A run that must begin again starts from where it started.
        let again = || resumed.as_ref().filter(|(run, _)| begins_again(run, options))?.1.from.clone();
        let open = |from: PathBuf| Start::open(&from, &devices[0].device);
        let start = options.from.clone().or_else(again).map(open).transpose()?;
        let mut experiment = source.load(&options.set, start.as_ref().map(Start::sections).unwrap_or_default())?;
        let problems = problems_with(&devices, &experiment);
        if !problems.is_empty() {
            return Err(ConfigError { file, problems }.into());
        }
        let device = &devices[0];
        let seed = experiment.train.seed;
        let data = ddpm_data::open_with_progress(&experiment.data, Split::Train, seed, &checking_images())?;
        let described = start.as_ref().map_or_else(|| file.clone(), |start| start.name_in(&file, &experiment));
        experiment.model = resolve_network(&experiment, &data, &described)?;
        experiment.classes_of_data = false;
        tell_of_data(&experiment, &data);
        if resumed.is_none() && !experiment.unread.is_empty() {
            let unread = experiment.unread.join(", ");
            say!("note: not read beside [diffusion.continuous], since it is about counted steps: {unread}");
        }
        experiment.optimizer = experiment.optimizer.resolved();
        let parts = experiment.fine_tune.problems(&experiment.model.init(&device.device));
        if !parts.is_empty() {
            let problem = |(key, message)| Problem { key: format!("fine_tune.{key}"), message, from_set: false };
            return Err(ConfigError { file, problems: parts.into_iter().map(problem).collect() }.into());
        }
        let diffusion = experiment.diffusion.init()?;
        if let Some(warning) = diffusion.schedule().and_then(Schedule::warning) {
            say!("warning: diffusion.schedule: {warning}");
        }
        if let Some(start) = &start {
            start.check(&experiment)?;
        }
        for line in start.iter().flat_map(|start| start.describe(&experiment)) {
            say!("{line}");
        }
        Ok(Self { name, experiment, data, diffusion, devices, resumed, from, start })
    }

    /// `--dry-run`.
    fn describe(&self) -> anyhow::Result<()> {
        let network = self.experiment.model.init(&self.devices[0].device.clone().autodiff());
        let parameters = network.num_params();
        let memory = self.estimate(parameters);
        let trained = match self.experiment.fine_tune.is_everything() {
            true => String::new(),
            false => {
                let trained = trained_numbers(&self.experiment.fine_tune.apply(settle(network)));
                format!(", {trained} of them trained")
            }
        };
        let described = [
            toml::to_string(&self.experiment)?,
            format!("# experiment   {}", self.name),
            format!("# data         {} items of shape {:?}", self.data.items.len(), self.data.info.shape),
            format!("# device       {}", names_of(&self.devices)),
            format!("# parameters   {parameters}{trained}"),
            format!("# memory       {memory}\n"),
        ];
        print(&described.join("\n"))?;
        self.warn(&memory);
        Ok(())
    }

    fn estimate(&self, parameters: usize) -> Estimate {
        Estimate::of(&self.experiment, &self.data.info.shape, parameters, self.devices.len())
    }

    /// Says what is possible but hardly meant.
    fn warn(&self, memory: &Estimate) {
        if let Some(warning) = memory.warning(&self.devices[0]) {
            say!("warning: {warning}");
        }
        let (batch, items) = (self.experiment.train.batch_size, self.data.items.len());
        if batch > items {
            say!("warning: train.batch_size is {batch}, but there are only {items} items: each step sees some twice");
        }
    }

    fn train<const D: usize>(self, options: &Options) -> anyhow::Result<Finish> {
        let parameters = self.experiment.model.init(&self.devices[0].device).num_params();
        self.warn(&self.estimate(parameters));
        let Self { name, experiment, data, diffusion, devices, resumed, from, start } = self;
        let train = &experiment.train;
        let with_autodiff = |open: &OpenDevice| match train.gradient_checkpointing {
            true => open.device.clone().autodiff().gradient_checkpointing(),
            false => open.device.clone().autodiff(),
        };
        let autodiff: Vec<Device> = devices.iter().map(with_autodiff).collect();
        let (device, main) = (&devices[0], &autodiff[0]);
        let parts = train.accumulate * devices.len();

        // The network, freshly drawn or as it was left.
        main.seed(mix(train.seed, Stream::Init, 0));
        let mut net = settle(experiment.model.init(main)).in_precision(train.precision);
        if let Some(start) = start {
            net = settle(start.give(net)?);
        }
        net = experiment.fine_tune.apply(net);

        // The run folder, and what was left in it.
        let run = match &resumed {
            Some((run, _)) => run.clone(),
            None => new_run(&options.runs, &name)?,
        };
        let lock = lock(&run)?;
        let widths = experiment.ema.post_hoc.as_ref().map(|post_hoc| &post_hoc.widths[..]).unwrap_or_default();
        let choose = |(run, manifest): &(RunFolder, Manifest)| {
            Checkpoint::choose(&run.checkpoints(), options.step, widths, &manifest.origin())
                .with_context(|| format!("{} cannot go on", run.0.display()))
        };
        let with_checkpoint = resumed.as_ref().filter(|(run, _)| !begins_again(run, options));
        let (checkpoint, found) = with_checkpoint.map(choose).transpose()?.unzip();
        let mut state = TrainState::default();
        let mut average = None;
        let mut kept = Vec::new();
        let mut moments = None;
        if let (Some(checkpoint), Some(found)) = (checkpoint, &found) {
            net = restore(net, checkpoint.model, &found.path)?;
            average = Some(checkpoint.ema);
            kept = checkpoint.post_hoc;
            moments = Some(checkpoint.optimizer);
            state = checkpoint.state;
        }
        let quartiles = Quartiles::of(&diffusion);
        let process = Arc::new(diffusion.clone());
        if experiment.train.time_sampling == TimeSampling::LossSecondMoment && state.loss_history.is_none() {
            state.loss_history = diffusion.schedule().map(|schedule| LossHistory::new(schedule.len()));
        }
        if train.precision == Precision::F16 {
            state.loss_scale.get_or_insert_default();
        }
        let (loss, weighting) = (experiment.diffusion.loss, experiment.diffusion.weighting);
        let model = TrainModel::<D>::new(net, process.clone(), loss, weighting);
        let mut ema = model.clone().valid();
        let mut post_hoc: Vec<_> = widths.iter().map(|&width| (width, ema.clone())).collect();
        if let (Some(record), Some(Found { path, .. })) = (average, &found) {
            ema = TrainModel::new(restore(ema.net, record, path)?, process.clone(), loss, weighting);
            for ((_, record), (_, average)) in kept.into_iter().zip(&mut post_hoc) {
                average.net = restore(average.net.clone(), record, path)?;
            }
        }

        if state.step >= train.steps && missing_weights(&run, &experiment, state.step) == [false; 2] {
            say!("{}: {} steps are done; to go further: --set train.steps=N", run.0.display(), state.step);
            return Ok(Finish::Done(run.0));
        }
        if let Some(found) = found {
            make_way(&found)?;
        }
        if resumed.is_some() && with_checkpoint.is_none() {
            say!("{} has no checkpoint yet: it begins again at step 0", run.0.display());
        }
        let begun = manifest::Start::now(&names_of(&devices), state.step);
        let manifest = write_records(&run, &name, &experiment, &data, parameters, from, begun)?;
        announce(&run, &experiment, &data, &devices, parameters, state.step);
        if !experiment.fine_tune.is_everything() {
            say!("{} of the parameters are trained", trained_numbers(&model.net));
        }
        truncate_after(&run.metrics(), state.last_line())?;
        let events = train.tensorboard.then(|| EventFile::rebuild(&run)).transpose();
        let events = events.with_context(|| format!("cannot write the events of {}", run.0.display()))?;

        // The learner and its loop.
        let optimizer = match moments {
            Some(record) => experiment.optimizer.init(&model.net).load_record(record),
            None => experiment.optimizer.init(&model.net),
        };
        let rate =
            RateSchedule { config: experiment.optimizer.clone(), batch_size: train.batch_size, step: state.step };
        let learner = Learner::new(model, optimizer, rate);
        let items = OrderedLoader::<D>::new(&data, train.batch_size / parts, train.seed, main)?
            .with_workers(train.workers)
            .augmented(experiment.augment);
        let items = match train.balance {
            Balance::Items => items,
            Balance::Classes => items.balanced(&data)?,
        };
        let reading = items.speed();
        let noising = Noising {
            seed: train.seed,
            diffusion: process,
            labels: match experiment.model.null_class() {
                _ if experiment.model.num_classes() == 0 => Labels::Unused,
                None => Labels::Kept,
                Some(null_class) => Labels::Dropped { null_class, share: train.label_drop },
            },
            parts,
            offset_noise: experiment.diffusion.offset_noise,
            self_conditioning: experiment.diffusion.self_conditioning,
        };
        let validation = validation::<D>(&experiment, &noising, device);
        let absent: &[&str] = match &validation {
            None => &["valid_loss", "valid_bpd"],
            Some(validation) if !validation.has_bound() => &["valid_bpd"],
            Some(_) => &[],
        };
        let loader = Arc::new(NoisyLoader::new(Arc::new(items), noising));
        let beside = if data.info.shape.len() == 1 { points_beside(&experiment.data) } else { None };
        let preview = Preview::new(
            &experiment.preview,
            train.seed,
            diffusion,
            experiment.diffusion.self_conditioning,
            data.info.clone(),
            beside,
            device.device.clone(),
        )?;
        let interrupter = Interrupter::new();
        let display = if options.tui { Display::Dashboard } else { Display::Plain };
        let reporter = Reporter::new(display);
        stop_on_signals(&interrupter, &reporter)?;
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let strategy = StepStrategy {
            snapshot: SnapshotConfig::new(
                experiment.model.clone(),
                experiment.diffusion.clone(),
                data.info.clone(),
                experiment.data.clone(),
                &name,
            )
            .sampled_by(&experiment.preview.sampler, experiment.preview.steps),
            experiment: experiment.clone(),
            run: run.clone(),
            origin: manifest.origin(),
            quartiles,
            devices: autodiff,
            state,
            ema,
            post_hoc,
            reading,
            preview,
            validation,
            detect_anomaly: options.detect_anomaly,
            reporter: reporter.clone(),
            outcome: outcome.clone(),
        };
        let mut training = SupervisedTraining::<TrainModel<D>>::new(&run.0, loader.clone(), loader)
            .with_application_logger(None)
            .with_interrupter(interrupter.clone())
            .with_metric_logger(JsonLines::append(&run.metrics(), events, reporter.clone())?)
            .renderer(renderer(display, &interrupter, &reporter, train.steps))
            .metric_train_numeric(StepMetric::new(STEP_LOSS));
        // Counters last, for the dashboard; and what has no value in this run is not on it at all.
        let (counters, values) = FIELDS.split_at(2);
        for field in values.iter().chain(counters).filter(|(name, _)| !absent.contains(name)) {
            training = training.metric_train_numeric(StepMetric::new(*field));
        }
        let result = training.with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy))).launch(learner);
        // The dashboard gives the screen back when it is dropped.
        drop(result.renderer);
        reporter.close();

        let outcome = std::mem::take(&mut *outcome.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(error) = outcome.error {
            return Err(error).with_context(|| format!("{} stopped", run.0.display()));
        }
        if let Some(error) = result.error {
            anyhow::bail!("{} stopped: {error}", run.0.display());
        }
        drop(lock);
        if let Err(error) = report::write(std::slice::from_ref(&run), &run.0.join(report::NAME)) {
            say!("warning: no report: {error:#}");
        }
        if let Some(values) = outcome.diverged {
            let rate = experiment.optimizer.rate_at(outcome.state.step.saturating_sub(1), train.batch_size);
            say!("warning: {}", divergence_words(values, rate));
        }
        if outcome.state.step < train.steps {
            let resume = resume_words(&run, options);
            say!("stopped after step {} of {}; to go on: {resume}", outcome.state.step, train.steps);
            return Ok(Finish::Interrupted(run.0));
        }
        Ok(Finish::Done(run.0))
    }
}

/// The devices with these names, or the default of this build.
fn open_devices(names: &[String]) -> anyhow::Result<Vec<OpenDevice>> {
    if names.is_empty() {
        return Ok(vec![device::open(None)?]);
    }
    let devices = names.iter().map(|name| device::open(Some(name))).collect::<Result<Vec<_>, _>>()?;
    let backend = |open: &OpenDevice| open.name.split(':').next().unwrap_or_default().to_string();
    if let Some(other) = devices.iter().find(|open| backend(open) != backend(&devices[0])) {
        let message = format!("--devices: {} and {} are of two backends", devices[0].name, other.name);
        return Err(UsageError(message).into());
    }
    Ok(devices)
}

fn names_of(devices: &[OpenDevice]) -> String {
    devices.iter().map(|open| open.name.as_str()).collect::<Vec<_>>().join(",")
}

/// What these devices cannot do of an experiment.
fn problems_with(devices: &[OpenDevice], experiment: &Experiment) -> Vec<Problem> {
    let train = &experiment.train;
    let mut problems = Vec::new();
    let mut report = |key: &str, message| problems.push(Problem { key: key.into(), message, from_set: false });
    if let Some(error) = devices.iter().find_map(|open| open.check(train.precision).err()) {
        report("train.precision", error.to_string());
    }
    let twice = |(number, open): (usize, &OpenDevice)| devices[..number].iter().any(|other| other.name == open.name);
    let dropout = match &experiment.model {
        NetworkConfig::UNet(config) => config.dropout,
        NetworkConfig::PointMlp(_) => 0.0,
    };
    if dropout > 0.0 && devices.iter().enumerate().any(twice) {
        let message = "a device that is named twice draws it in another order every time; 0 is possible".into();
        report("model.dropout", message);
    }
    let parts = train.accumulate * devices.len();
    if !train.batch_size.is_multiple_of(parts) {
        let devices = devices.len();
        let message =
            format!("{} do not divide into {} parts for each of {devices} devices", train.batch_size, train.accumulate);
        report("train.batch_size", message);
    }
    problems
}

/// Whether a run has to begin again, as it was stopped before its first checkpoint. A folder that cannot be read is no
/// such run.
fn begins_again(run: &RunFolder, options: &Options) -> bool {
    let is_empty = || match std::fs::read_dir(run.checkpoints()) {
        Ok(_) => steps_in(&run.checkpoints()).is_empty(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    options.step.is_none() && is_empty()
}

/// The word for the run that was started or gone on with last.
const LATEST: &str = "latest";

/// The run that `--resume RUN` means.
fn resumed_run(runs: &Path, run: &str) -> anyhow::Result<RunFolder> {
    let newest =
        |run: &RunFolder| (std::fs::metadata(run.manifest()).and_then(|file| file.modified()).ok(), run.0.clone());
    match RunFolder::find(runs, run) {
        Err(_) if run == LATEST => list(runs)
            .into_iter()
            .max_by_key(newest)
            .with_context(|| format!("--resume latest: there is no run in {}", runs.display())),
        found => Ok(found?),
    }
}

/// Finds the run and what it says of itself, and refuses changes that would make it another run.
fn resumable(runs: &Path, run: &str, sets: &[String]) -> anyhow::Result<(RunFolder, Manifest)> {
    let run = resumed_run(runs, run)?;
    for set in sets {
        let key = set.split('=').next().unwrap_or_default().trim();
        if !RESUMABLE.iter().any(|allowed| key == *allowed || (allowed.ends_with('.') && key.starts_with(allowed))) {
            return Err(UsageError(format!(
                "--set {key}: would make {} another run; with --resume only these can change: {}",
                run.0.display(),
                RESUMABLE.join(", ").replace(".,", ".*,")
            ))
            .into());
        }
    }
    let manifest =
        Manifest::read(&run.manifest()).with_context(|| format!("{}: cannot be read", run.manifest().display()))?;
    Ok((run, manifest))
}

/// Says which checkpoint the run goes on from, if it is not simply the newest, and moves the later ones out of its way.
fn make_way(found: &Found) -> anyhow::Result<()> {
    for damage in &found.damaged {
        say!("warning: {damage}");
    }
    for path in &found.later {
        say!("{} is kept as {}", path.display(), set_aside(path)?.display());
    }
    let path = found.path.display();
    if !found.damaged.is_empty() {
        say!("the newest good checkpoint is {path}");
    }
    if !found.verified {
        say!("note: {path} has no checksums, as an older version wrote it: it is not verified");
    }
    Ok(())
}

/// Reads the held-out data that are looked at while training. Without them there is a warning, and training.
fn validation<const D: usize>(
    experiment: &Experiment,
    noising: &Noising,
    device: &OpenDevice,
) -> Option<Validation<D>> {
    let (config, train) = (&experiment.validation, &experiment.train);
    if config.every == 0 {
        return None;
    }
    let batch_size = train.batch_size / train.accumulate;
    // Generated points are the same for every run, too.
    let data = ddpm_data::open(&experiment.data, Split::Test, 0).map_err(ValidationError::from);
    data.and_then(|data| Validation::read(config, &data, batch_size, noising, &device.device))
        .map_err(|error| say!("warning: no validation: {error}"))
        .ok()
}

/// Fills in what the network takes from the data, and checks that they fit.
fn resolve_network(experiment: &Experiment, data: &OpenData, file: &Path) -> Result<NetworkConfig, ConfigError> {
    let shape = &data.info.shape;
    let predicted = experiment.diffusion.variance.output_channels(shape[0]);
    // A self-conditioned network has its own estimate of the data beside its input.
    let mut input = shape.clone();
    input[0] *= if experiment.diffusion.self_conditioning { 2 } else { 1 };
    let mut network = experiment.model.clone().with_io(&input, predicted);
    if experiment.classes_of_data {
        network = network.with_classes(data.info.classes.len());
    }
    if experiment.augment.is_told() {
        network = network.with_augment_dim(AUGMENT_LABELS);
    }
    let mut problems = Vec::new();
    let mut report = |key: String, message| problems.push(Problem { key, message, from_set: false });
    if let Err(error) = network.validate(shape) {
        match error {
            NetworkError::Config { problems } => {
                problems.into_iter().for_each(|problem| report(format!("model.{}", problem.key), problem.message));
            }
            other => report("model".into(), other.to_string()),
        }
    }
    if network.io() != [input[0], predicted] && problems.is_empty() {
        let [takes, gives] = network.io();
        let message =
            format!("takes {takes} channels and gives {gives}, but {} come in and {predicted} are predicted", input[0]);
        problems.push(Problem { key: "model".into(), message, from_set: false });
    }
    let mut report = |key: String, message| problems.push(Problem { key, message, from_set: false });
    let bound = experiment.diffusion.variance == Variance::Learned
        || matches!(experiment.diffusion.loss, Loss::Kl | Loss::RescaledKl);
    if bound && shape.len() != 3 {
        let message = format!("the variational bound needs images of 8 bits, and {} are points", data.info.name);
        report("diffusion".into(), message);
    }
    let (asked, known) = (network.num_classes(), data.info.classes.len());
    if (asked > 0 && asked != known) || (experiment.classes_of_data && known == 0) {
        report("model.classes".into(), other_classes(experiment, data, asked));
    }
    if asked > 0 && experiment.train.label_drop > 0.0 && network.null_class().is_none() {
        report("train.label_drop".into(), "labels can only be dropped if model.null_class is true".into());
    }
    for problem in experiment.augment.problems_with(&data.info) {
        report(format!("augment.{}", problem.key), problem.reason);
    }
    if experiment.augment.is_told() && shape.len() == 3 && network.augment_dim() != AUGMENT_LABELS {
        let message = format!("{}, but a network is told {AUGMENT_LABELS} numbers", network.augment_dim());
        report("model.augment_dim".into(), message);
    }
    if experiment.train.balance == Balance::Classes && known == 0 {
        report("train.balance".into(), format!("{} has no classes to balance", data.info.name));
    }
    if problems.is_empty() { Ok(network) } else { Err(ConfigError { file: file.to_path_buf(), problems }) }
}

/// Why the network cannot have as many classes as it should.
fn other_classes(experiment: &Experiment, data: &OpenData, asked: usize) -> String {
    let asked = if experiment.classes_of_data { "\"data\"".into() } else { format!("{asked} classes") };
    let (source, hint) = match &experiment.data {
        DataConfig::Images(images) if images.labels == ImageLabels::None => {
            ("the folder", ": data.labels is \"none\", and \"folders\" makes a class of each sub-folder")
        }
        DataConfig::Images(_) => ("the folder", ""),
        _ => (&*data.info.name, ""),
    };
    format!("{asked}, but {source} has {}{hint}", data.info.classes_in_short())
}

/// Says what is not learned of the data.
fn tell_of_data(experiment: &Experiment, data: &OpenData) {
    if data.ignored.count > 0 {
        say!("note: {}", data.ignored);
    }
    if !data.skipped.is_empty() {
        say!("warning: {} files are not readable pictures and are skipped:", data.skipped.len());
        data.skipped.iter().take(10).for_each(|file| say!("  {file}"));
    }
    let has_labels = matches!(&experiment.data, DataConfig::Images(images) if images.labels == ImageLabels::Folders);
    if has_labels && experiment.model.num_classes() == 0 && experiment.train.balance == Balance::Items {
        let classes = data.info.classes_in_short();
        say!(
            "note: the network learns no classes, and the folder has {classes}; model.classes = \"data\" makes it learn \
             them"
        );
    }
}

/// Makes `runs/<experiment>-<time>`.
fn new_run(runs: &Path, name: &str) -> anyhow::Result<RunFolder> {
    let format = format_description!("[year][month][day]-[hour][minute][second]");
    let stamp = OffsetDateTime::now_utc().format(&format)?;
    let names = (1..).map(|n| if n == 1 { format!("{name}-{stamp}") } else { format!("{name}-{stamp}-{n}") });
    std::fs::create_dir_all(runs).with_context(|| format!("cannot make the folder {}", runs.display()))?;
    for folder in names.map(|name| runs.join(name)) {
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
            Ok(()) => {}
        }
        let run = RunFolder(folder);
        for dir in [run.checkpoints(), run.snapshots(), run.previews()] {
            std::fs::create_dir(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        }
        return Ok(run);
    }
    unreachable!("there is always a next name")
}

/// Only one trainer may write into a run. The lock goes when the process does, which may take a moment.
pub(crate) fn lock(run: &RunFolder) -> anyhow::Result<File> {
    let path = run.0.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let asked = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) if asked.elapsed() > PATIENCE => {
                anyhow::bail!("another ddpm-train is at work on {}", run.0.display());
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(PATIENCE / 20),
        }
    }
}

/// Writes `config.toml` and `manifest.json`, and tidies up after a run that was killed.
fn write_records(
    run: &RunFolder,
    name: &str,
    experiment: &Experiment,
    data: &OpenData,
    parameters: usize,
    from: Option<PathBuf>,
    begun: manifest::Start,
) -> anyhow::Result<Manifest> {
    let config = toml::to_string(experiment)?;
    let aside = run.config().with_extension("toml.tmp");
    std::fs::write(&aside, config).with_context(|| format!("cannot write {}", aside.display()))?;
    std::fs::rename(&aside, run.config()).with_context(|| format!("cannot write {}", run.config().display()))?;
    let before = Manifest::read(&run.manifest()).ok();
    let (starts, started_from) = before.map_or_else(Default::default, |before| (before.starts, before.from));
    let manifest = Manifest {
        experiment: name.into(),
        parameters,
        data: format!("{}: {} items of shape {:?}", data.info.name, data.items.len(), data.info.shape),
        seed: experiment.train.seed,
        // JSON has no names that are no text.
        from: started_from.or(from.map(|from| from.to_string_lossy().into_owned().into())),
        starts: starts.into_iter().chain([begun]).collect(),
    };
    manifest.write(&run.manifest()).with_context(|| format!("cannot write {}", run.manifest().display()))?;
    prune(&run.checkpoints(), experiment.train.keep_checkpoints);
    remove_half_written(&run.snapshots());
    widths_in(&run.averages()).iter().for_each(|(_, folder)| remove_half_written(folder));
    Ok(manifest)
}

fn announce(
    run: &RunFolder,
    experiment: &Experiment,
    data: &OpenData,
    devices: &[OpenDevice],
    parameters: usize,
    from_step: u64,
) {
    say!("{}", run.0.display());
    say!(
        "{} items of shape {:?}, {parameters} parameters, {} steps of {} on {}",
        data.items.len(),
        data.info.shape,
        experiment.train.steps,
        experiment.train.batch_size,
        names_of(devices)
    );
    if from_step > 0 {
        say!("going on after step {from_step}");
    }
    if let Some(remark) = devices[0].first_use() {
        say!("{remark}");
    }
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

/// The command that goes on with a run, started as this program was.
fn resume_words(run: &RunFolder, options: &Options) -> String {
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
