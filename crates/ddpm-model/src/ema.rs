//! The decay of each update of the exponential moving average (EMA) of the weights.
//!
//! Pure functions of progress: `average <- decay * average + (1 - decay) * weights`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is wrong with an [`EmaConfig`].
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{key} is {value}, expected {expected}")]
pub struct EmaError {
    /// The key at fault.
    pub key: &'static str,
    /// Its value.
    pub value: f64,
    /// What it should be.
    pub expected: &'static str,
}

/// The rule for the decay as a function of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmaKind {
    /// The same decay at every step.
    #[default]
    Constant,
    /// Rises by a power law up to `decay`: `1 - (1 + step / inv_gamma)^-power`, where `step` counts from the end of
    /// `update_after`.
    Warmup,
    /// Rises as `(1 + step) / (10 + step)` up to `decay`, where `step` counts from the end of `update_after`.
    Ratio,
    /// The decay follows from a half-life in images.
    HalfLife,
    /// The average has a width that is a share of the training so far (Karras et al. 2024).
    Power,
    /// No average: the trained weights themselves.
    None,
}

/// Each kind reads the keys that name it in parentheses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// The rule by which the decay follows from progress.
    pub kind: EmaKind,
    /// The decay (constant), or its upper limit (warmup, ratio).
    pub decay: f64,
    /// Lower limit of the decay once it is no longer 0, at most `decay` (warmup, ratio).
    pub min_decay: f64,
    /// Steps during which the average just follows the weights (warmup, ratio).
    pub update_after: usize,
    /// Steps over which the warm-up stretches (warmup).
    pub inv_gamma: f64,
    /// Exponent: 2/3 for a million steps and more, 3/4 for shorter runs (warmup).
    pub power: f64,
    /// Images after which half of the average is renewed (half-life).
    pub half_life_images: f64,
    /// The half-life is at most this share of the images seen; 0: no limit (half-life).
    pub ramp_up: f64,
    /// Standard deviation of the profile as a share of the images seen, at most 0.28; EDM2 keeps 0.05 and 0.10 (power).
    pub sigma_rel: f64,
    /// Averages that are stored besides, whatever the kind, so that one of any width can be reconstructed after
    /// training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_hoc: Option<PostHocConfig>,
}

/// Averages by the power rule next to the one that samples are drawn from, stored now and then.
///
/// After training, `cargo xtask ema --run RUN --width 0.07 --out DIR` reconstructs the average of any width (Karras et
/// al. 2024): the combination of the stored ones whose weights over time are nearest to the wanted ones. It prints by
/// how much they differ and refuses more than 10 %. With the widths 0.05 and 0.1, stored eight times evenly, 0.07
/// differs by 1.4 % and 0.15 by 3.3 %; 0.03 wants nine times, and 0.25 fourteen. Every width costs the memory of the
/// weights once more, and every storing the disk space of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostHocConfig {
    /// Their widths: standard deviations as a share of the images seen.
    pub widths: Vec<f64>,
    /// Steps between two times at which all of them are stored; they are stored at the end too.
    pub every: u64,
}

impl Default for PostHocConfig {
    /// The widths of the paper.
    fn default() -> Self {
        Self { widths: vec![0.05, 0.1], every: 1000 }
    }
}

impl PostHocConfig {
    fn problems(&self) -> Vec<EmaError> {
        let (widths, every) = ("post_hoc.widths", "post_hoc.every");
        let fault = |key, value, expected| EmaError { key, value, expected };
        let mut faults = Vec::new();
        if self.widths.is_empty() {
            faults.push(fault(widths, 0.0, "at least one width"));
        }
        for (i, &width) in self.widths.iter().enumerate() {
            if !is_width(width) {
                faults.push(fault(widths, width, WIDTH));
            } else if self.widths[..i].contains(&width) {
                faults.push(fault(widths, width, "each width once"));
            }
        }
        if self.every == 0 {
            faults.push(fault(every, 0.0, "at least 1 step"));
        }
        faults
    }
}

/// The valid widths. The uniform average has 0.2887, and no profile is wider.
const WIDTH: &str = "more than 0 and at most 0.28";

/// Whether there is a profile of this width.
pub fn is_width(sigma_rel: f64) -> bool {
    sigma_rel > 0.0 && sigma_rel <= 0.28
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            kind: EmaKind::Constant,
            decay: 0.9999,
            min_decay: 0.0,
            update_after: 0,
            inv_gamma: 1.0,
            power: 2.0 / 3.0,
            half_life_images: 500_000.0,
            ramp_up: 0.05,
            sigma_rel: 0.1,
            post_hoc: None,
        }
    }
}

