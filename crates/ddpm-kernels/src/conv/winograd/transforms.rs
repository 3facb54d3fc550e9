//! The linear maps of F(4x4, 3x3) (Lavin & Gray 2016): `y = A^T [(G g G^T) * (B^T d B)] A` gives 4x4 pixels of a
//! 3x3 convolution with 36 products instead of 144.
//!
//! The maps follow from the points 0, ±3/4, ±3/2 and infinity, at which polynomials are evaluated and from which they
//! are put together again. With the usual ±1 and ±2 the result has four times the rounding error; with these it is
//! hardly more than that of the plain sum, and all factors but those of G are exact in f32.

use pulp::Simd;

/// Values of a transformed tile.
pub(super) const POINTS: usize = 36;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
const G_0: f32 = 1.0 / (A2 * B2);
const G_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const G_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// The maps in one dimension, for as many channels as a vector has room for.
#[derive(Clone, Copy)]
pub(super) struct Maps<S>(pub(super) S);

impl<S: Simd> Maps<S> {
    /// `a x + y`
    #[inline(always)]
    fn add(self, a: f32, x: S::f32s, y: S::f32s) -> S::f32s {
        self.0.mul_add_e_f32s(self.0.splat_f32s(a), x, y)
    }

    #[inline(always)]
    fn scale(self, a: f32, x: S::f32s) -> S::f32s {
        self.0.mul_f32s(self.0.splat_f32s(a), x)
    }

    /// `x + y` and `x - y`
    #[inline(always)]
    fn both(self, x: S::f32s, y: S::f32s) -> (S::f32s, S::f32s) {
        (self.0.add_f32s(x, y), self.0.sub_f32s(x, y))
    }

    /// `B^T d`
    #[inline(always)]
    pub(super) fn data(self, d: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even_a, odd_a) = (self.add(-B2, d[2], d[4]), self.scale(A, self.add(-B2, d[1], d[3])));
        let (even_b, odd_b) = (self.add(-A2, d[2], d[4]), self.scale(B, self.add(-A2, d[1], d[3])));
        let (plus_a, minus_a) = self.both(even_a, odd_a);
        let (plus_b, minus_b) = self.both(even_b, odd_b);
        let ends = |x, y, z| self.add(A2 * B2, x, self.add(-(A2 + B2), y, z));
        [ends(d[0], d[2], d[4]), plus_a, minus_a, plus_b, minus_b, ends(d[1], d[3], d[5])]
    }

    /// `A^T m`
    #[inline(always)]
    pub(super) fn output(self, m: [S::f32s; 6]) -> [S::f32s; 4] {
        let (even_a, odd_a) = self.both(m[1], m[2]);
        let (even_b, odd_b) = self.both(m[3], m[4]);
        [
            self.0.add_f32s(m[0], self.0.add_f32s(even_a, even_b)),
            self.add(A, odd_a, self.scale(B, odd_b)),
            self.add(A2, even_a, self.scale(B2, even_b)),
            self.add(A2 * A, odd_a, self.add(B2 * B, odd_b, m[5])),
        ]
    }

    /// `A y`, the transpose of [`Self::output`]
    #[inline(always)]
    pub(super) fn output_gradient(self, y: [S::f32s; 4]) -> [S::f32s; 6] {
        let (plus_a, minus_a) = self.both(self.add(A2, y[2], y[0]), self.add(A, y[1], self.scale(A2 * A, y[3])));
        let (plus_b, minus_b) = self.both(self.add(B2, y[2], y[0]), self.add(B, y[1], self.scale(B2 * B, y[3])));
        [y[0], plus_a, minus_a, plus_b, minus_b, y[3]]
    }

    /// `G g`
    #[inline(always)]
    pub(super) fn kernel(self, g: [S::f32s; 3]) -> [S::f32s; 6] {
        let (plus_a, minus_a) = self.both(self.add(G_A * A2, g[2], self.scale(G_A, g[0])), self.scale(G_A * A, g[1]));
        let (plus_b, minus_b) = self.both(self.add(G_B * B2, g[2], self.scale(G_B, g[0])), self.scale(G_B * B, g[1]));
        [self.scale(G_0, g[0]), plus_a, minus_a, plus_b, minus_b, g[2]]
    }

    /// `G^T u`, the transpose of [`Self::kernel`]
    #[inline(always)]
    pub(super) fn kernel_gradient(self, u: [S::f32s; 6]) -> [S::f32s; 3] {
        let (even_a, odd_a) = self.both(u[1], u[2]);
        let (even_b, odd_b) = self.both(u[3], u[4]);
        [
            self.add(G_0, u[0], self.add(G_A, even_a, self.scale(G_B, even_b))),
            self.add(G_A * A, odd_a, self.scale(G_B * B, odd_b)),
            self.add(G_A * A2, even_a, self.add(G_B * B2, even_b, u[5])),
        ]
    }
}

