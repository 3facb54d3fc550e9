//! Samplers: each a function over noise levels that are given as data.
//!
//! To add one: its file, with what there is to say [`About`] it, and a variant of [`Sampler`] with its
//! arms in `about` and `run`, a place in [`Sampler::ALL`], and an arm in `with` if it has options.

mod about;
mod clipped;
mod ddim;
mod ddpm;
mod deis;
mod dormand_prince;
mod dpm2;
mod dpmpp_2s;
mod dpmpp_multistep;
mod dpmpp_sde;
mod euler;
mod euler_ancestral;
mod euler_maruyama;
mod flow_euler;
mod flow_heun;
mod heun;
mod langevin;
mod lms;
mod multistep;
mod pndm;
mod posterior;
mod predictor_corrector;
pub(crate) mod probability_flow;
mod rk45;
mod straight_path;
mod unipc;
mod variance_exploding;

use burn::tensor::Tensor;
use ddpm_model::continuous::ContinuousDiffusion;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::noise_level::{NoiseLevel, NoiseRange};
use ddpm_model::path::Path;
use ddpm_model::schedule::Schedule;
use ddpm_model::variance::Variance;

use crate::levels::{Ends, Ladder};
use crate::steps::Spacing;

pub use about::{About, Grid};
pub use clipped::Clipped;
pub use ddim::ddim;
pub use ddpm::ddpm;
pub use deis::deis;
pub use dormand_prince::{Effort, Taken, Tolerance, solve};
pub use dpm2::{dpm2, dpm2_ancestral};
pub use dpmpp_2s::dpmpp_2s;
pub use dpmpp_multistep::{Expansion, dpmpp_multistep};
pub use dpmpp_sde::dpmpp_sde;
pub use euler::euler;
pub use euler_ancestral::euler_ancestral;
pub use euler_maruyama::euler_maruyama;
pub use flow_euler::flow_euler;
pub use flow_heun::flow_heun;
pub use heun::{Churn, heun};
pub use langevin::{Langevin, langevin};
pub use lms::lms;
pub use multistep::{FEW_STEPS, Multistep};
pub use pndm::{PndmStart, half_way, pndm};
pub use posterior::Posterior;
pub use predictor_corrector::{USUAL_SNR, predictor_corrector};
pub use rk45::rk45;
pub use unipc::{Bh, unipc};
pub use variance_exploding::{level_at, ratio};

/// All steps, where a path has no steps to count.
const STEPS_OF_A_PATH: usize = 1000;

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
    /// Churn that is negative or not a number.
    #[error("{churn:?}: churn and its limits must be numbers from 0 up, and the lower limit below the upper one")]
    Churn {
        /// What was asked for.
        churn: Churn,
    },
    /// A tolerance that no step can keep.
    #[error("{tolerance:?}: atol must be more than 0, and rtol not less")]
    Tolerance {
        /// What was asked for.
        tolerance: Tolerance,
    },
    /// Langevin steps that lead nowhere.
    #[error("{langevin:?}: expected at least one step a level, and an epsilon between 0 and 4")]
    Langevin {
        /// What was asked for.
        langevin: Langevin,
    },
    /// A corrector that does nothing sensible.
    #[error("snr is {snr}, but must lie between 0 (no corrector) and 1")]
    Snr {
        /// What was asked for.
        snr: f64,
    },
    /// An option that means nothing to the sampler.
    #[error("{sampler} has no option {option}; {has}")]
    NoOption {
        /// The sampler.
        sampler: &'static str,
        /// The option.
        option: &'static str,
        /// Who has it.
        has: &'static str,
    },
}

