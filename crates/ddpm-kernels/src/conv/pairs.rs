//! Matrix products whose operands are rounded to bf16.
//!
//! Row `k` of the one and column `k` of the other become pairs with row and column `k + half`, so that neighbours in memory
//! stay neighbours in a vector.

use std::ops::Range;

use pulp::Simd;

use super::frame::{LANES, Lanes, transposed};
use super::gemm::Matrix;
use crate::bf16::{Pairs, pair};
use crate::product::{self, Operands, PANEL, PairJob, Previous, ROWS, Row, make_pairs};
use crate::scratch::Scratch;

/// Terms of a sum that are added up at a time: as many as have room in the first cache for a panel of columns.
const TERMS: usize = 512;

/// `out = a * b`, or `out += a * b`; the sizes fit.
pub(super) fn multiply(out: &mut [f32], previous: Previous, a: Matrix, b: Matrix) {
    for first in (0..a.columns).step_by(TERMS) {
        let terms = first..a.columns.min(first + TERMS);
        let previous = if first == 0 { previous } else { Previous::Keep };
        multiply_block(out, previous, a.columns(terms.clone()), b.rows(terms));
    }
}

fn multiply_block(out: &mut [f32], previous: Previous, a: Matrix, b: Matrix) {
    let (rows, columns, half) = (a.rows, b.columns, a.columns.div_ceil(2));
    let (padded, panels) = (rows.next_multiple_of(ROWS), columns.div_ceil(PANEL));
    let mut pairs = Scratch::new(padded * half + panels * half * PANEL);
    let mut results = Scratch::new(padded * PANEL);
    let (left, right) = pairs.split_at_mut(padded * half);
    let (right, _) = right.as_chunks_mut::<PANEL>();
    let (results, _) = results.as_chunks_mut::<PANEL>();
    make_pairs(Pack { a, b, half, left, right });
    let right = &*right;
    for (panel, right) in right.chunks_exact(half).enumerate() {
        product::multiply(Operands::Halves, left, right, results);
        let first = panel * PANEL;
        let present = PANEL.min(columns - first);
        for (out, result) in out.chunks_exact_mut(columns).zip(&*results) {
            let out = &mut out[first..first + present];
            match previous {
                Previous::Discard => out.copy_from_slice(&result[..present]),
                Previous::Keep => out.iter_mut().zip(result).for_each(|(out, result)| *out += result),
            }
        }
    }
}

/// Writes the pairs of both operands, `[rows, half]` and `[panels, half, PANEL]`.
struct Pack<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    half: usize,
    left: &'a mut [f32],
    right: &'a mut [Row],
}

impl PairJob for Pack<'_> {
    #[inline(always)]
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
        let maker = (simd, pairs);
        pack_rows(self.a, self.half, self.left, maker);
        for (panel, right) in self.right.chunks_exact_mut(self.half).enumerate() {
            pack_panel(self.b, panel * PANEL, right, maker);
        }
    }
}

/// Writes the rows of a matrix, `[rows, half]`, and zeros behind them.
#[inline(always)]
fn pack_rows<S: Simd, P: Pairs<S>>(a: Matrix, half: usize, packed: &mut [f32], maker: (S, P)) {
    packed[a.rows * half..].fill(0.0);
    if a.column_stride == 1 {
        for (i, packed) in packed.chunks_exact_mut(half).take(a.rows).enumerate() {
            let (first, second) = a.values[i * a.row_stride..][..a.columns].split_at(half);
            maker.1.write(maker.0, first, second, packed);
        }
        return;
    }
    // Neighbours in memory are of one column: squares of them change rows for columns.
    for first_row in (0..a.rows).step_by(LANES) {
        let present = LANES.min(a.rows - first_row);
        for first_pair in (0..half).step_by(LANES) {
            let count = LANES.min(half - first_pair);
            let square = square(a, first_row..first_row + present, first_pair..first_pair + count, half, maker);
            for (row, values) in transposed(square).iter().enumerate().take(present) {
                packed[(first_row + row) * half + first_pair..][..count].copy_from_slice(&values[..count]);
            }
        }
    }
}

