//! How noise grows over the steps: `betas` and everything that follows from them, on the host in `f64`.
//!
//! Steps are counted from 0: `betas[0]` is the paper's `beta_1`.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::noise_level::{NoiseLevel, NoiseRange};

/// Above this alpha-bar at the last step, sampling from pure noise starts from the wrong distribution.
const LARGEST_FINAL_ALPHA_BAR: f64 = 0.01;

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScheduleError {
    /// There are no steps.
    #[error("a schedule needs at least one step")]
    Empty,
    /// A beta is outside the open interval from 0 to 1.
    #[error("beta of step {step} is {beta}, expected more than 0 and less than 1")]
    Beta {
        /// The step, from 0.
        step: usize,
        /// Its beta.
        beta: f64,
    },
    /// Alpha-bar does not decrease or reaches 0, so that steps have no distinct noise levels.
    #[error("alpha-bar of step {step} is {alpha_bar:e} after {previous:e}, expected it to fall but stay above 0")]
    AlphaBar {
        /// The step, from 0.
        step: usize,
        /// Its alpha-bar.
        alpha_bar: f64,
        /// Alpha-bar of the step before.
        previous: f64,
    },
    /// The steps to keep are not a rising list of steps of the schedule.
    #[error("cannot keep step {step} of a schedule of {steps} steps: expected rising steps below {steps}")]
    Kept {
        /// The offending step.
        step: usize,
        /// Steps of the schedule.
        steps: usize,
    },
    /// A spacing specification that cannot be read or met.
    #[error("cannot space {steps} steps by {spec:?}: {reason}")]
    Spacing {
        /// The specification.
        spec: String,
        /// Steps of the schedule.
        steps: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// How noise grows from step to step. A schedule whose last alpha-bar is above 0.01 is accepted with a warning: samples
/// start from pure noise, and training would not have ended there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// Betas in even steps from start to end, both included (Ho et al. 2020).
    Linear {
        /// Number of steps.
        #[serde(default = "default_steps")]
        steps: usize,
        /// First beta.
        #[serde(default = "default_beta_start")]
        beta_start: f64,
        /// Last beta.
        #[serde(default = "default_beta_end")]
        beta_end: f64,
    },
    /// Linear from 1e-4 to 0.02, both multiplied by `1000 / steps` so that the end is as noisy at any length.
    LinearRescaled {
        /// Number of steps.
        #[serde(default = "default_steps")]
        steps: usize,
    },
    /// Alpha-bar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17).
    Cosine {
        /// Number of steps.
        #[serde(default = "default_steps")]
        steps: usize,
        /// Offset that keeps the first betas from being tiny.
        #[serde(default = "default_cosine_offset")]
        s: f64,
        /// Largest beta.
        #[serde(default = "default_max_beta")]
        max_beta: f64,
    },
    /// Square roots of the betas in even steps (`scaled_linear` in diffusers).
    Quadratic {
        /// Number of steps.
        #[serde(default = "default_steps")]
        steps: usize,
        /// First beta.
        #[serde(default = "default_beta_start")]
        beta_start: f64,
        /// Last beta.
        #[serde(default = "default_beta_end")]
        beta_end: f64,
    },
    /// Betas along a logistic curve over -6 to 6.
    Sigmoid {
        /// Number of steps.
        #[serde(default = "default_steps")]
        steps: usize,
        /// Lower asymptote.
        #[serde(default = "default_beta_start")]
        beta_start: f64,
        /// Upper asymptote.
        #[serde(default = "default_beta_end")]
        beta_end: f64,
    },
    /// The same beta at every step.
    Constant {
        /// Number of steps.
        #[serde(default = "default_steps")]
        steps: usize,
        /// The beta.
        #[serde(default = "default_beta_end")]
        beta: f64,
    },
    /// A list of betas.
    Explicit {
        /// One beta per step.
        betas: Vec<f64>,
    },
}

fn default_steps() -> usize {
    1000
}

fn default_beta_start() -> f64 {
    1e-4
}

fn default_beta_end() -> f64 {
    0.02
}

fn default_cosine_offset() -> f64 {
    0.008
}

fn default_max_beta() -> f64 {
    0.999
}

impl Default for ScheduleConfig {
    /// The schedule of Ho et al. 2020.
    fn default() -> Self {
        Self::Linear { steps: default_steps(), beta_start: default_beta_start(), beta_end: default_beta_end() }
    }
}

impl ScheduleConfig {
    /// The number of steps.
    pub fn steps(&self) -> usize {
        match self {
            Self::Linear { steps, .. }
            | Self::LinearRescaled { steps }
            | Self::Cosine { steps, .. }
            | Self::Quadratic { steps, .. }
            | Self::Sigmoid { steps, .. }
            | Self::Constant { steps, .. } => *steps,
            Self::Explicit { betas } => betas.len(),
        }
    }

    /// Computes the tables.
    pub fn init(&self) -> Result<Schedule, ScheduleError> {
        Schedule::from_betas(self.betas())
    }

    fn betas(&self) -> Vec<f64> {
        match *self {
            Self::Linear { steps, beta_start, beta_end } => linspace(beta_start, beta_end, steps),
            Self::LinearRescaled { steps } => {
                let scale = 1000.0 / steps as f64;
                linspace(1e-4 * scale, 0.02 * scale, steps)
            }
            Self::Cosine { steps, s, max_beta } => cosine_betas(steps, s, max_beta),
            Self::Quadratic { steps, beta_start, beta_end } => {
                let roots = linspace(beta_start.sqrt(), beta_end.sqrt(), steps);
                roots.into_iter().map(|root| root * root).collect()
            }
            Self::Sigmoid { steps, beta_start, beta_end } => linspace(-6.0, 6.0, steps)
                .into_iter()
                .map(|u| beta_start + (beta_end - beta_start) / (1.0 + (-u).exp()))
                .collect(),
            Self::Constant { steps, beta } => vec![beta; steps],
            Self::Explicit { ref betas } => betas.clone(),
        }
    }
}

/// `count` even steps from `start` to `end`, both included.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / (count.max(2) - 1) as f64;
    (0..count)
        .map(|i| match i > 0 && i + 1 == count {
            true => end,
            false => start + step * i as f64,
        })
        .collect()
}

