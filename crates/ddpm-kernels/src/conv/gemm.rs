//! Matrix products on slices, on the calling thread.
#![allow(unsafe_code, reason = "the only call into the gemm crate, which takes raw pointers")]

use std::ops::Range;

use gemm::Parallelism;

use super::pairs;
pub(crate) use crate::product::{Operands, Previous};

/// A matrix in a slice: element `(i, j)` is `values[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie one after the other, `row_stride` apart.
    pub(crate) fn row_major(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some of the columns.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        Self { values: &self.values[columns.start * self.column_stride..], columns: columns.len(), ..self }
    }

    /// Some of the rows.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        self.transposed().columns(rows).transposed()
    }

    fn is_inside_its_slice(&self) -> bool {
        self.rows > 0
            && self.columns > 0
            && (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.values.len()
    }
}

/// `out = a * b`, or `out += a * b`, with `out` in row-major order without gaps.
pub(crate) fn multiply(operands: Operands, out: &mut [f32], previous: Previous, a: Matrix, b: Matrix) {
    assert_eq!(a.columns, b.rows, "inner sizes differ");
    assert_eq!(out.len(), a.rows * b.columns, "size of the result");
    assert!(a.is_inside_its_slice() && b.is_inside_its_slice(), "matrix larger than its slice");
    match operands {
        Operands::Full => multiply_full(out, previous, a, b),
        Operands::Halves => pairs::multiply(out, previous, a, b),
    }
}

/// The sizes fit, as [`multiply`] has made sure.
fn multiply_full(out: &mut [f32], previous: Previous, a: Matrix, b: Matrix) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    // SAFETY: the assertions of the only caller keep every element that is read or written inside its slice: the
    // largest offset of each operand is that of its last element, because strides are not negative,
    // and they fit isize, because slices do. `out` is borrowed exclusively, so it overlaps neither
    // operand. All values are initialised.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            matches!(previous, Previous::Keep),
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            // The tasks are the parallelism; a product that split itself again would also make the
            // result depend on the number of threads.
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_product_by_hand() {
        // [1 2; 3 4; 5 6] * [1 0 2; 0 1 1]
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 1.0];
        let a = Matrix::row_major(&a, 3, 2, 2);
        let b = Matrix::row_major(&b, 2, 3, 3);
        let mut out = [f32::NAN; 9];
        multiply(Operands::Full, &mut out, Previous::Discard, a, b);
        assert_eq!(out, [1.0, 2.0, 4.0, 3.0, 4.0, 10.0, 5.0, 6.0, 16.0]);
        multiply(Operands::Full, &mut out, Previous::Keep, a, b);
        assert_eq!(out, [2.0, 4.0, 8.0, 6.0, 8.0, 20.0, 10.0, 12.0, 32.0]);

        let mut out = [0.0; 4];
        multiply(Operands::Full, &mut out, Previous::Discard, b, b.transposed());
        assert_eq!(out, [5.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "matrix larger than its slice")]
    fn a_matrix_beyond_its_slice_is_refused() {
        let a = Matrix::row_major(&[1.0; 5], 3, 2, 2);
        let b = Matrix::row_major(&[1.0; 2], 2, 1, 1);
        multiply(Operands::Full, &mut [0.0; 3], Previous::Discard, a, b);
    }
}
