//! The linear maps of F(4x4, 3x3) (Lavin & Gray 2016): `y = A^T [(G g G^T) * (B^T d B)] A` gives 4x4 pixels of a
//! 3x3 convolution with 36 products instead of 144.
//!
//! For operands of bf16 the width of a tile is halved, F(4x2, 3x3): 24 products for 4x2 pixels instead of 72. Of outputs and
//! gradients the rounding error is then about three times that of a plain convolution of operands in bf16: 7e-3 of their
//! root mean square instead of 2e-3. With F(4x4, 3x3) it would be five times as large.
//!
//! The maps follow from the points 0, ±3/4, ±3/2 and infinity, at which polynomials are evaluated and from which they
//! are put together again. With the usual ±1 and ±2 the result has four times the rounding error; with these it is
//! hardly more than that of the plain sum, and all factors but those of G are exact in f32.

use pulp::Simd;

/// Values of a transformed tile of 4x4.
pub(super) const POINTS: usize = 36;

/// Values of a transformed half of a tile, 4x2.
pub(super) const HALF_POINTS: usize = 24;

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

/// The maps of F(2, 3), from the points 0, 1, -1 and infinity.
impl<S: Simd> Maps<S> {
    #[inline(always)]
    pub(super) fn data_2(self, d: [S::f32s; 4]) -> [S::f32s; 4] {
        let (plus, minus) = (self.0.add_f32s(d[1], d[2]), self.0.sub_f32s(d[2], d[1]));
        [self.0.sub_f32s(d[0], d[2]), plus, minus, self.0.sub_f32s(d[1], d[3])]
    }

    #[inline(always)]
    pub(super) fn output_2(self, m: [S::f32s; 4]) -> [S::f32s; 2] {
        let (plus, minus) = self.both(m[1], m[2]);
        [self.0.add_f32s(m[0], plus), self.0.sub_f32s(minus, m[3])]
    }

    #[inline(always)]
    pub(super) fn output_gradient_2(self, y: [S::f32s; 2]) -> [S::f32s; 4] {
        let (plus, minus) = self.both(y[0], y[1]);
        [y[0], plus, minus, self.scale(-1.0, y[1])]
    }

    #[inline(always)]
    pub(super) fn kernel_2(self, g: [S::f32s; 3]) -> [S::f32s; 4] {
        let (even, odd) = (self.scale(0.5, self.0.add_f32s(g[0], g[2])), self.scale(0.5, g[1]));
        let (plus, minus) = self.both(even, odd);
        [g[0], plus, minus, g[2]]
    }

    #[inline(always)]
    pub(super) fn kernel_gradient_2(self, u: [S::f32s; 4]) -> [S::f32s; 3] {
        let (plus, minus) = self.both(u[1], u[2]);
        [self.add(0.5, plus, u[0]), self.scale(0.5, minus), self.add(0.5, plus, u[3])]
    }
}

macro_rules! column_of {
    ($load:ident, $column:literal, [$($row:literal)*]) => { [$($load($row, $column)),*] };
}

macro_rules! in_two_dimensions {
    ($name:ident, $height:literal = $rows:tt, $width:literal = [$($i:literal)*] => $new_height:literal, $new_width:literal) => {
        /// Applies one map to the columns of a rectangle and another to the rows: reads `load(row, column)`, and hands the
        /// values of the result to `store`, row by row.
        ///
        /// Written out by a macro, because functions of the standard library that take a closure are not compiled for
        /// the vector instructions of the one who calls them.
        #[inline(always)]
        #[allow(clippy::needless_range_loop, reason = "iterators are not compiled for the instructions of the caller")]
        pub(super) fn $name<V: Copy>(
            of_columns: impl Fn([V; $height]) -> [V; $new_height],
            of_rows: impl Fn([V; $width]) -> [V; $new_width],
            load: impl Fn(usize, usize) -> V,
            mut store: impl FnMut(usize, V),
        ) {
            let columns = [$(of_columns(column_of!(load, $i, $rows))),*];
            for row in 0..$new_height {
                let mapped = of_rows([$(columns[$i][row]),*]);
                for i in 0..$new_width {
                    store(row * $new_width + i, mapped[i]);
                }
            }
        }
    };
}