impl EmaConfig {
    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<EmaError> {
        let share = "at least 0 and less than 1";
        let positive = "a positive number";
        [
            ("decay", self.decay, (0.0..1.0).contains(&self.decay), share),
            ("min_decay", self.min_decay, (0.0..=self.decay).contains(&self.min_decay), "at least 0 and at most decay"),
            ("inv_gamma", self.inv_gamma, is_positive(self.inv_gamma), positive),
            ("power", self.power, is_positive(self.power), positive),
            ("half_life_images", self.half_life_images, is_positive(self.half_life_images), positive),
            ("ramp_up", self.ramp_up, self.ramp_up == 0.0 || is_positive(self.ramp_up), "0 or a positive number"),
            ("sigma_rel", self.sigma_rel, is_width(self.sigma_rel), WIDTH),
        ]
        .into_iter()
        .filter(|(_, _, fine, _)| !fine)
        .map(|(key, value, _, expected)| EmaError { key, value, expected })
        .chain(self.post_hoc.iter().flat_map(PostHocConfig::problems))
        .collect()
    }

    /// The decay of one update.
    ///
    /// `step` counts the optimiser's steps with the present one included, so the first is 1. `images_seen`
    /// leaves out the `batch` images of the present step.
    pub fn decay_at(&self, step: usize, images_seen: u64, batch: usize) -> f64 {
        let limited = |rise: fn(&Self, f64) -> f64| {
            match step.saturating_sub(self.update_after + 1) {
                // The first update copies the weights.
                0 => 0.0,
                s => rise(self, s as f64).min(self.decay).max(self.min_decay),
            }
        };
        match self.kind {
            EmaKind::Constant => self.decay,
            EmaKind::Warmup => limited(|ema, s| warmup_decay(s, ema.inv_gamma, ema.power)),
            EmaKind::Ratio => limited(|_, s| ratio_decay(s)),
            EmaKind::HalfLife => {
                let ramp_up = (self.ramp_up > 0.0).then_some(self.ramp_up);
                half_life_decay(batch, images_seen, self.half_life_images, ramp_up)
            }
            EmaKind::Power => power_decay(batch, images_seen, gamma_of(self.sigma_rel)),
            EmaKind::None => 0.0,
        }
    }
}

fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

/// `1 - (1 + s / inv_gamma)^(-power)`, the warm-up of diffusers.
pub fn warmup_decay(s: f64, inv_gamma: f64, power: f64) -> f64 {
    1.0 - (1.0 + s / inv_gamma).powf(-power)
}

/// `(1 + s) / (10 + s)`, the rise of TensorFlow's averages.
pub fn ratio_decay(s: f64) -> f64 {
    (1.0 + s) / (10.0 + s)
}

/// `0.5^(batch / half-life)`, with the half-life limited to `ramp_up` times the images seen (Karras et al. 2022).
pub fn half_life_decay(batch: usize, images_seen: u64, half_life_images: f64, ramp_up: Option<f64>) -> f64 {
    let limit = ramp_up.map_or(f64::INFINITY, |share| share * images_seen as f64);
    // The floor makes the very first update copy the weights instead of dividing by zero.
    0.5f64.powf(batch as f64 / half_life_images.min(limit).max(1e-8))
}

/// `(1 - batch / images)^(gamma + 1)` with `images` seen after this step (Karras et al. 2024, EDM2).
///
/// The average then weighs the weights of time `s` by a power law, `s^gamma`. The first update copies them.
pub fn power_decay(batch: usize, images_seen: u64, gamma: f64) -> f64 {
    let images = images_seen as f64 + batch as f64;
    (images_seen as f64 / images).powf(gamma + 1.0)
}

/// The standard deviation of the power law `s^gamma` on the interval from 0 to 1 (Karras et al. 2024).
pub fn sigma_rel_of(gamma: f64) -> f64 {
    ((gamma + 1.0) / ((gamma + 2.0).powi(2) * (gamma + 3.0))).sqrt()
}

