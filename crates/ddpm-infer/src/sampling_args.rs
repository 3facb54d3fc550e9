//! Arguments about how samples are drawn, for the commands that draw them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use ddpm_model::diffusion::Diffusion;

use crate::guidance::{Guidance, Interval, Threshold};
use crate::levels::{Ends, Ladder, LevelsError};
use crate::numbers::{above_zero, at_least, from_zero, share};
use crate::samplers::{Churn, Langevin, Sampler, SamplerError, SamplerOptions, Tolerance};

/// Options by their names on the command line, such as `eta`.
pub(crate) type Named = BTreeMap<String, String>;

/// What belongs to one sampler or another.
#[derive(Args, Debug)]
pub(crate) struct SamplerArgs {
    /// DDIM eta, from 0 (deterministic, default) to 1.
    #[arg(long, value_name = "ETA", value_parser = share, help_heading = "Sampler")]
    eta: Option<f64>,
    /// S_churn of heun (Karras et al. 2022); default 0.
    #[arg(long, value_name = "AMOUNT", value_parser = from_zero, help_heading = "Sampler")]
    s_churn: Option<f64>,
    /// Smallest sigma with churn.
    #[arg(long, value_name = "SIGMA", requires = "s_churn", default_value_t = Churn::NONE.min, value_parser = from_zero, help_heading = "Sampler")]
    s_min: f64,
    /// Largest sigma with churn.
    #[arg(long, value_name = "SIGMA", requires = "s_churn", default_value_t = Churn::NONE.max, value_parser = from_zero, help_heading = "Sampler")]
    s_max: f64,
    /// Standard deviation of the noise of churn.
    #[arg(long, value_name = "DEVIATION", requires = "s_churn", default_value_t = Churn::NONE.noise, value_parser = from_zero,
        help_heading = "Sampler")]
    s_noise: f64,
    /// Relative tolerance of rk45.
    #[arg(long, value_name = "R", value_parser = from_zero, help_heading = "Sampler")]
    rtol: Option<f64>,
    /// Absolute tolerance of rk45.
    #[arg(long, value_name = "A", value_parser = above_zero, help_heading = "Sampler")]
    atol: Option<f64>,
    /// Signal-to-noise ratio of the corrector of predictor-corrector; 0 for none.
    #[arg(long, value_name = "R", value_parser = share, help_heading = "Sampler")]
    snr: Option<f64>,
    /// Steps of langevin at every level.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>, help_heading = "Sampler")]
    langevin_steps: Option<usize>,
    /// Length of those steps, in units of the variance of the level's noise.
    #[arg(long, value_name = "E", value_parser = above_zero, help_heading = "Sampler")]
    langevin_epsilon: Option<f64>,
}

impl SamplerArgs {
    /// All of them.
    pub(crate) fn all(&self, diffusion: &Diffusion) -> SamplerOptions {
        let churn = |amount: f64| Churn { amount, min: self.s_min, max: self.s_max, noise: self.s_noise };
        SamplerOptions {
            variance: diffusion.variance(),
            eta: self.eta,
            churn: self.s_churn.map(churn),
            tolerance: (self.rtol.is_some() || self.atol.is_some()).then(|| Tolerance {
                absolute: self.atol.unwrap_or(Tolerance::USUAL.absolute),
                relative: self.rtol.unwrap_or(Tolerance::USUAL.relative),
            }),
            langevin: (self.langevin_steps.is_some() || self.langevin_epsilon.is_some()).then(|| Langevin {
                steps: self.langevin_steps.unwrap_or(Langevin::USUAL.steps),
                epsilon: self.langevin_epsilon.unwrap_or(Langevin::USUAL.epsilon),
            }),
            snr: self.snr,
        }
    }

    /// Each of the samplers with the options that it has. An option that none of them has is refused.
    pub(crate) fn samplers(
        &self,
        names: &[String],
        diffusion: &Diffusion,
    ) -> Result<Vec<(Sampler, Named)>, SamplerError> {
        let all = self.all(diffusion);
        let mut unused = all;
        let mut samplers = Vec::new();
        for name in names {
            let own = of_sampler(&all, &Sampler::new(name, SamplerOptions::default())?);
            unused = SamplerOptions {
                variance: all.variance,
                eta: unused.eta.filter(|_| own.eta.is_none()),
                churn: unused.churn.filter(|_| own.churn.is_none()),
                tolerance: unused.tolerance.filter(|_| own.tolerance.is_none()),
                langevin: unused.langevin.filter(|_| own.langevin.is_none()),
                snr: unused.snr.filter(|_| own.snr.is_none()),
            };
            samplers.push((Sampler::new(name, own)?, named(&own)));
        }
        if let Some(name) = names.first() {
            // The error names the option and the sampler that has it.
            Sampler::new(name, unused)?;
        }
        Ok(samplers)
    }
}

/// The options that a sampler has.
fn of_sampler(options: &SamplerOptions, sampler: &Sampler) -> SamplerOptions {
    SamplerOptions {
        variance: options.variance,
        eta: options.eta.filter(|_| matches!(sampler, Sampler::Ddim { .. })),
        churn: options.churn.filter(|_| matches!(sampler, Sampler::Heun { .. })),
        tolerance: options.tolerance.filter(|_| matches!(sampler, Sampler::Rk45 { .. })),
        langevin: options.langevin.filter(|_| matches!(sampler, Sampler::Langevin { .. })),
        snr: options.snr.filter(|_| matches!(sampler, Sampler::PredictorCorrector { .. })),
    }
}

