//! `ddpm-infer sample` on a latent pipeline: from arguments to jobs, and from these to a folder of images.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::bail;
use ddpm_console::bar::progress_bar;
use ddpm_console::say;
use ddpm_data::fnv1a;
use ddpm_device::memory;
use ddpm_families::checksums;
use ddpm_families::diffusers::Tables;
use ddpm_families::latent::{LatentJob, LatentPipeline, Subject, Tiles};
use ddpm_families::snapshot::Sampling;
use ddpm_families::usual_sampling::usual_sampling;
use ddpm_files::runs::RunFolder;
use ddpm_render::Samples;
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::SamplingJob;
use ddpm_sampling::noise::{Generator, NoiseChoice};
use ddpm_sampling::samplers::Sampler;
use indicatif::ProgressBar;

use super::{SampleArgs, in_half, show};
use crate::commands::sample_prompts::{Shown, class_subject, notes, prompt_subject, weights_in, write};
use crate::commands::shards::{Parts, Shard};
use crate::commands::{init_noise, samples_folder};

/// Images of a model of many classes, of which none was chosen.
const USUAL_CLASSES: usize = 16;
/// Weights of so many bytes take a while to read.
const LARGE: u64 = 256 << 20;

/// A job at each scale of guidance, the pipeline that it is for, and where that is.
struct Plan<'a> {
    path: &'a Path,
    pipeline: LatentPipeline,
    job: LatentJob,
    /// Guidance at each scale; one at least.
    scales: Vec<Guidance>,
}

impl SampleArgs {
    /// Images of a latent pipeline.
    pub(super) fn run_pipeline(&self, path: &Path, run: Option<&RunFolder>) -> anyhow::Result<PathBuf> {
        self.refuse_for_pipelines()?;
        for changed in checksums::changed(path) {
            say!("warning: {changed}");
        }
        let open = self.snapshot.open()?;
        let bytes = weights_in(path);
        if bytes > LARGE {
            say!("{}: reading {:.1} GiB of weights", path.display(), bytes as f64 / f64::from(1 << 30));
        }
        let pipeline = self.prompts.open(path, &open.device)?.in_precision(self.snapshot.precision().on(&open.device));
        let plan = self.plan(path, pipeline)?;
        let Plan { pipeline, job, .. } = &plan;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let out = self.make_folder(run, &format!("{name}-seed{}-n{}", self.seed, job.sampling.count))?;
        for note in notes(pipeline, job) {
            say!("{note}");
        }
        say!("{}: {} on {}", path.display(), plan.summary()?, open.name);
        // An empty folder would only be in the way; one with something in it is not removed.
        let parts = self.pipeline_parts(&out, &plan).inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
        let bar = progress_bar("{bar:28} {pos}/{len} steps  {msg}  {elapsed} < {eta}", 0);
        let made = match (self.shard, parts) {
            (Some(shard), Some(parts)) => {
                let part = plan.shard(shard, &parts, &bar);
                bar.finish_and_clear();
                return part;
            }
            (_, Some(parts)) => plan.joined(&parts, &bar),
            (_, None) => plan.at_all_scales(&bar),
        };
        bar.finish_and_clear();
        let images = made.inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
        if self.overwrite {
            samples_folder::clear(&out)?;
        }
        let scales: Vec<f64> = plan.scales.iter().map(|guidance| guidance.scale).collect();
        let shown = Shown { subject: &job.subject, names: pipeline.class_names(), grid: job.grid, scales: &scales };
        write(&out, &shown, images)?;
        Ok(out)
    }

    fn refuse_for_pipelines(&self) -> anyhow::Result<()> {
        if self.guiding.guide.is_some() {
            bail!(
                "--guide is not for latent pipelines: what guidance leads away from is --negative, or the empty prompt"
            );
        }
        if let Some(option) = self.latents.given().first() {
            bail!("{option} is not for latent pipelines");
        }
        if self.shard.is_some() && self.guidance.len() > 1 {
            bail!("--shard is for one scale of --guidance");
        }
        Ok(())
    }