fn cosine_betas(steps: usize, s: f64, max_beta: f64) -> Vec<f64> {
    let angle = |i: usize| (i as f64 / steps as f64 + s) / (1.0 + s) * FRAC_PI_2;
    (0..steps)
        .map(|i| {
            let (a, b) = (angle(i), angle(i + 1));
            // 1 - cos^2(b) / cos^2(a), written without the difference of near-equal numbers: the first
            // betas are as small as 1e-5 and would lose five digits.
            let beta = (b - a).sin() * (b + a).sin() / a.cos().powi(2);
            beta.min(max_beta)
        })
        .collect()
}

/// The tables of a schedule, one entry a step.
///
/// ```
/// use ddpm_model::schedule::ScheduleConfig;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let schedule = ScheduleConfig::Linear { steps: 1000, beta_start: 1e-4, beta_end: 0.02 }.init()?;
/// assert_eq!(schedule.len(), 1000);
/// // x_t = alpha x_0 + sigma eps: nearly all data at the first step, nearly all noise at the last.
/// assert!(schedule.level(0).alpha > 0.99 && schedule.level(999).alpha < 0.01);
/// assert_eq!(schedule.time_of(schedule.level(500)), 500.0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Variance that a step adds.
    pub betas: Vec<f64>,
    /// Products of `1 - beta` up to each step: the share of the data's power that is left.
    pub alphas_bar: Vec<f64>,
    /// Variance of `q(x_{t-1} | x_t, x_0)`, eq. 7 of Ho et al. 2020; 0 at step 0.
    pub posterior_variance: Vec<f64>,
    /// Its logarithm, with step 1 standing in at step 0.
    pub posterior_log_variance_clipped: Vec<f64>,
    /// Factor of `x_0` in the mean of `q(x_{t-1} | x_t, x_0)`, eq. 7.
    pub posterior_mean_coef1: Vec<f64>,
    /// Factor of `x_t` in the mean of `q(x_{t-1} | x_t, x_0)`, eq. 7.
    pub posterior_mean_coef2: Vec<f64>,
}

