//! The family `vae`: autoencoders, variational autoencoders and beta-VAEs (Kingma & Welling 2014, Higgins et al. 2017).

mod latent_scale;
pub mod likelihood;
pub mod measure;
pub mod preview;
pub mod tables;
pub mod trained;

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ddpm_data::augment::AugmentConfig;
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{DataInfo, StreamItem, Units, three_axes};
use ddpm_kernels::Precision;
use ddpm_model::autoencoder::diagonal_gaussian::DiagonalGaussian;
use ddpm_model::autoencoder::elbo;
use ddpm_model::autoencoder::{Autoencoder, AutoencoderConfig};
use ddpm_model::network::MemoryEstimate;
use ddpm_model::pass::Pass;
use serde::{Deserialize, Serialize};

use self::likelihood::{Likelihood, LikelihoodKind};
use self::tables::{DecoderVariance, ObjectiveConfig, VaeTables};
use self::trained::TrainedVae;
use crate::diffusers::autoencoder::{describe_autoencoder, is_autoencoder, load_autoencoder, write_autoencoder};
use crate::family::stored::{self, ModelCard};
use crate::family::trained::Trained;
use crate::family::{
    AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Progress, StepLosses,
    Subject,
};
use crate::items::batch_of;
use crate::loss_sum::LossSum;
use crate::parameters::settle;
use crate::snapshot::{SnapshotError, Written};

/// Variational autoencoders of images or points.
#[derive(Clone, Debug)]
pub struct VaeFamily {
    tables: VaeTables,
    likelihood: Likelihood,
    /// The shape of an item, with three axes.
    shape: [usize; 3],
    latent: [usize; 3],
    origin: Origin,
}

/// What is trained.
#[derive(Module, Debug)]
pub struct Vae {
    /// Encoder and decoder.
    pub network: Autoencoder,
    /// `ln sigma` of a Gaussian likelihood, where it is learned.
    pub log_sigma: Option<Param<Tensor<4>>>,
    #[module(skip)]
    precision: Precision,
}

/// Items with the noise of their latents.
#[derive(Clone, Debug)]
pub struct VaeBatch {
    x: Tensor<4>,
    noise: Tensor<4>,
    /// Steps that were taken before.
    step: u64,
}

/// Steps taken, and the terms of the loss since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeMemory {
    step: u64,
    reconstruction: LossSum,
    kl: LossSum,
}

impl Vae {
    /// `q(z|x)` of items `[B, C, H, W]`.
    pub fn encode(&self, x: Tensor<4>, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        self.network.encode(x, self.precision, pass)
    }

    /// The numbers that say `p(x|z)`, `[B, outputs, H, W]`, of latents.
    pub fn decode(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        self.network.decode(z, self.precision, pass)
    }

    /// `ln sigma` of a Gaussian likelihood, where it is learned.
    pub fn log_sigma(&self) -> Option<Tensor<4>> {
        self.log_sigma.as_ref().map(Param::val)
    }
}

impl VaeFamily {
    /// The family for data of which only the description is known.
    pub fn new(mut tables: VaeTables, origin: Origin) -> Self {
        let (keys, shape) = (&tables.vae, three_axes(&origin.data.shape));
        let likelihood = Likelihood {
            kind: keys.likelihood,
            mixtures: keys.mixtures,
            levels: keys.levels,
            variance: keys.variance,
            sigma: keys.sigma,
            of_images: origin.data.is_image(),
        };
        let gaussian_images = likelihood.of_images && likelihood.kind == LikelihoodKind::Gaussian;
        let model = tables.model.with_io(shape, likelihood.outputs(shape[0]));
        tables.model = model.with_gaussian_images(gaussian_images);
        Self { likelihood, shape, latent: tables.model.latent_shape(shape), tables, origin }
    }

    /// The noise of latents: that of item k follows from the seed, the stream and k alone.
    fn noise(&self, seed: u64, stream: Stream, places: impl Iterator<Item = u64>, device: &Device) -> Tensor<4> {
        let size = self.latent.iter().product();
        let values = places.flat_map(|place| normals(&mut rng(seed, stream, place), size)).collect();
        batch_of(values, self.latent, device)
    }

