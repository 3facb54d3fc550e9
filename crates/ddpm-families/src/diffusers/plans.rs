//! What each class of diffusers does with its configuration, as a [`Plan`].
//!
//! What a peer does differently from our samplers is said here, as data, and not in the samplers.

use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::Prediction;
use ddpm_model::variance::Variance;
use ddpm_sampling::levels::{MOST, exponential, karras};
use ddpm_sampling::plan::{Coordinates, Plan, halved};
use ddpm_sampling::samplers::{Multistep, PlmsStep, PndmStart, Sampler};
use ddpm_sampling::steps::{Spacing, StepsError};

use super::DiffusersError;
use super::scheduler_config::{Method, SchedulerConfig, Sigmas};
use super::tables::Tables;

const CLEAN: NoiseLevel = NoiseLevel { alpha: 1.0, sigma: 0.0 };

impl SchedulerConfig {
    /// How many steps are usual.
    pub fn default_steps(&self) -> usize {
        let available = self.diffusion.schedule.steps();
        let usual = |sampler: Sampler| sampler.about().default_steps.map_or(available, |steps| steps.min(available));
        match self.method {
            Method::Ddpm => available,
            // These take one step of the table more than they are asked for.
            Method::Integrator { sampler, .. } => usual(sampler).min(available.saturating_sub(1)),
            _ => usual(self.sampler()),
        }
    }

    /// The plan of `steps` steps; `eta` is the share of noise in DDIM.
    pub fn plan(&self, steps: usize, eta: f64, tables: Tables) -> Result<Plan, DiffusersError> {
        let config = &self.diffusion;
        let diffusion = GaussianDiffusion::new(tables.schedule(config)?, config.prediction, config.variance);
        // Plans over sigmas could have any number of steps, and would take memory for them.
        if steps == 0 || steps > diffusion.schedule.len().max(MOST) {
            return Err(StepsError::Count { asked: steps, available: diffusion.schedule.len() }.into());
        }
        match self.method {
            Method::Ddpm => self.ddpm(diffusion, steps),
            Method::Ddim { ends_clean } => self.ddim(diffusion, steps, eta, ends_clean),
            Method::Pndm { start, ends_clean } => self.pndm(diffusion, steps, start, ends_clean),
            Method::Exploding { sigmas, .. } => self.exploding(diffusion, steps, sigmas),
            Method::Integrator { sampler, karras, ends_clean } => {
                self.integrator(diffusion, steps, sampler, karras, ends_clean)
            }
        }
    }

    fn ddpm(&self, diffusion: GaussianDiffusion, steps: usize) -> Result<Plan, DiffusersError> {
        let visited = self.trained_steps(steps)?;
        // diffusers adds a large variance to the final sample unless the last step is step 0, and we never do.
        if self.diffusion.variance != Variance::FixedSmall && visited[steps - 1] != 0 {
            return Err(DiffusersError::Value {
                key: "timestep_spacing".into(),
                found: format!("{:?} with steps that end at step {}", self.spacing, visited[steps - 1]),
                expected: "steps that end at step 0, or variance_type fixed_small".into(),
            });
        }
        let levels = visited.into_iter().map(|t| diffusion.schedule.level(t)).chain([CLEAN]).collect();
        Ok(self.along(diffusion, levels))
    }

    fn ddim(
        &self,
        diffusion: GaussianDiffusion,
        steps: usize,
        eta: f64,
        ends_clean: bool,
    ) -> Result<Plan, DiffusersError> {
        let visited = self.trained_steps(steps)?;
        let schedule = &diffusion.schedule;
        // A step goes down by floor(T / n), wherever the next one starts.
        let stride = schedule.len() / steps;
        let below = |t: usize| match t.checked_sub(stride) {
            Some(t) => schedule.level(t),
            None if ends_clean => CLEAN,
            None => schedule.level(0),
        };
        let stretches = visited.into_iter().map(|t| vec![schedule.level(t), below(t)]).collect();
        Ok(Plan { sampler: Sampler::Ddim { eta }, stretches, keeps_eps: true, ..self.along(diffusion, Vec::new()) })
    }

