//! Attention on slices.

use rayon::prelude::*;

use crate::conv::gemm::{Matrix, Previous, multiply};
use crate::scratch::Scratch;
use crate::simd::{exp, largest, map_and_sum, sum, vectorised};

/// Pixels whose scores a task computes: enough for an efficient product, and few enough for the second cache.
const TASK_PIXELS: usize = 64;

/// The tensors are `[items, pixels, width]`, an item for each head of each picture.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) pixels: usize,
    pub(super) width: usize,
}

impl Dims {
    fn item(&self) -> usize {
        self.pixels * self.width
    }

    fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }

    /// Some lines of a tensor as a matrix.
    fn lines<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix::row_major(values, values.len() / self.width, self.width, self.width)
    }
}

/// Gradients of the loss with respect to the inputs.
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

pub(super) fn forward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; q.len()];
    let items = y.chunks_mut(dims.item()).zip(q.chunks(dims.item())).enumerate();
    let tasks: Vec<_> = items
        .flat_map(|(item, (y, q))| {
            let lines = TASK_PIXELS * dims.width;
            y.chunks_mut(lines).zip(q.chunks(lines)).map(move |(y, q)| (item, y, q))
        })
        .collect();
    tasks.into_par_iter().for_each(|(item, y, q)| {
        let first = item * dims.item();
        let [k, v] = [k, v].map(|x| dims.lines(&x[first..first + dims.item()]));
        let weights = weights(dims, q, k);
        let rows = q.len() / dims.width;
        multiply(y, Previous::Discard, Matrix::row_major(&weights, rows, dims.pixels, dims.pixels), v);
    });
    y
}

/// How much each line of `q` attends to each of `k`.
fn weights(dims: &Dims, q: &[f32], k: Matrix) -> Scratch {
    let mut weights = Scratch::new(q.len() / dims.width * dims.pixels);
    multiply(&mut weights, Previous::Discard, dims.lines(q), k.transposed());
    let scale = dims.scale();
    vectorised(|| {
        for row in weights.chunks_exact_mut(dims.pixels) {
            let largest = largest(row);
            for value in &mut *row {
                *value = exp((*value - largest) * scale);
            }
            let norm = sum(row, |value| value).recip();
            row.iter_mut().for_each(|value| *value *= norm);
        }
    });
    weights
}

/// The gradients for `dy`, the gradient with respect to the output of [`forward`].
pub(super) fn backward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32], dy: &[f32]) -> Gradients {
    let mut gradients = Gradients { q: vec![0.0; q.len()], k: vec![0.0; q.len()], v: vec![0.0; q.len()] };
    let Gradients { q: dq, k: dk, v: dv } = &mut gradients;
    let item = dims.item();
    let (pixels, scale) = (dims.pixels, dims.scale());
    let outputs = dq.par_chunks_mut(item).zip(dk.par_chunks_mut(item)).zip(dv.par_chunks_mut(item));
    let inputs = q.par_chunks(item).zip(k.par_chunks(item)).zip(v.par_chunks(item)).zip(dy.par_chunks(item));
    outputs.zip(inputs).for_each(|(((dq, dk), dv), (((q, k), v), dy))| {
        let weights = weights(dims, q, dims.lines(k));
        let mut d_scores = Scratch::new(pixels * pixels);
        multiply(&mut d_scores, Previous::Discard, dims.lines(dy), dims.lines(v).transposed());
        // d_scores = weights * (d_weights - sum of weights * d_weights), with the scale that the scores have.
        vectorised(|| {
            let rows = d_scores.chunks_exact_mut(pixels).zip(weights.chunks_exact(pixels));
            for (gradient, weights) in rows {
                let (dot, _) = map_and_sum(weights, gradient, |weight, gradient| (gradient, weight * gradient, 0.0));
                for (gradient, weight) in gradient.iter_mut().zip(weights) {
                    *gradient = weight * (*gradient - dot) * scale;
                }
            }
        });
        let square = |values| Matrix::row_major(values, pixels, pixels, pixels);
        multiply(dv, Previous::Discard, square(&weights).transposed(), dims.lines(dy));
        multiply(dq, Previous::Discard, square(&d_scores), dims.lines(k));
        multiply(dk, Previous::Discard, square(&d_scores).transposed(), dims.lines(q));
    });
    gradients
}
