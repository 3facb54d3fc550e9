//! Schedulers of diffusers in our words: a `scheduler_config.json` as levels, times, a sampler and clipping.
//!
//! To add a class of scheduler: its function, and an arm in [`plan`]. What a peer does differently from our
//! samplers is said here, as data, and not in the samplers.

#[path = "multistep_schedulers.rs"]
pub mod multistep;

use ddpm_infer::levels::{exponential, karras};
use ddpm_infer::samplers::{Churn, Sampler, level_at, ratio};
use ddpm_infer::steps::Spacing;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::variance::Variance;
use serde_json::Value;

use crate::support::{number, text, whole};

pub const CLEAN: NoiseLevel = NoiseLevel { alpha: 1.0, sigma: 0.0 };

/// All that a trajectory follows from, besides the network and the noise.
pub struct Plan {
    pub diffusion: GaussianDiffusion,
    pub sampler: Sampler,
    pub clipping: Clipping,
    pub coordinates: Coordinates,
    /// What the first x is, in units of pure noise and in the coordinates of the trajectory.
    pub start: f64,
    /// Levels to walk along. Mostly there is one walk; where a peer's step does not end where its next one
    /// starts, every step is a walk of its own, and takes x as it is.
    pub walks: Vec<Vec<NoiseLevel>>,
    /// The time that the peer tells the network at a level, where it is not that of the schedule.
    pub times: Vec<(NoiseLevel, f64)>,
}

/// What becomes of a predicted x_0.
#[derive(Clone, Copy, PartialEq)]
pub enum Clipping {
    None,
    /// Clamped, and eps follows from the clamped one, as our samplers have it.
    Unit,
    /// Clamped, but eps stays what the network said. The peer's DDIM does this ("use_clipped_model_output" is
    /// the other one).
    UnitKeepingEps {
        eta: f64,
    },
}

/// In which coordinates a trajectory is written down.
#[derive(Clone, Copy)]
pub enum Coordinates {
    /// x itself.
    Preserving,
    /// x / alpha.
    Exploding,
}

impl Plan {
    /// The level that x is at after a step from `level`.
    pub fn next(&self, level: NoiseLevel) -> NoiseLevel {
        let pairs = self.walks.iter().flat_map(|walk| walk.windows(2));
        let mut after = pairs.filter(|pair| pair[0] == level).map(|pair| pair[1]);
        after.next().expect("a level of the plan")
    }

    /// The time that the network is told.
    pub fn time(&self, level: NoiseLevel) -> f64 {
        let told = self.times.iter().find(|(at, _)| *at == level).map(|(_, time)| *time);
        told.unwrap_or_else(|| self.diffusion.schedule.time_of(level))
    }
}

/// The plan of a scheduler: its class, its configuration, and how the case runs it.
pub fn plan(class: &str, config: &Value, case: &Value) -> Plan {
    let steps = whole(case, "num_inference_steps");
    match class {
        "DDPMScheduler" => ddpm(config, steps),
        "DDIMScheduler" => ddim(config, steps, number(&case["extra"], "eta")),
        "EulerDiscreteScheduler" => exploding(config, steps, Sampler::Euler),
        "EulerAncestralDiscreteScheduler" => exploding(config, steps, Sampler::EulerAncestral),
        "HeunDiscreteScheduler" => exploding(config, steps, Sampler::Heun { churn: Churn::NONE }),
        "LMSDiscreteScheduler" => exploding(config, steps, Sampler::Lms),
        "DPMSolverMultistepScheduler" => multistep::dpm_multistep(config, steps),
        "DPMSolverSinglestepScheduler" => multistep::dpm_singlestep(config, steps),
        "DEISMultistepScheduler" => multistep::deis(config, steps),
        "UniPCMultistepScheduler" => multistep::unipc(config, steps),
        "PNDMScheduler" => multistep::pndm(config, steps),
        other => panic!("no plan for a {other}"),
    }
}

fn ddpm(config: &Value, steps: usize) -> Plan {
    let variance = match text(config, "variance_type") {
        "fixed_small" => Variance::FixedSmall,
        "fixed_large" => Variance::FixedLarge,
        other => panic!("variance_type = {other} is not supported"),
    };
    let diffusion = diffusion(config);
    let visited = trained_steps(config, steps);
    // The peer adds this large variance to the final sample unless the last step is step 0, and we never do.
    assert!(variance == Variance::FixedSmall || visited[steps - 1] == 0, "fixed_large has to end at step 0");
    let levels = visited.into_iter().map(|t| diffusion.schedule.level(t)).chain([CLEAN]);
    Plan {
        walks: vec![levels.collect()],
        diffusion,
        sampler: Sampler::Ddpm { variance },
        clipping: if clips(config) { Clipping::Unit } else { Clipping::None },
        coordinates: Coordinates::Preserving,
        start: 1.0,
        times: Vec::new(),
    }
}

fn ddim(config: &Value, steps: usize, eta: f64) -> Plan {
    let diffusion = diffusion(config);
    let schedule = &diffusion.schedule;
    // A step goes down by floor(T / n), wherever the next one starts.
    let stride = schedule.len() / steps;
    let below = |t: usize| match t.checked_sub(stride) {
        Some(t) => schedule.level(t),
        None if config["set_alpha_to_one"] == true => CLEAN,
        None => schedule.level(0),
    };
    Plan {
        walks: trained_steps(config, steps).into_iter().map(|t| vec![schedule.level(t), below(t)]).collect(),
        sampler: Sampler::Ddim { eta },
        clipping: if clips(config) { Clipping::UnitKeepingEps { eta } } else { Clipping::None },
        coordinates: Coordinates::Preserving,
        start: 1.0,
        times: Vec::new(),
        diffusion,
    }
}