impl Schedule {
    /// Computes the tables from the betas.
    pub fn from_betas(betas: Vec<f64>) -> Result<Self, ScheduleError> {
        // A step may remove all signal only by `with_zero_terminal_snr`, never by accident.
        if let Some(step) = betas.iter().position(|&beta| beta >= 1.0) {
            return Err(ScheduleError::Beta { step, beta: betas[step] });
        }
        let mut product = 1.0;
        let alphas_bar = betas
            .iter()
            .map(|beta| {
                product *= 1.0 - beta;
                product
            })
            .collect();
        Self::from_tables(betas, alphas_bar)
    }

    /// Computes the tables from alpha-bar, of which the last may be 0.
    pub fn from_alphas_bar(alphas_bar: Vec<f64>) -> Result<Self, ScheduleError> {
        let before = std::iter::once(1.0).chain(alphas_bar.iter().copied());
        let betas = alphas_bar.iter().zip(before).map(|(alpha_bar, before)| 1.0 - alpha_bar / before).collect();
        Self::from_tables(betas, alphas_bar)
    }

    fn from_tables(betas: Vec<f64>, alphas_bar: Vec<f64>) -> Result<Self, ScheduleError> {
        if betas.is_empty() {
            return Err(ScheduleError::Empty);
        }
        let mut schedule = Self {
            betas,
            alphas_bar,
            posterior_variance: Vec::new(),
            posterior_log_variance_clipped: Vec::new(),
            posterior_mean_coef1: Vec::new(),
            posterior_mean_coef2: Vec::new(),
        };
        for t in 0..schedule.len() {
            let beta = schedule.betas[t];
            let pure_noise = t + 1 == schedule.len() && beta == 1.0 && schedule.alphas_bar[t] == 0.0;
            if !(beta > 0.0 && (beta < 1.0 || pure_noise)) {
                return Err(ScheduleError::Beta { step: t, beta });
            }
            let (alpha_bar, previous) = (schedule.alphas_bar[t], schedule.alpha_bar_before(t));
            if !((alpha_bar > 0.0 || pure_noise) && alpha_bar < previous) {
                return Err(ScheduleError::AlphaBar { step: t, alpha_bar, previous });
            }
            // Eq. 7.
            let share = beta / (1.0 - alpha_bar);
            schedule.posterior_variance.push(share * (1.0 - previous));
            schedule.posterior_mean_coef1.push(share * previous.sqrt());
            schedule.posterior_mean_coef2.push((1.0 - previous) * (1.0 - beta).sqrt() / (1.0 - alpha_bar));
        }
        let variances = &schedule.posterior_variance;
        // A schedule of one step has no step 1 to borrow from.
        let first = variances.get(1).copied().unwrap_or(schedule.betas[0]);
        let log_variances = std::iter::once(first).chain(variances[1..].iter().copied()).map(f64::ln).collect();
        schedule.posterior_log_variance_clipped = log_variances;
        Ok(schedule)
    }

    /// The number of steps.
    #[allow(clippy::len_without_is_empty)] // a schedule is never empty
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// Alpha-bar of the step before, which is 1 before step 0.
    pub fn alpha_bar_before(&self, t: usize) -> f64 {
        match t {
            0 => 1.0,
            _ => self.alphas_bar[t - 1],
        }
    }

    /// The noise level of a step.
    pub fn level(&self, t: usize) -> NoiseLevel {
        NoiseLevel::from_alpha_bar(self.alphas_bar[t])
    }

    /// The noise levels of all steps, from the cleanest to the noisiest.
    pub fn levels(&self) -> Vec<NoiseLevel> {
        (0..self.len()).map(|t| self.level(t)).collect()
    }

