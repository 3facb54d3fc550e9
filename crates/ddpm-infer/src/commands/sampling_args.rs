//! Arguments about how samples are drawn, for the commands that draw them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use ddpm_console::numbers::share;
use ddpm_model::diffusion::Diffusion;
use ddpm_sampling::guidance::{Guidance, Interval, Threshold};
use ddpm_sampling::levels::{Ends, LevelSchedule, LevelsError};
use ddpm_sampling::samplers::{OptionSpec, Sampler, SamplerError, SamplerOptions};

/// Options by their names on the command line, such as `eta`.
pub(crate) type Named = BTreeMap<String, String>;

/// The options of samplers, as their files declare them.
#[derive(Debug)]
pub(crate) struct SamplerArgs {
    given: BTreeMap<&'static str, f64>,
}

impl Args for SamplerArgs {
    fn augment_args(command: Command) -> Command {
        Sampler::options().into_iter().fold(command, |command, spec| command.arg(argument(spec)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SamplerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |spec: &OptionSpec| Some((spec.name, *matches.get_one(spec.name)?));
        Ok(Self { given: Sampler::options().into_iter().filter_map(value).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given.extend(Self::from_arg_matches(matches)?.given);
        Ok(())
    }
}

fn argument(spec: &'static OptionSpec) -> Arg {
    let parse = |text: &str| {
        let number = text.parse().ok().filter(|number| (spec.range.contains)(*number));
        number.ok_or_else(|| format!("expected {}", spec.range.expected))
    };
    let argument = Arg::new(spec.name).long(spec.name).value_name(spec.value_name).help(spec.help);
    let argument = argument.help_heading("Sampler").value_parser(parse);
    spec.refines.into_iter().fold(argument, Arg::requires)
}

impl SamplerArgs {
    /// The first of them that was given, without its dashes.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        self.given.keys().next().copied()
    }

    /// All of them, for a model.
    pub(crate) fn all(&self, diffusion: &Diffusion) -> SamplerOptions {
        SamplerOptions { variance: diffusion.variance(), given: self.given.clone() }
    }

    /// Each of the samplers, whose names may bring options, with the options that it takes. An option that none of them
    /// takes is refused.
    pub(crate) fn samplers(
        &self,
        names: &[String],
        diffusion: &Diffusion,
    ) -> Result<Vec<(Sampler, Named)>, SamplerError> {
        let all = self.all(diffusion);
        let mut unused = all.clone();
        let mut samplers = Vec::new();
        for name in names {
            let (about, given) = Sampler::parse(name)?;
            let specs = about.options.specs;
            let mut own = SamplerOptions { variance: all.variance, given };
            for spec in specs {
                own.given.extend(all.given.get_key_value(spec.name));
                unused.given.remove(spec.name);
            }
            let named = named(specs, &own);
            samplers.push((Sampler::new(about.name, own)?, named));
        }
        if let Some(name) = names.first() {
            // The error names the option and the samplers that take it.
            Sampler::new(name, unused)?;
        }
        Ok(samplers)
    }
}

/// The options of one sampler if any of them is given: all that matter on their own, and those that refine others where
/// they are not as usual.
fn named(specs: &[OptionSpec], own: &SamplerOptions) -> Named {
    let matters = |spec: &&OptionSpec| spec.refines.is_none() || own.value(spec) != spec.usual;
    let specs = specs.iter().filter(|_| !own.given.is_empty()).filter(matters);
    specs.map(|spec| (spec.name.to_string(), own.value(spec).to_string())).collect()
}

/// Which noise levels the steps visit.
#[derive(Args, Debug)]
pub(crate) struct LevelArgs {
    #[arg(long, value_name = "NAME", help = levels_help(), help_heading = "Noise")]
    levels: Option<LevelSchedule>,
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

    /// Those that were given, or those that suit the sampler.
    pub(crate) fn of(&self, sampler: Sampler, diffusion: &Diffusion) -> Result<LevelSchedule, LevelsError> {
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
         suits the sampler: linspace, exponential from 80 to 0.02 or leading, and karras for variance-exploding models",
        LevelSchedule::NAMES.join(", ")
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
    /// Whether x_0 is thresholded, which needs no guidance scale.
    pub(crate) fn has_threshold(&self) -> bool {
        self.dynamic_threshold.is_some()
    }

    /// At a scale, of which 1 is no guidance.
    pub(crate) fn at(&self, scale: f64) -> Guidance {
        let threshold = self.dynamic_threshold.map(Threshold::at);
        if scale == 1.0 {
            return Guidance { threshold, ..Guidance::default() };
        }
        let interval = self.guidance_interval.unwrap_or_default();
        Guidance { scale, interval, rescale: self.guidance_rescale, threshold, ..Guidance::default() }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;
    use ddpm_model::gaussian::GaussianDiffusion;
    use ddpm_model::prediction::Prediction;
    use ddpm_model::schedule::ScheduleConfig;
    use ddpm_model::variance::Variance;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: SamplerArgs,
    }

    /// The recorded options of every sampler, or the error.
    fn recorded(words: &[&str], names: &[&str]) -> Result<Vec<String>, String> {
        let schedule = ScheduleConfig::default().init().unwrap();
        let diffusion = Diffusion::Discrete(GaussianDiffusion::new(schedule, Prediction::Eps, Variance::FixedSmall));
        let words = ["program"].iter().chain(words);
        let program = Program::try_parse_from(words).map_err(|error| error.to_string())?;
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let samplers = program.options.samplers(&names, &diffusion).map_err(|error| error.to_string())?;
        let line = |named: Named| named.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>();
        Ok(samplers.into_iter().map(|(_, named)| line(named).join(", ")).collect())
    }

    #[test]
    fn every_sampler_gets_its_own_options_and_they_are_recorded() {
        let all = ["--eta", "0.5", "--rtol", "1e-3", "--s-churn", "5", "--s-max", "80", "--langevin-steps", "7"];
        let found = recorded(&all, &["ddim", "euler", "rk45", "heun", "langevin"]).unwrap();
        let langevin = "langevin-epsilon 0.2, langevin-steps 7";
        assert_eq!(found, ["eta 0.5", "", "atol 0.00001, rtol 0.001", "s-churn 5, s-max 80", langevin]);
        assert_eq!(recorded(&[], &["ddim"]).unwrap(), [""]);
    }

    #[test]
    fn options_behind_the_names_are_recorded_as_those_of_the_command_line_which_win() {
        let found = recorded(&[], &["heun", "heun:churn=40", "heun:churn=80:max=50", "ddim:eta=0.5"]).unwrap();
        assert_eq!(found, ["", "s-churn 40", "s-churn 80, s-max 50", "eta 0.5"]);
        assert_eq!(recorded(&["--eta", "0.25"], &["ddim:eta=0.5"]).unwrap(), ["eta 0.25"]);
        let unknown = recorded(&[], &["ddim", "heun:speed=1"]).unwrap_err();
        assert!(unknown.contains("`speed` of heun") && unknown.contains("churn (a number from 0 up)"), "{unknown}");
    }

    #[test]
    fn options_that_apply_to_none_of_the_samplers_are_refused() {
        let error = |words: &[&str], names: &[&str]| recorded(words, names).unwrap_err();
        assert_eq!(error(&["--snr", "0.1"], &["ddim"]), "--snr applies to predictor-corrector only, not to ddim");
        assert!(error(&["--s-noise", "1"], &["heun"]).contains("--s-churn"));
        assert!(error(&["--langevin-steps", "1.5"], &["langevin"]).contains("expected a whole number from 1 up"));
        assert!(error(&["--eta", "nan"], &["ddim"]).contains("expected a number from 0 to 1"));
    }
}
