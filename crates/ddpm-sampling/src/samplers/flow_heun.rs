//! Heun's method for the ODE of flow matching: exact where the paths of samples are straight, as rectified flow makes
//! them (Liu et al. 2023), which the same method over sigmas is not.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::straight_path::{euler_step, velocity};
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "flow-heun",
    description: "Heun's method along the velocity of a flow, two evaluations a step; made for straight paths",
    usual: Sampler::FlowHeun,
    default_steps: Some(25),
    grid: Grid::Times,
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, along the mean of the velocities at the start of a step
/// and at its end.
pub fn flow_heun<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let v = velocity(&denoised, &x, t);
        let ahead = euler_step(x.clone(), v.clone(), t, s);
        // There is no velocity at a clean level, where Euler's step is the best there is.
        x = if s.sigma == 0.0 {
            ahead
        } else {
            let v_ahead = velocity(&denoiser.denoise(&ahead, s), &ahead, s);
            euler_step(x, (v + v_ahead) / 2.0, t, s)
        };
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}
