//! A sampling job: how many samples, from which seed, by which sampler.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::DataInfo;
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Denoiser, Estimate, NetworkDenoiser};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::Clip;
use ddpm_model::network::Network;
use ddpm_model::noise_level::{NoiseLevel, NoiseRange};
use ddpm_model::variance::Variance;

use crate::guidance::{
    Answers, AutoGuidance, ClassifierFree, Guidable, Guidance, GuidanceError, Guide, Rescaled, Thresholded, Within,
};
use crate::levels::{LevelSchedule, LevelsError};
use crate::noise::{Generator, JobNoise, NoiseChoice};
use crate::plan::Plan;
use crate::samplers::{Clipped, Sampler, Step};
use crate::tasks::{Batch, Task, TaskError};
pub use ddpm_render::{Frame, Samples};

/// Images that take part in the animation; of points, up to [`ANIMATED_POINTS`] do.
pub const ANIMATED_IMAGES: usize = 40;
/// Points that take part in the animation.
pub const ANIMATED_POINTS: usize = 2000;

/// What to sample, and how. Sample k depends on the seed, k and the choices here, but not on `count` (except for
/// PyTorch's noise) or `batch_size`.
#[derive(Clone, Debug)]
pub struct SamplingJob {
    /// What is done: samples out of noise, or out of what is given.
    pub task: Task,
    /// How many samples.
    pub count: usize,
    /// Seed of all their noise.
    pub seed: u64,
    /// How many are made at once.
    pub batch_size: usize,
    /// The sampler.
    pub sampler: Sampler,
    /// How many steps it takes; what is usual for the sampler if `None`.
    pub steps: Option<usize>,
    /// Which noise levels they visit.
    pub levels: LevelSchedule,
    /// The walk of a scheduler of diffusers, in place of sampler, steps, levels and clipping.
    pub plan: Option<Plan>,
    /// Where the noise comes from.
    pub noise: NoiseChoice,
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
    /// What the task says, where the network knows classes: out of noise, sample k has the class k mod their number.
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
    pub diffusion: &'a Diffusion,
    /// The data it was trained on.
    pub data: &'a DataInfo,
    /// How many classes it is conditioned on, if it is.
    pub classes: Option<usize>,
    /// The class that stands for none, if it was trained with one.
    pub null_class: Option<usize>,
    /// Whether it is told its own last estimate.
    pub self_conditioned: bool,
    /// A weaker model of the same data that guides in place of the null class.
    pub guide: Option<&'a TrainedModel<'a, N>>,
}

impl<N> TrainedModel<'_, N> {
    fn guidable(&self) -> Guidable<'_> {
        Guidable { shape: &self.data.shape, classes: self.classes, null_class: self.null_class }
    }
}

