//! Euler's method for the probability-flow ODE (Karras et al. 2022, algorithm 1 without its second half).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::variance_exploding::euler_step;
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "euler",
    description: "Euler's method; the same as ddim at eta 0",
    usual: Sampler::Euler,
    default_steps: Some(50),
    grid: Grid::Times,
    order: Some(1),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, along eps at the start of every step.
pub fn euler<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let eps = denoised.eps(&x, t);
        x = euler_step(x, eps, t, s);
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}
