//! `ddpm-infer sample`: from arguments to a folder of samples.

mod pipeline;

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::tensor::Device;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddpm_console::bar::progress_bar;
use ddpm_console::numbers::{at_least, from_zero};
use ddpm_console::say;
use ddpm_data::series::{Index, Series, Table};
use ddpm_data::{DataInfo, fnv1a, reference_points};
use ddpm_device::device::OpenDevice;
use ddpm_device::memory;
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::{Impute, SeriesDraw, Stretch};
use ddpm_families::snapshot::{Snapshot, SnapshotConfig, trained};
use ddpm_families::usual_sampling::Choice;
use ddpm_files::runs::RunFolder;
use ddpm_files::{atomic, npy};
use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::Network;
use ddpm_render::series::Windows;
use ddpm_sampling::job::{
    ClassChoice, ClassError, JobError, Progress, Samples, SamplingJob, TrainedModel, USUAL_BATCH,
};
use ddpm_sampling::noise::{Generator, NoiseChoice};
use ddpm_sampling::samplers::{Sampler, SamplerOptions};
use ddpm_sampling::tasks::Task;
use indicatif::ProgressBar;

use super::{init_noise, samples_folder, task_files};
use crate::commands::choose::{OpenModel, SnapshotArgs};
use crate::commands::choose_task::TaskArgs;
use crate::commands::inspect_series::WINDOWS_SHOWN;
use crate::commands::latents::{LatentArgs, interpolation};
use crate::commands::output_folder::fresh_folder;
use crate::commands::sample_prompts::PromptArgs;
use crate::commands::sampling_args::{GuidanceArgs, LevelArgs, SamplerArgs};
use crate::commands::shards::{Parts, Shard};

/// Rows of an interpolation.
const ROWS: usize = 8;

/// Frames of the animation.
const FRAMES: usize = 36;

/// What is often wanted, at the end of the help.
const EXAMPLES: &str = "\
Examples:
  ddpm-infer sample                                     100 samples of the newest run
  ddpm-infer sample --run digits-20260101-120000 --count 16 --seed 7 --class 3
  ddpm-infer sample --sampler ddpm                      ancestral sampling, as in the paper: slow
  ddpm-infer sample --sampler unipc --steps 10          as few steps as will do
  ddpm-infer sample --class-grid 8 --guidance 2         a row for each class, with guidance
  ddpm-infer sample --from ddpm-cifar10-32 --out cifar  a folder of diffusers
  ddpm-infer sample --inpaint mine.png --fit --mask left --repaint
  ddpm-infer sample --run words --prompt \"a red circle\" --count 8 --guidance 3
  ddpm-infer sample --from stable-diffusion --prompts lines.txt --out images
  ddpm-infer sample --run words --prompt \"a cat\" --prompt \"a dog\" --prompt-grid 4 --guidance 1,3,7";

