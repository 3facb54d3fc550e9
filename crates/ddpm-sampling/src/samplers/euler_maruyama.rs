//! The method of Euler and Maruyama for the reverse SDE (Song et al. 2021 (6)).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::{About, Grid, Noise, NoiseSource, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "euler-maruyama",
    description: "Euler's method for the reverse SDE (Song et al. 2021); plain, and in need of hundreds of steps",
    usual: Sampler::EulerMaruyama,
    default_steps: Some(500),
    grid: Grid::Times,
    order: None,
    noise: Noise::Always,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, which are variance-preserving; step i takes its
/// noise from `noise.step(i)`, and draws none on the way to clean data.
pub fn euler_maruyama<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let score = denoised.eps(&x, t) / -t.sigma;
        // dx = [-beta x / 2 - beta score] dt + sqrt(beta) dw backwards in time; beta dt is exact over the step,
        // because alpha is the exponential of minus half its integral.
        let beta_dt = 2.0 * (s.alpha.ln() - t.alpha.ln());
        x = x * (1.0 + beta_dt / 2.0) + score * beta_dt;
        if s.sigma > 0.0 {
            x = x + noise.step(index) * beta_dt.sqrt();
        }
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}
