//! The linear maps of F(4x4, 3x3) (Lavin & Gray 2016): `y = A^T [(G g G^T) * (B^T d B)] A` gives 4x4 pixels of a
//! 3x3 convolution with 36 products instead of 144.
//!
//! The maps follow from the points 0, ±3/4, ±3/2 and infinity, at which polynomials are evaluated and from which they
//! are put together again. With the usual ±1 and ±2 the result has four times the rounding error; with these it is
//! hardly more than that of the plain sum, and all factors are exact in f32.

use super::super::frame::Lanes;

/// Values of a transformed tile.
pub(super) const POINTS: usize = 36;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// `B^T d`
#[inline(always)]
fn data(d: [f32; 6]) -> [f32; 6] {
    let (even_a, odd_a) = (d[4] - B2 * d[2], A * (d[3] - B2 * d[1]));
    let (even_b, odd_b) = (d[4] - A2 * d[2], B * (d[3] - A2 * d[1]));
    [
        A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5],
    ]
}

/// `A^T m`
#[inline(always)]
fn output(m: [f32; 6]) -> [f32; 4] {
    let (sum_a, difference_a) = (m[1] + m[2], m[1] - m[2]);
    let (sum_b, difference_b) = (m[3] + m[4], m[3] - m[4]);
    [
        m[0] + sum_a + sum_b,
        A * difference_a + B * difference_b,
        A2 * sum_a + B2 * sum_b,
        A2 * A * difference_a + B2 * B * difference_b + m[5],
    ]
}

/// `A y`, the transpose of [`output`]
#[inline(always)]
fn output_gradient(y: [f32; 4]) -> [f32; 6] {
    let (even_a, odd_a) = (y[0] + A2 * y[2], A * y[1] + A2 * A * y[3]);
    let (even_b, odd_b) = (y[0] + B2 * y[2], B * y[1] + B2 * B * y[3]);
    [y[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y[3]]
}

const G_0: f32 = 1.0 / (A2 * B2);
const G_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const G_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// `G g`
#[inline(always)]
fn kernel(g: [f32; 3]) -> [f32; 6] {
    let (even_a, odd_a) = (G_A * (g[0] + A2 * g[2]), G_A * A * g[1]);
    let (even_b, odd_b) = (G_B * (g[0] + B2 * g[2]), G_B * B * g[1]);
    [G_0 * g[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g[2]]
}

/// `G^T u`, the transpose of [`kernel`]
#[inline(always)]
fn kernel_gradient(u: [f32; 6]) -> [f32; 3] {
    let (sum_a, difference_a) = (G_A * (u[1] + u[2]), G_A * (u[1] - u[2]));
    let (sum_b, difference_b) = (G_B * (u[3] + u[4]), G_B * (u[3] - u[4]));
    [G_0 * u[0] + sum_a + sum_b, A * difference_a + B * difference_b, A2 * sum_a + B2 * sum_b + u[5]]
}

/// Applies a map to the columns and then to the rows of a square, in all lanes.
macro_rules! in_two_dimensions {
    ($(#[$doc:meta])* $name:ident, $map:ident, $from:literal, $to:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name<const N: usize>(square: &[[f32; N]; $from * $from]) -> [[f32; N]; $to * $to] {
            let mut half = [[0.0; N]; $to * $from];
            for column in 0..$from {
                for lane in 0..N {
                    let mapped = $map(std::array::from_fn(|row| square[row * $from + column][lane]));
                    for (row, value) in mapped.into_iter().enumerate() {
                        half[row * $from + column][lane] = value;
                    }
                }
            }
            let mut whole = [[0.0; N]; $to * $to];
            for row in 0..$to {
                for lane in 0..N {
                    let mapped = $map(std::array::from_fn(|column| half[row * $from + column][lane]));
                    for (column, value) in mapped.into_iter().enumerate() {
                        whole[row * $to + column][lane] = value;
                    }
                }
            }
            whole
        }
    };
}

in_two_dimensions!(
    /// `B^T d B` of a tile with its neighbours.
    data_tile, data, 6, 6
);
in_two_dimensions!(
    /// `A^T m A`, a tile of the output.
    output_tile, output, 6, 4
);
in_two_dimensions!(
    /// `A dy A^T` for the gradient of a tile of the output.
    output_tile_gradient, output_gradient, 4, 6
);
in_two_dimensions!(
    /// `G g G^T` of a kernel.
    kernel_square, kernel, 3, 6
);
in_two_dimensions!(
    /// `G^T u G`, the gradient of a kernel.
    kernel_square_gradient, kernel_gradient, 6, 3
);

/// The square of `N * N` pixels of a frame that begins at `first`.
#[inline(always)]
pub(super) fn square<const N: usize, const SQUARE: usize>(
    frame: &[Lanes],
    columns: usize,
    first: usize,
) -> [Lanes; SQUARE] {
    let mut square = [[0.0; 16]; SQUARE];
    for (square, line) in square.chunks_exact_mut(N).zip(frame[first..].chunks(columns)) {
        square.copy_from_slice(&line[..N]);
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in [-1, 1).
    fn noise(n: usize) -> Vec<f32> {
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn convolved(d: &[f32], g: &[f32]) -> Vec<f32> {
        let at = |i: usize| (0..9).map(|tap| d[(i / 4 + tap / 3) * 6 + i % 4 + tap % 3] * g[tap]).sum();
        (0..16).map(at).collect()
    }

    #[test]
    fn a_product_of_transforms_is_a_convolution() {
        let (d, g) = (noise(36), &noise(60)[40..49]);
        let v = data_tile::<1>(&std::array::from_fn(|i| [d[i]]));
        let u = kernel_square::<1>(&std::array::from_fn(|i| [g[i]]));
        let y = output_tile::<1>(&std::array::from_fn(|i| [v[i][0] * u[i][0]]));
        for (y, expected) in y.iter().zip(convolved(&d, g)) {
            assert!((y[0] - expected).abs() < 2e-6, "{} instead of {expected}", y[0]);
        }
    }

    #[test]
    fn gradients_are_transposes() {
        // <output(m), y> = <m, output_gradient(y)>, and likewise for kernels.
        let (m, y) = (noise(36), noise(16));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let there = output_tile::<1>(&std::array::from_fn(|i| [m[i]]));
        let back = output_tile_gradient::<1>(&std::array::from_fn(|i| [y[i]]));
        assert!((dot(there.as_flattened(), &y) - dot(&m, back.as_flattened())).abs() < 1e-4);
        let (g, u) = (noise(9), noise(36));
        let there = kernel_square::<1>(&std::array::from_fn(|i| [g[i]]));
        let back = kernel_square_gradient::<1>(&std::array::from_fn(|i| [u[i]]));
        assert!((dot(there.as_flattened(), &u) - dot(&g, back.as_flattened())).abs() < 1e-5);
    }
}
