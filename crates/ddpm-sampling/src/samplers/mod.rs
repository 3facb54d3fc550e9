//! Samplers: each a function over noise levels that are given as data.
//!
//! To add one: its file, with its [`About`] (name, order, noise, options), and its row in the table `samplers!` below.

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
pub mod probability_flow;
mod rk45;
mod straight_path;
mod text;
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

use crate::levels::{Ends, LevelSchedule};
use crate::steps::Spacing;

pub use about::{About, Grid, Make, Noise, OptionSpec, Options, Range, SamplerOptions};
pub use clipped::Clipped;
pub use ddim::ddim;
pub use dormand_prince::{Effort, Taken, Tolerance, solve};
pub use dpmpp_multistep::Expansion;
pub use heun::Churn;
pub use langevin::Langevin;
pub use multistep::{FEW_STEPS, Multistep};
pub use pndm::{PlmsStep, PndmStart, half_way, plms, pndm};
pub use posterior::Posterior;
pub use rk45::rk45;
pub use unipc::Bh;

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
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// No sampler has this name.
    #[error("there is no sampler `{name}`; there are: {}", Sampler::NAMES.join(", "))]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// A value outside of the range of its option.
    #[error("--{option} is {found}; expected {expected}")]
    OutOfRange {
        /// The option.
        option: &'static str,
        /// The value that was given.
        found: f64,
        /// What was expected.
        expected: String,
    },
    /// An option behind the name of a sampler.
    #[error("option `{option}` of {sampler}: {reason}")]
    Option {
        /// The sampler.
        sampler: &'static str,
        /// The option as it was given.
        option: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// An option of other samplers.
    #[error("--{option} applies to {takers} only, not to {sampler}")]
    NotItsOption {
        /// The sampler.
        sampler: &'static str,
        /// The option.
        option: &'static str,
        /// The samplers that take it.
        takers: String,
    },
    /// An option of no sampler.
    #[error("no sampler has an option --{option}")]
    NoSuchOption {
        /// The option.
        option: &'static str,
    },
}

