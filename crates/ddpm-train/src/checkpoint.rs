//! Checkpoints: everything to resume, as one folder that is complete or not there.
//!
//! A folder is prepared aside, synced, and renamed; its presence is the commit mark, and its checksums say later
//! whether it is still what was written. `ParamId`s travel with the records, so the model must be loaded before the
//! optimiser that refers to them.
//!
//! A resumed run is the same because items, noise and dropout of a step follow from (seed, place), and a checkpoint holds the
//! place: `Loop::unseen` in `step_loop.rs`, `ddpm_data::random`. `State::restore` in `train.rs` puts it all back.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use burn::module::Module;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn_train::checkpoint::{
    AsyncCheckpointer, Checkpoint as Record, Checkpointer, CheckpointerError, CheckpointingAction,
    CheckpointingStrategy,
};
use burn_train::metric::store::EventStoreClient;
use burn_train::{Learner, LearnerModel, LearningCheckpointer};
use ddpm_families::loss_sum::exact;
use ddpm_files::WriteError;
use ddpm_files::atomic::{self, AtomicFolder, remove_half_written};
use ddpm_files::runs::{step_name, steps_in, width_name};
use serde::{Deserialize, Serialize};

use crate::checksums::{ChecksumError, Checksums};
use crate::loss_scale::LossScale;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or the folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A record of Burn could not be written, read or applied.
    #[error("{path}: {reason}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What Burn said.
        reason: String,
    },
    /// A file is no longer what was written, or another run's.
    #[error(transparent)]
    Checksum(#[from] ChecksumError),
    /// There is no checkpoint of the step that was asked for.
    #[error("{checkpoints} has no checkpoint of step {step}; there are: {}", steps_of(.known))]
    Unknown {
        /// The folder of all checkpoints.
        checkpoints: PathBuf,
        /// The step.
        step: u64,
        /// The steps there are.
        known: Vec<u64>,
    },
    /// The checkpoint that was asked for cannot be used.
    #[error("{}\n  the newest good checkpoint before it is that of step {newest_good}", joined(.damaged))]
    Damaged {
        /// What is wrong with it, and with those between it and the good one.
        damaged: Vec<CheckpointError>,
        /// The step of the newest before it that can be used.
        newest_good: u64,
    },
    /// Not one checkpoint can be used.
    #[error("{checkpoints} has no checkpoint to resume from{}", lines(.damaged))]
    NoneGood {
        /// The folder of all checkpoints.
        checkpoints: PathBuf,
        /// What is wrong with those there are.
        damaged: Vec<CheckpointError>,
    },
    /// The state file is not one.
    #[error("{path} is not the state of a checkpoint: {reason}")]
    State {
        /// The file.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
}

fn steps_of(known: &[u64]) -> String {
    if known.is_empty() { "none".into() } else { known.iter().map(u64::to_string).collect::<Vec<_>>().join(", ") }
}

fn lines(errors: &[CheckpointError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

fn joined(errors: &[CheckpointError]) -> String {
    errors.iter().map(CheckpointError::to_string).collect::<Vec<_>>().join("\n  ")
}

/// What a run knows about itself between two steps, besides weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Steps taken.
    pub step: u64,
    /// Items seen.
    pub images_seen: u64,
    /// Losses since the last regular line of metrics, added up.
    #[serde(with = "exact")]
    pub loss_sum: f64,
    /// How many of them.
    pub loss_count: u64,
    /// The last loss that was finite.
    #[serde(with = "exact")]
    pub last_finite_loss: f64,
    /// Steps that were taken with clipped gradients.
    #[serde(default)]
    pub clipped: u64,
    /// Steps that were not taken because something about them was not finite or their gradients were too large.
    #[serde(default)]
    pub skipped: u64,
    /// How many of them came last, one after the other.
    #[serde(default)]
    pub skipped_in_a_row: u64,
    /// How many of them came since the last regular line of metrics.
    #[serde(default)]
    pub skipped_since_line: u64,
    /// The factor of the loss; only in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// What the family remembers from step to step.
    #[serde(default)]
    pub memory: serde_json::Value,
}

impl TrainState {
    /// Reads what was written. Older versions knew one family only, and had what it remembers beside the counters.
    fn from_json(text: &[u8]) -> serde_json::Result<Self> {
        let mut state: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)?;
        let remembered = ["quartiles", "loss_history"].map(|key| state.remove_entry(key));
        let remembered: serde_json::Map<_, _> = remembered.into_iter().flatten().collect();
        if !remembered.is_empty() && !state.contains_key("memory") {
            state.insert("memory".into(), remembered.into());
        }
        serde_json::from_value(state.into())
    }

    /// The step of the last regular line of metrics.
    pub fn last_line(&self) -> u64 {
        self.step.saturating_sub(self.loss_count).saturating_sub(self.skipped_since_line)
    }
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// Counters.
    pub state: TrainState,
    /// Trained weights.
    pub model: ModuleRecord,
    /// Averaged weights.
    pub ema: ModuleRecord,
    /// Averages for later, with their widths.
    pub post_hoc: Vec<(f64, ModuleRecord)>,
    /// Moments.
    pub optimizer: OptimizerRecord,
}

impl Checkpoint {
    /// Writes `checkpoints/step-N` in the name of `run`.
    pub fn save(self, checkpoints: &Path, run: &str) -> Result<PathBuf, CheckpointError> {
        let target = checkpoints.join(step_name(self.state.step));
        // What is there is complete, and the same: a step has one state.
        if target.exists() {
            return Ok(target);
        }
        let folder = AtomicFolder::begin(&target)?;
        let record = |path: &Path, result: Result<(), burn::store::RecordError>| {
            result.map_err(|error| CheckpointError::Record { path: path.to_path_buf(), reason: error.to_string() })
        };
        let [model, ema, optimizer, state] = files(folder.path());
        record(&model, self.model.save(&model))?;
        record(&ema, self.ema.save(&ema))?;
        record(&optimizer, self.optimizer.save(&optimizer))?;
        for (width, average) in self.post_hoc {
            let path = average_file(folder.path(), width);
            record(&path, average.save(&path))?;
        }
        let json = serde_json::to_vec_pretty(&self.state).map_err(|error| io(&state)(error.into()))?;
        folder.write(&state, json)?;
        Checksums::seal(&folder, run)?;
        folder.commit()?;
        Ok(target)
    }

    /// Reads a checkpoint folder, with the averages of these widths besides.
    pub fn load(dir: &Path, widths: &[f64]) -> Result<Self, CheckpointError> {
        let [model, ema, optimizer, state] = files(dir);
        let text = std::fs::read(&state).map_err(io(&state))?;
        let read = |path: &Path| {
            ModuleRecord::load(path)
                .map_err(|error| CheckpointError::Record { path: path.to_path_buf(), reason: error.to_string() })
        };
        Ok(Self {
            state: TrainState::from_json(&text)
                .map_err(|error| CheckpointError::State { path: state.clone(), reason: error.to_string() })?,
            model: read(&model)?,
            ema: read(&ema)?,
            post_hoc: widths
                .iter()
                .map(|&width| Ok((width, read(&average_file(dir, width))?)))
                .collect::<Result<_, CheckpointError>>()?,
            optimizer: OptimizerRecord::load(&optimizer)
                .map_err(|error| CheckpointError::Record { path: optimizer.clone(), reason: error.to_string() })?,
        })
    }

    /// Finds what `run` goes on from: the checkpoint of `step`, or else the newest that is as it was written.
    pub fn choose(
        checkpoints: &Path,
        step: Option<u64>,
        widths: &[f64],
        run: &str,
    ) -> Result<(Self, Found), CheckpointError> {
        let mut later = Vec::new();
        let mut damaged = Vec::new();
        let steps = steps_in(checkpoints);
        if let Some(step) = step.filter(|step| steps.iter().all(|(known, _)| known != step)) {
            let known = steps.into_iter().map(|(step, _)| step).collect();
            return Err(CheckpointError::Unknown { checkpoints: checkpoints.into(), step, known });
        }
        for (at, path) in steps.into_iter().rev() {
            if step.is_some_and(|step| at > step) {
                later.push(path);
                continue;
            }
            let verified = Checksums::verify(&path, run).map_err(CheckpointError::from);
            match verified.and_then(|verified| Ok((verified, Self::load(&path, widths)?))) {
                Ok((verified, checkpoint)) if step.is_none_or(|step| at == step) => {
                    return Ok((checkpoint, Found { path, verified, later, damaged }));
                }
                // The one that was asked for is damaged; this one is to be had.
                Ok(_) => return Err(CheckpointError::Damaged { damaged, newest_good: at }),
                Err(error) => {
                    later.push(path);
                    damaged.push(error);
                }
            }
        }
        Err(CheckpointError::NoneGood { checkpoints: checkpoints.into(), damaged })
    }
}

/// Where the checkpoint was found that a run goes on from.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub path: PathBuf,
    /// Whether it had checksums to compare it with.
    pub verified: bool,
    /// The folders of later steps.
    pub later: Vec<PathBuf>,
    /// What is wrong with those of them that were looked at.
    pub damaged: Vec<CheckpointError>,
}

