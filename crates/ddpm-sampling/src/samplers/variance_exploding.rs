//! The change to variance-exploding coordinates: `x / alpha`, which is x_0 plus noise of deviation
//! `sigma / alpha`.
//!
//! There the probability-flow ODE is `dx = eps d sigma` (Karras et al. 2022 (1) with sigma(t) = t and (3)), so
//! that a method of theirs is a choice of eps to walk along. x is kept in the coordinates of its level, and
//! changed for the length of a step.

use burn::tensor::Tensor;
use ddpm_model::noise_level::NoiseLevel;

/// What Karras et al. call the sigma of a level.
pub fn ratio(level: NoiseLevel) -> f64 {
    level.ratio()
}

/// The level of a ratio on the variance-preserving process.
pub fn level_at(ratio: f64) -> NoiseLevel {
    NoiseLevel::from_ratio(ratio)
}

/// From one level to another as if eps were the same all the way.
pub(super) fn walk<const D: usize>(x: Tensor<D>, eps: Tensor<D>, from: NoiseLevel, to: NoiseLevel) -> Tensor<D> {
    (x / from.alpha + eps * (ratio(to) - ratio(from))) * to.alpha
}

/// From one level to a noisier one by more noise.
pub(super) fn diffuse<const D: usize>(x: Tensor<D>, noise: Tensor<D>, from: NoiseLevel, to: NoiseLevel) -> Tensor<D> {
    let added = (ratio(to).powi(2) - ratio(from).powi(2)).max(0.0).sqrt();
    (x / from.alpha + noise * added) * to.alpha
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_its_level() {
        for wanted in [0.0, 0.002, 1.0, 157.0] {
            let level = level_at(wanted);
            assert!((ratio(level) - wanted).abs() <= 1e-15 * wanted);
            assert!((level.alpha.powi(2) + level.sigma.powi(2) - 1.0).abs() < 1e-15);
        }
    }
}