    /// What is drawn, with what is usual for the pipeline where nothing was chosen.
    fn plan<'a>(&self, path: &'a Path, mut pipeline: LatentPipeline) -> anyhow::Result<Plan<'a>> {
        let subject = self.subject(&pipeline)?;
        let usual_scale = self.usual_scale(&pipeline, path)?;
        let mut job = self.sampled(&pipeline, path, subject)?;
        job.size = self.prompts.size().unwrap_or(job.size);
        job.clip_skip = self.prompts.clip_skip();
        job.grid = self.task.grid();
        job.given = self.task.given_images([pipeline.image_channels(), job.size[0], job.size[1]])?;
        let starts = self.starts(&pipeline, &job)?;
        job.sampling.count = self.count_of(&pipeline, &job, starts.as_deref());
        job.sampling.noise = NoiseChoice { generator: self.noise_compat, start: starts, ..NoiseChoice::default() };
        pipeline.tiles = self.tiles(&pipeline, &job)?;
        let usual = &job.sampling.guidance;
        let at = |scale: f64| Guidance { scale, rescaled: usual.rescaled, ..self.guiding.at(scale) };
        let scales = match &self.guidance[..] {
            [] => vec![at(usual_scale.unwrap_or(usual.scale))],
            scales => scales.iter().map(|scale| at(*scale)).collect(),
        };
        Ok(Plan { path, pipeline, job, scales })
    }

    fn subject(&self, pipeline: &LatentPipeline) -> anyhow::Result<Subject> {
        let prompts = self.prompts.all()?;
        match (&pipeline.text, pipeline.classes(), prompts) {
            (Some(_), _, prompts) => prompt_subject(pipeline, prompts, self.prompts.negative(), self.class.as_deref()),
            (None, Some(classes), None) => class_subject(pipeline, self.class.as_deref(), classes),
            (None, Some(classes), Some(_)) => bail!(
                "a {} was made without text; it makes images of the classes 0 to {}: pass --class",
                pipeline.class,
                classes - 1
            ),
            (None, None, None) if self.class.is_none() => Ok(Subject::Anything),
            (None, None, _) => bail!("a {} makes images of its data, not of prompts or classes", pipeline.class),
        }
    }

    /// A job with the scheduler in the folder, or with the sampler that was chosen; our own snapshots are sampled as their
    /// previews are.
    fn sampled(&self, pipeline: &LatentPipeline, path: &Path, subject: Subject) -> anyhow::Result<LatentJob> {
        let diffusion = pipeline.diffusion()?;
        let options = self.options.all(&diffusion);
        let usual = self.usual(pipeline, path)?;
        let name = self.sampler.clone().or_else(|| usual.as_ref().map(|usual| usual.sampler.clone()));
        let sampler = name.map(|name| Sampler::new(&name, options.clone())).transpose()?;
        let tables = match self.noise_compat {
            Generator::Own => Tables::Exact,
            Generator::Torch => Tables::Peer,
        };
        let Some(sampler) = sampler else {
            if let Some(option) = options.given.keys().find(|option| **option != "eta") {
                bail!("--{option} needs --sampler: the scheduler in the folder has no such option");
            }
            if self.levels.are_given() {
                bail!(
                    "--levels, --sigma-min and --sigma-max need --sampler: the scheduler in the folder has levels of its own"
                );
            }
            let eta = options.given.get("eta").copied().unwrap_or(0.0);
            return Ok(self.counted(pipeline.job_by(subject, self.steps, eta, tables)?));
        };
        // The scheduler of the folder is replaced, so its own limits on steps do not count.
        let job = pipeline.job_by(subject, None, 0.0, tables)?;
        let levels = self.levels.of(sampler, &diffusion)?;
        let usual_steps = usual.filter(|_| self.sampler.is_none() && levels.own_steps().is_none());
        let steps = self.steps.or(usual_steps.map(|usual| usual.steps));
        let sampling = SamplingJob { sampler, steps, levels, plan: None, ..job.sampling };
        Ok(self.counted(LatentJob { sampling, ..job }))
    }

    /// With the seed, and the batches.
    fn counted(&self, job: LatentJob) -> LatentJob {
        let batch_size = self.batch_size.unwrap_or(job.sampling.batch_size);
        LatentJob { sampling: SamplingJob { seed: self.seed, batch_size, ..job.sampling }, ..job }
    }

    /// How a snapshot of ours is sampled, unless it is to be sampled as diffusers does.
    fn usual(&self, pipeline: &LatentPipeline, path: &Path) -> anyhow::Result<Option<Sampling>> {
        match &pipeline.own {
            Some(own) if self.noise_compat == Generator::Own => {
                Ok(Some(usual_sampling(own, path, &pipeline.diffusion()?)))
            }
            _ => Ok(None),
        }
    }

    /// The scale of guidance of a snapshot of ours.
    fn usual_scale(&self, pipeline: &LatentPipeline, path: &Path) -> anyhow::Result<Option<f64>> {
        let usual = self.usual(pipeline, path)?.filter(|_| self.sampler.is_none());
        Ok(usual.map(|usual| usual.guidance.unwrap_or(1.0)))
    }

    /// The noise of the latents that was given.
    fn starts(&self, pipeline: &LatentPipeline, job: &LatentJob) -> anyhow::Result<Option<Vec<f32>>> {
        let Some(file) = &self.init_noise else {
            if self.noise_compat == Generator::Torch && (job.given.is_some() || job.grid.is_some()) {
                bail!(
                    "--noise-compat torch is for images out of noise; with given images pass the noise as --init-noise"
                );
            }
            return Ok(None);
        };
        if job.grid.is_some() {
            bail!("--init-noise is not for a grid of prompts, whose columns share their noise");
        }
        let latent = job.size.map(|side| side / pipeline.first_stage.factor());
        init_noise::read(file, &[pipeline.latent_channels(), latent[0], latent[1]]).map(Some)
    }

    /// How many samples there are to be.
    fn count_of(&self, pipeline: &LatentPipeline, job: &LatentJob, starts: Option<&[f32]>) -> usize {
        let [height, width] = job.size;
        let pixels = (height * width).max(1);
        match (job.grid, self.count, starts, &job.given) {
            (Some(each), ..) => each.saturating_mul(job.subject.count()),
            (None, Some(count), ..) => count,
            (None, None, Some(starts), _) => {
                let factor = pipeline.first_stage.factor();
                starts.len() / (pipeline.latent_channels() * pixels / (factor * factor)).max(1)
            }
            (None, None, None, Some(given)) => {
                let images = given.images.len() / (pipeline.image_channels() * pixels);
                job.sampling.count.max(images)
            }
            (None, None, None, None) if matches!(job.subject, Subject::Classes(_)) => {
                job.sampling.count.min(USUAL_CLASSES)
            }
            (None, None, None, None) => job.sampling.count,
        }
    }

    /// Tiles of the size that was chosen, or of the usual size where a whole image would not fit into memory.
    fn tiles(&self, pipeline: &LatentPipeline, job: &LatentJob) -> anyhow::Result<Option<Tiles>> {
        let factor = pipeline.first_stage.factor();
        if let Some(side) = self.prompts.tile() {
            let tiles = Tiles::new(side, factor);
            let expected = || anyhow::anyhow!("--tile {side}: expected a multiple of {}, such as 512", 4 * factor);
            return Ok(Some(tiles.ok_or_else(expected)?));
        }
        let pixels = job.size[0].saturating_mul(job.size[1]);
        match memory::check(1, pipeline.first_stage.bytes_to_decode(pixels)) {
            Ok(()) => Ok(None),
            Err(reason) => {
                say!("note: to decode a whole image {reason}; it is decoded in tiles, as with --tile {}", Tiles::USUAL);
                Ok(Tiles::new(Tiles::USUAL, factor))
            }
        }
    }

    /// The parts of the samples that are kept in `out`: those that it is to have, or those that it has.
    fn pipeline_parts(&self, out: &Path, plan: &Plan<'_>) -> anyhow::Result<Option<Parts>> {
        if self.shard.is_none() && !Parts::are_in(out) {
            return Ok(None);
        }
        let Plan { path, pipeline, job, scales } = plan;
        let given = job.given.as_ref().map(|given| {
            let bytes = given.images.iter().flat_map(|value| value.to_le_bytes());
            (fnv1a(bytes), &given.mask, given.strength)
        });
        // All that a sample depends on besides its number.
        let sampling = SamplingJob { batch_size: 0, ..job.sampling.clone() };
        let of_job = LatentJob { given: None, sampling, ..job.clone() };
        let precision = in_half(&pipeline.network);
        let choices = format!("{of_job:?}, {given:?}, {scales:?}, {:?}{precision}, {:?}", self.prompts, pipeline.tiles);
        let about = format!(
            "{} images of {} with seed {}, choices {:016x}",
            job.sampling.count,
            path.display(),
            job.sampling.seed,
            fnv1a(choices.bytes())
        );
        let shape = [pipeline.image_channels(), job.size[0], job.size[1]];
        Ok(Some(Parts::open(out, &shape, &about)?))
    }
}

