//! The mask strategies of the original CSDI, for the golden tests; training uses those of `ddpm_families::masked::masks`.
//!
//! A mask says which of the observed values of a series are given to the network; the others are its targets.
//! Pure functions of random numbers that are passed in. A mask is a list over all places of a series, true where something
//! is.

use serde::{Deserialize, Serialize};

/// How places are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskStrategy {
    /// A random share of the observed values are targets.
    #[default]
    Random,
    /// What the pattern of another series, the one before in the batch, lacks are targets.
    Historical,
    /// Random or historical, with equal probability for each series.
    Mix,
    /// What the series' own pattern lacks are targets, such as everything after the present.
    #[serde(alias = "test")]
    Forecast,
}

/// The random numbers of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskDraw {
    /// The share of the observed values that are targets, uniform in 0 to 1.
    pub ratio: f64,
    /// One number for each place, uniform in 0 to 1.
    pub uniforms: Vec<f64>,
    /// Above one half: random, else historical.
    pub choice: f64,
}

impl MaskStrategy {
    /// Whether a strategy takes random numbers.
    pub fn is_random(self) -> bool {
        matches!(self, Self::Random | Self::Mix)
    }

    /// What is given of every series of a batch. `patterns` are those of the series; `draws` may be empty where
    /// the strategy [takes none](Self::is_random).
    pub fn given(self, observed: &[Vec<bool>], patterns: &[Vec<bool>], draws: &[MaskDraw]) -> Vec<Vec<bool>> {
        let batch = observed.len();
        let of_series = |(i, observed): (usize, &Vec<bool>)| {
            let before = || common(observed, &patterns[(i + batch - 1) % batch]);
            match self {
                Self::Random => random(observed, &draws[i].uniforms, draws[i].ratio),
                Self::Mix if draws[i].choice > 0.5 => random(observed, &draws[i].uniforms, draws[i].ratio),
                Self::Historical | Self::Mix => before(),
                Self::Forecast => common(observed, &patterns[i]),
            }
        };
        observed.iter().enumerate().map(of_series).collect()
    }
}

/// All observed places but a share of them, those with the largest numbers. Their count is rounded, halves to even.
pub fn random(observed: &[bool], uniforms: &[f64], ratio: f64) -> Vec<bool> {
    let mut places: Vec<usize> = (0..observed.len()).filter(|&place| observed[place]).collect();
    let targets = (places.len() as f64 * ratio).round_ties_even() as usize;
    places.sort_by(|&a, &b| uniforms[b].total_cmp(&uniforms[a]));
    let mut given = observed.to_vec();
    for &place in places.iter().take(targets) {
        given[place] = false;
    }
    given
}

/// The observed places that a pattern has as well.
pub fn common(observed: &[bool], pattern: &[bool]) -> Vec<bool> {
    observed.iter().zip(pattern).map(|(&observed, &pattern)| observed && pattern).collect()
}
