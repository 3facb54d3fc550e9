//! A trained autoencoder for use.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_model::autoencoder::elbo::log_importance_weight;
use ddpm_model::pass::Pass;
use ddpm_render::Samples;

use super::likelihood::LikelihoodKind;
use super::{Vae, VaeFamily};
use crate::family::AnyError;
use crate::family::stored::ModelCard;
use crate::family::trained::{Bound, BoundTerms, Draw, Encode, Generate, LikelihoodOf, Reconstruct, Trained};
use crate::items::batch_of;

/// Items at once: what comes out is the same for any number.
const AT_ONCE: usize = 256;

/// A trained autoencoder.
pub struct TrainedVae {
    family: VaeFamily,
    model: Vae,
    device: Device,
    card: ModelCard,
}

impl TrainedVae {
    /// A model of this family.
    pub(super) fn new(family: VaeFamily, model: Vae, card: ModelCard) -> Self {
        let device = model.devices().into_iter().next().unwrap_or_default();
        Self { family, model, device, card }
    }

    /// What a function of batches makes of values in this shape, a batch at a time.
    fn in_batches(&self, values: &[f32], shape: [usize; 3], f: impl Fn(Tensor<4>) -> Tensor<4>) -> Vec<f32> {
        let size: usize = shape.iter().product();
        let batches = values.chunks(AT_ONCE * size).map(|part| f(batch_of(part.to_vec(), shape, &self.device)));
        batches.flat_map(|batch| batch.into_data().iter::<f32>().collect::<Vec<f32>>()).collect()
    }

    /// The means of `p(x|z)` for latents.
    fn mean_of(&self, z: Tensor<4>) -> Tensor<4> {
        self.family.likelihood.mean(self.model.decode(z, &Pass::default()), self.family.shape[0])
    }

    fn posterior_mean(&self, x: Tensor<4>) -> Tensor<4> {
        self.model.encode(x, &Pass::default()).mean()
    }
}

impl Trained for TrainedVae {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn generate(&self) -> Option<&dyn Generate> {
        self.family.tables.vae.is_variational().then_some(self)
    }

    fn encode(&self) -> Option<&dyn Encode> {
        Some(self)
    }

    fn reconstruct(&self) -> Option<&dyn Reconstruct> {
        Some(self)
    }

    fn bound(&self) -> Option<&dyn Bound> {
        self.family.tables.vae.is_variational().then_some(self)
    }
}

impl Generate for TrainedVae {
    fn generate(&self, draw: &Draw, first: u64, count: usize) -> Result<Samples, AnyError> {
        let values = self.decode(&self.prior(draw, first, count)?)?;
        let data = &self.family.origin.data;
        let (values, shape, labels) = (data.in_data_units(values), data.shape.clone(), vec![None; count]);
        Ok(Samples { values, shape, labels, ..Samples::default() })
    }
}

impl Encode for TrainedVae {
    fn latent_shape(&self) -> Vec<usize> {
        match self.family.latent {
            [size, 1, 1] => vec![size],
            shape => shape.to_vec(),
        }
    }

    fn prior(&self, draw: &Draw, first: u64, count: usize) -> Result<Vec<f32>, AnyError> {
        let size = self.family.latent.iter().product();
        let one = |place| normals(&mut rng(draw.seed, Stream::SampleStart, place), size);
        let noise = (first..first + count as u64).flat_map(one);
        Ok(noise.map(|value| draw.temperature as f32 * value).collect())
    }

    fn encode(&self, items: &[f32]) -> Result<Vec<f32>, AnyError> {
        Ok(self.in_batches(items, self.family.shape, |x| self.posterior_mean(x)))
    }

    fn decode(&self, latents: &[f32]) -> Result<Vec<f32>, AnyError> {
        Ok(self.in_batches(latents, self.family.latent, |z| self.mean_of(z)))
    }
}

impl Reconstruct for TrainedVae {
    fn reconstruct(&self, items: &[f32], layers: usize, draw: &Draw, first: u64) -> Result<Vec<f32>, AnyError> {
        if layers > 0 {
            return Ok(self.in_batches(items, self.family.shape, |x| self.mean_of(self.posterior_mean(x))));
        }
        let rows = items.len() / self.family.origin.data.values_per_item();
        self.decode(&self.prior(draw, first, rows)?)
    }
}

impl Bound for TrainedVae {
    fn parts(&self) -> &'static str {
        "dimension"
    }

    fn likelihood_of(&self) -> LikelihoodOf {
        match self.family.likelihood.kind {
            LikelihoodKind::Bernoulli => LikelihoodOf::BinaryValues,
            LikelihoodKind::Gaussian => LikelihoodOf::Density,
            LikelihoodKind::DiscretizedLogistic | LikelihoodKind::LogisticMixture => LikelihoodOf::PixelLevels,
        }
    }

    /// The noise of draw k of an item follows from the seed, the item and k alone.
    fn bound(&self, items: &[f32], draws: usize, seed: u64, first: u64) -> Result<Vec<BoundTerms>, AnyError> {
        let (family, size) = (&self.family, self.family.origin.data.values_per_item());
        let mut found = Vec::new();
        for (number, part) in items.chunks(AT_ONCE * size).enumerate() {
            let x = batch_of(part.to_vec(), family.shape, &self.device);
            let rows = x.dims()[0];
            let start = first + (number * AT_ONCE) as u64;
            let posterior = self.model.encode(x.clone(), &Pass::default());
            let kl = posterior.kl_by_dimension().into_data().iter::<f64>().collect::<Vec<f64>>();
            let mut terms: Vec<BoundTerms> =
                kl.chunks(kl.len() / rows).map(|kl| BoundTerms { kl: kl.to_vec(), ..BoundTerms::default() }).collect();
            for draw in 0..draws as u64 {
                let places = (start..start + rows as u64).map(|item| item << 32 | draw);
                let z = posterior.sample(family.noise(seed, Stream::Bound, places, &self.device));
                let decoded = self.model.decode(z.clone(), &Pass::default());
                let log_px = family.likelihood.log_prob(x.clone(), decoded, self.model.log_sigma());
                let log_w = log_importance_weight(log_px.clone(), &posterior, z);
                let values = log_px.into_data().iter::<f64>().zip(log_w.into_data().iter::<f64>()).collect::<Vec<_>>();
                for (terms, (log_px, log_w)) in terms.iter_mut().zip(values) {
                    terms.reconstruction -= log_px / draws as f64;
                    terms.log_weights.push(log_w);
                }
            }
            found.extend(terms);
        }
        Ok(found)
    }
}
