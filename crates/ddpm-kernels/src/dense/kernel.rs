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

/// Columns of a task at least and at most.
const FEWEST_COLUMNS: usize = 64;
const MOST_COLUMNS: usize = 512;

/// Columns of a task of the gradient of a bias.
const TASK_COLUMNS: usize = 256;

/// Rows of a task at most, of those with operands in bf16, and tasks that there should be at least.
const MOST_ROWS: usize = 256;
const MOST_HALVES: usize = 1024;
const TASKS: usize = 8;
const MANY_ROWS: usize = TASKS * TASK_ROWS;

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
    if operands == Operands::Full && panels::are_worthwhile(rows, outputs) {
        return panels::multiply(x, weight, bias, rows.div_ceil(TASKS).clamp(TASK_ROWS, MOST_ROWS));
    }
    // Every task lays out its rows and its columns for itself, so it has many of both; of few rows there is one task in a
    // block of columns, and of very many the columns are divided last. The sums do not depend on it.
    let (blocks, fewest) = match rows {
        ..TASK_ROWS => (TASKS, FEWEST_COLUMNS),
        TASK_ROWS..MANY_ROWS => (TASKS / 2, 2 * FEWEST_COLUMNS),
        _ => (TASKS / 2, MOST_COLUMNS),
    };
    let columns = outputs.div_ceil(blocks).next_multiple_of(PANEL).clamp(fewest, MOST_COLUMNS);
    let of_task = rows.div_ceil(TASKS.div_ceil(outputs.div_ceil(columns))).clamp(TASK_ROWS, most_rows(operands));
    written(rows * outputs, |y| {
        y.par_chunks(of_task * outputs).zip(x.par_chunks(of_task * inputs)).for_each(|(y, x)| {
            let mut blocks: Vec<Vec<Unset>> = (0..outputs.div_ceil(columns)).map(|_| Vec::new()).collect();
            for row in y.chunks(outputs) {
                blocks.iter_mut().zip(row.chunks(columns)).for_each(|(block, part)| block.push(part));
            }
            blocks.into_par_iter().enumerate().for_each(|(block, lines)| {
                let columns = block * columns..outputs.min((block + 1) * columns);
                let bias = bias.map(|bias| &bias[columns.clone()]);
                write_product(operands, x, weight.columns(columns), bias, lines);
            });
        });
    })
}

/// Rows of a task at most.
fn most_rows(operands: Operands) -> usize {
    match operands {
        Operands::Full => MOST_ROWS,
        Operands::Halves => MOST_HALVES,
    }
}

/// Writes `x weight + bias` to these lines.
fn write_product(operands: Operands, x: &[f32], weight: Matrix, bias: Option<&[f32]>, lines: Vec<Unset>) {
    // A product of a vector is another kind of product, with other roundings. But a picture must come out the same whatever
    // else is in its batch.
    let twice = if lines.len() == 1 { [x, x].concat() } else { Vec::new() };
    let x = if lines.len() == 1 { &twice } else { x };
    let x = Matrix::row_major(x, x.len() / weight.rows, weight.rows, weight.rows);
    let mut product = Scratch::new(x.rows * weight.columns);
    match operands {
        // In the parts of the panels, so that a row is the same among many.
        Operands::Full => panels::parts(weight.rows).for_each(|part| {
            multiply(operands, &mut product, panels::previous(&part), x.columns(part.clone()), weight.rows(part));
        }),
        Operands::Halves => multiply(operands, &mut product, Previous::Discard, x, weight),
    }
    for (line, values) in lines.into_iter().zip(product.chunks_exact(weight.columns)) {
        let line = line.copied(values);
        if let Some(bias) = bias {
            line.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }
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
