//! Everything that can be known before the first step: the experiment, its data, its family, the devices.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use ddpm_console::bar::checking_images;
use ddpm_data::{OpenData, Split};
use ddpm_device::device::{self, OpenDevice};
use ddpm_families::family::erased::AnyFamily;
use ddpm_families::family::{StartingWeights, Subject};
use ddpm_files::runs::RunFolder;
use ddpm_kernels::Precision;

use crate::config::load::{ConfigError, Problem, Source};
use crate::config::{Balance, Experiment};
use crate::manifest::Manifest;
use crate::memory::Estimate;
use crate::run_folder::{begins_again, resumable};
use crate::train::{Options, UsageError};
use crate::trained_part::TrainedSizes;
use ddpm_console::output::print;
use ddpm_console::say;

/// What a training will be.
pub struct Plan {
    /// The name of the experiment.
    pub name: String,
    /// The experiment, with nothing left open.
    pub experiment: Experiment,
    /// What it is trained on.
    pub data: OpenData,
    /// What is trained, and how.
    pub family: Arc<dyn AnyFamily>,
    /// The first of them is the main one.
    pub devices: Vec<OpenDevice>,
    /// The run that is resumed.
    pub resumed: Option<(RunFolder, Manifest)>,
    /// The snapshot that a run starts from.
    pub from: Option<PathBuf>,
    /// Its weights.
    pub start: Option<Box<dyn StartingWeights>>,
}

impl Plan {
    /// Reads and checks everything that the command line asks for; `experiment` stands for the one that it names.
    pub fn make(options: &Options, experiment: Option<Source>) -> anyhow::Result<Self> {
        let resumed = options.resume.as_deref().map(|run| resumable(&options.runs, run, &options.set)).transpose()?;
        let source = match (&resumed, experiment) {
            (Some((run, _)), _) => Source::File(run.config()),
            (None, Some(source)) => source,
            (None, None) => Source::find(&options.experiment)?,
        };
        let name = resumed.as_ref().map_or_else(|| source.name(), |(_, manifest)| manifest.experiment.clone());
        let file = source.file();
        let devices = open_devices(&options.devices)?;
        let from = start_of(&source, options, resumed.as_ref());
        let start = starting_weights(&source, options, from.as_deref(), &devices[0])?;
        let mut experiment =
            source.load(&options.set, start.as_ref().map(|start| start.sections()).unwrap_or_default())?;
        if options.from.is_some() {
            experiment.fine_tune.from = None;
        }
        refuse(&file, problems_with(&devices, &experiment))?;
        let data = open_data(&experiment)?;
        let described = start.as_ref().map_or_else(|| file.clone(), |start| start.name_in(&file, &experiment.family));
        let family = resolve(&mut experiment, &name, &data, &devices[0], &described)?;
        if resumed.is_none() {
            experiment.family.notes().iter().for_each(|note| say!("note: {note}"));
        }
        report_on_data(&subject(&experiment, &name, &data, &devices[0]), &*family);
        let data = family.items(data);
        experiment.family = family.tables();
        experiment.optimizer = experiment.optimizer.resolved();
        let parts = experiment.fine_tune.problems(&family.init(&devices[0].device)).into_iter();
        refuse(&file, parts.map(|(key, message)| problem(format!("fine_tune.{key}"), message)).collect())?;
        if let Some(start) = &start {
            start.check(&experiment.family).map_err(anyhow::Error::from_boxed)?;
            start.describe(&experiment.family).iter().for_each(|line| say!("{line}"));
        }
        let from = from.map(|from| from.canonicalize().unwrap_or(from));
        Ok(Self { name, experiment, data, family, devices, resumed, from, start })
    }

