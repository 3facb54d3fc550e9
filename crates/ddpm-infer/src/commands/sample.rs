//! `ddpm-infer sample`: from the words of a person to a folder of samples.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddpm_console::bar::progress_bar;
use ddpm_console::numbers::{at_least, from_zero};
use ddpm_data::{fnv1a, reference_points};
use ddpm_device::device::OpenDevice;
use ddpm_device::memory;
use ddpm_families::diffusers::scheduler_config::Method;
use ddpm_families::diffusers::{Plan, Tables};
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::{abilities, open};
use ddpm_families::snapshot::{Sampling, Snapshot, SnapshotConfig, trained};
use ddpm_families::usual_sampling::usual_sampling;
use ddpm_files::runs::RunFolder;
use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::Network;
use ddpm_sampling::job::{ClassChoice, Progress, Samples, SamplingJob, TrainedModel, clip_for};
use ddpm_sampling::noise::{Generator, NoiseChoice};
use ddpm_sampling::samplers::Sampler;
use ddpm_sampling::tasks::Task;
use indicatif::ProgressBar;

use super::{init_noise, samples_folder, task_files};
use crate::commands::choose::SnapshotArgs;
use crate::commands::choose_task::TaskArgs;
use crate::commands::sampling_args::{GuidanceArgs, LevelArgs, SamplerArgs};
use crate::commands::shards::{Parts, Shard};
/// Frames of the animation.
const FRAMES: usize = 36;

/// What is often wanted, at the end of the help.
const EXAMPLES: &str = "\
Examples:
  ddpm-infer sample                                     100 samples of the newest run
  ddpm-infer sample --run digits-20260101-120000 --count 16 --seed 7 --class 3
  ddpm-infer sample --sampler ddpm                      ancestral sampling, as in the paper: slow
  ddpm-infer sample --sampler unipc --steps 10          as few steps as will do
  ddpm-infer sample --class-grid 8 --guidance 2         a row for each class, pushed towards it
  ddpm-infer sample --from ddpm-cifar10-32 --out cifar  a folder of diffusers
  ddpm-infer sample --inpaint mine.png --fit --mask left --repaint";

/// Draws samples from a snapshot.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SampleArgs {
    #[command(flatten, next_help_heading = "Model and device")]
    snapshot: SnapshotArgs,
    /// How many samples; without it, 100 images or 2048 points, and for given pictures one for each.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>, help_heading = "Samples")]
    count: Option<usize>,
    /// Sample k depends on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>, help_heading = "Samples")]
    seed: u64,
    /// Only this class, by name or number; without it, classes take turns.
    #[arg(long, value_name = "C", help_heading = "Samples")]
    class: Option<String>,
    /// Samples made at once; changes the speed, not the samples.
    #[arg(long, value_name = "B", default_value_t = 128, value_parser = at_least::<1, usize>, help_heading = "Samples")]
    batch_size: usize,
    #[arg(long, value_name = "NAME", help = sampler_help(), help_heading = "Sampler")]
    sampler: Option<String>,
    /// Steps of the sampler; without it, those of the default, and with --sampler what is usual for it.
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
    /// Start from this noise of shape [N, ..]: a .npy file, or a safetensors file with one tensor.
    #[arg(long, value_name = "FILE", help_heading = "Noise")]
    init_noise: Option<PathBuf>,
    /// Scale of classifier-free guidance; 1 disables it.
    #[arg(long, value_name = "SCALE", value_parser = from_zero, help_heading = "Guidance")]
    guidance: Option<f64>,
    #[command(flatten)]
    guiding: GuidanceArgs,
    /// The folder that the samples go to; without it, a new one in the run's folder.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Replaces the samples that --out holds; files that are not of samples stay.
    #[arg(long, requires = "out", conflicts_with = "shard", help_heading = "Output")]
    overwrite: bool,
    /// Only draws the share of process I of N; the same command without --shard then puts all shares together.
    #[arg(long, value_name = "I/N", requires = "out", help_heading = "Output")]
    shard: Option<Shard>,
    // At the end, because its heading would also stand above what comes after.
    #[command(flatten)]
    task: TaskArgs,
}

