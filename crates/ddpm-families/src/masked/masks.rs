//! Which of the observed values of a training window are given to the network; the others are what it learns to predict.

use ddpm_data::random::{ChaCha8Rng, RngExt};
use ddpm_model::csdi::masks::{common, random};
use serde::{Deserialize, Serialize};

/// How the cells that are hidden from the network are chosen. Shares are those of the smallest and the largest part that is
/// hidden, and each part between them has the same probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MaskConfig {
    /// Cells anywhere, a share of those that were observed.
    Random {
        /// Share of the cells.
        #[serde(default = "any_share")]
        share: [f64; 2],
        /// How often, relative to the other kinds.
        #[serde(default = "one")]
        weight: f64,
    },
    /// What another training window lacks.
    Historical {
        /// How often, relative to the other kinds.
        #[serde(default = "one")]
        weight: f64,
    },
    /// `"random"` or `"historical"`, with equal probability.
    Mix {
        /// Share of the cells, where they are random.
        #[serde(default = "any_share")]
        share: [f64; 2],
        /// How often, relative to the other kinds.
        #[serde(default = "one")]
        weight: f64,
    },
    /// The last steps, of all variables.
    Forecast {
        /// Share of the steps.
        #[serde(default = "some_share")]
        share: [f64; 2],
        /// How often, relative to the other kinds.
        #[serde(default = "one")]
        weight: f64,
    },
    /// A segment of each variable, anywhere.
    Segment {
        /// Share of the steps.
        #[serde(default = "some_share")]
        share: [f64; 2],
        /// How often, relative to the other kinds.
        #[serde(default = "one")]
        weight: f64,
    },
    /// The same segment of all variables, anywhere.
    Blackout {
        /// Share of the steps.
        #[serde(default = "some_share")]
        share: [f64; 2],
        /// How often, relative to the other kinds.
        #[serde(default = "one")]
        weight: f64,
    },
}

fn any_share() -> [f64; 2] {
    [0.0, 1.0]
}

fn some_share() -> [f64; 2] {
    [0.1, 0.5]
}

fn one() -> f64 {
    1.0
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self::Random { share: any_share(), weight: 1.0 }
    }
}

impl MaskConfig {
    fn parts(&self) -> (f64, Option<[f64; 2]>) {
        match *self {
            Self::Historical { weight } => (weight, None),
            Self::Random { share, weight }
            | Self::Mix { share, weight }
            | Self::Forecast { share, weight }
            | Self::Segment { share, weight }
            | Self::Blackout { share, weight } => (weight, Some(share)),
        }
    }

    /// What is wrong with the numbers, by key.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let (weight, share) = self.parts();
        if !(weight > 0.0 && weight.is_finite()) {
            problems.push(("weight", format!("must be above 0, not {weight}")));
        }
        if let Some([low, high]) = share.filter(|[low, high]| !(0.0 <= *low && low <= high && *high <= 1.0)) {
            problems.push(("share", format!("[{low}, {high}]: expected two rising numbers from 0 to 1")));
        }
        problems
    }
}

/// The observed cells of a window, and the numbers that choose among them.
pub(super) struct Observed<'a> {
    /// `[K, L]`, row by row.
    pub(super) cells: &'a [bool],
    pub(super) variables: usize,
    pub(super) rng: ChaCha8Rng,
}

