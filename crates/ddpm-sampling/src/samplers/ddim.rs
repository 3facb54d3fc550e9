//! Denoising diffusion implicit models (Song et al. 2021a): deterministic at eta 0, ancestral at eta 1.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::{About, Grid, Noise, NoiseSource, OptionSpec, Options, Posterior, Range, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "ddim",
    description: "implicit sampling (Song et al. 2021); deterministic at eta 0, good from 20 to 100 steps",
    usual: Sampler::Ddim { eta: ETA.usual },
    default_steps: Some(50),
    grid: Grid::Times,
    order: Some(1),
    noise: Noise::If(|sampler| matches!(sampler, Sampler::Ddim { eta } if *eta > 0.0)),
    needs_signal: false,
    options: Options { specs: &[ETA], make: Some(|options| Ok(Sampler::Ddim { eta: options.value(&ETA) })) },
};

const ETA: OptionSpec = OptionSpec {
    name: "eta",
    value_name: "ETA",
    help: "DDIM eta, from 0 (deterministic, default) to 1",
    range: Range::SHARE,
    usual: 0.0,
    refines: None,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels; step i takes its noise from `noise.step(i)`,
/// and draws none at eta 0.
///
/// At eta 0 the levels may also ascend: that encodes x_0 into noise.
pub fn ddim<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    eta: f64,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let denoised = denoiser.denoise(&x, t);
        let eps = denoised.eps(&x, t);
        // (16); zero at eta 0 also for ascending levels, whose posterior variance is negative.
        let sigma = if eta == 0.0 { 0.0 } else { eta * Posterior::between(t, s).variance.sqrt() };
        // (12)
        let direction = (s.sigma.powi(2) - sigma.powi(2)).max(0.0).sqrt();
        x = denoised.x_0.clone() * s.alpha + eps * direction;
        if sigma > 0.0 {
            x = x + noise.step(index) * sigma;
        }
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}
