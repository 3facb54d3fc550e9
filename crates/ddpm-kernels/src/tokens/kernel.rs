//! Layers of transformers on slices.

use rayon::prelude::*;

use crate::attention::kernel::{score_gradients, weights};
use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::gelu::flex::{normal_cdf, slope};
use crate::output::{Unset, written, written_together};
use crate::scratch::Scratch;
use crate::simd::{exp, sigmoid, vectorised};

/// Values of a task of what is done value by value.
const TASK_VALUES: usize = 16 * 1024;

/// Queries that are worked on together: enough for an efficient product, and few enough for the second cache.
const TASK_QUERIES: usize = 64;

/// Keys that are worked on together, and queries where there are more keys than these: the more queries, the less often
/// keys and values are laid out for a product; but there should be so many tasks.
const BLOCK_KEYS: usize = 256;
const BLOCK_QUERIES: [usize; 2] = [256, 512];
const BLOCK_TASKS: usize = 4;

/// Weights that are added up before their sum is added to others.
const SUM_ROWS: usize = 8;

/// The same for the gradients, whose products are larger.
const GRADIENT_QUERIES: usize = 256;

/// Rows of a result of a transposition that a task writes: a line of the cache of each row of its input.
const TRANSPOSED_ROWS: usize = 16;

/// Queries `[batch, queries, channels]`, keys and values `[batch, keys, channels]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) operands: Operands,
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) channels: usize,
    pub(super) heads: usize,
}

impl Attention {
    fn width(&self) -> usize {
        self.channels / self.heads
    }

    fn scale(&self) -> f32 {
        (self.width() as f32).sqrt().recip()
    }

    /// The channels of a head of all tokens of a sample, `[tokens, width]`.
    fn head<'a>(&self, x: &'a [f32], sample: usize, head: usize) -> Matrix<'a> {
        let tokens = x.len() / (self.batch * self.channels);
        let first = sample * tokens * self.channels + head * self.width();
        Matrix::row_major(&x[first..], tokens, self.width(), self.channels)
    }
}

/// The output `[batch, queries, channels]`.
pub(super) fn attention(dims: &Attention, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
    let Attention { queries, keys, channels, heads, .. } = *dims;
    let width = dims.width();
    let in_blocks = keys > BLOCK_KEYS;
    let [fewest, most] = BLOCK_QUERIES;
    let of_task = if in_blocks { queries.div_ceil(BLOCK_TASKS).clamp(fewest, most) } else { TASK_QUERIES };
    let attend = if in_blocks { attend_in_blocks } else { attend_at_once };
    let task = |sample: usize, part: usize, y: Unset| {
        let y = y.cleared();
        let (first, rows) = (part * of_task, y.len() / channels);
        let mut product = Scratch::new(rows * width);
        for head in 0..heads {
            let [q, k, v] = [q, k, v].map(|x| dims.head(x, sample, head));
            attend(dims, [q.rows(first..first + rows), k, v], &mut product);
            for (row, y) in y.chunks_exact_mut(channels).enumerate() {
                let values = y[head * width..][..width].iter_mut().zip(product.chunks_exact(rows));
                values.for_each(|(value, channel)| *value = channel[row]);
            }
        }
    };
    written(q.len(), |y| {
        y.par_chunks(queries * channels).enumerate().for_each(|(sample, y)| {
            let parts = y.par_chunks(of_task * channels).enumerate();
            parts.for_each(|(part, y)| task(sample, part, y));
        });
    })
}

/// The output `[width, queries]` of some queries.
fn attend_at_once(dims: &Attention, [q, k, v]: [Matrix; 3], out: &mut [f32]) {
    let weights = weights(dims.operands, dims.scale(), q.transposed(), k.transposed());
    let weights = Matrix::row_major(&weights, k.rows, q.rows, q.rows);
    multiply(dims.operands, out, Previous::Discard, v.transposed(), weights);
}

