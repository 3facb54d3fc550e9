//! What an experiment says of a variational autoencoder.

use ddpm_data::augment::AugmentConfig;
use ddpm_data::{Bounds, DataInfo, three_axes};
use ddpm_model::autoencoder::AutoencoderConfig;
use ddpm_model::autoencoder::elbo::KlTerm;
use serde::{Deserialize, Serialize};

use super::likelihood::LikelihoodKind;
use crate::family::Problem;

/// The sections of a variational autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeTables {
    /// Random changes of training images.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// Encoder and decoder.
    pub model: AutoencoderConfig,
    /// What training minimizes.
    #[serde(default)]
    pub vae: ObjectiveConfig,
}

/// The loss, in nats per item: minus `log p(x|z)`, summed over all values, plus what the divergence `KL(q(z|x) || p(z))`
/// of the latent adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// What the divergence adds to the loss.
    pub objective: Objective,
    /// Weight of the divergence; 1: the loss is minus the evidence lower bound (ELBO). For `"elbo"`.
    pub beta: f64,
    /// Steps over which the weight rises from 0; 0: it is there from the start. For `"elbo"`.
    pub kl_warmup: u64,
    /// Nats that every dimension of the latent has for nothing, on average over a batch. For `"elbo"`.
    pub free_bits: f64,
    /// Weight of the distance to the capacity. For `"capacity"`.
    pub gamma: f64,
    /// Nats that the latent is meant to have in the end. For `"capacity"`.
    pub capacity: f64,
    /// Steps over which the capacity rises from 0. For `"capacity"`.
    pub capacity_steps: u64,
    /// The distribution of data given a latent.
    pub likelihood: LikelihoodKind,
    /// Logistics of the likelihood `"logistic-mixture"`.
    pub mixtures: usize,
    /// Values that a channel of a pixel can have, for `"discretized-logistic"` and `"logistic-mixture"`; 256 for bytes, 17
    /// for the bundled digits.
    pub levels: usize,
    /// Where the variance of a Gaussian likelihood comes from.
    pub variance: DecoderVariance,
    /// Standard deviation of a Gaussian likelihood of fixed variance, and where a learned one starts; in units of images
    /// from 0 to 1, or of standardized points.
    pub sigma: f64,
    /// Measures `model.scaling_factor` whenever a snapshot is written, so that the scaled latents have standard deviation 1,
    /// as a diffusion model of latents wants them. For `model.kind = "kl"`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub measure_scale: bool,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            objective: Objective::Elbo,
            beta: 1.0,
            kl_warmup: 0,
            free_bits: 0.0,
            gamma: 10.0,
            capacity: 5.0,
            capacity_steps: 1000,
            likelihood: LikelihoodKind::Gaussian,
            mixtures: 5,
            levels: 256,
            variance: DecoderVariance::Learned,
            sigma: 0.3,
            measure_scale: false,
        }
    }
}

/// What the divergence of the latent adds to the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// `beta KL`: a VAE (Kingma & Welling 2014), or a beta-VAE (Higgins et al. 2017).
    #[default]
    Elbo,
    /// `gamma |KL - C|` with a capacity C that rises (Burgess et al. 2018).
    Capacity,
    /// Nothing, and the latent is the mean without noise: an autoencoder.
    Autoencoder,
}

/// Where the variance of a Gaussian likelihood comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecoderVariance {
    /// `vae.sigma`.
    Fixed,
    /// One parameter for all values.
    #[default]
    Learned,
    /// One parameter for each value of an item.
    LearnedByDimension,
    /// The one under which the errors of a batch are most likely (Rybkin et al. 2021).
    Optimal,
}

impl ObjectiveConfig {
    /// The term of the loss after so many steps.
    pub fn kl_term(&self, step: u64) -> KlTerm {
        let share = |steps: u64| if steps == 0 { 1.0 } else { (step as f64 / steps as f64).min(1.0) };
        match self.objective {
            Objective::Autoencoder => KlTerm::None,
            Objective::Elbo => KlTerm::Weighted { beta: self.beta * share(self.kl_warmup), free_bits: self.free_bits },
            Objective::Capacity => {
                KlTerm::Capacity { gamma: self.gamma, capacity: self.capacity * share(self.capacity_steps) }
            }
        }
    }

    /// Whether latents are drawn from their posterior in training.
    pub fn is_variational(&self) -> bool {
        self.objective != Objective::Autoencoder
    }
}

