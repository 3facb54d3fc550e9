//! The adaptive solver of Dormand & Prince 1980, a Runge-Kutta method of order 5 with an error estimate of order 4.
//!
//! Works on rows `[B, N]`, so that callers can append further quantities to integrate to every row.

use burn::tensor::Tensor;

/// Tolerance of a step: the error of every row is at most `absolute + relative * |value|`, as a root of the mean square
/// over its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// atol.
    pub absolute: f64,
    /// rtol.
    pub relative: f64,
}

impl Tolerance {
    /// What Song et al. 2021 measure with.
    pub const USUAL: Self = Self { absolute: 1e-5, relative: 1e-5 };
}

/// The cost of a solution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Evaluations of the derivative.
    pub calls: usize,
    /// Steps that were taken.
    pub accepted: usize,
    /// Steps that were rejected and repeated with a shorter length.
    pub rejected: usize,
}

/// A step that was taken.
#[derive(Debug)]
pub struct Taken<'a> {
    /// Where it began and where it ended.
    pub ends: [f64; 2],
    /// The values there.
    pub x: [&'a Tensor<2>; 2],
    /// The derivatives there.
    pub slope: [&'a Tensor<2>; 2],
    /// All effort so far.
    pub effort: Effort,
}

impl Taken<'_> {
    /// The values on the way, by the cubic that has the values and derivatives of both ends.
    pub fn at(&self, l: f64) -> Tensor<2> {
        let [a, b] = self.ends;
        let (h, u) = (b - a, (l - a) / (b - a));
        let from_start = self.x[0].clone() * ((1.0 + 2.0 * u) * (1.0 - u).powi(2));
        let from_end = self.x[1].clone() * (u.powi(2) * (3.0 - 2.0 * u));
        let slope_start = self.slope[0].clone() * (h * u * (1.0 - u).powi(2));
        let slope_end = self.slope[1].clone() * (h * u.powi(2) * (u - 1.0));
        from_start + from_end + slope_start + slope_end
    }
}

/// Stages after the first: their place in the step, and the weights of the stages before them. The last one is
/// the result of order 5, so that its derivative is the first one of the next step.
const STAGES: [(f64, &[f64]); 6] = [
    (1.0 / 5.0, &[1.0 / 5.0]),
    (3.0 / 10.0, &[3.0 / 40.0, 9.0 / 40.0]),
    (4.0 / 5.0, &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0]),
    (8.0 / 9.0, &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0]),
    (1.0, &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0]),
    (1.0, &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0]),
];
/// Weights of the difference between the results of order 5 and 4.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];
/// A first step of this share of the way; the error estimate then sets the length of steps.
const FIRST: f64 = 0.01;
/// No step is a smaller share of the way: rounding errors do not get smaller with the step.
const SHORTEST: f64 = 1e-6;