/// Draw samples from a snapshot.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SampleArgs {
    #[command(flatten, next_help_heading = "Model and device")]
    snapshot: SnapshotArgs,
    /// How many samples; default: 100 images or windows of series, 2048 points, and for given images one for each.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>, help_heading = "Samples")]
    count: Option<usize>,
    /// Sample k depends on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>, help_heading = "Samples")]
    seed: u64,
    /// Only this class, by name or number; default: all classes in turn.
    #[arg(long, value_name = "C", help_heading = "Samples")]
    class: Option<String>,
    /// Samples generated at once; changes the speed, not the samples.
    /// Default: 128, and for latent pipelines from 8 to 128 by the size of their images.
    #[arg(long, value_name = "B", value_parser = at_least::<1, usize>, help_heading = "Samples")]
    batch_size: Option<usize>,
    #[arg(long, value_name = "NAME[:OPTION=VALUE]", help = sampler_help(), help_heading = "Sampler")]
    sampler: Option<String>,
    /// Steps of the sampler; default: those of the default sampler, or what is usual for --sampler.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>, help_heading = "Sampler")]
    steps: Option<usize>,
    #[command(flatten)]
    options: SamplerArgs,
    #[command(flatten)]
    levels: LevelArgs,
    /// Noise generator: own, or torch to reproduce PyTorch's CPU generator, diffusers' f32 tables and the scheduler in the
    /// folder.
    #[arg(long, value_name = "GENERATOR", default_value = "own", help_heading = "Noise", value_parser = generators())]
    noise_compat: Generator,
    /// Start from this noise of shape [N, ..], for latent pipelines that of the latents: a .npy file, or a safetensors file with
    /// one tensor.
    #[arg(long, value_name = "FILE", help_heading = "Noise")]
    init_noise: Option<PathBuf>,
    /// Scale of classifier-free guidance; 1 disables it. Latent pipelines take several, such as 1,3,5: every sample once at each,
    /// from the same noise, one column a scale.
    #[arg(long, value_name = "SCALE[,..]", value_delimiter = ',', value_parser = from_zero, help_heading = "Guidance")]
    guidance: Vec<f64>,
    #[command(flatten)]
    guiding: GuidanceArgs,
    #[command(flatten)]
    latents: LatentArgs,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Folder for the samples; default: a new one in the run's folder.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Replace the samples in --out; other files stay.
    #[arg(long, requires = "out", conflicts_with = "shard", help_heading = "Output")]
    overwrite: bool,
    /// Only generate shard I of N; the same command without --shard then joins all shards.
    #[arg(long, value_name = "I/N", requires = "out", help_heading = "Output")]
    shard: Option<Shard>,
    // At the end, because its heading would also apply to what comes after.
    #[command(flatten)]
    task: TaskArgs,
}

fn sampler_help() -> String {
    let line = |sampler: &Sampler| format!("{}: {}", sampler.name(), sampler.description());
    format!(
        "The sampler; default: that of the experiment's previews, or else one that suits the model (ddim in 50 steps, \
         flow-heun, heun); ddim for --interpolate and --invert, and the scheduler in a folder of diffusers. Its options \
         may follow, in place of the ones below, as in heun:churn=40:max=80\n{}",
        Sampler::ALL.iter().map(line).collect::<Vec<_>>().join("\n")
    )
}

/// Generates samples as the arguments say and gives the folder with them.
pub fn run(args: &SampleArgs) -> anyhow::Result<PathBuf> {
    let (path, run) = args.snapshot.choose()?;
    if args.prompts.are_for(&path) {
        return args.run_pipeline(&path, run.as_ref());
    }
    if let Some(option) = args.prompts.given().first() {
        bail!(
            "{option} is for latent pipelines; {} is none (a single file of Stable Diffusion has no tokenizer: pass a folder with one \
             as --config)",
            path.display()
        );
    }
    if ModelCard::find(&path)?.is_some() {
        return args.generate_at_once();
    }
    if let Some(option) = args.latents.given().first() {
        bail!("{option} is about latents that are drawn at once; this snapshot is denoised step by step");
    }
    let loaded = args.load(path, run)?;
    let guide = loaded.guide.as_ref().map(|(snapshot, diffusion)| trained(snapshot, diffusion));
    let model = TrainedModel { guide: guide.as_ref(), ..loaded.model() };
    let job = args.job(&loaded)?;
    // Before minutes of work, not after.
    args.check(&job, &model)?;
    let name = job_name(&loaded.path, &job, &loaded.diffusion);
    let out = args.make_folder(loaded.run.as_ref(), &name)?;
    args.announce(&loaded, &job);

    let parts = args.parts(&out, &job, &loaded);
    // An empty folder would only be in the way; one with something in it is not removed.
    let parts = parts.inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
    let mut generation = Generation::new(&model, &loaded.open.device);
    if let (Some(shard), Some(parts)) = (args.shard, &parts) {
        return generation.shard(&job, shard, parts);
    }
    let samples = match &parts {
        None => generation.samples(&job, 0..job.count).map_err(anyhow::Error::from),
        Some(parts) => generation.joined(&job, parts),
    };
    generation.finish();
    let samples = samples.inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
    generation.report();
    args.write(&out, &loaded.snapshot.config, &job, &samples)?;
    Ok(out)
}

