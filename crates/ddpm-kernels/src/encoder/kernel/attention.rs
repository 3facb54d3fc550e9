//! Attention of the lanes of a task, a vector of lanes at a time.

use pulp::{Arch, Simd, WithSimd};

use super::Layer;
use crate::scratch::Scratch;
use crate::simd::exp;

/// The channels of a head that stay in registers together.
const BLOCK: usize = 8;

/// Every head, for all lanes: `[channels, columns]` from `[3 channels, columns]`.
pub(super) fn attention(layer: &Layer, projected: &[f32]) -> Scratch {
    let mut attended = Scratch::new(layer.channels * layer.columns());
    Arch::new().dispatch(Forward { layer, projected, attended: &mut attended });
    attended
}

/// The gradients of queries, keys and values, one below the other.
pub(super) fn attention_backward(layer: &Layer, projected: &[f32], d_attended: &[f32]) -> Scratch {
    let mut gradient = Scratch::new(3 * layer.channels * layer.columns());
    gradient.fill(0.0);
    Arch::new().dispatch(Backward { layer, projected, d_attended, gradient: &mut gradient });
    gradient
}

struct Forward<'a> {
    layer: &'a Layer,
    projected: &'a [f32],
    attended: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let heads = Heads::new(self.layer, simd);
        let mut weights = Scratch::new(self.layer.places * S::F32_LANES);
        for task in 0..heads.tasks() {
            let (head, first) = heads.task(task);
            let [query, key, value] = heads.of_parts(self.projected, head, first);
            let output = &mut self.attended[head * heads.size()..];
            for place in 0..self.layer.places {
                heads.weights(query, key, place, &mut weights);
                heads.sum(&weights, value, output, first, place);
            }
        }
    }
}

struct Backward<'a> {
    layer: &'a Layer,
    projected: &'a [f32],
    d_attended: &'a [f32],
    gradient: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let heads = Heads::new(self.layer, simd);
        let size = self.layer.places * S::F32_LANES;
        let (mut weights, mut scores) = (Scratch::new(size), Scratch::new(size));
        for task in 0..heads.tasks() {
            let (head, first) = heads.task(task);
            let parts = heads.parts(head);
            let [query, key, value] = heads.of_parts(self.projected, head, first);
            let dy = heads.of(&self.d_attended[head * heads.size()..], first);
            for place in 0..self.layer.places {
                heads.weights(query, key, place, &mut weights);
                heads.spread(&weights, dy, place, &mut self.gradient[parts[2]..], first);
                heads.dot(dy, place, value, &mut scores);
                heads.scores_backward(&weights, &mut scores);
                heads.sum(&scores, key, &mut self.gradient[parts[0]..], first, place);
                heads.spread(&scores, query, place, &mut self.gradient[parts[1]..], first);
            }
        }
    }
}

/// Where heads lie: `[width, places, lanes]` each, of queries, keys and values one after the other.
struct Heads<'a, S> {
    layer: &'a Layer,
    simd: S,
    width: usize,
    columns: usize,
    lanes: usize,
    scale: f32,
}

/// The values of a head, from some lanes on.
type Head<'a> = &'a [f32];

impl<'a, S: Simd> Heads<'a, S> {
    #[inline(always)]
    fn new(layer: &'a Layer, simd: S) -> Self {
        let width = layer.channels / layer.heads;
        let scale = (width as f32).sqrt().recip();
        Self { layer, simd, width, columns: layer.columns(), lanes: layer.lanes(), scale }
    }

    /// Heads times vectors of lanes.
    #[inline(always)]
    fn tasks(&self) -> usize {
        self.layer.heads * (self.lanes / S::F32_LANES)
    }

    /// The head of one of these, and its first lane.
    #[inline(always)]
    fn task(&self, task: usize) -> (usize, usize) {
        let vectors = self.lanes / S::F32_LANES;
        (task / vectors, task % vectors * S::F32_LANES)
    }

    #[inline(always)]
    fn size(&self) -> usize {
        self.width * self.columns
    }

    /// Where query, key and value of a head start.
    #[inline(always)]
    fn parts(&self, head: usize) -> [usize; 3] {
        let (part, start) = (self.layer.channels * self.columns, head * self.size());
        [start, part + start, 2 * part + start]
    }

