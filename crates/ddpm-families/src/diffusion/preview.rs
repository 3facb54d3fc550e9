//! Images made while training: always from the same noise, so that two of them can be compared.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_data::reference_points;
use ddpm_model::network::Network;
use ddpm_sampling::job::SamplingJob;
use ddpm_sampling::samplers::{Sampler, SamplerError, SamplerOptions};

use super::DiffusionFamily;
use crate::family::{AnyError, Preview, PreviewSetup};

/// All that a preview needs besides the weights.
pub struct SamplesPreview {
    job: SamplingJob,
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
        ..SamplingJob::of_data(sampler, process, &family.origin.data)
    })
}

impl SamplesPreview {
    /// Plans the previews of a run.
    pub fn new(family: &DiffusionFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let job = sampling_job(family, setup.seed, setup.count)?;
        let points = if family.origin.data.shape.len() == 1 { reference_points(setup.config) } else { None };
        Ok(Self { job, family: family.clone(), points, device: setup.device.clone() })
    }
}

impl Preview<Network> for SamplesPreview {
    fn draw(&self, network: &Network, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let samples = self.job.run(&self.family.trained_model(network), &self.device, &mut |_| {})?;
        let path = folder.join(name).with_extension("png");
        ddpm_render::write_overview(&path, &samples, self.points.as_deref())?;
        Ok(path)
    }
}
