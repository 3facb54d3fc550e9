//! `scheduler_config.json` in our words, and back: the diffusion, and how the class of diffusers takes its steps.

use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::variance::Variance;
use ddpm_sampling::guidance::Threshold;
use ddpm_sampling::plan::Clipping;
use ddpm_sampling::samplers::{Bh, Churn, Expansion, FEW_STEPS, Multistep, PndmStart, Sampler};
use ddpm_sampling::steps::Spacing;
use serde_json::{Value, json};

use super::json::Keys;
use super::{DiffusersError, VERSION};
use crate::snapshot::DiffusionConfig;

/// No real schedule comes near; a larger claim is refused before memory is taken.
const MOST_STEPS: usize = 1_000_000;

/// All keys of all the classes: files are carried from class to class, and keep keys that the class in use ignores.
const KNOWN: [&str; 44] = [
    "algorithm_type",
    "beta_end",
    "beta_schedule",
    "beta_start",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "num_train_timesteps",
    "predict_x0",
    "prediction_type",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "thresholding",
    "time_shift_type",
    "timestep_spacing",
    "timestep_type",
    "trained_betas",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
    // Of diffusers' first releases, without a meaning today.
    "tensor_format",
    "timestep_values",
    "timesteps",
    "num_inference_steps",
];

/// A scheduler of diffusers.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The process, what the network predicts of it, and the variance of ancestral steps.
    pub diffusion: DiffusionConfig,
    /// Which of the trained steps are visited.
    pub spacing: Spacing,
    /// Added to every step that the leading spacing visits.
    pub steps_offset: usize,
    /// What becomes of a predicted x_0.
    pub clipping: Clipping,
    /// How it takes its steps.
    pub method: Method,
}

/// How a class of diffusers takes its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `DDPMScheduler`.
    Ddpm,
    /// `DDIMScheduler`.
    Ddim {
        /// Whether the last step leads to clean data, and not to the first trained level.
        ends_clean: bool,
    },
    /// The classes over sigmas: Euler, Euler ancestral, Heun, LMS.
    Exploding {
        /// The method.
        sampler: Sampler,
        /// The sigmas between the two ends.
        sigmas: Sigmas,
    },
    /// `PNDMScheduler`.
    Pndm {
        /// How it starts.
        start: PndmStart,
        /// As for DDIM.
        ends_clean: bool,
    },
    /// The exponential integrators: DPM-Solver, DEIS, UniPC.
    Integrator {
        /// The method.
        sampler: Sampler,
        /// Whether the levels are those of Karras et al.
        karras: bool,
        /// As for DDIM.
        ends_clean: bool,
    },
}

/// Where sigmas lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sigmas {
    /// Those of the steps that are visited.
    Steps,
    /// As Karras et al. 2022 (5) between the ends of those.
    Karras,
    /// Even in the logarithm between the ends of those.
    Exponential,
}

const SPACINGS: [(&str, Spacing); 3] =
    [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
const PREDICTIONS: [(&str, Prediction); 3] =
    [("epsilon", Prediction::Eps), ("sample", Prediction::X0), ("v_prediction", Prediction::V)];
const CLASSES: [&str; 11] = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
];

impl SchedulerConfig {
    /// The ancestral sampler of a diffusion, which is what its snapshot is written with; or why diffusers has none.
    pub fn of_diffusion(diffusion: &DiffusionConfig) -> Result<Self, String> {
        if diffusion.prediction == Prediction::PosteriorMean {
            return Err("its network predicts the posterior mean (diffusion.prediction)".into());
        }
        if diffusion.continuous.is_some() {
            return Err("its diffusion is one in continuous time (diffusion.continuous)".into());
        }
        if diffusion.self_conditioning {
            return Err("its network is conditioned on its own last estimate (diffusion.self_conditioning)".into());
        }
        if diffusion.rescaled_times && diffusion.schedule.steps() != 1000 {
            return Err("its network is conditioned on rescaled times (diffusion.rescaled_times)".into());
        }
        Ok(Self {
            diffusion: diffusion.clone(),
            spacing: Spacing::Linspace,
            steps_offset: 0,
            clipping: Clipping::Clip { range: 1.0 },
            method: Method::Ddpm,
        })
    }

    /// The same of latents, whose values have no bounds. Pipelines of Stable Diffusion expect an offset of 1, which this
    /// spacing does not read.
    pub fn of_latents(diffusion: &DiffusionConfig) -> Result<Self, String> {
        Ok(Self { clipping: Clipping::None, steps_offset: 1, ..Self::of_diffusion(diffusion)? })
    }

