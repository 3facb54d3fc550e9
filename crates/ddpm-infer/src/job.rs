//! A sampling job: how many samples, from which seed, by which sampler.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::DataInfo;
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Denoiser, DiscreteDenoiser};
use ddpm_model::gaussian::{Clip, GaussianDiffusion};
use ddpm_model::network::Network;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::variance::Variance;

use crate::guidance::{
    Answers, AutoGuidance, ClassifierFree, Guidable, Guidance, GuidanceError, Guide, Rescaled, Thresholded, Within,
};
use crate::levels::{Ladder, LevelsError};
use crate::noise::SampleNoise;
use crate::samplers::{Clipped, Sampler, Step};

/// Images that take part in the animation; of points, up to [`ANIMATED_POINTS`] do.
pub const ANIMATED_IMAGES: usize = 40;
/// Points that take part in the animation.
pub const ANIMATED_POINTS: usize = 2000;

/// What to sample, and how. Sample k depends on the seed, k and the choices here, but not on `count` or
/// `batch_size`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingJob {
    /// How many samples.
    pub count: usize,
    /// Seed of all their noise.
    pub seed: u64,
    /// How many are made at once.
    pub batch_size: usize,
    /// The sampler.
    pub sampler: Sampler,
    /// How many steps it takes; as many as the network was trained on if `None`.
    pub steps: Option<usize>,
    /// Which noise levels they visit.
    pub levels: Ladder,
    /// Which classes, for a network that is conditioned on them.
    pub class: ClassChoice,
    /// What is done to the predicted x_0.
    pub clip: Clip,
    /// What it is pushed towards.
    pub guidance: Guidance,
    /// Frames of the denoising to keep, at most; 0 for none.
    pub frames: usize,
}

/// Classes of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClassChoice {
    /// Sample k has the class k mod the number of classes, where the network knows classes.
    #[default]
    Any,
    /// All have this one.
    One(usize),
}

/// Something that predicts what the diffusion asks for, from x_t and the step of every row.
pub trait Predictor {
    /// The prediction, of the shape of `x_t` (twice the channels with a learned variance).
    fn predict<const D: usize>(&self, x_t: Tensor<D>, t: Tensor<1>, condition: &Condition) -> Tensor<D>;
}

impl Predictor for Network {
    fn predict<const D: usize>(&self, x_t: Tensor<D>, t: Tensor<1>, condition: &Condition) -> Tensor<D> {
        self.forward(x_t, t, condition)
    }
}

/// A network and what has to be known to sample from it.
#[derive(Clone, Copy, Debug)]
pub struct TrainedModel<'a, N> {
    /// The network, without autodiff.
    pub network: &'a N,
    /// The diffusion it was trained for.
    pub diffusion: &'a GaussianDiffusion,
    /// The data it was trained on.
    pub data: &'a DataInfo,
    /// How many classes it is conditioned on, if it is.
    pub classes: Option<usize>,
    /// The class that stands for none, if it was trained with one.
    pub null_class: Option<usize>,
    /// A weaker model of the same data that guides in place of the null class.
    pub guide: Option<&'a TrainedModel<'a, N>>,
}

impl<N> TrainedModel<'_, N> {
    fn guidable(&self) -> Guidable<'_> {
        Guidable { shape: &self.data.shape, classes: self.classes, null_class: self.null_class }
    }
}

impl<N: Predictor> TrainedModel<'_, N> {
    /// What it says under this condition.
    fn under<const D: usize>(&self, condition: Condition) -> impl Denoiser<D> {
        let network = move |x_t: Tensor<D>, t: Tensor<1>| self.network.predict(x_t, t, &condition);
        DiscreteDenoiser::new(network, self.diffusion)
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Samples that are finished.
    pub samples_done: usize,
    /// Samples in all.
    pub samples: usize,
    /// The present batch, from 0.
    pub batch: usize,
    /// Batches in all.
    pub batches: usize,
    /// Steps that the present batch has behind it.
    pub steps_done: usize,
    /// Steps of a batch.
    pub steps: usize,
}

/// What a job made: images in [-1, 1], anything else in the units of its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// All values, row-major, sample after sample.
    pub values: Vec<f32>,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Class of every sample.
    pub labels: Vec<Option<usize>>,
    /// The first samples on their way, from pure noise to the end.
    pub frames: Vec<Frame>,
}

impl Samples {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// x_t of the first samples after some of the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Steps taken so far.
    pub steps_done: usize,
    /// Values in the layout and units of [`Samples::values`].
    pub values: Vec<f32>,
}

