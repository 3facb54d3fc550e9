//! Samplers: each a function over noise levels that are given as data.
//!
//! To add one: its file, a variant of [`Sampler`], and that variant's arm in the methods below.

mod clipped;
mod ddim;
mod ddpm;
mod posterior;

use burn::tensor::Tensor;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::variance::Variance;

pub use clipped::Clipped;
pub use ddim::ddim;
pub use ddpm::ddpm;
pub use posterior::Posterior;

/// Where a sampler gets its noise: standard normal, of the shape of x, addressed by the step.
pub trait NoiseSource<const D: usize> {
    /// The noise of step `index`, counted from the start of sampling.
    fn step(&mut self, index: usize) -> Tensor<D>;
}

impl<const D: usize, F: FnMut(usize) -> Tensor<D>> NoiseSource<D> for F {
    fn step(&mut self, index: usize) -> Tensor<D> {
        self(index)
    }
}

/// What a sampler shows after every step.
#[derive(Debug)]
pub struct Step<'a, const D: usize> {
    /// Which step, from 0.
    pub index: usize,
    /// The noise level that was reached.
    pub level: NoiseLevel,
    /// x at that level.
    pub x: &'a Tensor<D>,
    /// The prediction of x_0 that led there.
    pub x_0: &'a Tensor<D>,
}

/// Why a sampler cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// No sampler has this name.
    #[error("there is no sampler `{name}`; there are: {}", Sampler::NAMES.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// eta outside of [0, 1].
    #[error("eta is {eta}, but must lie between 0 (deterministic) and 1 (as much noise as ddpm)")]
    Eta {
        /// What was asked for.
        eta: f64,
    },
}

/// What samplers can be told, each taking what concerns it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Variance of a step of ancestral sampling; normally the one that the network was trained with.
    pub variance: Variance,
    /// Share of noise in DDIM, from 0 to 1.
    pub eta: f64,
}

/// A way from noise to data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Ancestral sampling.
    Ddpm {
        /// Variance of a step.
        variance: Variance,
    },
    /// Implicit sampling.
    Ddim {
        /// Share of noise: 0 is deterministic, 1 is ancestral sampling.
        eta: f64,
    },
}

impl Sampler {
    /// The names, as the command line knows them; the first is the default.
    pub const NAMES: [&str; 2] = ["ddpm", "ddim"];

    /// The sampler called `name`.
    pub fn new(name: &str, options: SamplerOptions) -> Result<Self, SamplerError> {
        match name {
            "ddpm" => Ok(Self::Ddpm { variance: options.variance }),
            "ddim" if (0.0..=1.0).contains(&options.eta) => Ok(Self::Ddim { eta: options.eta }),
            "ddim" => Err(SamplerError::Eta { eta: options.eta }),
            _ => Err(SamplerError::Unknown { name: name.to_string() }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ddpm { .. } => "ddpm",
            Self::Ddim { .. } => "ddim",
        }
    }

    /// What it is, in one line for people.
    pub fn description(&self) -> &'static str {
        match self {
            Self::Ddpm { .. } => "ancestral sampling (Ho et al. 2020); best with all steps",
            Self::Ddim { .. } => {
                "implicit sampling (Song et al. 2021); deterministic at eta 0, good from 20 to 100 steps"
            }
        }
    }

    /// How many of `available` steps it takes unless told otherwise.
    pub fn default_steps(&self, available: usize) -> usize {
        match self {
            Self::Ddpm { .. } => available,
            Self::Ddim { .. } => available.min(50),
        }
    }

    /// Walks from `x`, at `levels[0]`, to the last of `levels`, which is the clean one for samples.
    pub fn run<const D: usize>(
        &self,
        denoiser: &dyn Denoiser<D>,
        levels: &[NoiseLevel],
        x: Tensor<D>,
        noise: &mut dyn NoiseSource<D>,
        on_step: &mut dyn FnMut(Step<'_, D>),
    ) -> Tensor<D> {
        match *self {
            Self::Ddpm { variance } => ddpm(denoiser, levels, x, variance, noise, on_step),
            Self::Ddim { eta } => ddim(denoiser, levels, x, eta, noise, on_step),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_the_sampler_of_that_name() {
        let options = SamplerOptions { variance: Variance::FixedSmall, eta: 0.0 };
        for name in Sampler::NAMES {
            let sampler = Sampler::new(name, options).unwrap();
            assert_eq!(sampler.name(), name);
            assert!(!sampler.description().contains('\n'));
        }
    }

    #[test]
    fn what_is_refused_says_what_there_is() {
        let options = SamplerOptions { variance: Variance::FixedSmall, eta: 1.5 };
        let message = Sampler::new("euler", options).unwrap_err().to_string();
        assert!(message.contains("euler") && message.contains("ddpm, ddim"), "{message}");
        let message = Sampler::new("ddim", options).unwrap_err().to_string();
        assert!(message.contains("1.5"), "{message}");
    }
}