    /// Whether it is what a snapshot of ours has for its diffusion.
    pub fn is_as_exported(&self) -> bool {
        [Self::of_diffusion(&self.diffusion), Self::of_latents(&self.diffusion)].contains(&Ok(self.clone()))
    }

    /// A `scheduler_config.json` in our words.
    pub fn read(json: &Value) -> Result<Self, DiffusersError> {
        let keys = Keys::of(json)?;
        keys.only(&KNOWN)?;
        let class = keys.word("_class_name", None, &CLASSES.map(|name| (name, name)))?;
        let (spacing, clipping, method) = match class {
            "DDPMScheduler" => (Spacing::Leading, clipping(keys, true)?, Method::Ddpm),
            "DDIMScheduler" => {
                let method = Method::Ddim { ends_clean: keys.flag("set_alpha_to_one", true)? };
                (Spacing::Leading, clipping(keys, true)?, method)
            }
            "PNDMScheduler" => (Spacing::Leading, Clipping::None, pndm(keys)?),
            "EulerDiscreteScheduler" => (Spacing::Linspace, Clipping::None, exploding(keys, Sampler::Euler)?),
            "EulerAncestralDiscreteScheduler" => {
                (Spacing::Linspace, Clipping::None, exploding(keys, Sampler::EulerAncestral)?)
            }
            "HeunDiscreteScheduler" => {
                (Spacing::Linspace, clipping(keys, false)?, exploding(keys, Sampler::Heun { churn: Churn::NONE })?)
            }
            "LMSDiscreteScheduler" => (Spacing::Linspace, Clipping::None, exploding(keys, Sampler::Lms)?),
            class => (Spacing::Linspace, threshold(keys)?.unwrap_or(Clipping::None), integrator(keys, class)?),
        };
        // This class does not know the key and always spaces evenly.
        let spacing = match class {
            "DPMSolverSinglestepScheduler" => spacing,
            _ => keys.word("timestep_spacing", Some(spacing), &SPACINGS)?,
        };
        if class == "PNDMScheduler" && spacing != Spacing::Leading {
            // With any other, diffusers' steps do not end where its next ones start, but look back over them.
            return Err(keys.refuse("timestep_spacing", "leading, with PNDM"));
        }
        let diffusion = diffusion(keys, class)?;
        let supported = match method {
            // The Runge-Kutta steps would mix predictions that are not turned into noise yet.
            Method::Pndm { start: PndmStart::RungeKutta, .. } => diffusion.prediction == Prediction::Eps,
            Method::Pndm { .. } => diffusion.prediction != Prediction::X0,
            _ => true,
        };
        if !supported {
            return Err(keys.refuse("prediction_type", "epsilon, or with skip_prk_steps v_prediction, with PNDM"));
        }
        let steps_offset = keys.whole("steps_offset", Some(0), MOST_STEPS)?;
        Ok(Self { diffusion, spacing, steps_offset, clipping, method })
    }

