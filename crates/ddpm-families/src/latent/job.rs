//! A job over a latent pipeline: what the images show, what they start from, and how latents are sampled and decoded.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use ddpm_model::diffusion::Diffusion;
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::{ClassChoice, JobError, Predictor, Progress, Samples, SamplingJob, TrainedModel};
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::prompts::Prompted;
use ddpm_sampling::samplers::NoiseSource;
use ddpm_sampling::tasks::Task;

use super::{ImageSizes, LatentError, LatentPipeline};
use crate::diffusers::Tables;
use crate::diffusers::unet_config::MOST_PIXELS;
use crate::usual_sampling::advised_sampler;

/// Steps of a pipeline of diffusers, unless it says otherwise.
const USUAL_STEPS: usize = 50;
/// Images of 512x512 that are made at once unless a job says otherwise; of smaller ones more.
const USUAL_BATCH: usize = 8;
const PIXELS_OF_USUAL_BATCH: usize = USUAL_BATCH * 512 * 512;
/// Images at most that are made at once unless a job says otherwise.
const LARGEST_USUAL_BATCH: usize = 128;
/// Pixels of all images that are encoded or decoded at once, unless one image has more: of more the features would take
/// gigabytes, and nothing would be faster.
const PIXELS_AT_ONCE: usize = 512 * 512;
/// The numbers of the noise by which images, and images without what is repainted, are encoded: beyond those of any step.
const POSTERIOR_NOISE: [usize; 2] = [u32::MAX as usize, u32::MAX as usize - 1];

/// What the samples show.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// Sample k shows prompt k mod their number.
    Prompts {
        /// The prompts, one at least.
        prompts: Vec<String>,
        /// What guidance leads away from; without one the empty prompt, or nothing at all in Stable Diffusion XL.
        negative: Option<String>,
    },
    /// Sample k is of class k mod their number.
    Classes(Vec<usize>),
    /// Whatever the network makes.
    Anything,
}

/// Images that samples start from; sample k from image k mod their number.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenImages {
    /// Values between -1 and 1, row-major, image after image.
    pub images: Vec<f32>,
    /// Which pixels are generated, of one mask or of one for each image; without it the whole image is.
    pub mask: Option<Vec<bool>>,
    /// Share of the steps that is taken.
    pub strength: f64,
    /// The normal values by which the images, and the images without what is generated, are encoded; without them they follow
    /// from the seed.
    pub posterior_noise: [Option<Vec<f32>>; 2],
}

/// What to draw with a pipeline.
#[derive(Clone, Debug)]
pub struct LatentJob {
    /// What the samples show.
    pub subject: Subject,
    /// What they start from, besides noise.
    pub given: Option<GivenImages>,
    /// Height and width of the images.
    pub size: [usize; 2],
    /// The sizes that a network of Stable Diffusion XL is conditioned on; without them those of the images.
    pub sizes: Option<ImageSizes>,
    /// Layers of the text encoder that are left out for the prompts.
    pub clip_skip: usize,
    /// A grid: so many samples of every prompt or class, one after the other; the first ones of all come from the same noise,
    /// and so do the second ones.
    pub grid: Option<usize>,
    /// How latents are sampled; task and class follow from the rest.
    pub sampling: SamplingJob,
}

/// What a job makes.
#[derive(Clone, Debug)]
pub struct LatentSamples {
    /// Latents as the network makes them.
    pub latents: Samples,
    /// Images between -1 and 1.
    pub images: Samples,
}

impl Subject {
    /// How many prompts or classes there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Prompts { prompts, .. } => prompts.len(),
            Self::Classes(classes) => classes.len(),
            Self::Anything => 1,
        }
    }
}

fn usual_batch([height, width]: [usize; 2]) -> usize {
    (PIXELS_OF_USUAL_BATCH / (height * width).max(1)).clamp(USUAL_BATCH, LARGEST_USUAL_BATCH)
}

impl LatentPipeline {
    /// A job with the scheduler of the pipeline: `steps` steps, or as many as are usual, and `eta` as the share of noise in DDIM.
    /// Guidance, size and count are the usual ones; change what you need.
    pub fn job(&self, subject: Subject, steps: Option<usize>, eta: f64) -> Result<LatentJob, LatentError> {
        self.job_by(subject, steps, eta, Tables::Exact)
    }

