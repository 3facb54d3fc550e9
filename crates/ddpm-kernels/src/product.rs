//! Sums of products in registers: small matrices, already laid out as vectors.
//!
//! Operands are numbers of f32, or pairs of bf16 that take their place, of which one product makes two.

use pulp::{Arch, Simd, WithSimd};

use crate::bf16::{Dot, Full, Pairs, Portable, PortablePairs};
use crate::precision::Precision;

/// Columns of a result that are computed together.
pub(crate) const PANEL: usize = 32;

/// One value of [`PANEL`] columns.
pub(crate) type Row = [f32; PANEL];

/// Rows of a result that stay in registers.
pub(crate) const ROWS: usize = 8;

/// What the operands of a product are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operands {
    /// f32.
    Full,
    /// bf16, summed in f32.
    Halves,
}

impl From<Precision> for Operands {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Bf16 => Self::Halves,
            // Tensors of f32 are asked for f16 nowhere but in tests.
            Precision::F32 | Precision::F16 => Self::Full,
        }
    }
}

/// What happens to the values that a result replaces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Previous {
    Discard,
    Keep,
}

/// `out[i] = sum over k of a[i][k] * b[k]`; the number of rows is a multiple of [`ROWS`].
pub(crate) fn multiply(operands: Operands, a: &[f32], b: &[Row], out: &mut [Row]) {
    dispatch(operands, Multiply { a, b, out });
}

/// `out[c] (+)= sum over i of a[i][c] * b[i]`, where the rows lie in several parts; the number of columns of `a` is a
/// multiple of [`ROWS`].
pub(crate) fn accumulate(operands: Operands, a: &[&[f32]], b: &[&[Row]], out: &mut [Row], previous: Previous) {
    dispatch(operands, Accumulate { a, b, out, previous });
}

/// `out[i] (+)= sum over k of a[i][k] * b[k]` in f32, where the rows of `a` lie `stride` apart; the number of rows is a multiple
/// of [`ROWS`].
pub(crate) fn multiply_rows(a: &[f32], stride: usize, b: &[Row], out: &mut [Row], previous: Previous) {
    dispatch(Operands::Full, RowsOf { a, stride, b, out, previous });
}

/// `out[c] (+)= sum over i of a[i][c] * b[i]` in f32, where the rows of `a` lie `stride` apart; the number of columns is a
/// multiple of [`ROWS`].
pub(crate) fn accumulate_columns(a: &[f32], stride: usize, b: &[Row], out: &mut [Row], previous: Previous) {
    dispatch(Operands::Full, ColumnsOf { a, stride, b, out, previous });
}

/// Something that is made of sums of products.
pub(crate) trait Job {
    fn run<S: Simd, D: Dot<S>>(self, simd: S, dot: D);
}

fn dispatch(operands: Operands, job: impl Job) {
    match operands {
        Operands::Full => Arch::new().dispatch(On(job, Full)),
        Operands::Halves => {
            #[cfg(target_arch = "x86_64")]
            if let Some(processor) = crate::bf16::Avx512::detect() {
                return processor.run(job);
            }
            Arch::new().dispatch(On(job, PortablePairs));
        }
    }
}

/// Something that makes pairs.
pub(crate) trait PairJob {
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P);
}

pub(crate) fn make_pairs(job: impl PairJob) {
    #[cfg(target_arch = "x86_64")]
    if let Some(processor) = crate::bf16::Avx512::detect() {
        return processor.make_pairs(job);
    }
    make_pairs_portably(job);
}

pub(crate) fn make_pairs_portably(job: impl PairJob) {
    struct Portably<J>(J);
    impl<J: PairJob> WithSimd for Portably<J> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.0.run(simd, PortablePairs);
        }
    }
    Arch::new().dispatch(Portably(job));
}

/// A job, by the best vector instructions of this processor.
struct On<J, D>(J, D);

impl<J: Job, D: Portable> WithSimd for On<J, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(simd, self.1);
    }
}

struct Multiply<'a> {
    a: &'a [f32],
    b: &'a [Row],
    out: &'a mut [Row],
}

impl Job for Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        let depth = self.b.len();
        for (a, out) in self.a.chunks_exact(ROWS * depth).zip(self.out.chunks_exact_mut(ROWS)) {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &a[row * depth..][..depth]);
            by_registers(simd, dot, &[self.b], out, Previous::Discard, |_, k, row| rows[row][k]);
        }
    }
}

struct RowsOf<'a> {
    a: &'a [f32],
    stride: usize,
    b: &'a [Row],
    out: &'a mut [Row],
    previous: Previous,
}

impl Job for RowsOf<'_> {
    #[inline(always)]
    fn run<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        let depth = self.b.len();
        for (group, out) in self.out.chunks_exact_mut(ROWS).enumerate() {
            let row = |row: usize| &self.a[(group * ROWS + row) * self.stride..][..depth];
            let rows: [&[f32]; ROWS] = std::array::from_fn(row);
            by_registers(simd, dot, &[self.b], out, self.previous, |_, k, row| rows[row][k]);
        }
    }
}

struct ColumnsOf<'a> {
    a: &'a [f32],
    stride: usize,
    b: &'a [Row],
    out: &'a mut [Row],
    previous: Previous,
}

