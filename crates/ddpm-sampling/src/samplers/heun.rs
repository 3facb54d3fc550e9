//! Heun's method with optional churn (Karras et al. 2022, algorithms 1 and 2).

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use super::variance_exploding::{diffuse, euler_step};
use super::{About, Grid, Noise, NoiseSource, OptionSpec, Options, Range, Sampler, SamplerError, SamplerOptions, Step};

pub(super) const ABOUT: About = About {
    name: "heun",
    description: "Heun's method, two evaluations a step (Karras et al. 2022); made for karras levels, good from 18 steps",
    usual: Sampler::Heun { churn: Churn::NONE },
    default_steps: Some(18),
    grid: Grid::Sigmas,
    order: Some(2),
    noise: Noise::If(|sampler| matches!(sampler, Sampler::Heun { churn } if churn.amount > 0.0)),
    needs_signal: true,
    options: Options { specs: &[S_CHURN, S_MIN, S_MAX, S_NOISE], make: Some(make) },
};

const S_CHURN: OptionSpec = OptionSpec {
    name: "s-churn",
    value_name: "AMOUNT",
    help: "S_churn of heun (Karras et al. 2022); default 0",
    range: Range::FROM_ZERO,
    usual: Churn::NONE.amount,
    refines: None,
};

const S_MIN: OptionSpec = OptionSpec {
    name: "s-min",
    value_name: "SIGMA",
    help: "Smallest sigma with churn; default 0",
    range: Range::FROM_ZERO,
    usual: Churn::NONE.min,
    refines: Some(S_CHURN.name),
};

const S_MAX: OptionSpec = OptionSpec {
    name: "s-max",
    value_name: "SIGMA",
    help: "Largest sigma with churn; default inf",
    range: Range::FROM_ZERO,
    usual: Churn::NONE.max,
    refines: Some(S_CHURN.name),
};

const S_NOISE: OptionSpec = OptionSpec {
    name: "s-noise",
    value_name: "DEVIATION",
    help: "Standard deviation of the noise of churn; default 1",
    range: Range::FROM_ZERO,
    usual: Churn::NONE.noise,
    refines: Some(S_CHURN.name),
};

fn make(options: &SamplerOptions) -> Result<Sampler, SamplerError> {
    let [amount, min, max, noise] = [S_CHURN, S_MIN, S_MAX, S_NOISE].map(|spec| options.value(&spec));
    if min > max {
        let expected = "at most --s-max".into();
        return Err(SamplerError::OutOfRange { option: S_MIN.name, found: min, expected });
    }
    Ok(Sampler::Heun { churn: Churn { amount, min, max, noise } })
}

/// Fresh noise in the steps, which lets later ones correct the errors of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn: how much of it over all steps; 0 is deterministic.
    pub amount: f64,
    /// S_tmin: no churn where sigma / alpha is less.
    pub min: f64,
    /// S_tmax: no churn where sigma / alpha is more.
    pub max: f64,
    /// S_noise: deviation of the noise, a little more than 1 where a network removes too much.
    pub noise: f64,
}

impl Churn {
    /// No churn, and no limits on where it would be.
    pub const NONE: Self = Self { amount: 0.0, min: 0.0, max: f64::INFINITY, noise: 1.0 };

    /// The level that a step from `t` really starts from, one of `steps`.
    fn raise(&self, t: NoiseLevel, steps: usize) -> NoiseLevel {
        let sigma = t.ratio();
        let gamma = match (self.min..=self.max).contains(&sigma) {
            true => (self.amount / steps as f64).min(2f64.sqrt() - 1.0),
            false => 0.0,
        };
        if gamma > 0.0 { NoiseLevel::from_ratio(sigma * (1.0 + gamma)) } else { t }
    }
}

/// Goes from `x`, at `levels[0]`, to the last of the levels, along the mean of eps at the start of a step and at
/// its end. Step i takes its noise from `noise.step(i)` where there is churn.
pub fn heun<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    levels: &[NoiseLevel],
    mut x: Tensor<D>,
    churn: Churn,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    for (index, pair) in levels.windows(2).enumerate() {
        // Algorithm 2; its t with a hat is our t.
        let (t, s) = (churn.raise(pair[0], levels.len() - 1), pair[1]);
        if t != pair[0] {
            x = diffuse(x, noise.step(index) * churn.noise, pair[0], t);
        }
        let denoised = denoiser.denoise(&x, t);
        let eps = denoised.eps(&x, t);
        let ahead = euler_step(x.clone(), eps.clone(), t, s);
        // eps means nothing at a clean level, where Euler's step is the best there is.
        x = if s.sigma == 0.0 {
            ahead
        } else {
            let eps_ahead = denoiser.denoise(&ahead, s).eps(&ahead, s);
            euler_step(x, (eps + eps_ahead) / 2.0, t, s)
        };
        on_step(Step { index, level: s, x: &x, x_0: &denoised.x_0 });
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn churn_raises_sigma_within_its_limits_only() {
        let churn = Churn { amount: 5.0, min: 0.5, max: 2.0, noise: 1.0 };
        let raised = |churn: Churn, sigma: f64| churn.raise(NoiseLevel::from_ratio(sigma), 50).ratio() / sigma;
        for (sigma, wanted) in [(0.4, 1.0), (0.5, 1.1), (1.0, 1.1), (2.0, 1.1), (2.1, 1.0)] {
            assert!((raised(churn, sigma) - wanted).abs() < 1e-12, "{sigma}");
        }
        // Algorithm 2: never more new noise than there was.
        assert!((raised(Churn { amount: 1e3, ..churn }, 1.0) - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(Churn::NONE.raise(NoiseLevel::from_ratio(1.0), 50), NoiseLevel::from_ratio(1.0));
    }
}
