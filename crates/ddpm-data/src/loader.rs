//! Batches in an order that depends on the seed alone, read on worker threads ahead of the step, all of it on the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use burn_dataset::{Dataset, DatasetError};

use crate::augment::{AugmentConfig, AugmentLabels};
use crate::error::DataError;
use crate::example::{Example, Flip};
use crate::open::OpenData;
use crate::order::{BalancedOrder, Order, items_by_class};

/// An item and its place in the endless stream.
#[derive(Clone, Debug)]
pub struct StreamItem {
    /// Counted from 0 over all epochs.
    pub place: u64,
    /// The item.
    pub example: Example,
    /// Its augmentation labels, where the network is conditioned on them.
    pub augment_labels: Option<AugmentLabels>,
}

/// An endless stream of batches, or a part of it.
///
/// Batches are full and run on over the end of an epoch; only the end of a part can cut the last one short.
/// Burn's own loader with several workers delivers in the order in which they finish, and its shuffling
/// cannot be taken up in the middle; this one depends on (seed, place in the stream) alone, whatever the
/// number of workers. It gives items on the host: what becomes of them on a device is for whoever learns from them.
#[derive(Clone)]
pub struct OrderedLoader {
    source: Source,
    batch_size: usize,
    start: u64,
    end: u64,
    workers: usize,
    speed: Arc<ReadingSpeed>,
}

/// How fast items are read, counted while they are: what the loader could give if nothing held it back.
#[derive(Debug, Default)]
pub struct ReadingSpeed {
    items: AtomicU64,
    nanoseconds: AtomicU64,
    threads: AtomicU64,
}

impl ReadingSpeed {
    /// Items a second that all threads together could read, since this was asked last; none if nothing was read.
    pub fn take(&self) -> Option<f64> {
        let [items, nanoseconds] = [&self.items, &self.nanoseconds].map(|count| count.swap(0, Ordering::Relaxed));
        let threads = self.threads.load(Ordering::Relaxed);
        (nanoseconds > 0).then(|| items as f64 * threads as f64 / (nanoseconds as f64 * 1e-9))
    }
}

/// Batches that each worker may have ready.
const BATCHES_AHEAD: usize = 2;

/// More workers than this have never been of use beside a training step.
const MAX_DEFAULT_WORKERS: usize = 4;

impl OrderedLoader {
    /// The endless stream from its beginning.
    pub fn new(data: &OpenData, batch_size: usize, seed: u64) -> Result<Self, DataError> {
        let info = &data.info;
        if batch_size == 0 {
            return Err(DataError::Config {
                key: "batch_size",
                reason: "0 is out of range; expected at least 1".into(),
            });
        }
        if data.items.is_empty() {
            return Err(DataError::EmptySplit {
                name: info.name.clone(),
                split: "opened",
                reason: "there is nothing to load",
            });
        }
        Ok(Self {
            source: Source {
                items: data.items.clone(),
                values_per_item: info.values_per_item(),
                shape: info.shape.clone(),
                flip: data.flip,
                augment: AugmentConfig::default(),
                by_class: None,
                seed,
            },
            batch_size,
            start: 0,
            end: u64::MAX,
            workers: thread::available_parallelism().map_or(1, |n| n.get().min(MAX_DEFAULT_WORKERS)),
            speed: Arc::default(),
        })
    }

    /// All classes come equally often, however many items each has.
    pub fn balanced(mut self, data: &OpenData) -> Result<Self, DataError> {
        let wrong = |reason| DataError::Config { key: "balance", reason };
        let labels = data.labels().map_err(|error| wrong(error.to_string()))?;
        let labels = labels.ok_or_else(|| wrong(format!("{} has no classes", data.info.name)))?;
        self.source.by_class = Some(items_by_class(&labels));
        Ok(self)
    }

    /// Pictures are changed as they are read.
    pub fn augmented(mut self, augment: AugmentConfig) -> Self {
        self.source.augment = augment;
        self
    }

    /// The part of the stream from an item up to, not including, another.
    pub fn between(self, start: u64, end: u64) -> Self {
        Self { start, end: end.max(start), ..self }
    }

