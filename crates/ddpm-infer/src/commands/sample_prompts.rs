//! `ddpm-infer sample` on a latent pipeline: prompts or classes to images.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use burn::tensor::Device;
use clap::Args;
use ddpm_families::latent::{LatentError, LatentJob, LatentPipeline, LatentSamples, Subject, is_latent_pipeline};
use ddpm_families::snapshot::SnapshotError;
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::{ClassChoice, SamplingJob};
use ddpm_sampling::samplers::Sampler;
use ddpm_weights::lora::Lora;

/// The captions below the images.
pub(crate) const CAPTIONS: &str = "captions.png";
/// Images of a model of many classes, of which none was chosen.
const USUAL_CLASSES: usize = 16;
/// No file of prompts comes near this.
const LARGEST_FILE: u64 = 256 << 20;

/// Arguments about what images of a text-to-image model show.
#[derive(Args, Debug)]
#[command(next_help_heading = "Prompts (text-to-image models)")]
pub(crate) struct PromptArgs {
    /// What the images show; several times: sample k shows prompt k in turn.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompts")]
    prompt: Vec<String>,
    /// A file with a prompt on each line; one image a line, in its order, or --count.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// What guidance leads away from; default: the empty prompt.
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// Factors of LoRA, added to the weights times WEIGHT (1 if it is not given): a file, or a folder that diffusers saved. Can
    /// be given several times.
    #[arg(long, value_name = "PATH[:WEIGHT]")]
    lora: Vec<LoraChoice>,
    /// Layers of the text encoder to leave out at its end (clip skip).
    #[arg(long, value_name = "N", default_value_t = 0)]
    clip_skip: usize,
    /// Height and width of the images in pixels, such as 512x768; default: what the model was made for.
    #[arg(long, value_name = "HxW")]
    size: Option<ImageSize>,
    /// For a single file of Stable Diffusion 1 in --from (.ckpt or .safetensors): a pipeline folder with what the file does
    /// not have, the descriptions of the networks, the tokenizer and the scheduler.
    #[arg(long, value_name = "DIR", requires = "from")]
    config: Option<PathBuf>,
    /// The averaged weights (EMA) of a single file.
    #[arg(long, requires = "config")]
    ema: bool,
}

/// Height and width.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ImageSize([usize; 2]);

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x').and_then(|(height, width)| Some([height.parse().ok()?, width.parse().ok()?]));
        sides.map(Self).ok_or_else(|| "expected height and width in pixels, such as 512x768".into())
    }
}

/// A file of LoRA, and its weight.
#[derive(Clone, Debug, PartialEq)]
struct LoraChoice {
    path: PathBuf,
    weight: f64,
}

impl FromStr for LoraChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path may have a colon of its own.
        let weight = text.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        match weight {
            Some((_, weight)) if !weight.is_finite() => Err("expected a finite weight".into()),
            Some((path, weight)) => Ok(Self { path: path.into(), weight }),
            None => Ok(Self { path: text.into(), weight: 1.0 }),
        }
    }
}

impl PromptArgs {
    /// The options that were given.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let given = [
            ("--prompt", !self.prompt.is_empty()),
            ("--prompts", self.prompts.is_some()),
            ("--negative", self.negative.is_some()),
            ("--lora", !self.lora.is_empty()),
            ("--clip-skip", self.clip_skip > 0),
            ("--size", self.size.is_some()),
            ("--config", self.config.is_some()),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
    }

    /// Whether this is a model for these arguments.
    pub(crate) fn are_for(&self, path: &Path) -> bool {
        self.config.is_some() || is_latent_pipeline(path)
    }

    /// Reads a pipeline, or a single file with the rest from its folder.
    pub(crate) fn open(&self, path: &Path, device: &Device) -> Result<LatentPipeline, LatentError> {
        let mut pipeline = match &self.config {
            Some(folder) => LatentPipeline::open_single_file(path, folder, self.ema, device)?,
            None => LatentPipeline::open(path, device)?,
        };
        for LoraChoice { path, weight } in &self.lora {
            let lora = Lora::open(path).map_err(SnapshotError::from)?;
            let changed = pipeline.merge_lora(&lora, *weight)?;
            eprintln!("{}: {changed} layers changed, with weight {weight}", lora.path().display());
        }
        Ok(pipeline)
    }

    /// The prompts, in their order; nothing where none were given.
    fn all(&self) -> anyhow::Result<Option<Vec<String>>> {
        let Some(file) = &self.prompts else {
            return Ok((!self.prompt.is_empty()).then(|| self.prompt.clone()));
        };
        let size = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
        if size > LARGEST_FILE {
            bail!("{}: {size} bytes are too many; expected a prompt on each line", file.display());
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let prompts: Vec<String> = text.lines().map(String::from).collect();
        if prompts.is_empty() {
            bail!("{}: the file is empty; expected a prompt on each line", file.display());
        }
        Ok(Some(prompts))
    }
}

