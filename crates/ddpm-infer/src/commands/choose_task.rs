//! The task arguments of the command line: what starts from images, and grids over noise and classes.

use std::convert::Infallible;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_data::{Fit, Split, read_pictures};
use ddpm_families::latent::GivenImages;
use ddpm_families::snapshot::SnapshotConfig;
use ddpm_sampling::tasks::{Inpainting, Task};

/// At most one task, and what belongs to it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Tasks")]
pub struct TaskArgs {
    /// So many samples of every class or prompt, one row a class or prompt; a column shares its noise.
    #[arg(long, visible_alias = "prompt-grid", value_name = "N", group = "task", conflicts_with_all = ["count", "class"],
        value_parser = at_least::<1, usize>)]
    class_grid: Option<usize>,
    /// Interpolation: rows of so many samples from one noise to another (slerp), by ddim unless another sampler is named.
    #[arg(long, value_name = "N", group = "task", value_parser = at_least::<2, usize>)]
    interpolate: Option<usize>,
    /// Image to image (SDEdit): a file, all files of a folder, or data:3 or data:0..8 for items of the
    /// test split of the training data; one sample for each, or --count.
    #[arg(long, value_name = "IMAGES", group = "task")]
    from_image: Option<Images>,
    /// Strength of the noise put on the image, as a share of the steps, above 0 and up to 1.
    #[arg(long, value_name = "S", requires = "from_image", default_value_t = 0.6)]
    strength: f64,
    /// Inpainting: images of which the part under --mask is generated; IMAGES as above.
    #[arg(long, value_name = "IMAGES", group = "task", requires = "mask")]
    inpaint: Option<Images>,
    /// The part to generate: left, right, top or bottom half, center, or the white part of an image.
    #[arg(long, value_name = "PART|FILE", requires = "inpaint")]
    mask: Option<String>,
    /// RePaint: repeat every stretch of steps several times, so that the new part fits the old one better.
    #[arg(long, requires = "inpaint")]
    repaint: bool,
    /// Steps of a stretch.
    #[arg(long, value_name = "N", requires = "repaint", default_value_t = Inpainting::REPAINT.jump,
        value_parser = at_least::<1, usize>)]
    jump: usize,
    /// How often each stretch is sampled.
    #[arg(long, value_name = "N", requires = "repaint", default_value_t = Inpainting::REPAINT.resamples,
        value_parser = at_least::<1, usize>)]
    resamples: usize,
    /// DDIM inversion: the noise of images (noise.npy), and what ddim makes of it again; IMAGES as above.
    #[arg(long, value_name = "IMAGES", group = "task")]
    invert: Option<Images>,
    /// Scale, crop and convert images to the shape of the network; without it, others are refused.
    #[arg(long)]
    fit: bool,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq)]
enum Images {
    /// A file, or all files of a folder.
    Path(PathBuf),
    /// Items of the test split.
    Data(Range<usize>),
}

impl FromStr for Images {
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
    /// Samples in a row of an interpolation, if there is to be one.
    pub fn row(&self) -> Option<usize> {
        self.interpolate
    }

    /// Samples of every class or prompt, if there is to be a grid of them.
    pub(crate) fn grid(&self) -> Option<usize> {
        self.class_grid
    }

    /// The option of a task that is about denoising, if there is one.
    pub fn option_of_denoising(&self) -> Option<&'static str> {
        let given = [
            ("--class-grid", self.class_grid.is_some()),
            ("--from-image", self.from_image.is_some()),
            ("--inpaint", self.inpaint.is_some()),
            ("--invert", self.invert.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    /// The task, with its images read, for the model of a snapshot.
    pub fn choose(&self, model: &SnapshotConfig) -> anyhow::Result<Task> {
        let given = |images: &Images, word: &str| self.read(images, model).with_context(|| format!("{word} {images}"));
        let task = if let Some(per_class) = self.class_grid {
            Task::ClassGrid { per_class }
        } else if let Some(row) = self.interpolate {
            Task::Interpolate { row }
        } else if let Some(images) = &self.from_image {
            Task::Resemble { given: given(images, "--from-image")?, strength: self.strength }
        } else if let (Some(images), Some(mask)) = (&self.inpaint, &self.mask) {
            let given = given(images, "--inpaint")?;
            let known = self.known(mask, &model.data.shape).with_context(|| format!("--mask {mask}"))?;
            let plan = match self.repaint {
                true => Inpainting { jump: self.jump, resamples: self.resamples },
                false => Inpainting::REPLACEMENT,
            };
            Task::Inpaint { given, known, plan }
        } else if let Some(images) = &self.invert {
            Task::Invert { given: given(images, "--invert")? }
        } else {
            Task::Sample
        };
        if self.fit && task.given().is_empty() {
            bail!("--fit applies to given images: it needs --from-image, --inpaint or --invert");
        }
        Ok(task)
    }

    /// The images that a latent pipeline starts from, of this shape, and which of their pixels it generates.
    pub(crate) fn given_images(&self, shape: [usize; 3]) -> anyhow::Result<Option<GivenImages>> {
        let others = [
            ("--interpolate", self.interpolate.is_some()),
            ("--invert", self.invert.is_some()),
            ("--repaint", self.repaint),
        ];
        if let Some((option, _)) = others.into_iter().find(|(_, is_given)| *is_given) {
            bail!("{option} is not for latent pipelines: they take --from-image, or --inpaint and --mask");
        }
        let (images, option) = match (&self.from_image, &self.inpaint) {
            (Some(images), _) => (images, "--from-image"),
            (None, Some(images)) => (images, "--inpaint"),
            (None, None) if self.fit => bail!("--fit applies to given images: it needs --from-image or --inpaint"),
            (None, None) => return Ok(None),
        };
        let Images::Path(path) = images else { bail!("{option} {images}: give the images by their path") };
        let given = read_pictures(path, &shape, self.fit()).with_context(|| format!("{option} {images}"))?.concat();
        let pixels = |mask: &String| {
            let known = self.known(mask, &[1, shape[1], shape[2]]).with_context(|| format!("--mask {mask}"))?;
            Ok::<_, anyhow::Error>(known.into_iter().map(|known| !known).collect())
        };
        let mask = self.mask.as_ref().map(pixels).transpose()?;
        let strength = if mask.is_some() { 1.0 } else { self.strength };
        Ok(Some(GivenImages { images: given, mask, strength, posterior_noise: [None, None] }))
    }

    fn read(&self, images: &Images, model: &SnapshotConfig) -> anyhow::Result<Vec<f32>> {
        let shape = &model.data.shape;
        if !model.data.is_image() {
            bail!("the network was trained on {}, items of shape {shape:?}, not on images", model.data.name);
        }
        match images {
            Images::Path(path) => Ok(read_pictures(path, shape, self.fit())?.concat()),
            Images::Data(range) => {
                let Some(source) = &model.source else {
                    bail!("the snapshot does not record its training data: give the images by their path");
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
        let [channels, height, width] = *shape else { bail!("the network was not trained on images") };
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
                let image = read_pictures(Path::new(file), &[1, height, width], self.fit())?.concat();
                // Halfway between black and white is 0.
                Box::new(move |y, x| image[y * width + x] > 0.0)
            }
        };
        let pixels: Vec<bool> = (0..height * width).map(|i| !is_new(i / width, i % width)).collect();
        Ok(pixels.repeat(channels))
    }

    fn fit(&self) -> Fit {
        if self.fit { Fit::Converted } else { Fit::Refused }
    }
}

impl std::fmt::Display for Images {
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
