//! Which noise levels a sampler visits.
//!
//! Levels are data: a sampler takes any list that descends and ends in the clean level. "sigma" is what it is in
//! variance-exploding coordinates, `sigma / alpha` of a level.

use std::str::FromStr;

use ddpm_model::noise_level::{NoiseLevel, NoiseRange};
use serde::{Deserialize, Serialize};

use crate::steps::{Spacing, StepsError, levels};

/// The most levels that samplers visit; no real use comes near.
pub const MOST: usize = 1_000_000;

/// A recipe for noise levels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LevelSchedule {
    /// Those of trained steps; in continuous time, even in time.
    Steps(Spacing),
    /// Even in time from the last step to the first, of which the first is left out ("simple" without rounding).
    SgmUniform,
    /// Times at the quantiles of a Beta distribution: dense at both ends for parameters below 1 (Lee et al. 2024).
    Beta {
        /// Parameter that governs the clean end.
        alpha: f64,
        /// Parameter that governs the noisy end.
        beta: f64,
    },
    /// Even in the rho-th root of sigma (Karras et al. 2022 (5)): denser at the clean end, the more so the larger
    /// rho.
    Karras {
        /// The root.
        rho: f64,
        /// First and last sigma.
        ends: Ends,
    },
    /// Even in the logarithm of sigma, and so in the log-SNR.
    Exponential {
        /// First and last sigma.
        ends: Ends,
    },
    /// These sigmas, as many as there are; for another number of steps, evenly spaced along the logarithms of
    /// these (Sabour et al. 2024, "align your steps").
    Sigmas(Vec<f64>),
}

/// The first and last sigma of a level schedule; `None`: that of the noise schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ends {
    /// The last one before clean data.
    pub min: Option<f64>,
    /// The first one.
    pub max: Option<f64>,
}

/// Why there are no such levels.
#[derive(Debug, thiserror::Error)]
pub enum LevelsError {
    /// Steps that cannot be chosen.
    #[error(transparent)]
    Steps(#[from] StepsError),
    /// No level schedule has this name.
    #[error("there are no levels `{name}`; there are: {}, or sigmas with commas between", LevelSchedule::NAMES.join(", "))]
    Unknown {
        /// The value that was given.
        name: String,
    },
    /// Not a single level.
    #[error("cannot sample in 0 steps")]
    Empty,
    /// So many levels that they would take all memory.
    #[error("cannot sample in {asked} steps, the maximum is {MOST}")]
    TooMany {
        /// The value that was given.
        asked: usize,
    },
    /// A sigma that the network never saw.
    #[error("sigma {sigma} is outside of what was trained, from {max:.6} down to {min:.6}")]
    Untrained {
        /// The value that was given.
        sigma: f64,
        /// The smallest sigma that was trained.
        min: f64,
        /// The largest one.
        max: f64,
    },
    /// Sigmas that do not fall.
    #[error("sigma {after} comes after {before}: expected falling sigmas")]
    NotFalling {
        /// A sigma.
        before: f64,
        /// The one after it.
        after: f64,
    },
    /// Steps that are counted, where they are not.
    #[error(
        "{name} levels are counted in trained steps, of which continuous time has none; try {}",
        LevelSchedule::TIMELESS
    )]
    NoSteps {
        /// The level schedule.
        name: &'static str,
    },
    /// Ends for a level schedule that has its own.
    #[error("sigma-min and sigma-max are the ends of karras and exponential levels, not of {name}")]
    NoEnds {
        /// The level schedule.
        name: &'static str,
    },
}

impl Ends {
    /// From where images can no longer be seen to where noise can no longer be, as far as that was trained.
    pub fn usual(trained: &dyn NoiseRange) -> Self {
        let (min, max) = sigmas_of(trained);
        Self { min: Some(min.max(0.02)), max: Some(max.min(80.0)) }
    }