/// Gives a checkpoint a name that no resumption looks at, so that the run can write its step anew.
pub fn set_aside(path: &Path) -> Result<PathBuf, CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut names = (1..).map(|n| path.with_file_name(format!("set-aside-{n}-{name}")));
    let target = names.find(|target| !target.exists()).unwrap_or_default();
    atomic::rename(path, &target)?;
    Ok(target)
}

fn files(dir: &Path) -> [PathBuf; 4] {
    ["model.bpk", "ema.bpk", "optimizer.bpk", "state.json"].map(|name| dir.join(name))
}

fn average_file(dir: &Path, width: f64) -> PathBuf {
    dir.join(format!("{}.bpk", width_name(width)))
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Io { path: path.clone(), source }
}

/// Removes all but the newest `keep` checkpoints, and what a killed run left half-written.
pub fn prune(checkpoints: &Path, keep: usize) {
    for (_, path) in steps_in(checkpoints).iter().rev().skip(keep) {
        // They only cost space: failing to remove one must not stop the training.
        let _ = atomic::remove_folder(path);
    }
    remove_half_written(checkpoints);
}

/// Fits a record to a network of the same shape, with the keys at fault in the error.
pub fn restore<M: Module>(module: M, record: ModuleRecord, path: &Path) -> Result<M, CheckpointError> {
    module
        .try_load_record(record)
        .map_err(|error| CheckpointError::Record { path: path.to_path_buf(), reason: error.to_string() })
}

