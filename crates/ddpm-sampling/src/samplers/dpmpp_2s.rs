//! DPM-Solver++(2S), a single-step method of order 2 (Lu et al. 2022, arXiv 2211.01095, algorithm 1).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::multistep::{FEW_STEPS, lambda};
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "dpmpp-2s",
    description: "DPM-Solver++(2S), a step of order 2 over every two levels (Lu et al. 2022); good from 20 steps",
    usual: Sampler::Dpmpp2s { falls_below: FEW_STEPS },
    default_steps: Some(20),
    grid: Grid::Sigmas,
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, two levels at a time: the first of them is the
/// method's point in between. So there is one evaluation a level, as in the other samplers.
///
/// What is left over, the way to clean data, and with fewer than `falls_below` steps also the last pair, are
/// steps of order 1.
pub fn dpmpp_2s<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    falls_below: usize,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    let steps = levels.len() - 1;
    let mut index = 0;
    while index < steps {
        let (t_before, s) = (levels[index], levels[index + 1]);
        let x_0 = denoiser.denoise(&x, t_before).x_0;
        // u_i, on the way to x.
        let u = exponential_step(x.clone(), x_0.clone(), t_before, s);
        on_step(Step { index, level: s, x: &u, x_0: &x_0 });
        index += 1;

        let falls = index + 1 == steps && steps < falls_below;
        let t = match levels.get(index + 1) {
            Some(t) if t.sigma > 0.0 && t_before.alpha > 0.0 && !falls => *t,
            _ => {
                x = u;
                continue;
            }
        };
        let x_0_s = denoiser.denoise(&u, s).x_0;
        let r = (lambda(s) - lambda(t_before)) / (lambda(t) - lambda(t_before));
        // D_i, and x from where the pair began.
        let d = x_0 * (1.0 - 0.5 / r) + x_0_s.clone() * (0.5 / r);
        x = exponential_step(x, d, t_before, t);
        on_step(Step { index, level: t, x: &x, x_0: &x_0_s });
        index += 1;
    }
    x
}

/// The exact way from `s` to `t` if `x_0` stayed as it is.
fn exponential_step<const D: usize>(x: Tensor<D>, x_0: Tensor<D>, s: NoiseLevel, t: NoiseLevel) -> Tensor<D> {
    let h = lambda(t) - lambda(s);
    x * (t.sigma / s.sigma) - x_0 * (t.alpha * (-h).exp_m1())
}
