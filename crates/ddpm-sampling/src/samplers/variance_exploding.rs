//! The change to variance-exploding coordinates: `x / alpha`, which is x_0 plus noise of standard deviation
//! `sigma / alpha`, the [`NoiseLevel::ratio`] that Karras et al. call sigma.
//!
//! There the probability-flow ODE is `dx = eps d sigma` (Karras et al. 2022 (1) with sigma(t) = t and (3)), so
//! that a method of theirs is a choice of eps to step along. x is kept in the coordinates of its level, and
//! changed for the length of a step.

use burn::tensor::Tensor;
use ddpm_model::noise_level::NoiseLevel;

/// From one level to another with a constant eps.
pub(super) fn euler_step<const D: usize>(x: Tensor<D>, eps: Tensor<D>, from: NoiseLevel, to: NoiseLevel) -> Tensor<D> {
    (x / from.alpha + eps * (to.ratio() - from.ratio())) * to.alpha
}

/// From one level to a noisier one by more noise.
pub(super) fn diffuse<const D: usize>(x: Tensor<D>, noise: Tensor<D>, from: NoiseLevel, to: NoiseLevel) -> Tensor<D> {
    let added = (to.ratio().powi(2) - from.ratio().powi(2)).max(0.0).sqrt();
    (x / from.alpha + noise * added) * to.alpha
}