    /// As [`job`](Self::job), with the schedule in this arithmetic.
    pub fn job_by(
        &self,
        subject: Subject,
        steps: Option<usize>,
        eta: f64,
        tables: Tables,
    ) -> Result<LatentJob, LatentError> {
        let diffusion = self.diffusion()?;
        let plan = match diffusion {
            Diffusion::Discrete(_) => {
                let usual = || USUAL_STEPS.min(self.scheduler.diffusion.schedule.steps());
                let plan = self.scheduler.plan(steps.unwrap_or_else(usual), eta, tables);
                Some(plan.map_err(|error| LatentError::Scheduler { class: self.scheduler.class(), error })?)
            }
            // Such a process is one of ours, of which no scheduler of diffusers knows.
            Diffusion::Continuous(_) => None,
        };
        let scale = match &subject {
            Subject::Anything => 1.0,
            Subject::Classes(_) => 4.0,
            Subject::Prompts { .. } if self.text.as_ref().is_some_and(|text| text.pooled_width().is_some()) => 5.0,
            Subject::Prompts { .. } => 7.5,
        };
        let sampler = plan.as_ref().map_or_else(|| advised_sampler(&diffusion), |plan| plan.sampler);
        let sampling = SamplingJob {
            count: subject.count(),
            batch_size: usual_batch(self.image_size()),
            guidance: self.guidance(scale),
            ..SamplingJob::of_data(sampler, &diffusion, &self.latent_info(self.latent_size))
        };
        let sampling = SamplingJob { plan, steps, ..sampling };
        Ok(LatentJob { subject, given: None, size: self.image_size(), sizes: None, clip_skip: 0, grid: None, sampling })
    }

    /// Guidance at a scale, which is rescaled as the pipelines of diffusers do.
    pub fn guidance(&self, scale: f64) -> Guidance {
        Guidance { scale, rescaled: self.scheduler.diffusion.prediction, ..Guidance::default() }
    }

    /// Latents `[N, C, h, w]` on the host as images between -1 and 1.
    fn decode(&self, latents: &Samples, at_once: usize) -> Result<Samples, LatentError> {
        let [channels, height, width] = match latents.shape[..] {
            [channels, height, width] => [channels, height, width],
            _ => return Err(JobError::Rank { shape: latents.shape.clone() }.into()),
        };
        let per_item = channels * height * width;
        let at_once = if self.tiles.is_some() {
            1
        } else {
            at_once.min(images_at_once(height * width * self.first_stage.factor().pow(2)))
        };
        let mut images = Samples { row: latents.row, labels: latents.labels.clone(), ..Samples::default() };
        for batch in latents.values.chunks(per_item * at_once.max(1)) {
            let shape = [batch.len() / per_item, channels, height, width];
            let z = Tensor::<4>::from_data(TensorData::new(batch.to_vec(), shape), &self.device);
            let decoded = self.first_stage.decode_in(z, self.tiles);
            images.shape = decoded.dims()[1..].to_vec();
            images.values.extend(on_host(decoded)?.into_iter().map(|value| value.clamp(-1.0, 1.0)));
        }
        Ok(images)
    }
}

impl LatentJob {
    /// Does the job, and reports every step.
    pub fn run(
        &self,
        pipeline: &LatentPipeline,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<LatentSamples, LatentError> {
        self.run_part(pipeline, &pipeline.network, 0..self.sampling.count, on_progress)
    }

    /// Makes only some of the job's samples, by this network in place of that of the pipeline: it may observe what it is called
    /// with. All parts together are the samples of the whole.
    pub fn run_part(
        &self,
        pipeline: &LatentPipeline,
        network: &dyn Predictor,
        part: Range<usize>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<LatentSamples, LatentError> {
        let shape = self.latent_shape(pipeline)?;
        let start = self.start(pipeline, shape)?;
        let model = self.conditioned(pipeline, network, &start)?.keeping(shape[0]);
        let diffusion = pipeline.diffusion()?;
        let data = pipeline.latent_info([shape[1], shape[2]]);
        // In a grid the task says which prompt or class is next.
        let class = if self.grid.is_some() { ClassChoice::Any } else { ClassChoice::InTurn };
        let sampling = SamplingJob { task: start.task, class, ..self.sampling.clone() };
        let self_conditioned = pipeline.scheduler.diffusion.self_conditioning;
        let model = TrainedModel { self_conditioned, ..model.model(&diffusion, &data) };
        let latents = sampling.run_part(&model, part, &pipeline.device, on_progress)?;
        let images = pipeline.decode(&latents, sampling.batch_size)?;
        Ok(LatentSamples { latents, images })
    }

    /// The shape of the latents, if the pipeline can make them.
    fn latent_shape(&self, pipeline: &LatentPipeline) -> Result<[usize; 3], LatentError> {
        let [height, width] = self.size;
        let image = [pipeline.image_channels(), height.min(MOST_PIXELS), width.min(MOST_PIXELS)];
        let shape = pipeline.first_stage.latent_shape(&image)?;
        let channels = if pipeline.sees_masked_images() { 2 * shape[0] + 1 } else { shape[0] };
        pipeline.network.check_input(&[1, channels, shape[1], shape[2]])?;
        Ok(shape)
    }

    /// The network under what the samples show.
    fn conditioned<'a>(
        &self,
        pipeline: &LatentPipeline,
        network: &'a dyn Predictor,
        start: &Start,
    ) -> Result<Prompted<'a>, LatentError> {
        let device = &pipeline.device;
        let rows = start.channels.as_ref().map(|channels| channels.dims()[0]);
        let prompted = match (&self.subject, &pipeline.text, pipeline.classes()) {
            (Subject::Prompts { prompts, negative }, Some(text), _) if !prompts.is_empty() => {
                // A row of more channels is one of a sample, and not of a prompt.
                let prompts = repeated(prompts, rows.unwrap_or(prompts.len()));
                let sizes = self.sizes.unwrap_or_else(|| ImageSizes::of(self.size));
                Prompted::new(network, text.tokens(&prompts, negative.as_deref(), self.clip_skip, sizes)?)
            }
            (Subject::Classes(classes), None, Some(known)) if !classes.is_empty() => {
                if let Some(class) = classes.iter().find(|class| **class >= known) {
                    return Err(JobError::NoSuchClass { class: *class, classes: known }.into());
                }
                Prompted::of_classes(network, classes, pipeline.network.null_class(), device)
            }
            (Subject::Anything, None, None) => Prompted::of_nothing(network),
            (_, Some(_), _) => return Err(pipeline.cannot("makes images of prompts: give one at least")),
            (_, _, Some(known)) => {
                return Err(pipeline.cannot(format!("makes images of the classes 0 to {}, not of prompts", known - 1)));
            }
            _ => return Err(pipeline.cannot("makes images of its data, not of prompts or classes")),
        };
        Ok(match &start.channels {
            Some(channels) => prompted.with_channels(channels.clone()),
            None => prompted,
        })
    }

