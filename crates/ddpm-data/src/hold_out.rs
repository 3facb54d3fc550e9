//! Which items of a set without a split of its own are kept for the test.

use crate::hash::fnv1a;
use crate::random::{Stream, mix};

/// Any number; changing it changes every split.
const SEED: u64 = 0;

/// One item in so many is held out.
const ONE_IN: usize = 10;

/// Which items are held out, given a stable number for each item: the tenth (rounded, but at least one of
/// two) with the smallest hashes. So adding a file moves next to none of the others across the split.
pub(crate) fn held_out(keys: &[u64]) -> Vec<bool> {
    let mut ranked: Vec<usize> = (0..keys.len()).collect();
    ranked.sort_by_key(|&item| (mix(SEED, Stream::Split, keys[item]), item));
    let count = match keys.len() {
        0 | 1 => 0,
        len => ((len + ONE_IN / 2) / ONE_IN).max(1),
    };
    let mut held_out = vec![false; keys.len()];
    for &item in &ranked[..count] {
        held_out[item] = true;
    }
    held_out
}

/// A stable number for a name (FNV-1a).
pub(crate) fn key_of_name<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    fnv1a(parts.flat_map(|part| part.iter().chain(b"/")).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out() {
        for (len, expected) in [(0, 0), (1, 0), (2, 1), (14, 1), (15, 2), (100, 10), (1797, 180)] {
            let keys: Vec<u64> = (0..len).collect();
            let count = held_out(&keys).into_iter().filter(|&held| held).count();
            assert_eq!(count, expected, "of {len}");
        }
    }

    #[test]
    fn one_more_item_moves_at_most_one_other() {
        let keys: Vec<u64> = (0..101).map(|k: u64| k.wrapping_mul(0x1234_5678_9ABC)).collect();
        let before = held_out(&keys[..100]);
        let after = held_out(&keys);
        let moved = (0..100).filter(|&k| before[k] != after[k]).count();
        assert!(moved <= 1, "{moved} moved");
    }

    #[test]
    fn equal_keys_are_told_apart_by_their_place() {
        let count = held_out(&[5; 20]).into_iter().filter(|&held| held).count();
        assert_eq!(count, 2);
    }

    #[test]
    fn names_are_hashed_part_by_part() {
        let key = |parts: &[&str]| key_of_name(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        assert_ne!(key(&["a", "b"]), key(&["b", "a"]));
        assert_eq!(key(&["cat", "1.png"]), key(&["cat", "1.png"]));
    }
}