/// The exponent of the power law with this standard deviation, the inverse of [`sigma_rel_of`].
///
/// Widths go up to 0.288, that of the uniform average; [`EmaConfig::problems`] keeps a little below.
pub fn gamma_of(sigma_rel: f64) -> f64 {
    let q = sigma_rel.powi(-2);
    // The largest root of g^3 + 7 g^2 + (16 - q) g + 12 - q by Newton's method. It is below sqrt(q), where
    // the cubic is positive and bends upwards, so the steps lead down to it and never past it.
    let mut gamma = 1.0 / sigma_rel;
    loop {
        let value = ((gamma + 7.0) * gamma + 16.0 - q) * gamma + 12.0 - q;
        let slope = (3.0 * gamma + 14.0) * gamma + 16.0 - q;
        let next = gamma - value / slope;
        // No way further down: the root to the last digit (or a width that is none, and NaN).
        if next.is_nan() || next >= gamma {
            return gamma;
        }
        gamma = next;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn constant_is_constant() {
        let ema = EmaConfig { decay: 0.995, ..Default::default() };
        assert_eq!(ema.decay_at(1, 0, 128), 0.995);
        assert_eq!(ema.decay_at(100_000, 12_800_000, 128), 0.995);
    }

    #[test]
    fn half_of_the_average_is_renewed_in_a_half_life() {
        let ema = EmaConfig { kind: EmaKind::HalfLife, half_life_images: 1000.0, ramp_up: 0.0, ..Default::default() };
        let left: f64 = (0..10).map(|i| ema.decay_at(i + 1, 100 * i as u64, 100)).product();
        assert!((left - 0.5).abs() < 1e-14);
        let ramped = EmaConfig { ramp_up: 0.05, ..ema };
        assert_eq!(ramped.decay_at(1, 0, 100), 0.0);
        assert!((ramped.decay_at(2, 2000, 100) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn the_power_rule_weighs_by_a_power_law() {
        assert!((sigma_rel_of(gamma_of(0.1)) - 0.1).abs() < 1e-14);
        let ema = EmaConfig { kind: EmaKind::Power, ..Default::default() };
        assert_eq!(ema.decay_at(1, 0, 8), 0.0);
        // The average of the time itself, over a power law from 0 to 1: (gamma + 1) / (gamma + 2).
        let (mut average, steps) = (0.0, 20_000);
        for step in 0..steps {
            let decay = ema.decay_at(step + 1, 8 * step as u64, 8);
            average = decay * average + (1.0 - decay) * (step + 1) as f64 / steps as f64;
        }
        let gamma = gamma_of(0.1);
        assert!((average - (gamma + 1.0) / (gamma + 2.0)).abs() < 1e-4, "{average}");
    }

    #[test]
    fn no_average_is_the_weights() {
        let ema: EmaConfig = serde_json::from_str(r#"{"kind":"none","min_decay":0.5}"#).unwrap();
        assert!([1, 2, 1000].into_iter().all(|step| ema.decay_at(step, 8 * step as u64, 8) == 0.0));
    }

    #[test]
    fn config_is_one_flat_section() {
        let json = r#"{"kind":"half-life","half_life_images":2e6,"ramp_up":0.09}"#;
        let ema: EmaConfig = serde_json::from_str(json).unwrap();
        assert_eq!(ema.kind, EmaKind::HalfLife);
        assert_eq!(ema.decay, 0.9999);
        assert!(serde_json::from_str::<EmaConfig>(r#"{"halflife":1}"#).is_err());
        assert_eq!(ema.problems(), []);
    }

    #[test]
    fn bad_values_are_named() {
        let fault = |ema: EmaConfig| ema.problems()[0].key;
        assert_eq!(fault(EmaConfig { decay: 1.0, ..Default::default() }), "decay");
        assert_eq!(fault(EmaConfig { min_decay: -0.1, ..Default::default() }), "min_decay");
        assert_eq!(fault(EmaConfig { power: f64::NAN, ..Default::default() }), "power");
        assert_eq!(fault(EmaConfig { sigma_rel: 0.5, ..Default::default() }), "sigma_rel");
        assert_eq!(fault(EmaConfig { inv_gamma: 0.0, ..Default::default() }), "inv_gamma");
        let post_hoc = |widths: &[f64], every| EmaConfig {
            post_hoc: Some(PostHocConfig { widths: widths.to_vec(), every }),
            ..Default::default()
        };
        assert_eq!(post_hoc(&[0.05, 0.1], 1).problems(), []);
        for widths in [&[][..], &[0.0], &[0.3], &[f64::NAN], &[0.1, 0.1]] {
            assert_eq!(fault(post_hoc(widths, 1)), "post_hoc.widths");
        }
        assert_eq!(fault(post_hoc(&[0.1], 0)), "post_hoc.every");
    }
}