    /// What it leaves open by another.
    pub fn or(self, other: Self) -> Self {
        Self { min: self.min.or(other.min), max: self.max.or(other.max) }
    }
}

impl Default for LevelSchedule {
    fn default() -> Self {
        Self::Steps(Spacing::default())
    }
}

impl FromStr for LevelSchedule {
    type Err = LevelsError;

    fn from_str(name: &str) -> Result<Self, LevelsError> {
        let ends = Ends::default();
        match name {
            "linspace" => Ok(Self::Steps(Spacing::Linspace)),
            "trailing" => Ok(Self::Steps(Spacing::Trailing)),
            "leading" => Ok(Self::Steps(Spacing::Leading)),
            "stride" => Ok(Self::Steps(Spacing::Stride)),
            "sgm-uniform" => Ok(Self::SgmUniform),
            "beta" => Ok(Self::Beta { alpha: 0.6, beta: 0.6 }),
            "karras" => Ok(Self::Karras { rho: 7.0, ends }),
            "exponential" | "log-linear" => Ok(Self::Exponential { ends }),
            list => list
                .split(',')
                .map(|sigma| sigma.trim().parse())
                .collect::<Result<_, _>>()
                .map(Self::Sigmas)
                .map_err(|_| LevelsError::Unknown { name: name.to_string() }),
        }
    }
}

impl LevelSchedule {
    /// The names that the command line knows; "log-linear" is "exponential" by its other name.
    pub const NAMES: [&str; 9] =
        ["linspace", "trailing", "leading", "stride", "sgm-uniform", "beta", "karras", "exponential", "log-linear"];

    /// Those that need no counted steps.
    const TIMELESS: &str = "linspace, trailing, sgm-uniform, karras or exponential";

    /// The same with other ends, `None` being the schedule's.
    pub fn with_ends(self, ends: Ends) -> Result<Self, LevelsError> {
        match self {
            Self::Karras { rho, .. } => Ok(Self::Karras { rho, ends }),
            Self::Exponential { .. } => Ok(Self::Exponential { ends }),
            other if ends == Ends::default() => Ok(other),
            other => Err(LevelsError::NoEnds { name: other.name() }),
        }
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steps(Spacing::Linspace) => "linspace",
            Self::Steps(Spacing::Trailing) => "trailing",
            Self::Steps(Spacing::Leading) => "leading",
            Self::Steps(Spacing::Stride) => "stride",
            Self::SgmUniform => "sgm-uniform",
            Self::Beta { .. } => "beta",
            Self::Karras { .. } => "karras",
            Self::Exponential { .. } => "exponential",
            Self::Sigmas(_) => "a list of sigmas",
        }
    }

    /// How many steps it has by default, where it fixes their number.
    pub fn own_steps(&self) -> Option<usize> {
        match self {
            Self::Sigmas(sigmas) => Some(sigmas.len()),
            _ => None,
        }
    }

    /// `count` of the levels that were trained, the noisiest first, and the clean one.
    pub fn levels(&self, count: usize, trained: &dyn NoiseRange) -> Result<Vec<NoiseLevel>, LevelsError> {
        if count == 0 {
            return Err(LevelsError::Empty);
        }
        if count > MOST {
            return Err(LevelsError::TooMany { asked: count });
        }
        let ends = |ends: Ends| {
            let (min, max) = sigmas_of(trained);
            let (max, min) = (ends.max.unwrap_or(max), ends.min.unwrap_or(min));
            check(&[max, min], trained).map(|()| (max, min))
        };
        match self {
            Self::Steps(spacing) => match (trained.schedule(), spacing) {
                (Some(schedule), _) => Ok(levels(schedule, &spacing.choose(count, schedule.len())?)),
                (None, Spacing::Linspace) => Ok(at_times(even(1.0, 0.0, count).into_iter(), trained)),
                (None, Spacing::Trailing) => Self::SgmUniform.levels(count, trained),
                (None, Spacing::Leading | Spacing::Stride) => Err(LevelsError::NoSteps { name: self.name() }),
            },
            Self::SgmUniform => Ok(at_times(even(1.0, 0.0, count + 1)[..count].iter().copied(), trained)),
            Self::Beta { alpha, beta } => {
                let quantiles = even(1.0, 0.0, count).into_iter().map(|p| beta_quantile(p, *alpha, *beta));
                Ok(at_times(quantiles, trained))
            }
            Self::Karras { rho, ends: asked } => {
                let (max, min) = ends(*asked)?;
                Ok(of_sigmas(&karras(count, max, min, *rho)))
            }
            Self::Exponential { ends: asked } => {
                let (max, min) = ends(*asked)?;
                Ok(of_sigmas(&exponential(count, max, min)))
            }
            Self::Sigmas(sigmas) => {
                check(sigmas, trained)?;
                Ok(of_sigmas(&if sigmas.len() == count { sigmas.clone() } else { resampled(sigmas, count) }))
            }
        }
    }
}