/// The same, a block of keys after the other, so that their weights stay in the cache. They are relative to the largest score
/// so far; when there is a larger one, what was summed before is scaled down.
fn attend_in_blocks(dims: &Attention, [q, k, v]: [Matrix; 3], out: &mut [f32]) {
    let queries = q.rows;
    let mut running = Running::new(queries);
    let mut weights = Scratch::new(BLOCK_KEYS * queries);
    out.fill(0.0);
    for first in (0..k.rows).step_by(BLOCK_KEYS) {
        let block = first..k.rows.min(first + BLOCK_KEYS);
        let weights = &mut weights[..block.len() * queries];
        multiply(dims.operands, weights, Previous::Discard, k.rows(block.clone()), q.transposed());
        running.weigh(weights, dims.scale());
        scale_columns(out, running.factors());
        let weights = Matrix::row_major(weights, block.len(), queries, queries);
        multiply(dims.operands, out, Previous::Keep, v.rows(block).transposed(), weights);
    }
    scale_columns(out, running.inverse_sums());
}

/// Of each query the largest score so far, the sum of the weights relative to it, and what earlier weights are multiplied by.
struct Running {
    queries: usize,
    values: Scratch,
}

impl Running {
    fn new(queries: usize) -> Self {
        let mut values = Scratch::new(4 * queries);
        values[..queries].fill(f32::NEG_INFINITY);
        values[queries..].fill(0.0);
        Self { queries, values }
    }

    fn factors(&self) -> &[f32] {
        &self.values[2 * self.queries..3 * self.queries]
    }

    fn inverse_sums(&mut self) -> &[f32] {
        let sums = &mut self.values[self.queries..2 * self.queries];
        sums.iter_mut().for_each(|sum| *sum = sum.recip());
        sums
    }

    /// Turns the scores of some keys, `[keys, queries]`, into weights.
    fn weigh(&mut self, scores: &mut [f32], scale: f32) {
        let columns = self.queries;
        let (largest, rest) = self.values.split_at_mut(columns);
        let (sums, rest) = rest.split_at_mut(columns);
        let (factors, part) = rest.split_at_mut(columns);
        vectorised(
            #[inline(always)]
            || {
                factors.copy_from_slice(largest);
                for row in scores.chunks_exact(columns) {
                    for (largest, value) in largest.iter_mut().zip(row) {
                        *largest = if value > largest { *value } else { *largest };
                    }
                }
                for ((factor, sum), largest) in factors.iter_mut().zip(&mut *sums).zip(&*largest) {
                    *factor = exp((*factor - largest) * scale);
                    *sum *= *factor;
                }
                for rows in scores.chunks_mut(SUM_ROWS * columns) {
                    part.fill(0.0);
                    for row in rows.chunks_exact_mut(columns) {
                        for ((value, largest), sum) in row.iter_mut().zip(&*largest).zip(&mut *part) {
                            *value = exp((*value - largest) * scale);
                            *sum += *value;
                        }
                    }
                    sums.iter_mut().zip(&*part).for_each(|(sum, part)| *sum += part);
                }
            },
        );
    }
}

fn scale_columns(values: &mut [f32], factors: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for row in values.chunks_exact_mut(factors.len()) {
                row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            }
        },
    );
}

/// The gradients of queries, keys and values for `dy`, that of the output.
pub(super) fn attention_backward(dims: &Attention, inputs: [&[f32]; 3], dy: &[f32]) -> [Vec<f32>; 3] {
    let mut dq = Vec::new();
    let [dk, dv] = written_together(inputs[1].len(), |[dk, dv]| {
        dq = written(inputs[0].len(), |dq| {
            let [dq, dk, dv] = [dq, dk, dv].map(|all| by_head(dims, all));
            let tasks = dq.into_par_iter().zip(dk).zip(dv).enumerate();
            tasks.for_each(|(task, ((dq, dk), dv))| head_backward(dims, task, inputs, dy, [dq, dk, dv]));
        });
    });
    [dq, dk, dv]
}

/// Of each sample and head the channels of each token.
fn by_head<'a>(dims: &Attention, all: Unset<'a>) -> Vec<Vec<Unset<'a>>> {
    let tokens = all.len() / (dims.batch * dims.channels);
    let mut parts: Vec<_> = (0..dims.batch * dims.heads).map(|_| Vec::with_capacity(tokens)).collect();
    for (i, values) in all.chunks(dims.width()).enumerate() {
        let (token, head) = (i / dims.heads, i % dims.heads);
        parts[token / tokens * dims.heads + head].push(values);
    }
    parts
}

