//! How a model is sampled: by what was chosen, and for the rest by what is usual for it.

use std::path::Path;

use ddpm_model::continuous::ContinuousDiffusion;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::path::Path as NoisePath;

use crate::diffusers::scheduler_config::{Method, SchedulerConfig};
use crate::diffusers::{DiffusersError, Plan, Tables};
use crate::snapshot::{Sampling, Snapshot, SnapshotConfig};
use ddpm_files::runs::RunFolder;
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::noise::Generator;
use ddpm_sampling::samplers::{Churn, Sampler, SamplerError, SamplerOptions};
use ddpm_sampling::tasks::Task;

/// What was chosen of sampler and steps.
#[derive(Clone, Debug, Default)]
pub struct Choice<'a> {
    /// The sampler's name, which options may follow.
    pub sampler: Option<&'a str>,
    /// Its steps.
    pub steps: Option<usize>,
    /// Its options, with the variance of the model.
    pub options: SamplerOptions,
    /// Whether noise levels were chosen.
    pub has_levels: bool,
    /// Who draws the noise: PyTorch's comes with the scheduler and the tables of diffusers.
    pub generator: Generator,
}

/// Why a model cannot be sampled as chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// No such sampler, or an option that it does not have.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// An option that the default sampler does not have.
    #[error("the default sampler of this model: {error}")]
    Default {
        /// What is wrong.
        error: SamplerError,
    },
    /// The scheduler that came with the model cannot take these steps.
    #[error("the snapshot's {class}: {error}")]
    Scheduler {
        /// The class of diffusers.
        class: &'static str,
        /// What is wrong.
        error: DiffusersError,
    },
}

/// How a model is sampled.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The steps of a diffusers scheduler, if it is followed.
    pub plan: Option<Plan>,
    /// The sampler.
    pub sampler: Sampler,
    steps: Option<usize>,
    usual_steps: Option<usize>,
}

impl Choice<'_> {
    /// Follows the scheduler of a model, if it has one of its own and nothing else was chosen; else takes the sampler
    /// that was named, that of the task, or the usual one of the model with its steps.
    pub fn resolve(
        &self,
        task: &Task,
        snapshot: &Snapshot,
        path: &Path,
        diffusion: &Diffusion,
    ) -> Result<Chosen, ChoiceError> {
        if *task == Task::Sample
            && let Some(plan) = self.scheduler_plan(snapshot)?
        {
            let sampler = plan.sampler;
            return Ok(Chosen { plan: Some(plan), sampler, steps: self.steps, usual_steps: None });
        }
        let chosen = |sampler, usual_steps| Chosen { plan: None, sampler, steps: self.steps, usual_steps };
        if let Some(name) = self.sampler.or(task.usual_sampler()) {
            return Ok(chosen(Sampler::new(name, self.options.clone())?, None));
        }
        let Sampling { sampler, steps, .. } = usual_sampling(&snapshot.config, path, diffusion);
        let sampler = Sampler::new(&sampler, self.options.clone()).map_err(|error| ChoiceError::Default { error })?;
        Ok(chosen(sampler, Some(steps)))
    }

    /// The steps of the scheduler that others chose, or with PyTorch's noise of the one that diffusers would use.
    fn scheduler_plan(&self, snapshot: &Snapshot) -> Result<Option<Plan>, ChoiceError> {
        let (scheduler, tables) = match self.generator {
            Generator::Own => (snapshot.chosen_scheduler(), Tables::Exact),
            Generator::Torch => (snapshot.scheduler.as_ref(), Tables::Peer),
        };
        let Some(scheduler) = scheduler.filter(|scheduler| !self.excludes(scheduler)) else { return Ok(None) };
        let eta = self.options.given.get("eta").copied().unwrap_or(0.0);
        if !(0.0..=1.0).contains(&eta) {
            let expected = "a number from 0 to 1".into();
            return Err(SamplerError::OutOfRange { option: "eta", found: eta, expected }.into());
        }
        let steps = self.steps.unwrap_or_else(|| scheduler.default_steps());
        let plan = scheduler.plan(steps, eta, tables);
        plan.map(Some).map_err(|error| ChoiceError::Scheduler { class: scheduler.class(), error })
    }

    /// Whether something was chosen that the scheduler does not have.
    fn excludes(&self, scheduler: &SchedulerConfig) -> bool {
        let is_ddim = matches!(scheduler.method, Method::Ddim { .. });
        let of_another = self.options.given.keys().any(|option| *option != "eta" || !is_ddim);
        self.sampler.is_some() || self.has_levels || of_another
    }
}

