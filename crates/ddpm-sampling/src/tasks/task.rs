//! What a job does with a denoiser and a sampler: where its samples start, and what constrains them.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::{Filled, Inpainting, inpaint, invert, noised, remaining_levels, slerp};
use crate::noise::SampleNoise;
use crate::plan::Plan;
use crate::samplers::{Noise, NoiseSource, Sampler, Step};

/// Rows of an interpolation unless their number is given.
const USUAL_ROWS: usize = 8;

/// What is done. Given items are values as the network sees them, row-major, item after item; sample k is made of
/// item k, and of the first ones again where there are more samples than items.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Task {
    /// Samples out of noise.
    #[default]
    Sample,
    /// So many samples of every class, class after class. The first samples of all classes come from the same
    /// noise, and so do the second ones, so that a column of the grid shows what the class changes.
    ClassGrid {
        /// How many of each.
        per_class: usize,
    },
    /// Rows of samples from one noise to another, at even shares of the way.
    Interpolate {
        /// How many samples are in a row, both ends included.
        row: usize,
    },
    /// Samples that resemble given items.
    Resemble {
        /// The items.
        given: Vec<f32>,
        /// Share of the steps that is taken; the larger, the less resemblance.
        strength: f64,
    },
    /// Given items of which a part is generated.
    Inpaint {
        /// The items.
        given: Vec<f32>,
        /// Which values of an item stay.
        known: Vec<bool>,
        /// How often the levels are sampled.
        plan: Inpainting,
    },
    /// Given items of which a part is generated around the rest, as in the pipelines of Stable Diffusion: the rest enters
    /// every evaluation under the same noise.
    Fill {
        /// The items.
        given: Vec<f32>,
        /// Which values stay: of one item, or of all of them.
        known: Vec<bool>,
        /// Share of the steps that is taken; below 1 the new part begins as the given one under noise.
        strength: f64,
    },
    /// The noise that given items come from, and what DDIM makes of that noise: the items again, nearly.
    Invert {
        /// The items.
        given: Vec<f32>,
    },
}

/// Why a task cannot be done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TaskError {
    /// Nothing to do.
    #[error("{what} must be at least {least}, not {found}")]
    TooFew {
        /// The setting.
        what: &'static str,
        /// The value that was given.
        found: usize,
        /// The least there can be.
        least: usize,
    },
    /// Values that are no items.
    #[error("{found} values are given to start from; expected items of {per_item} values, one at least")]
    Given {
        /// How many there are.
        found: usize,
        /// Values of an item.
        per_item: usize,
    },
    /// A strength that is no share.
    #[error("the strength is {strength}, but must lie above 0 (the image is kept) and not above 1 (it is forgotten)")]
    Strength {
        /// The value that was given.
        strength: f64,
    },
    /// Not a single step is left.
    #[error("a strength of {strength} is less than half a step of {steps}: nothing would change")]
    NoStep {
        /// The value that was given.
        strength: f64,
        /// Steps of the whole sampling.
        steps: usize,
    },
    /// A sampler that cannot start in between.
    #[error("{sampler} as diffusers has it cannot start from an image; expected another scheduler, or strength 1")]
    NoPart {
        /// The sampler.
        sampler: &'static str,
    },
    /// A sampler that forgets where it starts, whatever the strength.
    #[error(
        "image-to-image needs a sampler that keeps what it starts from, not {sampler}: its random steps at every level, \
         and not the strength, would decide how much of the image is left"
    )]
    Forgets {
        /// The sampler.
        sampler: &'static str,
    },
    /// A mask that is not one.
    #[error("the mask keeps {kept} of {size} values; expected some to keep and some to generate")]
    Mask {
        /// How many stay.
        kept: usize,
        /// Values of an item, or of the mask where it has another size.
        size: usize,
    },
    /// A stochastic sampler, whose noise would change the samples as well.
    #[error("{task} needs a deterministic sampler, such as ddim with eta 0, not {sampler}")]
    Stochastic {
        /// The task.
        task: &'static str,
        /// The sampler.
        sampler: &'static str,
    },
    /// An inversion by something else than DDIM.
    #[error("inversion is ddim backwards and is undone by ddim only, not by {sampler}")]
    NotDdim {
        /// The sampler.
        sampler: &'static str,
    },
    /// A grid of classes without classes.
    #[error("a grid of classes needs a network that was trained with classes; this one was trained without classes")]
    Unconditional,
    /// One class where all are wanted.
    #[error("a grid of classes shows all of them: a single class cannot be chosen as well")]
    OneClass,
    /// Items whose class is not known.
    #[error("the network was trained with classes and has no null class: choose which class the items have (--class)")]
    NoNullClass,
}