/// The gradients of one head of one sample.
fn head_backward(dims: &Attention, task: usize, inputs: [&[f32]; 3], dy: &[f32], outputs: [Vec<Unset>; 3]) {
    let Attention { operands, queries, keys, heads, .. } = *dims;
    let (sample, head, width) = (task / heads, task % heads, dims.width());
    let [q, k, v] = inputs.map(|x| dims.head(x, sample, head));
    let dy = dims.head(dy, sample, head);
    let [dq, dk, dv] = outputs;
    let [mut of_k, mut of_v] = [Scratch::new(keys * width), Scratch::new(keys * width)];
    let mut dq = dq.into_iter();
    for first in (0..queries).step_by(GRADIENT_QUERIES) {
        let rows = first..queries.min(first + GRADIENT_QUERIES);
        let (q, dy, columns) = (q.rows(rows.clone()), dy.rows(rows.clone()), rows.len());
        let previous = if first == 0 { Previous::Discard } else { Previous::Keep };
        // Both `[keys, queries]`.
        let weights = weights(operands, dims.scale(), q.transposed(), k.transposed());
        let mut d_scores = Scratch::new(keys * columns);
        multiply(operands, &mut d_scores, Previous::Discard, v, dy.transposed());
        score_gradients(&weights, &mut d_scores, columns, dims.scale());
        let scores = |values| Matrix::row_major(values, keys, columns, columns);
        multiply(operands, &mut of_v, previous, scores(&weights), dy);
        multiply(operands, &mut of_k, previous, scores(&d_scores), q);
        let mut of_q = Scratch::new(columns * width);
        multiply(operands, &mut of_q, Previous::Discard, scores(&d_scores).transposed(), k);
        copy_rows(dq.by_ref().take(columns), &of_q, width);
    }
    copy_rows(dk.into_iter(), &of_k, width);
    copy_rows(dv.into_iter(), &of_v, width);
}

fn copy_rows<'a>(rows: impl Iterator<Item = Unset<'a>>, values: &[f32], width: usize) {
    for (row, values) in rows.zip(values.chunks_exact(width)) {
        row.copied(values);
    }
}

/// The first `width` of each row times the exact GELU of the others.
pub(super) fn gated_gelu(x: &[f32], width: usize) -> Vec<f32> {
    let rows = rows_of_task(2 * width);
    written(x.len() / 2, |y| {
        y.par_chunks(rows * width).zip(x.par_chunks(2 * rows * width)).for_each(|(y, x)| {
            let y = y.cleared();
            vectorised(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                        let (values, gates) = x.split_at(width);
                        for ((y, value), &gate) in y.iter_mut().zip(values).zip(gates) {
                            *y = value * (gate * normal_cdf(gate));
                        }
                    }
                },
            );
        });
    })
}

/// The gradient of the input of [`gated_gelu`].
pub(super) fn gated_gelu_backward(x: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    let rows = rows_of_task(2 * width);
    written(x.len(), |dx| {
        let tasks = dx.par_chunks(2 * rows * width).zip(x.par_chunks(2 * rows * width));
        tasks.zip(dy.par_chunks(rows * width)).for_each(|((dx, x), dy)| {
            let dx = dx.cleared();
            vectorised(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(2 * width).zip(x.chunks_exact(2 * width));
                    for ((dx, x), dy) in rows.zip(dy.chunks_exact(width)) {
                        let ((of_values, of_gates), (values, gates)) = (dx.split_at_mut(width), x.split_at(width));
                        for ((of_value, dy), &gate) in of_values.iter_mut().zip(dy).zip(gates) {
                            *of_value = dy * (gate * normal_cdf(gate));
                        }
                        for (((of_gate, dy), value), &gate) in of_gates.iter_mut().zip(dy).zip(values).zip(gates) {
                            *of_gate = dy * value * slope(gate);
                        }
                    }
                },
            );
        });
    })
}

/// `sqrt(2 / pi)`, doubled.
const DOUBLED: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;

/// GELU by the hyperbolic tangent.
pub(super) fn tanh_gelu(x: &[f32]) -> Vec<f32> {
    written(x.len(), |y| {
        y.par_chunks(TASK_VALUES).zip(x.par_chunks(TASK_VALUES)).for_each(|(y, x)| {
            let y = y.cleared();
            vectorised(
                #[inline(always)]
                || y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * tanh_share(x)),
            );
        });
    })
}