/// What a job works with.
struct Loaded {
    path: PathBuf,
    run: Option<RunFolder>,
    open: OpenDevice,
    snapshot: Snapshot,
    diffusion: Diffusion,
    /// A weaker model for autoguidance.
    guide: Option<(Snapshot, Diffusion)>,
}

impl Loaded {
    fn model(&self) -> TrainedModel<'_> {
        trained(&self.snapshot, &self.diffusion)
    }
}

/// Generates samples under one progress bar, and counts what that takes.
struct Generation<'a> {
    model: &'a TrainedModel<'a>,
    device: &'a Device,
    bar: ProgressBar,
    evaluations: usize,
    batches: usize,
}

impl<'a> Generation<'a> {
    fn new(model: &'a TrainedModel<'a>, device: &'a Device) -> Self {
        let bar = progress_bar("{bar:28} {pos}/{len} steps  {msg}  {elapsed} < {eta}", 0);
        Self { model, device, bar, evaluations: 0, batches: 0 }
    }

    /// Some of the job's samples.
    fn samples(&mut self, job: &SamplingJob, part: Range<usize>) -> Result<Samples, JobError> {
        self.batches += part.len().div_ceil(job.batch_size);
        let before = self.evaluations;
        job.run_part(self.model, part, self.device, &mut |progress| {
            self.evaluations = before + progress.evaluations;
            show(&self.bar, progress);
        })
    }

    /// Those of one process, as a file among the parts.
    fn shard(&mut self, job: &SamplingJob, shard: Shard, parts: &Parts) -> anyhow::Result<PathBuf> {
        let part = shard.range(job.count);
        let samples = self.samples(&SamplingJob { frames: 0, ..job.clone() }, part.clone())?;
        self.finish();
        say!("shard {}/{}: {} of {} samples", shard.number, shard.of, part.len(), job.count);
        Ok(parts.write(&part, &samples.values)?)
    }

    /// All of them, of which only those that no part holds are generated.
    fn joined(&mut self, job: &SamplingJob, parts: &Parts) -> anyhow::Result<Samples> {
        let plain = SamplingJob { frames: 0, ..job.clone() };
        let values = parts.join(job.count, |part| Ok::<_, anyhow::Error>(self.samples(&plain, part)?.values))?;
        Ok(Samples {
            values,
            shape: self.model.data.shape.clone(),
            labels: job.labels(0..job.count, self.model.classes),
            row: job.task.row(),
            ..Samples::default()
        })
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn report(&self) {
        let batches = if self.batches == 1 { "batch" } else { "batches" };
        say!("{} network evaluations (NFE), in {} {batches}", self.evaluations, self.batches);
    }
}

impl SampleArgs {
    /// The one scale of guidance, if it was given.
    fn scale(&self) -> anyhow::Result<Option<f64>> {
        match self.guidance[..] {
            [] => Ok(None),
            [scale] => Ok(Some(scale)),
            _ => bail!("--guidance: several scales are for latent pipelines; expected one"),
        }
    }

    /// The options that were given and that only mean something where samples are denoised step by step.
    fn options_of_denoising(&self) -> Vec<&'static str> {
        let given = [
            ("--sampler", self.sampler.is_some()),
            ("--steps", self.steps.is_some()),
            ("--class", self.class.is_some()),
            ("--init-noise", self.init_noise.is_some()),
            ("--guidance", !self.guidance.is_empty()),
            ("--guide", self.guiding.guide.is_some()),
            ("--shard", self.shard.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option);
        given.chain(self.task.option_of_denoising()).collect()
    }