    /// The name of diffusers' class.
    pub fn class(&self) -> &'static str {
        match self.method {
            Method::Ddpm => "DDPMScheduler",
            Method::Ddim { .. } => "DDIMScheduler",
            Method::Pndm { .. } => "PNDMScheduler",
            Method::Exploding { sampler, .. } | Method::Integrator { sampler, .. } => match sampler {
                Sampler::EulerAncestral => "EulerAncestralDiscreteScheduler",
                Sampler::Heun { .. } => "HeunDiscreteScheduler",
                Sampler::Lms => "LMSDiscreteScheduler",
                Sampler::Dpmpp2s { .. } => "DPMSolverSinglestepScheduler",
                Sampler::DpmppMultistep { .. } | Sampler::DpmppSde { .. } => "DPMSolverMultistepScheduler",
                Sampler::Deis { .. } => "DEISMultistepScheduler",
                Sampler::UniPc { .. } => "UniPCMultistepScheduler",
                _ => "EulerDiscreteScheduler",
            },
        }
    }

    /// The sampler that follows it.
    pub fn sampler(&self) -> Sampler {
        match self.method {
            Method::Ddpm => Sampler::Ddpm { variance: self.diffusion.variance },
            Method::Ddim { .. } => Sampler::Ddim { eta: 0.0 },
            Method::Pndm { start, .. } => Sampler::Pndm { start },
            Method::Exploding { sampler, .. } | Method::Integrator { sampler, .. } => sampler,
        }
    }

    /// Our words as a `scheduler_config.json`.
    pub fn write(&self) -> Value {
        let mut json = json!({
            "_class_name": self.class(),
            "_diffusers_version": VERSION,
            "prediction_type": word(&PREDICTIONS, self.diffusion.prediction),
            "timestep_spacing": word(&SPACINGS, self.spacing),
            "steps_offset": self.steps_offset,
        });
        write_schedule(&self.diffusion.schedule, &mut json);
        let mut set = |key: &str, value: Value| json[key] = value;
        if self.diffusion.zero_terminal_snr {
            set("rescale_betas_zero_snr", true.into());
        }
        let variance = match self.diffusion.variance {
            Variance::FixedSmall => "fixed_small",
            Variance::FixedLarge => "fixed_large",
            Variance::Learned => "learned_range",
        };
        match self.method {
            Method::Ddpm => set("variance_type", variance.into()),
            Method::Ddim { ends_clean } => set("set_alpha_to_one", ends_clean.into()),
            Method::Pndm { start, ends_clean } => {
                set("set_alpha_to_one", ends_clean.into());
                set("skip_prk_steps", (start == PndmStart::Multistep).into());
            }
            Method::Exploding { sigmas, .. } => {
                set("use_karras_sigmas", (sigmas == Sigmas::Karras).into());
                set("use_exponential_sigmas", (sigmas == Sigmas::Exponential).into());
            }
            Method::Integrator { sampler, karras, ends_clean } => {
                set("use_karras_sigmas", karras.into());
                if !matches!(sampler, Sampler::Deis { .. }) {
                    set("final_sigmas_type", if ends_clean { "zero" } else { "sigma_min" }.into());
                }
                let (order, falls_below, solver) = match sampler {
                    Sampler::Dpmpp2s { falls_below } => (2, falls_below, "midpoint"),
                    Sampler::DpmppMultistep { multistep, expansion: Expansion::Taylor } => {
                        (multistep.order, multistep.falls_below, "heun")
                    }
                    Sampler::DpmppMultistep { multistep, .. } | Sampler::DpmppSde { multistep } => {
                        (multistep.order, multistep.falls_below, "midpoint")
                    }
                    Sampler::UniPc { multistep, b: Bh::Bh1 } => (multistep.order, multistep.falls_below, "bh1"),
                    Sampler::UniPc { multistep, .. } => (multistep.order, multistep.falls_below, "bh2"),
                    Sampler::Deis { multistep } => (multistep.order, multistep.falls_below, "logrho"),
                    _ => (1, 0, "midpoint"),
                };
                if matches!(sampler, Sampler::DpmppSde { .. }) {
                    set("algorithm_type", "sde-dpmsolver++".into());
                }
                set("solver_order", order.into());
                set("lower_order_final", (falls_below > 0).into());
                set("solver_type", solver.into());
                if self.diffusion.variance == Variance::Learned {
                    set("variance_type", variance.into());
                }
            }
        }
        match (self.clipping, self.method) {
            (Clipping::Threshold(threshold), _) => {
                set("thresholding", true.into());
                set("dynamic_thresholding_ratio", threshold.percentile.into());
                set("sample_max_value", threshold.maximum.into());
            }
            (Clipping::Clip { range }, _) => {
                set("clip_sample", true.into());
                set("clip_sample_range", range.into());
            }
            // Their default is to clip.
            (Clipping::None, Method::Ddpm | Method::Ddim { .. }) => set("clip_sample", false.into()),
            (Clipping::None, _) => {}
        }
        json
    }
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| word)
}

/// Thresholding where there is some, else clipping.
fn clipping(keys: Keys<'_>, clips: bool) -> Result<Clipping, DiffusersError> {
    if let Some(threshold) = threshold(keys)? {
        return Ok(threshold);
    }
    if !keys.flag("clip_sample", clips)? {
        return Ok(Clipping::None);
    }
    match keys.number("clip_sample_range", 1.0)? {
        range if range > 0.0 => Ok(Clipping::Clip { range }),
        _ => Err(keys.refuse("clip_sample_range", "a number above 0")),
    }
}

fn threshold(keys: Keys<'_>) -> Result<Option<Clipping>, DiffusersError> {
    if !keys.flag("thresholding", false)? {
        return Ok(None);
    }
    let threshold = Threshold {
        percentile: keys.number("dynamic_thresholding_ratio", 0.995)?,
        maximum: keys.number("sample_max_value", 1.0)?,
    };
    match threshold.is_sound() {
        true => Ok(Some(Clipping::Threshold(threshold))),
        false if threshold.maximum < 1.0 => Err(keys.refuse("sample_max_value", "at least 1")),
        false => Err(keys.refuse("dynamic_thresholding_ratio", "more than 0, and 1 at most")),
    }
}

