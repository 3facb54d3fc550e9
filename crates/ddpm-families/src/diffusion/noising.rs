//! The forward process over the stream of items: step, noise and label drop of item n follow from (seed, n) alone.
//!
//! So neither the batch size, nor the number of parts a batch is computed in, nor a stop and resume in
//! between changes what any item sees.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_data::{StreamItem, three_axes};
use ddpm_model::condition::Condition;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::resample::{importance_weight, step_at};
use rayon::prelude::*;

use super::captions::Captions;
use super::latents::LatentEncoder;

/// Drawing fewer numbers takes less time than waking a thread for them.
const VALUES_FOR_A_THREAD: usize = 4096;

/// One batch, with everything random about it already drawn. A point `[N]` is `[N, 1, 1]`, as every item has three axes.
#[derive(Clone, Debug)]
pub struct NoisedBatch {
    /// The data, `[B, C, H, W]`.
    pub x_0: Tensor<4>,
    /// The noise, of the same shape.
    pub eps: Tensor<4>,
    /// The training time of every row: a step of the chain, or a time of the path.
    pub times: Vec<f64>,
    /// What the network is conditioned on.
    pub condition: Condition,
    /// The augmentation labels, `[B, augment_dim]`, where the network is conditioned on them.
    pub augment_labels: Option<Tensor<2>>,
    /// Place of the first row in the endless stream of items.
    pub first_item: u64,
    /// For a self-conditioned network, which rows it is shown its own estimate of: 1 or 0.
    pub shown: Option<Vec<f64>>,
    /// The weight that undoes the choice of each row's step, where steps are drawn by importance.
    pub importance: Option<Vec<f64>>,
}

impl NoisedBatch {
    /// The same batch on another device.
    pub(super) fn on(self, device: &Device) -> Self {
        Self {
            x_0: self.x_0.to_device(device),
            eps: self.eps.to_device(device),
            condition: self.condition.to_device(device),
            augment_labels: self.augment_labels.map(|labels| labels.to_device(device)),
            ..self
        }
    }
}

/// Which labels a network is conditioned on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Labels {
    /// Nothing.
    Unused,
    /// Every label.
    Kept,
    /// Every label but a share of them, which are replaced by the null class.
    Dropped {
        /// The class that stands for no class.
        null_class: usize,
        /// How many of them, from 0 to 1.
        share: f64,
    },
}

/// How items become training pairs.
#[derive(Clone, Debug)]
pub struct Noising {
    /// The process, which says what times there are.
    pub diffusion: Arc<Diffusion>,
    /// Which labels the network is conditioned on.
    pub labels: Labels,
    /// Standard deviation of the noise that a whole channel shares.
    pub offset_noise: f64,
    /// Whether, for half of the items at random, the network is given its own estimate (self-conditioning).
    pub self_conditioning: bool,
    /// The shape of what is noised: of an item, or of its latents.
    pub shape: Vec<usize>,
    /// What makes latents of items, where latents are noised.
    pub latents: Option<LatentEncoder>,
    /// What makes tokens of captions, where the network is conditioned on them.
    pub captions: Option<Captions>,
}