    /// What the samples start from.
    fn start(&self, pipeline: &LatentPipeline, shape: [usize; 3]) -> Result<Start, LatentError> {
        let sees_masked = pipeline.sees_masked_images();
        let Some(given) = &self.given else {
            return match (sees_masked, self.grid) {
                (true, _) => {
                    Err(pipeline.cannot("of this network repaints a part of an image: give an image and a mask"))
                }
                (false, Some(per_class)) => Ok(Start { task: Task::ClassGrid { per_class }, channels: None }),
                (false, None) => Ok(Start { task: Task::Sample, channels: None }),
            };
        };
        if self.grid.is_some() {
            return Err(pipeline.cannot("draws a grid out of noise, not out of images"));
        }
        let images = Images::new(self, given, pipeline, shape)?;
        let (strength, whole) = (given.strength, given.strength >= 1.0);
        match (&given.mask, sees_masked) {
            (None, true) => Err(pipeline.cannot("of this network repaints a part of an image: give a mask as well")),
            (None, false) => Ok(Start { task: Task::Resemble { given: images.encoded()?, strength }, channels: None }),
            (Some(mask), false) => {
                let known = images.known(mask)?;
                Ok(Start { task: Task::Fill { given: images.encoded()?, known, strength }, channels: None })
            }
            (Some(mask), true) => {
                let channels = Some(images.channels(mask)?);
                let task = match whole {
                    true => Task::Sample,
                    false => Task::Resemble { given: images.encoded()?, strength },
                };
                Ok(Start { task, channels })
            }
        }
    }
}

/// What samples start from.
struct Start {
    task: Task,
    /// More channels of the network's input, a row for each sample.
    channels: Option<Tensor<4>>,
}

/// Given images with what is needed to encode them.
struct Images<'a> {
    job: &'a LatentJob,
    given: &'a GivenImages,
    pipeline: &'a LatentPipeline,
    /// Of a latent.
    latent: [usize; 3],
    count: usize,
}

impl<'a> Images<'a> {
    fn new(
        job: &'a LatentJob,
        given: &'a GivenImages,
        pipeline: &'a LatentPipeline,
        latent: [usize; 3],
    ) -> Result<Self, LatentError> {
        let [height, width] = job.size;
        let per_item = pipeline.image_channels() * height * width;
        let found = given.images.len();
        if found == 0 || !found.is_multiple_of(per_item) {
            return Err(pipeline.cannot(format!(
                "starts from images of {} channels and {height}x{width} pixels, not from {found} values",
                pipeline.image_channels()
            )));
        }
        Ok(Self { job, given, pipeline, latent, count: found / per_item })
    }

    fn tensor(&self, values: Vec<f32>) -> Tensor<4> {
        let [height, width] = self.job.size;
        let shape = [self.count, self.pipeline.image_channels(), height, width];
        Tensor::from_data(TensorData::new(values, shape), &self.pipeline.device)
    }

