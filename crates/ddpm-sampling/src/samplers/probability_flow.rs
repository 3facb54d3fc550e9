//! The probability-flow ODE over l = ln(sigma / alpha), in variance-preserving coordinates, in which x keeps its
//! size all the way: what adaptive solvers follow.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

/// Where a level lies on the way.
pub fn place(level: NoiseLevel) -> f64 {
    level.ratio().ln()
}

/// The variance-preserving level of a place.
pub fn level_of(place: f64) -> NoiseLevel {
    NoiseLevel::from_ratio(place.exp())
}

/// dx/dl, and what the denoiser said.
pub fn derivative<const D: usize>(denoiser: &dyn Denoiser<D>, x: &Tensor<D>, l: f64) -> (Tensor<D>, Denoised<D>) {
    let level = level_of(l);
    let denoised = denoiser.denoise(x, level);
    // Song et al. 2021 (13): dx = [f x - g^2 score / 2] dt. With alpha^2 + sigma^2 = 1 is f dt = -sigma^2 dl,
    // g^2 dt = 2 sigma^2 dl, and the score is -eps / sigma.
    let slope = (denoised.eps(x, level) - x.clone() * level.sigma) * level.sigma;
    (slope, denoised)
}