fn pndm(keys: Keys<'_>) -> Result<Method, DiffusersError> {
    let start = match keys.flag("skip_prk_steps", false)? {
        true => PndmStart::Multistep,
        false => PndmStart::RungeKutta,
    };
    Ok(Method::Pndm { start, ends_clean: keys.flag("set_alpha_to_one", false)? })
}

fn exploding(keys: Keys<'_>, sampler: Sampler) -> Result<Method, DiffusersError> {
    keys.must_be("interpolation_type", "linear")?;
    keys.must_be("timestep_type", "discrete")?;
    keys.must_be("use_beta_sigmas", false)?;
    keys.must_be("final_sigmas_type", "zero")?;
    keys.must_be("sigma_min", Value::Null)?;
    keys.must_be("sigma_max", Value::Null)?;
    // The ancestral class does not know these two keys.
    let knows = sampler != Sampler::EulerAncestral;
    let sigmas = match (keys.flag("use_karras_sigmas", false)?, keys.flag("use_exponential_sigmas", false)?) {
        (true, _) if knows => Sigmas::Karras,
        (_, true) if knows => Sigmas::Exponential,
        _ => Sigmas::Steps,
    };
    Ok(Method::Exploding { sampler, sigmas })
}

fn integrator(keys: Keys<'_>, class: &str) -> Result<Method, DiffusersError> {
    for key in
        ["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"]
    {
        keys.must_be(key, false)?;
    }
    for key in ["sigma_min", "sigma_max", "shift_terminal", "lambda_min_clipped"] {
        keys.must_be(key, Value::Null)?;
    }
    let falls = |default: bool, below: usize| -> Result<usize, DiffusersError> {
        Ok(if keys.flag("lower_order_final", default)? { below } else { 0 })
    };
    let order = || match keys.whole("solver_order", Some(2), 3)? {
        0 => Err(keys.refuse("solver_order", "1, 2 or 3")),
        order => Ok(order),
    };
    let sampler = match class {
        "DPMSolverMultistepScheduler" => {
            let is_sde = [("dpmsolver++", false), ("sde-dpmsolver++", true)];
            let is_sde = keys.word("algorithm_type", Some(false), &is_sde)?;
            keys.must_be("euler_at_final", false)?;
            let multistep = Multistep { order: order()?, falls_below: falls(true, FEW_STEPS)? };
            let taylor = keys.word("solver_type", Some(false), &[("midpoint", false), ("heun", true)])?;
            if taylor && multistep.order == 3 {
                return Err(keys.refuse("solver_type", "midpoint, at solver_order 3"));
            }
            if is_sde && (taylor || multistep.order == 3) {
                let key = if taylor { "solver_type" } else { "solver_order" };
                return Err(keys.refuse(key, "midpoint at solver_order 1 or 2, with sde-dpmsolver++"));
            }
            // Its order 3 starts and ends with the steps of order 2 that "midpoint" names.
            let expansion = if taylor { Expansion::Taylor } else { Expansion::Published };
            if is_sde { Sampler::DpmppSde { multistep } } else { Sampler::DpmppMultistep { multistep, expansion } }
        }
        "DPMSolverSinglestepScheduler" => {
            keys.must_be("algorithm_type", "dpmsolver++")?;
            keys.must_be("solver_order", 2)?;
            keys.must_be("solver_type", "midpoint")?;
            Sampler::Dpmpp2s { falls_below: falls(false, usize::MAX)? }
        }
        "DEISMultistepScheduler" => {
            keys.must_be("algorithm_type", "deis")?;
            keys.must_be("solver_type", "logrho")?;
            Sampler::Deis { multistep: Multistep { order: order()?, falls_below: falls(true, FEW_STEPS)? } }
        }
        _ => {
            keys.must_be("predict_x0", true)?;
            keys.must_be("solver_p", Value::Null)?;
            if keys.get("disable_corrector").as_array().is_some_and(|steps| !steps.is_empty()) {
                return Err(keys.refuse("disable_corrector", "an empty list"));
            }
            let b = keys.word("solver_type", Some(Bh::Bh2), &[("bh1", Bh::Bh1), ("bh2", Bh::Bh2)])?;
            let multistep = Multistep { order: order()?, falls_below: falls(true, usize::MAX)? };
            Sampler::UniPc { multistep, b }
        }
    };
    // This one class has no such key and ends at the first trained level.
    let ends_clean = match class {
        "DEISMultistepScheduler" => false,
        _ => keys.word("final_sigmas_type", Some(true), &[("zero", true), ("sigma_min", false)])?,
    };
    Ok(Method::Integrator { sampler, karras: keys.flag("use_karras_sigmas", false)?, ends_clean })
}