/// Why a job cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Nothing to do.
    #[error("{what} must be at least 1")]
    Zero {
        /// The setting that is 0.
        what: &'static str,
    },
    /// Levels that do not exist.
    #[error(transparent)]
    Levels(#[from] LevelsError),
    /// A class that the data do not have.
    #[error("class {class} does not exist: the network knows the classes 0 to {}", classes - 1)]
    NoSuchClass {
        /// What was asked for.
        class: usize,
        /// How many there are.
        classes: usize,
    },
    /// A class asked of a network without classes.
    #[error("class {class} was asked for, but the network was trained without classes")]
    Unconditional {
        /// What was asked for.
        class: usize,
    },
    /// Guidance that the network cannot have.
    #[error(transparent)]
    Guidance(#[from] GuidanceError),
    /// A sampler that divides by the signal, on a schedule that ends without one.
    #[error(
        "{sampler} cannot start from a level without any signal, where this schedule (zero_terminal_snr) ends; use ddpm \
         or ddim"
    )]
    NoSignal {
        /// Its name.
        sampler: &'static str,
    },
    /// A learned variance asked of a network that has none.
    #[error("a learned variance was asked for, but the network was trained with {trained:?}")]
    NoLearnedVariance {
        /// What it was trained with.
        trained: Variance,
    },
    /// Data of a rank that nothing here can sample.
    #[error("samples of shape {shape:?} are not supported: expected [N], [K, L] or [C, H, W]")]
    Rank {
        /// The shape of an item.
        shape: Vec<usize>,
    },
    /// NaN or infinity came out.
    #[error("sample {sample} is not finite: the weights may be broken, or the training has diverged")]
    NotFinite {
        /// The first such sample.
        sample: usize,
    },
    /// The device did not give the result back.
    #[error("cannot read the samples back from the device: {reason}")]
    Device {
        /// What Burn said.
        reason: String,
    },
}

