//! What the averaged weights make of held-out data: the terms of the evidence lower bound, and how many layers are in use.

use std::f64::consts::LN_2;

use burn::tensor::Device;
use ddpm_data::StreamItem;
use ddpm_model::hvae::Hvae;
use ddpm_model::pass::Pass;

use super::HvaeFamily;
use crate::family::{AnyError, Family, HeldOut, HeldOutSetup};
use crate::items::{HELD_OUT_SEED, held_out_batches, total};

/// The names in `metrics.jsonl`, with their titles. The last one is of likelihoods of 8-bit values.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("valid_loss", "Loss, held out"),
    ("valid_reconstruction", "Reconstruction, in nats per item, held out"),
    ("valid_kl", "KL divergence, in nats per item, held out"),
    ("valid_active_layers", "Layers with more than 1 % of the KL divergence, held out"),
    ("valid_bpd", "Bits per dimension, held out"),
];

/// A layer is in use if it has more than this share of the divergence.
const ACTIVE: f64 = 0.01;

/// The evidence lower bound of held-out data.
pub struct ElboOfHeldOut {
    family: HvaeFamily,
    batches: Vec<Vec<StreamItem>>,
    device: Device,
}

impl ElboOfHeldOut {
    /// Reads the items that are looked at, spread over all of the data.
    pub fn read(family: &HvaeFamily, setup: &HeldOutSetup<'_>) -> Result<Self, AnyError> {
        let batches = held_out_batches(setup)?;
        Ok(Self { family: family.clone(), batches, device: setup.device.clone() })
    }
}

impl HeldOut<Hvae> for ElboOfHeldOut {
    fn names(&self) -> Vec<&'static str> {
        let shown = if self.family.is_discrete() { NAMES.len() } else { NAMES.len() - 1 };
        NAMES.iter().take(shown).map(|(name, _)| *name).collect()
    }

    fn measure(&self, model: &Hvae) -> Vec<f64> {
        let (mut reconstruction, mut layers) = (0.0, vec![0.0; self.family.layout.decoder.len()]);
        let mut count = 0;
        for items in &self.batches {
            count += items.len();
            let batch = self.family.batch(items.clone(), HELD_OUT_SEED, &self.device);
            let terms = self.family.terms(model, batch.x, batch.noises, &Pass::default());
            reconstruction += total(terms.reconstruction);
            layers.iter_mut().zip(terms.top_down.kl_of_blocks()).for_each(|(sum, kl)| *sum += total(kl));
        }
        let per_item = |sum: f64| sum / count as f64;
        let (reconstruction, kl) = (per_item(reconstruction), per_item(layers.iter().sum()));
        let bits = (reconstruction + kl) / (LN_2 * self.family.origin.data.values_per_item() as f64);
        let values = [reconstruction + kl, reconstruction, kl, active(&layers) as f64, bits];
        values[..self.names().len()].to_vec()
    }
}

/// How many layers have more than their share of the divergence.
fn active(layers: &[f64]) -> usize {
    let least = ACTIVE * layers.iter().sum::<f64>();
    layers.iter().filter(|kl| **kl > least).count()
}

#[cfg(test)]
mod tests {
    use super::active;

    #[test]
    fn layers_above_one_percent_are_in_use() {
        assert_eq!(active(&[60.0, 39.5, 0.5]), 2);
        assert_eq!(active(&[1.0, 1.0, 1.0]), 3);
        assert_eq!(active(&[0.0, 0.0]), 0);
    }
}
