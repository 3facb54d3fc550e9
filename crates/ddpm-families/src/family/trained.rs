//! What a trained model can do. A command asks for what it needs, and never which family it has.
//!
//! Items go in and out as values in the units of the networks, one item after the other: images from -1 to 1.

use std::path::Path;

use burn::tensor::Device;
use ddpm_data::series::Series;
use ddpm_kernels::Precision;
use ddpm_model::density_bound::DensityBound;
use ddpm_render::Samples;
use ddpm_sampling::samplers::Sampler;

use super::AnyError;
use super::registry::family;
use super::stored::ModelCard;
use crate::diffusion::trained::TrainedDiffusion;
use crate::snapshot::SnapshotError;

/// A trained model of a family.
pub trait Trained {
    /// What it says about itself.
    fn card(&self) -> &ModelCard;

    /// New samples, all at once.
    fn generate(&self) -> Option<&dyn Generate> {
        None
    }

    /// Items to latents and back.
    fn encode(&self) -> Option<&dyn Encode> {
        None
    }

    /// Items, and what is left of them after the latent.
    fn reconstruct(&self) -> Option<&dyn Reconstruct> {
        None
    }

    /// Bounds of the likelihood of items.
    fn bound(&self) -> Option<&dyn Bound> {
        None
    }

    /// The sampler that it is sampled by unless another is chosen, and its steps; none if it has no samplers.
    fn usual_sampler(&self) -> Option<(String, usize)> {
        None
    }

    /// What comes after a series.
    fn forecast(&self) -> Option<&dyn Forecast> {
        None
    }

    /// What is missing in a series.
    fn impute(&self) -> Option<&dyn Impute> {
        None
    }

    /// Bounds of the density of values of series.
    fn series_bound(&self) -> Option<&dyn SeriesBound> {
        None
    }
}

/// What is random about samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Sample k depends on the seed and on k alone.
    pub seed: u64,
    /// Factor of the standard deviation of latents that are drawn from the prior.
    pub temperature: f64,
}

impl Draw {
    /// Samples of this seed, from the prior as it is.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, temperature: 1.0 }
    }
}

/// Draws samples in one pass.
pub trait Generate {
    /// Samples number `first` to `first + count`: sample k is the same whatever is drawn with it.
    fn generate(&self, draw: &Draw, first: u64, count: usize) -> Result<Samples, AnyError>;
}

/// Goes from items to latents, and from latents to items.
pub trait Encode {
    /// The shape of a latent: `[Z]`, or `[C, H, W]`.
    fn latent_shape(&self) -> Vec<usize>;
    /// Draws number `first` to `first + count` of the prior.
    fn prior(&self, draw: &Draw, first: u64, count: usize) -> Result<Vec<f32>, AnyError>;
    /// The latents of items: the means of their posteriors.
    fn encode(&self, items: &[f32]) -> Result<Vec<f32>, AnyError>;
    /// The items that latents stand for.
    fn decode(&self, latents: &[f32]) -> Result<Vec<f32>, AnyError>;
}

/// A stretch of a series.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// The series; cells that are held out or were never observed are not shown to a model.
    pub series: &'a Series,
    /// Its first step.
    pub start: usize,
    /// The step behind its last one.
    pub end: usize,
    /// What addresses its noise: samples of a stretch do not depend on the other stretches.
    pub number: u64,
}

/// How samples of series are drawn.
#[derive(Clone, Debug)]
pub struct SeriesDraw {
    /// Sample k of a stretch depends on the seed, the number of the stretch and k alone.
    pub seed: u64,
    /// Samples of each stretch.
    pub samples: usize,
    /// The sampler; none: what is usual for the model.
    pub sampler: Option<Sampler>,
    /// Its steps; none: what is usual for the sampler.
    pub steps: Option<usize>,
    /// Samples that are computed at once; the result is the same for any number.
    pub at_once: usize,
}

impl SeriesDraw {
    /// So many samples, as is usual for the model.
    pub fn new(seed: u64, samples: usize) -> Self {
        Self { seed, samples, sampler: None, steps: None, at_once: USUAL_AT_ONCE }
    }
}

/// Samples of series that are computed at once.
const USUAL_AT_ONCE: usize = 256;

/// Forecasts series: samples of the steps to come.
pub trait Forecast {
    /// Steps of the past that are read; earlier ones change nothing.
    fn history(&self) -> usize;

    /// The most steps that can be forecast; none: any number.
    fn longest_horizon(&self) -> Option<usize>;

    /// The steps that it was trained to forecast.
    fn usual_horizon(&self) -> usize;