fn named(options: &SamplerOptions) -> Named {
    let mut found: Vec<(&str, String)> = Vec::new();
    found.extend(options.eta.map(|eta| ("eta", eta.to_string())));
    if let Some(Churn { amount, min, max, noise }) = options.churn {
        found.push(("s-churn", amount.to_string()));
        let ends =
            [("s-min", min, Churn::NONE.min), ("s-max", max, Churn::NONE.max), ("s-noise", noise, Churn::NONE.noise)];
        found.extend(ends.into_iter().filter(|(_, value, usual)| value != usual).map(|(n, v, _)| (n, v.to_string())));
    }
    if let Some(Tolerance { absolute, relative }) = options.tolerance {
        found.extend([("rtol", relative.to_string()), ("atol", absolute.to_string())]);
    }
    if let Some(Langevin { steps, epsilon }) = options.langevin {
        found.extend([("langevin-steps", steps.to_string()), ("langevin-epsilon", epsilon.to_string())]);
    }
    found.extend(options.snr.map(|snr| ("snr", snr.to_string())));
    found.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Which noise levels the steps visit.
#[derive(Args, Debug)]
pub(crate) struct LevelArgs {
    #[arg(long, value_name = "NAME", help = levels_help(), help_heading = "Noise")]
    levels: Option<Ladder>,
    /// Last sigma of karras and exponential levels; default: that of the first trained step.
    #[arg(long, value_name = "SIGMA", help_heading = "Noise")]
    sigma_min: Option<f64>,
    /// First sigma of karras and exponential levels; default: that of the last trained step.
    #[arg(long, value_name = "SIGMA", help_heading = "Noise")]
    sigma_max: Option<f64>,
}

impl LevelArgs {
    /// Whether any of them is.
    pub(crate) fn are_given(&self) -> bool {
        self.levels.is_some() || self.sigma_min.is_some() || self.sigma_max.is_some()
    }

    /// Those that were asked for, or what suits the sampler.
    pub(crate) fn of(&self, sampler: Sampler, diffusion: &Diffusion) -> Result<Ladder, LevelsError> {
        let ends = Ends { min: self.sigma_min, max: self.sigma_max };
        match &self.levels {
            Some(levels) => levels.clone().with_ends(ends),
            None if ends == Ends::default() => Ok(sampler.usual_levels(diffusion)),
            None => sampler.usual_levels(diffusion).with_ends(ends.or(Ends::usual(diffusion))),
        }
    }
}

fn levels_help() -> String {
    format!(
        "Noise levels that the steps visit: {}, or a list of falling sigmas such as 14.6,6.5,3.9,2.7,0.03; default: what \
         suits the sampler: linspace, exponential from 80 to 0.02 or leading, and karras where noise explodes",
        Ladder::NAMES.join(", ")
    )
}

/// Guidance but for its scale.
#[derive(Args, Debug)]
pub(crate) struct GuidanceArgs {
    /// Guide only where sigma lies above LO and up to HI; sigma as for --levels.
    #[arg(long, value_name = "LO,HI", requires = "guidance", help_heading = "Guidance")]
    guidance_interval: Option<Interval>,
    /// Guidance rescale phi, from 0 (none) to 1.
    #[arg(long, value_name = "PHI", requires = "guidance", default_value_t = 0.0, value_parser = share,
        help_heading = "Guidance")]
    guidance_rescale: f64,
    /// A weaker snapshot to guide away from, in place of the null class (autoguidance).
    #[arg(long, value_name = "PATH", requires = "guidance", help_heading = "Guidance")]
    pub(crate) guide: Option<PathBuf>,
    /// Dynamic-thresholding percentile (e.g. 0.995), instead of clipping x_0.
    #[arg(long, value_name = "P", help_heading = "Guidance")]
    dynamic_threshold: Option<f64>,
}

impl GuidanceArgs {
    /// At a scale, of which 1 is no guidance.
    pub(crate) fn at(&self, scale: f64) -> Guidance {
        let threshold = self.dynamic_threshold.map(Threshold::at);
        if scale == 1.0 {
            return Guidance { threshold, ..Guidance::default() };
        }
        let interval = self.guidance_interval.unwrap_or_default();
        Guidance { scale, interval, rescale: self.guidance_rescale, threshold }
    }

    /// Those that change samples of this scale.
    pub(crate) fn named(&self, scale: f64) -> Named {
        let mut found: Vec<(&str, String)> = Vec::new();
        if scale != 1.0 {
            let interval =
                self.guidance_interval.map(|Interval { lo, hi }| ("guidance-interval", format!("{lo},{hi}")));
            found.extend(interval);
            found.extend(
                (self.guidance_rescale != 0.0).then(|| ("guidance-rescale", self.guidance_rescale.to_string())),
            );
            found.extend(self.guide.as_ref().map(|guide| ("guide", guide.display().to_string())));
        }
        found.extend(self.dynamic_threshold.map(|share| ("dynamic-threshold", share.to_string())));
        found.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
}