impl Chosen {
    /// The steps over these levels, where they are not what is usual for the sampler; a list of levels has its own.
    pub fn steps(&self, levels: &LevelSchedule) -> Option<usize> {
        self.steps.or(self.usual_steps.filter(|_| levels.own_steps().is_none()))
    }
}

/// The sampler and the steps of the experiment's previews, which the snapshot at `path` or the run around it knows;
/// else what docs/choosing.md advises for the objective.
pub fn usual_sampling(config: &SnapshotConfig, path: &Path, diffusion: &Diffusion) -> Sampling {
    let of_run = || RunFolder::around(path).and_then(|run| run.table("preview"));
    let chosen: Sampling = config.sampling.clone().or_else(of_run).unwrap_or_else(|| advised(diffusion));
    let most = diffusion.schedule().map_or(usize::MAX, |schedule| schedule.len());
    Sampling { steps: chosen.steps.clamp(1, most), ..chosen }
}

/// The sampler that suits the objective.
pub(crate) fn advised_sampler(diffusion: &Diffusion) -> Sampler {
    match diffusion {
        Diffusion::Discrete(_) => Sampler::Ddim { eta: 0.0 },
        Diffusion::Continuous(ContinuousDiffusion { path: NoisePath::Linear {}, .. }) => Sampler::FlowHeun,
        Diffusion::Continuous(_) => Sampler::Heun { churn: Churn::NONE },
    }
}

fn advised(diffusion: &Diffusion) -> Sampling {
    let sampler = advised_sampler(diffusion);
    Sampling { sampler: sampler.name().into(), steps: sampler.usual_steps(diffusion), guidance: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::snapshot::DiffusionConfig;
    use serde_json::{Value, json};

    fn usual(diffusion: Value, sampling: Value, path: &Path) -> (String, usize) {
        let network = json!({"kind": "point-mlp", "hidden": [4]});
        let units = json!({"shift": [0.0, 0.0], "scale": [1.0, 1.0]});
        let data = json!({"name": "moons", "shape": [2], "classes": [], "units": units});
        let mut config = json!({"format": 1, "network": network, "diffusion": diffusion, "data": data,
            "experiment": "test", "step": 0, "images_seen": 0});
        config["sampling"] = sampling;
        let config: SnapshotConfig = serde_json::from_value(config).unwrap();
        let diffusion: DiffusionConfig = config.diffusion.clone();
        let Sampling { sampler, steps, .. } = usual_sampling(&config, path, &diffusion.init().unwrap());
        (sampler, steps)
    }

    #[test]
    fn previews_come_first_and_then_what_suits_the_objective() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path();
        let steps = |steps: usize| json!({"schedule": {"kind": "linear", "steps": steps}});
        let continuous =
            |path: Value, prediction: &str| json!({"continuous": {"path": path, "prediction": prediction}});
        assert_eq!(usual(steps(1000), Value::Null, nowhere), ("ddim".into(), 50));
        assert_eq!(usual(steps(12), Value::Null, nowhere), ("ddim".into(), 12));
        assert_eq!(
            usual(continuous(json!({"kind": "linear"}), "flow"), Value::Null, nowhere),
            ("flow-heun".into(), 25)
        );
        assert_eq!(usual(continuous(json!({"kind": "vp"}), "eps"), Value::Null, nowhere), ("heun".into(), 18));
        let unipc = json!({"sampler": "unipc", "steps": 30});
        assert_eq!(usual(steps(1000), unipc.clone(), nowhere), ("unipc".into(), 30));
        assert_eq!(usual(steps(12), unipc.clone(), nowhere), ("unipc".into(), 12));

        // A snapshot that does not know, within a run that does.
        let snapshot = dir.path().join("snapshots/step-00000001");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(dir.path().join("config.toml"), "[preview]\nsampler = \"deis\"\nsteps = 7\n").unwrap();
        assert_eq!(usual(steps(1000), Value::Null, &snapshot), ("deis".into(), 7));
        assert_eq!(usual(steps(1000), unipc, &snapshot), ("unipc".into(), 30));
        std::fs::write(dir.path().join("config.toml"), "[preview]\nsampler = \"ddim:eta=0.5\"\nsteps = 7\n").unwrap();
        let (sampler, _) = usual(steps(1000), Value::Null, &snapshot);
        assert_eq!(Sampler::new(&sampler, SamplerOptions::default()).unwrap(), Sampler::Ddim { eta: 0.5 });
        std::fs::write(dir.path().join("config.toml"), "[preview]\nsteps = -7\n").unwrap();
        assert_eq!(usual(steps(1000), Value::Null, &snapshot), ("ddim".into(), 50));
    }
}
