//! Image to image (SDEdit, Meng et al. 2022): noise a picture a little, and denoise it.
//!
//! The strength trades likeness for freedom: what is coarser than the noise stays, what is finer is made anew.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use crate::samplers::{NoiseSource, Sampler, Step};

/// Samples that resemble `x_0`: of the walk along `levels` only the last share of `strength`.
///
/// 0 gives x_0 back; at 1 the walk is whole, and forgets x_0 as far as its first level does. `start` is the
/// standard normal noise that x_0 is hidden in.
#[allow(clippy::too_many_arguments)] // those of a sampler, and the three that make the task
pub fn image_to_image<const D: usize>(
    sampler: Sampler,
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    x_0: Tensor<D>,
    start: Tensor<D>,
    strength: f64,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    let levels = remaining_levels(levels, strength);
    let [first, _, ..] = *levels else { return x_0 };
    // q(x_t | x_0) of the first level that is left.
    let x = x_0 * first.alpha + start * first.sigma;
    sampler.run(denoiser, levels, x, noise, on_step)
}

/// The last share of `strength` of the steps between `levels`, rounded to whole steps.
pub fn remaining_levels(levels: &[NoiseLevel], strength: f64) -> &[NoiseLevel] {
    let steps = levels.len().saturating_sub(1);
    let taken = (strength.clamp(0.0, 1.0) * steps as f64).round() as usize;
    &levels[steps - taken..]
}
