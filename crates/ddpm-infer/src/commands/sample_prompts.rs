//! The arguments of `ddpm-infer sample` about prompts, and the files of images with captions.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use burn::tensor::Device;
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_families::latent::{LatentError, LatentJob, LatentPipeline, Subject, is_latent_pipeline};
use ddpm_families::snapshot::SnapshotError;
use ddpm_render::Samples;
use ddpm_sampling::job::ClassChoice;
use ddpm_weights::lora::Lora;

/// The captions below the images.
pub(crate) const CAPTIONS: &str = "captions.png";
/// Prompts that have a column each in a grid, at most.
const MOST_COLUMNS: usize = 12;
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
    /// Decode and encode images in tiles of so many pixels along each side, which overlap and are blended: slower, in less memory,
    /// and not quite the same image. Default: whole images, unless they do not fit into memory.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>)]
    tile: Option<usize>,
    /// For a single file of Stable Diffusion in --from (.ckpt or .safetensors): a pipeline folder with what the file does not
    /// have, the descriptions of the networks, the tokenizer and the scheduler. For the versions 1 and 2 a folder with the
    /// tokenizer is enough: the networks follow from the shapes of their weights.
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
            ("--tile", self.tile.is_some()),
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
            say!("{}: {changed} layers changed, with weight {weight}", lora.path().display());
        }
        Ok(pipeline)
    }

    /// Height and width, if they were given.
    pub(crate) fn size(&self) -> Option<[usize; 2]> {
        self.size.map(|size| size.0)
    }

    /// Layers of the text encoder that are left out.
    pub(crate) fn clip_skip(&self) -> usize {
        self.clip_skip
    }

    /// The side of a tile, if it was given.
    pub(crate) fn tile(&self) -> Option<usize> {
        self.tile
    }

    /// What guidance leads away from, if it was given.
    pub(crate) fn negative(&self) -> Option<String> {
        self.negative.clone()
    }

    /// The prompts, in their order; nothing where none were given.
    pub(crate) fn all(&self) -> anyhow::Result<Option<Vec<String>>> {
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

/// Images of prompts, which must be there.
pub(crate) fn prompt_subject(
    pipeline: &LatentPipeline,
    prompts: Option<Vec<String>>,
    negative: Option<String>,
    class: Option<&str>,
) -> anyhow::Result<Subject> {
    let class_of = &pipeline.class;
    match (prompts, class) {
        (Some(prompts), None) => Ok(Subject::Prompts { prompts, negative }),
        (Some(_), Some(_)) => bail!("--class: a {class_of} makes images of prompts, not of classes: pass --prompt"),
        (None, _) => {
            bail!("a {class_of} makes images of prompts: pass --prompt TEXT (which may be empty) or --prompts FILE")
        }
    }
}

/// Images of one class, or of all.
pub(crate) fn class_subject(pipeline: &LatentPipeline, class: Option<&str>, classes: usize) -> anyhow::Result<Subject> {
    let chosen = ClassChoice::named(class, classes, pipeline.class_names()).map_err(super::sample::of_option)?;
    Ok(Subject::Classes(match chosen {
        ClassChoice::One(class) => vec![class],
        _ => (0..classes).collect(),
    }))
}

/// The bytes of the weights in a folder and in those of its parts, or of a file.
pub(crate) fn weights_in(path: &Path) -> u64 {
    let is_weights =
        |path: &Path| path.extension().is_some_and(|extension| extension == "safetensors" || extension == "bin");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |about| about.len());
    if path.is_file() {
        return size(path);
    }
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let parts = entries(path);
    let files = parts.iter().filter(|part| part.is_dir()).flat_map(|part| entries(part)).chain(parts.clone());
    files.filter(|file| is_weights(file)).map(|file| size(&file)).sum()
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

/// What images show, for their captions.
pub(crate) struct Shown<'a> {
    pub(crate) subject: &'a Subject,
    /// The names of the classes, where they are known.
    pub(crate) names: &'a [String],
    /// Images of each prompt one after the other, if they are not in turn.
    pub(crate) grid: Option<usize>,
    /// The scales of guidance, at each of which every image is.
    pub(crate) scales: &'a [f64],
}

impl Shown<'_> {
    /// What image `k` shows.
    fn caption(&self, k: usize) -> String {
        let (sample, scale) = (k / self.scales.len(), self.scales[k % self.scales.len()]);
        let subjects = self.subject.count();
        let which = self.grid.map_or(sample, |each| sample / each.max(1)) % subjects.max(1);
        let caption = match self.subject {
            Subject::Prompts { prompts, .. } => prompts[which].clone(),
            Subject::Classes(classes) => {
                let class = classes[which];
                self.names.get(class).cloned().unwrap_or_else(|| class.to_string())
            }
            Subject::Anything => String::new(),
        };
        match self.scales {
            [_] => caption,
            _ => format!("guidance {scale}: {caption}"),
        }
    }

    /// The images in a row of the grid: every prompt has a column of its own, where that is no row of one.
    fn columns(&self, count: usize) -> Option<usize> {
        let subjects = self.subject.count();
        ((2..=MOST_COLUMNS).contains(&subjects) && count > subjects && count.is_multiple_of(subjects))
            .then_some(subjects)
    }
}

/// Writes the images, and captions below them where there are prompts, classes or scales of guidance.
pub(crate) fn write(folder: &Path, shown: &Shown<'_>, images: Samples) -> anyhow::Result<()> {
    let count = images.count();
    let images = Samples { row: images.row.or_else(|| shown.columns(count)), ..images };
    ddpm_render::write(folder, &images, None)?;
    if *shown.subject == Subject::Anything && shown.scales.len() == 1 {
        return Ok(());
    }
    let captions: Vec<String> = (0..count).map(|k| shown.caption(k)).collect();
    Ok(ddpm_render::write_captioned(&folder.join(CAPTIONS), &images, &captions)?)
}