    /// The terms of the loss of items, with this noise of their latents.
    fn terms(&self, model: &Vae, x: Tensor<4>, noise: Tensor<4>, pass: &Pass<'_>) -> Terms {
        let pass = pass.inside(format_args!("network"));
        let posterior = model.encode(x.clone(), &pass);
        let z = if self.tables.vae.is_variational() { posterior.sample(noise) } else { posterior.mean() };
        let decoded = model.decode(z, &pass);
        let nats = |decoded, log_sigma| -self.likelihood.log_prob(x.clone(), decoded, log_sigma);
        match model.log_sigma() {
            // The parameter follows the optimum of the batches, for later evaluation: it has the gradient of a learned one, of
            // a term that is zero.
            Some(parameter) if self.likelihood.variance == DecoderVariance::Optimal => {
                let optimum = self.likelihood.optimal_log_sigma(x.clone(), decoded.clone());
                let follows = nats(decoded.clone().detach(), Some(parameter)).mean();
                let follows = Some(follows.clone() - follows.detach());
                Terms { posterior, reconstruction: nats(decoded, Some(optimum)), follows }
            }
            log_sigma => Terms { posterior, reconstruction: nats(decoded, log_sigma), follows: None },
        }
    }
}

/// What there is to say of an autoencoder of diffusers: its images, and a likelihood that its files do not name.
fn foreign_card(folder: &Path) -> Result<ModelCard, SnapshotError> {
    let config = describe_autoencoder(folder)?;
    let shape = vec![config.in_channels, config.sample_size, config.sample_size];
    let units = Units::identity(config.in_channels);
    let data = DataInfo {
        name: "images".into(),
        shape,
        classes: Vec::new(),
        units,
        series: None,
        latent: false,
        has_captions: false,
    };
    let experiment = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let vae = ObjectiveConfig { variance: DecoderVariance::Fixed, sigma: 1.0, ..ObjectiveConfig::default() };
    let tables = VaeTables { augment: AugmentConfig::default(), model: AutoencoderConfig::Kl(config), vae };
    Ok(ModelCard::in_training(&VaeFamily::new(tables, Origin { experiment, data, source: None })))
}

/// The terms of the loss of a batch.
struct Terms {
    /// `q(z|x)`.
    posterior: DiagonalGaussian<4>,
    /// `-log p(x|z)` of each row, `[B]`.
    reconstruction: Tensor<1>,
    /// What a variance that is no parameter of the loss follows it by, `[1]`: zero, with a gradient.
    follows: Option<Tensor<1>>,
}

impl Family for VaeFamily {
    const NAME: &'static str = "vae";
    const ABOUT: &'static str = "autoencoders, variational autoencoders and beta-VAEs of images and points";
    const SECTIONS: &'static [(&'static str, &'static str)] = VaeTables::SECTIONS;
    const CURVES: &'static [(&'static str, &'static str)] =
        &[("reconstruction", "Reconstruction, in nats per item"), ("kl", "KL divergence, in nats per item")];
    const MEASURES: &'static [(&'static str, &'static str)] = measure::NAMES;

    type Tables = VaeTables;
    type Model = Vae;
    type Batch = VaeBatch;
    type Memory = VaeMemory;

    fn problems(tables: &VaeTables) -> Vec<Problem> {
        tables.problems()
    }

    fn notes(tables: &VaeTables) -> Vec<String> {
        tables.notes()
    }

    fn resolve(tables: VaeTables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        let problems = tables.problems_with_data(&subject.data.info);
        if problems.is_empty() { Ok(Self::new(tables, subject.origin())) } else { Err(problems) }
    }

    fn restored(tables: VaeTables, origin: Origin) -> Result<Self, AnyError> {
        match tables.problems_with_data(&origin.data).into_iter().next() {
            Some((key, message)) => Err(format!("{key}: {message}").into()),
            None => Ok(Self::new(tables, origin)),
        }
    }

    fn tables(&self) -> &VaeTables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn init(&self, device: &Device) -> Vae {
        let outputs = self.likelihood.outputs(self.shape[0]);
        let log_sigma = self.likelihood.sigma_shape(self.shape);
        let start = self.tables.vae.sigma.ln();
        Vae {
            network: self.tables.model.init(self.shape, outputs, device),
            log_sigma: log_sigma.map(|shape| Param::from_tensor(Tensor::full(shape, start, device))),
            precision: Precision::F32,
        }
    }

    fn set_precision(&self, model: &mut Vae, precision: Precision) {
        model.precision = precision;
        model.network.set_precision(precision);
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        let outputs = self.likelihood.outputs(self.shape[0]);
        MemoryEstimate::of(parameters, self.tables.model.kept_values(self.shape, outputs), batch)
    }