/// The gradient of the input of [`tanh_gelu`].
pub(super) fn tanh_gelu_backward(x: &[f32], dy: &[f32]) -> Vec<f32> {
    written(x.len(), |dx| {
        let tasks = dx.par_chunks(TASK_VALUES).zip(x.par_chunks(TASK_VALUES)).zip(dy.par_chunks(TASK_VALUES));
        tasks.for_each(|((dx, x), dy)| {
            let dx = dx.cleared();
            vectorised(
                #[inline(always)]
                || {
                    for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
                        let share = tanh_share(x);
                        let slope_inside = DOUBLED * (1.0 + 3.0 * CUBE * x * x);
                        *dx = dy * (share + x * share * (1.0 - share) * slope_inside);
                    }
                },
            );
        });
    })
}

/// What GELU by the hyperbolic tangent multiplies a value by.
#[inline(always)]
fn tanh_share(x: f32) -> f32 {
    sigmoid(DOUBLED * x * (1.0 + CUBE * x * x))
}

/// `x + gate * y` of `[batch, tokens, channels]` with gates `[batch, channels]`.
pub(super) fn add_gated([_, tokens, channels]: [usize; 3], [x, y, gate]: [&[f32]; 3]) -> Vec<f32> {
    let (sample, task) = (tokens * channels, rows_of_task(channels) * channels);
    written(x.len(), |sum| {
        let samples = sum.par_chunks(sample).zip(x.par_chunks(sample)).zip(y.par_chunks(sample));
        samples.zip(gate.par_chunks(channels)).for_each(|(((sum, x), y), gate)| {
            let tasks = sum.par_chunks(task).zip(x.par_chunks(task)).zip(y.par_chunks(task));
            tasks.for_each(|((sum, x), y)| {
                let sum = sum.copied(x);
                vectorised(
                    #[inline(always)]
                    || {
                        for (sum, y) in sum.chunks_exact_mut(channels).zip(y.chunks_exact(channels)) {
                            for ((sum, y), gate) in sum.iter_mut().zip(y).zip(gate) {
                                *sum += y * gate;
                            }
                        }
                    },
                );
            });
        });
    })
}

/// The gradients of `y` and of the gates.
pub(super) fn add_gated_backward(
    [_, tokens, channels]: [usize; 3],
    y: &[f32],
    gate: &[f32],
    d_sum: &[f32],
) -> [Vec<f32>; 2] {
    let sample = tokens * channels;
    let mut d_gate = vec![0.0; gate.len()];
    let dy = written(y.len(), |dy| {
        let outputs = dy.par_chunks(sample).zip(d_gate.par_chunks_mut(channels));
        let inputs = y.par_chunks(sample).zip(gate.par_chunks(channels)).zip(d_sum.par_chunks(sample));
        outputs.zip(inputs).for_each(|((dy, d_gate), ((y, gate), d_sum))| {
            let dy = dy.copied(d_sum);
            vectorised(
                #[inline(always)]
                || {
                    for (dy, y) in dy.chunks_exact_mut(channels).zip(y.chunks_exact(channels)) {
                        for (((dy, y), gate), d_gate) in dy.iter_mut().zip(y).zip(gate).zip(&mut *d_gate) {
                            *d_gate += *dy * y;
                            *dy *= gate;
                        }
                    }
                },
            );
        });
    });
    [dy, d_gate]
}

/// `[.., rows, columns]` as `[.., columns, rows]`.
pub(super) fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let size = rows * columns;
    written(x.len(), |y| {
        y.par_chunks(size).zip(x.par_chunks(size)).for_each(|(y, x)| {
            y.par_chunks(TRANSPOSED_ROWS * rows).enumerate().for_each(|(task, y)| {
                let (y, first) = (y.cleared(), task * TRANSPOSED_ROWS);
                let width = y.len() / rows;
                for (row, x) in x.chunks_exact(columns).enumerate() {
                    for (column, value) in x[first..first + width].iter().enumerate() {
                        y[column * rows + row] = *value;
                    }
                }
            });
        });
    })
}

/// Rows of so many values that a task takes.
fn rows_of_task(width: usize) -> usize {
    (TASK_VALUES / width).max(1)
}
