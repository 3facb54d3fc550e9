//! Fourier transforms of many sequences at once, each in a lane of vectors.
//!
//! The spectrum stays in the order in which the transform leaves it, which the inverse transform starts from: what is done
//! in between, products, does not depend on the order.

use std::f64::consts::TAU;

use pulp::Simd;

/// The length of a transform that has room for sequences of `length` and their kernels on both sides.
pub(super) fn transform_length(length: usize) -> usize {
    (2 * length).next_power_of_two()
}

/// Cosines and negative sines of the multiples of `2 pi / length`.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Roots {
    /// For transforms of this length, a power of two.
    pub(super) fn new(length: usize) -> Self {
        let angle = |k: usize| -TAU * k as f64 / length as f64;
        Self {
            cosines: (0..length).map(|k| angle(k).cos() as f32).collect(),
            sines: (0..length).map(|k| angle(k).sin() as f32).collect(),
        }
    }

    fn len(&self) -> usize {
        self.cosines.len()
    }

    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, k: usize) -> Complex<S> {
        Complex { re: simd.splat_f32s(self.cosines[k]), im: simd.splat_f32s(self.sines[k]) }
    }
}

/// A vector of complex numbers.
#[derive(Clone, Copy)]
pub(super) struct Complex<S: Simd> {
    pub(super) re: S::f32s,
    pub(super) im: S::f32s,
}

impl<S: Simd> Complex<S> {
    #[inline(always)]
    fn add(self, simd: S, other: Self) -> Self {
        Self { re: simd.add_f32s(self.re, other.re), im: simd.add_f32s(self.im, other.im) }
    }

    #[inline(always)]
    fn sub(self, simd: S, other: Self) -> Self {
        Self { re: simd.sub_f32s(self.re, other.re), im: simd.sub_f32s(self.im, other.im) }
    }

    #[inline(always)]
    pub(super) fn mul(self, simd: S, other: Self) -> Self {
        let (re, im) = (simd.mul_f32s(self.im, other.im), simd.mul_f32s(self.im, other.re));
        Self { re: simd.sub_f32s(simd.mul_f32s(self.re, other.re), re), im: simd.mul_add_e_f32s(self.re, other.im, im) }
    }

    /// The product with the conjugate of the other one.
    #[inline(always)]
    pub(super) fn mul_conj(self, simd: S, other: Self) -> Self {
        self.mul(simd, Self { re: other.re, im: simd.neg_f32s(other.im) })
    }

    /// `i` times the number.
    #[inline(always)]
    fn turned(self, simd: S) -> Self {
        Self { re: simd.neg_f32s(self.im), im: self.re }
    }
}

/// Vectors of real and of imaginary parts.
pub(super) struct Signal<'a, S: Simd> {
    pub(super) re: &'a mut [S::f32s],
    pub(super) im: &'a mut [S::f32s],
}

impl<'a, S: Simd> Signal<'a, S> {
    /// Of slices of as many vectors as the transform is long.
    #[inline(always)]
    pub(super) fn of(re: &'a mut [f32], im: &'a mut [f32]) -> Self {
        Self { re: S::as_mut_simd_f32s(re).0, im: S::as_mut_simd_f32s(im).0 }
    }

    #[inline(always)]
    pub(super) fn get(&self, k: usize) -> Complex<S> {
        Complex { re: self.re[k], im: self.im[k] }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, k: usize, value: Complex<S>) {
        self.re[k] = value.re;
        self.im[k] = value.im;
    }

    /// The transform, two halvings of the length at a time.
    #[inline(always)]
    pub(super) fn forward(&mut self, simd: S, roots: &Roots) {
        let length = roots.len();
        let mut size = length;
        while size >= 4 {
            let (quarter, stride) = (size / 4, length / size);
            for j in 0..quarter {
                let k = j * stride;
                let (one, two, three) = (roots.at(simd, k), roots.at(simd, 2 * k), roots.at(simd, 3 * k));
                for start in (j..length).step_by(size) {
                    let at = [start, start + quarter, start + 2 * quarter, start + 3 * quarter];
                    let (a, b) = (self.get(at[0]), self.get(at[1]));
                    let (c, d) = (self.get(at[2]), self.get(at[3]));
                    let (even, odd) = (a.add(simd, c), b.add(simd, d));
                    let (real, turned) = (a.sub(simd, c), b.sub(simd, d).turned(simd));
                    self.set(at[0], even.add(simd, odd));
                    self.set(at[1], even.sub(simd, odd).mul(simd, two));
                    self.set(at[2], real.sub(simd, turned).mul(simd, one));
                    self.set(at[3], real.add(simd, turned).mul(simd, three));
                }
            }
            size /= 4;
        }
        if size == 2 {
            self.pairs(simd);
        }
    }

    /// The inverse transform, times the length.
    #[inline(always)]
    pub(super) fn inverse(&mut self, simd: S, roots: &Roots) {
        let length = roots.len();
        let mut size = if length.trailing_zeros().is_multiple_of(2) { 4 } else { 8 };
        if size == 8 {
            self.pairs(simd);
        }
        while size <= length {
            let (quarter, stride) = (size / 4, length / size);
            for j in 0..quarter {
                let k = j * stride;
                let (one, two, three) = (roots.at(simd, k), roots.at(simd, 2 * k), roots.at(simd, 3 * k));
                for start in (j..length).step_by(size) {
                    let at = [start, start + quarter, start + 2 * quarter, start + 3 * quarter];
                    let a = self.get(at[0]);
                    let b = self.get(at[1]).mul_conj(simd, two);
                    let c = self.get(at[2]).mul_conj(simd, one);
                    let d = self.get(at[3]).mul_conj(simd, three);
                    let (even, odd) = (a.add(simd, b), a.sub(simd, b));
                    let (real, turned) = (c.add(simd, d), c.sub(simd, d).turned(simd));
                    self.set(at[0], even.add(simd, real));
                    self.set(at[1], odd.add(simd, turned));
                    self.set(at[2], even.sub(simd, real));
                    self.set(at[3], odd.sub(simd, turned));
                }
            }
            size *= 4;
        }
    }

    #[inline(always)]
    fn pairs(&mut self, simd: S) {
        for k in (0..self.re.len()).step_by(2) {
            let (a, b) = (self.get(k), self.get(k + 1));
            self.set(k, a.add(simd, b));
            self.set(k + 1, a.sub(simd, b));
        }
    }
}
