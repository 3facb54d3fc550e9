//! In which order items are seen: a function of (seed, epoch).

use std::sync::Arc;

use rand::Rng;

use crate::random::{Stream, rng};

/// The order of `len` items in an epoch.
pub fn permutation(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    permuted(seed, Stream::Order, epoch, len)
}

fn permuted(seed: u64, stream: Stream, index: u64, len: usize) -> Vec<usize> {
    let mut rng = rng(seed, stream, index);
    let mut items: Vec<usize> = (0..len).collect();
    // Fisher and Yates, written out because the order must never change with a version of a library.
    for last in (1..len).rev() {
        // Scales 64 random bits to 0..=last; the bias is below last / 2^64.
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, pick as usize);
    }
    items
}

/// The endless stream of items: epoch after epoch, each in its own order.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    stream: Stream,
    /// The index of epoch 0 in that stream.
    base: u64,
    len: usize,
    /// The epoch of `items`; the stream is mostly read forwards, so one is kept.
    epoch: Option<u64>,
    items: Vec<usize>,
}

impl Order {
    /// The stream over `len` items, of which there must be some.
    pub fn new(seed: u64, len: usize) -> Self {
        Self::of(seed, Stream::Order, 0, len)
    }

    fn of(seed: u64, stream: Stream, base: u64, len: usize) -> Self {
        assert!(len > 0, "a stream needs items");
        Self { seed, stream, base, len, epoch: None, items: Vec::new() }
    }

    /// Which item is at a place of the stream.
    pub fn item_at(&mut self, place: u64) -> usize {
        let len = self.len as u64;
        let epoch = place / len;
        if self.epoch != Some(epoch) {
            // The old order goes before the new one comes: of a million items each takes 8 MB, on every thread.
            self.items = Vec::new();
            self.items = permuted(self.seed, self.stream, self.base.wrapping_add(epoch), self.len);
            self.epoch = Some(epoch);
        }
        self.items[(place % len) as usize]
    }
}

/// The endless stream of items in which all classes come equally often: round after round of one item of each class,
/// and of each class all items before one comes again.
#[derive(Clone, Debug)]
pub struct BalancedOrder {
    /// The items of each class, of which there are some.
    classes: Arc<[Vec<u32>]>,
    rounds: Order,
    within: Vec<Order>,
}

impl BalancedOrder {
    /// The stream over items of these [classes](items_by_class), of which there must be some.
    pub fn new(seed: u64, classes: Arc<[Vec<u32>]>) -> Self {
        let order =
            |(class, items): (usize, &Vec<u32>)| Order::of(seed, Stream::ClassItems, (class as u64) << 32, items.len());
        let within = classes.iter().enumerate().map(order).collect();
        Self { rounds: Order::of(seed, Stream::ClassRound, 0, classes.len()), within, classes }
    }

    /// Which item is at a place of the stream.
    pub fn item_at(&mut self, place: u64) -> usize {
        let class = self.rounds.item_at(place);
        let round = place / self.classes.len() as u64;
        self.classes[class][self.within[class].item_at(round)] as usize
    }
}

/// The items of each class that has some.
pub fn items_by_class(labels: &[u32]) -> Arc<[Vec<u32>]> {
    let count = labels.iter().max().map_or(0, |&last| last as usize + 1);
    let mut classes = vec![Vec::new(); count];
    for (item, &label) in labels.iter().enumerate() {
        classes[label as usize].push(item as u32);
    }
    classes.into_iter().filter(|items| !items.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays_the_same_for_ever() {
        assert_eq!(permutation(0, 0, 8), [4, 3, 7, 0, 1, 6, 2, 5]);
        assert_eq!(permutation(7, 3, 5), [3, 0, 1, 4, 2]);
    }

    #[test]
    fn every_epoch_has_every_item_once_in_its_own_order() {
        for len in [1, 2, 3, 10, 1000] {
            for epoch in 0..4 {
                let mut items = permutation(1, epoch, len);
                items.sort_unstable();
                assert!(items.into_iter().eq(0..len));
            }
        }
        assert_ne!(permutation(1, 0, 100), permutation(1, 1, 100));
        assert_ne!(permutation(1, 0, 100), permutation(2, 0, 100));
    }

    #[test]
    fn every_item_comes_first_equally_often() {
        let mut first = [0; 10];
        for epoch in 0..5000 {
            first[permutation(4, epoch, 10)[0]] += 1;
        }
        assert!(first.iter().all(|count| (410..590).contains(count)), "{first:?}");
    }

    #[test]
    fn balanced_classes_come_once_a_round_and_their_items_once_an_epoch() {
        // Class 1 has no items.
        let labels = [0, 0, 2, 0, 3, 0, 2, 0];
        let classes = items_by_class(&labels);
        assert_eq!(&classes[..], [vec![0, 1, 3, 5, 7], vec![2, 6], vec![4]]);
        let mut order = BalancedOrder::new(5, classes.clone());
        let stream: Vec<usize> = (0..300).map(|place| order.item_at(place)).collect();
        for round in stream.chunks(3) {
            let mut seen: Vec<u32> = round.iter().map(|&item| labels[item]).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 2, 3]);
        }
        for (class, label) in classes.iter().zip([0, 2, 3]) {
            let items: Vec<usize> = stream.iter().copied().filter(|&item| labels[item] == label).collect();
            for epoch in items.chunks_exact(class.len()) {
                let mut seen = epoch.to_vec();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(class.iter().map(|&item| item as usize)));
            }
        }
        // Any place by itself, and another seed.
        let mut again = BalancedOrder::new(5, classes.clone());
        assert!((0..300).rev().all(|place| again.item_at(place as u64) == stream[place]));
        let mut other = BalancedOrder::new(6, classes);
        assert!((0..300).any(|place| other.item_at(place as u64) != stream[place]));
        assert_eq!(stream[..9], [4, 2, 1, 6, 7, 4, 6, 4, 5]);
    }

    #[test]
    fn the_stream_is_the_epochs_one_after_the_other() {
        let expected: Vec<usize> = (0..5).flat_map(|epoch| permutation(3, epoch, 7)).collect();
        let mut order = Order::new(3, 7);
        let forwards: Vec<usize> = (0..35).map(|n| order.item_at(n)).collect();
        assert_eq!(forwards, expected);
        let mut backwards: Vec<usize> = (0..35).rev().map(|n| order.item_at(n)).collect();
        backwards.reverse();
        assert_eq!(backwards, expected);
        assert!(order.item_at(u64::MAX) < 7);
    }
}