impl SamplingJob {
    /// Does the job on `device`, and reports every step.
    pub fn run<N: Predictor>(
        &self,
        model: &TrainedModel<'_, N>,
        device: &Device,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, JobError> {
        self.run_part(model, 0..self.count, device, on_progress)
    }

    /// Makes only some of the job's samples; all parts together are the samples of the whole.
    pub fn run_part<N: Predictor>(
        &self,
        model: &TrainedModel<'_, N>,
        part: Range<usize>,
        device: &Device,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, JobError> {
        self.check(model)?;
        let available = model.diffusion.schedule.len();
        let levels = self.levels.levels(self.steps.unwrap_or(available), &model.diffusion.schedule)?;
        // The rank of a batch is that of an item and one more.
        match model.data.shape.len() {
            1 => self.run_rank::<2, N>(model, &levels, part, device, on_progress),
            2 => self.run_rank::<3, N>(model, &levels, part, device, on_progress),
            3 => self.run_rank::<4, N>(model, &levels, part, device, on_progress),
            _ => Err(JobError::Rank { shape: model.data.shape.clone() }),
        }
    }

    fn check<N>(&self, model: &TrainedModel<'_, N>) -> Result<(), JobError> {
        for (what, size) in [("the number of samples", self.count), ("the batch size", self.batch_size)] {
            if size == 0 {
                return Err(JobError::Zero { what });
            }
        }
        match (self.class, model.classes) {
            (ClassChoice::One(class), None) => return Err(JobError::Unconditional { class }),
            (ClassChoice::One(class), Some(classes)) if class >= classes => {
                return Err(JobError::NoSuchClass { class, classes });
            }
            _ => {}
        }
        self.guidance.check(model.guidable(), model.guide.map(|guide| guide.guidable()), self.clip)?;
        let schedule = &model.diffusion.schedule;
        let ends_without_signal = schedule.level(schedule.len() - 1).alpha == 0.0;
        if ends_without_signal && !matches!(self.sampler, Sampler::Ddpm { .. } | Sampler::Ddim { .. }) {
            return Err(JobError::NoSignal { sampler: self.sampler.name() });
        }
        match (self.sampler, model.diffusion.variance) {
            (_, Variance::Learned) => Ok(()),
            (Sampler::Ddpm { variance: Variance::Learned }, trained) => Err(JobError::NoLearnedVariance { trained }),
            _ => Ok(()),
        }
    }

    fn run_rank<const D: usize, N: Predictor>(
        &self,
        model: &TrainedModel<'_, N>,
        levels: &[NoiseLevel],
        part: Range<usize>,
        device: &Device,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, JobError> {
        // No graph of the sampling is ever needed, and it would hold every step in memory.
        let device = device.clone().without_autodiff();
        let steps = levels.len() - 1;
        let mut samples = Samples {
            values: Vec::new(),
            shape: model.data.shape.clone(),
            labels: part.clone().map(|k| self.label(k, model.classes)).collect(),
            frames: frame_steps(self.frames, steps)
                .into_iter()
                .map(|steps_done| Frame { steps_done, values: Vec::new() })
                .collect(),
        };
        let batches = part.len().div_ceil(self.batch_size);
        for batch_index in 0..batches {
            let start = batch_index * self.batch_size;
            let batch = start..(start + self.batch_size).min(part.len());
            let progress = |samples_done, steps_done| Progress {
                samples_done,
                samples: part.len(),
                batch: batch_index,
                batches,
                steps_done,
                steps,
            };
            let labels = &samples.labels[batch.clone()];
            let numbers = part.start + batch.start..part.start + batch.end;
            let mut noise = SampleNoise::<D>::new(self.seed, numbers, batch_shape(&model.data.shape), &device);

            let animated = animated(&batch, &samples.shape);
            let mut kept = Vec::new();
            let mut keep = |steps_done: usize, x: &Tensor<D>| {
                if animated > 0 && samples.frames.iter().any(|frame| frame.steps_done == steps_done) {
                    kept.push(x.clone().narrow(0, 0, animated));
                }
            };
            let x = noise.start();
            keep(0, &x);
            let mut on_step = |step: Step<'_, D>| {
                let steps_done = step.index + 1;
                keep(steps_done, step.x);
                on_progress(progress(batch.start, steps_done));
            };
            let x_0 = self.with_denoiser(model, labels, &device, |denoiser| {
                self.sampler.run(denoiser, levels, x, &mut noise, &mut on_step)
            });

            samples.values.extend(in_units(x_0, model.data)?);
            for (frame, x) in samples.frames.iter_mut().zip(kept) {
                frame.values.extend(in_units(x, model.data)?);
            }
            on_progress(progress(batch.end, steps));
        }
        let per_sample: usize = samples.shape.iter().product();
        match samples.values.iter().position(|value| !value.is_finite()) {
            Some(position) => Err(JobError::NotFinite { sample: position / per_sample }),
            None => Ok(samples),
        }
    }

    /// What the sampler asks, for a batch with these labels: the network, what guides it, what holds its x_0.
    fn with_denoiser<const D: usize, N: Predictor, T>(
        &self,
        model: &TrainedModel<'_, N>,
        labels: &[Option<usize>],
        device: &Device,
        ask: impl FnOnce(&dyn Denoiser<D>) -> T,
    ) -> T {
        let Guidance { scale, interval, rescale: phi, threshold } = self.guidance;
        let plain = model.under(condition(labels, device));
        let nulls = std::iter::repeat_n(model.null_class, labels.len());
        let twice: Vec<Option<usize>> = labels.iter().copied().chain(nulls).collect();
        let twice = model.under(condition(&twice, device));
        let free = ClassifierFree { answers: Answers::Together { conditional: &plain, twice: &twice }, scale };
        let guide = model.guide.unwrap_or(model);
        let known: Vec<Option<usize>> = labels.iter().map(|label| guide.classes.and(*label)).collect();
        let weaker = guide.under(condition(&known, device));
        let auto = AutoGuidance { network: &plain, guide: &weaker, scale };

        let guide: &dyn Guide<D> = if model.guide.is_some() { &auto } else { &free };
        let rescaled = Rescaled { inner: guide, phi };
        let within = Within { inner: &rescaled, interval };
        let inner: &dyn Denoiser<D> = if self.guidance.is_active() { &within } else { &plain };
        match threshold {
            Some(threshold) => ask(&Thresholded { inner, threshold }),
            None => ask(&Clipped { inner, clip: self.clip }),
        }
    }

    fn label(&self, k: usize, classes: Option<usize>) -> Option<usize> {
        match self.class {
            ClassChoice::Any => classes.map(|classes| k % classes),
            ClassChoice::One(class) => Some(class),
        }
    }
}

/// The condition of rows with these labels; none unless all have one.
pub(crate) fn condition(labels: &[Option<usize>], device: &Device) -> Condition {
    let classes: Option<Vec<i64>> = labels.iter().map(|label| label.map(|class| class as i64)).collect();
    classes.map_or(Condition::None, |classes| {
        let size = classes.len();
        Condition::Class(Tensor::<1, Int>::from_data(TensorData::new(classes, [size]), device))
    })
}

/// The shape of a batch whose size is still open.
fn batch_shape<const D: usize>(item: &[usize]) -> [usize; D] {
    let mut shape = [0; D];
    shape[1..].copy_from_slice(item);
    shape
}

/// At most `frames` counts of steps, evenly spread from 0 (pure noise) to `steps`.
fn frame_steps(frames: usize, steps: usize) -> Vec<usize> {
    match frames.min(steps + 1) {
        0 => Vec::new(),
        1 => vec![steps],
        frames => (0..frames).map(|i| i * steps / (frames - 1)).collect(),
    }
}

/// How many samples of a batch, from its first, are among the animated ones.
fn animated(batch: &Range<usize>, item: &[usize]) -> usize {
    let limit = if is_image(item) { ANIMATED_IMAGES } else { ANIMATED_POINTS };
    limit.saturating_sub(batch.start).min(batch.len())
}

fn is_image(item: &[usize]) -> bool {
    item.len() == 3
}

/// Values on the host, images clamped to [-1, 1], everything in the units of the data.
fn in_units<const D: usize>(x: Tensor<D>, data: &DataInfo) -> Result<Vec<f32>, JobError> {
    let mut values: Vec<f32> = x.try_into_vec_as().map_err(|error| JobError::Device { reason: error.to_string() })?;
    let per_channel: usize = data.shape[1..].iter().product();
    for (i, value) in values.iter_mut().enumerate() {
        if is_image(&data.shape) {
            *value = value.clamp(-1.0, 1.0);
        }
        let channel = i / per_channel % data.shape[0];
        *value = data.units.data_unit(channel, f64::from(*value)) as f32;
    }
    Ok(values)
}
