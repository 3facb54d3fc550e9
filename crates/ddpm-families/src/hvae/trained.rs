//! A trained hierarchical VAE for use.
//!
//! Samples of a Bernoulli likelihood are its means, as is usual for black and white images; those of the others are drawn
//! from the likelihood, as in VDVAE. The temperature is that of the latents alone. Reconstructions and decoded latents are
//! means of the likelihood.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ddpm_data::random::{RngExt, Stream, rng};
use ddpm_model::hvae::{Hvae, TopDown};
use ddpm_model::likelihood::{PixelLikelihood, Uniforms};
use ddpm_model::pass::Pass;
use ddpm_render::Samples;

use super::{HvaeFamily, Terms};
use crate::family::AnyError;
use crate::family::stored::ModelCard;
use crate::family::trained::{Bound, BoundTerms, Draw, Encode, Generate, LikelihoodOf, Reconstruct, Trained};
use crate::items::batch_of;

/// Items at once: what comes out is the same for any number.
const AT_ONCE: usize = 256;

/// A trained hierarchical VAE.
pub struct TrainedHvae {
    pub(super) family: HvaeFamily,
    pub(super) model: Hvae,
    device: Device,
    card: ModelCard,
}

impl HvaeFamily {
    /// Whether the likelihood gives probabilities to values of 8 bits.
    pub(super) fn is_discrete(&self) -> bool {
        !matches!(self.tables.model.likelihood, PixelLikelihood::Bernoulli {})
    }
}

impl TrainedHvae {
    /// A model of this family.
    pub(super) fn new(family: HvaeFamily, model: Hvae, card: ModelCard) -> Self {
        let device = model.devices().into_iter().next().unwrap_or_default();
        Self { family, model, device, card }
    }

    /// Draws number `places` of the prior.
    fn prior_draws(&self, draw: &Draw, places: Range<u64>) -> TopDown {
        let noises = self.family.noises(draw.seed, Stream::SampleStart, places, &self.device);
        self.model.from_prior(noises, draw.temperature, &Pass::default())
    }

    /// The means of the likelihood, on the host.
    fn means(&self, output: Tensor<4>) -> Vec<f32> {
        host(self.family.tables.model.likelihood.mean(output, self.family.shape[0]))
    }

    /// What samples number `places` show: draws from the likelihood, or its means where it is one of black and white.
    fn pixels(&self, output: Tensor<4>, seed: u64, places: Range<u64>) -> Vec<f32> {
        if !self.family.is_discrete() {
            return self.means(output);
        }
        let uniforms = self.uniforms(seed, places);
        host(self.family.tables.model.likelihood.sample(output, uniforms))
    }

    /// The numbers that choose the pixels of samples: those of sample k follow from the seed and from k alone.
    fn uniforms(&self, seed: u64, places: Range<u64>) -> Uniforms {
        let [channels, height, width] = self.family.shape;
        let shapes = self.family.tables.model.likelihood.uniform_shapes([1, channels, height, width]);
        let (mut mixture, mut values) = (Vec::new(), Vec::new());
        for place in places {
            let mut rng = rng(seed, Stream::SampleStep, place << 32);
            let mut uniforms = |[_, channels, height, width]: [usize; 4]| {
                (0..channels * height * width).map(|_| open_uniform(rng.random())).collect::<Vec<f32>>()
            };
            mixture.extend(shapes.mixture.map(&mut uniforms).unwrap_or_default());
            values.extend(uniforms(shapes.values));
        }
        let batch = |values: Vec<f32>, [_, channels, height, width]: [usize; 4]| {
            batch_of(values, [channels, height, width], &self.device)
        };
        Uniforms { mixture: shapes.mixture.map(|shape| batch(mixture, shape)), values: batch(values, shapes.values) }
    }

    /// The values of all latents, item after item and block after block, the uppermost first.
    fn flat(&self, top_down: TopDown) -> Vec<f32> {
        let blocks = top_down.latents.into_iter().map(|latent| latent.value.flatten::<2>(1, 3)).collect();
        Tensor::cat(blocks, 1).into_data().iter::<f32>().collect()
    }

    /// The terms of the bound of a batch with one draw of the latents, added to what there is.
    fn add_draw(&self, terms: &mut [BoundTerms], x: Tensor<4>, noises: Vec<Tensor<4>>, share: f64) {
        let Terms { reconstruction, top_down } = self.family.terms(&self.model, x, noises, &Pass::default());
        let log_ratio = rows(top_down.log_ratio());
        let layers: Vec<Vec<f64>> = top_down.kl_of_blocks().into_iter().map(rows).collect();
        for (item, (reconstruction, terms)) in rows(reconstruction).into_iter().zip(terms).enumerate() {
            terms.reconstruction += share * reconstruction;
            terms.kl.resize(layers.len(), 0.0);
            terms.kl.iter_mut().zip(&layers).for_each(|(sum, layer)| *sum += share * layer[item]);
            terms.log_weights.push(-reconstruction - log_ratio[item]);
        }
    }
}