    /// The step with this noise level: the inverse of [`Schedule::level`].
    ///
    /// Between two steps it is interpolated over the log-SNR, outside of the table it is the nearest end.
    pub fn time_of(&self, level: NoiseLevel) -> f64 {
        let log_snr = level.log_snr();
        let at = |t: usize| self.level(t).log_snr();
        let (mut low, mut high) = (0, self.len() - 1);
        if log_snr >= at(low) {
            return low as f64;
        }
        if log_snr <= at(high) {
            return high as f64;
        }
        // The log-SNR falls with the step, and at(low) > log_snr > at(high) throughout.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if log_snr == at(middle) {
                return middle as f64;
            }
            match log_snr < at(middle) {
                true => low = middle,
                false => high = middle,
            }
        }
        low as f64 + (at(low) - log_snr) / (at(low) - at(high))
    }

    /// A warning if the last step is not noisy enough.
    pub fn warning(&self) -> Option<String> {
        let last = self.alphas_bar[self.len() - 1];
        (last > LARGEST_FINAL_ALPHA_BAR).then(|| {
            format!(
                "alpha-bar at the last of {} steps is {last:.4}, above {LARGEST_FINAL_ALPHA_BAR}: x_T still \
                 holds {:.0} % of the data's amplitude, but sampling starts from pure noise, so samples will \
                 be off in brightness and layout; use more steps or larger betas",
                self.len(),
                100.0 * last.sqrt(),
            )
        })
    }

    /// The same schedule stretched so that nothing of the data is left at the last step: algorithm 1 of
    /// Lin et al. 2023. The first step keeps its noise level.
    ///
    /// An eps network cannot be used with it: at the last step its output does not depend on the data.
    pub fn with_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        let roots: Vec<f64> = self.alphas_bar.iter().map(|alpha_bar| alpha_bar.sqrt()).collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        if self.len() < 2 {
            return Err(ScheduleError::Beta { step: 0, beta: 1.0 });
        }
        let alphas_bar: Vec<f64> =
            roots.into_iter().map(|root| ((root - last) * first / (first - last)).powi(2)).collect();
        Self::from_alphas_bar(alphas_bar)
    }

    /// The schedule of the kept steps alone, with `beta' = 1 - alpha_bar / alpha_bar of the kept step before`.
    ///
    /// Alpha-bar is taken over as it is, so that the noise levels are exactly those of the kept steps.
    pub fn respaced(&self, kept: &[usize]) -> Result<Self, ScheduleError> {
        let mut betas = Vec::with_capacity(kept.len());
        let mut alphas_bar = Vec::with_capacity(kept.len());
        let mut previous = None;
        for &step in kept {
            if step >= self.len() || previous.is_some_and(|before| step <= before) {
                return Err(ScheduleError::Kept { step, steps: self.len() });
            }
            let before = previous.map_or(1.0, |before: usize| self.alphas_bar[before]);
            betas.push(1.0 - self.alphas_bar[step] / before);
            alphas_bar.push(self.alphas_bar[step]);
            previous = Some(step);
        }
        Self::from_tables(betas, alphas_bar)
    }
}

impl NoiseRange for Schedule {
    fn schedule(&self) -> Option<&Schedule> {
        Some(self)
    }

    /// Between two steps the log-SNR is interpolated, as in its inverse, [`Schedule::time_of`].
    fn level_at(&self, share: f64) -> NoiseLevel {
        let time = share * (self.len() - 1) as f64;
        let low = time as usize;
        if time == low as f64 {
            return self.level(low);
        }
        let (a, b) = (self.level(low).log_snr(), self.level(low + 1).log_snr());
        NoiseLevel::from_ratio((-0.5 * (a + (b - a) * (time - low as f64))).exp())
    }
}

