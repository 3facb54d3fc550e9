//! A sampling job: how many samples, from which seed, by which sampler.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::{Bounds, DataInfo, Space, three_axes};
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
/// Samples that are made at once unless a job says otherwise.
pub const USUAL_BATCH: usize = 128;

/// What to sample, and how. Sample k depends on the seed, k and the choices here, but not on `count` (except for
/// PyTorch's noise) or `batch_size`.
///
/// [`SamplingJob::new`] has the defaults of a model; change what you need by struct update.
///
/// # Shapes
///
/// The network is called with `x_t` `[B, C, H, W]`, where `B` is at most `batch_size`, and with the times `[B]`. Items that
/// have fewer axes get trailing ones of size 1: a point `[N]` is `[N, 1, 1]`. The result has `count` items of their own shape,
/// row-major in [`Samples::values`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use ddpm_sampling::prelude::*;
///
/// /// Stands for a trained network: it takes every x_t to be pure noise.
/// struct AllNoise;
///
/// impl Predictor for AllNoise {
///     fn predict(&self, x_t: Tensor<4>, _t: Tensor<1>, _condition: &Condition) -> Tensor<4> {
///         x_t
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let schedule = ScheduleConfig::default().init()?;
/// let diffusion = GaussianDiffusion::new(schedule, Prediction::Eps, Variance::FixedSmall).into();
/// let data = DataInfo { name: "gray".into(), shape: vec![1, 8, 8], classes: vec![], units: Units::identity(1), series: None, latent: false, has_captions: false };
/// let model = TrainedModel::new(&AllNoise, &diffusion, &data);
///
/// let sampler = Sampler::new("ddim", SamplerOptions::default())?;
/// let job = SamplingJob { count: 3, seed: 7, steps: Some(10), ..SamplingJob::new(sampler, &model) };
/// let samples = job.run(&model, &Device::default(), &mut |_| {})?;
/// assert_eq!((samples.count(), samples.values.len()), (3, 3 * 64));
/// # Ok(())
/// # }
/// ```
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
    /// The plan of a scheduler of diffusers, in place of sampler, steps, levels and clipping.
    pub plan: Option<Plan>,
    /// Where the noise comes from.
    pub noise: NoiseChoice,
    /// Which classes, for a network that is conditioned on them.
    pub class: ClassChoice,
    /// What is done to the predicted x_0.
    pub clip: Clip,
    /// Guidance towards the class, or away from a weaker model.
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
    /// Sample k has the class k mod their number, whatever the task.
    InTurn,
}

impl ClassChoice {
    /// A class by its name, or by its number where no name fits; any class for `None`. The network knows `classes` of them,
    /// which have these names.
    pub fn named(class: Option<&str>, classes: usize, names: &[String]) -> Result<Self, ClassError> {
        let Some(class) = class else { return Ok(Self::Any) };
        if classes == 0 {
            return Err(ClassError::Unconditional { class: class.into() });
        }
        match names.iter().position(|name| name == class).or_else(|| class.parse().ok()) {
            Some(number) if number < classes => Ok(Self::One(number)),
            _ => Err(ClassError::Unknown { class: class.into(), known: known(classes, names) }),
        }
    }
}

fn known(classes: usize, names: &[String]) -> String {
    if names.is_empty() { format!("the numbers 0 to {}", classes - 1) } else { names.join(", ") }
}

/// Why a class cannot be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// The network has none.
    #[error("class {class}: the network was trained without classes")]
    Unconditional {
        /// What was chosen.
        class: String,
    },
    /// Neither a name nor a number of a class.
    #[error("class {class}: there is no such class; there are {known}")]
    Unknown {
        /// What was chosen.
        class: String,
        /// Those there are.
        known: String,
    },
}

