//! Products of many rows: one operand is laid out in panels of columns once, the other is taken as it lies.
//!
//! The sums are those of the gemm crate, value by value: in order, in parts of about [`DEPTH`] products.

use std::ops::Range;

use rayon::prelude::*;

use crate::conv::gemm::Matrix;
use crate::output::written;
use crate::product::{PANEL, Previous, ROWS, Row, accumulate_columns, multiply_rows};
use crate::scratch::Scratch;
use crate::simd::vectorised;

/// Products that are summed before the sum is added to others.
const DEPTH: usize = 512;

/// Rows that are laid out together where columns lie one after the other.
const TURNED_ROWS: usize = 64;

/// Rows below which the panels are not worth making, and rows of a task of a gradient of a weight.
const FEWEST_ROWS: usize = 32;
const TASK_ROWS: usize = 64;

/// Whether this is the way for a product of so many rows with a matrix of so many columns.
pub(super) fn are_worthwhile(rows: usize, columns: usize) -> bool {
    rows >= FEWEST_ROWS && columns >= PANEL
}

/// `x b + bias` with so many rows to a task.
pub(super) fn multiply(x: &[f32], b: Matrix, bias: Option<&[f32]>, of_task: usize) -> Vec<f32> {
    let (depth, columns) = (b.rows, b.columns);
    let panels = in_panels(b);
    let (panels, _) = panels.as_chunks::<PANEL>();
    let of_task = of_task.next_multiple_of(ROWS);
    written(x.len() / depth * columns, |y| {
        y.par_chunks(of_task * columns).zip(x.par_chunks(of_task * depth)).for_each(|(y, x)| {
            let y = y.cleared();
            let rows = (y.len() / columns).next_multiple_of(ROWS);
            let mut padded = Scratch::new(if rows * depth == x.len() { 0 } else { rows * depth });
            let x = match padded.is_empty() {
                true => x,
                false => {
                    let (values, rest) = padded.split_at_mut(x.len());
                    values.copy_from_slice(x);
                    rest.fill(0.0);
                    &padded[..]
                }
            };
            let mut sums = Scratch::new(rows * PANEL);
            let (sums, _) = sums.as_chunks_mut::<PANEL>();
            for (panel, b) in panels.chunks_exact(depth).enumerate() {
                for part in parts(depth) {
                    multiply_rows(&x[part.start..], depth, &b[part.clone()], sums, previous(&part));
                }
                write(y, columns, panel * PANEL, sums, bias);
            }
        });
    })
}

/// `x^T dy` for `x` of so many columns, which are a multiple of [`ROWS`].
pub(super) fn weight_gradient(x: &[f32], inputs: usize, dy: Matrix) -> Vec<f32> {
    let (depth, columns) = (dy.rows, dy.columns);
    let panels = in_panels(dy);
    let (panels, _) = panels.as_chunks::<PANEL>();
    written(inputs * columns, |gradient| {
        gradient.par_chunks(TASK_ROWS * columns).enumerate().for_each(|(task, gradient)| {
            let (first, gradient) = (task * TASK_ROWS, gradient.cleared());
            let mut sums = Scratch::new(gradient.len() / columns * PANEL);
            let (sums, _) = sums.as_chunks_mut::<PANEL>();
            for (panel, dy) in panels.chunks_exact(depth).enumerate() {
                for part in parts(depth) {
                    let x = &x[part.start * inputs + first..];
                    accumulate_columns(x, inputs, &dy[part.clone()], sums, previous(&part));
                }
                write(gradient, columns, panel * PANEL, sums, None);
            }
        });
    })
}

/// Parts of a sum, of about the same size.
pub(super) fn parts(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let part = depth.div_ceil(depth.div_ceil(DEPTH));
    (0..depth).step_by(part).map(move |first| first..depth.min(first + part))
}

/// Only the first part has nothing before it.
pub(super) fn previous(part: &Range<usize>) -> Previous {
    if part.start == 0 { Previous::Discard } else { Previous::Keep }
}