/// What else the arguments say.
pub(crate) struct Choices<'a> {
    pub(crate) prompts: &'a PromptArgs,
    pub(crate) class: Option<&'a str>,
    pub(crate) count: Option<usize>,
    pub(crate) seed: u64,
    pub(crate) batch_size: Option<usize>,
    /// The sampler, in place of the scheduler in the folder.
    pub(crate) sampler: Option<Sampler>,
    pub(crate) steps: Option<usize>,
    /// Share of noise in DDIM.
    pub(crate) eta: f64,
    /// Guidance, where its scale was given, and what else of it was.
    pub(crate) scale: Option<f64>,
    pub(crate) guidance: Guidance,
}

impl Choices<'_> {
    /// The job, with what is usual for the pipeline where nothing was chosen.
    pub(crate) fn job(&self, pipeline: &LatentPipeline) -> anyhow::Result<LatentJob> {
        let subject = self.subject(pipeline)?;
        let most = if matches!(subject, Subject::Classes(_)) { USUAL_CLASSES } else { usize::MAX };
        let (steps, of_sampler) = match self.sampler {
            None => (self.steps, None),
            // The scheduler of the folder is replaced, so its own limits on steps do not count.
            Some(_) => (None, self.steps),
        };
        let job = pipeline.job(subject, steps, self.eta)?;
        let usual = &job.sampling;
        let scale = self.scale.unwrap_or(usual.guidance.scale);
        let guidance = Guidance { scale, rescaled: usual.guidance.rescaled, ..self.guidance };
        let mut sampling = SamplingJob {
            count: self.count.unwrap_or(usual.count.min(most)),
            seed: self.seed,
            batch_size: self.batch_size.unwrap_or(usual.batch_size),
            guidance,
            ..usual.clone()
        };
        if let Some(sampler) = self.sampler {
            let diffusion = pipeline.scheduler.diffusion.init()?;
            let levels = sampler.usual_levels(&diffusion);
            sampling = SamplingJob { sampler, steps: of_sampler, levels, plan: None, ..sampling };
        }
        let size = self.prompts.size.map_or(job.size, |size| size.0);
        Ok(LatentJob { size, clip_skip: self.prompts.clip_skip, sampling, ..job })
    }

    fn subject(&self, pipeline: &LatentPipeline) -> anyhow::Result<Subject> {
        let prompts = self.prompts.all()?;
        match (&pipeline.text, pipeline.classes(), prompts) {
            (Some(_), _, Some(prompts)) => {
                if self.class.is_some() {
                    bail!("--class: a {} makes images of prompts, not of classes: pass --prompt", pipeline.class);
                }
                Ok(Subject::Prompts { prompts, negative: self.prompts.negative.clone() })
            }
            (Some(_), _, None) => bail!(
                "a {} makes images of prompts: pass --prompt TEXT (which may be empty) or --prompts FILE",
                pipeline.class
            ),
            (None, Some((classes, _)), None) => Ok(Subject::Classes(
                match ClassChoice::named(self.class, classes, &[]).map_err(super::sample::of_option)? {
                    ClassChoice::One(class) => vec![class],
                    _ => (0..classes).collect(),
                },
            )),
            (None, Some((classes, _)), Some(_)) => bail!(
                "a {} was made without text; it makes images of the classes 0 to {}: pass --class",
                pipeline.class,
                classes - 1
            ),
            (None, None, None) if self.class.is_none() => Ok(Subject::Anything),
            (None, None, _) => bail!("a {} makes images of its data, not of prompts or classes", pipeline.class),
        }
    }
}

/// Notes about prompts that are too long for the text encoder.
pub(crate) fn notes(pipeline: &LatentPipeline, job: &LatentJob) -> Vec<String> {
    let (Some(text), Subject::Prompts { prompts, negative }) = (&pipeline.text, &job.subject) else {
        return Vec::new();
    };
    let note = |prompt: &String| {
        let dropped = text.dropped(prompt);
        let start: String = prompt.chars().take(40).collect();
        (dropped > 0).then(|| format!("note: the last {dropped} tokens of the prompt {start:?}... have no room"))
    };
    prompts.iter().chain(negative).filter_map(note).collect()
}

/// What is about to happen.
pub(crate) fn summary(pipeline: &LatentPipeline, job: &LatentJob) -> anyhow::Result<String> {
    let steps = job.sampling.steps_for(&pipeline.scheduler.diffusion.init()?);
    let (count, sampler, [height, width]) = (job.sampling.count, job.sampling.sampler.name(), job.size);
    let images = if count == 1 { "image" } else { "images" };
    let precision = super::sample::in_half(&pipeline.network);
    Ok(format!("{count} {images} of {height}x{width} by {sampler} in {steps} steps{precision}"))
}

/// Writes the images, and captions below them where there are prompts or classes.
pub(crate) fn write(folder: &Path, job: &LatentJob, samples: &LatentSamples) -> anyhow::Result<()> {
    ddpm_render::write(folder, &samples.images, None)?;
    let count = samples.images.count();
    let captions: Vec<String> = match &job.subject {
        Subject::Prompts { prompts, .. } => prompts.iter().cycle().take(count).cloned().collect(),
        Subject::Classes(classes) => classes.iter().cycle().take(count).map(ToString::to_string).collect(),
        Subject::Anything => return Ok(()),
    };
    Ok(ddpm_render::write_captioned(&folder.join(CAPTIONS), &samples.images, &captions)?)
}