    /// `--dry-run`.
    pub(crate) fn describe(&self) -> anyhow::Result<()> {
        let model = self.family.init(&self.devices[0].device);
        let parameters = model.num_params();
        let memory = self.estimate(parameters);
        let trained = match self.experiment.fine_tune.is_everything() {
            true => String::new(),
            false => format!(", {} of them trained", self.experiment.fine_tune.sizes(&model).trained),
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
        self.warn(parameters);
        Ok(())
    }

    fn estimate(&self, parameters: usize) -> Estimate {
        let fine_tune = &self.experiment.fine_tune;
        let sizes = match fine_tune.is_everything() {
            true => TrainedSizes { trained: parameters, adapted: 0 },
            false => fine_tune.sizes(&self.family.init(&self.devices[0].device)),
        };
        Estimate::of(&self.experiment, &*self.family, parameters, sizes, self.devices.len())
    }

    /// Says what is possible but hardly meant.
    pub(crate) fn warn(&self, parameters: usize) {
        if let Some(warning) = self.estimate(parameters).warning(&self.devices[0]) {
            say!("warning: {warning}");
        }
        let (batch, items) = (self.experiment.train.batch_size, self.data.items.len());
        if batch > items {
            say!("warning: train.batch_size is {batch}, but there are only {items} items: each step sees some twice");
        }
    }

    /// Says what begins.
    pub(crate) fn announce(&self, run: &RunFolder, parameters: usize, from_step: u64) {
        let (items, shape) = (self.data.items.len(), &self.data.info.shape);
        let (steps, batch) = (self.experiment.train.steps, self.experiment.train.batch_size);
        let devices = names_of(&self.devices);
        say!("{}", run.0.display());
        say!("{items} items of shape {shape:?}, {parameters} parameters, {steps} steps of {batch} on {devices}");
        if from_step > 0 {
            say!("going on after step {from_step}");
        }
        if let Some(remark) = self.devices[0].first_use() {
            say!("{remark}");
        }
        let (wanted, used) = (self.experiment.train.precision, self.precision());
        match self.devices[0].precision_note(wanted) {
            Some(note) if used != wanted => say!("note: {note}"),
            None if used != wanted => say!("note: the run goes on in {}, as it began", used.name()),
            _ => {}
        }
    }

    /// What the training computes in: as the run that is resumed has so far, or else what suits the device.
    pub fn precision(&self) -> Precision {
        let kept = self.resumed.as_ref().and_then(|(_, manifest)| manifest.precision());
        kept.unwrap_or_else(|| self.experiment.train.precision.on(&self.devices[0].device))
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

/// The names of devices, as the command line has them.
pub(crate) fn names_of(devices: &[OpenDevice]) -> String {
    devices.iter().map(|open| open.name.as_str()).collect::<Vec<_>>().join(",")
}

/// What a new run starts from: `--from`, or else `fine_tune.from`. A run that must begin again starts from where it started.
fn start_of(source: &Source, options: &Options, resumed: Option<&(RunFolder, Manifest)>) -> Option<PathBuf> {
    match resumed {
        Some((run, manifest)) => manifest.from.clone().filter(|_| begins_again(run, options)),
        None => options.from.clone().or_else(|| source.fine_tune_from(&options.set)),
    }
}

/// The weights that a run starts from.
fn starting_weights(
    source: &Source,
    options: &Options,
    from: Option<&Path>,
    device: &OpenDevice,
) -> anyhow::Result<Option<Box<dyn StartingWeights>>> {
    let Some(from) = from else { return Ok(None) };
    let start = source.family(&options.set).starting_weights(from, &device.device);
    start.map(Some).map_err(anyhow::Error::from_boxed)
}

/// What these devices cannot do of an experiment.
fn problems_with(devices: &[OpenDevice], experiment: &Experiment) -> Vec<Problem> {
    let train = &experiment.train;
    let mut problems = Vec::new();
    let mut report = |key: &str, message| problems.push(problem(key.into(), message));
    if let Some(error) = devices.iter().find_map(|open| open.check(train.precision).err()) {
        report("train.precision", error.to_string());
    }
    let twice = |(number, open): (usize, &OpenDevice)| devices[..number].iter().any(|other| other.name == open.name);
    if experiment.family.has_dropout() && devices.iter().enumerate().any(twice) {
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

fn problem(key: String, message: String) -> Problem {
    Problem { key, message, from_set: false }
}

fn refuse(file: &Path, problems: Vec<Problem>) -> Result<(), ConfigError> {
    if problems.is_empty() { Ok(()) } else { Err(ConfigError { file: file.to_path_buf(), problems }) }
}

fn open_data(experiment: &Experiment) -> anyhow::Result<OpenData> {
    let seed = experiment.train.seed;
    Ok(ddpm_data::open_with_progress(&experiment.data, Split::Train, seed, &checking_images())?)
}

fn subject<'a>(experiment: &'a Experiment, name: &'a str, data: &'a OpenData, device: &'a OpenDevice) -> Subject<'a> {
    let balanced = experiment.train.balance == Balance::Classes;
    Subject { experiment: name, config: &experiment.data, data, balanced, device: &device.device }
}

/// The family with what follows from the data, or everything that does not go together with them.
fn resolve(
    experiment: &mut Experiment,
    name: &str,
    data: &OpenData,
    device: &OpenDevice,
    file: &Path,
) -> Result<Arc<dyn AnyFamily>, ConfigError> {
    let resolved = experiment.family.resolve(&subject(experiment, name, data, device));
    let (family, problems) = match resolved {
        Ok(family) => (Some(family), Vec::new()),
        Err(problems) => (None, problems),
    };
    let mut problems: Vec<Problem> = problems.into_iter().map(|(key, message)| problem(key, message)).collect();
    if experiment.train.balance == Balance::Classes && data.info.classes.is_empty() {
        problems.push(problem("train.balance".into(), format!("{} has no classes to balance", data.info.name)));
    }
    match family {
        Some(family) if problems.is_empty() => Ok(family),
        _ => Err(ConfigError { file: file.to_path_buf(), problems }),
    }
}

/// Says what is left out of the data, and what is not learned of them.
fn report_on_data(subject: &Subject<'_>, family: &dyn AnyFamily) {
    let data = subject.data;
    if data.ignored.count > 0 {
        say!("note: {}", data.ignored);
    }
    if !data.skipped.is_empty() {
        say!("warning: {} files are not readable images and are skipped:", data.skipped.len());
        data.skipped.iter().take(10).for_each(|file| say!("  {file}"));
    }
    family.remarks(subject).iter().for_each(|remark| say!("{remark}"));
}