/// From [0, 1) to between 0 and 1, strictly.
fn open_uniform(value: f32) -> f32 {
    const MARGIN: f32 = 1e-6;
    MARGIN + (1.0 - 2.0 * MARGIN) * value
}

fn host(x: Tensor<4>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

fn rows(x: Tensor<1>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// A range of places in parts of at most [`AT_ONCE`].
fn parts(first: u64, count: usize) -> impl Iterator<Item = Range<u64>> {
    let end = first + count as u64;
    (first..end).step_by(AT_ONCE).map(move |start| start..end.min(start + AT_ONCE as u64))
}

impl Trained for TrainedHvae {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn generate(&self) -> Option<&dyn Generate> {
        Some(self)
    }

    fn encode(&self) -> Option<&dyn Encode> {
        Some(self)
    }

    fn reconstruct(&self) -> Option<&dyn Reconstruct> {
        Some(self)
    }

    fn bound(&self) -> Option<&dyn Bound> {
        Some(self)
    }
}

impl Generate for TrainedHvae {
    fn generate(&self, draw: &Draw, first: u64, count: usize) -> Result<Samples, AnyError> {
        let part = |places: Range<u64>| {
            let output = self.prior_draws(draw, places.clone()).output;
            self.pixels(output, draw.seed, places)
        };
        let values = parts(first, count).flat_map(part).collect();
        let (shape, labels) = (self.family.origin.data.shape.clone(), vec![None; count]);
        Ok(Samples { values, shape, labels, ..Samples::default() })
    }
}

/// A latent is the vector of the latents of all blocks, the uppermost first.
impl Encode for TrainedHvae {
    fn latent_shape(&self) -> Vec<usize> {
        vec![self.family.latent_size()]
    }

    fn prior(&self, draw: &Draw, first: u64, count: usize) -> Result<Vec<f32>, AnyError> {
        Ok(parts(first, count).flat_map(|places| self.flat(self.prior_draws(draw, places))).collect())
    }

    /// Every mean is that of the posterior given the means above.
    fn encode(&self, items: &[f32]) -> Result<Vec<f32>, AnyError> {
        let size = self.family.origin.data.values_per_item();
        let part = |part: &[f32]| {
            let x = batch_of(part.to_vec(), self.family.shape, &self.device);
            let noises = self.family.no_noise(x.dims()[0], &self.device);
            self.flat(self.model.forward(x, noises, &Pass::default()))
        };
        Ok(items.chunks(AT_ONCE * size).flat_map(part).collect())
    }

    fn decode(&self, latents: &[f32]) -> Result<Vec<f32>, AnyError> {
        let part = |part: &[f32]| {
            let latents = self.family.split(part, &self.device);
            self.means(self.model.decode(latents, &Pass::default()).output)
        };
        Ok(latents.chunks(AT_ONCE * self.family.latent_size()).flat_map(part).collect())
    }
}

impl Reconstruct for TrainedHvae {
    fn layers(&self) -> usize {
        self.family.layout.decoder.len()
    }

    fn reconstruct(&self, items: &[f32], layers: usize, draw: &Draw, first: u64) -> Result<Vec<f32>, AnyError> {
        let size = self.family.origin.data.values_per_item();
        let mut found = Vec::with_capacity(items.len());
        for (part, places) in items.chunks(AT_ONCE * size).zip(parts(first, items.len() / size)) {
            let x = batch_of(part.to_vec(), self.family.shape, &self.device);
            let means = self.family.no_noise(x.dims()[0], &self.device);
            let drawn = self.family.noises(draw.seed, Stream::SampleStart, places, &self.device);
            let noises = means.into_iter().take(layers).chain(drawn.into_iter().skip(layers)).collect();
            let top_down = self.model.from_upper_latents(x, layers, noises, draw.temperature, &Pass::default());
            found.extend(self.means(top_down.output));
        }
        Ok(found)
    }
}

impl Bound for TrainedHvae {
    fn parts(&self) -> &'static str {
        "layer"
    }

    fn likelihood_of(&self) -> LikelihoodOf {
        if self.family.is_discrete() { LikelihoodOf::PixelLevels } else { LikelihoodOf::BinaryValues }
    }

    /// The noise of draw k of an item follows from the seed, the item and k alone.
    fn bound(&self, items: &[f32], draws: usize, seed: u64, first: u64) -> Result<Vec<BoundTerms>, AnyError> {
        let size = self.family.origin.data.values_per_item();
        let mut found = Vec::new();
        for (part, places) in items.chunks(AT_ONCE * size).zip(parts(first, items.len() / size)) {
            let x = batch_of(part.to_vec(), self.family.shape, &self.device);
            let mut terms = vec![BoundTerms::default(); x.dims()[0]];
            for draw in 0..draws as u64 {
                let of_draw = places.clone().map(|item| item << 32 | draw);
                let noises = self.family.noises(seed, Stream::Bound, of_draw, &self.device);
                self.add_draw(&mut terms, x.clone(), noises, 1.0 / draws as f64);
            }
            found.extend(terms);
        }
        Ok(found)
    }
}
