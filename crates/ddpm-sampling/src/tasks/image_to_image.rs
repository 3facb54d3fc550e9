//! Image to image (SDEdit, Meng et al. 2022): noise an image a little, and denoise it.
//!
//! The strength trades likeness for freedom: what is coarser than the noise stays, what is finer is generated. Any
//! sampler does the rest: it begins with [`noised`] at the first of [`remaining_levels`].

use burn::tensor::Tensor;
use ddpm_model::noise_level::NoiseLevel;

/// The last share of `strength` of the steps between `levels`, rounded to whole steps.
///
/// None at 0; at 1 all steps are left, and forget x_0 as far as their first level does.
pub fn remaining_levels(levels: &[NoiseLevel], strength: f64) -> &[NoiseLevel] {
    let steps = levels.len().saturating_sub(1);
    let taken = (strength.clamp(0.0, 1.0) * steps as f64).round() as usize;
    &levels[steps - taken..]
}

/// `x_0` hidden in standard normal noise: a draw of q(x_t | x_0).
pub fn noised<const D: usize>(x_0: Tensor<D>, level: NoiseLevel, noise: Tensor<D>) -> Tensor<D> {
    x_0 * level.alpha + noise * level.sigma
}