    /// Samples of a model that draws them in one pass, with the options that have a meaning for it.
    fn generate_at_once(&self) -> anyhow::Result<PathBuf> {
        let open = self.snapshot.open_model()?;
        if let (Some(series), Some(model)) = (&open.model.card().data.series, open.model.impute()) {
            return self.windows_of_series(&open, &series.variables, model);
        }
        let Some(generator) = open.model.generate() else { return Err(open.cannot("sample")) };
        let OpenModel { path, run, device, model } = &open;
        let card = model.card();
        if let Some(option) = self.options_of_denoising().first() {
            bail!("{option} is about models that are denoised step by step; this snapshot is a {}", card.family);
        }
        let (count, row) = (self.count.unwrap_or(usual_count_of(&card.data)), self.task.row());
        let name = format!("{}-seed{}-n{count}", path.file_stem().unwrap_or_default().to_string_lossy(), self.seed);
        let out = self.make_folder(run.as_ref(), &name)?;
        say!("{}: samples of {} on {}", path.display(), card.origin(), device.name);
        let draw = self.latents.draw(self.seed);
        let samples = match (self.latents.traversal(&**model, path)?, row) {
            (Some(samples), _) => samples,
            (None, Some(row)) => interpolation(&**model, &draw, row, self.count.unwrap_or(row * ROWS))?,
            (None, None) => generator.generate(&draw, 0, count).map_err(anyhow::Error::from_boxed)?,
        };
        let points = card.source.as_ref().filter(|_| card.data.is_point()).and_then(reference_points);
        if self.overwrite {
            samples_folder::clear(&out)?;
        }
        ddpm_render::write(&out, &samples, points.as_deref())?;
        Ok(out)
    }

    /// Windows of a model of series, of which nothing is known.
    fn windows_of_series(&self, open: &OpenModel, names: &[String], model: &dyn Impute) -> anyhow::Result<PathBuf> {
        let OpenModel { path, run, device, .. } = open;
        let others =
            self.options_of_denoising().into_iter().filter(|option| !["--sampler", "--steps"].contains(option));
        if let Some(option) = others.chain(self.latents.given()).chain(self.task.row().map(|_| "--interpolate")).next()
        {
            bail!("{option} is not for models of series; this snapshot is a {}", open.model.card().family);
        }
        let sampler = |name: &str| Sampler::new(name, SamplerOptions::default());
        let draw = SeriesDraw {
            sampler: self.sampler.as_deref().map(sampler).transpose()?,
            steps: self.steps,
            at_once: self.batch_size.unwrap_or(USUAL_BATCH),
            ..SeriesDraw::new(self.seed, 1)
        };
        let (count, length) = (self.count.unwrap_or_else(|| usual_count_of(&open.model.card().data)), model.window());
        let name = format!("{}-seed{}-n{count}", path.file_stem().unwrap_or_default().to_string_lossy(), self.seed);
        let out = self.make_folder(run.as_ref(), &name)?;
        say!("{}: {count} windows of {} on {}", path.display(), open.model.card().origin(), device.name);
        let nothing = Table::never_observed(length, names.len());
        let nothing = Series::new(None, Index::Counted, names.to_vec(), nothing);
        let window = |number| Stretch { series: &nothing, start: 0, end: length, number };
        let windows: Vec<Stretch<'_>> = (0..count as u64).map(window).collect();
        let values = model.impute(&windows, &draw).map_err(anyhow::Error::from_boxed)?;
        if self.overwrite {
            samples_folder::clear(&out)?;
        }
        atomic::write(&out.join("samples.npy"), npy::encode(&[count, length, names.len()], &values))?;
        let shown = count.min(WINDOWS_SHOWN);
        let samples: Vec<f64> = values[..shown * length * names.len()].iter().map(|value| f64::from(*value)).collect();
        let plot = Windows { names, samples: &samples, shape: [shown, length, names.len()] }.plot()?;
        plot.write(&out.join("samples.png"), &out.join("samples.svg"))?;
        Ok(out)
    }

    /// Reads the model, and the one that guides it.
    fn load(&self, path: PathBuf, run: Option<RunFolder>) -> anyhow::Result<Loaded> {
        let open = self.snapshot.open()?;
        let (snapshot, diffusion) = self.snapshot.load(&path, &open.device)?;
        if snapshot.config.text.is_some() {
            bail!("{}: prompts are for networks of latents, and this one makes pixels of text", path.display());
        }
        let guide = self.guiding.guide.as_deref();
        let guide = guide.map(|path| self.snapshot.load(path, &open.device)).transpose()?;
        Ok(Loaded { path, run, open, snapshot, diffusion, guide })
    }