/// Follows `dx/dl = derivative(x, l)` from `ends[0]` to `ends[1]`, in either direction.
///
/// All rows take the same steps, those that the worst of them needs: every row keeps to the tolerance by itself,
/// and depends on the other rows only within the tolerance. A derivative that is not finite gives values that
/// are not finite.
pub fn solve(
    mut x: Tensor<2>,
    ends: [f64; 2],
    tolerance: Tolerance,
    derivative: &mut dyn FnMut(&Tensor<2>, f64) -> Tensor<2>,
    on_step: &mut dyn FnMut(Taken<'_>),
) -> (Tensor<2>, Effort) {
    let way = ends[1] - ends[0];
    let mut effort = Effort { calls: 1, ..Effort::default() };
    let (mut l, mut h) = (ends[0], way * FIRST);
    let mut slope = derivative(&x, l);
    while l != ends[1] {
        // The end is hit exactly, and no crumb is left before it.
        let is_last = (ends[1] - l).abs() <= h.abs() * (1.0 + 1e-9);
        let next_l = if is_last { ends[1] } else { l + h };
        h = next_l - l;
        let mut slopes = vec![slope.clone()];
        let mut next = x.clone();
        for (place, weights) in STAGES {
            next = x.clone() + weighted(&slopes, weights) * h;
            let at = if place == 1.0 { next_l } else { l + place * h };
            slopes.push(derivative(&next, at));
            effort.calls += 1;
        }
        let error = worst(weighted(&slopes, &ERROR) * h, &x, &next, tolerance);

        // Hairer, Norsett & Wanner, Solving ODEs I (4.13), with their safety factor and limits.
        let factor = if error.is_finite() { (0.9 * error.powf(-0.2)).clamp(0.2, 5.0) } else { 0.2 };
        let is_shortest = h.abs() <= way.abs() * SHORTEST;
        if error <= 1.0 || is_shortest {
            effort.accepted += 1;
            let next_slope = slopes.swap_remove(6);
            on_step(Taken { ends: [l, next_l], x: [&x, &next], slope: [&slope, &next_slope], effort });
            (x, slope, l) = (next, next_slope, next_l);
            if !error.is_finite() {
                break;
            }
        } else {
            effort.rejected += 1;
        }
        h = (h.abs() * factor).max(way.abs() * SHORTEST).copysign(way);
    }
    (x, effort)
}

fn weighted(slopes: &[Tensor<2>], weights: &[f64]) -> Tensor<2> {
    let mut terms = slopes.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
    let term = |(slope, weight): (&Tensor<2>, &f64)| slope.clone() * *weight;
    let first = terms.next().map(term).unwrap_or_else(|| slopes[0].zeros_like());
    terms.fold(first, |sum, next| sum + term(next))
}

/// The error of the worst row in units of what is tolerated.
fn worst(error: Tensor<2>, x: &Tensor<2>, next: &Tensor<2>, tolerance: Tolerance) -> f64 {
    let size = x.clone().abs().max_pair(next.clone().abs());
    let share = error / (size * tolerance.relative + tolerance.absolute);
    let rows: Vec<f64> = share.square().mean_dim(1).into_data().iter::<f64>().collect();
    // NaN is the worst.
    rows.into_iter().fold(0.0, |worst: f64, row| if row.is_nan() || row > worst { row } else { worst }).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn rows(values: &[f64]) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), [values.len(), 1]);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    fn host(x: Tensor<2>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn grow(tolerance: f64, x: &[f64], ends: [f64; 2]) -> (Vec<f64>, Effort) {
        let both = Tolerance { absolute: tolerance, relative: tolerance };
        let (x, effort) = solve(rows(x), ends, both, &mut |x, l| x.clone() * (2.0 * l), &mut |taken| {
            let middle = (taken.ends[0] + taken.ends[1]) / 2.0;
            // x exp(-l^2) stays what it is.
            let kept = |x: &Tensor<2>, l: f64| host(x.clone() * (-l * l).exp())[0];
            let (found, wanted) = (kept(&taken.at(middle), middle), kept(taken.x[0], taken.ends[0]));
            // Of order 4 in steps whose order 5 is what is tolerated.
            assert!((found / wanted - 1.0).abs() < 100.0 * tolerance.powf(0.8), "{found} {wanted}");
        });
        (host(x), effort)
    }

    #[test]
    fn a_tighter_tolerance_takes_more_steps_and_is_kept() {
        let wanted = 4f64.exp();
        let mut before = 0;
        for tolerance in [1e-3, 1e-6, 1e-9] {
            let (x, effort) = grow(tolerance, &[1.0, -3.0], [0.0, 2.0]);
            assert!((x[0] / wanted - 1.0).abs() < 20.0 * tolerance, "{tolerance}: {x:?}");
            assert!((x[1] / wanted + 3.0).abs() < 60.0 * tolerance, "{tolerance}: {x:?}");
            assert_eq!(effort.calls, 1 + 6 * (effort.accepted + effort.rejected));
            assert!(effort.accepted > before);
            before = effort.accepted;
        }
    }

    #[test]
    fn backwards_undoes_forwards() {
        let (there, _) = grow(1e-9, &[0.5], [0.0, 1.5]);
        let (back, _) = grow(1e-9, &there, [1.5, 0.0]);
        assert!((back[0] - 0.5).abs() < 1e-7, "{back:?}");
    }

    #[test]
    fn what_is_not_finite_ends_soon() {
        let mut calls = 0;
        let mut broken = |x: &Tensor<2>, _: f64| {
            calls += 1;
            x.clone() * f64::NAN
        };
        let (x, _) = solve(rows(&[1.0]), [0.0, 1.0], Tolerance::USUAL, &mut broken, &mut |_| {});
        assert!(host(x)[0].is_nan());
        assert!(calls < 100, "{calls}");
    }
}
