//! Memory that kernels work in, kept from one call to the next.
//!
//! A fresh vector costs a pass over memory to clear it, and often new pages from the system, which for the large
//! buffers of a convolution is as much as its arithmetic.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// What is not in use, the largest last.
static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Numbers of which nothing is known until they are written.
pub(crate) struct Scratch {
    values: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// Room for `len` numbers.
    pub(crate) fn new(len: usize) -> Self {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that suffices, or the largest, which then grows.
        let fitting = pool.partition_point(|values| values.len() < len).min(pool.len().saturating_sub(1));
        let mut values = if pool.is_empty() { Vec::new() } else { pool.remove(fitting) };
        drop(pool);
        if values.len() < len {
            values = Vec::new();
            values.resize(len, 0.0);
        }
        Self { values, len }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let place = pool.partition_point(|other| other.len() < values.len());
        pool.insert(place, values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_asked_for_and_do_not_overlap() {
        for len in [0, 5, 1000, 10] {
            let (mut a, mut b) = (Scratch::new(len), Scratch::new(2 * len));
            a.fill(1.0);
            b.fill(2.0);
            assert_eq!((a.len(), b.len()), (len, 2 * len));
            assert!(a.iter().all(|v| *v == 1.0) && b.iter().all(|v| *v == 2.0));
        }
    }
}
