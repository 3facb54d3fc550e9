//! Annealed Langevin dynamics (Song & Ermon 2019, algorithm 1).
//!
//! In variance-exploding coordinates, where the sigma of the paper is that of a level.

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::{About, Grid, Noise, NoiseSource, OptionSpec, Options, Range, Sampler, Step};

pub(super) const ABOUT: About = About {
    name: "langevin",
    description: "annealed Langevin dynamics (Song & Ermon 2019), many evaluations a level; made for exponential levels",
    usual: Sampler::Langevin { langevin: Langevin::USUAL },
    default_steps: Some(50),
    grid: Grid::Times,
    order: None,
    noise: Noise::Chain,
    needs_signal: true,
    options: Options {
        specs: &[STEPS, EPSILON],
        make: Some(|options| {
            let langevin = Langevin { steps: options.value(&STEPS) as usize, epsilon: options.value(&EPSILON) };
            Ok(Sampler::Langevin { langevin })
        }),
    },
};

const STEPS: OptionSpec = OptionSpec {
    name: "langevin-steps",
    value_name: "N",
    help: "Steps of langevin at every level; default 20",
    range: Range::COUNT,
    usual: Langevin::USUAL.steps as f64,
    refines: None,
};

const EPSILON: OptionSpec = OptionSpec {
    name: "langevin-epsilon",
    value_name: "E",
    help: "Length of those steps, in units of the variance of the level's noise; default 0.2",
    // Beyond 4 the dynamics diverge for a Gaussian as wide as the noise.
    range: Range { contains: |epsilon| epsilon > 0.0 && epsilon < 4.0, expected: "a number above 0 and below 4" },
    usual: Langevin::USUAL.epsilon,
    refines: None,
};

/// The steps at every level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Langevin {
    /// T: how many.
    pub steps: usize,
    /// How long, in units of the variance of the level's noise: the paper's epsilon / `sigma_L^2`, so that alpha_i
    /// is `epsilon sigma_i^2` whatever the last sigma is. The paper's 2e-5 with a last sigma of 0.01 is 0.2.
    pub epsilon: f64,
}

impl Langevin {
    /// The paper's length, and fewer steps at what should be more levels than its 10.
    pub const USUAL: Self = Self { steps: 20, epsilon: 0.2 };
}

/// Goes from `x`, at `levels[0]`, down the levels, with so many steps at each but a clean one: that is reached by
/// x_0 of the level before it (Jolicoeur-Martineau et al. 2021, "denoised"). Step k at level i takes its noise
/// from `noise.step(i * steps + k)`.
pub fn langevin<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    Langevin { steps, epsilon }: Langevin,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        let (t, s) = (pair[0], pair[1]);
        let sigma_i = t.ratio();
        let alpha_i = epsilon * sigma_i.powi(2);
        for step in 0..steps {
            let score = denoiser.denoise(&x, t).eps(&x, t) / -sigma_i;
            let moved = x / t.alpha + score * (alpha_i / 2.0) + noise.step(index * steps + step) * alpha_i.sqrt();
            x = moved * t.alpha;
        }
        let x_0 = denoiser.denoise(&x, t).x_0;
        // The same x is where the next level begins.
        x = if s.sigma == 0.0 { x_0.clone() * s.alpha } else { x * (s.alpha / t.alpha) };
        on_step(Step { index, level: s, x: &x, x_0: &x_0 });
    }
    x
}