macro_rules! column_of {
    ($load:ident, $column:literal, [$($row:literal)*]) => { [$($load($row, $column)),*] };
}

macro_rules! in_two_dimensions {
    ($name:ident, $from:literal = [$($i:literal)*] = $all:tt, $to:literal) => {
        /// Applies a map to the columns and then to the rows of a square: reads `load(row, column)`, and hands the
        /// values of the result to `store`, row by row.
        ///
        /// Written out by a macro, because functions of the standard library that take a closure are not compiled for
        /// the vector instructions of the one who calls them.
        #[inline(always)]
        #[allow(clippy::needless_range_loop, reason = "iterators are not compiled for the instructions of the caller")]
        pub(super) fn $name<V: Copy>(
            map: impl Fn([V; $from]) -> [V; $to],
            load: impl Fn(usize, usize) -> V,
            mut store: impl FnMut(usize, V),
        ) {
            let columns = [$(map(column_of!(load, $i, $all))),*];
            for row in 0..$to {
                let mapped = map([$(columns[$i][row]),*]);
                for i in 0..$to {
                    store(row * $to + i, mapped[i]);
                }
            }
        }
    };
}

in_two_dimensions!(from_6_to_6, 6 = [0 1 2 3 4 5] = [0 1 2 3 4 5], 6);
in_two_dimensions!(from_6_to_4, 6 = [0 1 2 3 4 5] = [0 1 2 3 4 5], 4);
in_two_dimensions!(from_4_to_6, 4 = [0 1 2 3] = [0 1 2 3], 6);
in_two_dimensions!(from_3_to_6, 3 = [0 1 2] = [0 1 2], 6);
in_two_dimensions!(from_6_to_3, 6 = [0 1 2 3 4 5] = [0 1 2 3 4 5], 3);

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Scalar;

    const MAPS: Maps<Scalar> = Maps(Scalar);

    /// Numbers in [-1, 1).
    fn noise(n: usize) -> Vec<f32> {
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    macro_rules! apply {
        ($square:ident, $map:ident, $x:expr) => {{
            let (x, mut result) = ($x, Vec::new());
            let width = (x.len() as f32).sqrt() as usize;
            $square(|d| MAPS.$map(d), |row, column| x[row * width + column], |_, value| result.push(value));
            result
        }};
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn a_product_of_transforms_is_a_convolution() {
        let (d, g) = (noise(36), &noise(60)[40..49]);
        let v = apply!(from_6_to_6, data, &d);
        let u = apply!(from_3_to_6, kernel, g);
        let m: Vec<f32> = u.iter().zip(v).map(|(u, v)| u * v).collect();
        for (i, y) in apply!(from_6_to_4, output, &m).into_iter().enumerate() {
            let expected: f32 = (0..9).map(|tap| d[(i / 4 + tap / 3) * 6 + i % 4 + tap % 3] * g[tap]).sum();
            assert!((y - expected).abs() < 2e-6, "{y} instead of {expected}");
        }
    }

    #[test]
    fn gradients_are_transposes() {
        // <output(m), y> = <m, output_gradient(y)>, and likewise for kernels.
        let (m, y, g) = (noise(36), noise(16), noise(9));
        let (there, back) = (apply!(from_6_to_4, output, &m), apply!(from_4_to_6, output_gradient, &y));
        assert!((dot(&there, &y) - dot(&m, &back)).abs() < 1e-4);
        let (there, back) = (apply!(from_3_to_6, kernel, &g), apply!(from_6_to_3, kernel_gradient, &m));
        assert!((dot(&there, &m) - dot(&g, &back)).abs() < 1e-5);
    }
}