/// What samplers can be told. What is told to a sampler that it does not concern is refused; the variance,
/// which comes with the network, is not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplerOptions {
    /// Variance of a step of ancestral sampling; normally the one that the network was trained with.
    pub variance: Variance,
    /// Share of noise in DDIM, from 0, the default, to 1.
    pub eta: Option<f64>,
    /// Noise on the way of Heun's method, none by default.
    pub churn: Option<Churn>,
    /// What the adaptive solver may be off by.
    pub tolerance: Option<Tolerance>,
    /// The steps of Langevin dynamics.
    pub langevin: Option<Langevin>,
    /// Signal-to-noise ratio of the corrector.
    pub snr: Option<f64>,
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
    /// Euler's method.
    Euler,
    /// Euler's method with fresh noise in every step.
    EulerAncestral,
    /// Heun's method.
    Heun {
        /// Noise on the way.
        churn: Churn,
    },
    /// The midpoint method.
    Dpm2,
    /// The midpoint method with fresh noise in every step.
    Dpm2Ancestral,
    /// A linear multistep method.
    Lms,
    /// DPM-Solver++ over pairs of levels.
    Dpmpp2s {
        /// With fewer steps than this, the last two are of order 1.
        falls_below: usize,
    },
    /// DPM-Solver++ over past predictions.
    DpmppMultistep {
        /// How far it looks back.
        multistep: Multistep,
        /// How it weighs what it sees.
        expansion: Expansion,
    },
    /// DPM-Solver++ over past predictions with fresh noise in every step.
    DpmppSde {
        /// How far it looks back, order 2 at most.
        multistep: Multistep,
    },
    /// A predictor and a corrector of one form.
    UniPc {
        /// How far it looks back.
        multistep: Multistep,
        /// Scale of the weight that is free.
        b: Bh,
    },
    /// An exponential integrator over past predictions of eps.
    Deis {
        /// How far it looks back.
        multistep: Multistep,
    },
    /// A linear multistep method in steps of DDIM.
    Pndm {
        /// How it starts.
        start: PndmStart,
    },
    /// Euler's method along the straight path.
    FlowEuler,
    /// Heun's method along the straight path.
    FlowHeun,
    /// An adaptive solver.
    Rk45 {
        /// What its steps may be off by.
        tolerance: Tolerance,
    },
    /// Euler's method for the reverse SDE.
    EulerMaruyama,
    /// Reverse diffusion with a Langevin corrector.
    PredictorCorrector {
        /// Signal-to-noise ratio of the corrector.
        snr: f64,
    },
    /// Annealed Langevin dynamics.
    Langevin {
        /// The steps at every level.
        langevin: Langevin,
    },
}

impl Sampler {
    /// One of every kind; the first is the default.
    pub const ALL: &[Self] = &[
        Self::Ddpm { variance: Variance::FixedSmall },
        Self::Ddim { eta: 0.0 },
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun { churn: Churn::NONE },
        Self::Dpm2,
        Self::Dpm2Ancestral,
        Self::Lms,
        Self::Dpmpp2s { falls_below: FEW_STEPS },
        Self::DpmppMultistep { multistep: Multistep::of_order(2), expansion: Expansion::Published },
        Self::DpmppMultistep { multistep: Multistep::of_order(3), expansion: Expansion::Taylor },
        Self::DpmppSde { multistep: Multistep::of_order(2) },
        Self::UniPc { multistep: Multistep::of_order(2), b: Bh::Bh2 },
        Self::Deis { multistep: Multistep::of_order(3) },
        Self::Pndm { start: PndmStart::RungeKutta },
        Self::Pndm { start: PndmStart::Multistep },
        Self::FlowEuler,
        Self::FlowHeun,
        Self::Rk45 { tolerance: Tolerance::USUAL },
        Self::EulerMaruyama,
        Self::PredictorCorrector { snr: USUAL_SNR },
        Self::Langevin { langevin: Langevin::USUAL },
    ];