/// The steps that a specification keeps of a schedule of `steps` steps, rising.
///
/// `"ddimN"` uses the first whole stride with exactly `N` steps. Otherwise the text is a count for
/// each of several equal sections, such as `"50"` or `"10,15,20"` (Nichol & Dhariwal 2021).
pub fn spaced_steps(spec: &str, steps: usize) -> Result<Vec<usize>, ScheduleError> {
    let refuse = |reason: String| ScheduleError::Spacing { spec: spec.into(), steps, reason };
    let count_of =
        |text: &str| text.trim().parse::<usize>().map_err(|_| refuse(format!("{text:?} is not a number of steps")));
    if let Some(count) = spec.strip_prefix("ddim") {
        let count = count_of(count)?;
        return (1..steps)
            .find(|&stride| steps.div_ceil(stride) == count)
            .map(|stride| (0..steps).step_by(stride).collect())
            .ok_or_else(|| refuse(format!("no whole stride gives exactly {count} steps")));
    }

    let counts = spec.split(',').map(count_of).collect::<Result<Vec<_>, _>>()?;
    let mut kept = Vec::new();
    let mut start = 0;
    for (section, &count) in counts.iter().enumerate() {
        let longer = usize::from(section < steps % counts.len());
        let size = steps / counts.len() + longer;
        if count > size {
            return Err(refuse(format!("section {section} has {size} steps, {count} are wanted")));
        }
        let stride = match count {
            0 | 1 => 1.0,
            _ => (size - 1) as f64 / (count - 1) as f64,
        };
        // A running sum and ties to even, as the reference implementations do: another rounding keeps other steps.
        let mut position = 0.0f64;
        for _ in 0..count {
            kept.push(start + position.round_ties_even() as usize);
            position += stride;
        }
        start += size;
    }
    match kept.is_empty() {
        true => Err(refuse("it keeps no step".into())),
        false => Ok(kept),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ScheduleConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_papers_and_unknown_keys_are_refused() {
        assert_eq!(parse(r#"{"kind":"linear"}"#).unwrap(), ScheduleConfig::default());
        let cosine = parse(r#"{"kind":"cosine","steps":50}"#).unwrap();
        assert_eq!(cosine.steps(), 50);
        assert!(parse(r#"{"kind":"linear-rescaled"}"#).is_ok());
        let error = parse(r#"{"kind":"cosine","beta_start":1e-4}"#).unwrap_err();
        assert!(error.contains("beta_start"), "{error}");
        assert!(parse(r#"{"kind":"cubic"}"#).unwrap_err().contains("cubic"));
    }

    #[test]
    fn a_config_survives_a_round_trip() {
        let config = ScheduleConfig::Sigmoid { steps: 20, beta_start: 0.001, beta_end: 0.3 };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(parse(&json).unwrap(), config);
    }

    #[test]
    fn bad_schedules_are_refused() {
        let explicit = |betas: &[f64]| ScheduleConfig::Explicit { betas: betas.into() }.init();
        assert_eq!(explicit(&[]), Err(ScheduleError::Empty));
        assert_eq!(explicit(&[0.1, 1.0]), Err(ScheduleError::Beta { step: 1, beta: 1.0 }));
        assert!(explicit(&[0.1, f64::NAN]).is_err());
        // Too small to change alpha-bar, and too many to keep it above 0.
        assert!(matches!(explicit(&[1e-17]), Err(ScheduleError::AlphaBar { step: 0, .. })));
        assert!(matches!(explicit(&[0.999; 200]), Err(ScheduleError::AlphaBar { .. })));
        assert!(ScheduleConfig::LinearRescaled { steps: 20 }.init().is_err());
        assert!(ScheduleConfig::Linear { steps: 0, beta_start: 0.1, beta_end: 0.2 }.init().is_err());
    }

    #[test]
    fn anchors_by_hand() {
        let schedule = ScheduleConfig::Constant { steps: 3, beta: 0.5 }.init().unwrap();
        assert_eq!(schedule.alphas_bar, [0.5, 0.25, 0.125]);
        // 0.5 * (1 - 0.5) / (1 - 0.25) = 1/3
        assert!((schedule.posterior_variance[1] - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(schedule.posterior_variance[0], 0.0);
        assert_eq!(schedule.posterior_log_variance_clipped[0], schedule.posterior_log_variance_clipped[1]);
        let sigmoid = ScheduleConfig::Sigmoid { steps: 3, beta_start: 0.1, beta_end: 0.3 };
        assert!((sigmoid.betas()[1] - 0.2).abs() < 1e-15);
        let single = ScheduleConfig::Constant { steps: 1, beta: 0.5 }.init().unwrap();
        assert!(single.posterior_log_variance_clipped[0].is_finite());
    }

    #[test]
    fn time_of_finds_every_step_exactly_and_interpolates_between() {
        for config in [
            ScheduleConfig::default(),
            ScheduleConfig::Cosine { steps: 400, s: 0.008, max_beta: 0.999 },
            ScheduleConfig::Constant { steps: 1, beta: 0.5 },
        ] {
            let schedule = config.init().unwrap();
            for (t, level) in schedule.levels().into_iter().enumerate() {
                assert_eq!(schedule.time_of(level), t as f64);
            }
        }
        let schedule = ScheduleConfig::default().init().unwrap();
        let log_snr = 0.25 * schedule.level(10).log_snr() + 0.75 * schedule.level(11).log_snr();
        let level = NoiseLevel::from_alpha_bar(1.0 / (1.0 + (-log_snr).exp()));
        assert!((schedule.time_of(level) - 10.75).abs() < 1e-9);
        assert_eq!(schedule.time_of(NoiseLevel { alpha: 1.0, sigma: 0.0 }), 0.0);
        assert_eq!(schedule.time_of(NoiseLevel { alpha: 0.0, sigma: 1.0 }), 999.0);
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step() {
        let before = ScheduleConfig::default().init().unwrap();
        let schedule = before.with_zero_terminal_snr().unwrap();
        assert_eq!(schedule.level(999), NoiseLevel { alpha: 0.0, sigma: 1.0 });
        assert_eq!(schedule.betas[999], 1.0);
        assert!((schedule.alphas_bar[0] - before.alphas_bar[0]).abs() < 1e-15);
        // The last step forgets x_T: q(x_{T-1} | x_T, x_0) is q(x_{T-1} | x_0).
        assert_eq!(schedule.posterior_mean_coef2[999], 0.0);
        assert_eq!(schedule.posterior_variance[999], 1.0 - schedule.alphas_bar[998]);
        assert!(schedule.posterior_log_variance_clipped.iter().all(|value| value.is_finite()));
        for (t, level) in schedule.levels().into_iter().enumerate() {
            assert_eq!(schedule.time_of(level), t as f64);
        }
        let respaced = schedule.respaced(&[0, 500, 999]).unwrap();
        assert_eq!(respaced.alphas_bar[2], 0.0);
        assert!(ScheduleConfig::Constant { steps: 1, beta: 0.5 }.init().unwrap().with_zero_terminal_snr().is_err());
    }

    #[test]
    fn warns_of_data_left_at_the_end() {
        assert_eq!(ScheduleConfig::default().init().unwrap().warning(), None);
        let short = ScheduleConfig::Linear { steps: 100, beta_start: 1e-4, beta_end: 0.02 };
        let warning = short.init().unwrap().warning().unwrap();
        assert!(warning.contains("0.36"), "{warning}");
    }

    #[test]
    fn respacing_keeps_the_noise_levels() {
        let schedule = ScheduleConfig::default().init().unwrap();
        let kept = spaced_steps("ddim50", 1000).unwrap();
        let respaced = schedule.respaced(&kept).unwrap();
        for (i, &t) in kept.iter().enumerate() {
            assert_eq!(respaced.level(i), schedule.level(t));
        }
        let all: Vec<usize> = (0..1000).collect();
        assert_eq!(schedule.respaced(&all).unwrap().alphas_bar, schedule.alphas_bar);
        for kept in [&[3usize, 3][..], &[4, 2], &[1000]] {
            assert!(matches!(schedule.respaced(kept), Err(ScheduleError::Kept { .. })));
        }
        assert_eq!(schedule.respaced(&[]), Err(ScheduleError::Empty));
    }

    #[test]
    fn unreadable_spacings_are_refused() {
        for spec in ["", "ten", "ddim", "ddim0", "ddim7.5", "0", "-3", "10,,5", "1001"] {
            let error = spaced_steps(spec, 1000).unwrap_err().to_string();
            assert!(error.contains(&format!("{spec:?}")), "{error}");
        }
    }
}