/// Karras et al. 2022 (5).
pub fn karras(count: usize, max: f64, min: f64, rho: f64) -> Vec<f64> {
    even(max.powf(1.0 / rho), min.powf(1.0 / rho), count).into_iter().map(|root| root.powf(rho)).collect()
}

/// `count` sigmas, each the same share of the one before.
pub fn exponential(count: usize, max: f64, min: f64) -> Vec<f64> {
    even(max.ln(), min.ln(), count).into_iter().map(f64::exp).collect()
}

/// The logarithms of sigmas as a polyline, at `count` even places.
fn resampled(sigmas: &[f64], count: usize) -> Vec<f64> {
    let last = sigmas.len() - 1;
    let at = |place: f64| {
        let low = (place as usize).min(last);
        let (a, b) = (sigmas[low].ln(), sigmas[(low + 1).min(last)].ln());
        (a + (b - a) * (place - low as f64)).exp()
    };
    even(0.0, last as f64, count).into_iter().map(at).collect()
}

/// `count` even numbers with both ends; a single one is the first end, because samples have to start from noise.
fn even(first: f64, last: f64, count: usize) -> Vec<f64> {
    let gaps = count.max(2) - 1;
    (0..count).map(|i| first + (last - first) * (i as f64 / gaps as f64)).collect()
}

/// The smallest and the largest sigma that were trained.
fn sigmas_of(trained: &dyn NoiseRange) -> (f64, f64) {
    (trained.level_at(0.0).ratio(), trained.level_at(1.0).ratio())
}

fn check(sigmas: &[f64], trained: &dyn NoiseRange) -> Result<(), LevelsError> {
    let (min, max) = sigmas_of(trained);
    if let Some(sigma) = sigmas.iter().copied().find(|sigma| !(min..=max).contains(sigma)) {
        return Err(LevelsError::Untrained { sigma, min, max });
    }
    match sigmas.windows(2).find(|pair| pair[0] <= pair[1]) {
        Some(pair) => Err(LevelsError::NotFalling { before: pair[0], after: pair[1] }),
        None => Ok(()),
    }
}

fn of_sigmas(sigmas: &[f64]) -> Vec<NoiseLevel> {
    sigmas.iter().copied().chain([0.0]).map(NoiseLevel::from_ratio).collect()
}

/// Levels at shares of the way from the cleanest to the noisiest.
fn at_times(shares: impl Iterator<Item = f64>, trained: &dyn NoiseRange) -> Vec<NoiseLevel> {
    shares.map(|share| trained.level_at(share)).chain([NoiseLevel::from_ratio(0.0)]).collect()
}