/// The schedulers that walk over sigmas.
fn exploding(config: &Value, steps: usize, sampler: Sampler) -> Plan {
    only(config, "interpolation_type", &[Value::Null, "linear".into()]);
    only(config, "timestep_type", &[Value::Null, "discrete".into()]);
    only(config, "use_beta_sigmas", &[Value::Null, false.into()]);
    only(config, "final_sigmas_type", &[Value::Null, "zero".into()]);
    only(config, "sigma_min", &[Value::Null]);
    only(config, "sigma_max", &[Value::Null]);
    only(config, "clip_sample", &[Value::Null, false.into()]);
    let diffusion = diffusion(config);
    let schedule = &diffusion.schedule;

    let mut times = match text(config, "timestep_spacing") {
        // Here and only here, times may lie between steps.
        "linspace" => {
            let last = (schedule.len() - 1) as f64;
            (0..steps).rev().map(|i| if steps == 1 { 0.0 } else { i as f64 * last / (steps - 1) as f64 }).collect()
        }
        _ => trained_steps(config, steps).into_iter().map(|t| t as f64).collect::<Vec<_>>(),
    };
    // Between steps, sigma itself is interpolated, where our schedule interpolates its logarithm.
    let sigma_at = |time: f64| {
        let low = time as usize;
        let high = (low + 1).min(schedule.len() - 1);
        let (a, b) = (ratio(schedule.level(low)), ratio(schedule.level(high)));
        a + (b - a) * (time - low as f64)
    };
    let mut sigmas: Vec<f64> = times.iter().map(|time| sigma_at(*time)).collect();
    let (max, min) = (sigmas[0], sigmas[steps - 1]);
    let ladder = match (config["use_karras_sigmas"] == true, config["use_exponential_sigmas"] == true) {
        (true, _) => Some(karras(steps, max, min, 7.0)),
        (_, true) => Some(exponential(steps, max, min)),
        _ => None,
    };
    if let Some(ladder) = ladder {
        // And these get their times by the logarithm, as ours do.
        times = ladder.iter().map(|sigma| schedule.time_of(level_at(*sigma))).collect();
        sigmas = ladder;
    }
    let start = match text(config, "timestep_spacing") {
        "leading" => (sigmas[0].powi(2) + 1.0).sqrt(),
        _ => sigmas[0],
    };
    let levels: Vec<NoiseLevel> = sigmas.into_iter().map(level_at).collect();
    Plan {
        times: levels.iter().copied().zip(times).collect(),
        walks: vec![levels.into_iter().chain([CLEAN]).collect()],
        diffusion,
        sampler,
        clipping: Clipping::None,
        coordinates: Coordinates::Exploding,
        start,
    }
}

/// The schedule and what the network predicts.
pub fn diffusion(config: &Value) -> GaussianDiffusion {
    only(config, "trained_betas", &[Value::Null]);
    only(config, "rescale_betas_zero_snr", &[Value::Null, false.into()]);
    only(config, "thresholding", &[Value::Null, false.into()]);
    let steps = whole(config, "num_train_timesteps");
    let (beta_start, beta_end) = (number(config, "beta_start"), number(config, "beta_end"));
    let schedule = match text(config, "beta_schedule") {
        "linear" => ScheduleConfig::Linear { steps, beta_start, beta_end },
        "scaled_linear" => ScheduleConfig::Quadratic { steps, beta_start, beta_end },
        "squaredcos_cap_v2" => ScheduleConfig::Cosine { steps, s: 0.008, max_beta: 0.999 },
        other => panic!("beta_schedule = {other} is not supported"),
    };
    let prediction = match text(config, "prediction_type") {
        "epsilon" => Prediction::Eps,
        "sample" => Prediction::X0,
        "v_prediction" => Prediction::V,
        other => panic!("prediction_type = {other} is not supported"),
    };
    GaussianDiffusion::new(schedule.init().unwrap(), prediction, Variance::FixedSmall)
}

/// Steps of the schedule, the noisiest first.
pub fn trained_steps(config: &Value, steps: usize) -> Vec<usize> {
    let available = whole(config, "num_train_timesteps");
    let (spacing, offset) = match text(config, "timestep_spacing") {
        "leading" => (Spacing::Leading, config["steps_offset"].as_u64().unwrap_or(0) as usize),
        "trailing" => (Spacing::Trailing, 0),
        "linspace" => (Spacing::Linspace, 0),
        other => panic!("timestep_spacing = {other} is not supported"),
    };
    spacing.choose(steps, available).unwrap().into_iter().map(|t| t + offset).collect::<Vec<_>>()
}

fn clips(config: &Value) -> bool {
    only(config, "clip_sample_range", &[Value::Null, 1.into(), 1.0.into()]);
    config["clip_sample"] == true
}

/// What we cannot do like the peer fails loudly.
pub fn only(config: &Value, key: &str, allowed: &[Value]) {
    assert!(allowed.contains(&config[key]), "{key} = {} is not supported", config[key]);
}
