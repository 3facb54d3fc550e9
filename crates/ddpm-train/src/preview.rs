//! Pictures made while training: always from the same noise, so that two of them can be compared.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_data::DataInfo;
use ddpm_infer::job::{JobError, SamplingJob, TrainedModel};
use ddpm_infer::pictures::{self, PictureError};
use ddpm_infer::samplers::{Sampler, SamplerError, SamplerOptions};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::Network;

use crate::config::PreviewConfig;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The sampler does not exist.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The samples could not be made.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The picture could not be made or written.
    #[error(transparent)]
    Picture(#[from] PictureError),
}

/// All that a preview needs besides the weights.
pub struct Preview {
    job: SamplingJob,
    diffusion: Diffusion,
    self_conditioned: bool,
    data: DataInfo,
    /// Points to draw beside the samples.
    beside: Option<Vec<f32>>,
    device: Device,
}

impl Preview {
    /// Plans the pictures of a run; none where their count is 0.
    pub fn new(
        config: &PreviewConfig,
        seed: u64,
        diffusion: Diffusion,
        self_conditioned: bool,
        data: DataInfo,
        beside: Option<Vec<f32>>,
        device: Device,
    ) -> Result<Option<Self>, PreviewError> {
        if config.count == 0 {
            return Ok(None);
        }
        let options = SamplerOptions { variance: diffusion.variance(), ..SamplerOptions::default() };
        let sampler = Sampler::new(&config.sampler, options)?;
        let job = SamplingJob {
            count: config.count,
            seed,
            batch_size: config.count.min(256),
            steps: Some(config.steps),
            ..SamplingJob::of_data(sampler, &diffusion, &data)
        };
        Ok(Some(Self { job, diffusion, self_conditioned, data, beside, device }))
    }

    /// Draws `folder/name.png` from these weights.
    pub fn draw(&self, network: &Network, folder: &Path, name: &str) -> Result<PathBuf, PreviewError> {
        let classes = network.num_classes();
        let model = TrainedModel {
            classes: (classes > 0).then_some(classes),
            null_class: network.null_class(),
            self_conditioned: self.self_conditioned,
            ..TrainedModel::new(network, &self.diffusion, &self.data)
        };
        let samples = self.job.run(&model, &self.device, &mut |_| {})?;
        let path = folder.join(name).with_extension("png");
        pictures::write_overview(&path, &samples, self.beside.as_deref())?;
        Ok(path)
    }
}