/// The x below which a share `p` of the Beta distribution lies.
fn beta_quantile(p: f64, alpha: f64, beta: f64) -> f64 {
    // Halved until the interval is one of neighbouring numbers.
    let (mut low, mut high) = (0.0, 1.0);
    if p <= low || p >= high {
        return p;
    }
    loop {
        let middle = (low + high) / 2.0;
        if middle <= low || middle >= high {
            return middle;
        }
        match beta_below(middle, alpha, beta) < p {
            true => low = middle,
            false => high = middle,
        }
    }
}

/// The share of the Beta distribution below x.
fn beta_below(x: f64, alpha: f64, beta: f64) -> f64 {
    let whole = beta_integral(0.5, alpha, beta) + beta_integral(0.5, beta, alpha);
    match x <= 0.5 {
        true => beta_integral(x, alpha, beta) / whole,
        false => 1.0 - beta_integral(1.0 - x, beta, alpha) / whole,
    }
}

/// The integral of `u^(a-1) (1-u)^(b-1)` from 0 to x, for x up to a half, where its series (DLMF 8.17.8)
/// converges at least as fast as powers of a half.
fn beta_integral(x: f64, a: f64, b: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0, 1.0, 0.0);
    while term > sum * f64::EPSILON / 2.0 {
        term *= (a + b + n) / (a + 1.0 + n) * x;
        sum += term;
        n += 1.0;
    }
    x.powf(a) * (1.0 - x).powf(b) / a * sum
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_model::path::Path;
    use ddpm_model::schedule::{Schedule, ScheduleConfig};

    fn schedule() -> Schedule {
        ScheduleConfig::default().init().unwrap()
    }

    fn all() -> Vec<LevelSchedule> {
        LevelSchedule::NAMES
            .iter()
            .map(|name| name.parse().unwrap())
            .chain([LevelSchedule::Sigmas(vec![100.0, 3.0, 0.1])])
            .collect()
    }

    #[test]
    fn every_name_makes_the_level_schedule_of_that_name() {
        for name in LevelSchedule::NAMES.into_iter().filter(|name| *name != "log-linear") {
            assert_eq!(name.parse::<LevelSchedule>().unwrap().name(), name);
        }
        assert_eq!("log-linear".parse::<LevelSchedule>().unwrap().name(), "exponential");
        assert_eq!(LevelSchedule::default().name(), LevelSchedule::NAMES[0]);
    }

    #[test]
    fn every_level_schedule_falls_from_noise_to_clean_data() {
        for recipe in all() {
            for count in [1, 2, 3, 10] {
                let levels = match recipe.levels(count, &schedule()) {
                    Err(LevelsError::Steps(StepsError::Stride(_))) => continue,
                    levels => levels.unwrap(),
                };
                assert_eq!(levels.len(), count + 1);
                assert!(levels.is_sorted_by(|a, b| a.ratio() > b.ratio()), "{recipe:?} {levels:?}");
                assert!(levels.iter().all(|l| (l.alpha.powi(2) + l.sigma.powi(2) - 1.0).abs() < 1e-12));
                assert_eq!(levels[count], NoiseLevel { alpha: 1.0, sigma: 0.0 });
                // Those two start where their stride leads.
                let anywhere =
                    [LevelSchedule::Steps(Spacing::Leading), LevelSchedule::Steps(Spacing::Stride)].contains(&recipe);
                assert!(levels[0].ratio() > 99.0 || anywhere, "{recipe:?} {levels:?}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_schedule_are_visited() {
        let schedule = schedule();
        for name in ["beta", "karras", "exponential"] {
            let levels = name.parse::<LevelSchedule>().unwrap().levels(5, &schedule).unwrap();
            assert!((schedule.time_of(levels[0]) - 999.0).abs() < 1e-9);
            assert!(schedule.time_of(levels[4]) < 1e-9);
        }
        let even = LevelSchedule::SgmUniform.levels(4, &schedule).unwrap();
        for (level, time) in even.iter().zip([999.0, 749.25, 499.5, 249.75]) {
            assert!((schedule.time_of(*level) - time).abs() < 1e-9, "{time}");
        }
    }

    #[test]
    fn a_path_is_visited_from_its_noisiest_time_to_its_cleanest() {
        for path in [Path::Vp { beta_min: 0.1, beta_max: 20.0 }, Path::Ve { sigma_min: 0.1, sigma_max: 9.0 }] {
            let [first, last] = path.times();
            for name in LevelSchedule::NAMES {
                let recipe: LevelSchedule = name.parse().unwrap();
                let Ok(levels) = recipe.levels(4, &path) else {
                    assert!(["leading", "stride"].contains(&name), "{name}");
                    assert!(recipe.levels(4, &path).unwrap_err().to_string().contains(name));
                    continue;
                };
                assert!(levels.is_sorted_by(|a, b| a.ratio() > b.ratio()), "{name} {levels:?}");
                let times: Vec<f64> = levels[..4].iter().map(|level| path.time_of_ratio(level.ratio())).collect();
                assert!((times[0] - last).abs() < 1e-9, "{name} {times:?}");
                let cleanest =
                    if ["trailing", "sgm-uniform"].contains(&name) { first + (last - first) / 4.0 } else { first };
                assert!((times[3] - cleanest).abs() < 1e-9, "{name} {times:?}");
            }
        }
    }

    #[test]
    fn quantiles_of_beta_distributions_that_are_known() {
        for i in 0..=20 {
            let p = f64::from(i) / 20.0;
            let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-13, "{p}: {found} {wanted}");
            close(beta_quantile(p, 1.0, 1.0), p);
            close(beta_quantile(p, 0.5, 0.5), (p * std::f64::consts::FRAC_PI_2).sin().powi(2));
            close(beta_quantile(p, 3.0, 1.0), p.cbrt());
            close(beta_quantile(p, 1.0, 2.0), 1.0 - (1.0 - p).sqrt());
            close(beta_quantile(p, 0.6, 0.6) + beta_quantile(1.0 - p, 0.6, 0.6), 1.0);
        }
    }

    #[test]
    fn a_list_is_taken_as_it_is_or_resampled() {
        let recipe: LevelSchedule = "100, 10,0.1".parse().unwrap();
        assert_eq!(recipe.own_steps(), Some(3));
        let sigmas =
            |count| recipe.levels(count, &schedule()).unwrap().into_iter().map(NoiseLevel::ratio).collect::<Vec<_>>();
        let close = |found: Vec<f64>, wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len());
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() <= 1e-12 * w), "{found:?}");
        };
        close(sigmas(3), &[100.0, 10.0, 0.1, 0.0]);
        close(sigmas(5), &[100.0, 1000f64.sqrt(), 10.0, 1.0, 0.1, 0.0]);
    }

    #[test]
    fn what_is_impossible_says_why() {
        let refuse = |recipe: &str, ends: Ends, parts: &[&str]| {
            let recipe = recipe.parse::<LevelSchedule>().and_then(|recipe| recipe.with_ends(ends));
            let message = recipe.and_then(|recipe| recipe.levels(3, &schedule())).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        let none = Ends::default();
        refuse("bogus", none, &["bogus", "karras", "sgm-uniform"]);
        refuse("1,3,2", none, &["3 comes after 1", "falling"]);
        refuse("900,2,1", none, &["900", "157.4"]);
        refuse("NaN", none, &["NaN"]);
        refuse("trailing", Ends { min: Some(1.0), max: None }, &["trailing", "karras"]);
        refuse("karras", Ends { min: None, max: Some(1e4) }, &["10000", "157.4"]);
        refuse("karras", Ends { min: Some(0.0), max: None }, &["0.01"]);
        refuse("exponential", Ends { min: Some(5.0), max: Some(2.0) }, &["falling"]);
        assert!(LevelSchedule::default().levels(0, &schedule()).is_err());
        assert!("karras".parse::<LevelSchedule>().unwrap().levels(0, &schedule()).is_err());
    }
}
