//! Which of the trained steps a sampler visits.

use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::schedule::{Schedule, ScheduleError, spaced_steps};
use serde::{Deserialize, Serialize};

/// How a few of the trained steps are chosen. With all steps the choices are the same.
///
/// `Linspace` is the default because it visits both ends. Samples start from pure noise, so the denoiser
/// must be evaluated at the noisiest level first, which `Leading` and `Stride` skip; and fine detail appears at
/// the cleanest levels, which `Trailing` skips. For a Gaussian, the exact denoiser and DDIM in 50 steps of a
/// cosine schedule, the mean is off by 0.001 with `Linspace` or `Trailing` and 0.010 with `Leading`, and the
/// thinnest direction keeps 0.79 of its width with `Linspace` or `Leading` and 0.74 with `Trailing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// From T-1 to 0 with both ends, rounded: also what improved-diffusion does for one section.
    #[default]
    Linspace,
    /// T-1 downwards in equal, rounded strides; the last jump, to clean data, is as long as the others.
    Trailing,
    /// Multiples of floor(T / n), from 0: what DDPM and DDIM pipelines of diffusers do by default.
    Leading,
    /// Multiples, from 0, of the whole stride that visits exactly n steps of the table: improved-diffusion's
    /// "ddimN". Not every count has one.
    Stride,
}

/// Why steps cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum StepsError {
    /// No step, or more than there are.
    #[error("cannot sample in {asked} steps: the schedule has {available}, so choose from 1 to {available}")]
    Count {
        /// The number that was given.
        asked: usize,
        /// Length of the schedule.
        available: usize,
    },
    /// No whole stride gives that count.
    #[error(transparent)]
    Stride(#[from] ScheduleError),
}

impl Spacing {
    /// `count` of the steps 0 to `available` - 1, the noisiest first.
    pub fn choose(self, count: usize, available: usize) -> Result<Vec<usize>, StepsError> {
        if count == 0 || count > available {
            return Err(StepsError::Count { asked: count, available });
        }
        let (n, last) = (count as f64, (available - 1) as f64);
        // The reference implementations round halves to even; other roundings visit other steps.
        let ascending: Vec<usize> = match self {
            Self::Trailing => {
                (1..=count).map(|i| (i as f64 * available as f64 / n).round_ties_even() as usize - 1).collect()
            }
            Self::Leading => (0..count).map(|i| i * (available / count)).collect(),
            // A single step has to start from noise.
            Self::Linspace if count == 1 => vec![available - 1],
            Self::Linspace => (0..count).map(|i| (i as f64 * last / (n - 1.0)).round_ties_even() as usize).collect(),
            Self::Stride => spaced_steps(&format!("ddim{count}"), available)?,
        };
        Ok(ascending.into_iter().rev().collect())
    }
}

/// The noise levels of the steps, and the clean level to end in.
pub fn levels(schedule: &Schedule, steps: &[usize]) -> Vec<NoiseLevel> {
    let clean = NoiseLevel { alpha: 1.0, sigma: 0.0 };
    steps.iter().map(|t| schedule.level(*t)).chain([clean]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: [Spacing; 4] = [Spacing::Trailing, Spacing::Leading, Spacing::Linspace, Spacing::Stride];

    #[test]
    fn four_of_ten() {
        let four_of_ten = ALL.map(|spacing| spacing.choose(4, 10).unwrap());
        assert_eq!(four_of_ten, [vec![9, 7, 4, 1], vec![6, 4, 2, 0], vec![9, 6, 3, 0], vec![9, 6, 3, 0]]);
    }

    #[test]
    fn fifty_of_a_thousand() {
        let ends = |spacing: Spacing| {
            let steps = spacing.choose(50, 1000).unwrap();
            assert_eq!(steps.len(), 50);
            (steps[0], steps[1], steps[49])
        };
        assert_eq!(ends(Spacing::Trailing), (999, 979, 19));
        assert_eq!(ends(Spacing::Leading), (980, 960, 0));
        assert_eq!(ends(Spacing::Linspace), (999, 979, 0));
        assert_eq!(ends(Spacing::Stride), (980, 960, 0));
    }

    #[test]
    fn every_possible_count_visits_that_many_different_steps() {
        for available in [1, 2, 7, 100] {
            for asked in 1..=available {
                for spacing in ALL {
                    let Ok(steps) = spacing.choose(asked, available) else {
                        assert_eq!(spacing, Spacing::Stride);
                        continue;
                    };
                    assert_eq!(steps.len(), asked);
                    assert!(steps[0] < available);
                    assert!(steps.is_sorted_by(|a, b| a > b), "{spacing:?} {asked} of {available}: {steps:?}");
                }
            }
        }
    }

    #[test]
    fn impossible_counts_name_the_numbers() {
        for asked in [0, 1001] {
            let message = Spacing::Trailing.choose(asked, 1000).unwrap_err().to_string();
            assert!(message.contains(&asked.to_string()) && message.contains("1000"), "{message}");
        }
        let message = Spacing::Stride.choose(600, 1000).unwrap_err().to_string();
        assert!(message.contains("600"), "{message}");
    }
}
