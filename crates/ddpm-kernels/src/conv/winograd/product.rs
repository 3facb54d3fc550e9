//! The products of transformed tiles: small matrices, already laid out as vectors.

use pulp::{Arch, Simd, WithSimd};

/// Output channels that are computed together.
pub(super) const PANEL: usize = 32;

/// One value of [`PANEL`] output channels.
pub(super) type Row = [f32; PANEL];

/// Rows of a result that stay in registers.
pub(super) const ROWS: usize = 8;

/// `out[i] = sum over k of tiles[i][k] * weights[k]`; the number of tiles is a multiple of [`ROWS`].
pub(super) fn multiply(tiles: &[f32], weights: &[Row], out: &mut [Row]) {
    Arch::new().dispatch(Multiply { tiles, weights, out });
}

/// `out[c] (+)= sum over i of tiles[i][c] * gradients[i]`, where the tiles lie in several parts; the number of channels
/// is a multiple of [`ROWS`].
pub(super) fn accumulate(tiles: &[&[f32]], gradients: &[&[Row]], out: &mut [Row], previous: Previous) {
    Arch::new().dispatch(Accumulate { tiles, gradients, out, previous });
}

struct Multiply<'a> {
    tiles: &'a [f32],
    weights: &'a [Row],
    out: &'a mut [Row],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let depth = self.weights.len();
        for (tiles, out) in self.tiles.chunks_exact(ROWS * depth).zip(self.out.chunks_exact_mut(ROWS)) {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &tiles[row * depth..][..depth]);
            by_registers(simd, &[self.weights], out, Previous::Discard, |_, k, row| rows[row][k]);
        }
    }
}

struct Accumulate<'a> {
    tiles: &'a [&'a [f32]],
    gradients: &'a [&'a [Row]],
    out: &'a mut [Row],
    previous: Previous,
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.out.len();
        for (group, out) in self.out.chunks_exact_mut(ROWS).enumerate() {
            by_registers(simd, self.gradients, out, self.previous, |part, k, row| {
                self.tiles[part][k * channels + group * ROWS + row]
            });
        }
    }
}

/// What happens to the values that a result replaces.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Previous {
    Discard,
    Keep,
}

/// As many rows at a time as there are registers for.
#[inline(always)]
fn by_registers<S: Simd>(
    simd: S,
    b: &[&[Row]],
    out: &mut [Row],
    previous: Previous,
    a: impl Fn(usize, usize, usize) -> f32 + Copy,
) {
    if S::F32_LANES >= 16 {
        block::<S, 8>(simd, b, out, previous, a);
    } else {
        let (first, second) = out.split_at_mut(4);
        block::<S, 4>(simd, b, first, previous, a);
        block::<S, 4>(simd, b, second, previous, |part, k, row| a(part, k, row + 4));
    }
}

/// `out[row] (+)= sum over part and k of a(part, k, row) * b[part][k]` for `M` rows, two vectors at a time.
#[inline(always)]
fn block<S: Simd, const M: usize>(
    simd: S,
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
                    sums[0] = simd.mul_add_e_f32s(a, b[0], sums[0]);
                    sums[1] = simd.mul_add_e_f32s(a, b[1], sums[1]);
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

    #[test]
    fn both_products_against_plain_sums() {
        let (tiles, depth) = (16, 24);
        let a: Vec<f32> = (0..tiles * depth).map(|i| (i % 13) as f32 - 6.0).collect();
        let row = |k: usize| std::array::from_fn(|j| ((k * 7 + j) % 11) as f32 - 5.0);

        let weights: Vec<Row> = (0..depth).map(row).collect();
        let mut out = vec![[f32::NAN; PANEL]; tiles];
        multiply(&a, &weights, &mut out);
        for (i, out) in out.iter().enumerate() {
            for (j, value) in out.iter().enumerate() {
                assert_eq!(*value, (0..depth).map(|k| a[i * depth + k] * weights[k][j]).sum::<f32>());
            }
        }

        let gradients: Vec<Row> = (0..tiles).map(row).collect();
        let mut out = vec![[1.0; PANEL]; depth];
        // In two parts.
        let ((a_1, a_2), (gradients_1, gradients_2)) = (a.split_at(5 * depth), gradients.split_at(5));
        accumulate(&[a_1, a_2], &[gradients_1, gradients_2], &mut out, Previous::Keep);
        for (c, out) in out.iter().enumerate() {
            for (j, value) in out.iter().enumerate() {
                assert_eq!(*value, 1.0 + (0..tiles).map(|i| a[i * depth + c] * gradients[i][j]).sum::<f32>());
            }
        }
    }
}