    fn pndm(
        &self,
        diffusion: GaussianDiffusion,
        steps: usize,
        start: PndmStart,
        ends_clean: bool,
    ) -> Result<Plan, DiffusersError> {
        if steps < 4 {
            return Err(DiffusersError::Value {
                key: "steps".into(),
                found: steps.to_string(),
                expected: "4 at least: PNDM looks back over four".into(),
            });
        }
        let visited = self.trained_steps(steps)?;
        let schedule = &diffusion.schedule;
        let end = if ends_clean { CLEAN } else { schedule.level(0) };
        let levels: Vec<NoiseLevel> = visited.iter().map(|t| schedule.level(*t)).chain([end]).collect();
        // The network is conditioned on the one half-way step at both levels.
        let half_way = |pair: &[NoiseLevel]| {
            let [first, second] = halved(schedule, pair[0], pair[1]);
            (first, schedule.time_of(second))
        };
        let times = match start {
            PndmStart::RungeKutta => levels.windows(2).take(3).map(half_way).collect(),
            PndmStart::Multistep => Vec::new(),
        };
        // diffusers looks back over what the network said: only where that is eps does our own sampler do the same.
        let plms = match diffusion.prediction {
            Prediction::Eps => Vec::new(),
            _ => PlmsStep::along(&levels, 0),
        };
        Ok(Plan { times, plms, ..self.along(diffusion, levels) })
    }

    /// The classes over sigmas.
    fn exploding(&self, diffusion: GaussianDiffusion, steps: usize, sigmas: Sigmas) -> Result<Plan, DiffusersError> {
        let schedule = &diffusion.schedule;
        let mut times: Vec<f64> = match self.spacing {
            // Here and only here, times may lie between steps.
            Spacing::Linspace => {
                let last = (schedule.len() - 1) as f64;
                (0..steps).rev().map(|i| if steps == 1 { 0.0 } else { i as f64 * last / (steps - 1) as f64 }).collect()
            }
            _ => self.trained_steps(steps)?.into_iter().map(|t| t as f64).collect(),
        };
        // Between steps, sigma itself is interpolated, where our schedule interpolates its logarithm.
        let sigma_at = |time: f64| {
            let low = time as usize;
            let high = (low + 1).min(schedule.len() - 1);
            let (a, b) = (schedule.level(low).ratio(), schedule.level(high).ratio());
            a + (b - a) * (time - low as f64)
        };
        let mut visited: Vec<f64> = times.iter().map(|time| sigma_at(*time)).collect();
        let (max, min) = (visited[0], visited[steps - 1]);
        let ladder = match sigmas {
            Sigmas::Steps => None,
            Sigmas::Karras => Some(karras(steps, max, min, 7.0)),
            Sigmas::Exponential => Some(exponential(steps, max, min)),
        };
        if let Some(ladder) = ladder {
            // And these get their times by the logarithm, as ours do.
            times = ladder.iter().map(|sigma| schedule.time_of(NoiseLevel::from_ratio(*sigma))).collect();
            visited = ladder;
        }
        let first = visited[0];
        // In diffusers' coordinates noise of deviation sigma, or with leading of sqrt(sigma^2 + 1).
        let start = match self.spacing {
            Spacing::Leading => 1.0,
            _ => NoiseLevel::from_ratio(first).sigma,
        };
        let levels: Vec<NoiseLevel> = visited.into_iter().map(NoiseLevel::from_ratio).collect();
        let times = levels.iter().copied().zip(times).collect();
        let plan = self.along(diffusion, levels.into_iter().chain([CLEAN]).collect());
        Ok(Plan { times, start, coordinates: Coordinates::Exploding, ..plan })
    }

    /// The exponential integrators, whose last level is that of the first trained step or clean.
    fn integrator(
        &self,
        diffusion: GaussianDiffusion,
        steps: usize,
        sampler: Sampler,
        by_karras: bool,
        ends_clean: bool,
    ) -> Result<Plan, DiffusersError> {
        let schedule = &diffusion.schedule;
        let available = schedule.len();
        let sigma = |t: usize| schedule.level(t).ratio();
        let (levels, times): (Vec<NoiseLevel>, Vec<f64>) = if by_karras {
            let ladder = karras(steps, sigma(available - 1), sigma(0), 7.0).into_iter().map(NoiseLevel::from_ratio);
            ladder.map(|level| (level, schedule.time_of(level).round_ties_even())).unzip()
        } else {
            // One more than is asked for, of which the cleanest is dropped, except with trailing.
            let visited = match self.spacing {
                Spacing::Trailing => self.trained_steps(steps)?,
                _ if steps + 1 > available => {
                    return Err(DiffusersError::Value {
                        key: "steps".into(),
                        found: steps.to_string(),
                        expected: format!("{} at most: this class takes one more of {available} steps", available - 1),
                    });
                }
                _ => self.trained_steps(steps + 1)?[..steps].to_vec(),
            };
            visited.into_iter().map(|t| (schedule.level(t), t as f64)).unzip()
        };
        let end = if ends_clean { CLEAN } else { schedule.level(0) };
        let sampler = match sampler {
            // diffusers turns the falling order on where it cannot do without.
            Sampler::Dpmpp2s { .. } if ends_clean || !steps.is_multiple_of(2) => {
                Sampler::Dpmpp2s { falls_below: usize::MAX }
            }
            // Without it this class extrapolates to clean data.
            Sampler::UniPc { multistep: Multistep { falls_below: 0, order }, .. } if ends_clean && order > 1 => {
                return Err(DiffusersError::Value {
                    key: "lower_order_final".into(),
                    found: "false".into(),
                    expected: "true, where final_sigmas_type is zero".into(),
                });
            }
            sampler => sampler,
        };
        let times = levels.iter().copied().zip(times).collect();
        let plan = self.along(diffusion, levels.into_iter().chain([end]).collect());
        Ok(Plan { times, sampler, ..plan })
    }

