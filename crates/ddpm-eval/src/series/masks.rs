//! Which of the observed values of a window are held out, to evaluate a model that fills in missing values.
//!
//! Every mask is a function of (seed, window) and of what is observed: the same for all models, and for a window however
//! many others there are.

use std::fmt;

use ddpm_data::random::{ChaCha8Rng, RngExt, Stream, rng};

use crate::EvaluationError;

/// How held-out values are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeldOut {
    /// A random share of the observed values.
    Random {
        /// The share, between 0 and 1; the number of values is rounded.
        share: f64,
    },
    /// One segment of every variable, each at a place of its own ("missing not at random" of SSSD).
    Segments {
        /// Its steps.
        steps: usize,
    },
    /// The same segment of all variables ("blackout missing" of SSSD).
    Blackout {
        /// Its steps.
        steps: usize,
    },
    /// The last steps of all variables.
    Forecast {
        /// Their number.
        steps: usize,
    },
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random { share } => write!(f, "random {} %", (share * 1e4).round() / 100.0),
            Self::Segments { steps } => write!(f, "segments of {steps} steps"),
            Self::Blackout { steps } => write!(f, "blackout of {steps} steps"),
            Self::Forecast { steps } => write!(f, "forecast of {steps} steps"),
        }
    }
}

impl HeldOut {
    /// Random masks of the usual three shares.
    pub const USUAL: [Self; 3] =
        [Self::Random { share: 0.1 }, Self::Random { share: 0.5 }, Self::Random { share: 0.9 }];

    /// Which values of a window [L, K] are held out; only such as are observed.
    pub fn of_window(
        self,
        observed: &[bool],
        [length, variables]: [usize; 2],
        seed: u64,
        window: u64,
    ) -> Result<Vec<bool>, EvaluationError> {
        self.check(observed.len(), [length, variables])?;
        let mut numbers = rng(seed, Stream::Split, window);
        let mut held_out = vec![false; observed.len()];
        let mut hide = |variable: usize, start: usize, steps: usize| {
            (start..start + steps).for_each(|step| held_out[step * variables + variable] = true);
        };
        match self {
            Self::Random { share } => return Ok(random(observed, share, &mut numbers)),
            Self::Segments { steps } => {
                (0..variables).for_each(|variable| hide(variable, numbers.random_range(0..=length - steps), steps));
            }
            Self::Blackout { steps } => {
                let start = numbers.random_range(0..=length - steps);
                (0..variables).for_each(|variable| hide(variable, start, steps));
            }
            Self::Forecast { steps } => (0..variables).for_each(|variable| hide(variable, length - steps, steps)),
        }
        Ok(held_out.iter().zip(observed).map(|(held_out, observed)| *held_out && *observed).collect())
    }

    fn check(self, values: usize, [length, variables]: [usize; 2]) -> Result<(), EvaluationError> {
        let refuse = |reason: String| Err(EvaluationError::Argument { what: "held-out values", reason });
        if values != length * variables {
            return refuse(format!("{values} values are no window of {length} steps of {variables} variables"));
        }
        match self {
            Self::Random { share } if !(share > 0.0 && share < 1.0) => {
                refuse(format!("a share of {share}; expected one between 0 and 1"))
            }
            Self::Segments { steps } | Self::Blackout { steps } | Self::Forecast { steps }
                if steps == 0 || steps >= length =>
            {
                refuse(format!("{steps} steps of a window of {length}; expected 1 to {}", length.saturating_sub(1)))
            }
            _ => Ok(()),
        }
    }
}

/// A share of the observed values, without replacement.
fn random(observed: &[bool], share: f64, numbers: &mut ChaCha8Rng) -> Vec<bool> {
    let mut places: Vec<usize> = (0..observed.len()).filter(|place| observed[*place]).collect();
    let count = (places.len() as f64 * share).round() as usize;
    let mut held_out = vec![false; observed.len()];
    for k in 0..count {
        let other = numbers.random_range(k..places.len());
        places.swap(k, other);
        held_out[places[k]] = true;
    }
    held_out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [40, 3];

    fn mask(how: HeldOut, window: u64) -> Vec<bool> {
        how.of_window(&observed(), SHAPE, 5, window).unwrap()
    }

    /// All but every seventh value.
    fn observed() -> Vec<bool> {
        (0..120).map(|place| place % 7 != 0).collect()
    }

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|value| **value).count()
    }

    #[test]
    fn held_out_values_are_observed_and_a_function_of_seed_and_window() {
        let all = HeldOut::USUAL.into_iter().chain([
            HeldOut::Segments { steps: 8 },
            HeldOut::Blackout { steps: 8 },
            HeldOut::Forecast { steps: 8 },
        ]);
        for how in all {
            let found = mask(how, 3);
            assert_eq!(found, mask(how, 3));
            assert!(found.iter().zip(observed()).all(|(held_out, observed)| !held_out || observed), "{how}");
            let same = found == mask(how, 4) && mask(how, 4) == mask(how, 5);
            assert_eq!(same, matches!(how, HeldOut::Forecast { .. }), "{how}");
        }
    }

    #[test]
    fn masks_hold_out_what_they_are_named_after() {
        let places = count(&observed());
        for how in HeldOut::USUAL {
            let HeldOut::Random { share } = how else { unreachable!() };
            assert_eq!(count(&mask(how, 0)), (places as f64 * share).round() as usize);
        }
        assert_eq!(HeldOut::USUAL[1].to_string(), "random 50 %");
        let complete = vec![true; 120];
        let steps_of = |how: HeldOut, variable: usize| -> Vec<usize> {
            let mask = how.of_window(&complete, SHAPE, 5, 9).unwrap();
            (0..40).filter(|step| mask[step * 3 + variable]).collect()
        };
        for how in [HeldOut::Segments { steps: 8 }, HeldOut::Blackout { steps: 8 }] {
            let steps: Vec<Vec<usize>> = (0..3).map(|variable| steps_of(how, variable)).collect();
            for steps in &steps {
                assert!(steps.len() == 8 && steps[7] - steps[0] == 7, "{how}: {steps:?}");
            }
            assert_eq!(steps[0] == steps[1] && steps[1] == steps[2], how == HeldOut::Blackout { steps: 8 });
        }
        assert_eq!(steps_of(HeldOut::Forecast { steps: 8 }, 1), (32..40).collect::<Vec<_>>());
    }

    #[test]
    fn what_leaves_nothing_is_refused() {
        for how in [HeldOut::Random { share: 0.0 }, HeldOut::Forecast { steps: 40 }, HeldOut::Blackout { steps: 0 }] {
            assert!(how.of_window(&observed(), SHAPE, 0, 0).is_err(), "{how}");
        }
        assert!(HeldOut::USUAL[0].of_window(&observed(), [40, 2], 0, 0).is_err());
    }
}
