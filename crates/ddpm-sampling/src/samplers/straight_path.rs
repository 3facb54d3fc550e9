//! The coordinates of the straight path `(1 - t) x_0 + t eps`, in which flow models are at home.
//!
//! There the probability-flow ODE is `dx = v dt` with `v = eps - x_0` (Liu et al. 2023 (1)), and `t` is
//! `sigma / (alpha + sigma)` of any level. As everywhere, x is kept in the coordinates of its level.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoised;
use ddpm_model::noise_level::NoiseLevel;

/// The time of a level, 0 where data are clean.
fn time(level: NoiseLevel) -> f64 {
    level.sigma / (level.alpha + level.sigma)
}

/// The velocity that goes with an estimate of the data.
pub(super) fn velocity<const D: usize>(denoised: &Denoised<D>, x: &Tensor<D>, level: NoiseLevel) -> Tensor<D> {
    denoised.eps(x, level) - denoised.x_0.clone()
}

/// From one level to another as if the velocity were the same all the way.
pub(super) fn euler_step<const D: usize>(
    x: Tensor<D>,
    velocity: Tensor<D>,
    from: NoiseLevel,
    to: NoiseLevel,
) -> Tensor<D> {
    let moved = x / (from.alpha + from.sigma) + velocity * (time(to) - time(from));
    moved * (to.alpha + to.sigma)
}
