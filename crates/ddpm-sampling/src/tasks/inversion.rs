//! DDIM inversion (Song et al. 2021a, section 4.3): the noise that an image comes from.
//!
//! DDIM is Euler's method for the probability-flow ODE, which can be solved in both directions. DDIM from the noise found leads
//! back to the image, up to the error of the method, which falls with the number of steps.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::eps_from_x_0;

use crate::samplers::{NoiseSource, ddim};

/// From x_0 up to `levels[0]`, along levels that descend and end in the clean one, as samplers take them.
pub fn invert<const D: usize>(denoiser: &dyn Denoiser<D>, levels: &[NoiseLevel], x_0: Tensor<D>) -> Tensor<D> {
    let ascending: Vec<NoiseLevel> = levels.iter().rev().copied().collect();
    let [_, first, ..] = ascending[..] else { return x_0 };
    // Clean data have no eps, so the first step takes the one that the denoiser sees a level higher.
    let x = x_0.clone() * first.alpha;
    let eps = eps_from_x_0(x.clone(), denoiser.denoise(&x, first).x_0, &[first]);
    // Never drawn: DDIM is deterministic at eta 0.
    let noise: &mut dyn NoiseSource<D> = &mut |_: usize| x_0.zeros_like();
    ddim(denoiser, &ascending[1..], x + eps * first.sigma, 0.0, noise, &mut |_| {})
}
