//! Inpainting: a part of x_0 is known, the rest is sampled around it.
//!
//! After every step the known part is replaced by itself under the noise of that level (Song et al. 2021b,
//! appendix I.2; Lugmayr et al. 2022 (8)). The known part so enters the network, but the sampled part does not
//! enter the known one, and the two fit only coarsely. RePaint (Lugmayr et al. 2022, algorithm 1) samples each
//! stretch of levels several times, with fresh noise in between, which lets them agree; the price is as many times
//! the steps.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use crate::samplers::{NoiseSource, Sampler, Step};

/// How often the levels are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inpainting {
    /// How many steps are taken before going back (j of the paper).
    pub jump: usize,
    /// How often each stretch is sampled (r of the paper); 1: replacement alone.
    pub resamples: usize,
}

impl Inpainting {
    /// The known part is replaced, and every stretch is sampled once.
    pub const REPLACEMENT: Self = Self { jump: 1, resamples: 1 };
    /// The published RePaint.
    pub const REPAINT: Self = Self { jump: 10, resamples: 10 };
}

/// Samples whose values are those of `known` where `mask` is 1, and new where it is 0. `mask` broadcasts.
///
/// Between two replacements the sampler takes a single step, so one that learns from earlier steps takes its
/// first one again and again. All noise but that of `x`, the start at `levels[0]`, comes from `noise`, whose
/// index counts the draws.
#[allow(clippy::too_many_arguments)] // those of a sampler, and the three that make the task
pub fn inpaint<const D: usize>(
    sampler: Sampler,
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    known: &Tensor<D>,
    mask: &Tensor<D>,
    plan: Inpainting,
    x: Tensor<D>,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    let mut drawn = 0;
    let mut draw = |_: usize| {
        drawn += 1;
        noise.step(drawn - 1)
    };
    let replace = |x: Tensor<D>, level: NoiseLevel, draw: &mut dyn NoiseSource<D>| {
        let known = known.clone() * level.alpha;
        // The clean level has no noise to draw.
        let known = if level.sigma > 0.0 { known + draw.step(0) * level.sigma } else { known };
        // Lugmayr et al. (8c)
        known * mask.clone() + x * (-mask.clone() + 1.0)
    };
    let last = levels.len() - 1;
    let mut x = replace(x, levels[0], &mut draw);
    for start in (0..last).step_by(plan.jump.max(1)) {
        let stretch = start..start.saturating_add(plan.jump.max(1)).min(last);
        for repeat in 0..plan.resamples.max(1) {
            if repeat > 0 {
                x = renoise(x, levels[stretch.end], levels[start], draw.step(0));
            }
            for index in stretch.clone() {
                let mut x_0 = None;
                let mut see = |step: Step<'_, D>| x_0 = Some(step.x_0.clone());
                x = sampler.run(denoiser, &levels[index..index + 2], x, &mut draw, &mut see);
                x = replace(x, levels[index + 1], &mut draw);
                if let Some(x_0) = &x_0 {
                    on_step(Step { index, level: levels[index + 1], x: &x, x_0 });
                }
            }
        }
    }
    x
}

/// A draw of q(x_t | x_s), t the noisier level, where there may be no signal left.
fn renoise<const D: usize>(x: Tensor<D>, s: NoiseLevel, t: NoiseLevel, noise: Tensor<D>) -> Tensor<D> {
    let kept = t.alpha / s.alpha;
    let added = (t.sigma.powi(2) - (kept * s.sigma).powi(2)).max(0.0).sqrt();
    x * kept + noise * added
}