    /// The job, with what is usual for the model where nothing was chosen.
    fn job(&self, loaded: &Loaded) -> anyhow::Result<SamplingJob> {
        let Loaded { path, snapshot, diffusion, .. } = loaded;
        let config = &snapshot.config;
        let classes = config.network.num_classes();
        let task = self.task.choose(config)?;
        let choice = Choice {
            sampler: self.sampler.as_deref(),
            steps: self.steps,
            options: self.options.all(diffusion),
            has_levels: self.levels.are_given(),
            generator: self.noise_compat,
        };
        let chosen = choice.resolve(&task, snapshot, path, diffusion)?;
        let levels = self.levels.of(chosen.sampler, diffusion)?;
        let init_noise =
            self.init_noise.as_deref().map(|file| init_noise::read(file, &config.data.shape)).transpose()?;
        let usual_count = usual_count(&task, config, init_noise.as_deref());
        Ok(SamplingJob {
            count: self.count.unwrap_or(usual_count),
            task,
            seed: self.seed,
            batch_size: self.batch_size.unwrap_or(USUAL_BATCH),
            steps: chosen.steps(&levels),
            levels,
            plan: chosen.plan,
            noise: NoiseChoice { generator: self.noise_compat, start: init_noise, ..NoiseChoice::default() },
            class: ClassChoice::named(self.class.as_deref(), classes, &config.data.classes).map_err(of_option)?,
            guidance: self.guiding.at(self.scale()?.unwrap_or(1.0)),
            frames: FRAMES,
            ..SamplingJob::new(chosen.sampler, &loaded.model())
        })
    }

    /// Refuses what cannot be done, or does not fit into memory.
    fn check(&self, job: &SamplingJob, model: &TrainedModel<'_>) -> anyhow::Result<()> {
        job.check(model)?;
        let held = self.shard.map_or(job.count, |shard| shard.range(job.count).len());
        match memory::check(held, job.bytes_per_sample(model.data)) {
            Err(reason) => bail!("{} samples are too many: {reason}", job.count),
            Ok(()) => Ok(()),
        }
    }

    /// Prints what is about to happen.
    fn announce(&self, loaded: &Loaded, job: &SamplingJob) {
        say!(
            "{}: {} samples of {} by {} in {} steps on {}{}{}",
            loaded.path.display(),
            job.count,
            loaded.snapshot.config.origin(),
            job.sampler.name(),
            job.steps_for(&loaded.diffusion),
            loaded.open.name,
            in_half(&loaded.snapshot.network),
            self.remark_on_sampler(job, &loaded.diffusion)
        );
        if let Some(remark) = loaded.open.first_use() {
            say!("{remark}");
        }
    }

    /// Writes the samples, in place of those that are there with --overwrite.
    fn write(&self, out: &Path, config: &SnapshotConfig, job: &SamplingJob, samples: &Samples) -> anyhow::Result<()> {
        let is_image = config.data.is_image();
        let beside = config.source.as_ref().filter(|_| !is_image).and_then(reference_points);
        if self.overwrite {
            samples_folder::clear(out)?;
        }
        ddpm_render::write(out, samples, beside.as_deref())?;
        if let Some(legend) = ddpm_render::legend(samples, &config.data.classes) {
            say!("{legend}");
        }
        if let Some(summary) = task_files::write(out, &job.task, samples)? {
            say!("{summary}");
        }
        Ok(())
    }

    /// How to get ancestral sampling where the default is another sampler.
    fn remark_on_sampler(&self, job: &SamplingJob, diffusion: &Diffusion) -> String {
        let chosen = self.sampler.is_some() || job.plan.is_some() || job.task.usual_sampler().is_some();
        match diffusion {
            Diffusion::Discrete(diffusion) if !chosen && !matches!(job.sampler, Sampler::Ddpm { .. }) => {
                format!("; --sampler ddpm is ancestral sampling in all {} steps", diffusion.schedule.len())
            }
            _ => String::new(),
        }
    }

