//! DPM-Solver++ over past predictions, "2M" and "3M" (Lu et al. 2022, arXiv 2211.01095).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::multistep::{Multistep, derivatives, growing_integrals, lambda};
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT_2M: About = About {
    name: "dpmpp-2m",
    description: "DPM-Solver++(2M), one evaluation a step (Lu et al. 2022); good from 10 steps",
    usual: Sampler::DpmppMultistep { multistep: Multistep::of_order(2), expansion: Expansion::Published },
    default_steps: Some(20),
    grid: Grid::Sigmas,
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

pub(super) const ABOUT_3M: About = About {
    name: "dpmpp-3m",
    description: "DPM-Solver++(3M), one evaluation a step; good from 10 steps where nothing guides",
    usual: Sampler::DpmppMultistep { multistep: Multistep::of_order(3), expansion: Expansion::Taylor },
    default_steps: Some(20),
    grid: Grid::Sigmas,
    // Not 3: the first step has no past and order 1, and what it loses, the square of its length, stays lost.
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// How the slope and the curvature of the data prediction are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// By the exact integrals of Taylor's terms.
    Taylor,
    /// As the authors publish it. Order 2: half of the step times the slope, in place of the integral
    /// (algorithm 2). Order 3: the curvature at half of its integral, which leaves the method at order 2.
    Published,
}

/// Goes from `x`, at `levels[0]`, to the last of the levels, one evaluation a step.
pub fn dpmpp_multistep<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    multistep: Multistep,
    expansion: Expansion,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // Predictions of x_0, the latest first.
    let mut past: Vec<Tensor<D>> = Vec::new();
    for (index, pair) in levels.windows(2).enumerate() {
        let (s, t) = (pair[0], pair[1]);
        past.insert(0, denoiser.denoise(&x, s).x_0);
        past.truncate(3);
        let order = multistep.order_at(index, levels);
        let h = lambda(t) - lambda(s);

        // Proposition 4.1, with Taylor's polynomial under the integral.
        x = x * (t.sigma / s.sigma);
        let terms = derivatives(&past, &levels[..=index], order);
        for (term, weight) in terms.into_iter().zip(weights(expansion, order, h)) {
            x = x + term * (t.alpha * weight);
        }
        on_step(Step { index, level: t, x: &x, x_0: &past[0] });
    }
    x
}

fn weights(expansion: Expansion, order: usize, h: f64) -> [f64; 3] {
    let [i_0, i_1, i_2, _] = growing_integrals(h);
    match (expansion, order) {
        (Expansion::Published, 2) => [i_0, i_0 * h / 2.0, 0.0],
        (Expansion::Published, 3) => [i_0, i_1, i_2 / 2.0],
        _ => [i_0, i_1, i_2],
    }
}