/// The process, and what the network predicts of it.
fn diffusion(keys: Keys<'_>, class: &str) -> Result<DiffusionConfig, DiffusersError> {
    let variance = match (class, keys.get("variance_type")) {
        ("DDPMScheduler", _) => keys.word(
            "variance_type",
            Some(Variance::FixedSmall),
            &[
                ("fixed_small", Variance::FixedSmall),
                ("fixed_small_log", Variance::FixedSmall),
                ("fixed_large", Variance::FixedLarge),
                ("learned_range", Variance::Learned),
            ],
        )?,
        (_, Value::String(word)) if word == "learned_range" || word == "learned" => Variance::Learned,
        _ => Variance::FixedSmall,
    };
    let zero_terminal_snr = keys.flag("rescale_betas_zero_snr", false)?;
    if zero_terminal_snr && !["DDPMScheduler", "DDIMScheduler"].contains(&class) {
        return Err(keys.refuse("rescale_betas_zero_snr", &format!("false, with {class}")));
    }
    let config = DiffusionConfig {
        schedule: schedule(keys, class)?,
        prediction: keys.word("prediction_type", Some(Prediction::Eps), &PREDICTIONS)?,
        variance,
        zero_terminal_snr,
        ..DiffusionConfig::default()
    };
    if zero_terminal_snr && config.prediction == Prediction::Eps {
        return Err(keys.refuse("rescale_betas_zero_snr", "false, with epsilon: pure noise says nothing of the data"));
    }
    config.init()?;
    Ok(config)
}

fn schedule(keys: Keys<'_>, class: &str) -> Result<ScheduleConfig, DiffusersError> {
    let steps = keys.whole("num_train_timesteps", Some(1000), MOST_STEPS)?;
    if !keys.get("trained_betas").is_null() {
        let betas: Option<Vec<f64>> = keys.list("trained_betas", MOST_STEPS)?.iter().map(Value::as_f64).collect();
        let betas = betas.filter(|betas| betas.len() == steps);
        let betas = betas.ok_or_else(|| keys.refuse("trained_betas", &format!("{steps} numbers")))?;
        return Ok(ScheduleConfig::Explicit { betas });
    }
    let (start, end) = if class == "HeunDiscreteScheduler" { (0.000_85, 0.012) } else { (0.000_1, 0.02) };
    let (beta_start, beta_end) = (keys.number("beta_start", start)?, keys.number("beta_end", end)?);
    let choices = [
        ("linear", ScheduleConfig::Linear { steps, beta_start, beta_end }),
        ("scaled_linear", ScheduleConfig::Quadratic { steps, beta_start, beta_end }),
        ("squaredcos_cap_v2", ScheduleConfig::Cosine { steps, s: 0.008, max_beta: 0.999 }),
        ("sigmoid", ScheduleConfig::Sigmoid { steps, beta_start, beta_end }),
    ];
    let numbered: Vec<(&str, usize)> = choices.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let chosen = keys.word("beta_schedule", Some(0), &numbered)?;
    Ok(choices[chosen].1.clone())
}

/// The keys of a schedule: its formula where diffusers has it, else its betas one by one.
fn write_schedule(schedule: &ScheduleConfig, json: &mut Value) {
    let mut named = |name: &str, start: f64, end: f64| {
        json["beta_schedule"] = name.into();
        json["beta_start"] = start.into();
        json["beta_end"] = end.into();
    };
    match *schedule {
        ScheduleConfig::Linear { beta_start, beta_end, .. } => named("linear", beta_start, beta_end),
        ScheduleConfig::LinearRescaled { steps } => {
            let scale = 1000.0 / steps as f64;
            named("linear", 1e-4 * scale, 0.02 * scale);
        }
        ScheduleConfig::Quadratic { beta_start, beta_end, .. } => named("scaled_linear", beta_start, beta_end),
        ScheduleConfig::Sigmoid { beta_start, beta_end, .. } => named("sigmoid", beta_start, beta_end),
        ScheduleConfig::Constant { beta, .. } => named("linear", beta, beta),
        ScheduleConfig::Cosine { s: 0.008, max_beta: 0.999, .. } => named("squaredcos_cap_v2", 1e-4, 0.02),
        ScheduleConfig::Cosine { .. } | ScheduleConfig::Explicit { .. } => {
            if let Ok(tables) = schedule.init() {
                json["trained_betas"] = tables.betas.into();
            }
        }
    }
    json["num_train_timesteps"] = schedule.steps().into();
}
