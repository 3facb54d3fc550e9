//! Dense layers of rows that lie one after the other, as parts of larger kernels: `x W^T + b` with weights `[outputs, inputs]`.

use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::simd::vectorised;

/// Parts that the rows are divided into, in which the gradients of the weights are summed up.
const PARTS: usize = 16;

/// Rows of a part are a multiple of this.
const PART_ROWS: usize = 32;

/// Rows that are worked on together, so that they stay in the cache of a core.
pub(crate) const TASK_ROWS: usize = 128;

/// Rows of each part but the last.
pub(crate) fn rows_of_part(rows: usize) -> usize {
    rows.div_ceil(PARTS).next_multiple_of(PART_ROWS)
}

/// Adds `x W^T` to `y`.
pub(crate) fn add_product(y: &mut [f32], x: &[f32], weight: &[f32], [inputs, outputs]: [usize; 2]) {
    let rows = y.len() / outputs;
    let weight = Matrix::row_major(weight, outputs, inputs, inputs).transposed();
    multiply(Operands::Full, y, Previous::Keep, Matrix::row_major(x, rows, inputs, inputs), weight);
}

/// Adds `dy W` to `dx`.
pub(crate) fn add_input_gradient(dx: &mut [f32], dy: &[f32], weight: &[f32], [inputs, outputs]: [usize; 2]) {
    let rows = dy.len() / outputs;
    let weight = Matrix::row_major(weight, outputs, inputs, inputs);
    multiply(Operands::Full, dx, Previous::Keep, Matrix::row_major(dy, rows, outputs, outputs), weight);
}

/// Adds `dy^T x` to the gradient of a weight.
pub(crate) fn add_weight_gradient(sum: &mut [f32], dy: &[f32], x: &[f32], [inputs, outputs]: [usize; 2]) {
    let rows = dy.len() / outputs;
    let dy = Matrix::row_major(dy, rows, outputs, outputs).transposed();
    multiply(Operands::Full, sum, Previous::Keep, dy, Matrix::row_major(x, rows, inputs, inputs));
}

/// Adds all rows of `dy` to the gradient of a bias.
pub(crate) fn add_bias_gradient(sum: &mut [f32], dy: &[f32]) {
    let outputs = sum.len();
    vectorised(
        #[inline(always)]
        || {
            for row in dy.chunks_exact(outputs) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        },
    );
}

/// Sets every row to the bias.
pub(crate) fn fill_rows(y: &mut [f32], bias: &[f32]) {
    y.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
}

/// The gradients of weights that parts have summed up, added in their order.
pub(crate) fn total(parts: Vec<Vec<Vec<f32>>>) -> Vec<Vec<f32>> {
    let sum = parts.into_iter().reduce(|mut total, part| {
        for (total, part) in total.iter_mut().zip(&part) {
            vectorised(
                #[inline(always)]
                || total.iter_mut().zip(part).for_each(|(total, value)| *total += value),
            );
        }
        total
    });
    sum.unwrap_or_default()
}
