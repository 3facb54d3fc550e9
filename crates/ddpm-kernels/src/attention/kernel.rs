//! Attention on slices.

use rayon::prelude::*;

use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::output::{Uncounted, Unset, written, written_together};
use crate::scratch::Scratch;
use crate::simd::{exp, vectorised};

/// Pixels that a task computes the output of: enough for an efficient product, and few enough for the second cache.
const TASK_PIXELS: usize = 64;

/// Rows that are added up before their sum is added to others: one long sum in f32 would lose digits.
const SUM_ROWS: usize = 8;

/// The tensors are `[items, width, pixels]`, an item for each head of each image: queries of so many pixels, keys and values
/// of so many.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) operands: Operands,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
}

impl Dims {
    /// Values of an item of the queries.
    fn of_queries(&self) -> usize {
        self.queries * self.width
    }

    /// Values of an item of the keys.
    fn of_keys(&self) -> usize {
        self.keys * self.width
    }

    fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }

    /// An item, `[width, pixels]`.
    fn matrix<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        let pixels = values.len() / self.width;
        Matrix::row_major(values, self.width, pixels, pixels)
    }
}

/// Gradients of the loss with respect to the inputs.
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

pub(super) fn forward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let (pixels, parts) = (dims.queries, dims.queries.div_ceil(TASK_PIXELS));
    let task = |(task, lines): (usize, Vec<Unset>)| {
        let (item, first) = (task / parts, task % parts * TASK_PIXELS);
        let q = dims.matrix(&q[item * dims.of_queries()..][..dims.of_queries()]);
        let [k, v] = [k, v].map(|x| dims.matrix(&x[item * dims.of_keys()..][..dims.of_keys()]));
        let asking = pixels.min(first + TASK_PIXELS) - first;
        let weights = weights(dims.operands, dims.scale(), q.columns(first..first + asking), k);
        let mut product = Scratch::new(dims.width * asking);
        multiply(
            dims.operands,
            &mut product,
            Previous::Discard,
            v,
            Matrix::row_major(&weights, dims.keys, asking, asking),
        );
        let mut uncounted = Uncounted::default();
        for (line, values) in lines.into_iter().zip(product.chunks_exact(asking)) {
            uncounted.copied(line, values);
        }
    };
    written(q.len(), |y| {
        let mut tasks: Vec<_> =
            (0..q.len() / dims.of_queries() * parts).map(|_| Vec::with_capacity(dims.width)).collect();
        for (line, values) in y.chunks(pixels).enumerate() {
            for (part, values) in values.chunks(TASK_PIXELS).enumerate() {
                tasks[line / dims.width * parts + part].push(values);
            }
        }
        tasks.into_par_iter().enumerate().for_each(task);
    })
}

/// How much each column of `q` attends to each of `k`: `[columns of k, columns of q]`.
pub(crate) fn weights(operands: Operands, scale: f32, q: Matrix, k: Matrix) -> Scratch {
    let columns = q.columns;
    let mut weights = Scratch::new(k.columns * columns);
    let mut of_columns = Scratch::new(3 * columns);
    multiply(operands, &mut weights, Previous::Discard, k.transposed(), q);
    vectorised(
        #[inline(always)]
        || {
            let (largest, sums) = of_columns.split_at_mut(columns);
            let (sums, part) = sums.split_at_mut(columns);
            largest.fill(f32::NEG_INFINITY);
            sums.fill(0.0);
            for row in weights.chunks_exact(columns) {
                for (largest, value) in largest.iter_mut().zip(row) {
                    *largest = if value > largest { *value } else { *largest };
                }
            }
            for rows in weights.chunks_mut(SUM_ROWS * columns) {
                part.fill(0.0);
                for row in rows.chunks_exact_mut(columns) {
                    for ((value, largest), sum) in row.iter_mut().zip(&*largest).zip(&mut *part) {
                        *value = exp((*value - largest) * scale);
                        *sum += *value;
                    }
                }
                sums.iter_mut().zip(&*part).for_each(|(sum, part)| *sum += part);
            }
            sums.iter_mut().for_each(|sum| *sum = sum.recip());
            for row in weights.chunks_exact_mut(columns) {
                row.iter_mut().zip(&*sums).for_each(|(value, norm)| *value *= norm);
            }
        },
    );
    weights
}

/// Turns the gradients of the weights, `[keys, columns]`, into those of the scores: `weights * (gradient - sum of weights *
/// gradients)`, with the scale that the scores have.
pub(crate) fn score_gradients(weights: &[f32], gradients: &mut [f32], columns: usize, scale: f32) {
    let mut dots = Scratch::new(2 * columns);
    vectorised(
        #[inline(always)]
        || {
            let (dots, part) = dots.split_at_mut(columns);
            dots.fill(0.0);
            for (gradients, weights) in gradients.chunks(SUM_ROWS * columns).zip(weights.chunks(SUM_ROWS * columns)) {
                part.fill(0.0);
                for (gradients, weights) in gradients.chunks_exact(columns).zip(weights.chunks_exact(columns)) {
                    for ((dot, gradient), weight) in part.iter_mut().zip(gradients).zip(weights) {
                        *dot += weight * gradient;
                    }
                }
                dots.iter_mut().zip(&*part).for_each(|(dot, part)| *dot += part);
            }
            for (gradients, weights) in gradients.chunks_exact_mut(columns).zip(weights.chunks_exact(columns)) {
                for ((dot, gradient), weight) in dots.iter().zip(gradients).zip(weights) {
                    *gradient = weight * (*gradient - dot) * scale;
                }
            }
        },
    );
}

/// The gradients for `dy`, the gradient with respect to the output of [`forward`].
pub(super) fn backward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32], dy: &[f32]) -> Gradients {
    let (operands, queries, scale) = (dims.operands, dims.queries, dims.scale());
    let task = |[dq, dk, dv]: [&mut [f32]; 3], inputs: [&[f32]; 4]| {
        let [q, k, v, dy] = inputs.map(|x| dims.matrix(x));
        let weights = weights(operands, scale, q, k);
        let mut d_scores = Scratch::new(dims.keys * queries);
        multiply(operands, &mut d_scores, Previous::Discard, v.transposed(), dy);
        score_gradients(&weights, &mut d_scores, queries, scale);
        // Of each pixel that is attended to a row, of each that attends a column.
        let scores = |values| Matrix::row_major(values, dims.keys, queries, queries);
        multiply(operands, dv, Previous::Discard, dy, scores(&weights).transposed());
        multiply(operands, dq, Previous::Discard, k, scores(&d_scores));
        multiply(operands, dk, Previous::Discard, q, scores(&d_scores).transposed());
    };
    let (of_queries, of_keys) = (dims.of_queries(), dims.of_keys());
    let mut of_q = Vec::new();
    let [dk, dv] = written_together(k.len(), |[all_dk, all_dv]| {
        of_q = written(q.len(), |all_dq| {
            let outputs = all_dq.par_chunks(of_queries).zip(all_dk.par_chunks(of_keys)).zip(all_dv.par_chunks(of_keys));
            let inputs = q.par_chunks(of_queries).zip(k.par_chunks(of_keys));
            let inputs = inputs.zip(v.par_chunks(of_keys)).zip(dy.par_chunks(of_queries));
            outputs.zip(inputs).for_each(|(((dq, dk), dv), (((q, k), v), dy))| {
                task([dq, dk, dv].map(Unset::cleared), [q, k, v, dy]);
            });
        });
    });
    Gradients { q: of_q, k: dk, v: dv }
}
