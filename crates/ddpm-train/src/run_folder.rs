//! The folder of a run: a new one, or one that is resumed, which only one trainer may write into.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use ddpm_files::atomic::{self, remove_half_written};
use ddpm_files::runs::{RunFolder, list, steps_in, widths_in};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::checkpoint::{Found, prune, set_aside};
use crate::manifest::{self, Manifest};
use crate::plan::Plan;
use crate::train::{Options, UsageError};
use ddpm_console::say;

/// How long a trainer that was killed may take to be gone.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Keys that may change when a run goes on. With any other key it would be another run.
const RESUMABLE: [&str; 17] = [
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.snapshot_every",
    "train.workers",
    "train.accumulate",
    "train.on_non_finite",
    "train.max_skips",
    "train.gradient_checkpointing",
    "train.tensorboard",
    "preview.",
    "validation.",
    "optimizer.learning_rate",
    "optimizer.skip_norm",
    "data.on_bad_file",
];

/// Whether a run has to begin again, as it was stopped before its first checkpoint. A folder that cannot be read is no
/// such run.
pub(crate) fn begins_again(run: &RunFolder, options: &Options) -> bool {
    let is_empty = || match std::fs::read_dir(run.checkpoints()) {
        Ok(_) => steps_in(&run.checkpoints()).is_empty(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    options.step.is_none() && is_empty()
}

/// The word for the run that was started or gone on with last.
const LATEST: &str = "latest";

/// The run that `--resume RUN` means.
fn resumed_run(runs: &Path, run: &str) -> anyhow::Result<RunFolder> {
    let newest =
        |run: &RunFolder| (std::fs::metadata(run.manifest()).and_then(|file| file.modified()).ok(), run.0.clone());
    match RunFolder::find(runs, run) {
        Err(_) if run == LATEST => list(runs)
            .into_iter()
            .max_by_key(newest)
            .with_context(|| format!("--resume latest: there is no run in {}", runs.display())),
        found => Ok(found?),
    }
}

/// Finds the run and what it says of itself, and refuses changes that would make it another run.
pub(crate) fn resumable(runs: &Path, run: &str, sets: &[String]) -> anyhow::Result<(RunFolder, Manifest)> {
    let run = resumed_run(runs, run)?;
    for set in sets {
        let key = set.split('=').next().unwrap_or_default().trim();
        if !RESUMABLE.iter().any(|allowed| key == *allowed || (allowed.ends_with('.') && key.starts_with(allowed))) {
            return Err(UsageError(format!(
                "--set {key}: would make {} another run; with --resume only these can change: {}",
                run.0.display(),
                RESUMABLE.join(", ").replace(".,", ".*,")
            ))
            .into());
        }
    }
    let manifest =
        Manifest::read(&run.manifest()).with_context(|| format!("{}: cannot be read", run.manifest().display()))?;
    Ok((run, manifest))
}

/// Says which checkpoint the run goes on from, if it is not simply the newest, and moves the later ones out of its way.
pub(crate) fn set_aside_damaged(found: &Found) -> anyhow::Result<()> {
    for damage in &found.damaged {
        say!("warning: {damage}");
    }
    for path in &found.later {
        say!("{} is kept as {}", path.display(), set_aside(path)?.display());
    }
    let path = found.path.display();
    if !found.damaged.is_empty() {
        say!("the newest good checkpoint is {path}");
    }
    if !found.verified {
        say!("note: {path} has no checksums, as an older version wrote it: it is not verified");
    }
    Ok(())
}

/// Makes `runs/<experiment>-<time>`.
pub(crate) fn new_run(runs: &Path, name: &str) -> anyhow::Result<RunFolder> {
    let format = format_description!("[year][month][day]-[hour][minute][second]");
    let stamp = OffsetDateTime::now_utc().format(&format)?;
    let names = (1..).map(|n| if n == 1 { format!("{name}-{stamp}") } else { format!("{name}-{stamp}-{n}") });
    std::fs::create_dir_all(runs).with_context(|| format!("cannot make the folder {}", runs.display()))?;
    for folder in names.map(|name| runs.join(name)) {
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
            Ok(()) => {}
        }
        let run = RunFolder(folder);
        for dir in [run.checkpoints(), run.snapshots(), run.previews()] {
            std::fs::create_dir(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        }
        return Ok(run);
    }
    unreachable!("there is always a next name")
}

/// Only one trainer may write into a run. The lock goes when the process does, which may take a moment.
pub(crate) fn lock(run: &RunFolder) -> anyhow::Result<File> {
    let path = run.0.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let asked = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) if asked.elapsed() > LOCK_TIMEOUT => {
                anyhow::bail!("another ddpm-train is at work on {}", run.0.display());
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_TIMEOUT / 20),
        }
    }
}

/// Writes `config.toml` and `manifest.json`, and tidies up after a run that was killed.
pub(crate) fn write_records(
    run: &RunFolder,
    plan: &Plan,
    parameters: usize,
    begun: manifest::Start,
) -> anyhow::Result<Manifest> {
    let Plan { name, experiment, data, from, .. } = plan;
    for folder in [run.0.clone(), run.snapshots(), run.previews()] {
        remove_half_written(&folder);
    }
    widths_in(&run.averages()).iter().for_each(|(_, folder)| remove_half_written(folder));
    atomic::write(&run.config(), toml::to_string(experiment)?)?;
    let before = Manifest::read(&run.manifest()).ok();
    let (starts, started_from) = before.map_or_else(Default::default, |before| (before.starts, before.from));
    let manifest = Manifest {
        experiment: name.clone(),
        parameters,
        data: format!("{}: {} items of shape {:?}", data.info.name, data.items.len(), data.info.shape),
        seed: experiment.train.seed,
        // JSON has no names that are no text.
        from: started_from.or(from.as_ref().map(|from| from.to_string_lossy().into_owned().into())),
        starts: starts.into_iter().chain([begun]).collect(),
    };
    atomic::write(&run.manifest(), serde_json::to_vec_pretty(&manifest)?)?;
    prune(&run.checkpoints(), experiment.train.keep_checkpoints);
    Ok(manifest)
}