/// Something that predicts what the diffusion asks for, from x_t and the step of every row.
pub trait Predictor {
    /// The prediction, of the shape of `x_t` `[B, C, H, W]` (twice the channels with a learned variance).
    fn predict(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4>;
}

impl Predictor for Network {
    fn predict(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        self.forward(x_t, t, condition)
    }
}

/// A network and what has to be known to sample from it.
#[derive(Clone, Copy)]
pub struct TrainedModel<'a> {
    /// The network, without autodiff.
    pub network: &'a dyn Predictor,
    /// The diffusion it was trained for.
    pub diffusion: &'a Diffusion,
    /// The data it was trained on.
    pub data: &'a DataInfo,
    /// How many classes it is conditioned on, if it is.
    pub classes: Option<usize>,
    /// The class that stands for none, if it was trained with one.
    pub null_class: Option<usize>,
    /// Whether it is conditioned on its own last estimate of x_0 (self-conditioning).
    pub self_conditioned: bool,
    /// A weaker model of the same data that guides in place of the null class.
    pub guide: Option<&'a TrainedModel<'a>>,
}

impl<'a> TrainedModel<'a> {
    /// A model without classes, self-conditioning or a guide; change what it has by struct update.
    pub fn new(network: &'a dyn Predictor, diffusion: &'a Diffusion, data: &'a DataInfo) -> Self {
        Self { network, diffusion, data, classes: None, null_class: None, self_conditioned: false, guide: None }
    }

    /// One of our own networks, which knows its classes.
    pub fn of_network(
        network: &'a Network,
        diffusion: &'a Diffusion,
        data: &'a DataInfo,
        self_conditioned: bool,
    ) -> Self {
        let classes = network.num_classes();
        Self {
            classes: (classes > 0).then_some(classes),
            null_class: network.null_class(),
            self_conditioned,
            ..Self::new(network, diffusion, data)
        }
    }