impl<N: Predictor> TrainedModel<'_, N> {
    /// What it says under this condition, at the times of a plan if there is one; how often it is asked is added to
    /// `asked`.
    fn under<'b, const D: usize>(
        &'b self,
        condition: Condition,
        plan: Option<&'b Plan>,
        asked: &'b Cell<usize>,
    ) -> Box<dyn Denoiser<D> + 'b> {
        let network = move |x_t: Tensor<D>, t: Tensor<1>| {
            asked.set(asked.get() + 1);
            self.network.predict(x_t, t, &condition)
        };
        if let Some(plan) = plan {
            return Box::new(plan.denoiser(network));
        }
        let estimate = if self.self_conditioned { Estimate::Last(RefCell::default()) } else { Estimate::Unused };
        Box::new(NetworkDenoiser::new(network, self.diffusion, estimate))
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
    /// How often a network was asked about a batch, in all batches so far.
    pub evaluations: usize,
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
    /// A task that cannot be done like this.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Guidance towards the class of what has none.
    #[error("guidance pushes towards a class, and what is given has none: choose one")]
    NoClass,
    /// Guidance that the network cannot have.
    #[error(transparent)]
    Guidance(#[from] GuidanceError),
    /// Noise or a scheduler of others, in a task that has its own.
    #[error("{task} draws its own noise and follows no scheduler of diffusers: choose a sampler, and no other noise")]
    OwnNoise {
        /// The task.
        task: &'static str,
    },
    /// Noise to start from that does not suffice.
    #[error("there is noise to start {found} samples from, but {count} were asked for")]
    InitNoise {
        /// For how many there is some.
        found: usize,
        /// How many were asked for.
        count: usize,
    },
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
        self.check_choices(model)?;
        let levels = self.all_levels(model)?;
        let levels = self.task.walked(&levels)?;
        // The rank of a batch is that of an item and one more.
        match model.data.shape.len() {
            1 => self.run_rank::<2, N>(model, levels, part, device, on_progress),
            2 => self.run_rank::<3, N>(model, levels, part, device, on_progress),
            3 => self.run_rank::<4, N>(model, levels, part, device, on_progress),
            _ => Err(JobError::Rank { shape: model.data.shape.clone() }),
        }
    }

    /// How many steps it takes of a model.
    pub fn steps_for(&self, diffusion: &Diffusion) -> usize {
        if let Some(plan) = &self.plan {
            return plan.steps();
        }
        let usual = || self.levels.own_steps().unwrap_or_else(|| self.sampler.usual_steps(diffusion));
        self.steps.unwrap_or_else(usual)
    }

    /// What would keep it from being done, before anything is done.
    pub fn check<N>(&self, model: &TrainedModel<'_, N>) -> Result<(), JobError> {
        self.check_choices(model)?;
        self.task.walked(&self.all_levels(model)?)?;
        Ok(())
    }

    /// The levels that it visits, unless a plan says so.
    fn all_levels<N>(&self, model: &TrainedModel<'_, N>) -> Result<Vec<NoiseLevel>, JobError> {
        match self.plan {
            Some(_) => Ok(Vec::new()),
            None => Ok(self.levels.levels(self.steps_for(model.diffusion), model.diffusion)?),
        }
    }

    fn check_choices<N>(&self, model: &TrainedModel<'_, N>) -> Result<(), JobError> {
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
        if self.task != Task::Sample && (self.plan.is_some() || self.noise != NoiseChoice::default()) {
            return Err(JobError::OwnNoise { task: self.task.name() });
        }
        let class = match self.class {
            ClassChoice::Any => None,
            ClassChoice::One(class) => Some(class),
        };
        let per_item = model.data.values_per_item();
        self.task.check(self.sampler, per_item, model.classes, class)?;
        if class.is_none() && !self.task.given().is_empty() {
            let mut networks = [Some(model), model.guide].into_iter().flatten();
            if networks.any(|network| network.classes.is_some() && network.null_class.is_none()) {
                return Err(TaskError::NoNullClass.into());
            }
            if self.guidance.is_active() && model.guide.is_none() {
                return Err(JobError::NoClass);
            }
        }
        if let Some(start) = self.noise.start.as_ref().filter(|start| start.len() < self.count.saturating_mul(per_item))
        {
            return Err(JobError::InitNoise { found: start.len() / per_item.max(1), count: self.count });
        }
        self.guidance.check(model.guidable(), model.guide.map(|guide| guide.guidable()), self.clip)?;
        let ends_without_signal = model.diffusion.level_at(1.0).alpha == 0.0;
        if ends_without_signal && self.sampler.about().needs_signal {
            return Err(JobError::NoSignal { sampler: self.sampler.name() });
        }
        match (self.sampler, model.diffusion.variance()) {
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
        let steps = self.plan.as_ref().map_or_else(|| levels.len() - 1, Plan::steps);
        let mut samples = Samples {
            values: Vec::new(),
            shape: model.data.shape.clone(),
            labels: self.labels(part.clone(), model.classes),
            frames: frame_steps(self.frames, steps)
                .into_iter()
                .map(|steps_done| Frame { steps_done, values: Vec::new() })
                .collect(),
            row: self.task.row(),
            noise: Vec::new(),
        };
        let asked = Cell::new(0);
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
                steps: steps.saturating_mul(self.task.walks()),
                evaluations: asked.get(),
            };
            let labels = &samples.labels[batch.clone()];
            let ours = part.start + batch.start..part.start + batch.end;
            let shape = batch_shape(&model.data.shape);
            let numbers = ours.clone().map(|k| self.task.noise_number(k)).collect();
            let mut noise =
                JobNoise::<D>::new(&self.noise, self.seed, self.count, ours.clone(), numbers, shape, &device);
            let place = Batch { samples: ours, shape, seed: self.seed, device: &device };

            let animated = animated(&batch, &samples.shape);
            // By the step, because a task may take one several times, the last time for good.
            let mut kept = BTreeMap::new();
            let mut keep = |steps_done: usize, x: &Tensor<D>| {
                if animated > 0 && samples.frames.iter().any(|frame| frame.steps_done == steps_done) {
                    kept.insert(steps_done, x.clone().narrow(0, 0, animated));
                }
            };
            let mut steps_done = 0;
            let drawn = noise.start() * self.plan.as_ref().map_or(1.0, |plan| plan.start);
            let (start, x_0) = self.with_denoiser(model, labels, &asked, &device, |denoiser| {
                let x = self.task.start(denoiser, levels, drawn, &place);
                keep(0, &x);
                let mut on_step = |step: Step<'_, D>| {
                    steps_done += 1;
                    keep(step.index + 1, step.x);
                    on_progress(progress(batch.start, steps_done));
                };
                let start = x.clone();
                let x_0 = match &self.plan {
                    Some(plan) if self.guidance.threshold.is_some() => plan.walk(denoiser, x, &mut noise, &mut on_step),
                    Some(plan) => plan.run(denoiser, x, &mut noise, &mut on_step),
                    None => self.task.run(self.sampler, denoiser, levels, x, &mut noise, &mut on_step, &place),
                };
                (start, x_0)
            });

            if matches!(self.task, Task::Invert { .. }) {
                samples.noise.extend(on_host(start)?);
            }
            samples.values.extend(in_units(x_0, model.data)?);
            for (frame, x) in samples.frames.iter_mut().zip(kept.into_values()) {
                frame.values.extend(in_units(x, model.data)?);
            }
            on_progress(progress(batch.end, steps.saturating_mul(self.task.walks())));
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
        asked: &Cell<usize>,
        device: &Device,
        ask: impl FnOnce(&dyn Denoiser<D>) -> T,
    ) -> T {
        let Guidance { scale, interval, rescale: phi, threshold } = self.guidance;
        let plan = self.plan.as_ref();
        let plain = model.under(condition(labels, device), plan, asked);
        let nulls = std::iter::repeat_n(model.null_class, labels.len());
        let twice: Vec<Option<usize>> = labels.iter().copied().chain(nulls).collect();
        let twice = model.under(condition(&twice, device), plan, asked);
        let free = ClassifierFree { answers: Answers::Together { conditional: &*plain, twice: &*twice }, scale };
        let guide = model.guide.unwrap_or(model);
        let known: Vec<Option<usize>> = labels.iter().map(|label| guide.classes.and(*label)).collect();
        let weaker = guide.under(condition(&known, device), None, asked);
        let auto = AutoGuidance { network: &*plain, guide: &*weaker, scale };

        let guide: &dyn Guide<D> = if model.guide.is_some() { &auto } else { &free };
        let rescaled = Rescaled { inner: guide, phi };
        let within = Within { inner: &rescaled, interval };
        let inner: &dyn Denoiser<D> = if self.guidance.is_active() { &within } else { &*plain };
        match threshold {
            Some(threshold) => ask(&Thresholded { inner, threshold }),
            // A plan holds x_0 itself.
            None if plan.is_some() => ask(inner),
            None => ask(&Clipped { inner, clip: self.clip }),
        }
    }

    /// The memory in bytes that each sample of its results takes while they are made and written.
    pub fn bytes_per_sample(&self, data: &DataInfo) -> usize {
        let values = data.values_per_item();
        // The values themselves and as a file; noise of torch is drawn for all samples at once.
        let arrays = match self.noise.generator {
            Generator::Own => 2,
            Generator::Torch => 4,
        };
        // Pictures have three channels of bytes.
        let picture = if is_image(&data.shape) { 3 * data.shape[1..].iter().product::<usize>() } else { 0 };
        size_of::<f32>() * arrays * values + picture + size_of::<Option<usize>>()
    }

    /// The classes of the samples in a part, for a network that knows so many.
    pub fn labels(&self, part: Range<usize>, classes: Option<usize>) -> Vec<Option<usize>> {
        part.map(|k| self.label(k, classes)).collect()
    }

    fn label(&self, k: usize, classes: Option<usize>) -> Option<usize> {
        match self.class {
            ClassChoice::Any => self.task.class(k, classes?),
            ClassChoice::One(class) => Some(class),
        }
    }
}

/// The condition of rows with these labels; none unless all have one.
pub fn condition(labels: &[Option<usize>], device: &Device) -> Condition {
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

fn on_host<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>, JobError> {
    x.try_into_vec_as().map_err(|error| JobError::Device { reason: error.to_string() })
}

/// Values on the host, images clamped to [-1, 1], everything in the units of the data.
fn in_units<const D: usize>(x: Tensor<D>, data: &DataInfo) -> Result<Vec<f32>, JobError> {
    let mut values = on_host(x)?;
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

/// Images live in [-1, 1], and so must what is predicted of them; other data have no bounds.
pub fn clip_for(data: &DataInfo) -> Clip {
    if data.shape.len() == 3 { Clip::Unit } else { Clip::None }
}