    /// A sample of the posterior of images, by given noise or by that of the seed.
    fn encode(&self, images: Vec<f32>, which: usize) -> Result<Tensor<4>, LatentError> {
        let [channels, height, width] = self.latent;
        let (shape, device) = ([self.count, channels, height, width], &self.pipeline.device);
        let noise = match &self.given.posterior_noise[which] {
            Some(noise) if noise.len() == shape.iter().product::<usize>() => {
                Tensor::from_data(TensorData::new(noise.clone(), shape), device)
            }
            Some(noise) => {
                return Err(self
                    .pipeline
                    .cannot(format!("encodes with noise of shape {shape:?}, not {} values", noise.len())));
            }
            None => SampleNoise::new(self.job.sampling.seed, 0..self.count, shape, device).step(POSTERIOR_NOISE[which]),
        };
        let (images, [rows, columns]) = (self.tensor(images), self.job.size);
        let at_once = images_at_once(rows * columns);
        let encoded = (0..self.count).step_by(at_once).map(|first| {
            let count = at_once.min(self.count - first);
            let (images, noise) = (images.clone().narrow(0, first, count), noise.clone().narrow(0, first, count));
            self.pipeline.first_stage.encode_in(images, Some(noise), self.pipeline.tiles)
        });
        Ok(Tensor::cat(encoded.collect(), 0))
    }

    /// The latents of the images.
    fn encoded(&self) -> Result<Vec<f32>, LatentError> {
        Ok(on_host(self.encode(self.given.images.clone(), 0)?)?)
    }

    /// Which pixels are generated, of every image.
    fn new_pixels(&self, mask: &[bool]) -> Result<Vec<bool>, LatentError> {
        let [height, width] = self.job.size;
        match mask.len() {
            found if found == height * width => Ok(mask.repeat(self.count)),
            found if found == self.count * height * width => Ok(mask.to_vec()),
            found => Err(self.pipeline.cannot(format!(
                "repaints by a mask of {height}x{width} pixels, or one for each image, not of {found} values"
            ))),
        }
    }

    /// The same for the pixels of latents: the top left pixel counts.
    fn new_latent_pixels(&self, mask: &[bool]) -> Result<Vec<bool>, LatentError> {
        let ([height, width], factor) = (self.job.size, self.pipeline.first_stage.factor());
        let pixels = self.new_pixels(mask)?;
        let rows = (0..self.count * height).step_by(factor);
        let [_, _, columns] = self.latent;
        Ok(rows
            .flat_map(|row| (0..columns).map(move |column| row * width + column * factor))
            .map(|at| pixels[at])
            .collect())
    }

    /// Which values of the latents stay.
    fn known(&self, mask: &[bool]) -> Result<Vec<bool>, LatentError> {
        let [channels, height, width] = self.latent;
        let new = self.new_latent_pixels(mask)?;
        let known = |image: &[bool]| image.iter().map(|new| !new).collect::<Vec<_>>().repeat(channels);
        Ok(new.chunks(height * width).flat_map(known).collect())
    }

    /// The mask and the latents of the images without what is generated, for every sample.
    fn channels(&self, mask: &[bool]) -> Result<Tensor<4>, LatentError> {
        let [_, height, width] = self.latent;
        let device = &self.pipeline.device;
        let new: Vec<f32> = self.new_latent_pixels(mask)?.into_iter().map(|new| f32::from(u8::from(new))).collect();
        let new = Tensor::<4>::from_data(TensorData::new(new, [self.count, 1, height, width]), device);
        let [image_height, image_width] = self.job.size;
        let (pixels, channels) = (self.new_pixels(mask)?, self.pipeline.image_channels());
        let new_values = pixels.chunks(image_height * image_width).flat_map(|image| image.repeat(channels));
        let masked = self.given.images.iter().zip(new_values).map(|(value, new)| if new { 0.0 } else { *value });
        // Diffusers draws the noise of images first, and only where it encodes them.
        let which = usize::from(self.given.strength < 1.0);
        let of_image = Tensor::cat(vec![new, self.encode(masked.collect(), which)?], 1);
        let rows: Vec<i64> = (0..self.job.sampling.count as i64).map(|k| k % self.count as i64).collect();
        let rows = Tensor::from_data(TensorData::new(rows, [self.job.sampling.count]), device);
        Ok(of_image.select(0, rows))
    }
}

/// How many images of so many pixels are encoded or decoded at once.
fn images_at_once(pixels: usize) -> usize {
    (PIXELS_AT_ONCE / pixels.max(1)).max(1)
}

/// As many as `count`, from the first on and again.
fn repeated(prompts: &[String], count: usize) -> Vec<String> {
    prompts.iter().cycle().take(count.max(1)).cloned().collect()
}

fn on_host(x: Tensor<4>) -> Result<Vec<f32>, JobError> {
    x.try_into_vec_as().map_err(|error| JobError::Device { reason: error.to_string() })
}
