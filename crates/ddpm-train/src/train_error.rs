//! Why a training stops before its last step.

use std::path::PathBuf;

use crate::anomaly::Anomaly;
use crate::checkpoint::CheckpointError;

/// Why training stopped before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or gradient that is not finite.
    #[error(
        "step {step}: {what} is not finite (learning rate {learning_rate:e}, last finite loss {last_finite_loss}{}); \
         the weights before this step lie in {saved}{}",
        skips(*.skipped),
        seen(.diagnosis)
    )]
    NotFinite {
        /// The step that was being taken.
        step: u64,
        /// Loss or gradient, and the first parameter whose gradient it is.
        what: String,
        /// Its learning rate.
        learning_rate: f64,
        /// The loss of the last step that had one.
        last_finite_loss: f64,
        /// Steps just before that were skipped.
        skipped: u64,
        /// The checkpoint to inspect.
        saved: PathBuf,
        /// What computing the step once more showed, if it was.
        diagnosis: Option<Diagnosis>,
    },
    /// Gradients that are too large, too many times in a row.
    #[error(
        "step {step}: the norm of the gradients, {norm:.4}, is above optimizer.skip_norm = {limit} (learning rate \
         {learning_rate:e}{}): with a higher one, --resume goes on from {saved}",
        skips(*.skipped)
    )]
    TooLarge {
        /// The step that was being taken.
        step: u64,
        /// The norm of its gradients.
        norm: f64,
        /// The norm that is allowed.
        limit: f64,
        /// Its learning rate.
        learning_rate: f64,
        /// Steps just before that were skipped.
        skipped: u64,
        /// The checkpoint before the step.
        saved: PathBuf,
    },
    /// The data gave out.
    #[error("step {step}: {reason}; everything before this step is saved in {saved}")]
    Data {
        /// The step that was being taken.
        step: u64,
        /// What the data said.
        reason: String,
        /// The checkpoint to go on from.
        saved: PathBuf,
    },
    /// One of several devices failed.
    #[error("step {step}: {reason}; everything before this step is saved in {saved}")]
    Device {
        /// The step that was being taken.
        step: u64,
        /// Which device, and what it said.
        reason: String,
        /// The checkpoint to go on from.
        saved: PathBuf,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint of step {step} could not be written: {source}")]
    Checkpoint {
        /// The step.
        step: u64,
        /// Why.
        source: CheckpointError,
    },
    /// A snapshot could not be written.
    #[error("the snapshot of step {step} could not be written: {source}")]
    Snapshot {
        /// The step.
        step: u64,
        /// Why.
        source: ddpm_families::snapshot::SnapshotError,
    },
}

fn skips(steps: u64) -> String {
    if steps == 0 { String::new() } else { format!(", after {steps} skipped in a row") }
}

/// What computing a step once more showed: where it stops being finite, unless it is finite this time.
pub type Diagnosis = Option<Box<Anomaly>>;

pub(crate) fn seen(diagnosis: &Option<Diagnosis>) -> String {
    match diagnosis {
        Some(Some(anomaly)) => format!("\n{anomaly}"),
        Some(None) => "\ncomputed once more, the step is finite: this device is not deterministic".into(),
        None => "; --resume with --detect-anomaly says in which layer it begins".into(),
    }
}