// Of F(4x4, 3x3)
in_two_dimensions!(from_6x6_to_6x6, 6 = [0 1 2 3 4 5], 6 = [0 1 2 3 4 5] => 6, 6);
in_two_dimensions!(from_6x6_to_4x4, 6 = [0 1 2 3 4 5], 6 = [0 1 2 3 4 5] => 4, 4);
in_two_dimensions!(from_4x4_to_6x6, 4 = [0 1 2 3], 4 = [0 1 2 3] => 6, 6);
in_two_dimensions!(from_3x3_to_6x6, 3 = [0 1 2], 3 = [0 1 2] => 6, 6);
in_two_dimensions!(from_6x6_to_3x3, 6 = [0 1 2 3 4 5], 6 = [0 1 2 3 4 5] => 3, 3);

// Of F(4x2, 3x3)
in_two_dimensions!(from_6x4_to_6x4, 6 = [0 1 2 3 4 5], 4 = [0 1 2 3] => 6, 4);
in_two_dimensions!(from_6x4_to_4x2, 6 = [0 1 2 3 4 5], 4 = [0 1 2 3] => 4, 2);
in_two_dimensions!(from_4x2_to_6x4, 4 = [0 1 2 3], 2 = [0 1] => 6, 4);
in_two_dimensions!(from_3x3_to_6x4, 3 = [0 1 2], 3 = [0 1 2] => 6, 4);
in_two_dimensions!(from_6x4_to_3x3, 6 = [0 1 2 3 4 5], 4 = [0 1 2 3] => 3, 3);

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
        ($rectangle:ident, $width:literal, $of_columns:ident, $of_rows:ident, $x:expr) => {{
            let (x, mut result) = ($x, Vec::new());
            let load = |row: usize, column: usize| x[row * $width + column];
            $rectangle(|d| MAPS.$of_columns(d), |d| MAPS.$of_rows(d), load, |_, value| result.push(value));
            result
        }};
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// Pixels of a convolution of a rectangle of this width with `g`.
    fn assert_convolved(y: &[f32], width: usize, d: &[f32], g: &[f32]) {
        for (i, y) in y.iter().enumerate() {
            let (row, column) = (i / (width - 2), i % (width - 2));
            let expected: f32 = (0..9).map(|tap| d[(row + tap / 3) * width + column + tap % 3] * g[tap]).sum();
            assert!((y - expected).abs() < 2e-6, "{y} instead of {expected}");
        }
    }

    fn products(u: &[f32], v: &[f32]) -> Vec<f32> {
        u.iter().zip(v).map(|(u, v)| u * v).collect()
    }

    #[test]
    fn a_product_of_transforms_is_a_convolution() {
        let (d, g) = (noise(36), &noise(60)[40..49]);
        let v = apply!(from_6x6_to_6x6, 6, data, data, &d);
        let m = products(&apply!(from_3x3_to_6x6, 3, kernel, kernel, g), &v);
        assert_convolved(&apply!(from_6x6_to_4x4, 6, output, output, &m), 6, &d, g);

        let v = apply!(from_6x4_to_6x4, 4, data, data_2, &d);
        let m = products(&apply!(from_3x3_to_6x4, 3, kernel, kernel_2, g), &v);
        assert_convolved(&apply!(from_6x4_to_4x2, 4, output, output_2, &m), 4, &d, g);
    }

    #[test]
    fn gradients_are_transposes() {
        // <output(m), y> = <m, output_gradient(y)>, and likewise for kernels.
        let (m, y, g) = (noise(36), noise(16), noise(9));
        let there = apply!(from_6x6_to_4x4, 6, output, output, &m);
        let back = apply!(from_4x4_to_6x6, 4, output_gradient, output_gradient, &y);
        assert!((dot(&there, &y) - dot(&m, &back)).abs() < 1e-4);
        let there = apply!(from_3x3_to_6x6, 3, kernel, kernel, &g);
        let back = apply!(from_6x6_to_3x3, 6, kernel_gradient, kernel_gradient, &m);
        assert!((dot(&there, &m) - dot(&g, &back)).abs() < 1e-5);

        let (m, y) = (&m[..24], &y[..8]);
        let there = apply!(from_6x4_to_4x2, 4, output, output_2, m);
        let back = apply!(from_4x2_to_6x4, 2, output_gradient, output_gradient_2, y);
        assert!((dot(&there, y) - dot(m, &back)).abs() < 1e-4);
        let there = apply!(from_3x3_to_6x4, 3, kernel, kernel_2, &g);
        let back = apply!(from_6x4_to_3x3, 4, kernel_gradient, kernel_gradient_2, m);
        assert!((dot(&there, m) - dot(&g, &back)).abs() < 1e-5);
    }
}
