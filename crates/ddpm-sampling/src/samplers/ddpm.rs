//! Ancestral sampling (Ho et al. 2020, algorithm 2), between any descending noise levels.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::variance::Variance;

use super::{About, Grid, Noise, NoiseSource, Options, Posterior, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "ddpm",
    description: "ancestral sampling (Ho et al. 2020); best with all steps",
    usual: Sampler::Ddpm { variance: Variance::FixedSmall },
    default_steps: None,
    grid: Grid::Times,
    order: None,
    noise: Noise::Always,
    needs_signal: false,
    options: Options { specs: &[], make: Some(|options| Ok(Sampler::Ddpm { variance: options.variance })) },
};

/// Goes from `x`, at `levels[0]`, to the last of the levels; step i draws x_s from q(x_s | x_t, x_0)
/// with the denoiser's x_0, and takes its noise from `noise.step(i)`.
///
/// With [`Variance::Learned`] and a denoiser that predicts no variance, the variance is the fixed large one.
pub fn ddpm<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    variance: Variance,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let q = Posterior::between(t, s);
        let mean = denoised.x_0.clone() * q.from_x_0 + x * q.from_x_t;
        // Nothing is random about a clean x, whatever the variance is called.
        x = if s.sigma == 0.0 {
            mean
        } else {
            let eps = noise.step(index);
            mean + match (variance, denoised.variance_logit) {
                (Variance::Learned, Some(v)) => eps * learned_deviation(v, &q),
                (Variance::FixedLarge | Variance::Learned, _) => eps * q.beta.sqrt(),
                (Variance::FixedSmall, _) => eps * q.variance.sqrt(),
            }
        };
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}

/// Nichol & Dhariwal 2021 (15), with v in [-1, 1] instead of [0, 1]: log variance between the two fixed ones.
fn learned_deviation<const D: usize>(v: Tensor<D>, q: &Posterior) -> Tensor<D> {
    let (small, large) = (q.variance.ln(), q.beta.ln());
    let log_variance = v * ((large - small) / 2.0) + (large + small) / 2.0;
    (log_variance * 0.5).exp()
}