    /// How many threads read ahead; 0 reads in the thread that asks.
    pub fn with_workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// The batches from the beginning of the part, which threads begin to read.
    pub fn iter(&self) -> ItemBatches<'_> {
        self.speed.threads.store(self.workers.max(1) as u64, Ordering::Relaxed);
        let reading = match self.workers {
            0 => Reading::Here(self.source.order()),
            workers => Reading::Ahead(
                (0..workers as u64).map(|worker| Worker::start(self.clone(), worker, workers as u64)).collect(),
            ),
        };
        ItemBatches { loader: self, reading, next_batch: 0, failed: false }
    }

    /// How many items the part has; of the endless stream the largest number there is.
    pub fn num_items(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// The part of this part from an item up to, not including, another, counted from its beginning.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        let place = |item: usize| self.start.saturating_add(item as u64).min(self.end);
        self.clone().between(place(start), place(end))
    }

    /// How fast the items are read; all parts of a loader count together.
    pub fn speed(&self) -> Arc<ReadingSpeed> {
        self.speed.clone()
    }

    /// Reads the items at some places, and counts how long it takes.
    fn read(&self, places: std::ops::Range<u64>, order: &mut ItemOrder) -> Read {
        let (start, items) = (Instant::now(), places.end - places.start);
        let read = self.source.read(places, order);
        self.speed.items.fetch_add(items, Ordering::Relaxed);
        self.speed.nanoseconds.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        read
    }

    /// The places of the stream that a batch of this loader covers.
    fn places(&self, batch: u64) -> std::ops::Range<u64> {
        let size = self.batch_size as u64;
        let start = self.start.saturating_add(batch.saturating_mul(size)).min(self.end);
        start..start.saturating_add(size).min(self.end)
    }
}

/// Where items come from.
#[derive(Clone)]
struct Source {
    items: Arc<dyn Dataset<Example>>,
    values_per_item: usize,
    shape: Vec<usize>,
    flip: Flip,
    augment: AugmentConfig,
    /// Where classes are to come equally often, the items of each.
    by_class: Option<Arc<[Vec<u32>]>>,
    seed: u64,
}

/// Which item is at a place of the stream.
enum ItemOrder {
    Epochs(Order),
    Balanced(BalancedOrder),
}

impl ItemOrder {
    fn item_at(&mut self, place: u64) -> usize {
        match self {
            Self::Epochs(order) => order.item_at(place),
            Self::Balanced(order) => order.item_at(place),
        }
    }
}

impl Source {
    fn order(&self) -> ItemOrder {
        match &self.by_class {
            None => ItemOrder::Epochs(Order::new(self.seed, self.items.len())),
            Some(classes) => ItemOrder::Balanced(BalancedOrder::new(self.seed, classes.clone())),
        }
    }

    fn read(&self, places: std::ops::Range<u64>, order: &mut ItemOrder) -> Result<Vec<StreamItem>, DatasetError> {
        places
            .map(|place| {
                let index = order.item_at(place);
                let mut example = self.items.get(index)?;
                if example.values.len() != self.values_per_item {
                    let (found, expected) = (example.values.len(), self.values_per_item);
                    return Err(fault(format!("item {index} has {found} values; expected {expected}")));
                }
                self.flip.apply(&mut example.values, self.shape.last().copied().unwrap_or(1), self.seed, place);
                let augment_labels = match *self.shape {
                    [channels, height, width] => {
                        self.augment.apply(&mut example.values, [channels, height, width], self.seed, place)
                    }
                    _ => None,
                };
                Ok(StreamItem { place, example, augment_labels })
            })
            .collect()
    }
}

fn fault(reason: String) -> DatasetError {
    DatasetError::new(std::io::Error::other(reason))
}

type Read = Result<Vec<StreamItem>, DatasetError>;

/// A thread that reads every n-th batch, so that asking the workers in turn gives the batches in order.
struct Worker {
    /// Taken when dropped: that is what stops the thread.
    batches: Option<Receiver<Read>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(loader: OrderedLoader, first: u64, step: u64) -> Self {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let on_failure = sender.clone();
        let thread = thread::Builder::new().name(format!("data-{first}")).spawn(move || {
            let mut order = loader.source.order();
            let mut batch = first;
            loop {
                let places = loader.places(batch);
                if places.is_empty() {
                    return;
                }
                let read = loader.read(places, &mut order);
                let failed = read.is_err();
                // Nobody listens any more, or nothing sensible can follow.
                if sender.send(read).is_err() || failed {
                    return;
                }
                batch += step;
            }
        });
        let thread = match thread {
            Ok(thread) => Some(thread),
            Err(error) => {
                // The channel is empty and has room: the iterator will find the error in its turn.
                let _ = on_failure.try_send(Err(DatasetError::new(error)));
                None
            }
        };
        Self { batches: Some(batches), thread }
    }

