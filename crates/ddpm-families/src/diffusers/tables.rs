//! The schedule's tables in the arithmetic of diffusers, which is `f32` where ours is `f64`.
//!
//! The difference is about 1e-5 of alpha-bar: nothing that an eye could see, but samples of the same noise differ
//! by it.

use ddpm_model::schedule::{Schedule, ScheduleConfig, ScheduleError};
use serde::{Deserialize, Serialize};

use crate::snapshot::DiffusionConfig;

/// In which arithmetic a schedule is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tables {
    /// `f64`.
    #[default]
    Exact,
    /// `f32`, rounded where diffusers rounds.
    Peer,
}

impl Tables {
    /// The schedule of a diffusion.
    pub fn schedule(self, config: &DiffusionConfig) -> Result<Schedule, ScheduleError> {
        match (self, config.zero_terminal_snr) {
            (Self::Exact, false) => config.schedule.init(),
            (Self::Exact, true) => config.schedule.init()?.with_zero_terminal_snr(),
            (Self::Peer, _) => {
                let (_, alphas_bar) = rounded(config)?;
                Schedule::from_alphas_bar(alphas_bar.into_iter().map(f64::from).collect())
            }
        }
    }
}

/// Betas and alphas-bar as diffusers holds them.
pub fn rounded(config: &DiffusionConfig) -> Result<(Vec<f32>, Vec<f32>), ScheduleError> {
    let betas: Vec<f32> = match config.schedule {
        ScheduleConfig::Linear { steps, beta_start, beta_end } => linspace(beta_start, beta_end, steps),
        ScheduleConfig::Quadratic { steps, beta_start, beta_end } => {
            linspace(beta_start.sqrt(), beta_end.sqrt(), steps).into_iter().map(|root| root * root).collect()
        }
        ScheduleConfig::Sigmoid { steps, beta_start, beta_end } => linspace(-6.0, 6.0, steps)
            .into_iter()
            .map(|u| {
                let exp = (-f64::from(u)).exp() as f32;
                1.0 / (1.0 + exp) * (beta_end - beta_start) as f32 + beta_start as f32
            })
            .collect(),
        // Made in f64 by diffusers too.
        _ => config.schedule.init()?.betas.into_iter().map(|beta| beta as f32).collect(),
    };
    let betas = if config.zero_terminal_snr { without_signal(&betas) } else { betas };
    let alphas_bar = products(&betas);
    Ok((betas, alphas_bar))
}

/// `torch.cumprod` of what a step leaves: kept in f64 and shown in f32.
fn products(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// Algorithm 1 of Lin et al. 2023.
fn without_signal(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = products(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let stretch = first / (first - last);
    let alphas_bar: Vec<f32> = roots.into_iter().map(|root| ((root - last) * stretch).powi(2)).collect();
    let before = std::iter::once(1.0).chain(alphas_bar.iter().copied());
    alphas_bar.iter().zip(before).map(|(alpha_bar, before)| 1.0 - alpha_bar / before).collect()
}

/// `torch.linspace`: from both ends towards the middle, with a step that was rounded once, and each
/// entry rounded once.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count < 2 {
        return vec![start; count];
    }
    let step = (end - start) / (count - 1) as f32;
    let at = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((count - i - 1) as f32, end),
    };
    (0..count).map(at).collect()
}
