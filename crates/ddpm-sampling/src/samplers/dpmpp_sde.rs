//! SDE-DPM-Solver++, "1" and "2M": DPM-Solver++ with fresh noise in every step (Lu et al. 2022,
//! arXiv 2211.01095).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::multistep::{Multistep, derivatives, lambda};
use super::{About, Grid, Noise, NoiseSource, Options, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "dpmpp-sde",
    description: "DPM-Solver++(2M) with fresh noise in every step (Lu et al. 2022); good from 25 steps",
    usual: Sampler::DpmppSde { multistep: Multistep::of_order(2) },
    default_steps: Some(25),
    grid: Grid::Sigmas,
    order: None,
    noise: Noise::Always,
    needs_signal: true,
    options: Options::NONE,
};

/// Goes from `x`, at `levels[0]`, to the last of the levels, one evaluation a step, of order 2 at
/// most; step i takes its noise from `noise.step(i)`, and draws none on the way to clean data.
pub fn dpmpp_sde<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    multistep: Multistep,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    // Predictions of x_0, the latest first.
    let mut past: Vec<Tensor<D>> = Vec::new();
    for (index, pair) in levels.windows(2).enumerate() {
        let (s, t) = (pair[0], pair[1]);
        past.insert(0, denoiser.denoise(&x, s).x_0);
        past.truncate(2);
        let h = lambda(t) - lambda(s);
        let mut terms = derivatives(&past, &levels[..=index], multistep.order_at(index, levels).min(2)).into_iter();
        let mut d = past[0].clone();
        if let Some(slope) = terms.nth(1) {
            d = d + slope * (h / 2.0);
        }

        // The reverse SDE is linear in x where the data prediction d stays: its mean and its variance.
        let share = -(-2.0 * h).exp_m1();
        x = x * (t.sigma / s.sigma * (-h).exp()) + d * (t.alpha * share);
        if t.sigma > 0.0 {
            x = x + noise.step(index) * (t.sigma * share.sqrt());
        }
        on_step(Step { index, level: t, x: &x, x_0: &past[0] });
    }
    x
}
