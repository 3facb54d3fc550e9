//! Which task: the words of the command line for what starts from pictures, and for rows of noises and classes.

use std::convert::Infallible;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_data::{Fit, Split, read_pictures};
use ddpm_families::snapshot::SnapshotConfig;
use ddpm_sampling::tasks::{Inpainting, Task};

/// At most one task, and what belongs to it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Tasks")]
pub struct TaskArgs {
    /// So many samples of every class, one row a class; a column shares its noise.
    #[arg(long, value_name = "N", group = "task", conflicts_with_all = ["count", "class"],
        value_parser = at_least::<1, usize>)]
    class_grid: Option<usize>,
    /// Rows of so many samples on the way from one noise to another (slerp), by ddim unless another sampler is named.
    #[arg(long, value_name = "N", group = "task", value_parser = at_least::<2, usize>)]
    interpolate: Option<usize>,
    /// Samples that resemble pictures (SDEdit): a file, all files of a folder, or data:3 or data:0..8 for items of the
    /// test split that the model was trained beside; one sample for each, or --count.
    #[arg(long, value_name = "PICTURES", group = "task")]
    from_image: Option<Pictures>,
    /// Share of the steps that is walked from the picture, above 0 and up to 1: the more, the less it resembles.
    #[arg(long, value_name = "S", requires = "from_image", default_value_t = 0.6)]
    strength: f64,
    /// Pictures of which the part under --mask is made anew; PICTURES as above.
    #[arg(long, value_name = "PICTURES", group = "task", requires = "mask")]
    inpaint: Option<Pictures>,
    /// What is made anew: left, right, top or bottom half, center, or the white part of a picture.
    #[arg(long, value_name = "PART|FILE", requires = "inpaint")]
    mask: Option<String>,
    /// Walks every stretch of steps several times, so that the new part fits the old one better (RePaint).
    #[arg(long, requires = "inpaint")]
    repaint: bool,
    /// Steps of a stretch.
    #[arg(long, value_name = "N", requires = "repaint", default_value_t = Inpainting::REPAINT.jump,
        value_parser = at_least::<1, usize>)]
    jump: usize,
    /// How often each stretch is walked.
    #[arg(long, value_name = "N", requires = "repaint", default_value_t = Inpainting::REPAINT.resamples,
        value_parser = at_least::<1, usize>)]
    resamples: usize,
    /// The noise of pictures by ddim backwards (noise.npy), and what ddim makes of it again; PICTURES as above.
    #[arg(long, value_name = "PICTURES", group = "task")]
    invert: Option<Pictures>,
    /// Scales, cuts and greys pictures that are not as the network's; otherwise they are refused.
    #[arg(long)]
    fit: bool,
}

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq)]
enum Pictures {
    /// A file, or all files of a folder.
    Path(PathBuf),
    /// Items of the test split.
    Data(Range<usize>),
}

impl FromStr for Pictures {
    type Err = Infallible;

    fn from_str(words: &str) -> Result<Self, Infallible> {
        let range = words.strip_prefix("data:").and_then(|items| match items.split_once("..") {
            Some((start, end)) => Some(start.parse().ok()?..end.parse().ok()?),
            None => items.parse().ok().map(|item: usize| item..item + 1),
        });
        Ok(range.map_or_else(|| Self::Path(words.into()), Self::Data))
    }
}

impl TaskArgs {
    /// The task, with its pictures read, for the model of a snapshot.
    pub fn choose(&self, model: &SnapshotConfig) -> anyhow::Result<Task> {
        let given =
            |pictures: &Pictures, word: &str| self.read(pictures, model).with_context(|| format!("{word} {pictures}"));
        let task = if let Some(per_class) = self.class_grid {
            Task::ClassGrid { per_class }
        } else if let Some(row) = self.interpolate {
            Task::Interpolate { row }
        } else if let Some(pictures) = &self.from_image {
            Task::Resemble { given: given(pictures, "--from-image")?, strength: self.strength }
        } else if let (Some(pictures), Some(mask)) = (&self.inpaint, &self.mask) {
            let given = given(pictures, "--inpaint")?;
            let known = self.known(mask, &model.data.shape).with_context(|| format!("--mask {mask}"))?;
            let plan = match self.repaint {
                true => Inpainting { jump: self.jump, resamples: self.resamples },
                false => Inpainting::REPLACEMENT,
            };
            Task::Inpaint { given, known, plan }
        } else if let Some(pictures) = &self.invert {
            Task::Invert { given: given(pictures, "--invert")? }
        } else {
            Task::Sample
        };
        if self.fit && task.given().is_empty() {
            bail!("--fit is about pictures that are given: it goes with --from-image, --inpaint or --invert");
        }
        Ok(task)
    }

    fn read(&self, pictures: &Pictures, model: &SnapshotConfig) -> anyhow::Result<Vec<f32>> {
        let shape = &model.data.shape;
        if shape.len() != 3 {
            bail!("the network was trained on {}, items of shape {shape:?}, and not on pictures", model.data.name);
        }
        match pictures {
            Pictures::Path(path) => Ok(read_pictures(path, shape, self.fit())?.concat()),
            Pictures::Data(range) => {
                let Some(source) = &model.source else {
                    bail!("the snapshot does not say what data it was trained on: give the pictures by their path");
                };
                let data = ddpm_data::open(source, Split::Test, 0)?;
                let count = data.items.len();
                if range.is_empty() || range.end > count {
                    bail!("expected items out of the {count} of {}, such as data:0 or data:0..8", data.info.name);
                }
                if data.info.shape != *shape {
                    bail!("{} has items of shape {:?}; expected {shape:?}", data.info.name, data.info.shape);
                }
                let items = range.clone().map(|k| Ok(data.items.get(k)?.values)).collect::<anyhow::Result<Vec<_>>>()?;
                Ok(items.concat())
            }
        }
    }

    /// Which values of an item stay.
    fn known(&self, mask: &str, shape: &[usize]) -> anyhow::Result<Vec<bool>> {
        let [channels, height, width] = *shape else { bail!("the network is not one of pictures") };
        let is_new: Box<dyn Fn(usize, usize) -> bool> = match mask {
            "left" => Box::new(|_, x| x < width / 2),
            "right" => Box::new(|_, x| x >= width / 2),
            "top" => Box::new(|y, _| y < height / 2),
            "bottom" => Box::new(|y, _| y >= height / 2),
            "center" => Box::new(|y, x| is_central(y, height) && is_central(x, width)),
            file if !Path::new(file).exists() => {
                bail!("there is no such file; the parts with a name are left, right, top, bottom and center")
            }
            file => {
                let picture = read_pictures(Path::new(file), &[1, height, width], self.fit())?.concat();
                // Halfway between black and white is 0.
                Box::new(move |y, x| picture[y * width + x] > 0.0)
            }
        };
        let pixels: Vec<bool> = (0..height * width).map(|i| !is_new(i / width, i % width)).collect();
        Ok(pixels.repeat(channels))
    }

    fn fit(&self) -> Fit {
        if self.fit { Fit::Converted } else { Fit::Refused }
    }
}

impl std::fmt::Display for Pictures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Data(range) => write!(f, "data:{}..{}", range.start, range.end),
        }
    }
}

/// Whether a place lies in the middle half of a length.
fn is_central(place: usize, length: usize) -> bool {
    (length / 4..length - length / 4).contains(&place)
}
