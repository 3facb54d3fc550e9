//! Checkpoints: everything to resume, as one folder that is complete or not there.
//!
//! A folder is prepared aside, synced, and renamed; its presence is the commit mark. `ParamId`s travel
//! with the records, so the model must be loaded before the optimiser that refers to them.

use std::fs::File;
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
use ddpm_infer::runs::{step_name, steps_in, width_name};
use ddpm_model::network::Network;
use ddpm_model::resample::LossHistory;
use serde::{Deserialize, Serialize};

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
    /// A record of Burn could not be written, read or applied.
    #[error("{path}: {reason}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What Burn said.
        reason: String,
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
    /// The losses that the steps of the next items are drawn by; only where they are drawn by importance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_history: Option<LossHistory>,
}

/// Numbers as text: `serde_json` reads a JSON number to the last bit only with a feature that would have all
/// of Burn compiled once more.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
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
    /// Writes `checkpoints/step-N`.
    pub fn save(self, checkpoints: &Path) -> Result<PathBuf, CheckpointError> {
        let target = checkpoints.join(step_name(self.state.step));
        // What is there is complete, and the same: a step has one state.
        if target.exists() {
            return Ok(target);
        }
        let aside = checkpoints.join(format!(".{}.{}.tmp", step_name(self.state.step), std::process::id()));
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(io(&aside))?;
        }
        std::fs::create_dir_all(&aside).map_err(io(&aside))?;
        let record = |path: &Path, result: Result<(), burn::store::RecordError>| {
            result.map_err(|error| CheckpointError::Record { path: path.to_path_buf(), reason: error.to_string() })
        };
        let [model, ema, optimizer, state] = files(&aside);
        record(&model, self.model.save(&model))?;
        record(&ema, self.ema.save(&ema))?;
        record(&optimizer, self.optimizer.save(&optimizer))?;
        for (width, average) in self.post_hoc {
            let path = average_file(&aside, width);
            record(&path, average.save(&path))?;
        }
        let json = serde_json::to_vec_pretty(&self.state).map_err(|error| io(&state)(error.into()))?;
        std::fs::write(&state, json).map_err(io(&state))?;
        for path in [&state, &aside] {
            File::open(path).and_then(|file| file.sync_all()).map_err(io(path))?;
        }
        std::fs::rename(&aside, &target).map_err(io(&target))?;
        File::open(checkpoints).and_then(|dir| dir.sync_all()).map_err(io(checkpoints))?;
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
            state: serde_json::from_slice(&text)
                .map_err(|error| CheckpointError::State { path: state.clone(), reason: error.to_string() })?,
            model: read(&model)?,
            ema: read(&ema)?,
            post_hoc: widths
                .iter()
                .map(|&width| Ok((width, read(&average_file(dir, width))?)))
                .collect::<Result<_, _>>()?,
            optimizer: OptimizerRecord::load(&optimizer)
                .map_err(|error| CheckpointError::Record { path: optimizer.clone(), reason: error.to_string() })?,
        })
    }

    /// The newest checkpoint folder, if any.
    pub fn newest(checkpoints: &Path) -> Option<PathBuf> {
        steps_in(checkpoints).pop().map(|(_, path)| path)
    }
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
    let steps = steps_in(checkpoints);
    let old = steps.iter().rev().skip(keep).map(|(_, path)| path.clone());
    let torn = std::fs::read_dir(checkpoints)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".step-")));
    for path in old.chain(torn.collect::<Vec<_>>()) {
        // Old checkpoints only cost space: failing to remove one must not stop the training.
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Fits a record to a network of the same shape, with the keys at fault in the error.
pub fn restore(network: Network, record: ModuleRecord, path: &Path) -> Result<Network, CheckpointError> {
    network
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
