//! The state space of one feature of an S4 layer, discretized by the bilinear rule, in f64.
//!
//! With `A = diag(w) - P Q^T`, `dA = (I - dt/2 A)^-1 (I + dt/2 A)` and `dB = dt (I - dt/2 A)^-1 B` the kernel is
//! `K_l = Re(C dA^l dB)`. What is stored of C is `C~ = C (I - dA^L)`, of every conjugate pair of states one. So
//! `K_l = 2 Re(C~ V_l)` over the stored states, with `V_l = dA^l (I - dA^L)^-1 dB`: the basis, which does not depend on C.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::complex::Complex;

/// Which states the sums inside a kernel go over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSum {
    /// All states: the kernel of the papers.
    #[default]
    Full,
    /// The stored half of the conjugate pairs: what the published code of SSSD computes without its CUDA extension and
    /// pykeops. Another kernel, for checkpoints that were trained with it.
    Half,
}

/// The state space of one feature. Of each conjugate pair of states one entry is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpace {
    /// The diagonal of A.
    pub w: Vec<Complex>,
    /// P.
    pub p: Vec<Complex>,
    /// Q.
    pub q: Vec<Complex>,
    /// B.
    pub b: Vec<Complex>,
    /// The step size.
    pub dt: f64,
}

/// `2 Re(sum of x y)`: the sum over all states.
fn full_sum(x: &[Complex], y: &[Complex]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| 2.0 * (x * y).re).sum()
}

impl StateSpace {
    /// The basis of the kernel, `[2n, length]` row by row: two rows for each state, for the real and the imaginary part of
    /// C~, whose products with them sum up to the kernel.
    ///
    /// `stored_length` is L. A longer kernel is continued by the recurrence, except that of half the states, which has L
    /// values and is periodic from there on.
    pub fn basis(&self, sum: KernelSum, stored_length: usize, length: usize) -> Vec<f64> {
        let columns = match sum {
            KernelSum::Full => self.full_basis(stored_length, length),
            KernelSum::Half => self.half_basis(stored_length, length),
        };
        let mut rows = Vec::with_capacity(2 * self.w.len() * length);
        for n in 0..self.w.len() {
            rows.extend(columns.iter().map(|column| column[n].re));
            rows.extend(columns.iter().map(|column| -column[n].im));
        }
        rows
    }

    /// `C~ = C (I - dA^L)`.
    pub fn corrected_for_length(&self, c: &[Complex], length: usize) -> Vec<Complex> {
        // dA is a function of A, so that its transpose is that of the transpose of A.
        let transposed = Self { p: self.q.clone(), q: self.p.clone(), ..self.clone() };
        let step = Step::of(&transposed);
        let mut powers = c.to_vec();
        (0..length).for_each(|_| step.apply(&mut powers));
        c.iter().zip(powers).map(|(&c, power)| c - power).collect()
    }

    /// What takes C~ to `C~ dA^places`, as pairs of real and imaginary parts: `[2n, 2n]`, for rows from the left.
    ///
    /// `sum over all states of C~ dA^places x` is `2 Re(C~ y)` over the stored ones, whichever x: the row of each unit vector is
    /// that of the transposed map, without its conjugate.
    pub fn step_of_coefficients(&self, places: usize) -> Vec<f64> {
        let transposed = Self { p: self.q.clone(), q: self.p.clone(), ..self.clone() };
        let step = Step::of(&transposed);
        let unit = |n: usize, value: Complex| {
            let mut row = vec![Complex::default(); self.w.len()];
            row[n] = value;
            (0..places).for_each(|_| step.apply(&mut row));
            row.into_iter().flat_map(|value| [value.re, value.im])
        };
        let parts = [Complex::new(1.0, 0.0), Complex::new(0.0, 1.0)];
        (0..self.w.len()).flat_map(|n| parts.map(|value| unit(n, value))).flatten().collect()
    }

    /// `2 V_l` for every l. V_0 is the mean over the roots of unity of `(I - omega dA)^-1 dB`, which is the discrete Fourier
    /// transform of V.
    fn full_basis(&self, stored_length: usize, length: usize) -> Vec<Vec<Complex>> {
        let mut column = vec![Complex::default(); self.w.len()];
        for k in 0..stored_length {
            let resolvent = self.resolvent(root_of_unity(k, stored_length), KernelSum::Full);
            column.iter_mut().zip(resolvent).for_each(|(sum, value)| *sum += value * (2.0 / stored_length as f64));
        }
        let step = Step::of(self);
        let mut columns = Vec::with_capacity(length);
        for _ in 0..length {
            columns.push(column.clone());
            step.apply(&mut column);
        }
        columns
    }

