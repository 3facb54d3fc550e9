//! The midpoint method, the midpoint taken in ln sigma: DPM-Solver-2 (Lu et al. 2022, algorithm 1) in
//! variance-exploding coordinates, with and without fresh noise in every step ("KDPM2" elsewhere).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::euler_ancestral::below;
use super::variance_exploding::{diffuse, euler_step};
use super::{About, Grid, Noise, NoiseSource, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "dpm2",
    description: "the midpoint method, two evaluations a step; good from 15 steps",
    usual: Sampler::Dpm2,
    default_steps: Some(25),
    grid: Grid::Sigmas,
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

pub(super) const ABOUT_ANCESTRAL: About = About {
    name: "dpm2-ancestral",
    description: "the midpoint method with fresh noise in every step, two evaluations a step",
    usual: Sampler::Dpm2Ancestral,
    default_steps: Some(25),
    grid: Grid::Sigmas,
    order: None,
    noise: Noise::Always,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, along eps half-way of every step.
pub fn dpm2<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let (next, x_0) = midpoint(denoiser, x, t, s);
        x = next;
        on_step(Step { index, level: s, x: &x, x_0: &x_0 });
    }
    x
}

/// Goes from `x`, at `levels[0]`, to the last of the levels: in every step below the next level, and back up
/// to it with `noise.step(i)`.
pub fn dpm2_ancestral<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let down = below(t, s);
        let (next, x_0) = midpoint(denoiser, x, t, down);
        x = if s.sigma > 0.0 { diffuse(next, noise.step(index), down, s) } else { next };
        on_step(Step { index, level: s, x: &x, x_0: &x_0 });
    }
    x
}

/// x at `s`, and the x_0 seen from `t`.
fn midpoint<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    x: Tensor<D>,
    t: NoiseLevel,
    s: NoiseLevel,
) -> (Tensor<D>, Tensor<D>) {
    let denoised = denoiser.denoise(&x, t);
    let eps = denoised.eps(&x, t);
    // There is no half-way to a clean level in ln sigma.
    if s.sigma == 0.0 {
        return (euler_step(x, eps, t, s), denoised.x_0);
    }
    let r = NoiseLevel::from_ratio((t.ratio() * s.ratio()).sqrt());
    let x_r = euler_step(x.clone(), eps, t, r);
    let eps_r = denoiser.denoise(&x_r, r).eps(&x_r, r);
    (euler_step(x, eps_r, t, s), denoised.x_0)
}
