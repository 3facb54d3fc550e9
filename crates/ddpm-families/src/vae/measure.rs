//! What the averaged weights make of held-out data: the terms of the evidence lower bound, and how many dimensions of the
//! latent are in use.

use burn::tensor::{Device, Tensor};
use ddpm_data::StreamItem;
use ddpm_model::pass::Pass;

use super::{Vae, VaeFamily};
use crate::family::{AnyError, Family, HeldOut, HeldOutSetup};
use crate::items::{HELD_OUT_SEED, held_out_batches, total};

/// The names in `metrics.jsonl`, with their titles. The last two are of variational models.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("valid_loss", "Loss, held out"),
    ("valid_reconstruction", "Reconstruction, in nats per item, held out"),
    ("valid_kl", "KL divergence, in nats per item, held out"),
    ("valid_active_units", "Dimensions of the latent in use, held out"),
];

/// A dimension is in use if the means of its posteriors vary by more than this from item to item (Burda et al. 2016).
const ACTIVE: f64 = 0.01;

/// The evidence lower bound of held-out data.
pub struct ElboOfHeldOut {
    family: VaeFamily,
    batches: Vec<Vec<StreamItem>>,
    device: Device,
}

impl ElboOfHeldOut {
    /// Reads the items that are looked at, spread over all of the data.
    pub fn read(family: &VaeFamily, setup: &HeldOutSetup<'_>) -> Result<Self, AnyError> {
        let batches = held_out_batches(setup)?;
        Ok(Self { family: family.clone(), batches, device: setup.device.clone() })
    }
}

impl HeldOut<Vae> for ElboOfHeldOut {
    fn names(&self) -> Vec<&'static str> {
        let shown = if self.family.tables.vae.is_variational() { 4 } else { 2 };
        NAMES.iter().take(shown).map(|(name, _)| *name).collect()
    }

    fn measure(&self, model: &Vae) -> Vec<f64> {
        let (mut reconstruction, mut kl, mut means) = (0.0, 0.0, Vec::new());
        let mut count = 0;
        for items in &self.batches {
            count += items.len();
            let batch = self.family.batch(items.clone(), HELD_OUT_SEED, &self.device);
            let terms = self.family.terms(model, batch.x, batch.noise, &Pass::default());
            reconstruction += total(terms.reconstruction);
            kl += total(terms.posterior.kl());
            means.push(terms.posterior.mean().flatten::<2>(1, 3));
        }
        let (reconstruction, kl) = (reconstruction / count as f64, kl / count as f64);
        if !self.family.tables.vae.is_variational() {
            return vec![reconstruction, reconstruction];
        }
        let active = active_units(Tensor::cat(means, 0));
        vec![reconstruction + kl, reconstruction, kl, active as f64]
    }
}

/// How many dimensions of the means `[N, Z]` vary from item to item.
fn active_units(means: Tensor<2>) -> usize {
    let variances = means.clone().sub(means.mean_dim(0)).square().mean_dim(0);
    variances.into_data().iter::<f64>().filter(|variance| *variance > ACTIVE).count()
}
