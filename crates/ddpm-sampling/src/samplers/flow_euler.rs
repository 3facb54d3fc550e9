//! Euler's method for the ODE of flow matching (Lipman et al. 2023; Liu et al. 2023).
//!
//! A step along `eps - x_0` keeps both as they are, and so does a step of DDIM: the two are one method.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::straight_path::{euler_step, velocity};
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "flow-euler",
    description: "Euler's method along the velocity of a flow; the same as ddim at eta 0",
    usual: Sampler::FlowEuler,
    default_steps: Some(50),
    grid: Grid::Times,
    order: Some(1),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, along the velocity at the start of every step.
pub fn flow_euler<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let v = velocity(&denoised, &x, t);
        x = euler_step(x, v, t, s);
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}
