//! Attention on slices.

use rayon::prelude::*;

use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::output::{Unset, written, written_together};
use crate::scratch::Scratch;
use crate::simd::{exp, vectorised};

/// Pixels that a task computes the output of: enough for an efficient product, and few enough for the second cache.
const TASK_PIXELS: usize = 64;

/// Rows that are added up before their sum is added to others: one long sum in f32 would lose digits.
const SUM_ROWS: usize = 8;

/// The tensors are `[items, width, pixels]`, an item for each head of each picture.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) operands: Operands,
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

    /// An item, `[width, pixels]`.
    fn matrix<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix::row_major(values, self.width, self.pixels, self.pixels)
    }
}

/// Gradients of the loss with respect to the inputs.
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

pub(super) fn forward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let (pixels, parts) = (dims.pixels, dims.pixels.div_ceil(TASK_PIXELS));
    let task = |(task, lines): (usize, Vec<Unset>)| {
        let (item, first) = (task / parts * dims.item(), task % parts * TASK_PIXELS);
        let [q, k, v] = [q, k, v].map(|x| dims.matrix(&x[item..item + dims.item()]));
        let asking = pixels.min(first + TASK_PIXELS) - first;
        let weights = weights(dims, q.columns(first..first + asking), k);
        let mut product = Scratch::new(dims.width * asking);
        multiply(
            dims.operands,
            &mut product,
            Previous::Discard,
            v,
            Matrix::row_major(&weights, pixels, asking, asking),
        );
        for (line, values) in lines.into_iter().zip(product.chunks_exact(asking)) {
            line.copied(values);
        }
    };
    written(q.len(), |y| {
        let mut tasks: Vec<_> = (0..q.len() / dims.item() * parts).map(|_| Vec::with_capacity(dims.width)).collect();
        for (line, values) in y.chunks(pixels).enumerate() {
            for (part, values) in values.chunks(TASK_PIXELS).enumerate() {
                tasks[line / dims.width * parts + part].push(values);
            }
        }
        tasks.into_par_iter().enumerate().for_each(task);
    })
}

/// How much each column of `q` attends to each of `k`: `[pixels, columns of q]`.
fn weights(dims: &Dims, q: Matrix, k: Matrix) -> Scratch {
    let columns = q.columns;
    let mut weights = Scratch::new(dims.pixels * columns);
    let mut of_columns = Scratch::new(3 * columns);
    multiply(dims.operands, &mut weights, Previous::Discard, k.transposed(), q);
    let scale = dims.scale();
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

/// The gradients for `dy`, the gradient with respect to the output of [`forward`].
pub(super) fn backward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32], dy: &[f32]) -> Gradients {
    let item = dims.item();
    let (operands, pixels, scale) = (dims.operands, dims.pixels, dims.scale());
    let task = |[dq, dk, dv]: [&mut [f32]; 3], inputs: [&[f32]; 4]| {
        let [q, k, v, dy] = inputs.map(|x| dims.matrix(x));
        let weights = weights(dims, q, k);
        let mut d_scores = Scratch::new(pixels * pixels);
        multiply(operands, &mut d_scores, Previous::Discard, v.transposed(), dy);
        // d_scores = weights * (d_weights - sum of weights * d_weights), with the scale that the scores have.
        let mut dots = Scratch::new(2 * pixels);
        vectorised(
            #[inline(always)]
            || {
                let (dots, part) = dots.split_at_mut(pixels);
                dots.fill(0.0);
                for (gradient, weights) in d_scores.chunks(SUM_ROWS * pixels).zip(weights.chunks(SUM_ROWS * pixels)) {
                    part.fill(0.0);
                    for (gradient, weights) in gradient.chunks_exact(pixels).zip(weights.chunks_exact(pixels)) {
                        for ((dot, gradient), weight) in part.iter_mut().zip(gradient).zip(weights) {
                            *dot += weight * gradient;
                        }
                    }
                    dots.iter_mut().zip(&*part).for_each(|(dot, part)| *dot += part);
                }
                for (gradient, weights) in d_scores.chunks_exact_mut(pixels).zip(weights.chunks_exact(pixels)) {
                    for ((dot, gradient), weight) in dots.iter().zip(gradient).zip(weights) {
                        *gradient = weight * (*gradient - dot) * scale;
                    }
                }
            },
        );
        // Of each pixel that is attended to a row, of each that attends a column.
        let square = |values| Matrix::row_major(values, pixels, pixels, pixels);
        multiply(operands, dv, Previous::Discard, dy, square(&weights).transposed());
        multiply(operands, dq, Previous::Discard, k, square(&d_scores));
        multiply(operands, dk, Previous::Discard, q, square(&d_scores).transposed());
    };
    let [q, k, v] = written_together(q.len(), |[all_dq, all_dk, all_dv]| {
        let outputs = all_dq.par_chunks(item).zip(all_dk.par_chunks(item)).zip(all_dv.par_chunks(item));
        let inputs = q.par_chunks(item).zip(k.par_chunks(item)).zip(v.par_chunks(item)).zip(dy.par_chunks(item));
        outputs.zip(inputs).for_each(|(((dq, dk), dv), (((q, k), v), dy))| {
            task([dq, dk, dv].map(Unset::cleared), [q, k, v, dy]);
        });
    });
    Gradients { q, k, v }
}