impl VaeTables {
    /// The sections, each with what must be in it; more than once where kinds have keys of their own.
    pub(super) const SECTIONS: &'static [(&'static str, &'static str)] = &[
        ("augment", ""),
        ("model", "kind = 'mlp'"),
        ("model", "kind = 'conv'"),
        ("model", "kind = 'kl'"),
        ("model", "kind = 'vanilla'"),
        ("vae", ""),
    ];

    /// What is wrong with the values, before the data are known.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let keys = &self.vae;
        let not_negative =
            [("beta", keys.beta), ("free_bits", keys.free_bits), ("gamma", keys.gamma), ("capacity", keys.capacity)];
        let wrong = |value: f64| !value.is_finite() || value < 0.0;
        let mut problems: Vec<Problem> = not_negative
            .into_iter()
            .filter(|(_, value)| wrong(*value))
            .map(|(key, value)| (format!("vae.{key}"), format!("must be 0 or above, not {value}")))
            .collect();
        if !keys.sigma.is_finite() || keys.sigma <= 0.0 {
            problems.push(("vae.sigma".into(), format!("must be above 0, not {}", keys.sigma)));
        }
        for (key, value, least) in [("mixtures", keys.mixtures, 1), ("levels", keys.levels, 2)] {
            if value < least {
                problems.push((format!("vae.{key}"), format!("must be at least {least}, not {value}")));
            }
        }
        if keys.measure_scale && !matches!(self.model, AutoencoderConfig::Kl(_)) {
            let message = "is for model.kind = \"kl\": the others have no scale of latents".into();
            problems.push(("vae.measure_scale".into(), message));
        }
        if self.augment.has_labels() {
            let message = "is for networks that are conditioned on augmentation labels; augment.crop is not".into();
            problems.push(("augment.probability".into(), message));
        }
        problems
    }

    /// What was given and is not read.
    pub(super) fn notes(&self) -> Vec<String> {
        let (keys, usual) = (&self.vae, ObjectiveConfig::default());
        let of = |objective: Objective, given: bool, key: &str, word: &str| {
            (given && keys.objective != objective)
                .then(|| format!("vae.{key} is for objective = \"{word}\" and not read"))
        };
        let notes = [
            of(Objective::Elbo, keys.beta != usual.beta, "beta", "elbo"),
            of(Objective::Elbo, keys.free_bits != usual.free_bits, "free_bits", "elbo"),
            of(Objective::Elbo, keys.kl_warmup != usual.kl_warmup, "kl_warmup", "elbo"),
            of(Objective::Capacity, keys.gamma != usual.gamma, "gamma", "capacity"),
            of(Objective::Capacity, keys.capacity != usual.capacity, "capacity", "capacity"),
        ];
        notes.into_iter().flatten().collect()
    }

    /// What does not go together with these data.
    pub(super) fn problems_with_data(&self, data: &DataInfo) -> Vec<Problem> {
        let shape = &data.shape;
        let axes = three_axes(shape);
        let network = self.model.clone().with_io(axes, axes[0]).problems(axes);
        let mut problems: Vec<Problem> =
            network.into_iter().map(|problem| (format!("model.{}", problem.key), problem.message)).collect();
        if !data.is_image() && !matches!(self.model, AutoencoderConfig::Mlp(_)) {
            problems
                .push(("model.kind".into(), format!("convolutions are for images [C, H, W], the data are {shape:?}")));
        }
        if data.bounds() != Bounds::Bytes && self.vae.likelihood != LikelihoodKind::Gaussian {
            let message = format!("is for images of 8 bits, and the data are {shape:?}: \"gaussian\" fits any data");
            problems.push(("vae.likelihood".into(), message));
        }
        let is_kl = matches!(self.model, AutoencoderConfig::Kl(_));
        if is_kl && self.vae.variance == DecoderVariance::LearnedByDimension {
            let message = "has no place in the files of kind = \"kl\": \"learned\" is one for all values".into();
            problems.push(("vae.variance".into(), message));
        }
        let is_gaussian = self.vae.likelihood == LikelihoodKind::Gaussian;
        if matches!(&self.model, AutoencoderConfig::Vanilla(config) if config.tanh == Some(true)) && !is_gaussian {
            let message = "is for vae.likelihood = \"gaussian\": the numbers of other likelihoods have no bounds";
            problems.push(("model.tanh".into(), message.into()));
        }
        for problem in self.augment.problems_with(data) {
            problems.push((format!("augment.{}", problem.key), problem.reason));
        }
        problems
    }
}