    fn next(&self) -> Read {
        let read = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        read.unwrap_or_else(|| Err(fault("a thread that reads data stopped unexpectedly".into())))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported when its batch was asked for.
            let _ = thread.join();
        }
    }
}

enum Reading {
    Here(ItemOrder),
    Ahead(Vec<Worker>),
}

/// The batches of an [`OrderedLoader`], one after the other. Its threads stop when it is dropped.
pub struct ItemBatches<'a> {
    loader: &'a OrderedLoader,
    reading: Reading,
    next_batch: u64,
    failed: bool,
}

impl ItemBatches<'_> {
    /// How many items have been given out.
    pub fn items_done(&self) -> usize {
        let done = self.loader.places(self.next_batch).start - self.loader.start;
        usize::try_from(done).unwrap_or(usize::MAX)
    }
}

impl Iterator for ItemBatches<'_> {
    type Item = Read;

    fn next(&mut self) -> Option<Self::Item> {
        let places = self.loader.places(self.next_batch);
        if self.failed || places.is_empty() {
            return None;
        }
        let read = match &mut self.reading {
            Reading::Here(order) => self.loader.read(places, order),
            Reading::Ahead(workers) => workers[(self.next_batch % workers.len() as u64) as usize].next(),
        };
        self.next_batch += 1;
        self.failed = read.is_err();
        Some(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::example::{DataInfo, Units};
    use crate::order::permutation;
    use burn_dataset::InMemDataset;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// Pictures of 1x1x2: the number of the item, and the same and a half.
    fn numbered(len: usize, flip: Flip) -> OpenData {
        let items = (0..len).map(|item| Example {
            values: vec![item as f32, item as f32 + 0.5],
            label: Some(item % 3),
            window: None,
            caption: None,
        });
        data(Arc::new(InMemDataset::new(items.collect())), flip)
    }

    fn data(items: Arc<dyn Dataset<Example>>, flip: Flip) -> OpenData {
        OpenData {
            info: DataInfo {
                name: "numbers".into(),
                shape: vec![1, 1, 2],
                classes: Vec::new(),
                units: Units::identity(1),
                series: None,
                latent: false,
                has_captions: false,
            },
            items,
            skipped: Vec::new(),
            series: None,
            ignored: Default::default(),
            labels: None,
            flip,
        }
    }

    fn loader(data: &OpenData, batch_size: usize) -> OrderedLoader {
        OrderedLoader::new(data, batch_size, 8).unwrap()
    }

    fn values(batch: Vec<StreamItem>) -> Vec<f32> {
        batch.into_iter().flat_map(|item| item.example.values).collect()
    }

    fn all_values(loader: &OrderedLoader) -> Vec<f32> {
        loader.iter().flat_map(|batch| values(batch.unwrap())).collect()
    }

    /// Fails at one item, and is slow at even ones so that workers overtake each other.
    #[derive(Default)]
    struct Uneven {
        len: usize,
        fails_at: Option<usize>,
        reads: AtomicUsize,
    }

    impl Dataset<Example> for Uneven {
        fn get(&self, index: usize) -> Result<Example, DatasetError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.fails_at == Some(index) {
                return Err(fault(format!("item {index} is broken")));
            }
            if index.is_multiple_of(2) {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(Example { values: vec![index as f32; 2], label: None, window: None, caption: None })
        }

        fn len(&self) -> usize {
            self.len
        }
    }

    #[test]
    fn batches_are_full_and_run_over_the_ends_of_epochs() {
        let data = numbered(5, Flip::Never);
        let loader = loader(&data, 3);
        let expected: Vec<usize> = (0..6).flat_map(|epoch| permutation(8, epoch, 5)).collect();
        for (k, batch) in loader.iter().take(10).enumerate() {
            let batch = batch.unwrap();
            let items = &expected[3 * k..3 * k + 3];
            let places: Vec<u64> = batch.iter().map(|item| item.place).collect();
            assert_eq!(places, [0, 1, 2].map(|row| 3 * k as u64 + row));
            let labels: Vec<Option<usize>> = items.iter().map(|item| Some(item % 3)).collect();
            assert_eq!(batch.iter().map(|item| item.example.label).collect::<Vec<_>>(), labels);
            let firsts: Vec<f32> = values(batch).into_iter().step_by(2).collect();
            let items: Vec<f32> = items.iter().map(|&item| item as f32).collect();
            assert_eq!(firsts, items);
        }
    }

    #[test]
    fn the_number_of_workers_changes_nothing() {
        for flip in [Flip::Never, Flip::Half] {
            let data = numbered(17, flip);
            let loader = loader(&data, 4).between(5, 85);
            let expected = all_values(&loader.clone().with_workers(0));
            assert_eq!(expected.len(), 160);
            for workers in [1, 2, 3, 7, 40] {
                assert_eq!(all_values(&loader.clone().with_workers(workers)), expected);
            }
        }
        let items = Arc::new(Uneven { len: 11, ..Uneven::default() });
        let data = data(items, Flip::Never);
        let loader = loader(&data, 2).between(0, 40);
        let expected = all_values(&loader.clone().with_workers(0));
        assert_eq!(all_values(&loader.with_workers(4)), expected);
    }

    #[test]
    fn the_stream_can_be_taken_up_anywhere() {
        let data = numbered(7, Flip::Half);
        let loader = loader(&data, 3);
        let whole = all_values(&loader.clone().between(0, 60));
        for start in [0_u64, 3, 20, 41] {
            let rest = loader.clone().between(start, 60);
            assert_eq!(rest.num_items(), 60 - start as usize);
            assert_eq!(all_values(&rest), whole[2 * start as usize..]);
        }
        let slice = loader.clone().between(10, 50).slice(4, 8);
        let sliced: Vec<f32> = slice.iter().flat_map(|batch| values(batch.unwrap())).collect();
        assert_eq!(sliced, whole[2 * 14..2 * 18]);
        assert_eq!(slice.num_items(), 4);
        assert_eq!(loader.num_items(), usize::MAX);
        assert!(all_values(&loader.between(60, 60)).is_empty());
    }

    #[test]
    fn balanced_batches_have_all_classes_alike_whatever_the_workers() {
        let mut data = numbered(19, Flip::Never);
        let unlabelled = loader(&data, 4).balanced(&data).err().unwrap().to_string();
        assert!(unlabelled.contains("numbers has no classes"), "{unlabelled}");
        data.info.classes = vec!["a".into(), "b".into(), "c".into()];
        let loader = loader(&data, 6).balanced(&data).unwrap().between(0, 120);
        for batch in loader.iter() {
            let labels: Vec<usize> = batch.unwrap().iter().filter_map(|item| item.example.label).collect();
            assert!((0..3).all(|class| labels.iter().filter(|&&label| label == class).count() == 2), "{labels:?}");
        }
        let expected = all_values(&loader.clone().with_workers(0));
        assert_eq!(all_values(&loader.clone().with_workers(3)), expected);
        assert_eq!(all_values(&loader.between(50, 120)), expected[100..]);
    }

    #[test]
    fn changes_and_their_labels_follow_the_place() {
        let items =
            (0..5).map(|item| Example { values: vec![item as f32; 64], label: None, window: None, caption: None });
        let mut data = data(Arc::new(InMemDataset::new(items.collect())), Flip::Never);
        data.info.shape = vec![1, 8, 8];
        let plain = loader(&data, 4).between(0, 40);
        assert!(plain.iter().flat_map(Result::unwrap).all(|item| item.augment_labels.is_none()));
        let changed = plain.clone().augmented(AugmentConfig { probability: 0.5, crop: 2 });
        let labels = |loader: &OrderedLoader| -> Vec<AugmentLabels> {
            loader.iter().flat_map(Result::unwrap).map(|item| item.augment_labels.unwrap()).collect()
        };
        let expected = (labels(&changed), all_values(&changed));
        assert_ne!(expected.1, all_values(&plain));
        for workers in [0, 3] {
            let again = changed.clone().with_workers(workers);
            assert_eq!((labels(&again), all_values(&again)), expected);
        }
        assert_eq!(labels(&changed.between(13, 40)), expected.0[13..]);
    }

    #[test]
    fn flips_follow_the_place_in_the_stream() {
        let data = numbered(4, Flip::Half);
        let seen: Vec<f32> = all_values(&loader(&data, 4).between(0, 400));
        let mirrored = |pair: &[f32]| pair[0] > pair[1];
        let count = seen.chunks_exact(2).filter(|pair| mirrored(pair)).count();
        assert!((150..250).contains(&count), "{count} of 400");
        // Each item is seen both ways.
        for item in 0..4 {
            let both: Vec<bool> =
                seen.chunks_exact(2).filter(|pair| pair[0].min(pair[1]) == item as f32).map(mirrored).collect();
            assert!(both.contains(&true) && both.contains(&false));
        }
    }

    #[test]
    fn an_error_arrives_in_its_turn_and_ends_the_stream() {
        let data = data(Arc::new(Uneven { len: 10, fails_at: Some(6), ..Uneven::default() }), Flip::Never);
        let place = permutation(8, 0, 10).iter().position(|&item| item == 6).unwrap();
        for workers in [0, 1, 3] {
            let loader = loader(&data, 1).with_workers(workers);
            let mut batches = loader.iter();
            for _ in 0..place {
                assert!(batches.next().unwrap().is_ok());
            }
            let error = batches.next().unwrap().unwrap_err();
            assert!(error.to_string().contains("item 6 is broken"), "{error}");
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn a_panic_in_a_worker_is_an_error_not_a_hang() {
        struct Panics;
        impl Dataset<Example> for Panics {
            fn get(&self, index: usize) -> Result<Example, DatasetError> {
                panic!("get({index}) panics on purpose")
            }
            fn len(&self) -> usize {
                3
            }
        }
        let data = data(Arc::new(Panics), Flip::Never);
        let loader = loader(&data, 2).with_workers(2);
        let error = loader.iter().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("stopped unexpectedly"), "{error}");
    }

    #[test]
    fn items_of_another_size_are_an_error() {
        let items = vec![Example { values: vec![0.0; 3], label: None, window: None, caption: None }];
        let data = data(Arc::new(InMemDataset::new(items)), Flip::Never);
        let loader = loader(&data, 1);
        let error = loader.iter().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("3 values; expected 2"), "{error}");
    }

    #[test]
    fn reading_ahead_is_bounded_and_stops_with_the_iterator() {
        let items = Arc::new(Uneven { len: 1000, ..Uneven::default() });
        let data = data(items.clone(), Flip::Never);
        let counted = Arc::downgrade(&data.items);
        let loader = loader(&data, 2).with_workers(3);
        drop(data);
        let mut batches = loader.iter();
        batches.next().unwrap().unwrap();
        // Time enough to read everything, if nothing held the workers back: each may have its batches
        // ahead and one in hand, and one was taken.
        thread::sleep(Duration::from_millis(200));
        let read = items.reads.load(Ordering::Relaxed);
        assert!(read <= 2 * (3 * (BATCHES_AHEAD + 1) + 1), "{read} items were read");
        drop(items);
        let begin = Instant::now();
        drop(batches);
        assert!(begin.elapsed() < Duration::from_secs(5));
        // All threads have ended: nobody but the loader holds the items.
        assert_eq!(counted.strong_count(), 1);
    }

    #[test]
    fn the_speed_of_reading_is_that_of_all_threads_together() {
        // Every other item takes a millisecond.
        let items = Arc::new(Uneven { len: 100, ..Uneven::default() });
        let data = data(items, Flip::Never);
        for workers in [0, 1, 3] {
            let loader = loader(&data, 5).with_workers(workers).between(0, 100);
            let speed = loader.speed();
            assert_eq!(speed.take(), None);
            assert_eq!(loader.iter().count(), 20);
            let most = 2000.0 * workers.max(1) as f64;
            let found = speed.take().unwrap();
            assert!(found > 0.0 && found < 1.05 * most, "{found} items/s with {workers} workers");
            assert_eq!(speed.take(), None);
        }
    }

    #[test]
    fn items_given_out_are_counted() {
        let data = numbered(5, Flip::Never);
        let loader = loader(&data, 4).between(10, 20);
        let mut batches = loader.iter();
        let mut seen = Vec::new();
        while batches.next().is_some() {
            seen.push(batches.items_done());
        }
        assert_eq!(seen, [4, 8, 10]);
        assert_eq!(batches.items_done(), loader.num_items());
    }

    #[test]
    fn impossible_loaders_are_refused() {
        let data = numbered(5, Flip::Never);
        assert!(OrderedLoader::new(&data, 0, 0).is_err());
        assert!(OrderedLoader::new(&numbered(0, Flip::Never), 4, 0).is_err());
    }
}
