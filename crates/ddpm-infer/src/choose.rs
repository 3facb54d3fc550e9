//! Which snapshot, on which device: the words that all commands about a snapshot share.

use std::path::PathBuf;

use clap::Args;

use crate::runs::{RUNS, RunError, RunFolder};

/// The snapshot and the device of a command.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// A run: its folder, or its name in the runs folder; without it, the newest run that has a snapshot.
    #[arg(long, value_name = "RUN", conflicts_with = "from")]
    run: Option<String>,
    /// A snapshot, a folder of diffusers, or the file of a snapshot that is one.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,
    /// Where to compute, e.g. flex, wgpu, cuda:1; without it, the device of the compiled-in feature.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
}

impl SnapshotArgs {
    /// The snapshot, and the run it belongs to if it was found by its run.
    pub fn choose(&self) -> Result<(PathBuf, Option<RunFolder>), RunError> {
        if let Some(from) = &self.from {
            return Ok((from.clone(), None));
        }
        let run = match &self.run {
            Some(run) => RunFolder::find(&self.runs, run)?,
            None => RunFolder::newest_with_snapshot(&self.runs)?,
        };
        Ok((run.newest_snapshot()?, Some(run)))
    }
}