    fn augmentation(&self) -> AugmentConfig {
        self.tables.augment
    }

    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> VaeBatch {
        let noise = self.noise(seed, Stream::Noise, items.iter().map(|item| item.place), device);
        let values = items.into_iter().flat_map(|item| item.example.values).collect();
        VaeBatch { x: batch_of(values, self.shape, device), noise, step: 0 }
    }

    fn to_device(&self, batch: VaeBatch, device: &Device) -> VaeBatch {
        VaeBatch { x: batch.x.to_device(device), noise: batch.noise.to_device(device), ..batch }
    }

    /// Minus the evidence lower bound, or one of its relatives.
    fn losses(&self, model: &Vae, batch: &VaeBatch, pass: &Pass<'_>) -> Losses {
        let Terms { posterior, reconstruction, follows } =
            self.terms(model, batch.x.clone(), batch.noise.clone(), pass);
        let kl: Tensor<2> = posterior.kl_by_dimension().flatten(1, 3);
        let kl_rows = kl.clone().sum_dim(1).squeeze_dim::<1>(1);
        let loss = elbo::loss(-reconstruction.clone(), kl, self.tables.vae.kl_term(batch.step));
        let rows = if self.tables.vae.is_variational() {
            reconstruction.clone() + kl_rows.clone()
        } else {
            reconstruction.clone()
        };
        Losses {
            loss: follows.into_iter().fold(loss, |loss, term| loss + term),
            rows: rows.detach(),
            parts: vec![reconstruction.mean().detach(), kl_rows.mean().detach()],
        }
    }

    fn first_memory(&self) -> VaeMemory {
        VaeMemory::default()
    }

    /// The weight and the capacity rise with the steps.
    fn redraw(&self, batch: &mut VaeBatch, memory: &VaeMemory, _: u64) {
        batch.step = memory.step;
    }

    fn remember(&self, memory: &mut VaeMemory, step: &StepLosses) {
        memory.step += 1;
        if let [reconstruction, kl] = step.parts[..] {
            memory.reconstruction.add(reconstruction);
            memory.kl.add(kl);
        }
    }

    fn curves(&self, memory: &VaeMemory) -> Vec<Option<f64>> {
        vec![memory.reconstruction.mean(), memory.kl.mean()]
    }

    fn clear_sums(&self, memory: &mut VaeMemory) {
        (memory.reconstruction, memory.kl) = Default::default();
    }

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<Vae>>, AnyError> {
        Ok(Box::new(measure::ElboOfHeldOut::read(self, setup)?))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<Vae>>, AnyError> {
        Ok(Box::new(preview::VaePreview::read(self, setup)?))
    }

    /// The autoencoder of latent diffusion is written as diffusers has it, and its learned sigma into its tables.
    fn save(&self, model: &Vae, progress: Progress, dir: &Path) -> Result<Written, SnapshotError> {
        let Autoencoder::Kl(network) = &model.network else { return stored::save(self, model, progress, dir) };
        let mut family = self.clone();
        if let Some(log_sigma) = model.log_sigma() {
            family.tables.vae.sigma = log_sigma.into_scalar::<f64>().exp();
        }
        let mut network = network.clone().materialize();
        if self.tables.vae.measure_scale {
            let scale = latent_scale::measure(self, &network)?;
            if let AutoencoderConfig::Kl(config) = &mut family.tables.model {
                config.scaling_factor = scale;
            }
            network = network.with_scaling_factor(scale);
        }
        stored::save_as(&family, progress, dir, |folder| write_autoencoder(&network, folder))?;
        Ok(Written::Pipeline)
    }

    fn load(&self, folder: &Path, device: &Device) -> Result<Vae, SnapshotError> {
        let model = settle(self.init(device));
        match self.tables.model {
            AutoencoderConfig::Kl(_) => {
                Ok(Vae { network: Autoencoder::Kl(load_autoencoder(folder, device)?), ..model })
            }
            _ => stored::load_weights(model, folder),
        }
    }

    fn foreign(path: &Path) -> Result<Option<ModelCard>, SnapshotError> {
        if is_autoencoder(path) { foreign_card(path).map(Some) } else { Ok(None) }
    }

    fn trained(self, model: Vae, card: ModelCard) -> Box<dyn Trained> {
        Box::new(TrainedVae::new(self, model, card))
    }
}