/// The table of samplers. A row is a variant of [`Sampler`] with its fields, the [`About`] of its file (and those of
/// other names that fields of these values go by), and the call of its function.
macro_rules! samplers {
    (
        ($denoiser:ident, $levels:ident, $x:ident, $noise:ident, $on_step:ident);
        $(
            $(#[$doc:meta])*
            $variant:ident $({ $( $(#[$field_doc:meta])* $field:ident: $type:ty ),* })?
                = $file:ident::$about:ident $(, $other_file:ident::$other_about:ident as $pattern:tt)*
                => $run:expr;
        )*
    ) => {
        /// A method that goes from noise to data.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Sampler {
            $(
                $(#[$doc])*
                $variant $({ $( $(#[$field_doc])* $field: $type ),* })?,
            )*
        }

        impl Sampler {
            /// What the files declare, in the order of the table.
            pub const ABOUTS: &[&About] = &[$( &$file::$about, $( &$other_file::$other_about, )* )*];

            /// What its file declares.
            pub const fn about(&self) -> &'static About {
                match self {
                    $(
                        $( Self::$variant $pattern => &$other_file::$other_about, )*
                        Self::$variant { .. } => &$file::$about,
                    )*
                }
            }

            /// Goes from `x`, at `levels[0]`, to the last of `levels`, which is the clean one for samples.
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
            /// use ddpm_sampling::prelude::*;
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
                $denoiser: &dyn Denoiser<D>,
                $levels: &[NoiseLevel],
                $x: Tensor<D>,
                $noise: &mut dyn NoiseSource<D>,
                $on_step: &mut dyn FnMut(Step<'_, D>),
            ) -> Tensor<D> {
                match *self {
                    $( Self::$variant { $($($field),*)? } => $run, )*
                }
            }
        }
    };
}

samplers! {
    (denoiser, levels, x, noise, on_step);

    /// Ancestral sampling.
    Ddpm {
        /// Variance of a step.
        variance: Variance
    } = ddpm::ABOUT => ddpm::ddpm(denoiser, levels, x, variance, noise, on_step);

    /// Implicit sampling.
    Ddim {
        /// Share of noise: 0 is deterministic, 1 is ancestral sampling.
        eta: f64
    } = ddim::ABOUT => ddim::ddim(denoiser, levels, x, eta, noise, on_step);

    /// Euler's method.
    Euler = euler::ABOUT => euler::euler(denoiser, levels, x, on_step);

    /// Euler's method with fresh noise in every step.
    EulerAncestral = euler_ancestral::ABOUT
        => euler_ancestral::euler_ancestral(denoiser, levels, x, noise, on_step);

    /// Heun's method.
    Heun {
        /// Fresh noise in its steps.
        churn: Churn
    } = heun::ABOUT => heun::heun(denoiser, levels, x, churn, noise, on_step);

    /// The midpoint method.
    Dpm2 = dpm2::ABOUT => dpm2::dpm2(denoiser, levels, x, on_step);

    /// The midpoint method with fresh noise in every step.
    Dpm2Ancestral = dpm2::ABOUT_ANCESTRAL => dpm2::dpm2_ancestral(denoiser, levels, x, noise, on_step);

    /// A linear multistep method.
    Lms = lms::ABOUT => lms::lms(denoiser, levels, x, on_step);

    /// DPM-Solver++ over pairs of levels.
    Dpmpp2s {
        /// With fewer steps than this, the last two are of order 1.
        falls_below: usize
    } = dpmpp_2s::ABOUT => dpmpp_2s::dpmpp_2s(denoiser, levels, x, falls_below, on_step);

    /// DPM-Solver++ over past predictions.
    DpmppMultistep {
        /// How many past predictions it uses.
        multistep: Multistep,
        /// How it weighs them.
        expansion: Expansion
    } = dpmpp_multistep::ABOUT_2M, dpmpp_multistep::ABOUT_3M as { multistep: Multistep { order: 3, .. }, .. }
        => dpmpp_multistep::dpmpp_multistep(denoiser, levels, x, multistep, expansion, on_step);

    /// DPM-Solver++ over past predictions with fresh noise in every step.
    DpmppSde {
        /// How many past predictions it uses, order 2 at most.
        multistep: Multistep
    } = dpmpp_sde::ABOUT => dpmpp_sde::dpmpp_sde(denoiser, levels, x, multistep, noise, on_step);

    /// A predictor and a corrector of one form.
    UniPc {
        /// How many past predictions it uses.
        multistep: Multistep,
        /// Scale of the weight that is free.
        b: Bh
    } = unipc::ABOUT => unipc::unipc(denoiser, levels, x, multistep, b, on_step);

    /// An exponential integrator over past predictions of eps.
    Deis {
        /// How many past predictions it uses.
        multistep: Multistep
    } = deis::ABOUT => deis::deis(denoiser, levels, x, multistep, on_step);

    /// A linear multistep method in steps of DDIM.
    Pndm {
        /// How it starts.
        start: PndmStart
    } = pndm::ABOUT, pndm::ABOUT_PLMS as { start: PndmStart::Multistep }
        => pndm::pndm(denoiser, levels, x, start, &half_way, on_step);

    /// Euler's method along the straight path.
    FlowEuler = flow_euler::ABOUT => flow_euler::flow_euler(denoiser, levels, x, on_step);

    /// Heun's method along the straight path.
    FlowHeun = flow_heun::ABOUT => flow_heun::flow_heun(denoiser, levels, x, on_step);

    /// An adaptive solver.
    Rk45 {
        /// Tolerance of its steps.
        tolerance: Tolerance
    } = rk45::ABOUT => rk45::rk45(denoiser, levels, x, tolerance, on_step).0;

    /// Euler's method for the reverse SDE.
    EulerMaruyama = euler_maruyama::ABOUT => euler_maruyama::euler_maruyama(denoiser, levels, x, noise, on_step);

    /// Reverse diffusion with a Langevin corrector.
    PredictorCorrector {
        /// Signal-to-noise ratio of the corrector.
        snr: f64
    } = predictor_corrector::ABOUT
        => predictor_corrector::predictor_corrector(denoiser, levels, x, snr, noise, on_step);

    /// Annealed Langevin dynamics.
    Langevin {
        /// The steps at every level.
        langevin: Langevin
    } = langevin::ABOUT => langevin::langevin(denoiser, levels, x, langevin, noise, on_step);
}

impl Sampler {
    /// One of every name, with its usual options; the first is the default.
    pub const ALL: &[Self] = &{
        let mut all = [Self::ABOUTS[0].usual; Self::ABOUTS.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = Self::ABOUTS[i].usual;
            i += 1;
        }
        all
    };

    /// The names, as the command line knows them, in the order of [`Sampler::ALL`].
    pub const NAMES: [&'static str; Self::ABOUTS.len()] = {
        let mut names = [""; Self::ABOUTS.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = Self::ABOUTS[i].name;
            i += 1;
        }
        names
    };

    /// All options of samplers, each once.
    pub fn options() -> Vec<&'static OptionSpec> {
        let mut options: Vec<&OptionSpec> = Vec::new();
        for spec in Self::ABOUTS.iter().flat_map(|about| about.options.specs) {
            if options.iter().all(|other| other.name != spec.name) {
                options.push(spec);
            }
        }
        options
    }

    /// The sampler of a name, which options may follow: `heun:churn=40`. One that is among `options` too has the value
    /// there.
    pub fn new(text: &str, options: SamplerOptions) -> Result<Self, SamplerError> {
        let (about, in_text) = Self::parse(text)?;
        let options = options.or(in_text);
        for (option, value) in &options.given {
            about.check(option, *value)?;
        }
        about.options.make.map_or(Ok(about.usual), |make| make(&options))
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.about().name
    }

    /// What it is, in one line for people.
    pub const fn description(&self) -> &'static str {
        self.about().description
    }

    /// How many steps it takes of a model by default.
    pub fn usual_steps(&self, diffusion: &Diffusion) -> usize {
        let available = diffusion.schedule().map_or(STEPS_OF_A_PATH, Schedule::len);
        self.about().default_steps.map_or(available, |steps| steps.min(available))
    }

    /// Whether it draws noise in its steps.
    pub fn is_stochastic(&self) -> bool {
        match self.about().noise {
            Noise::Never => false,
            Noise::Always | Noise::Chain => true,
            Noise::If(draws) => draws(self),
        }
    }

    /// Which levels it visits of a model by default: Karras et al.'s for variance-exploding models, and elsewhere those
    /// that suit it.
    pub fn usual_levels(&self, diffusion: &Diffusion) -> LevelSchedule {
        match (diffusion, self.about().grid) {
            (Diffusion::Continuous(ContinuousDiffusion { path: Path::Ve { .. }, .. }), _) => {
                LevelSchedule::Karras { rho: 7.0, ends: Ends::default() }
            }
            (_, Grid::Times) => LevelSchedule::default(),
            (Diffusion::Discrete(_), Grid::Strides) => LevelSchedule::Steps(Spacing::Leading),
            (trained, Grid::Sigmas | Grid::Strides) => LevelSchedule::Exponential { ends: Ends::usual(trained) },
        }
    }

    /// The order with which it claims to converge to the solution of the probability-flow ODE; none if it draws noise,
    /// chooses its own steps, or has options that its file claims nothing of.
    pub fn order(&self) -> Option<u32> {
        self.about().order.filter(|_| *self == self.about().usual)
    }
}

impl About {
    /// Whether the sampler takes this option with this value.
    fn check(&self, option: &'static str, value: f64) -> Result<(), SamplerError> {
        match self.options.specs.iter().find(|spec| spec.name == option) {
            Some(spec) if (spec.range.contains)(value) => Ok(()),
            Some(spec) => Err(SamplerError::OutOfRange { option, found: value, expected: spec.range.expected.into() }),
            None => Err(self.refuse(option)),
        }
    }

    /// The error for an option that the sampler does not take.
    fn refuse(&self, option: &'static str) -> SamplerError {
        let takes = |about: &&&Self| about.options.specs.iter().any(|spec| spec.name == option);
        let takers: Vec<&str> = Sampler::ABOUTS.iter().filter(takes).map(|about| about.name).collect();
        match takers.is_empty() {
            true => SamplerError::NoSuchOption { option },
            false => SamplerError::NotItsOption { sampler: self.name, option, takers: takers.join(" and ") },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_the_sampler_of_that_name() {
        for (name, usual) in Sampler::NAMES.iter().zip(Sampler::ALL) {
            let options = SamplerOptions { variance: Variance::FixedSmall, ..SamplerOptions::default() };
            let sampler = Sampler::new(name, options).unwrap();
            assert_eq!((sampler.name(), sampler), (*name, *usual));
            assert!(!sampler.description().contains('\n'));
            assert_eq!(Sampler::NAMES.iter().filter(|other| *other == name).count(), 1, "{name} twice");
        }
    }

    #[test]
    fn every_option_changes_the_samplers_that_take_it_and_no_other() {
        for spec in Sampler::options() {
            assert!((spec.range.contains)(spec.usual) && !(spec.range.contains)(f64::NAN), "{spec:?}");
            let other = [0.5, 3.0].into_iter().find(|value| *value != spec.usual && (spec.range.contains)(*value));
            let options = SamplerOptions::default().with(spec.name, other.unwrap());
            for about in Sampler::ABOUTS {
                let takes = about.options.specs.iter().any(|taken| taken.name == spec.name);
                match Sampler::new(about.name, options.clone()) {
                    Ok(sampler) => assert!(takes && sampler != about.usual, "{} {}", about.name, spec.name),
                    Err(error) => assert!(!takes && error.to_string().contains(about.name), "{error}"),
                }
            }
        }
    }

    #[test]
    fn what_is_refused_says_what_there_is() {
        let refuse = |name, option, value, message: &str| {
            let options = SamplerOptions::default().with(option, value);
            assert_eq!(Sampler::new(name, options).unwrap_err().to_string(), message);
        };
        let magic = Sampler::new("magic", SamplerOptions::default()).unwrap_err().to_string();
        assert!(magic.contains("magic") && magic.contains("ddpm, ddim"), "{magic}");
        refuse("ddim", "eta", 1.5, "--eta is 1.5; expected a number from 0 to 1");
        refuse("euler", "eta", 0.5, "--eta applies to ddim only, not to euler");
        refuse("heun", "s-churn", -1.0, "--s-churn is -1; expected a number from 0 up");
        refuse("heun", "s-churn", f64::NAN, "--s-churn is NaN; expected a number from 0 up");
        let crossed = SamplerOptions::default().with("s-min", 2.0).with("s-max", 1.0);
        let crossed = Sampler::new("heun", crossed).unwrap_err().to_string();
        assert_eq!(crossed, "--s-min is 2; expected at most --s-max");
        refuse("lms", "s-churn", 1.0, "--s-churn applies to heun only, not to lms");
        refuse("rk45", "atol", 0.0, "--atol is 0; expected a number above 0");
        refuse("langevin", "langevin-steps", 0.0, "--langevin-steps is 0; expected a whole number from 1 up");
        refuse("langevin", "langevin-epsilon", 4.0, "--langevin-epsilon is 4; expected a number above 0 and below 4");
        refuse("predictor-corrector", "snr", -1.0, "--snr is -1; expected a number from 0 to 1");
        refuse("ddim", "speed", 1.0, "no sampler has an option --speed");
    }

    #[test]
    fn noise_ends_the_claim_of_an_order() {
        assert_eq!(Sampler::Ddim { eta: 0.0 }.order(), Some(1));
        assert_eq!(Sampler::Ddim { eta: 0.1 }.order(), None);
        assert_eq!(Sampler::Heun { churn: Churn { amount: 1.0, ..Churn::NONE } }.order(), None);
        let claims = |sampler: &&Sampler| sampler.order().is_some();
        assert!(Sampler::ALL.iter().filter(claims).all(|sampler| !sampler.is_stochastic()));
    }
}