/// Writes some columns of a matrix, `[half, PANEL]`, and zeros beside them.
#[inline(always)]
fn pack_panel<S: Simd, P: Pairs<S>>(b: Matrix, first_column: usize, packed: &mut [Row], maker: (S, P)) {
    let half = packed.len();
    let present = PANEL.min(b.columns - first_column);
    if b.column_stride == 1 {
        for (k, packed) in packed.iter_mut().enumerate() {
            packed[present..].fill(0.0);
            let line = |k: usize| &b.values[k * b.row_stride + first_column..][..present];
            let second = if k + half < b.rows { line(k + half) } else { &[] };
            maker.1.write(maker.0, line(k), second, &mut packed[..present]);
        }
        return;
    }
    let b = b.transposed();
    for first_pair in (0..half).step_by(LANES) {
        let count = LANES.min(half - first_pair);
        for place in (0..PANEL).step_by(LANES) {
            let mut square = [[0.0; LANES]; LANES];
            for (lane, line) in square.iter_mut().enumerate().take(present.saturating_sub(place)) {
                let values = &b.values[(first_column + place + lane) * b.row_stride..];
                if b.column_stride == 1 {
                    let second = half + first_pair;
                    let second = &values[second.min(b.columns)..b.columns.min(second + count)];
                    maker.1.write(maker.0, &values[first_pair..first_pair + count], second, &mut line[..count]);
                } else {
                    for (value, k) in line.iter_mut().zip(first_pair..first_pair + count) {
                        let second = if k + half < b.columns { values[(k + half) * b.column_stride] } else { 0.0 };
                        *value = pair(values[k * b.column_stride], second);
                    }
                }
            }
            for (packed, values) in packed[first_pair..first_pair + count].iter_mut().zip(&transposed(square)) {
                packed[place..place + LANES].copy_from_slice(values);
            }
        }
    }
}

/// Pairs of some rows: `[pairs, rows]`.
#[inline(always)]
fn square<S: Simd, P: Pairs<S>>(
    a: Matrix,
    rows: Range<usize>,
    pairs: Range<usize>,
    half: usize,
    maker: (S, P),
) -> [Lanes; LANES] {
    let mut square = [[0.0; LANES]; LANES];
    for (line, k) in square.iter_mut().zip(pairs) {
        let column = |k: usize| &a.values[rows.start * a.row_stride + k * a.column_stride..];
        let first = column(k);
        let second: &[f32] = if k + half < a.columns { column(k + half) } else { &[] };
        if a.row_stride == 1 {
            let second = if second.is_empty() { second } else { &second[..rows.len()] };
            maker.1.write(maker.0, &first[..rows.len()], second, &mut line[..rows.len()]);
        } else {
            for (row, value) in line.iter_mut().enumerate().take(rows.len()) {
                *value = pair(first[row * a.row_stride], second.get(row * a.row_stride).copied().unwrap_or(0.0));
            }
        }
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers are numbers of bf16, and their sums are exact in f32.
    #[test]
    fn any_layout_gives_the_product() {
        let number = |i: usize| ((i * 7) % 23) as f32 - 11.0;
        for (m, n, k) in [(1, 1, 1), (3, 5, 2), (8, 32, 16), (17, 33, 31), (20, 70, 45), (5, 40, 1030)] {
            // Rows, columns, and neither lie without gaps.
            let strides = |rows: usize, columns: usize| [(columns, 1), (1, rows), (2 * columns + 1, 2)];
            let matrix = |values: &'static [f32], rows, columns, (row_stride, column_stride)| Matrix {
                values,
                rows,
                columns,
                row_stride,
                column_stride,
            };
            let values: &'static [f32] = Vec::leak((0..5000 + 5 * k * (m + n)).map(number).collect());
            for of_a in strides(m, k) {
                for of_b in strides(k, n) {
                    let a = matrix(values, m, k, of_a);
                    let b = matrix(&values[3..], k, n, of_b);
                    let at = |matrix: &Matrix, i: usize, j: usize| {
                        matrix.values[i * matrix.row_stride + j * matrix.column_stride]
                    };
                    let mut out = vec![1.0; m * n];
                    multiply(&mut out, Previous::Keep, a, b);
                    let mut anew = vec![f32::NAN; m * n];
                    multiply(&mut anew, Previous::Discard, a, b);
                    for (i, (&kept, &new)) in out.iter().zip(&anew).enumerate() {
                        let expected: f32 = (0..k).map(|term| at(&a, i / n, term) * at(&b, term, i % n)).sum();
                        assert_eq!((kept, new), (1.0 + expected, expected), "{m} {n} {k}, {of_a:?}, {of_b:?}, {i}");
                    }
                }
            }
        }
    }
}
