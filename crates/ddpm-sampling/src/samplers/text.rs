//! A sampler with its options as text, as command lines and configs have it: `heun:churn=40:max=80`.

use std::collections::BTreeMap;

use super::{About, OptionSpec, Sampler, SamplerError};

impl Sampler {
    /// What a sampler's file declares, and the options that the text gives it.
    pub fn parse(text: &str) -> Result<(&'static About, BTreeMap<&'static str, f64>), SamplerError> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let named = Self::ABOUTS.iter().find(|about| about.name == name);
        let about = *named.ok_or_else(|| SamplerError::Unknown { name: name.to_string() })?;
        let mut given = BTreeMap::new();
        let mut refining = Vec::new();
        for part in parts {
            let (spec, value) = about.option(part)?;
            if given.insert(spec.name, value).is_some() {
                return Err(about.wrong(spec.short_name(), "it is given twice".into()));
            }
            refining.extend(spec.refines.map(|refined| (spec, refined)));
        }
        match refining.into_iter().find(|(_, refined)| !given.contains_key(refined)) {
            Some((spec, refined)) => {
                Err(about.wrong(spec.short_name(), format!("it means nothing without {}", short(refined))))
            }
            None => Ok((about, given)),
        }
    }
}

impl OptionSpec {
    /// Its name behind that of its sampler, such as `churn` for `s-churn`.
    pub fn short_name(&self) -> &'static str {
        short(self.name)
    }
}

fn short(name: &'static str) -> &'static str {
    name.split_once('-').map_or(name, |(_, rest)| rest)
}

impl About {
    /// An option of this sampler and its value, of `OPTION=VALUE`; the name is the short one, or that of the command line.
    fn option(&self, text: &str) -> Result<(&'static OptionSpec, f64), SamplerError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let known = self.options.specs.iter().find(|spec| [spec.name, spec.short_name()].contains(&name));
        let spec =
            known.ok_or_else(|| self.wrong(name, format!("there is no such option; {}", self.options_in_words())))?;
        let number = value.parse().ok().filter(|number| (spec.range.contains)(*number));
        let number =
            number.ok_or_else(|| self.wrong(name, format!("expected {}, not `{value}`", spec.range.expected)))?;
        Ok((spec, number))
    }

    /// The options that it takes, with their ranges.
    fn options_in_words(&self) -> String {
        let word = |spec: &OptionSpec| format!("{} ({})", spec.short_name(), spec.range.expected);
        match self.options.specs {
            [] => format!("{} has no options", self.name),
            specs => format!("there are: {}", specs.iter().map(word).collect::<Vec<_>>().join(", ")),
        }
    }

    fn wrong(&self, option: &str, reason: String) -> SamplerError {
        SamplerError::Option { sampler: self.name, option: option.into(), reason }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Churn, SamplerOptions};
    use super::*;

    fn made(text: &str) -> Result<Sampler, String> {
        Sampler::new(text, SamplerOptions::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn options_stand_behind_the_name_in_short_or_as_on_the_command_line() {
        let churn = Churn { amount: 40.0, max: 80.0, ..Churn::NONE };
        assert_eq!(made("heun:churn=40:max=80"), Ok(Sampler::Heun { churn }));
        assert_eq!(made("heun:s-max=80:s-churn=4e1"), Ok(Sampler::Heun { churn }));
        assert_eq!(made("ddim:eta=0.5"), Ok(Sampler::Ddim { eta: 0.5 }));
        assert_eq!(made("heun"), Ok(Sampler::Heun { churn: Churn::NONE }));
        // An option that is given on its own wins.
        let options = SamplerOptions::default().with("eta", 0.25);
        assert_eq!(Sampler::new("ddim:eta=0.5", options).unwrap(), Sampler::Ddim { eta: 0.25 });
        let (about, given) = Sampler::parse("heun:churn=40").unwrap();
        assert_eq!((about.name, given), ("heun", BTreeMap::from([("s-churn", 40.0)])));
    }

    #[test]
    fn what_is_wrong_with_an_option_is_said_with_what_is_known() {
        let number = "a number from 0 up";
        for (text, said) in [
            (
                "heun:chrn=40",
                format!("option `chrn` of heun: there is no such option; there are: churn ({number}), min ("),
            ),
            ("euler:eta=1", "option `eta` of euler: there is no such option; euler has no options".into()),
            ("heun:churn=-1", format!("option `churn` of heun: expected {number}, not `-1`")),
            ("heun:churn=nan", format!("option `churn` of heun: expected {number}, not `nan`")),
            ("heun:churn=4,max=8", format!("option `churn` of heun: expected {number}, not `4,max=8`")),
            ("heun:churn", format!("option `churn` of heun: expected {number}, not ``")),
            ("heun:", "option `` of heun: there is no such option".into()),
            ("heun:churn=4:s-churn=5", "option `churn` of heun: it is given twice".into()),
            ("heun:max=80", "option `max` of heun: it means nothing without churn".into()),
            ("magic:eta=1", "there is no sampler `magic`; there are: ddpm".into()),
        ] {
            let error = made(text).unwrap_err();
            assert!(error.starts_with(&said), "{text}: {error}");
        }
    }

    #[test]
    fn short_names_of_a_sampler_are_all_different() {
        for about in Sampler::ABOUTS {
            let names: Vec<&str> = about.options.specs.iter().flat_map(|spec| [spec.name, spec.short_name()]).collect();
            for spec in about.options.specs {
                let own = 1 + usize::from(spec.name == spec.short_name());
                let found = names.iter().filter(|name| **name == spec.short_name()).count();
                assert_eq!(found, own, "{} {}", about.name, spec.name);
            }
        }
    }
}