    fn guidable(&self) -> Guidable<'_> {
        Guidable { shape: &self.data.shape, classes: self.classes, null_class: self.null_class }
    }

    /// The network under this condition as a denoiser, at the times of a plan if there is one. Every call of the network
    /// is counted in `evaluations`.
    fn denoiser<'b>(
        &'b self,
        condition: Condition,
        plan: Option<&'b Plan>,
        evaluations: &'b Cell<usize>,
    ) -> Box<dyn Denoiser<4> + 'b> {
        let network = move |x_t: Tensor<4>, t: Tensor<1>| {
            evaluations.set(evaluations.get() + 1);
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
    /// Network evaluations (NFE) in all batches so far.
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
    /// A class of a network without classes.
    #[error("class {class}: the network was trained without classes")]
    Unconditional {
        /// What was asked for.
        class: usize,
    },
    /// A task that cannot be done like this.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Guidance towards the class of what has none.
    #[error("guidance needs a class, and the given items have none: pass --class")]
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
    #[error("there is noise to start {found} samples from, but the count is {count}")]
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
    /// A learned variance of a network that has none.
    #[error("the variance cannot be the learned one: the network was trained with {trained:?}")]
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
    /// One sample from seed 0 out of noise, by `sampler` in its usual steps over its usual noise levels, without guidance
    /// and without frames. Images are clipped to [-1, 1], other data are not.
    pub fn new(sampler: Sampler, model: &TrainedModel<'_>) -> Self {
        Self::of_data(sampler, model.diffusion, model.data)
    }

    /// [`SamplingJob::new`] before there is a network.
    pub fn of_data(sampler: Sampler, diffusion: &Diffusion, data: &DataInfo) -> Self {
        Self {
            task: Task::Sample,
            count: 1,
            seed: 0,
            batch_size: USUAL_BATCH,
            sampler,
            steps: None,
            levels: sampler.usual_levels(diffusion),
            plan: None,
            noise: NoiseChoice::default(),
            class: ClassChoice::Any,
            clip: clip_for(data),
            guidance: Guidance::default(),
            frames: 0,
        }
    }

    /// Does the job on `device`, and reports every step.
    pub fn run(
        &self,
        model: &TrainedModel<'_>,
        device: &Device,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, JobError> {
        self.run_part(model, 0..self.count, device, on_progress)
    }

    /// Makes only some of the job's samples; all parts together are the samples of the whole.
    pub fn run_part(
        &self,
        model: &TrainedModel<'_>,
        part: Range<usize>,
        device: &Device,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, JobError> {
        self.check_choices(model)?;
        let levels = self.all_levels(model)?;
        let levels = if self.plan.is_some() { &levels } else { self.task.visited(&levels)? };
        let shape = &model.data.shape;
        if model.data.space() == Space::Other {
            return Err(JobError::Rank { shape: shape.clone() });
        }
        // No graph of the sampling is ever needed, and it would hold every step in memory.
        let device = device.clone().without_autodiff();
        let plan = self.plan.as_ref().map(|plan| self.task.part_of(plan)).transpose()?;
        let steps = plan.as_ref().map_or_else(|| levels.len() - 1, Plan::steps);
        let run = PartRun {
            job: self,
            model,
            item: three_axes(shape),
            levels,
            plan,
            part,
            device,
            steps,
            evaluations: Cell::new(0),
        };
        run.all_batches(on_progress)
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
    pub fn check(&self, model: &TrainedModel<'_>) -> Result<(), JobError> {
        self.check_choices(model)?;
        match &self.plan {
            Some(plan) => drop(self.task.part_of(plan)?),
            None => drop(self.task.visited(&self.all_levels(model)?)?),
        }
        Ok(())
    }

    /// The levels that it visits, unless a plan says so.
    fn all_levels(&self, model: &TrainedModel<'_>) -> Result<Vec<NoiseLevel>, JobError> {
        match self.plan {
            Some(_) => Ok(Vec::new()),
            None => Ok(self.levels.levels(self.steps_for(model.diffusion), model.diffusion)?),
        }
    }

    fn check_choices(&self, model: &TrainedModel<'_>) -> Result<(), JobError> {
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
        let draws_as_torch = self.task != Task::Sample && self.noise.generator == Generator::Torch;
        let has_noise = self.noise != NoiseChoice::default() && !self.task.takes_noise();
        if draws_as_torch || has_noise || self.plan.is_some() && !self.task.follows_plans() {
            return Err(JobError::OwnNoise { task: self.task.name() });
        }
        let class = match self.class {
            ClassChoice::Any | ClassChoice::InTurn => None,
            ClassChoice::One(class) => Some(class),
        };
        let per_item = model.data.values_per_item();
        self.task.check(self.sampler, per_item, model.classes, class)?;
        if self.class == ClassChoice::Any && !self.task.given().is_empty() {
            let mut networks = [Some(model), model.guide].into_iter().flatten();
            if networks.any(|network| network.classes.is_some() && network.null_class.is_none()) {
                return Err(TaskError::NoNullClass.into());
            }
            if self.guidance.is_active() && model.guide.is_none() {
                return Err(JobError::NoClass);
            }
        }
        let given = self.noise.start.iter().chain(&self.noise.steps);
        if let Some(start) = given.into_iter().find(|noise| noise.len() < self.count.saturating_mul(per_item)) {
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

    /// Calls `f` with the denoiser of a batch with these labels: the network, guidance where it is active, and what
    /// bounds x_0.
    fn with_denoiser<T>(
        &self,
        model: &TrainedModel<'_>,
        labels: &[Option<usize>],
        evaluations: &Cell<usize>,
        device: &Device,
        f: impl FnOnce(&dyn Denoiser<4>) -> T,
    ) -> T {
        let plan = self.plan.as_ref();
        let scale = self.guidance.scale;
        let plain = model.denoiser(condition(labels, device), plan, evaluations);
        if !self.guidance.is_active() {
            return self.with_bounded(&*plain, f);
        }
        if let Some(guide) = model.guide {
            let known: Vec<Option<usize>> = labels.iter().map(|label| guide.classes.and(*label)).collect();
            let weaker = guide.denoiser(condition(&known, device), None, evaluations);
            return self.with_guided(&AutoGuidance { network: &*plain, guide: &*weaker, scale }, f);
        }
        let nulls = std::iter::repeat_n(model.null_class, labels.len());
        let twice: Vec<Option<usize>> = labels.iter().copied().chain(nulls).collect();
        let twice = model.denoiser(condition(&twice, device), plan, evaluations);
        let answers = Answers::Together { conditional: &*plain, twice: &*twice };
        self.with_guided(&ClassifierFree { answers, scale }, f)
    }

    /// Rescales the guided prediction, within the interval of guidance alone.
    fn with_guided<T>(&self, guide: &dyn Guide<4>, f: impl FnOnce(&dyn Denoiser<4>) -> T) -> T {
        let rescaled = Rescaled { inner: guide, phi: self.guidance.rescale, of: self.guidance.rescaled };
        self.with_bounded(&Within { inner: &rescaled, interval: self.guidance.interval }, f)
    }

    /// Bounds x_0: by dynamic thresholding, by the plan itself, or by clipping.
    fn with_bounded<T>(&self, inner: &dyn Denoiser<4>, f: impl FnOnce(&dyn Denoiser<4>) -> T) -> T {
        match self.guidance.threshold {
            Some(threshold) => f(&Thresholded { inner, threshold }),
            None if self.plan.is_some() => f(inner),
            None => f(&Clipped { inner, clip: self.clip }),
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
        let picture = if data.is_image() { 3 * data.shape[1..].iter().product::<usize>() } else { 0 };
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
            ClassChoice::InTurn => k.checked_rem(classes?),
        }
    }
}

/// A part of a job, made batch by batch.
struct PartRun<'a> {
    job: &'a SamplingJob,
    model: &'a TrainedModel<'a>,
    /// The axes of an item.
    item: [usize; 3],
    levels: &'a [NoiseLevel],
    /// The part of the job's plan that the task follows.
    plan: Option<Plan>,
    /// Which of the job's samples.
    part: Range<usize>,
    device: Device,
    /// Steps of the sampler.
    steps: usize,
    /// Network evaluations so far.
    evaluations: Cell<usize>,
}

impl PartRun<'_> {
    fn all_batches(&self, on_progress: &mut dyn FnMut(Progress)) -> Result<Samples, JobError> {
        let mut samples = self.without_values();
        for index in 0..self.batches() {
            self.batch(index, &mut samples, on_progress)?;
        }
        let per_sample: usize = samples.shape.iter().product();
        match samples.values.iter().position(|value| !value.is_finite()) {
            Some(position) => Err(JobError::NotFinite { sample: position / per_sample }),
            None => Ok(samples),
        }
    }

    fn batches(&self) -> usize {
        self.part.len().div_ceil(self.job.batch_size)
    }

    /// The result as it is before the first batch.
    fn without_values(&self) -> Samples {
        let frame = |steps_done| Frame { steps_done, values: Vec::new() };
        Samples {
            values: Vec::new(),
            shape: self.model.data.shape.clone(),
            labels: self.job.labels(self.part.clone(), self.model.classes),
            frames: frame_steps(self.job.frames, self.steps).into_iter().map(frame).collect(),
            row: self.job.task.row(),
            noise: Vec::new(),
        }
    }

    fn progress(&self, batch: usize, samples_done: usize, steps_done: usize) -> Progress {
        Progress {
            samples_done,
            samples: self.part.len(),
            batch,
            batches: self.batches(),
            steps_done,
            steps: self.steps.saturating_mul(self.job.task.passes()),
            evaluations: self.evaluations.get(),
        }
    }

    /// Makes batch `index` and appends it to `samples`.
    fn batch(
        &self,
        index: usize,
        samples: &mut Samples,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<(), JobError> {
        let start = index * self.job.batch_size;
        let batch = start..(start + self.job.batch_size).min(self.part.len());
        let made = self.denoise(index, &batch, samples, on_progress);
        if matches!(self.job.task, Task::Invert { .. }) {
            samples.noise.extend(on_host(made.start)?);
        }
        samples.values.extend(in_units(made.x_0, self.model.data)?);
        for (frame, x) in samples.frames.iter_mut().zip(made.frames.into_values()) {
            frame.values.extend(in_units(x, self.model.data)?);
        }
        let steps = self.steps.saturating_mul(self.job.task.passes());
        on_progress(self.progress(index, batch.end, steps));
        Ok(())
    }

    /// From noise to samples for the rows `batch` of the part.
    fn denoise(
        &self,
        index: usize,
        batch: &Range<usize>,
        samples: &Samples,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Denoising {
        let job = self.job;
        let ours = self.part.start + batch.start..self.part.start + batch.end;
        let [channels, height, width] = self.item;
        // How many rows there are is still open.
        let shape = [0, channels, height, width];
        let numbers = ours.clone().map(|k| job.task.noise_number(k)).collect();
        let mut noise = JobNoise::new(&job.noise, job.seed, job.count, ours.clone(), numbers, shape, &self.device);
        let place = Batch { samples: ours, shape, seed: job.seed, device: &self.device };

        let animated = animated(batch, self.model.data.space());
        // By the step, because a task may take one several times, the last time for good.
        let mut frames = BTreeMap::new();
        let mut keep = |steps_done: usize, x: &Tensor<4>| {
            if animated > 0 && samples.frames.iter().any(|frame| frame.steps_done == steps_done) {
                frames.insert(steps_done, x.clone().narrow(0, 0, animated));
            }
        };
        let mut steps_done = 0;
        let drawn = noise.start();
        let labels = &samples.labels[batch.clone()];
        let first = self.plan.as_ref().map_or_else(|| self.levels[0], Plan::first_level);
        let (start, x_0) = job.with_denoiser(self.model, labels, &self.evaluations, &self.device, |denoiser| {
            let filled = job.task.filled(denoiser, first, &drawn, &place);
            let denoiser = filled.as_ref().map_or(denoiser, |filled| filled);
            let x = match &self.plan {
                Some(plan) => job.task.hidden(first, plan.start, drawn, &place),
                None => job.task.start(denoiser, self.levels, drawn, &place),
            };
            keep(0, &x);
            let mut on_step = |step: Step<'_, 4>| {
                steps_done += 1;
                keep(step.index + 1, step.x);
                on_progress(self.progress(index, batch.start, steps_done));
            };
            let start = x.clone();
            let x_0 = match &self.plan {
                Some(plan) if job.guidance.threshold.is_some() => {
                    plan.run_clipped(denoiser, x, &mut noise, &mut on_step)
                }
                Some(plan) => plan.run(denoiser, x, &mut noise, &mut on_step),
                None => job.task.run(job.sampler, denoiser, self.levels, x, &mut noise, &mut on_step, &place),
            };
            let x_0 = match &filled {
                Some(filled) => filled.finish(x_0),
                None => x_0,
            };
            (start, x_0)
        });
        Denoising { start, x_0, frames }
    }
}

/// What came of a batch, still on the device.
struct Denoising {
    /// Where it started.
    start: Tensor<4>,
    x_0: Tensor<4>,
    /// x_t of the animated samples by the steps taken.
    frames: BTreeMap<usize, Tensor<4>>,
}

/// The clipping of x_0 that suits the data: images lie in [-1, 1], other data have no bounds.
pub fn clip_for(data: &DataInfo) -> Clip {
    match data.bounds() {
        Bounds::Bytes => Clip::Unit,
        Bounds::None => Clip::None,
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

/// At most `frames` counts of steps, evenly spread from 0 (pure noise) to `steps`.
fn frame_steps(frames: usize, steps: usize) -> Vec<usize> {
    match frames.min(steps + 1) {
        0 => Vec::new(),
        1 => vec![steps],
        frames => (0..frames).map(|i| i * steps / (frames - 1)).collect(),
    }
}

/// How many samples of a batch, from its first, are among the animated ones.
fn animated(batch: &Range<usize>, items: Space) -> usize {
    let limit = match items {
        Space::Images | Space::Latents => ANIMATED_IMAGES,
        Space::Points | Space::Series | Space::Other => ANIMATED_POINTS,
    };
    limit.saturating_sub(batch.start).min(batch.len())
}

fn on_host(x: Tensor<4>) -> Result<Vec<f32>, JobError> {
    x.try_into_vec_as().map_err(|error| JobError::Device { reason: error.to_string() })
}

/// Values on the host, images clamped to [-1, 1], everything in the units of the data.
fn in_units(x: Tensor<4>, data: &DataInfo) -> Result<Vec<f32>, JobError> {
    let mut values = on_host(x)?;
    if data.bounds() == Bounds::Bytes {
        values.iter_mut().for_each(|value| *value = value.clamp(-1.0, 1.0));
    }
    Ok(data.in_data_units(values))
}