    /// One stretch along `levels` by the sampler of this class, from pure noise.
    fn along(&self, diffusion: GaussianDiffusion, levels: Vec<NoiseLevel>) -> Plan {
        Plan {
            diffusion,
            sampler: self.sampler(),
            clipping: self.clipping,
            keeps_eps: false,
            coordinates: Coordinates::Preserving,
            start: 1.0,
            stretches: vec![levels],
            times: Vec::new(),
            plms: Vec::new(),
        }
    }

    /// Steps of the schedule, the noisiest first.
    fn trained_steps(&self, steps: usize) -> Result<Vec<usize>, DiffusersError> {
        let available = self.diffusion.schedule.steps();
        let offset = if self.spacing == Spacing::Leading { self.steps_offset } else { 0 };
        let visited = self.spacing.choose(steps, available)?;
        match visited[0] + offset < available {
            true => Ok(visited.into_iter().map(|t| t + offset).collect()),
            false => Err(DiffusersError::Value {
                key: "steps_offset".into(),
                found: offset.to_string(),
                expected: format!("{} at most, for {steps} of {available} steps", available - 1 - visited[0]),
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use ddpm_model::denoiser::{Denoised, Denoiser};
    use serde_json::{Value, json};

    fn read(json: &Value) -> SchedulerConfig {
        SchedulerConfig::read(json).unwrap()
    }

    #[test]
    fn impossible_plans_say_why() {
        let refuse = |mut json: Value, key: &str, value: Value, steps: usize, parts: &[&str]| {
            json[key] = value;
            let plan = SchedulerConfig::read(&json).and_then(|config| config.plan(steps, 0.0, Tables::Exact));
            let message = plan.unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        let class = |name: &str| json!({"_class_name": name});
        refuse(class("DDPMScheduler"), "steps_offset", 1.into(), 1000, &["steps_offset = 1", "0 at most"]);
        refuse(class("DDPMScheduler"), "steps_offset", 1.into(), 0, &["0 steps"]);
        refuse(class("DDIMScheduler"), "steps_offset", 0.into(), 1001, &["1001 steps", "1 to 1000"]);
        refuse(class("PNDMScheduler"), "steps_offset", 1.into(), 3, &["steps = 3", "4 at least"]);
        refuse(class("PNDMScheduler"), "timestep_spacing", "trailing".into(), 10, &["trailing", "leading"]);
        refuse(class("PNDMScheduler"), "prediction_type", "v_prediction".into(), 10, &["v_prediction", "epsilon"]);
        refuse(class("UniPCMultistepScheduler"), "lower_order_final", false.into(), 10, &["lower_order_final"]);
        refuse(class("DEISMultistepScheduler"), "solver_order", 4.into(), 10, &["solver_order = 4"]);
        refuse(class("DPMSolverMultistepScheduler"), "solver_order", 2.into(), 1000, &["steps = 1000", "999 at most"]);
        let multistep = class("DPMSolverMultistepScheduler");
        refuse(multistep.clone(), "algorithm_type", "sde-dpmsolver".into(), 9, &["sde-dpmsolver", "sde-dpmsolver++"]);
        let mut sde = multistep;
        sde["algorithm_type"] = "sde-dpmsolver++".into();
        refuse(sde.clone(), "solver_order", 3.into(), 9, &["solver_order = 3", "1 or 2"]);
        refuse(sde, "solver_type", "heun".into(), 9, &["heun", "midpoint"]);
        refuse(class("EulerDiscreteScheduler"), "timestep_type", "continuous".into(), 9, &["continuous", "discrete"]);
        refuse(class("EulerDiscreteScheduler"), "rescale_betas_zero_snr", true.into(), 9, &["EulerDiscreteScheduler"]);
        refuse(class("DDIMScheduler"), "rescale_betas_zero_snr", true.into(), 9, &["epsilon"]);
        refuse(class("KarrasVeScheduler"), "steps_offset", 0.into(), 9, &["KarrasVeScheduler", "DDPMScheduler"]);
        refuse(class("DDPMScheduler"), "beta_schedule", "exp".into(), 9, &["exp", "squaredcos_cap_v2"]);
        refuse(class("DDPMScheduler"), "num_train_timesteps", json!(1e12), 9, &["num_train_timesteps"]);
        refuse(class("DDPMScheduler"), "beta_end", 1.5.into(), 9, &["less than 1"]);
        refuse(class("DDPMScheduler"), "trained_betas", json!([0.1, 0.2]), 9, &["trained_betas", "1000 numbers"]);
        refuse(class("DDPMScheduler"), "variance_type", "learned".into(), 9, &["learned", "learned_range"]);
        refuse(class("DDPMScheduler"), "quantum", 1.into(), 9, &["quantum = 1", "not known"]);
        let large = json!({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"});
        refuse(large, "timestep_spacing", "trailing".into(), 10, &["end at step 99", "fixed_small"]);
    }

    /// `multistep_dpm_solver_second_order_update` and `dpm_solver_first_order_update` of diffusers, written independently.
    #[test]
    fn the_stochastic_multistep_solver_takes_the_peers_steps() {
        for (steps, end) in [(6, "zero"), (6, "sigma_min"), (16, "sigma_min")] {
            let json = json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++",
                "final_sigmas_type": end});
            let config = read(&json);
            assert_eq!(read(&config.write()), config);
            let plan = config.plan(steps, 0.0, Tables::Exact).unwrap();
            let predicted = |x: f64| (0.7 * x).sin();
            let drawn = |step: usize| (step as f64 + 0.3).cos();

            let levels = &plan.stretches[0];
            let lambda = |level: NoiseLevel| level.alpha.ln() - level.sigma.ln();
            let (mut wanted, mut outputs) = (1.1, Vec::new());
            for (i, pair) in levels.windows(2).enumerate() {
                let (s0, t) = (pair[0], pair[1]);
                outputs.push(predicted(wanted));
                let m0 = outputs[i];
                let h = lambda(t) - lambda(s0);
                let last = i + 1 == steps && (end == "zero" || steps < 15);
                let d1 = match i.checked_sub(1).filter(|_| !last) {
                    Some(before) => h / (lambda(s0) - lambda(levels[before])) * (m0 - outputs[before]),
                    None => 0.0,
                };
                let share = 1.0 - (-2.0 * h).exp();
                wanted = t.sigma / s0.sigma * (-h).exp() * wanted
                    + t.alpha * share * m0
                    + 0.5 * (t.alpha * share) * d1
                    + t.sigma * share.sqrt() * drawn(i);
            }

            let device = Device::flex();
            let number = |value: f64| Tensor::<2>::from_data(TensorData::from([[value]]), (&device, DType::F64));
            let mut noise = |step: usize| number(drawn(step));
            let x = plan.run(&Wave, number(1.1), &mut noise, &mut |_| {});
            let found = x.into_scalar::<f64>();
            assert!((found - wanted).abs() < 1e-9, "{steps} {end}: {found} {wanted}");
        }
    }

    /// A denoiser that is not linear, so that every order differs.
    struct Wave;

    impl Denoiser<2> for Wave {
        fn denoise(&self, x_t: &Tensor<2>, _level: NoiseLevel) -> Denoised<2> {
            Denoised { x_0: (x_t.clone() * 0.7).sin(), variance_logit: None }
        }
    }

    #[test]
    fn the_peers_habits_are_in_the_plan() {
        let ddim = json!({"_class_name": "DDIMScheduler", "steps_offset": 1});
        let plan = read(&ddim).plan(3, 0.0, Tables::Exact).unwrap();
        let time = |level| plan.diffusion.schedule.time_of(level).round() as usize;
        assert_eq!(plan.steps(), 3);
        assert_eq!(plan.stretches.iter().map(|levels| time(levels[0])).collect::<Vec<_>>(), [667, 334, 1]);
        assert_eq!(plan.stretches[2][1], CLEAN);
        let euler = read(&json!({"_class_name": "EulerDiscreteScheduler"})).plan(4, 0.0, Tables::Exact).unwrap();
        let times: Vec<f64> = euler.times.iter().map(|(_, time)| *time).collect();
        assert_eq!(times, [999.0, 666.0, 333.0, 0.0]);
        assert!(euler.start < 1.0 && euler.start > 0.9999);
        // An odd number of steps of order 2 ends in one of order 1, whatever the file says.
        let single = json!({"_class_name": "DPMSolverSinglestepScheduler", "final_sigmas_type": "sigma_min"});
        let falls = |steps| read(&single).plan(steps, 0.0, Tables::Exact).unwrap().sampler;
        assert_eq!(falls(10), Sampler::Dpmpp2s { falls_below: 0 });
        assert_eq!(falls(11), Sampler::Dpmpp2s { falls_below: usize::MAX });
    }
}