    /// The folder that the samples go to, without those of another job.
    fn make_folder(&self, run: Option<&RunFolder>, name: &str) -> anyhow::Result<PathBuf> {
        let out = match (&self.out, run) {
            (Some(out), _) => out.clone(),
            (None, Some(run)) => fresh_folder(&run.samples(), name),
            (None, None) => fresh_folder(Path::new("samples"), name),
        };
        samples_folder::check(&out, self.overwrite)?;
        if self.overwrite {
            Parts::remove(&out)?;
        }
        std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        Ok(out)
    }

    /// The parts of the job that are kept in `out`: those that it is to have, or those that it has.
    fn parts(&self, out: &Path, job: &SamplingJob, loaded: &Loaded) -> anyhow::Result<Option<Parts>> {
        let Loaded { path, snapshot, .. } = loaded;
        if self.shard.is_none() && !Parts::are_in(out) {
            return Ok(None);
        }
        if job.task != Task::Sample {
            bail!("--shard is for samples out of noise: {} is not shared out", job.task.name());
        }
        // All that a sample depends on besides its number.
        let choices = SamplingJob { batch_size: 0, frames: 0, ..job.clone() };
        let choices = format!("{choices:?}, guide {:?}{}", self.guiding.guide, in_half(&snapshot.network));
        let about = format!(
            "{} samples of {} ({}) with seed {}, choices {:016x}",
            job.count,
            snapshot.config.origin(),
            path.display(),
            job.seed,
            fnv1a(choices.bytes())
        );
        Ok(Some(Parts::open(out, &snapshot.config.data.shape, &about)?))
    }
}

/// What the network's precision adds to the description of samples: nothing for f32.
pub(crate) fn in_half(network: &Network) -> String {
    in_precision(network.precision())
}

/// The same for a precision.
pub(crate) fn in_precision(precision: Precision) -> String {
    match precision {
        Precision::F32 => String::new(),
        precision => format!(", in {}", precision.name()),
    }
}

/// How many samples a job makes unless --count says otherwise.
fn usual_count(task: &Task, config: &SnapshotConfig, init_noise: Option<&[f32]>) -> usize {
    let per_item = config.data.values_per_item();
    if let Some(noise) = init_noise {
        return noise.len() / per_item;
    }
    let of_task = task.usual_count(config.network.num_classes(), per_item);
    of_task.unwrap_or_else(|| usual_count_of(&config.data))
}

/// How many samples of such data are usual, out of noise.
fn usual_count_of(data: &DataInfo) -> usize {
    if data.is_point() { 2048 } else { 100 }
}

/// An error in a class, with the option that it was given by.
pub(crate) fn of_option(error: ClassError) -> anyhow::Error {
    anyhow::anyhow!("--{error}")
}

/// A name that says what is drawn.
fn job_name(snapshot: &Path, job: &SamplingJob, diffusion: &Diffusion) -> String {
    let snapshot = snapshot.file_stem().unwrap_or_default().to_string_lossy();
    let steps = job.steps_for(diffusion);
    let class = match job.class {
        ClassChoice::Any | ClassChoice::InTurn => String::new(),
        ClassChoice::One(class) => format!("-class{class}"),
    };
    let guided = if job.guidance.is_active() { format!("-guided{}", job.guidance.scale) } else { String::new() };
    let task = if job.task == Task::Sample { String::new() } else { format!("-{}", job.task.name()) };
    format!("{snapshot}-{}-{steps}-seed{}{class}{guided}{task}", job.sampler.name(), job.seed)
}

/// The noise generators by name.
fn generators() -> impl TypedValueParser<Value = Generator> {
    PossibleValuesParser::new(["own", "torch"]).map(|name| match name.as_str() {
        "torch" => Generator::Torch,
        _ => Generator::Own,
    })
}

/// Counts the steps of all batches together, so that the bar moves from the first step on.
pub(crate) fn show(bar: &ProgressBar, progress: Progress) {
    let steps = |batches: usize| (batches as u64).saturating_mul(progress.steps as u64);
    bar.set_length(steps(progress.batches));
    bar.set_position(steps(progress.batch).saturating_add(progress.steps_done as u64));
    bar.set_message(format!("{}/{} samples", progress.samples_done, progress.samples));
}
