//! The forward process over the stream of items: step, noise and label drop of item n follow from (seed, n) alone.
//!
//! So neither the batch size, nor the number of parts a batch is computed in, nor a stop and resume in
//! between changes what any item sees.

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::ExampleBatch;
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_model::condition::Condition;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::resample::{importance_weight, step_at};

use crate::model::TrainBatch;

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
    /// The run's seed.
    pub seed: u64,
    /// The process, which says what times there are.
    pub diffusion: Arc<Diffusion>,
    /// Which labels the network is conditioned on.
    pub labels: Labels,
    /// Parts of a batch.
    pub parts: usize,
    /// Standard deviation of the noise that a whole channel shares.
    pub offset_noise: f64,
    /// Whether the network is shown its own estimate of every other item.
    pub self_conditioning: bool,
}

impl Noising {
    /// Draws the time and `eps` from N(0, I) for every row, plus what a channel shares.
    pub(crate) fn apply<const D: usize>(&self, batch: ExampleBatch<D>) -> TrainBatch<D> {
        let ExampleBatch { x_0, labels, augment_labels, first_item } = batch;
        let device = x_0.device();
        let dims = x_0.dims();
        let (rows, width) = (dims[0], dims[1..].iter().product());
        let items = (0..rows as u64).map(|row| first_item + row);

        let times = items.clone().map(|n| self.time(n)).collect();
        let shown = |n| f64::from(u8::from(rng(self.seed, Stream::SelfConditioning, n).random::<bool>()));
        let shown = self.self_conditioning.then(|| items.clone().map(shown).collect());
        let eps: Vec<f32> = items.clone().flat_map(|n| self.eps(n, dims[1], width)).collect();
        let condition = match labels.filter(|_| self.labels != Labels::Unused) {
            Some(labels) => {
                let classes: Vec<i64> =
                    labels.into_iter().zip(items).map(|(label, n)| self.class_of(label, n) as i64).collect();
                Condition::Class(Tensor::<1, Int>::from_data(TensorData::new(classes, [rows]), &device))
            }
            None => Condition::None,
        };
        let augment_labels = augment_labels.map(|labels| {
            let numbers = labels.as_flattened();
            let shape = [rows, numbers.len() / rows];
            Tensor::from_data(TensorData::new(numbers.to_vec(), shape), &device)
        });
        let eps = Tensor::from_data(TensorData::new(eps, dims), &device);
        let share = 1.0 / self.parts as f64;
        TrainBatch {
            x_0,
            eps,
            times,
            condition,
            augment_labels,
            share,
            loss_scale: 1.0,
            first_item,
            shown,
            importance: None,
        }
    }

    /// The training time of item `n`.
    fn time(&self, n: u64) -> f64 {
        let mut rng = rng(self.seed, Stream::Time, n);
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
    fn eps(&self, n: u64, channels: usize, width: usize) -> Vec<f32> {
        let mut eps = normals(&mut rng(self.seed, Stream::Noise, n), width);
        if self.offset_noise > 0.0 {
            let shared = normals(&mut rng(self.seed, Stream::OffsetNoise, n), channels);
            for (channel, shared) in eps.chunks_mut(width / channels).zip(shared) {
                channel.iter_mut().for_each(|eps| *eps += self.offset_noise as f32 * shared);
            }
        }
        eps
    }

    /// The class that the network is conditioned on for item `n`: its label or the null class.
    fn class_of(&self, label: usize, n: u64) -> usize {
        match self.labels {
            Labels::Dropped { null_class, share } if rng(self.seed, Stream::LabelDrop, n).random_bool(share) => {
                null_class
            }
            _ => label,
        }
    }
}

/// Draws the steps of a batch anew, with these probabilities, and gives them: still a function of seed and item, and of the
/// history of losses that the probabilities come from.
pub fn draw_by_importance<const D: usize>(batch: &mut TrainBatch<D>, seed: u64, probabilities: &[f64]) -> Vec<usize> {
    let items = (0..batch.times.len() as u64).map(|row| batch.first_item + row);
    let steps: Vec<usize> = items.map(|n| step_at(probabilities, rng(seed, Stream::Time, n).random())).collect();
    batch.times = steps.iter().map(|&t| t as f64).collect();
    batch.importance = Some(steps.iter().map(|&t| importance_weight(probabilities, t)).collect());
    steps
}

/// A loader of items as a loader of training pairs.
#[derive(Clone)]
pub struct NoisyLoader<const D: usize> {
    items: Arc<dyn DataLoader<ExampleBatch<D>>>,
    noising: Noising,
}

impl<const D: usize> NoisyLoader<D> {
    /// Wraps a loader of items.
    pub fn new(items: Arc<dyn DataLoader<ExampleBatch<D>>>, noising: Noising) -> Self {
        Self { items, noising }
    }
}

impl<const D: usize> DataLoader<TrainBatch<D>> for NoisyLoader<D> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TrainBatch<D>> + 'a> {
        Box::new(NoisyIterator { items: self.items.iter(), noising: &self.noising })
    }

    fn num_items(&self) -> usize {
        self.items.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<TrainBatch<D>>> {
        Arc::new(Self::new(self.items.to_device(device), self.noising.clone()))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<TrainBatch<D>>> {
        Arc::new(Self::new(self.items.slice(start, end), self.noising.clone()))
    }
}

struct NoisyIterator<'a, const D: usize> {
    items: Box<dyn DataLoaderIterator<ExampleBatch<D>> + 'a>,
    noising: &'a Noising,
}

impl<const D: usize> Iterator for NoisyIterator<'_, D> {
    type Item = Result<TrainBatch<D>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.next().map(|batch| batch.map(|batch| self.noising.apply(batch)))
    }
}

impl<const D: usize> DataLoaderIterator<TrainBatch<D>> for NoisyIterator<'_, D> {
    fn progress(&self) -> Progress {
        self.items.progress()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_infer::snapshot::DiffusionConfig;

    fn noising(offset_noise: f64) -> Noising {
        let diffusion = Arc::new(DiffusionConfig::default().init().unwrap());
        Noising { seed: 3, diffusion, labels: Labels::Unused, parts: 1, offset_noise, self_conditioning: false }
    }

    fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = x.len() as f64;
        x.sum::<f64>() / count
    }

    #[test]
    fn offset_noise_is_shared_by_a_channel_and_by_nothing_else() {
        let (items, offset) = (5_000, 0.5);
        // Two channels of two pixels each.
        let eps: Vec<Vec<f32>> = (0..items).map(|n| noising(offset).eps(n, 2, 4)).collect();
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
        assert_eq!(noising(0.0).eps(7, 2, 4), normals(&mut rng(3, Stream::Noise, 7), 4));
    }
}
