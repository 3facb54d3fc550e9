//! Reverse diffusion with a Langevin corrector (Song et al. 2021, algorithms 2 to 5).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::{About, Grid, Noise, NoiseSource, OptionSpec, Options, Posterior, Range, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "predictor-corrector",
    description: "reverse diffusion, and a Langevin step at every level (Song et al. 2021), two evaluations a step",
    usual: Sampler::PredictorCorrector { snr: SNR.usual },
    default_steps: Some(500),
    grid: Grid::Times,
    order: None,
    noise: Noise::Always,
    needs_signal: true,
    options: Options {
        specs: &[SNR],
        make: Some(|options| Ok(Sampler::PredictorCorrector { snr: options.value(&SNR) })),
    },
};

const SNR: OptionSpec = OptionSpec {
    name: "snr",
    value_name: "R",
    help: "Signal-to-noise ratio of the corrector of predictor-corrector; 0 for none, default 0.16",
    range: Range::SHARE,
    // Song et al. use this one for images.
    usual: 0.16,
    refines: None,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels: at each level a step of the corrector, then the
/// predictor's to the next. Step i takes its noise from `noise.step(2 i)` and `noise.step(2 i + 1)`; the
/// predictor draws none on the way to clean data.
pub fn predictor_corrector<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    snr: f64,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        // 1 - beta_t of the step between the two levels.
        let alpha_ts = t.alpha / s.alpha;
        let beta = Posterior::between(t, s).beta;

        // Algorithms 4 and 5: epsilon = 2 alpha (r |z| / |score|)^2. The norms are taken at what they are expected
        // to be, |score| = |z| / sigma: measured ones make samples depend on their batch, and diverge where there
        // are few dimensions, in which a score can happen to be 0.
        let epsilon = 2.0 * alpha_ts.powi(2) * (snr * t.sigma).powi(2);
        let score = denoiser.denoise(&x, t).eps(&x, t) / -t.sigma;
        x = x + score * epsilon + noise.step(2 * index) * (2.0 * epsilon).sqrt();

        // Algorithms 2 and 3 at once: with alpha = 1 this is the former.
        let denoised = denoiser.denoise(&x, t);
        let score = denoised.eps(&x, t) / -t.sigma;
        x = x * (2.0 - alpha_ts) + score * beta;
        if s.sigma > 0.0 {
            x = x + noise.step(2 * index + 1) * beta.sqrt();
        }
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}