impl Noising {
    /// Draws the time and `eps` from N(0, I) for every row, plus what a channel shares.
    pub(crate) fn apply(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> NoisedBatch {
        let [channels, height, width] = three_axes(&self.shape);
        let dims = [items.len(), channels, height, width];
        let places: Vec<u64> = items.iter().map(|item| item.place).collect();
        let drawn = |draw: &dyn Fn(u64) -> f64| places.iter().map(|&n| draw(n)).collect::<Vec<f64>>();

        let times = drawn(&|n| self.time(seed, n));
        let shown = |n| f64::from(u8::from(rng(seed, Stream::SelfConditioning, n).random::<bool>()));
        let shown = self.self_conditioning.then(|| drawn(&shown));
        let size = channels * height * width;
        let rows = places.par_iter().with_min_len(VALUES_FOR_A_THREAD.div_ceil(size.max(1)));
        let eps: Vec<Vec<f32>> = rows.map(|&n| self.eps(seed, n, channels, size)).collect();
        NoisedBatch {
            eps: Tensor::from_data(TensorData::new(eps.concat(), dims), device),
            times,
            condition: self.condition(&items, seed, device),
            augment_labels: augment_labels(&items, device),
            first_item: places.first().copied().unwrap_or(0),
            shown,
            importance: None,
            x_0: Tensor::from_data(TensorData::new(self.values(items, seed), dims), device),
        }
    }

    /// The values that are noised.
    fn values(&self, items: Vec<StreamItem>, seed: u64) -> Vec<f32> {
        match &self.latents {
            Some(latents) => latents.latents(items, seed),
            None => items.iter().map(|item| item.example.values.as_slice()).collect::<Vec<_>>().concat(),
        }
    }

    /// The captions or classes that the network is conditioned on.
    fn condition(&self, items: &[StreamItem], seed: u64, device: &Device) -> Condition {
        if let Some(captions) = &self.captions {
            return captions.condition(items, seed, device);
        }
        let labels: Option<Vec<usize>> = items.iter().map(|item| item.example.label).collect();
        match labels.filter(|_| self.labels != Labels::Unused) {
            Some(labels) => {
                let places = items.iter().map(|item| item.place);
                let classes: Vec<i64> =
                    labels.into_iter().zip(places).map(|(label, n)| self.class(label, seed, n) as i64).collect();
                let rows = classes.len();
                Condition::Class(Tensor::<1, Int>::from_data(TensorData::new(classes, [rows]), device))
            }
            None => Condition::None,
        }
    }

    /// The training time of item `n`.
    fn time(&self, seed: u64, n: u64) -> f64 {
        let mut rng = rng(seed, Stream::Time, n);
        match &*self.diffusion {
            Diffusion::Discrete(diffusion) => rng.random_range(0..diffusion.schedule.len()) as f64,
            Diffusion::Continuous(diffusion) => {
                let uniform = rng.random();
                let normal = f64::from(normals(&mut rng, 1)[0]);
                diffusion.times.draw(diffusion.path, uniform, normal)
            }
        }
    }

    /// The noise of item `n`, `width` numbers in `channels` equal stretches.
    fn eps(&self, seed: u64, n: u64, channels: usize, width: usize) -> Vec<f32> {
        let mut eps = normals(&mut rng(seed, Stream::Noise, n), width);
        if self.offset_noise > 0.0 {
            let shared = normals(&mut rng(seed, Stream::OffsetNoise, n), channels);
            for (channel, shared) in eps.chunks_mut(width / channels).zip(shared) {
                channel.iter_mut().for_each(|eps| *eps += self.offset_noise as f32 * shared);
            }
        }
        eps
    }

    /// The class that the network is conditioned on for item `n`: its label or the null class.
    fn class(&self, label: usize, seed: u64, n: u64) -> usize {
        match self.labels {
            Labels::Dropped { null_class, share } if rng(seed, Stream::LabelDrop, n).random_bool(share) => null_class,
            _ => label,
        }
    }
}

fn augment_labels(items: &[StreamItem], device: &Device) -> Option<Tensor<2>> {
    let labels: Vec<_> = items.iter().map(|item| item.augment_labels).collect::<Option<_>>()?;
    let numbers = labels.as_flattened();
    let shape = [items.len(), numbers.len() / items.len()];
    Some(Tensor::from_data(TensorData::new(numbers.to_vec(), shape), device))
}

/// Draws the steps of a batch again, with these probabilities: still a function of seed and item, and of the history of
/// losses that the probabilities come from.
pub fn draw_by_importance(batch: &mut NoisedBatch, seed: u64, probabilities: &[f64]) {
    let items = (0..batch.times.len() as u64).map(|row| batch.first_item + row);
    let steps: Vec<usize> = items.map(|n| step_at(probabilities, rng(seed, Stream::Time, n).random())).collect();
    batch.times = steps.iter().map(|&t| t as f64).collect();
    batch.importance = Some(steps.iter().map(|&t| importance_weight(probabilities, t)).collect());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::snapshot::DiffusionConfig;

    fn noising(offset_noise: f64) -> Noising {
        let diffusion = Arc::new(DiffusionConfig::default().init().unwrap());
        Noising {
            diffusion,
            labels: Labels::Unused,
            offset_noise,
            self_conditioning: false,
            shape: vec![2, 2, 1],
            latents: None,
            captions: None,
        }
    }

    fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = x.len() as f64;
        x.sum::<f64>() / count
    }

    #[test]
    fn offset_noise_is_shared_by_a_channel_and_by_nothing_else() {
        let (items, offset) = (5_000, 0.5);
        // Two channels of two pixels each.
        let eps: Vec<Vec<f32>> = (0..items).map(|n| noising(offset).eps(3, n, 2, 4)).collect();
        let product = |i: usize, j: usize| mean(eps.iter().map(|eps| f64::from(eps[i]) * f64::from(eps[j])));
        for i in 0..4 {
            assert!(mean(eps.iter().map(|eps| f64::from(eps[i]))).abs() < 0.07);
            for j in 0..=i {
                let wanted = match (i == j, i / 2 == j / 2) {
                    (true, _) => 1.0 + offset * offset,
                    (false, true) => offset * offset,
                    (false, false) => 0.0,
                };
                assert!((product(i, j) - wanted).abs() < 0.1, "{i} {j}: {}", product(i, j));
            }
        }
    }

    #[test]
    fn without_offset_the_noise_is_what_it_was() {
        assert_eq!(noising(0.0).eps(3, 7, 2, 4), normals(&mut rng(3, Stream::Noise, 7), 4));
    }
}
