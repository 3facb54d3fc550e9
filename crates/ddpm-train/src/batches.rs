//! A loader of items, which are on the host, as Burn's loader of what a family learns from on a device.

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use ddpm_data::{ItemBatches, OrderedLoader, StreamItem};
use ddpm_families::family::erased::AnyFamily;

use crate::train_step::TrainBatch;

/// Batches for the steps of a run.
///
/// What is random about item n follows from (seed, n) alone. So neither the batch size, nor the number of parts a batch is
/// computed in, nor a stop and resume in between changes what any item sees.
#[derive(Clone)]
pub struct Batches {
    /// The items.
    pub items: OrderedLoader,
    /// What makes batches of them.
    pub family: Arc<dyn AnyFamily>,
    /// The seed of the run.
    pub seed: u64,
    /// Parts of a step.
    pub parts: usize,
    /// Where the batches go.
    pub device: Device,
}

impl Batches {
    /// The tensors are made here, not by the threads that read: some backends give every thread a stream of its own.
    fn batch(&self, items: Vec<StreamItem>) -> TrainBatch {
        let first_item = items.first().map_or(0, |item| item.place);
        let batch = self.family.batch(items, self.seed, &self.device);
        TrainBatch { batch, device: self.device.clone(), share: 1.0 / self.parts as f64, loss_scale: 1.0, first_item }
    }
}

impl DataLoader<TrainBatch> for Batches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TrainBatch> + 'a> {
        Box::new(BatchIterator { items: self.items.iter(), batches: self })
    }

    fn num_items(&self) -> usize {
        self.items.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<TrainBatch>> {
        Arc::new(Self { device: device.clone(), ..self.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<TrainBatch>> {
        Arc::new(Self { items: self.items.slice(start, end), ..self.clone() })
    }
}

struct BatchIterator<'a> {
    items: ItemBatches<'a>,
    batches: &'a Batches,
}

impl Iterator for BatchIterator<'_> {
    type Item = Result<TrainBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.next().map(|items| items.map(|items| self.batches.batch(items)))
    }
}

impl DataLoaderIterator<TrainBatch> for BatchIterator<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.items.items_done(), self.batches.num_items(), Some("items".into()))
    }
}