    /// Query, key and value of a head.
    #[inline(always)]
    fn of_parts<'b>(&self, projected: &'b [f32], head: usize, first: usize) -> [Head<'b>; 3] {
        let [query, key, value] = self.parts(head);
        [self.of(&projected[query..], first), self.of(&projected[key..], first), self.of(&projected[value..], first)]
    }

    #[inline(always)]
    fn of<'b>(&self, values: &'b [f32], first: usize) -> Head<'b> {
        &values[first..self.size()]
    }

    #[inline(always)]
    fn load(&self, head: Head, channel: usize, place: usize) -> S::f32s {
        vector::<S>(&head[channel * self.columns + place * self.lanes..][..S::F32_LANES])
    }

    /// How much a place attends to all others.
    #[inline(always)]
    fn weights(&self, query: Head, key: Head, place: usize, weights: &mut [f32]) {
        let simd = self.simd;
        self.dot(query, place, key, weights);
        let vectors = S::as_mut_simd_f32s(weights).0;
        let mut largest = vectors[0];
        for value in &*vectors {
            largest = simd.max_f32s(largest, *value);
        }
        let scale = simd.splat_f32s(self.scale);
        for value in &mut *vectors {
            *value = simd.mul_f32s(simd.sub_f32s(*value, largest), scale);
        }
        for value in &mut *weights {
            *value = exp(*value);
        }
        let vectors = S::as_mut_simd_f32s(weights).0;
        let mut sum = simd.splat_f32s(0.0);
        for value in &*vectors {
            sum = simd.add_f32s(sum, *value);
        }
        let norm = simd.div_f32s(simd.splat_f32s(1.0), sum);
        for value in vectors {
            *value = simd.mul_f32s(*value, norm);
        }
    }

    /// From the gradients of the weights to those of the scores.
    #[inline(always)]
    fn scores_backward(&self, weights: &[f32], scores: &mut [f32]) {
        let simd = self.simd;
        let (weights, scores) = (S::as_simd_f32s(weights).0, S::as_mut_simd_f32s(scores).0);
        let mut sum = simd.splat_f32s(0.0);
        for (weight, score) in weights.iter().zip(&*scores) {
            sum = simd.mul_add_e_f32s(*weight, *score, sum);
        }
        let scale = simd.splat_f32s(self.scale);
        for (weight, score) in weights.iter().zip(scores) {
            *score = simd.mul_f32s(simd.mul_f32s(*weight, scale), simd.sub_f32s(*score, sum));
        }
    }

    /// For each place of `many` the product with one place of `one`.
    #[inline(always)]
    fn dot(&self, one: Head, place: usize, many: Head, products: &mut [f32]) {
        products.fill(0.0);
        let products = S::as_mut_simd_f32s(products).0;
        let mut channel = 0;
        while channel + BLOCK <= self.width {
            self.dot_block::<BLOCK>(one, place, many, channel, products);
            channel += BLOCK;
        }
        for channel in channel..self.width {
            self.dot_block::<1>(one, place, many, channel, products);
        }
    }

    #[inline(always)]
    fn dot_block<const D: usize>(&self, one: Head, place: usize, many: Head, first: usize, products: &mut [S::f32s]) {
        // Loops, not closures: vector instructions are not inlined into these.
        let mut row = [self.simd.splat_f32s(0.0); D];
        for (channel, value) in row.iter_mut().enumerate() {
            *value = self.load(one, first + channel, place);
        }
        for (other, product) in products.iter_mut().enumerate() {
            let mut sums = [*product, self.simd.splat_f32s(0.0)];
            for (channel, &one) in row.iter().enumerate() {
                let sum = &mut sums[channel % 2];
                *sum = self.simd.mul_add_e_f32s(one, self.load(many, first + channel, other), *sum);
            }
            *product = self.simd.add_f32s(sums[0], sums[1]);
        }
    }

    /// The sum of all places of `many` with these weights, as one place of the output.
    #[inline(always)]
    fn sum(&self, weights: &[f32], many: Head, output: &mut [f32], first_lane: usize, place: usize) {
        let output = &mut output[first_lane..self.size()];
        let mut channel = 0;
        while channel + BLOCK <= self.width {
            self.sum_block::<BLOCK>(weights, many, channel, output, place);
            channel += BLOCK;
        }
        for channel in channel..self.width {
            self.sum_block::<1>(weights, many, channel, output, place);
        }
    }

    #[inline(always)]
    fn sum_block<const D: usize>(&self, weights: &[f32], many: Head, first: usize, output: &mut [f32], place: usize) {
        let mut sums = [self.simd.splat_f32s(0.0); D];
        for (other, &weight) in S::as_simd_f32s(weights).0.iter().enumerate() {
            for (channel, sum) in sums.iter_mut().enumerate() {
                *sum = self.simd.mul_add_e_f32s(weight, self.load(many, first + channel, other), *sum);
            }
        }
        for (channel, sum) in sums.into_iter().enumerate() {
            let start = (first + channel) * self.columns + place * self.lanes;
            S::as_mut_simd_f32s(&mut output[start..start + S::F32_LANES]).0[0] = sum;
        }
    }

    /// Adds one place of `one`, weighted for each place, to all places of `to`.
    #[inline(always)]
    fn spread(&self, weights: &[f32], one: Head, place: usize, to: &mut [f32], first_lane: usize) {
        let to = &mut to[first_lane..self.size()];
        for channel in 0..self.width {
            let one = self.load(one, channel, place);
            let row = &mut to[channel * self.columns..];
            for (other, &weight) in S::as_simd_f32s(weights).0.iter().enumerate() {
                let start = other * self.lanes;
                let to = &mut S::as_mut_simd_f32s(&mut row[start..start + S::F32_LANES]).0[0];
                *to = self.simd.mul_add_e_f32s(weight, one, *to);
            }
        }
    }
}

#[inline(always)]
fn vector<S: Simd>(values: &[f32]) -> S::f32s {
    S::as_simd_f32s(values).0[0]
}
