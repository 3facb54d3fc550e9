//! In which order items are seen: a function of (seed, epoch).

use rand::Rng;

use crate::random::{Stream, rng};

/// The order of `len` items in an epoch.
pub fn permutation(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut rng = rng(seed, Stream::Order, epoch);
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
    len: usize,
    /// The epoch of `items`; the stream is mostly read forwards, so one is kept.
    epoch: Option<u64>,
    items: Vec<usize>,
}

impl Order {
    /// The stream over `len` items, of which there must be some.
    pub fn new(seed: u64, len: usize) -> Self {
        assert!(len > 0, "a stream needs items");
        Self { seed, len, epoch: None, items: Vec::new() }
    }

    /// Which item is at a place of the stream.
    pub fn item_at(&mut self, place: u64) -> usize {
        let len = self.len as u64;
        let epoch = place / len;
        if self.epoch != Some(epoch) {
            self.items = permutation(self.seed, epoch, self.len);
            self.epoch = Some(epoch);
        }
        self.items[(place % len) as usize]
    }
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