fn sampler_help() -> String {
    let line = |sampler: &Sampler| format!("{}: {}", sampler.name(), sampler.description());
    format!(
        "The sampler; without it, that of the experiment's previews, or else one that suits the model (ddim in 50 steps, \
         flow-heun, heun); ddim for --interpolate and --invert, and what its scheduler says for a folder of diffusers\n{}",
        Sampler::ALL.iter().map(line).collect::<Vec<_>>().join("\n")
    )
}

/// Does what the arguments say and gives the folder with the samples.
pub fn run(args: &SampleArgs) -> anyhow::Result<PathBuf> {
    let (path, run) = args.snapshot.choose()?;
    let open = args.snapshot.open()?;
    if ModelCard::find(&path)?.is_some() {
        return args.generate(&path, run, &open);
    }
    let (snapshot, diffusion) = args.snapshot.load(&path, &open.device)?;
    let config = &snapshot.config;
    let job = args.job(&path, &snapshot, &diffusion)?;
    let weaker = args.guiding.guide.as_deref().map(|path| args.snapshot.load(path, &open.device)).transpose()?;
    let guide = weaker.as_ref().map(|(snapshot, diffusion)| trained(snapshot, diffusion));
    let model = TrainedModel { guide: guide.as_ref(), ..trained(&snapshot, &diffusion) };
    // Before minutes of work, not after.
    job.check(&model)?;
    let held = args.shard.map_or(job.count, |shard| shard.range(job.count).len());
    if let Err(reason) = memory::check(held, job.bytes_per_sample(&config.data)) {
        bail!("{} samples are too many: {reason}", job.count);
    }
    let out = args.make_folder(run, &job_name(&path, &job, &diffusion))?;

    eprintln!(
        "{}: {} samples of {} by {} in {} steps on {}{}{}",
        path.display(),
        job.count,
        config.origin(),
        job.sampler.name(),
        job.steps_for(&diffusion),
        open.name,
        in_half(&snapshot.network),
        args.remark_on_sampler(&job, &diffusion)
    );
    if let Some(remark) = open.first_use() {
        eprintln!("{remark}");
    }
    let bar = progress_bar("{bar:28} {pos}/{len} steps  {msg}  {elapsed} < {eta}", 0);
    let mut evaluations = 0;
    let mut batches = 0;
    let mut draw = |job: &SamplingJob, part: Range<usize>| {
        batches += part.len().div_ceil(job.batch_size);
        let before = evaluations;
        job.run_part(&model, part, &open.device, &mut |progress| {
            evaluations = before + progress.evaluations;
            show(&bar, progress);
        })
    };
    let parts = args.parts(&out, &job, &path, &snapshot);
    // An empty folder would only be in the way; one with something in it is not removed.
    let parts = parts.inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
    if let (Some(shard), Some(parts)) = (args.shard, &parts) {
        let part = shard.range(job.count);
        let samples = draw(&SamplingJob { frames: 0, ..job.clone() }, part.clone())?;
        bar.finish_and_clear();
        eprintln!("shard {}/{}: {} of {} samples", shard.number, shard.of, part.len(), job.count);
        return Ok(parts.write(&part, &samples.values)?);
    }
    let samples = match &parts {
        None => draw(&job, 0..job.count).map_err(anyhow::Error::from),
        Some(parts) => {
            let plain = SamplingJob { frames: 0, ..job.clone() };
            let values = parts.join(job.count, |part| Ok::<_, anyhow::Error>(draw(&plain, part)?.values));
            values.map(|values| Samples {
                values,
                shape: config.data.shape.clone(),
                labels: job.labels(0..job.count, model.classes),
                row: job.task.row(),
                ..Samples::default()
            })
        }
    };
    bar.finish_and_clear();
    let samples = samples.inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
    eprintln!(
        "{evaluations} network evaluations (NFE), in {batches} {}",
        if batches == 1 { "batch" } else { "batches" }
    );
    let is_image = config.data.shape.len() == 3;
    let beside = config.source.as_ref().filter(|_| !is_image).and_then(reference_points);
    if args.overwrite {
        samples_folder::clear(&out)?;
    }
    ddpm_render::write(&out, &samples, beside.as_deref())?;
    if let Some(legend) = ddpm_render::legend(&samples, &config.data.classes) {
        eprintln!("{legend}");
    }
    if let Some(summary) = task_files::write(&out, &job.task, &samples)? {
        eprintln!("{summary}");
    }
    Ok(out)
}