/// The optimiser's record, which `Learner` keeps to itself and gives to its checkpointer only.
pub struct OptimizerTap<M: LearnerModel> {
    checkpointer: LearningCheckpointer<M>,
    records: mpsc::Receiver<OptimizerRecord>,
}

impl<M: LearnerModel> Default for OptimizerTap<M> {
    fn default() -> Self {
        let (sender, records) = mpsc::channel();
        let checkpointer = LearningCheckpointer::new(
            AsyncCheckpointer::new(Tap(None)),
            AsyncCheckpointer::new(Tap(Some(sender))),
            AsyncCheckpointer::new(Tap(None)),
            Box::new(SaveAlways),
        );
        Self { checkpointer, records }
    }
}

impl<M: LearnerModel> OptimizerTap<M> {
    /// The moments as they are now.
    pub fn record(&mut self, learner: &Learner<M>, store: &EventStoreClient) -> Option<OptimizerRecord> {
        self.checkpointer.checkpoint(learner, 0, store);
        self.records.recv().ok()
    }
}

struct SaveAlways;

impl CheckpointingStrategy for SaveAlways {
    fn checkpointing(&mut self, _: usize, _: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

/// Passes a record on instead of writing it.
struct Tap<R>(Option<mpsc::Sender<R>>);

impl<R: Record> Checkpointer<R> for Tap<R> {
    fn save(&self, _: usize, record: R) -> Result<(), CheckpointerError> {
        match &self.0 {
            Some(sender) => sender.send(record).map_err(|error| CheckpointerError::Unknown(error.to_string())),
            None => Ok(()),
        }
    }

    fn delete(&self, _: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown("a tap holds no record".into()))
    }
}
