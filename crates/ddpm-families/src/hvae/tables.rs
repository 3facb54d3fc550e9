//! What an experiment says of a hierarchical VAE.

use ddpm_data::DataInfo;
use ddpm_data::augment::AugmentConfig;
use ddpm_model::hvae::HvaeConfig;
use serde::{Deserialize, Serialize};

use crate::family::Problem;

/// The sections of a hierarchical VAE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HvaeTables {
    /// Random changes of training images.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// The network, with its likelihood.
    pub model: HvaeConfig,
    /// What training minimizes.
    #[serde(default)]
    pub hvae: HvaeObjective,
}

/// The loss, in nats per item: minus the evidence lower bound (ELBO), which is `log p(x|z)` minus the divergences
/// `KL(q(z|x) || p(z))` of all blocks of the decoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HvaeObjective {
    /// Steps over which the weight of the divergence rises from 0 to 1 (Vahdat & Kautz 2020, NVAE); 0: it is 1 from the
    /// start, as in VDVAE.
    pub kl_warmup: u64,
}

impl HvaeObjective {
    /// The weight of the divergence after so many steps.
    pub fn kl_weight(&self, step: u64) -> f64 {
        if self.kl_warmup == 0 { 1.0 } else { (step as f64 / self.kl_warmup as f64).min(1.0) }
    }
}

impl HvaeTables {
    /// The sections, each with what must be in it.
    pub(super) const SECTIONS: &'static [(&'static str, &'static str)] = &[
        ("augment", ""),
        ("model", ""),
        ("model", "likelihood = { kind = 'logistic-mixture' }"),
        ("model", "likelihood = { kind = 'discretized-logistic' }"),
        ("model", "likelihood = { kind = 'bernoulli' }"),
        ("hvae", ""),
    ];

    /// What is wrong with the values, before the data are known.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.augment.has_labels() {
            let message = "is for networks that are conditioned on augmentation labels; augment.crop is not".into();
            problems.push(("augment.probability".into(), message));
        }
        problems
    }

    /// What does not go together with these data.
    pub(super) fn problems_with_data(&self, data: &DataInfo) -> Vec<Problem> {
        let shape = &data.shape;
        if !data.is_image() {
            let message = format!("a hierarchical VAE is for images [C, H, W], the data are {shape:?}");
            return vec![("data.kind".into(), message)];
        }
        let network = self.model.clone().with_data(shape).problems(shape);
        let mut problems: Vec<Problem> =
            network.into_iter().map(|problem| (format!("model.{}", problem.key), problem.message)).collect();
        for problem in self.augment.problems_with(data) {
            problems.push((format!("augment.{}", problem.key), problem.reason));
        }
        problems
    }
}