impl Job for ColumnsOf<'_> {
    #[inline(always)]
    fn run<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        for (group, out) in self.out.chunks_exact_mut(ROWS).enumerate() {
            by_registers(simd, dot, &[self.b], out, self.previous, |_, k, row| {
                self.a[k * self.stride + group * ROWS + row]
            });
        }
    }
}

struct Accumulate<'a> {
    a: &'a [&'a [f32]],
    b: &'a [&'a [Row]],
    out: &'a mut [Row],
    previous: Previous,
}

impl Job for Accumulate<'_> {
    #[inline(always)]
    fn run<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        let columns = self.out.len();
        for (group, out) in self.out.chunks_exact_mut(ROWS).enumerate() {
            by_registers(simd, dot, self.b, out, self.previous, |part, k, row| {
                self.a[part][k * columns + group * ROWS + row]
            });
        }
    }
}

/// As many rows at a time as there are registers for.
#[inline(always)]
fn by_registers<S: Simd, D: Dot<S>>(
    simd: S,
    dot: D,
    b: &[&[Row]],
    out: &mut [Row],
    previous: Previous,
    a: impl Fn(usize, usize, usize) -> f32 + Copy,
) {
    if S::F32_LANES >= 16 {
        block::<S, D, 8>(simd, dot, b, out, previous, a);
    } else {
        let (first, second) = out.split_at_mut(4);
        block::<S, D, 4>(simd, dot, b, first, previous, a);
        block::<S, D, 4>(simd, dot, b, second, previous, |part, k, row| a(part, k, row + 4));
    }
}

/// `out[row] (+)= sum over part and k of a(part, k, row) * b[part][k]` for `M` rows, two vectors at a time.
#[inline(always)]
fn block<S: Simd, D: Dot<S>, const M: usize>(
    simd: S,
    dot: D,
    b: &[&[Row]],
    out: &mut [Row],
    previous: Previous,
    a: impl Fn(usize, usize, usize) -> f32,
) {
    for pair in 0..PANEL / S::F32_LANES / 2 {
        let mut sums = [[simd.splat_f32s(0.0); 2]; M];
        for (part, b) in b.iter().enumerate() {
            for (k, b) in b.iter().enumerate() {
                let b = &S::as_simd_f32s(b).0[2 * pair..2 * pair + 2];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = simd.splat_f32s(a(part, k, row));
                    sums[0] = dot.add(simd, a, b[0], sums[0]);
                    sums[1] = dot.add(simd, a, b[1], sums[1]);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            let out = &mut S::as_mut_simd_f32s(out).0[2 * pair..2 * pair + 2];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if previous == Previous::Keep { simd.add_f32s(*out, sum) } else { sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16::pair;

    #[test]
    fn both_products_against_plain_sums() {
        let (tiles, depth) = (16, 24);
        let a: Vec<f32> = (0..tiles * depth).map(|i| (i % 13) as f32 - 6.0).collect();
        let row = |k: usize| std::array::from_fn(|j| ((k * 7 + j) % 11) as f32 - 5.0);

        let weights: Vec<Row> = (0..depth).map(row).collect();
        let mut out = vec![[f32::NAN; PANEL]; tiles];
        multiply(Operands::Full, &a, &weights, &mut out);
        for (i, out) in out.iter().enumerate() {
            for (j, value) in out.iter().enumerate() {
                assert_eq!(*value, (0..depth).map(|k| a[i * depth + k] * weights[k][j]).sum::<f32>());
            }
        }

        let gradients: Vec<Row> = (0..tiles).map(row).collect();
        let mut out = vec![[1.0; PANEL]; depth];
        // In two parts.
        let ((a_1, a_2), (gradients_1, gradients_2)) = (a.split_at(5 * depth), gradients.split_at(5));
        accumulate(Operands::Full, &[a_1, a_2], &[gradients_1, gradients_2], &mut out, Previous::Keep);
        for (c, out) in out.iter().enumerate() {
            for (j, value) in out.iter().enumerate() {
                assert_eq!(*value, 1.0 + (0..tiles).map(|i| a[i * depth + c] * gradients[i][j]).sum::<f32>());
            }
        }
    }

    /// Small whole numbers are numbers of bf16, so nothing is rounded: by this processor's own instruction, if it has
    /// one, and without.
    #[test]
    fn pairs_are_two_products() {
        let (rows, depth) = (16, 5);
        let number = |i: usize, of: usize| ((i * of) % 19) as f32 - 9.0;
        let a: Vec<f32> = (0..rows * depth).map(|i| pair(number(i, 3), number(i, 7))).collect();
        let b: Vec<Row> = (0..depth)
            .map(|k| std::array::from_fn(|j| pair(number(k * PANEL + j, 5), number(k * PANEL + j, 11))))
            .collect();
        let expected = |i: usize, j: usize| -> f32 {
            let product = |k: usize| {
                let (left, right) = (i * depth + k, k * PANEL + j);
                number(left, 3) * number(right, 5) + number(left, 7) * number(right, 11)
            };
            (0..depth).map(product).sum()
        };
        for portable in [false, true] {
            let mut out = vec![[f32::NAN; PANEL]; rows];
            match portable {
                false => multiply(Operands::Halves, &a, &b, &mut out),
                true => Arch::new().dispatch(On(Multiply { a: &a, b: &b, out: &mut out }, PortablePairs)),
            }
            assert!((0..rows).all(|i| (0..PANEL).all(|j| out[i][j] == expected(i, j))), "portable: {portable}");
        }
    }
}