impl Task {
    /// Its name in messages and folders.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sample => "sampling",
            Self::ClassGrid { .. } => "class-grid",
            Self::Interpolate { .. } => "interpolation",
            Self::Resemble { .. } => "image-to-image",
            Self::Inpaint { .. } | Self::Fill { .. } => "inpainting",
            Self::Invert { .. } => "inversion",
        }
    }

    /// How many samples it makes by default, where that follows from the task.
    pub fn usual_count(&self, classes: usize, per_item: usize) -> Option<usize> {
        match self {
            Self::Sample => None,
            // At least one, so that the check reports what is wrong.
            Self::ClassGrid { per_class } => Some(per_class.saturating_mul(classes).max(1)),
            Self::Interpolate { row } => Some(row.saturating_mul(USUAL_ROWS)),
            _ => Some(self.given().len() / per_item),
        }
    }

    /// Its default sampler, where not every sampler will do.
    pub fn usual_sampler(&self) -> Option<&'static str> {
        match self {
            Self::Interpolate { .. } | Self::Invert { .. } => Some("ddim"),
            _ => None,
        }
    }

    /// How many of the samples belong in one row of an image grid, where that matters.
    pub fn row(&self) -> Option<usize> {
        match self {
            Self::ClassGrid { per_class } => Some(*per_class),
            Self::Interpolate { row } => Some(*row),
            _ => None,
        }
    }

    /// The class of sample k if none is chosen; items that are given have none.
    pub fn class(&self, k: usize, classes: usize) -> Option<usize> {
        match self {
            Self::Sample => Some(k % classes),
            Self::ClassGrid { per_class: row } | Self::Interpolate { row } => Some(k / row % classes),
            _ => None,
        }
    }

    /// The values of the items that are given, if any are.
    pub fn given(&self) -> &[f32] {
        match self {
            Self::Resemble { given, .. }
            | Self::Inpaint { given, .. }
            | Self::Fill { given, .. }
            | Self::Invert { given } => given,
            _ => &[],
        }
    }

    /// Whether it can be done by this sampler to items of so many values, by a network of so many classes, of which
    /// one may have been chosen.
    pub(crate) fn check(
        &self,
        sampler: Sampler,
        per_item: usize,
        classes: Option<usize>,
        class: Option<usize>,
    ) -> Result<(), TaskError> {
        let least = |what, found, least| match found >= least {
            true => Ok(()),
            false => Err(TaskError::TooFew { what, found, least }),
        };
        match self {
            Self::Sample => return Ok(()),
            Self::ClassGrid { .. } if classes.is_none() => return Err(TaskError::Unconditional),
            Self::ClassGrid { .. } if class.is_some() => return Err(TaskError::OneClass),
            Self::ClassGrid { per_class } => return least("the number of samples of a class", *per_class, 1),
            Self::Interpolate { .. } if sampler.is_stochastic() => {
                return Err(TaskError::Stochastic { task: self.name(), sampler: sampler.name() });
            }
            Self::Interpolate { row } => return least("the number of samples in a row", *row, 2),
            Self::Resemble { strength, .. } | Self::Fill { strength, .. } if !(*strength > 0.0 && *strength <= 1.0) => {
                return Err(TaskError::Strength { strength: *strength });
            }
            Self::Resemble { .. } if matches!(sampler.about().noise, Noise::Chain) => {
                return Err(TaskError::Forgets { sampler: sampler.name() });
            }
            Self::Resemble { .. } => {}
            Self::Fill { given, known, .. } => {
                let kept = known.iter().filter(|known| **known).count();
                let fits = known.len() == per_item || known.len() == given.len();
                if !fits || kept == known.len() {
                    return Err(TaskError::Mask { kept, size: known.len() });
                }
            }
            Self::Inpaint { known, plan, .. } => {
                let kept = known.iter().filter(|known| **known).count();
                if known.len() != per_item || kept == 0 || kept == per_item {
                    return Err(TaskError::Mask { kept, size: known.len() });
                }
                least("the length of a jump", plan.jump, 1)?;
                least("the number of resamplings", plan.resamples, 1)?;
            }
            Self::Invert { .. } if !matches!(sampler, Sampler::Ddim { .. }) => {
                return Err(TaskError::NotDdim { sampler: sampler.name() });
            }
            Self::Invert { .. } if sampler.is_stochastic() => {
                return Err(TaskError::Stochastic { task: self.name(), sampler: sampler.name() });
            }
            Self::Invert { .. } => {}
        }
        let found = self.given().len();
        if found == 0 || !found.is_multiple_of(per_item) {
            return Err(TaskError::Given { found, per_item });
        }
        Ok(())
    }

    /// Those of the levels that it visits.
    pub(crate) fn visited<'a>(&self, levels: &'a [NoiseLevel]) -> Result<&'a [NoiseLevel], TaskError> {
        let (Self::Resemble { strength, .. } | Self::Fill { strength, .. }) = *self else { return Ok(levels) };
        match remaining_levels(levels, strength) {
            [] | [_] => Err(TaskError::NoStep { strength, steps: levels.len() - 1 }),
            left => Ok(left),
        }
    }

    /// Whether it may follow a scheduler of diffusers.
    pub(crate) fn follows_plans(&self) -> bool {
        self.takes_noise() || matches!(self, Self::ClassGrid { .. })
    }

    /// Whether its samples may start from given noise, a row for each of them.
    pub(crate) fn takes_noise(&self) -> bool {
        matches!(self, Self::Sample | Self::Resemble { .. } | Self::Fill { .. })
    }

    /// Those of the steps of a plan that it takes: with a strength as many as diffusers does.
    pub(crate) fn part_of(&self, plan: &Plan) -> Result<Plan, TaskError> {
        let (Self::Resemble { strength, .. } | Self::Fill { strength, .. }) = *self else { return Ok(plan.clone()) };
        let steps = plan.steps();
        let taken = ((steps as f64 * strength) as usize).min(steps);
        match plan.last(taken) {
            Some(part) => Ok(part),
            None if taken == 0 => Err(TaskError::NoStep { strength, steps }),
            None => Err(TaskError::NoPart { sampler: plan.sampler.name() }),
        }
    }

    /// How often it takes each step.
    pub(crate) fn passes(&self) -> usize {
        match self {
            Self::Inpaint { plan, .. } => plan.resamples,
            _ => 1,
        }
    }

    /// The number of the noise that sample k is made of.
    pub(crate) fn noise_number(&self, k: usize) -> usize {
        match self {
            Self::ClassGrid { per_class } => k % per_class,
            _ => k,
        }
    }

    /// x at the first of the levels, `drawn` being the noise of the samples.
    pub(crate) fn start(
        &self,
        denoiser: &dyn Denoiser<4>,
        levels: &[NoiseLevel],
        drawn: Tensor<4>,
        batch: &Batch<'_>,
    ) -> Tensor<4> {
        match self {
            Self::Sample | Self::ClassGrid { .. } | Self::Inpaint { .. } => drawn,
            Self::Resemble { .. } | Self::Fill { .. } => self.hidden(levels[0], 1.0, drawn, batch),
            Self::Invert { given } => invert(denoiser, levels, batch.items(given)),
            Self::Interpolate { row } => {
                let [from, to] = [0, 1].map(|end| batch.noise(|k| 2 * (k / row) + end));
                let shares: Vec<f64> = batch.samples.clone().map(|k| (k % row) as f64 / (row - 1) as f64).collect();
                slerp(&from, &to, &shares)
            }
        }
    }

    /// Given items under the noise of this level, or pure noise of this deviation where nothing of them is to be left.
    pub(crate) fn hidden(&self, level: NoiseLevel, deviation: f64, drawn: Tensor<4>, batch: &Batch<'_>) -> Tensor<4> {
        match self {
            Self::Resemble { given, .. } => noised(batch.items(given), level, drawn),
            Self::Fill { given, strength, .. } if *strength < 1.0 => noised(batch.items(given), level, drawn),
            _ => drawn * deviation,
        }
    }

    /// The denoiser that sees given items in the place of what is known, where the task has such a place; `noise` is what the
    /// samples start from, at the level `first`.
    pub(crate) fn filled<'b>(
        &self,
        inner: &'b dyn Denoiser<4>,
        first: NoiseLevel,
        noise: &Tensor<4>,
        batch: &Batch<'_>,
    ) -> Option<Filled<'b, 4>> {
        let Self::Fill { given, known, .. } = self else { return None };
        let mask: Vec<f32> = known.iter().map(|known| f32::from(u8::from(*known))).collect();
        Some(Filled { inner, known: batch.items(given), mask: batch.items(&mask), noise: noise.clone(), first })
    }

    /// The samples, from `x` at the first of the levels.
    #[allow(clippy::too_many_arguments)] // those of a sampler, and the batch
    pub(crate) fn run(
        &self,
        sampler: Sampler,
        denoiser: &dyn Denoiser<4>,
        levels: &[NoiseLevel],
        x: Tensor<4>,
        noise: &mut dyn NoiseSource<4>,
        on_step: &mut dyn FnMut(Step<'_, 4>),
        batch: &Batch<'_>,
    ) -> Tensor<4> {
        match self {
            Self::Inpaint { given, known, plan } => {
                let mask = batch.mask(known);
                inpaint(sampler, denoiser, levels, &batch.items(given), &mask, *plan, x, noise, on_step)
            }
            _ => sampler.run(denoiser, levels, x, noise, on_step),
        }
    }
}

