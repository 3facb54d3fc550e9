//! What samplers over past predictions share: the time that they count in, the order that a step can have,
//! and the derivatives of what was predicted.

use burn::tensor::Tensor;
use ddpm_model::noise_level::NoiseLevel;

/// With fewer steps than this, the usual settings end in steps of falling order.
pub const FEW_STEPS: usize = 15;

/// How far a sampler looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multistep {
    /// The order, from 1 to 3, of steps that have enough of a past.
    pub order: usize,
    /// With fewer steps than this, the last step has order 1 and the one before it order 2 at most: the steps
    /// are so long there that what lies behind tells little about what lies ahead.
    pub falls_below: usize,
}

impl Multistep {
    /// That order, falling at the end of few steps.
    pub const fn of_order(order: usize) -> Self {
        Self { order, falls_below: FEW_STEPS }
    }

    /// The order of the step from `levels[index]` to the next.
    pub fn order_at(self, index: usize, levels: &[NoiseLevel]) -> usize {
        // Nothing can be extrapolated to clean data, where lambda is infinite ...
        if levels[index + 1].sigma == 0.0 {
            return 1;
        }
        // ... nor from pure noise, where it is too.
        let past = levels[..=index].iter().rev().take_while(|level| level.alpha > 0.0).count();
        let order = self.order.min(past).clamp(1, 3);
        let steps = levels.len() - 1;
        if steps < self.falls_below { order.min(steps - index) } else { order }
    }
}

/// Half of the log-SNR, log(alpha / sigma): the time of the exponential integrators.
pub fn lambda(level: NoiseLevel) -> f64 {
    level.log_snr() / 2.0
}

/// The integrals of e^(u - h) u^n / n! over u from 0 to h, for n = 0, 1, 2, 3.
///
/// They weigh the derivatives of the data prediction over a step of length h (DPM-Solver++, section 4).
pub fn growing_integrals(h: f64) -> [f64; 4] {
    let i_0 = -(-h).exp_m1();
    // By parts.
    let i_1 = h - i_0;
    let i_2 = h.powi(2) / 2.0 - i_1;
    [i_0, i_1, i_2, h.powi(3) / 6.0 - i_2]
}

/// The integrals of e^(-u) u^n / n! over u from 0 to h, for n = 0, 1, 2.
///
/// They weigh the derivatives of the noise prediction over a step of length h.
pub fn falling_integrals(h: f64) -> [f64; 3] {
    let e = (-h).exp();
    let j_0 = -(-h).exp_m1();
    // By parts.
    let j_1 = j_0 - e * h;
    [j_0, j_1, j_1 - e * h.powi(2) / 2.0]
}

/// Value, slope and curvature over lambda, as many as `order`, of the polynomial through the latest
/// predictions, where it meets the latest. `past` has the latest first, `levels` ends in its level.
pub fn derivatives<const D: usize>(past: &[Tensor<D>], levels: &[NoiseLevel], order: usize) -> Vec<Tensor<D>> {
    let lambda_ago = |k: usize| lambda(levels[levels.len() - 1 - k]);
    // Newton's divided differences.
    let slope = |k: usize| (past[k].clone() - past[k + 1].clone()) / (lambda_ago(k) - lambda_ago(k + 1));
    match order {
        1 => vec![past[0].clone()],
        2 => vec![past[0].clone(), slope(0)],
        _ => {
            let second = (slope(0) - slope(1)) / (lambda_ago(0) - lambda_ago(2));
            let first = slope(0) + second.clone() * (lambda_ago(0) - lambda_ago(1));
            vec![past[0].clone(), first, second * 2.0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn at(lambda: f64) -> NoiseLevel {
        NoiseLevel { alpha: 1.0, sigma: (-lambda).exp() }
    }

    const CLEAN: NoiseLevel = NoiseLevel { alpha: 1.0, sigma: 0.0 };
    const NOISE: NoiseLevel = NoiseLevel { alpha: 0.0, sigma: 1.0 };

    fn orders(multistep: Multistep, levels: &[NoiseLevel]) -> Vec<usize> {
        (0..levels.len() - 1).map(|index| multistep.order_at(index, levels)).collect()
    }

    #[test]
    fn the_order_grows_with_the_past_and_may_fall_at_the_end() {
        let levels: Vec<NoiseLevel> = (0..7).map(|i| at(f64::from(i))).collect();
        assert_eq!(orders(Multistep::of_order(3), &levels), [1, 2, 3, 3, 2, 1]);
        assert_eq!(orders(Multistep::of_order(2), &levels), [1, 2, 2, 2, 2, 1]);
        assert_eq!(orders(Multistep { order: 3, falls_below: 6 }, &levels), [1, 2, 3, 3, 3, 3]);
        assert_eq!(orders(Multistep { order: 3, falls_below: 7 }, &levels[..2]), [1]);
    }

    #[test]
    fn ends_without_lambda_are_stepped_over_at_order_1() {
        let levels: Vec<NoiseLevel> =
            [NOISE].into_iter().chain((0..4).map(|i| at(f64::from(i)))).chain([CLEAN]).collect();
        assert_eq!(orders(Multistep { order: 3, falls_below: 0 }, &levels), [1, 1, 2, 3, 1]);
    }

    #[test]
    fn integrals_are_those_of_their_definition() {
        let h = 1.3;
        let n = 200_000;
        let integral = |f: &dyn Fn(f64) -> f64| {
            (0..n).map(|i| f((f64::from(i) + 0.5) * h / f64::from(n))).sum::<f64>() * h / f64::from(n)
        };
        for (power, factorial) in [1.0, 1.0, 2.0, 6.0].into_iter().enumerate() {
            let term = |u: f64| u.powi(power as i32) / factorial;
            let growing = integral(&|u| (u - h).exp() * term(u));
            assert!((growing_integrals(h)[power] - growing).abs() < 1e-10);
            if let Some(found) = falling_integrals(h).get(power) {
                assert!((found - integral(&|u| (-u).exp() * term(u))).abs() < 1e-10);
            }
        }
    }

    #[test]
    fn the_derivatives_of_a_parabola_are_found() {
        let levels = [-1.0, -0.2, 0.5].map(at);
        let parabola = |u: f64| 0.3 - 2.0 * u + 1.5 * u * u;
        let past: Vec<Tensor<2>> = levels
            .iter()
            .rev()
            .map(|level| TensorData::from([[parabola(lambda(*level))]]))
            .map(|data| Tensor::from_data(data, (&Device::flex(), DType::F64)))
            .collect();
        let found: Vec<f64> = derivatives(&past, &levels, 3).into_iter().map(|d| d.into_scalar::<f64>()).collect();
        for (found, wanted) in found.iter().zip([parabola(0.5), -2.0 + 3.0 * 0.5, 3.0]) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }
}