    /// Samples of the `horizon` steps behind each stretch, `[W, samples, horizon, K]`, in the units of the data. Covariates
    /// that the series have for these steps are read.
    fn forecast(&self, pasts: &[Stretch<'_>], horizon: usize, draw: &SeriesDraw) -> Result<Vec<f32>, AnyError>;
}

/// Imputes series: samples of what is missing in them.
pub trait Impute {
    /// Steps of the windows that it was trained on.
    fn window(&self) -> usize;

    /// Samples of each stretch, all of one length, `[samples, W, L, K]`, in the units of the data. Observed values are as they
    /// were, bit for bit.
    fn impute(&self, stretches: &[Stretch<'_>], draw: &SeriesDraw) -> Result<Vec<f32>, AnyError>;
}

/// Reconstructs items from what their latents hold of them.
pub trait Reconstruct {
    /// Layers of latents, the coarsest first.
    fn layers(&self) -> usize {
        1
    }

    /// Items number `first` and so on, from the means of the posteriors of their first `layers` latents; the latents of the
    /// layers below are drawn from the prior.
    fn reconstruct(&self, items: &[f32], layers: usize, draw: &Draw, first: u64) -> Result<Vec<f32>, AnyError>;
}

/// Bounds the likelihood of items from below.
pub trait Bound {
    /// What the divergence of the latent is a sum over: `"dimension"` or `"layer"`.
    fn parts(&self) -> &'static str;
    /// What the likelihood is a probability of.
    fn likelihood_of(&self) -> LikelihoodOf;
    /// The terms of items number `first` and so on, with so many draws of the latent of each.
    fn bound(&self, items: &[f32], draws: usize, seed: u64, first: u64) -> Result<Vec<BoundTerms>, AnyError>;
}

/// Bounds the density of values of series, given others, from below.
pub trait SeriesBound {
    /// What is scored unless a horizon is chosen.
    fn usual(&self) -> ScoredPart;
    /// The terms of each stretch, with one draw of the noise at every step of the chain.
    fn series_bound(
        &self,
        stretches: &[Stretch<'_>],
        part: ScoredPart,
        draw: &BoundDraw,
    ) -> Result<Vec<SeriesBoundTerms>, AnyError>;
}

/// Which values of a stretch are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoredPart {
    /// Those of its last steps, given the ones before.
    Horizon(usize),
    /// Those that a mask of training hides, given the others; of a model that is given nothing, all. The stretch is a window of
    /// so many steps.
    Window(usize),
}

/// The noise and the masks of a bound.
#[derive(Clone, Copy, Debug)]
pub struct BoundDraw {
    /// Those of a stretch depend on the seed and the number of the stretch alone.
    pub seed: u64,
    /// Stretches that are computed at once; the result is the same for any number.
    pub at_once: usize,
}

/// The terms of the bound of a stretch, in nats, summed over the values that are scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesBoundTerms {
    /// How many values are scored.
    pub values: usize,
    /// Observed values that are not, because the network predicts them together with values that were never observed.
    pub left_out: usize,
    /// The logarithms of what the networks divide the values by: what is added to have the density in the units of the data.
    pub log_scale: f64,
    /// The bound of minus the log-density in the units of the networks, for each of
    /// [`ReverseVariance::ALL`](ddpm_model::density_bound::ReverseVariance::ALL).
    pub bounds: [DensityBound; 2],
}

/// What a likelihood is a probability of: numbers of different kinds cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LikelihoodOf {
    /// Values that are black or white.
    BinaryValues,
    /// The values that a pixel of a file can have: in bits per dimension, which diffusion models have as well.
    PixelLevels,
    /// A density of continuous values: of images from 0 to 1, or of standardized points.
    Density,
}

/// The terms of the evidence lower bound of an item, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BoundTerms {
    /// `-log p(x|z)`, as a mean over the draws.
    pub reconstruction: f64,
    /// `KL(q(z|x) || p(z))` by dimension or layer of the latent.
    pub kl: Vec<f64>,
    /// `ln p(x, z) - ln q(z|x)` of each draw.
    pub log_weights: Vec<f64>,
}

impl BoundTerms {
    /// The evidence lower bound.
    pub fn elbo(&self) -> f64 {
        -self.reconstruction - self.kl.iter().sum::<f64>()
    }

    /// The importance-weighted bound of the first K draws (Burda et al. 2016).
    pub fn importance_weighted(&self, k: usize) -> f64 {
        let weights = &self.log_weights[..k.min(self.log_weights.len())];
        let largest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = weights.iter().map(|weight| (weight - largest).exp()).sum();
        largest + (sum / weights.len() as f64).ln()
    }
}

/// What a model can do, as a message names it.
pub fn abilities(model: &dyn Trained) -> String {
    let all = [
        ("sample", model.generate().is_some()),
        ("reconstruct", model.reconstruct().is_some()),
        ("encode", model.encode().is_some()),
        ("forecast", model.forecast().is_some()),
        ("impute", model.impute().is_some()),
        ("measure its likelihood", model.bound().is_some() || model.series_bound().is_some()),
    ];
    let known: Vec<&str> = all.iter().filter(|(_, can)| *can).map(|(name, _)| *name).collect();
    match &known[..] {
        [] => "it can be trained further, and nothing else".into(),
        [only] => format!("it can {only}"),
        [first @ .., last] => format!("it can {} and {last}", first.join(", ")),
    }
}

/// Opens a snapshot of any family, to compute in this precision.
pub fn open(path: &Path, device: &Device, precision: Precision) -> Result<Box<dyn Trained>, AnyError> {
    let Some(card) = ModelCard::find(path)? else {
        return Ok(Box::new(TrainedDiffusion::open(path, device, precision)?));
    };
    family(&card.family)
        .map_err(|_| SnapshotError::UnknownFamily { path: path.to_path_buf(), family: card.family.clone() })?
        .open(card, path, device, precision)
        .map_err(|error| format!("{}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_from_their_terms() {
        let terms = BoundTerms { reconstruction: 3.0, kl: vec![0.5, 1.5], log_weights: vec![-1000.0, -1001.0, -990.0] };
        assert_eq!(terms.elbo(), -5.0);
        assert_eq!(terms.importance_weighted(1), -1000.0);
        let two = -1000.0 + ((1.0 + (-1f64).exp()) / 2.0).ln();
        assert!((terms.importance_weighted(2) - two).abs() < 1e-9);
        assert_eq!(terms.importance_weighted(9), terms.importance_weighted(3));
    }
}