    /// The names, as the command line knows them, in the order of [`Sampler::ALL`].
    pub const NAMES: [&'static str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = Self::ALL[i].about().name;
            i += 1;
        }
        names
    };

    /// What its file says about it.
    pub const fn about(&self) -> About {
        match self {
            Self::Ddpm { .. } => ddpm::ABOUT,
            Self::Ddim { .. } => ddim::ABOUT,
            Self::Euler => euler::ABOUT,
            Self::EulerAncestral => euler_ancestral::ABOUT,
            Self::Heun { .. } => heun::ABOUT,
            Self::Dpm2 => dpm2::ABOUT,
            Self::Dpm2Ancestral => dpm2::ABOUT_ANCESTRAL,
            Self::Lms => lms::ABOUT,
            Self::Dpmpp2s { .. } => dpmpp_2s::ABOUT,
            Self::DpmppMultistep { multistep: Multistep { order: 3, .. }, .. } => dpmpp_multistep::ABOUT_3M,
            Self::DpmppMultistep { .. } => dpmpp_multistep::ABOUT_2M,
            Self::DpmppSde { .. } => dpmpp_sde::ABOUT,
            Self::UniPc { .. } => unipc::ABOUT,
            Self::Deis { .. } => deis::ABOUT,
            Self::Pndm { start: PndmStart::RungeKutta } => pndm::ABOUT,
            Self::Pndm { start: PndmStart::Multistep } => pndm::ABOUT_PLMS,
            Self::FlowEuler => flow_euler::ABOUT,
            Self::FlowHeun => flow_heun::ABOUT,
            Self::Rk45 { .. } => rk45::ABOUT,
            Self::EulerMaruyama => euler_maruyama::ABOUT,
            Self::PredictorCorrector { .. } => predictor_corrector::ABOUT,
            Self::Langevin { .. } => langevin::ABOUT,
        }
    }

    /// Walks from `x`, at `levels[0]`, to the last of `levels`, which is the clean one for samples.
    ///
    /// Nothing is clipped here. A network that predicts eps amplifies its errors at levels with little signal, where a
    /// cosine schedule begins: wrap its denoiser in [`Clipped`] for data in [-1, 1], or train it to predict v.
    ///
    /// # Shapes
    ///
    /// `x`, the noise and the result: `[B, ..]`, whatever the denoiser takes.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use ddpm_infer::prelude::*;
    ///
    /// /// The exact denoiser of data that are all the point (0.3, -0.8).
    /// struct OnePoint;
    ///
    /// impl Denoiser<2> for OnePoint {
    ///     fn denoise(&self, x_t: &Tensor<2>, _level: NoiseLevel) -> Denoised<2> {
    ///         let x_0 = Tensor::from_floats([[0.3, -0.8]], &x_t.device());
    ///         Denoised { x_0: x_0.repeat_dim(0, x_t.dims()[0]), variance_logit: None }
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let diffusion: Diffusion =
    ///     GaussianDiffusion::new(ScheduleConfig::default().init()?, Prediction::X0, Variance::FixedSmall).into();
    /// let sampler = Sampler::new("heun", SamplerOptions::default())?;
    /// let levels = sampler.usual_levels(&diffusion).levels(10, &diffusion)?;
    /// let mut noise = SampleNoise::new(7, 0..5, [5, 2], &Device::default());
    /// let start = noise.start();
    /// let x = sampler.run(&OnePoint, &levels, start, &mut noise, &mut |_| {});
    /// let off = (x - Tensor::from_floats([[0.3, -0.8]], &Device::default())).abs().max();
    /// assert!(off.into_scalar::<f32>() < 1e-4);
    /// # Ok(())
    /// # }
    /// ```
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
            Self::Euler => euler(denoiser, levels, x, on_step),
            Self::EulerAncestral => euler_ancestral(denoiser, levels, x, noise, on_step),
            Self::Heun { churn } => heun(denoiser, levels, x, churn, noise, on_step),
            Self::Dpm2 => dpm2(denoiser, levels, x, on_step),
            Self::Dpm2Ancestral => dpm2_ancestral(denoiser, levels, x, noise, on_step),
            Self::Lms => lms(denoiser, levels, x, on_step),
            Self::Dpmpp2s { falls_below } => dpmpp_2s(denoiser, levels, x, falls_below, on_step),
            Self::DpmppMultistep { multistep, expansion } => {
                dpmpp_multistep(denoiser, levels, x, multistep, expansion, on_step)
            }
            Self::DpmppSde { multistep } => dpmpp_sde(denoiser, levels, x, multistep, noise, on_step),
            Self::UniPc { multistep, b } => unipc(denoiser, levels, x, multistep, b, on_step),
            Self::Deis { multistep } => deis(denoiser, levels, x, multistep, on_step),
            Self::Pndm { start } => pndm(denoiser, levels, x, start, &half_way, on_step),
            Self::FlowEuler => flow_euler(denoiser, levels, x, on_step),
            Self::FlowHeun => flow_heun(denoiser, levels, x, on_step),
            Self::Rk45 { tolerance } => rk45(denoiser, levels, x, tolerance, on_step).0,
            Self::EulerMaruyama => euler_maruyama(denoiser, levels, x, noise, on_step),
            Self::PredictorCorrector { snr } => predictor_corrector(denoiser, levels, x, snr, noise, on_step),
            Self::Langevin { langevin: steps } => langevin(denoiser, levels, x, steps, noise, on_step),
        }
    }

    /// The sampler called `name`.
    pub fn new(name: &str, options: SamplerOptions) -> Result<Self, SamplerError> {
        let named = Self::ALL.iter().find(|sampler| sampler.name() == name);
        named.ok_or_else(|| SamplerError::Unknown { name: name.to_string() })?.with(options)
    }

    /// The same sampler with these options.
    fn with(self, options: SamplerOptions) -> Result<Self, SamplerError> {
        let refuse = |option, has| SamplerError::NoOption { sampler: self.name(), option, has };
        if options.eta.is_some() && !matches!(self, Self::Ddim { .. }) {
            return Err(refuse("eta", "only ddim has"));
        }
        if options.churn.is_some() && !matches!(self, Self::Heun { .. }) {
            return Err(refuse("churn", "only heun has"));
        }
        if options.tolerance.is_some() && !matches!(self, Self::Rk45 { .. }) {
            return Err(refuse("tolerance", "only rk45 has"));
        }
        if options.langevin.is_some() && !matches!(self, Self::Langevin { .. }) {
            return Err(refuse("langevin", "only langevin has"));
        }
        if options.snr.is_some() && !matches!(self, Self::PredictorCorrector { .. }) {
            return Err(refuse("snr", "only predictor-corrector has"));
        }
        match self {
            Self::Ddpm { .. } => Ok(Self::Ddpm { variance: options.variance }),
            Self::Ddim { eta } => match options.eta.unwrap_or(eta) {
                eta if (0.0..=1.0).contains(&eta) => Ok(Self::Ddim { eta }),
                eta => Err(SamplerError::Eta { eta }),
            },
            Self::Heun { churn } => match options.churn.unwrap_or(churn) {
                churn if churn.is_sound() => Ok(Self::Heun { churn }),
                churn => Err(SamplerError::Churn { churn }),
            },
            Self::Rk45 { tolerance } => match options.tolerance.unwrap_or(tolerance) {
                tolerance if tolerance.is_sound() => Ok(Self::Rk45 { tolerance }),
                tolerance => Err(SamplerError::Tolerance { tolerance }),
            },
            Self::Langevin { langevin } => match options.langevin.unwrap_or(langevin) {
                langevin if langevin.is_sound() => Ok(Self::Langevin { langevin }),
                langevin => Err(SamplerError::Langevin { langevin }),
            },
            Self::PredictorCorrector { snr } => match options.snr.unwrap_or(snr) {
                snr if (0.0..=1.0).contains(&snr) => Ok(Self::PredictorCorrector { snr }),
                snr => Err(SamplerError::Snr { snr }),
            },
            without_options => Ok(without_options),
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.about().name
    }

    /// What it is, in one line for people.
    pub const fn description(&self) -> &'static str {
        self.about().description
    }

    /// How many steps it takes of a model unless told otherwise.
    pub fn usual_steps(&self, diffusion: &Diffusion) -> usize {
        let available = diffusion.schedule().map_or(STEPS_OF_A_PATH, Schedule::len);
        self.about().default_steps.map_or(available, |steps| steps.min(available))
    }

    /// Whether it draws noise on the way.
    pub fn is_stochastic(&self) -> bool {
        match *self {
            Self::Ddim { eta } => eta > 0.0,
            Self::Heun { churn } => churn.amount > 0.0,
            Self::Ddpm { .. }
            | Self::EulerAncestral
            | Self::Dpm2Ancestral
            | Self::DpmppSde { .. }
            | Self::EulerMaruyama
            | Self::PredictorCorrector { .. }
            | Self::Langevin { .. } => true,
            _ => false,
        }
    }

    /// Which levels it visits of a model unless told otherwise: Karras et al.'s where noise explodes, and elsewhere those
    /// that suit it.
    pub fn usual_levels(&self, diffusion: &Diffusion) -> Ladder {
        match (diffusion, self.about().grid) {
            (Diffusion::Continuous(ContinuousDiffusion { path: Path::Ve { .. }, .. }), _) => {
                Ladder::Karras { rho: 7.0, ends: Ends::default() }
            }
            (_, Grid::Times) => Ladder::default(),
            (Diffusion::Discrete(_), Grid::Strides) => Ladder::Steps(Spacing::Leading),
            (trained, Grid::Sigmas | Grid::Strides) => Ladder::Exponential { ends: Ends::usual(trained) },
        }
    }

    /// The order with which it claims to converge to the solution of the probability-flow ODE; none if it draws
    /// noise on the way, or chooses its own steps.
    pub fn order(&self) -> Option<u32> {
        match *self {
            Self::Ddim { eta } if eta > 0.0 => None,
            Self::Heun { churn } if churn.amount > 0.0 => None,
            Self::DpmppMultistep { multistep, .. } | Self::Deis { multistep } if multistep.order < 2 => Some(1),
            _ => self.about().order,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_the_sampler_of_that_name() {
        for name in Sampler::NAMES {
            let sampler = Sampler::new(name, SamplerOptions::default()).unwrap();
            assert_eq!(sampler.name(), name);
            assert!(!sampler.description().contains('\n'));
            assert_eq!(Sampler::NAMES.iter().filter(|other| **other == name).count(), 1, "{name} twice");
        }
    }

    #[test]
    fn what_is_refused_says_what_there_is() {
        let refuse = |name, options, parts: &[&str]| {
            let message = Sampler::new(name, options).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        let eta = |eta| SamplerOptions { eta: Some(eta), ..Default::default() };
        refuse("magic", eta(1.5), &["magic", "ddpm, ddim"]);
        refuse("ddim", eta(1.5), &["1.5"]);
        refuse("euler", eta(0.5), &["euler", "eta", "ddim"]);
        let churn = |amount| SamplerOptions { churn: Some(Churn { amount, ..Churn::NONE }), ..Default::default() };
        refuse("heun", churn(-1.0), &["-1"]);
        refuse("heun", churn(f64::NAN), &["NaN"]);
        refuse("lms", churn(1.0), &["lms", "churn", "heun"]);
        let tolerance = Some(Tolerance { absolute: 0.0, relative: 1e-3 });
        refuse("rk45", SamplerOptions { tolerance, ..Default::default() }, &["atol", "0.0"]);
        refuse("euler", SamplerOptions { tolerance, ..Default::default() }, &["euler", "tolerance", "rk45"]);
        let langevin = Some(Langevin { steps: 0, ..Langevin::USUAL });
        refuse("langevin", SamplerOptions { langevin, ..Default::default() }, &["steps: 0"]);
        refuse("predictor-corrector", SamplerOptions { snr: Some(-1.0), ..Default::default() }, &["-1"]);
    }

    #[test]
    fn noise_on_the_way_ends_the_claim_of_an_order() {
        assert_eq!(Sampler::Ddim { eta: 0.0 }.order(), Some(1));
        assert_eq!(Sampler::Ddim { eta: 0.1 }.order(), None);
        assert_eq!(Sampler::Heun { churn: Churn { amount: 1.0, ..Churn::NONE } }.order(), None);
        assert_eq!(Sampler::EulerAncestral.order(), None);
    }
}