impl Plan<'_> {
    /// What is about to happen.
    fn summary(&self) -> anyhow::Result<String> {
        let Self { pipeline, job, scales, .. } = self;
        let steps = job.sampling.steps_for(&pipeline.diffusion()?);
        let (count, sampler, [height, width]) = (job.sampling.count, job.sampling.sampler.name(), job.size);
        let images = if count == 1 { "image" } else { "images" };
        let precision = in_half(&pipeline.network);
        let scales = if scales.len() > 1 { format!(", at {} scales of guidance", scales.len()) } else { String::new() };
        Ok(format!("{count} {images} of {height}x{width} by {sampler} in {steps} steps{scales}{precision}"))
    }

    /// Some of the images, at one scale.
    fn images(&self, guidance: Guidance, part: Range<usize>, bar: &ProgressBar) -> anyhow::Result<Samples> {
        let sampling = SamplingJob { guidance, ..self.job.sampling.clone() };
        let job = LatentJob { sampling, ..self.job.clone() };
        let network = &self.pipeline.network;
        Ok(job.run_part(&self.pipeline, network, part, &mut |progress| show(bar, progress))?.images)
    }

    /// All images, each once at every scale, one after the other.
    fn at_all_scales(&self, bar: &ProgressBar) -> anyhow::Result<Samples> {
        let all = 0..self.job.sampling.count;
        let at = |guidance: &Guidance| self.images(*guidance, all.clone(), bar);
        let mut made = self.scales.iter().map(at).collect::<anyhow::Result<Vec<_>>>()?;
        if made.len() == 1 {
            return Ok(made.remove(0));
        }
        let (shape, columns) = (made[0].shape.clone(), made[0].row.unwrap_or(1) * made.len());
        let size: usize = shape.iter().product();
        let of_sample = |k: usize| made.iter().flat_map(move |made| &made.values[k * size..(k + 1) * size]);
        let values: Vec<f32> = all.flat_map(of_sample).copied().collect();
        let labels = vec![None; values.len() / size];
        Ok(Samples { values, shape, labels, row: Some(columns), ..Samples::default() })
    }

    /// The images of one process, as a file among the parts.
    fn shard(&self, shard: Shard, parts: &Parts, bar: &ProgressBar) -> anyhow::Result<PathBuf> {
        let count = self.job.sampling.count;
        let part = shard.range(count);
        let images = self.images(self.scales[0], part.clone(), bar)?;
        say!("shard {}/{}: {} of {count} images", shard.number, shard.of, part.len());
        Ok(parts.write(&part, &images.values)?)
    }

    /// All images, of which only those that no part has are drawn.
    fn joined(&self, parts: &Parts, bar: &ProgressBar) -> anyhow::Result<Samples> {
        let count = self.job.sampling.count;
        let draw = |part| Ok::<_, anyhow::Error>(self.images(self.scales[0], part, bar)?.values);
        let values = parts.join(count, draw)?;
        let shape = vec![self.pipeline.image_channels(), self.job.size[0], self.job.size[1]];
        Ok(Samples { values, shape, labels: vec![None; count], row: self.job.grid, ..Samples::default() })
    }
}
