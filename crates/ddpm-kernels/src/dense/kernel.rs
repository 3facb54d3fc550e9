//! Dense layers on slices. The weight is `[inputs, outputs]`, as Burn has it.

use rayon::prelude::*;

use super::panels;
use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::conv::kernel::{Dims, Gradients, Order, by_columns, channel_sums, weight_gradient};
use crate::output::{Unset, written};
use crate::product::{PANEL, ROWS};
use crate::scratch::Scratch;
use crate::simd::vectorised;

/// Rows of a task of the gradient of a weight, and of other tasks at least.
const TASK_ROWS: usize = 64;

/// Rows of a task of operands in bf16 at most, and columns at least and at most.
const MOST_HALVES: usize = 1024;
const FEWEST_COLUMNS: usize = 128;
const MOST_COLUMNS: usize = 512;

/// Columns of a task of the gradient of a bias.
const TASK_COLUMNS: usize = 256;

/// Rows of a task at most, and tasks that there should be at least.
const MOST_ROWS: usize = 256;
const TASKS: usize = 8;

/// Which dimension of a tensor the layer is applied to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Along {
    /// `[.., inputs]`, rows that lie one after the other.
    Last,
    /// `[batch, inputs, ..]`, whose pixels lie one after the other.
    Channels,
}

/// None of the numbers is 0.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    pub(super) operands: Operands,
    pub(super) along: Along,
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Pixels of each picture; 1 where rows lie one after the other.
    pub(super) pixels: usize,
}

impl Layer {
    fn of_channels(&self) -> Dims {
        let (height, width, kernel_width) = (1, self.pixels, 1);
        Dims { batch: self.batch, channels_in: self.inputs, channels_out: self.outputs, height, width, kernel_width }
    }

    fn weight<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix::row_major(values, self.inputs, self.outputs, self.outputs)
    }
}

/// `x weight + bias`
pub(super) fn forward(layer: &Layer, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let weight = layer.weight(weight);
    match layer.along {
        Along::Last => rows_times(layer.operands, x, weight, Some(bias)),
        Along::Channels => by_columns(layer.operands, &layer.of_channels(), x, weight.transposed(), Some(bias)),
    }
}

/// The gradients of input, weight and bias for `dy`, the gradient of the output.
pub(super) fn backward(layer: &Layer, x: &[f32], weight: &[f32], dy: &[f32], asked: [bool; 3]) -> Gradients {
    let [of_input, of_weight, of_bias] = asked;
    let weight = layer.weight(weight);
    match layer.along {
        Along::Last => Gradients {
            input: of_input.then(|| rows_times(layer.operands, dy, weight.transposed(), None)),
            weight: of_weight.then(|| rows_weight_gradient(layer, x, dy)),
            bias: of_bias.then(|| sum_of_rows(dy, layer.outputs)),
        },
        Along::Channels => {
            let dims = layer.of_channels();
            Gradients {
                input: of_input.then(|| by_columns(layer.operands, &dims.swapped(), dy, weight, None)),
                weight: of_weight.then(|| weight_gradient(layer.operands, &dims, x, dy, Order::InputFirst)),
                bias: of_bias.then(|| channel_sums(dy, layer.batch, layer.outputs)),
            }
        }
    }
}

/// `x weight + bias` for `x` of any number of rows.
fn rows_times(operands: Operands, x: &[f32], weight: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (inputs, outputs) = (weight.rows, weight.columns);
    let rows = x.len() / inputs;
    let of_task = rows.div_ceil(TASKS).clamp(TASK_ROWS, MOST_ROWS);
    if operands == Operands::Full && panels::are_worthwhile(rows, outputs) {
        return panels::multiply(x, weight, bias, of_task);
    }
    if operands == Operands::Halves && rows >= TASK_ROWS {
        return halves_times(x, weight, bias);
    }
    written(rows * outputs, |y| {
        let tasks = y.par_chunks(of_task * outputs).zip(x.par_chunks(of_task * inputs));
        tasks.for_each(|(y, x)| {
            let y = y.cleared();
            let product = |y: &mut [f32], x: &[f32], rows: usize| {
                multiply(operands, y, Previous::Discard, Matrix::row_major(x, rows, inputs, inputs), weight);
            };
            match y.len() / outputs {
                // A product of a vector is another kind of product, with other roundings. But a picture must come out
                // the same whatever else is in its batch.
                1 => {
                    let mut twice = Scratch::new(2 * outputs);
                    product(&mut twice, &[x, x].concat(), 2);
                    y.copy_from_slice(&twice[..outputs]);
                }
                rows => product(y, x, rows),
            }
            if let Some(bias) = bias {
                vectorised(
                    #[inline(always)]
                    || {
                        for row in y.chunks_exact_mut(outputs) {
                            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                        }
                    },
                );
            }
        });
    })
}