impl SampleArgs {
    /// The options that were given and that only mean something where samples are denoised step by step.
    fn options_of_denoising(&self) -> Vec<&'static str> {
        let given = [
            ("--sampler", self.sampler.is_some()),
            ("--steps", self.steps.is_some()),
            ("--class", self.class.is_some()),
            ("--init-noise", self.init_noise.is_some()),
            ("--guidance", self.guidance.is_some()),
            ("--guide", self.guiding.guide.is_some()),
            ("--shard", self.shard.is_some()),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
    }

    /// Samples of a model that draws them in one pass, with the options that have a meaning for it.
    fn generate(&self, path: &Path, run: Option<RunFolder>, device: &OpenDevice) -> anyhow::Result<PathBuf> {
        let model = open(path, &device.device).map_err(anyhow::Error::from_boxed)?;
        let card = model.card();
        let Some(generator) = model.generate() else {
            bail!("{}: this snapshot is a {}: {}, not sample", path.display(), card.family, abilities(&*model));
        };
        if let Some(option) = self.options_of_denoising().first() {
            bail!("{option} is about models that are denoised step by step; this snapshot is a {}", card.family);
        }
        let count = self.count.unwrap_or(if card.data.shape.len() == 3 { 100 } else { 2048 });
        let name = format!("{}-seed{}-n{count}", path.file_stem().unwrap_or_default().to_string_lossy(), self.seed);
        let out = self.make_folder(run, &name)?;
        eprintln!("{}: {count} samples of {} on {}", path.display(), card.origin(), device.name);
        let samples = generator.generate(self.seed, 0, count).map_err(anyhow::Error::from_boxed)?;
        let points = card.source.as_ref().filter(|_| card.data.shape.len() == 1).and_then(reference_points);
        if self.overwrite {
            samples_folder::clear(&out)?;
        }
        ddpm_render::write(&out, &samples, points.as_deref())?;
        Ok(out)
    }

    /// What is to be done with this model.
    fn job(&self, path: &Path, snapshot: &Snapshot, diffusion: &Diffusion) -> anyhow::Result<SamplingJob> {
        let config = &snapshot.config;
        let classes = config.network.num_classes();
        let task = self.task.choose(config)?;
        let plan = if task == Task::Sample { self.follow(snapshot)? } else { None };
        let (sampler, usual_steps) = match &plan {
            Some(plan) => (plan.sampler, None),
            None => self.sampler(&task, config, path, diffusion)?,
        };
        let levels = self.levels.of(sampler, diffusion)?;
        let init_noise =
            self.init_noise.as_deref().map(|file| init_noise::read(file, &config.data.shape)).transpose()?;
        let per_item = config.data.values_per_item();
        let usual_count = match &init_noise {
            Some(noise) => noise.len() / per_item,
            None => {
                let is_image = config.data.shape.len() == 3;
                task.usual_count(classes, per_item).unwrap_or(if is_image { 100 } else { 2048 })
            }
        };
        Ok(SamplingJob {
            count: self.count.unwrap_or(usual_count),
            task,
            seed: self.seed,
            batch_size: self.batch_size,
            sampler,
            // A list of levels knows its steps.
            steps: self.steps.or(usual_steps.filter(|_| levels.own_steps().is_none())),
            levels,
            plan,
            noise: NoiseChoice { generator: self.noise_compat, start: init_noise },
            class: class_choice(self.class.as_deref(), classes, &config.data.classes)?,
            clip: clip_for(&config.data),
            guidance: self.guiding.at(self.guidance.unwrap_or(1.0)),
            frames: FRAMES,
        })
    }

    /// The sampler that was named, or that of the task, or else that of the model with its steps.
    fn sampler(
        &self,
        task: &Task,
        config: &SnapshotConfig,
        path: &Path,
        diffusion: &Diffusion,
    ) -> anyhow::Result<(Sampler, Option<usize>)> {
        let options = self.options.all(diffusion);
        if let Some(name) = self.sampler.as_deref().or(task.usual_sampler()) {
            return Ok((Sampler::new(name, options)?, None));
        }
        let Sampling { sampler, steps } = usual_sampling(config, path, diffusion);
        let sampler = Sampler::new(&sampler, options).context("the default sampler of this model")?;
        Ok((sampler, Some(steps)))
    }

