//! HiPPO-LegS (Gu et al. 2020) and its form diagonal plus low rank (Gu et al. 2022, S4), in f64.

use super::complex::Complex;

/// The state space `x' = A x + B u` of HiPPO-LegS.
#[derive(Clone, Debug, PartialEq)]
pub struct Legs {
    /// A, row by row.
    pub a: Vec<f64>,
    /// B.
    pub b: Vec<f64>,
    /// The vector P for which `A + P P^T + I/2` is skew-symmetric.
    pub p: Vec<f64>,
}

/// HiPPO-LegS with this many states.
pub fn legs(states: usize) -> Legs {
    let root = |n: usize| (2.0 * n as f64 + 1.0).sqrt();
    let entry = |row: usize, column: usize| match row.cmp(&column) {
        std::cmp::Ordering::Less => 0.0,
        std::cmp::Ordering::Equal => -(row as f64 + 1.0),
        std::cmp::Ordering::Greater => -root(row) * root(column),
    };
    Legs {
        a: (0..states * states).map(|i| entry(i / states, i % states)).collect(),
        b: (0..states).map(root).collect(),
        p: (0..states).map(|n| (n as f64 + 0.5).sqrt()).collect(),
    }
}

/// A state space in the basis where `A = diag(w) - P conj(P)^T`: of each conjugate pair of states the one with the positive
/// imaginary part of w, that of the largest first.
#[derive(Clone, Debug, PartialEq)]
pub struct DiagonalPlusLowRank {
    /// The diagonal.
    pub w: Vec<Complex>,
    /// P.
    pub p: Vec<Complex>,
    /// B.
    pub b: Vec<Complex>,
}

/// HiPPO-LegS in the form diagonal plus low rank; the number of states is even.
pub fn diagonal_plus_low_rank(states: usize) -> DiagonalPlusLowRank {
    let Legs { a, b, p } = legs(states);
    // -i (A + P P^T + I/2) is Hermitian.
    let skew = |row: usize, column: usize| {
        let half = if row == column { 0.5 } else { 0.0 };
        a[row * states + column] + p[row] * p[column] + half
    };
    let hermitian = (0..states * states).map(|i| Complex::new(0.0, -skew(i / states, i % states))).collect();
    let (values, vectors) = eigen(hermitian, states);
    let mut kept: Vec<usize> = (0..states).filter(|&j| values[j] > 0.0).collect();
    kept.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    // V^* x, for a real x.
    let project = |x: &[f64]| -> Vec<Complex> {
        let entry =
            |j: usize| (0..states).fold(Complex::default(), |sum, k| sum + vectors[k * states + j].conj() * x[k]);
        kept.iter().map(|&j| entry(j)).collect()
    };
    DiagonalPlusLowRank {
        w: kept.iter().map(|&j| Complex::new(-0.5, values[j])).collect(),
        p: project(&p),
        b: project(&b),
    }
}

/// More sweeps than Jacobi's method needs for any matrix that fits into memory.
const MOST_SWEEPS: usize = 64;

/// Eigenvalues and eigenvectors (the columns) of a Hermitian matrix, by Jacobi's method.
fn eigen(mut matrix: Vec<Complex>, size: usize) -> (Vec<f64>, Vec<Complex>) {
    let mut vectors = vec![Complex::default(); size * size];
    (0..size).for_each(|i| vectors[i * size + i].re = 1.0);
    let norm = matrix.iter().map(|value| value.abs().powi(2)).sum::<f64>().sqrt();
    for _ in 0..MOST_SWEEPS {
        let mut rotated = false;
        for p in 0..size {
            for q in p + 1..size {
                if matrix[p * size + q].abs() > 1e-18 * norm {
                    rotate(&mut matrix, &mut vectors, size, p, q);
                    rotated = true;
                }
            }
        }
        if !rotated {
            break;
        }
    }
    ((0..size).map(|i| matrix[i * size + i].re).collect(), vectors)
}

/// The rotation of the axes p and q that makes the entry `[p, q]` zero.
fn rotate(matrix: &mut [Complex], vectors: &mut [Complex], size: usize, p: usize, q: usize) {
    let entry = matrix[p * size + q];
    let tau = (matrix[q * size + q].re - matrix[p * size + p].re) / (2.0 * entry.abs());
    let tangent = tau.signum() / (tau.abs() + tau.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    let phase = entry.conj() * (1.0 / entry.abs());
    let mixed = |a: Complex, b: Complex, phase: Complex| {
        let b = b * phase;
        (a * cosine - b * sine, a * sine + b * cosine)
    };
    for k in 0..size {
        let (at_p, at_q) = (k * size + p, k * size + q);
        (matrix[at_p], matrix[at_q]) = mixed(matrix[at_p], matrix[at_q], phase);
        (vectors[at_p], vectors[at_q]) = mixed(vectors[at_p], vectors[at_q], phase);
    }
    for k in 0..size {
        let (at_p, at_q) = (p * size + k, q * size + k);
        (matrix[at_p], matrix[at_q]) = mixed(matrix[at_p], matrix[at_q], phase.conj());
    }
    (matrix[p * size + q], matrix[q * size + p]) = (Complex::default(), Complex::default());
}
