//! Memory for results, which each task clears for itself.
//!
//! `vec![0.0; n]` clears on the calling thread, while all others wait, and often asks the system for pages besides.
#![allow(unsafe_code, reason = "memory becomes a vector once all of it was written, which is counted")]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use crate::simd::{LANES, is_short};

/// A vector of `len` values, all of which `write` clears or copies.
pub(crate) fn written(len: usize, write: impl FnOnce(Unset)) -> Vec<f32> {
    let [values] = written_together(len, |[values]| write(values));
    values
}

/// As [`written`], several vectors of the same length.
pub(crate) fn written_together<const N: usize>(len: usize, write: impl FnOnce([Unset; N])) -> [Vec<f32>; N] {
    let mut all = [(); N].map(|()| Vec::with_capacity(len));
    let set = AtomicUsize::new(0);
    write(all.each_mut().map(|values| Unset { values: &mut values.spare_capacity_mut()[..len], set: &set }));
    assert_eq!(set.into_inner(), N * len, "part of a result was not written");
    for values in &mut all {
        // SAFETY: there is room for `len` values. Every part of them lies in one `Unset` at most, which counts its values
        // when it has written them and is used up by that, so all were written.
        unsafe { values.set_len(len) };
    }
    all
}

/// Part of a result, not to be read before it is written.
pub(crate) struct Unset<'a> {
    values: &'a mut [MaybeUninit<f32>],
    set: &'a AtomicUsize,
}

impl<'a> Unset<'a> {
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// All zeros, to be worked on.
    pub(crate) fn cleared(self) -> &'a mut [f32] {
        self.values.fill(MaybeUninit::new(0.0));
        self.set.fetch_add(self.values.len(), Relaxed);
        // SAFETY: all values were set two lines above.
        unsafe { self.values.assume_init_mut() }
    }

    /// The same values as `source`, which has as many.
    pub(crate) fn copied(self, source: &[f32]) -> &'a mut [f32] {
        self.set.fetch_add(self.values.len(), Relaxed);
        self.values.write_copy_of_slice(source)
    }

    pub(crate) fn split_at(self, middle: usize) -> (Self, Self) {
        let (first, second) = self.values.split_at_mut(middle);
        (Self { values: first, set: self.set }, Self { values: second, set: self.set })
    }

    /// Parts of `size` values, of which the last may have fewer.
    pub(crate) fn chunks(self, size: usize) -> impl Iterator<Item = Self> {
        let set = self.set;
        self.values.chunks_mut(size).map(move |values| Self { values, set })
    }

    /// The same, on all cores.
    pub(crate) fn par_chunks(self, size: usize) -> impl IndexedParallelIterator<Item = Self> {
        let set = self.set;
        self.values.par_chunks_mut(size).map(move |values| Self { values, set })
    }
}

/// Values that a task has written and that are not counted yet. All tasks count in one place, and would wait for it longer
/// than they write if they counted every small part by itself.
#[derive(Default)]
pub(crate) struct Uncounted<'a> {
    set: Option<&'a AtomicUsize>,
    values: usize,
}

impl<'a> Uncounted<'a> {
    /// As [`Unset::cleared`].
    #[inline(always)]
    pub(crate) fn cleared(&mut self, part: Unset<'a>) -> &'a mut [f32] {
        let Unset { values, set } = part;
        if is_short(values.len()) {
            values.as_chunks_mut().0.fill([MaybeUninit::new(0.0); LANES]);
        } else {
            values.fill(MaybeUninit::new(0.0));
        }
        self.add(set, values.len());
        // SAFETY: all values were set above: a short part is whole chunks.
        unsafe { values.assume_init_mut() }
    }

    /// As [`Unset::copied`].
    #[inline(always)]
    pub(crate) fn copied(&mut self, part: Unset<'a>, source: &[f32]) -> &'a mut [f32] {
        let Unset { values, set } = part;
        assert_eq!(values.len(), source.len(), "lengths of a copy");
        if is_short(values.len()) {
            for (to, from) in values.as_chunks_mut::<LANES>().0.iter_mut().zip(source.as_chunks::<LANES>().0) {
                to.write_copy_of_slice(from);
            }
        } else {
            values.write_copy_of_slice(source);
        }
        self.add(set, values.len());
        // SAFETY: all values were set above: a short part is whole chunks, and the source as long.
        unsafe { values.assume_init_mut() }
    }

    /// A part of another result has another count.
    fn add(&mut self, set: &'a AtomicUsize, values: usize) {
        if self.set.is_some_and(|last| !std::ptr::eq(last, set)) {
            self.count();
        }
        self.set = Some(set);
        self.values += values;
    }

    fn count(&mut self) {
        if let Some(set) = self.set.take() {
            set.fetch_add(std::mem::take(&mut self.values), Relaxed);
        }
    }
}

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_together() {
        let values = written(10, |all| {
            let (first, rest) = all.split_at(3);
            first.copied(&[1.0, 2.0, 3.0]);
            rest.par_chunks(2).enumerate().for_each(|(i, part)| part.cleared()[0] = i as f32);
        });
        assert_eq!(values, [1.0, 2.0, 3.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 3.0]);
    }

    #[test]
    fn parts_of_several_results_are_counted_for_their_own() {
        let [a, b] = written_together(4, |[a, b]| {
            let c = written(3, |c| {
                let mut uncounted = Uncounted::default();
                uncounted.copied(a, &[1.0; 4]);
                uncounted.cleared(c)[1] = 2.0;
                uncounted.copied(b, &[3.0; 4]);
            });
            assert_eq!(c, [0.0, 2.0, 0.0]);
        });
        assert_eq!((a, b), (vec![1.0; 4], vec![3.0; 4]));
    }

    #[test]
    #[should_panic(expected = "part of a result was not written")]
    fn what_is_counted_late_is_noticed_as_well() {
        written(4, |all| {
            let (first, _) = all.split_at(2);
            Uncounted::default().cleared(first)[0] = 1.0;
        });
    }

    #[test]
    #[should_panic(expected = "part of a result was not written")]
    fn what_is_left_out_is_noticed() {
        written(4, |all| all.split_at(2).0.cleared()[0] = 1.0);
    }
}