    /// How to have the sampler of the paper where another one was chosen unasked.
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
    fn make_folder(&self, run: Option<RunFolder>, name: &str) -> anyhow::Result<PathBuf> {
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
    fn parts(&self, out: &Path, job: &SamplingJob, path: &Path, snapshot: &Snapshot) -> anyhow::Result<Option<Parts>> {
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

    /// The walk of the scheduler that others chose, or of the one that diffusers would follow where the noise is to be
    /// its own too, if there is one and nothing else was asked for.
    fn follow(&self, snapshot: &Snapshot) -> anyhow::Result<Option<Plan>> {
        let scheduler = match self.noise_compat {
            Generator::Own => snapshot.chosen_scheduler(),
            Generator::Torch => snapshot.scheduler.as_ref(),
        };
        let Some(scheduler) = scheduler else { return Ok(None) };
        let eta = self.options.eta();
        let eta_is_of_another = eta.is_some() && !matches!(scheduler.method, Method::Ddim { .. });
        let asked =
            [self.sampler.is_some(), self.levels.are_given(), self.options.are_given_beside_eta(), eta_is_of_another];
        if asked.contains(&true) {
            return Ok(None);
        }
        let eta = eta.unwrap_or(0.0);
        let tables = match self.noise_compat {
            Generator::Own => Tables::Exact,
            Generator::Torch => Tables::Peer,
        };
        let steps = self.steps.unwrap_or_else(|| scheduler.default_steps());
        Ok(Some(scheduler.plan(steps, eta, tables).with_context(|| format!("the snapshot's {}", scheduler.class()))?))
    }
}

/// What the network's precision adds to the description of samples: nothing for f32.
pub(crate) fn in_half(network: &Network) -> String {
    match network.precision() {
        Precision::F32 => String::new(),
        precision => format!(", in {}", precision.name()),
    }
}

/// The noise generators by name.
fn generators() -> impl TypedValueParser<Value = Generator> {
    PossibleValuesParser::new(["own", "torch"]).map(|name| match name.as_str() {
        "torch" => Generator::Torch,
        _ => Generator::Own,
    })
}

/// A class by its name, or by its number where no name fits.
pub(crate) fn class_choice(asked: Option<&str>, classes: usize, names: &[String]) -> anyhow::Result<ClassChoice> {
    let Some(asked) = asked else { return Ok(ClassChoice::Any) };
    if classes == 0 {
        bail!("--class {asked}: the network was trained without classes");
    }
    match names.iter().position(|name| name == asked).or_else(|| asked.parse().ok()) {
        Some(class) if class < classes => Ok(ClassChoice::One(class)),
        _ => bail!("--class {asked}: there is no such class; there are {}", names.join(", ")),
    }
}

/// A name that says what is drawn.
fn job_name(snapshot: &Path, job: &SamplingJob, diffusion: &Diffusion) -> String {
    let snapshot = snapshot.file_stem().unwrap_or_default().to_string_lossy();
    let steps = job.steps_for(diffusion);
    let class = match job.class {
        ClassChoice::Any => String::new(),
        ClassChoice::One(class) => format!("-class{class}"),
    };
    let guided = if job.guidance.is_active() { format!("-guided{}", job.guidance.scale) } else { String::new() };
    let task = if job.task == Task::Sample { String::new() } else { format!("-{}", job.task.name()) };
    format!("{snapshot}-{}-{steps}-seed{}{class}{guided}{task}", job.sampler.name(), job.seed)
}

/// A folder of this name, or of one after it that no other job has.
fn fresh_folder(parent: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut folders = std::iter::once(name.to_string()).chain(numbered).map(|name| parent.join(name));
    folders.find(|folder| !folder.exists()).unwrap_or_else(|| parent.join(name))
}

/// Counts the steps of all batches together, so that the bar moves from the first step on.
pub(crate) fn show(bar: &ProgressBar, progress: Progress) {
    let steps = |batches: usize| (batches as u64).saturating_mul(progress.steps as u64);
    bar.set_length(steps(progress.batches));
    bar.set_position(steps(progress.batch).saturating_add(progress.steps_done as u64));
    bar.set_message(format!("{}/{} samples", progress.samples_done, progress.samples));
}