impl Observed<'_> {
    /// The cells that are given. `pattern(u)` has the observed cells of another training window, which the number u from 0
    /// to 1 chooses; without one the cells are random.
    pub(super) fn given(mut self, masks: &[MaskConfig], pattern: impl Fn(f64) -> Option<Vec<bool>>) -> Vec<bool> {
        match self.choose(masks) {
            MaskConfig::Random { share, .. } => self.random(share),
            MaskConfig::Historical { .. } => self.historical(any_share(), pattern),
            MaskConfig::Mix { share, .. } => match self.rng.random::<bool>() {
                true => self.random(share),
                false => self.historical(share, pattern),
            },
            MaskConfig::Forecast { share, .. } => {
                let hidden = self.steps(share);
                let start = self.length() - hidden;
                self.without(|_| start..start + hidden)
            }
            MaskConfig::Segment { share, .. } => {
                let segments: Vec<_> = (0..self.variables).map(|_| self.segment(share)).collect();
                self.without(|variable| segments[variable].clone())
            }
            MaskConfig::Blackout { share, .. } => {
                let segment = self.segment(share);
                self.without(|_| segment.clone())
            }
        }
    }

    fn length(&self) -> usize {
        self.cells.len() / self.variables
    }

    fn choose(&mut self, masks: &[MaskConfig]) -> MaskConfig {
        let total: f64 = masks.iter().map(|mask| mask.parts().0).sum();
        let mut left = self.rng.random::<f64>() * total;
        let chosen = masks.iter().find(|mask| {
            left -= mask.parts().0;
            left < 0.0
        });
        chosen.or(masks.last()).copied().unwrap_or_default()
    }

    fn share(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.rng.random::<f64>()
    }

    fn steps(&mut self, share: [f64; 2]) -> usize {
        (self.share(share) * self.length() as f64).round() as usize
    }

    fn random(&mut self, share: [f64; 2]) -> Vec<bool> {
        let ratio = self.share(share);
        let uniforms: Vec<f64> = (0..self.cells.len()).map(|_| self.rng.random()).collect();
        random(self.cells, &uniforms, ratio)
    }

    fn historical(&mut self, share: [f64; 2], pattern: impl Fn(f64) -> Option<Vec<bool>>) -> Vec<bool> {
        match pattern(self.rng.random()) {
            Some(pattern) => common(self.cells, &pattern),
            None => self.random(share),
        }
    }

    fn segment(&mut self, share: [f64; 2]) -> std::ops::Range<usize> {
        let hidden = self.steps(share);
        let start = self.rng.random_range(0..=self.length() - hidden);
        start..start + hidden
    }

    /// All but a range of the steps of each variable.
    fn without(&self, hidden: impl Fn(usize) -> std::ops::Range<usize>) -> Vec<bool> {
        let length = self.length();
        let places = self.cells.iter().enumerate();
        places.map(|(place, observed)| *observed && !hidden(place / length).contains(&(place % length))).collect()
    }
}

#[cfg(test)]
mod tests {
    use ddpm_data::random::{Stream, rng};

    use super::*;

    fn given(mask: MaskConfig, place: u64) -> Vec<bool> {
        let mut cells = vec![true; 20];
        cells[3] = false;
        let observed = Observed { cells: &cells, variables: 2, rng: rng(7, Stream::Mask, place) };
        observed.given(&[mask], |_| Some((0..20).map(|place| place % 2 == 0).collect()))
    }

    #[test]
    fn each_kind_hides_what_its_name_says() {
        let share = [0.3, 0.3];
        let weight = 1.0;
        for place in 0..20 {
            let hidden = |mask| (0..20).filter(|&k| k != 3 && !given(mask, place)[k]).collect::<Vec<usize>>();
            assert_eq!(hidden(MaskConfig::Random { share, weight }).len(), 6);
            assert_eq!(hidden(MaskConfig::Forecast { share, weight }), [7, 8, 9, 17, 18, 19]);
            assert_eq!(hidden(MaskConfig::Historical { weight }), [1, 5, 7, 9, 11, 13, 15, 17, 19]);
            let blackout = given(MaskConfig::Blackout { share, weight }, place);
            let start = (0..10).find(|&k| !blackout[10 + k]);
            assert!((0..10).all(|k| blackout[10 + k] != start.is_some_and(|start| (start..start + 3).contains(&k))));
            assert!((0..10).all(|k| k == 3 || blackout[k] == blackout[10 + k]));
            let segments = given(MaskConfig::Segment { share, weight }, place);
            assert_eq!(segments[10..].iter().filter(|given| !**given).count(), 3);
            // What was never observed is never given.
            assert!(!segments[3] && !blackout[3]);
        }
        let mixed = |place| given(MaskConfig::Mix { share, weight }, place);
        let historical = (0..100).filter(|place| mixed(*place) == given(MaskConfig::Historical { weight }, 0)).count();
        assert!((30..70).contains(&historical), "{historical}");
    }

    #[test]
    fn kinds_are_as_frequent_as_their_weights() {
        let masks = [
            MaskConfig::Forecast { share: [0.5, 0.5], weight: 3.0 },
            MaskConfig::Random { share: [0.0, 0.0], weight: 1.0 },
        ];
        let hidden = |place| {
            let observed = Observed { cells: &[true; 4], variables: 2, rng: rng(1, Stream::Mask, place) };
            observed.given(&masks, |_| None) != [true; 4]
        };
        let forecasts = (0..400).filter(|place| hidden(*place)).count();
        assert!((270..330).contains(&forecasts), "{forecasts}");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let problems = MaskConfig::Random { share: [0.5, 0.2], weight: 0.0 }.problems();
        assert_eq!(problems.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["weight", "share"]);
        assert!(MaskConfig::default().problems().is_empty());
    }
}