    /// The inverse real Fourier transform of the resolvent with sums over the stored states only.
    fn half_basis(&self, stored_length: usize, length: usize) -> Vec<Vec<Complex>> {
        let resolvents: Vec<Vec<Complex>> =
            (0..=stored_length / 2).map(|k| self.resolvent(root_of_unity(k, stored_length), KernelSum::Half)).collect();
        let column = |l: usize| -> Vec<Complex> {
            let mut column = vec![Complex::default(); self.w.len()];
            for (k, resolvent) in resolvents.iter().enumerate() {
                let once = k == 0 || 2 * k == stored_length;
                let weight = if once { 1.0 } else { 2.0 } / stored_length as f64;
                let factor = root_of_unity(k * l % stored_length, stored_length).conj() * weight;
                column.iter_mut().zip(resolvent).for_each(|(sum, &value)| *sum += value * factor);
            }
            column
        };
        (0..length).map(column).collect()
    }

    /// `(I - omega dA)^-1 dB = dt ((1 - omega) I - (1 + omega) dt/2 A)^-1 B` at the stored states, by the formula of Woodbury.
    fn resolvent(&self, omega: Complex, sum: KernelSum) -> Vec<Complex> {
        let one = Complex::new(1.0, 0.0);
        let (shift, scale) = (one - omega, (one + omega) * (self.dt / 2.0));
        let diagonal = |w: Complex| (shift - scale * w).inverse();
        // Q^T D^-1 x, with the conjugate states unless only the stored ones count.
        let product = |x: &[Complex]| {
            let mut total = Complex::default();
            for ((&w, &q), &x) in self.w.iter().zip(&self.q).zip(x) {
                total += diagonal(w) * q * x;
                if sum == KernelSum::Full {
                    total += diagonal(w.conj()) * (q * x).conj();
                }
            }
            total
        };
        let factor = scale * product(&self.b) * (one + scale * product(&self.p)).inverse();
        let entries = self.w.iter().zip(&self.b).zip(&self.p);
        entries.map(|((&w, &b), &p)| diagonal(w) * (b - p * factor) * self.dt).collect()
    }
}

/// `exp(-2 pi i k / length)`.
fn root_of_unity(k: usize, length: usize) -> Complex {
    // The one root where rounding would matter: 1 + omega is zero there.
    if 2 * k == length {
        return Complex::new(-1.0, 0.0);
    }
    Complex::unit(-TAU * k as f64 / length as f64)
}

/// The product with dA, in a number of operations that is linear in that of the states.
struct Step<'a> {
    space: &'a StateSpace,
    /// `(I - dt/2 diag(w))^-1`.
    inverse: Vec<Complex>,
    /// That times P, over `1 + dt/2 Q^T (...) P`, times dt/2.
    correction: Vec<Complex>,
}

impl<'a> Step<'a> {
    fn of(space: &'a StateSpace) -> Self {
        let half = space.dt / 2.0;
        let inverse: Vec<Complex> = space.w.iter().map(|&w| (Complex::new(1.0, 0.0) - w * half).inverse()).collect();
        let scaled: Vec<Complex> = inverse.iter().zip(&space.p).map(|(&inverse, &p)| inverse * p).collect();
        let factor = half / (1.0 + half * full_sum(&space.q, &scaled));
        let correction = scaled.into_iter().map(|value| value * factor).collect();
        Self { space, inverse, correction }
    }

    fn apply(&self, x: &mut [Complex]) {
        let half = self.space.dt / 2.0;
        let product = full_sum(&self.space.q, x);
        for (((x, &w), &p), &inverse) in x.iter_mut().zip(&self.space.w).zip(&self.space.p).zip(&self.inverse) {
            *x = (*x + (w * *x - p * product) * half) * inverse;
        }
        let product = full_sum(&self.space.q, x);
        x.iter_mut().zip(&self.correction).for_each(|(x, &correction)| *x = *x - correction * product);
    }
}
