//! The sampler that a model is given where none is named: a good one, and quick.

use std::path::Path;

use ddpm_files::runs::RunFolder;
use ddpm_model::continuous::ContinuousDiffusion;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::path::Path as NoisePath;
use ddpm_sampling::samplers::{Churn, Sampler};

use crate::snapshot::{Sampling, SnapshotConfig};

/// The sampler and the steps of the experiment's previews, which the snapshot at `path` or the run around it knows;
/// else what docs/choosing.md advises for the objective.
pub fn usual_sampling(config: &SnapshotConfig, path: &Path, diffusion: &Diffusion) -> Sampling {
    let of_run = || RunFolder::around(path).and_then(|run| run.table("preview"));
    let Sampling { sampler, steps } = config.sampling.clone().or_else(of_run).unwrap_or_else(|| advised(diffusion));
    let most = diffusion.schedule().map_or(usize::MAX, |schedule| schedule.len());
    Sampling { sampler, steps: steps.clamp(1, most) }
}

fn advised(diffusion: &Diffusion) -> Sampling {
    let sampler = match diffusion {
        Diffusion::Discrete(_) => Sampler::Ddim { eta: 0.0 },
        Diffusion::Continuous(ContinuousDiffusion { path: NoisePath::Linear {}, .. }) => Sampler::FlowHeun,
        Diffusion::Continuous(_) => Sampler::Heun { churn: Churn::NONE },
    };
    Sampling { sampler: sampler.name().into(), steps: sampler.usual_steps(diffusion) }
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
        let Sampling { sampler, steps } = usual_sampling(&config, path, &diffusion.init().unwrap());
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
        std::fs::write(dir.path().join("config.toml"), "[preview]\nsteps = -7\n").unwrap();
        assert_eq!(usual(steps(1000), Value::Null, &snapshot), ("ddim".into(), 50));
    }
}
