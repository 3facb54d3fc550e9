//! Euler's method with fresh noise in every step ("Euler a" elsewhere).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::variance_exploding::{diffuse, euler_step};
use super::{About, Grid, Noise, NoiseSource, Options, Posterior, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "euler-ancestral",
    description: "Euler's method with fresh noise in every step; the same as ddim at eta 1",
    usual: Sampler::EulerAncestral,
    default_steps: Some(50),
    grid: Grid::Times,
    order: None,
    noise: Noise::Always,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels: in every step below the next level, and back up
/// to it with `noise.step(i)`.
pub fn euler_ancestral<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let eps = denoised.eps(&x, t);
        let down = below(t, s);
        x = euler_step(x, eps, t, down);
        if s.sigma > 0.0 {
            x = diffuse(x, noise.step(index), down, s);
        }
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}

/// The level from which `s` is reached by as much noise as q(x_s | x_t, x_0) has, which is Ho et al. 2020 (7) in
/// variance-exploding coordinates.
pub(super) fn below(t: NoiseLevel, s: NoiseLevel) -> NoiseLevel {
    let exploding = |level: NoiseLevel| NoiseLevel { alpha: 1.0, sigma: level.ratio() };
    let up = Posterior::between(exploding(t), exploding(s)).variance;
    NoiseLevel::from_ratio((s.ratio().powi(2) - up).max(0.0).sqrt())
}