/// Writes the columns of a panel, with their bias.
fn write(y: &mut [f32], columns: usize, first: usize, sums: &[Row], bias: Option<&[f32]>) {
    let width = PANEL.min(columns - first);
    for (row, sums) in y.chunks_exact_mut(columns).zip(sums) {
        let row = &mut row[first..first + width];
        match bias {
            None => row.copy_from_slice(&sums[..width]),
            Some(bias) => {
                for ((value, sum), bias) in row.iter_mut().zip(sums).zip(&bias[first..]) {
                    *value = sum + bias;
                }
            }
        }
    }
}

/// The matrix as `[panels, rows, PANEL]`; columns that the last panel lacks are zeros.
fn in_panels(matrix: Matrix) -> Scratch {
    let rows = matrix.rows;
    let mut panels = Scratch::new(matrix.columns.div_ceil(PANEL) * rows * PANEL);
    panels.par_chunks_mut(rows * PANEL).enumerate().for_each(|(panel, out)| {
        let (out, _) = out.as_chunks_mut::<PANEL>();
        let first = panel * PANEL;
        let width = PANEL.min(matrix.columns - first);
        vectorised(
            #[inline(always)]
            || match matrix.column_stride {
                1 => {
                    for (row, out) in out.iter_mut().enumerate() {
                        let values = &matrix.values[row * matrix.row_stride + first..][..width];
                        out[..width].copy_from_slice(values);
                        out[width..].fill(0.0);
                    }
                }
                _ => turn(&matrix, first, width, out),
            },
        );
    });
    panels
}

/// A panel of a matrix whose columns lie one after the other, or in any other way.
#[inline(always)]
fn turn(matrix: &Matrix, first: usize, width: usize, out: &mut [Row]) {
    for (block, out) in out.chunks_mut(TURNED_ROWS).enumerate() {
        for column in 0..PANEL {
            if column >= width {
                out.iter_mut().for_each(|out| out[column] = 0.0);
                continue;
            }
            let start = (first + column) * matrix.column_stride + block * TURNED_ROWS * matrix.row_stride;
            for (row, out) in out.iter_mut().enumerate() {
                out[column] = matrix.values[start + row * matrix.row_stride];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::gemm::{self, Operands};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 509.0 - 1.0).collect()
    }

    #[test]
    fn products_are_those_of_gemm() {
        for (rows, depth, columns) in [(32, 5, 32), (67, 40, 70), (130, 600, 96), (64, 1100, 33)] {
            let (x, w, dy) = (numbers(rows * depth, 1), numbers(depth * columns, 2), numbers(rows * columns, 3));
            let x_matrix = Matrix::row_major(&x, rows, depth, depth);
            let w_matrix = Matrix::row_major(&w, depth, columns, columns);
            let dy_matrix = Matrix::row_major(&dy, rows, columns, columns);
            let by_gemm = |a: Matrix, b: Matrix| {
                let mut out = vec![0.0; a.rows * b.columns];
                gemm::multiply(Operands::Full, &mut out, Previous::Discard, a, b);
                out
            };
            let close = |found: &[f32], wanted: &[f32], what: &str| {
                let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                assert_eq!(found.len(), wanted.len());
                for (found, wanted) in found.iter().zip(wanted) {
                    assert!((found - wanted).abs() <= 1e-5 * largest, "{what} of {rows}x{depth}x{columns}");
                }
            };
            close(&multiply(&x, w_matrix, None, 64), &by_gemm(x_matrix, w_matrix), "product");
            close(
                &multiply(&dy, w_matrix.transposed(), None, 64),
                &by_gemm(dy_matrix, w_matrix.transposed()),
                "turned",
            );
            if depth.is_multiple_of(ROWS) {
                close(&weight_gradient(&x, depth, dy_matrix), &by_gemm(x_matrix.transposed(), dy_matrix), "gradient");
            }
            let bias = numbers(columns, 4);
            let plain = multiply(&x, w_matrix, None, 64);
            let expected: Vec<f32> = plain.iter().enumerate().map(|(i, value)| value + bias[i % columns]).collect();
            assert_eq!(multiply(&x, w_matrix, Some(&bias), 64), expected);
        }
    }
}
