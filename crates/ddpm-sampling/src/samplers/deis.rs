//! Diffusion exponential integrator sampler over log rho (Zhang & Chen 2022, arXiv 2204.13902, "rho-AB" with
//! the polynomial in log rho, rho = sigma / alpha).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::multistep::{Multistep, derivatives, falling_integrals, lambda};
use super::{About, Grid, Noise, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "deis",
    description: "exponential integrator over past eps (Zhang & Chen 2022), one evaluation a step; good from 10 steps",
    usual: Sampler::Deis { multistep: Multistep::of_order(3) },
    default_steps: Some(20),
    grid: Grid::Times,
    // Of the third-order method too: its first step has no past and order 1.
    order: Some(2),
    noise: Noise::Never,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, one evaluation a step.
///
/// In y = x / alpha the flow is dy = eps d rho. Under the integral stands the polynomial through the latest
/// eps; log rho = -lambda, so that it is one in lambda.
pub fn deis<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    multistep: Multistep,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // Predictions of eps, the latest first.
    let mut past: Vec<Tensor<D>> = Vec::new();
    for (index, pair) in levels.windows(2).enumerate() {
        let (s, t) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, s);
        past.insert(0, denoised.eps(&x, s));
        past.truncate(3);
        let h = lambda(t) - lambda(s);

        // Order 1 is DDIM, written without x / alpha because there is no data in pure noise.
        x = denoised.x_0.clone() * t.alpha + past[0].clone() * t.sigma;
        let terms = derivatives(&past, &levels[..=index], multistep.order_at(index, levels));
        // The integrals over d rho = -rho d lambda.
        for (term, integral) in terms.into_iter().zip(falling_integrals(h)).skip(1) {
            x = x - term * (t.alpha * s.sigma / s.alpha * integral);
        }
        on_step(Step { index, level: t, x: &x, x_0: &denoised.x_0 });
    }
    x
}