/// The same for operands in bf16 and many rows. Every task makes pairs of its rows and of its columns, so it has many of both;
/// the sums do not depend on it.
fn halves_times(x: &[f32], weight: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (inputs, outputs) = (weight.rows, weight.columns);
    let rows = x.len() / inputs;
    let columns = outputs.div_ceil(TASKS / 2).next_multiple_of(PANEL).clamp(FEWEST_COLUMNS, MOST_COLUMNS);
    let of_task = rows.div_ceil(TASKS.div_ceil(outputs.div_ceil(columns))).clamp(TASK_ROWS, MOST_HALVES);
    let task = |task: usize, x: &[f32], lines: Vec<Unset>| {
        let columns = task * columns..outputs.min((task + 1) * columns);
        let mut product = Scratch::new(lines.len() * columns.len());
        let x = Matrix::row_major(x, lines.len(), inputs, inputs);
        multiply(Operands::Halves, &mut product, Previous::Discard, x, weight.columns(columns.clone()));
        for (line, values) in lines.into_iter().zip(product.chunks_exact(columns.len())) {
            let line = line.copied(values);
            if let Some(bias) = bias {
                line.iter_mut().zip(&bias[columns.clone()]).for_each(|(value, bias)| *value += bias);
            }
        }
    };
    written(rows * outputs, |y| {
        y.par_chunks(of_task * outputs).zip(x.par_chunks(of_task * inputs)).for_each(|(y, x)| {
            let mut blocks: Vec<Vec<Unset>> = (0..outputs.div_ceil(columns)).map(|_| Vec::new()).collect();
            for row in y.chunks(outputs) {
                blocks.iter_mut().zip(row.chunks(columns)).for_each(|(block, part)| block.push(part));
            }
            blocks.into_par_iter().enumerate().for_each(|(i, lines)| task(i, x, lines));
        });
    })
}

/// `x^T dy`
fn rows_weight_gradient(layer: &Layer, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let Layer { operands, inputs, outputs, .. } = *layer;
    let rows = x.len() / inputs;
    let dy = Matrix::row_major(dy, rows, outputs, outputs);
    if operands == Operands::Full && panels::are_worthwhile(rows, outputs) && inputs.is_multiple_of(ROWS) {
        return panels::weight_gradient(x, inputs, dy);
    }
    let x = Matrix::row_major(x, rows, inputs, inputs).transposed();
    written(inputs * outputs, |gradient| {
        gradient.par_chunks(TASK_ROWS * outputs).enumerate().for_each(|(task, gradient)| {
            let (first, gradient) = (task * TASK_ROWS, gradient.cleared());
            multiply(operands, gradient, Previous::Discard, x.rows(first..inputs.min(first + TASK_ROWS)), dy);
        });
    })
}

fn sum_of_rows(dy: &[f32], outputs: usize) -> Vec<f32> {
    let mut sums = vec![0.0; outputs];
    sums.par_chunks_mut(TASK_COLUMNS).enumerate().for_each(|(task, sums)| {
        let columns = task * TASK_COLUMNS..task * TASK_COLUMNS + sums.len();
        vectorised(
            #[inline(always)]
            || {
                for row in dy.chunks_exact(outputs) {
                    sums.iter_mut().zip(&row[columns.clone()]).for_each(|(sum, value)| *sum += value);
                }
            },
        );
    });
    sums
}
