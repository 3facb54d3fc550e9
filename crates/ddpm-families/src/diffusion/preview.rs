//! Images made while training: always from the same noise, so that two of them can be compared.

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split, reference_points, three_axes};
use ddpm_model::network::Network;
use ddpm_render::Samples;
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::{SamplingJob, TrainedModel};
use ddpm_sampling::prompts::Prompted;
use ddpm_sampling::samplers::{Sampler, SamplerError, SamplerOptions};

use super::DiffusionFamily;
use crate::family::{AnyError, Preview, PreviewSetup};
use crate::items::batch_of;

/// All that a preview needs besides the weights.
pub struct SamplesPreview {
    job: SamplingJob,
    prompts: Vec<String>,
    family: DiffusionFamily,
    /// Points to draw next to the samples.
    points: Option<Vec<f32>>,
    device: Device,
}

/// Samples as an experiment's previews are drawn.
pub(super) fn sampling_job(family: &DiffusionFamily, seed: u64, count: usize) -> Result<SamplingJob, SamplerError> {
    let (keys, process) = (&family.tables.preview, &family.process);
    let options = SamplerOptions { variance: process.variance(), ..SamplerOptions::default() };
    let sampler = Sampler::new(&keys.sampler, options)?;
    Ok(SamplingJob {
        count,
        seed,
        batch_size: count.min(256),
        steps: Some(keys.steps),
        guidance: Guidance { scale: keys.guidance.unwrap_or(1.0), ..Guidance::default() },
        ..SamplingJob::of_data(sampler, process, &family.denoised)
    })
}

/// Some samples of a job: under these prompts in turn, where the network is conditioned on text, and as images, where it
/// denoises latents.
pub(super) fn draw(
    family: &DiffusionFamily,
    network: &Network,
    job: &SamplingJob,
    part: Range<usize>,
    prompts: &[String],
    device: &Device,
) -> Result<Samples, AnyError> {
    let model = family.trained_model(network);
    let samples = match &family.noising.captions {
        None => job.run_part(&model, part, device, &mut |_| {})?,
        Some(captions) => {
            let none = [String::new()];
            let prompts = if prompts.is_empty() { &none[..] } else { prompts };
            let tokens = captions.tokens(&[prompts, &none].concat(), device);
            let prompted = Prompted::new(network, tokens);
            let self_conditioned = model.self_conditioned;
            let model = TrainedModel { self_conditioned, ..prompted.model(&family.process, &family.denoised) };
            let samples = job.run_part(&model, part, device, &mut |_| {})?;
            // They are numbers of prompts, and no classes of the data.
            Samples { labels: vec![None; samples.count()], ..samples }
        }
    };
    Ok(decoded(family, samples))
}

/// Latents at once that become images.
const DECODED_AT_ONCE: usize = 16;

/// The images that samples stand for.
fn decoded(family: &DiffusionFamily, samples: Samples) -> Samples {
    let Some(encoder) = &family.noising.latents else { return samples };
    let shape = three_axes(&family.denoised.shape);
    let size: usize = shape.iter().product();
    let decode = |latents: &[f32]| encoder.stage.decode(batch_of(latents.to_vec(), shape, &encoder.stage.device()));
    let images = samples.values.chunks(DECODED_AT_ONCE * size).map(decode);
    let values = images.flat_map(|images| images.clamp(-1.0, 1.0).into_data().iter::<f32>().collect::<Vec<f32>>());
    Samples { values: values.collect(), shape: family.origin.data.shape.clone(), ..samples }
}

/// Captions of held-out items, spread over all of them: of the train split where there is no other.
fn held_out_captions(config: &DataConfig, count: usize) -> Result<Vec<String>, AnyError> {
    let data = ddpm_data::open(config, Split::Test, 0).or_else(|_| ddpm_data::open(config, Split::Train, 0))?;
    let items = data.items.len();
    let count = count.min(items);
    let caption = |k: usize| Ok(data.items.get(k * items / count)?.caption.unwrap_or_default().into());
    (0..count).map(caption).collect()
}

impl SamplesPreview {
    /// Plans the previews of a run.
    pub fn new(family: &DiffusionFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let job = sampling_job(family, setup.seed, setup.count)?;
        let points = if family.origin.data.is_point() { reference_points(setup.config) } else { None };
        let prompts = match (&family.noising.captions, &family.tables.preview.prompts[..]) {
            (Some(_), []) => held_out_captions(setup.config, setup.count)?,
            (_, prompts) => prompts.to_vec(),
        };
        Ok(Self { job, prompts, family: family.clone(), points, device: setup.device.clone() })
    }
}

impl Preview<Network> for SamplesPreview {
    fn draw(&self, network: &Network, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let samples = draw(&self.family, network, &self.job, 0..self.job.count, &self.prompts, &self.device)?;
        let path = folder.join(name).with_extension("png");
        ddpm_render::write_overview(&path, &samples, self.points.as_deref())?;
        Ok(path)
    }
}
