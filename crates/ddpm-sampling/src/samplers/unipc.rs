//! UniPC, a predictor and a corrector of one form (Zhao et al. 2023, arXiv 2302.04867), for the data
//! prediction.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::multistep::{Multistep, growing_integrals, lambda};
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "unipc",
    description: "predictor and corrector, one evaluation a step (Zhao et al. 2023); good from 8 steps",
    usual: Sampler::UniPc { multistep: Multistep::of_order(2), b: Bh::Bh2 },
    default_steps: Some(20),
    grid: Grid::Sigmas,
    // The corrector lifts a step by one order, also the first. The last step has no corrector.
    order: Some(3),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// B(h), which scales the weight where there is a single other prediction; more of them leave no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bh {
    /// B1(h) = h.
    Bh1,
    /// B2(h) = e^h - 1; for the data prediction 1 - e^-h.
    Bh2,
}

/// Goes from `x`, at `levels[0]`, to the last of the levels, one evaluation a step: that of a
/// predicted x also corrects that x. The last x is a predicted one.
pub fn unipc<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    multistep: Multistep,
    b: Bh,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // Predictions of x_0, each with its lambda, the latest first.
    let mut past: Vec<(f64, Tensor<D>)> = Vec::new();
    // x before the latest step, the levels of that step, and its order.
    let mut before: Option<(Tensor<D>, [NoiseLevel; 2], usize)> = None;
    for (index, pair) in levels.windows(2).enumerate() {
        let (s, t) = (pair[0], pair[1]);
        let x_0 = denoiser.denoise(&x, s).x_0;
        let here = (lambda(s), x_0.clone());
        // UniC: the step that led here again, now with the prediction at its end.
        if let Some((x_before, [from, to], order)) = before {
            let others: Vec<_> = past[1..order].iter().chain([&here]).collect();
            x = unified_step(x_before, from, to, &past[0].1, &others, b);
        }
        past.insert(0, here);
        past.truncate(3);

        // UniP.
        let order = multistep.order_at(index, levels);
        let others: Vec<_> = past[1..order].iter().collect();
        let predicted = unified_step(x.clone(), s, t, &past[0].1, &others, b);
        // The way out of pure noise is infinitely long: nothing at its end can correct it.
        before = (s.alpha > 0.0).then_some((x, [s, t], order));
        x = predicted;
        on_step(Step { index, level: t, x: &x, x_0: &x_0 });
    }
    x
}

/// The step from `s` to `t` with `x_0` predicted at `s` and the `others` predicted at their lambdas, which is
/// UniC if one of them is that of `t`, and UniP if none is.
fn unified_step<const D: usize>(
    x: Tensor<D>,
    s: NoiseLevel,
    t: NoiseLevel,
    x_0: &Tensor<D>,
    others: &[&(f64, Tensor<D>)],
    b: Bh,
) -> Tensor<D> {
    let h = lambda(t) - lambda(s);
    let r: Vec<f64> = others.iter().map(|(other, _)| (other - lambda(s)) / h).collect();
    let mut sum = x_0.clone() * growing_integrals(h)[0];
    for (((_, other), r), a) in others.iter().zip(&r).zip(weights(&r, h, b)) {
        sum = sum + (other.clone() - x_0.clone()) * (a / r);
    }
    x * (t.sigma / s.sigma) + sum * t.alpha
}

/// B(h) a_m, the weights of the differences D_m / r_m: with them Taylor's terms, as many as there are weights,
/// get the weights of their integrals (theorem 3.1).
fn weights(r: &[f64], h: f64, b: Bh) -> Vec<f64> {
    let [i_0, i_1, i_2, i_3] = growing_integrals(h);
    // a = 1/2 solves the condition up to a power of h that the order of the step leaves free.
    if r.len() == 1 {
        return match b {
            Bh::Bh1 => vec![h / 2.0],
            Bh::Bh2 => vec![i_0 / 2.0],
        };
    }
    // n! I_n / h^n.
    let moments = [i_1 / h, 2.0 * i_2 / h.powi(2), 6.0 * i_3 / h.powi(3)];
    // Powers of r summed with the weights give the moments, so a weight is what the moments make of the
    // polynomial that is 1 at its r and 0 at all others.
    let weight = |m: usize| {
        let mut polynomial = vec![1.0];
        for other in (0..r.len()).filter(|other| *other != m) {
            let scale = 1.0 / (r[m] - r[other]);
            let mut next = vec![0.0; polynomial.len() + 1];
            for (power, coefficient) in polynomial.iter().enumerate() {
                next[power + 1] += coefficient * scale;
                next[power] -= coefficient * scale * r[other];
            }
            polynomial = next;
        }
        polynomial.iter().zip(moments).map(|(coefficient, moment)| coefficient * moment).sum()
    };
    (0..r.len()).map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_solve_the_order_conditions() {
        let h = 0.7;
        let [_, i_1, i_2, i_3] = growing_integrals(h);
        for r in [vec![-0.8, 1.0], vec![-2.1, -0.8, 1.0]] {
            for b in [Bh::Bh1, Bh::Bh2] {
                let a = weights(&r, h, b);
                for (n, moment) in [i_1 / h, 2.0 * i_2 / h.powi(2), 6.0 * i_3 / h.powi(3)][..r.len()].iter().enumerate()
                {
                    let sum: f64 = a.iter().zip(&r).map(|(a, r)| a * r.powi(n as i32)).sum();
                    assert!((sum - moment).abs() < 1e-12, "{r:?} {n}: {sum} {moment}");
                }
            }
        }
    }
}
