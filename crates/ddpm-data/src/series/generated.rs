//! Generated series whose law is known, for tests and for a first try: a forecast with two modes, sines with values to
//! fill in, and something like an ECG. Every number is a function of the seed and of the place of the window.

use std::f64::consts::TAU;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{Frequency, Index, Series, Table, Timestamp, numbered};
use crate::random::{Stream, rng};

/// Variables of all three.
pub const VARIABLES: usize = 4;

/// Steps of [`bimodal`] as the fixtures have it: 4,000 to train on, and 60 windows of 12.
pub const BIMODAL_STEPS: usize = 4720;

/// Steps of a window of [`sines`].
pub const SINES_STEPS: usize = 48;

/// Steps of a window of [`ecg`].
pub const ECG_STEPS: usize = 248;

/// Steps before the first, after which nothing is left of where the recursion of [`bimodal`] began.
const BURN_IN: usize = 200;

/// The first month of [`bimodal`]: 1600-01-01.
const FIRST_MONTH: i64 = -11_676_096_000;

/// One long series whose next step is one of two values: `z[t] = 0.8 z[t-1] + m[t] + 0.1 e`, with a sign `m` that all
/// variables share and normal `e` of each; to it comes a season, `y = z + 1.5 sin(2 pi (t + 3 d) / 12)` in variable d.
///
/// Its steps are months, so that the season is that of the calendar. A shorter series is the beginning of a longer one.
pub fn bimodal(seed: u64, steps: usize) -> Series {
    let mut rng = rng(seed, Stream::GeneratedSeries, 0);
    let mut z = [0.0; VARIABLES];
    let mut advance = || {
        let mode = if rng.random::<bool>() { 1.0 } else { -1.0 };
        z = z.map(|z| 0.8 * z + mode + 0.1 * normal(&mut rng));
        z
    };
    for _ in 0..BURN_IN {
        advance();
    }
    let season = |step: usize, d: usize| 1.5 * (TAU * ((step + 3 * d) % 12) as f64 / 12.0).sin();
    let mut row = |step| {
        let z = advance();
        (0..VARIABLES).map(move |d| Some(z[d] + season(step, d)))
    };
    let table = Table::from_rows(VARIABLES, (0..steps).flat_map(&mut row));
    let index = Index::Times { start: Timestamp::from_seconds(FIRST_MONTH), frequency: Frequency::Months(1) };
    Series::new(None, index, numbered(VARIABLES), table)
}

/// How much of the two sines is in each variable, and how many steps late.
const LOADINGS: [([f64; 2], f64); VARIABLES] =
    [([1.0, 0.0], 0.0), ([0.0, 1.0], 0.0), ([0.7, 0.7], 3.0), ([0.7, -0.7], 6.0)];

/// A window `[48, 4]`: two sines of 1 to 4 cycles, with any phase and an amplitude of 0.5 to 1.5, mixed with delays, and
/// noise of deviation 0.1.
pub fn sines(seed: u64, place: u64) -> Table {
    let mut rng = rng(seed, Stream::GeneratedSeries, place);
    let latent: [[f64; 3]; 2] =
        std::array::from_fn(|_| [rng.random_range(1.0..4.0), rng.random_range(0.0..TAU), rng.random_range(0.5..1.5)]);
    let sine = |[cycles, phase, amplitude]: [f64; 3], t: f64| {
        amplitude * (TAU * cycles * t / SINES_STEPS as f64 + phase).sin()
    };
    let mut table = Table::never_observed(SINES_STEPS, VARIABLES);
    for step in 0..SINES_STEPS {
        for (variable, (loading, delay)) in LOADINGS.iter().enumerate() {
            let t = step as f64 - delay;
            let clean = loading[0] * sine(latent[0], t) + loading[1] * sine(latent[1], t);
            table.set(step, variable, clean + 0.1 * normal(&mut rng));
        }
    }
    table
}

/// A wave of a beat: a Gaussian bump.
struct Wave {
    /// After the R wave, and the deviation; both in beats.
    center: f64,
    width: f64,
    /// In each lead.
    heights: [f64; VARIABLES],
}

/// P, Q, R, S and T.
const WAVES: [Wave; 5] = [
    Wave { center: -0.2, width: 0.025, heights: [0.12, 0.072, 0.144, -0.096] },
    Wave { center: -0.03, width: 0.01, heights: [-0.12, -0.06, 0.0, -0.12] },
    Wave { center: 0.0, width: 0.012, heights: [1.0, -0.7, 0.5, -0.4] },
    Wave { center: 0.03, width: 0.012, heights: [-0.25, -0.375, -0.125, -0.5] },
    Wave { center: 0.25, width: 0.04, heights: [0.3, 0.24, 0.39, -0.3] },
];

/// A window `[248, 4]` like an ECG of four leads: beats of 45 to 80 steps, each with a jitter of 4 %, whose waves have
/// weights of deviation 0.15 in every record and lead; and noise of deviation 0.02.
pub fn ecg(seed: u64, place: u64) -> Table {
    let mut rng = rng(seed, Stream::GeneratedSeries, place);
    let beat = rng.random_range(45.0..80.0);
    let heights = WAVES.map(|wave| wave.heights.map(|height| height * (1.0 + 0.15 * normal(&mut rng))));
    let mut beats = vec![beat * (rng.random::<f64>() - 1.0)];
    // The waves before the R wave of a beat that begins after the end are in the window.
    while let Some(last) = beats.last().filter(|last| **last < ECG_STEPS as f64 + beat) {
        beats.push(last + beat * (1.0 + 0.04 * normal(&mut rng)));
    }
    let mut table = Table::never_observed(ECG_STEPS, VARIABLES);
    for step in 0..ECG_STEPS {
        let bump = |wave: &Wave, peak: &f64| {
            let distance = (step as f64 - peak) / beat - wave.center;
            (-0.5 * (distance / wave.width).powi(2)).exp()
        };
        let bumps = WAVES.each_ref().map(|wave| beats.iter().map(|peak| bump(wave, peak)).sum::<f64>());
        for lead in 0..VARIABLES {
            let clean: f64 = bumps.iter().zip(&heights).map(|(bump, heights)| bump * heights[lead]).sum();
            table.set(step, lead, clean + 0.02 * normal(&mut rng));
        }
    }
    table
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}
