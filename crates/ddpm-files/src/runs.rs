//! Run folders: the names in them, and finding runs and steps.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

/// The folder of runs unless `--runs` names another.
pub const RUNS: &str = "runs";

/// Why no run or snapshot was found.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing was trained yet.
    #[error("no run in {runs} has a snapshot yet; train one first: cargo run -p ddpm-train")]
    NoRun {
        /// The folder that was searched.
        runs: PathBuf,
    },
    /// No run has this name.
    #[error("there is no run {run}{}", names(.known))]
    Unknown {
        /// The name.
        run: String,
        /// The runs there are.
        known: Vec<String>,
    },
    /// The run exists but has nothing to sample from.
    #[error("{run} has no snapshot yet; its first is written after train.snapshot_every steps and at the end")]
    NoSnapshot {
        /// The run folder.
        run: PathBuf,
    },
}

fn names(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) }
}

/// One run folder and the names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(pub PathBuf);

impl RunFolder {
    /// The resolved experiment.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }
    /// What made the run: command, seed, versions, device.
    pub fn manifest(&self) -> PathBuf {
        self.0.join("manifest.json")
    }
    /// One JSON line every `train.log_every` steps.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }
    /// Everything to resume, one folder a step.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }
    /// Weights to sample from, one folder a step.
    pub fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }
    /// Averages of several widths, from which one of any width can be made: a folder for each width, and in it one
    /// a step.
    pub fn averages(&self) -> PathBuf {
        self.0.join("averages")
    }
    /// Images made while training.
    pub fn previews(&self) -> PathBuf {
        self.0.join("previews")
    }
    /// What was sampled without `--out`.
    pub fn samples(&self) -> PathBuf {
        self.0.join("samples")
    }

    /// What evaluations found, one JSON line for each set of samples.
    pub fn evaluations(&self) -> PathBuf {
        self.0.join("evaluations.jsonl")
    }

    /// The run that a snapshot or a stored average lies in.
    pub fn around(snapshot: &Path) -> Option<Self> {
        let snapshot = snapshot.canonicalize().ok()?;
        let mut folders = snapshot.ancestors().skip(1).map(|folder| Self(folder.to_path_buf()));
        folders.find(|run| {
            run.config().is_file() && [run.snapshots(), run.averages()].iter().any(|own| snapshot.starts_with(own))
        })
    }

    /// A table of its experiment, such as `preview`; `None` if it is absent or is no `T`.
    pub fn table<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let experiment: toml::Table = std::fs::read_to_string(self.config()).ok()?.parse().ok()?;
        experiment.get(name)?.clone().try_into().ok()
    }

    /// The folder `--run RUN` names: a path, or a name within `runs`.
    pub fn find(runs: &Path, run: &str) -> Result<Self, RunError> {
        [PathBuf::from(run), runs.join(run)].into_iter().map(Self).find(|folder| folder.config().is_file()).ok_or_else(
            || {
                let known =
                    list(runs).into_iter().filter_map(|run| Some(run.0.file_name()?.to_string_lossy().into_owned()));
                RunError::Unknown { run: run.into(), known: known.collect() }
            },
        )
    }

    /// The newest run in `runs` that has a snapshot.
    pub fn newest_with_snapshot(runs: &Path) -> Result<Self, RunError> {
        list(runs)
            .into_iter()
            .filter(|run| run.newest_snapshot().is_ok())
            .max_by_key(|run| (run.started(), run.0.clone()))
            .ok_or_else(|| RunError::NoRun { runs: runs.to_path_buf() })
    }

    /// The snapshot of the highest step.
    pub fn newest_snapshot(&self) -> Result<PathBuf, RunError> {
        steps_in(&self.snapshots())
            .pop()
            .map(|(_, path)| path)
            .ok_or_else(|| RunError::NoSnapshot { run: self.0.clone() })
    }

    /// When the run was last started or resumed: that is when its manifest is written.
    fn started(&self) -> Option<SystemTime> {
        std::fs::metadata(self.manifest()).and_then(|metadata| metadata.modified()).ok()
    }
}

/// The run folders within `runs`, by name.
pub fn list(runs: &Path) -> Vec<RunFolder> {
    let mut found: Vec<RunFolder> = entries(runs).map(RunFolder).filter(|run| run.config().is_file()).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The name of what belongs to an average of this width.
pub fn width_name(width: f64) -> String {
    format!("width-{width}")
}

/// The `width-*` folders in a folder, by rising width.
pub fn widths_in(dir: &Path) -> Vec<(f64, PathBuf)> {
    let mut widths: Vec<(f64, PathBuf)> = entries(dir)
        .filter_map(|path| {
            let width = path.file_name()?.to_str()?.strip_prefix("width-")?.parse().ok()?;
            Some((width, path))
        })
        .collect();
    widths.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    widths
}

/// The width of the stored average that a path is, if it is one.
pub fn width_of(average: &Path) -> Option<f64> {
    average.parent()?.file_name()?.to_str()?.strip_prefix("width-")?.parse().ok()
}

/// The name of what belongs to a step, in the order of steps.
pub fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The `step-*` entries of a folder, by rising step. What is still being written has another name.
pub fn steps_in(dir: &Path) -> Vec<(u64, PathBuf)> {
    let mut steps: Vec<(u64, PathBuf)> = entries(dir)
        .filter_map(|path| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    steps.sort();
    steps
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}