/// Which samples are made at once, and where.
pub(crate) struct Batch<'a> {
    pub(crate) samples: Range<usize>,
    /// That of the batch; its first number does not count.
    pub(crate) shape: [usize; 4],
    pub(crate) seed: u64,
    pub(crate) device: &'a Device,
}

impl Batch<'_> {
    /// For sample k, start noise number `number(k)`.
    fn noise(&self, number: impl Fn(usize) -> usize) -> Tensor<4> {
        SampleNoise::new(self.seed, self.samples.clone().map(number), self.shape, self.device).start()
    }

    /// For sample k, item k of those given, which begin again after the last.
    fn items(&self, given: &[f32]) -> Tensor<4> {
        let per_item: usize = self.shape[1..].iter().product();
        let count = given.len() / per_item;
        let values = self.samples.clone().flat_map(|k| &given[k % count * per_item..][..per_item]);
        self.tensor(values.copied().collect(), self.samples.len())
    }

    /// One row: 1 where values stay, 0 elsewhere.
    fn mask(&self, known: &[bool]) -> Tensor<4> {
        self.tensor(known.iter().map(|known| f32::from(u8::from(*known))).collect(), 1)
    }

    fn tensor(&self, values: Vec<f32>, rows: usize) -> Tensor<4> {
        let mut shape = self.shape;
        shape[0] = rows;
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }
}
