//! A diffusion model for use: what every family's commands can ask of it. The command `sample` asks for more, and has a
//! [`SamplingJob`](ddpm_sampling::job::SamplingJob) of its own.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use ddpm_kernels::Precision;
use ddpm_model::network::Network;
use ddpm_render::Samples;
use ddpm_sampling::job::TrainedModel;

use super::DiffusionFamily;
use super::preview::{draw, sampling_job};
use super::tables::{DiffusionTables, PreviewKeys};
use crate::family::stored::ModelCard;
use crate::family::trained::{Draw, Generate, Trained};
use crate::family::{AnyError, Origin};
use crate::snapshot::{Snapshot, SnapshotConfig};

/// A diffusion model, sampled as the previews of its experiment were.
pub struct TrainedDiffusion {
    family: DiffusionFamily,
    network: Network,
    device: Device,
    card: ModelCard,
}

impl TrainedDiffusion {
    /// A network of this family.
    pub(super) fn new(family: DiffusionFamily, network: Network, card: ModelCard) -> Self {
        let device = network.devices().into_iter().next().unwrap_or_default();
        Self { family, network, device, card }
    }

    /// Opens a snapshot of this family, or a folder of diffusers.
    pub fn open(path: &Path, device: &Device, precision: Precision) -> Result<Self, AnyError> {
        let Snapshot { config, network, frozen, .. } = Snapshot::load(path, device)?;
        let network = network.in_precision(precision);
        let card = config.card()?;
        let SnapshotConfig { data, source, experiment, sampling, text, .. } = config;
        let mut tables = DiffusionTables::of(config.network, config.diffusion);
        if let Some(sampling) = sampling {
            tables.preview = PreviewKeys {
                sampler: sampling.sampler,
                steps: sampling.steps,
                guidance: sampling.guidance,
                ..PreviewKeys::default()
            };
        }
        tables.preview.prompts = text.map(|text| text.prompts).unwrap_or_default();
        let family = DiffusionFamily::with_parts(tables, Origin { experiment, data, source }, frozen, false);
        let family = family.map_err(|(key, message)| format!("{}: {key}: {message}", path.display()))?;
        Ok(Self::new(family, network, card))
    }
}

impl Trained for TrainedDiffusion {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn generate(&self) -> Option<&dyn Generate> {
        Some(self)
    }
}

impl Generate for TrainedDiffusion {
    fn generate(&self, how: &Draw, first: u64, count: usize) -> Result<Samples, AnyError> {
        let (first, family) = (first as usize, &self.family);
        let job = sampling_job(family, how.seed, first + count)?;
        let prompts = &family.tables.preview.prompts;
        draw(family, &self.network, &job, first..first + count, prompts, &self.device)
    }
}

impl DiffusionFamily {
    /// A network as a sampling job takes it.
    pub(super) fn trained_model<'a>(&'a self, network: &'a Network) -> TrainedModel<'a> {
        let self_conditioned = self.tables.diffusion.self_conditioning;
        TrainedModel::of_network(network, &self.process, &self.denoised, self_conditioned)
    }
}
