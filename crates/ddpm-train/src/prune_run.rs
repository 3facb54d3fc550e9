//! `ddpm-train prune RUN --keep N`: removes old checkpoints and those that were set aside, once told to.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ddpm_files::runs::{RunFolder, steps_in};

use crate::checksums::Checksums;
use crate::facts::{bytes_in, mib};
use crate::manifest::Manifest;
use crate::run_folder::lock;
use ddpm_console::output::print;
use ddpm_console::say;

/// The arguments of `ddpm-train prune`.
#[derive(clap::Args, Debug)]
pub struct PruneArgs {
    /// The run: its folder, or its name in the runs folder.
    #[arg(value_name = "RUN")]
    run: String,
    /// How many checkpoints are kept, newest first; damaged ones are not counted, and go.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
    /// How many snapshots are kept, newest first; without it, all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep_snapshots: Option<u64>,
    /// Removes what would otherwise only be listed.
    #[arg(long)]
    yes: bool,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_files::runs::RUNS)]
    runs: PathBuf,
}

/// Lists what goes, and removes it with `--yes`.
pub fn run(args: &PruneArgs) -> anyhow::Result<()> {
    let run = RunFolder::find(&args.runs, &args.run)?;
    let _lock = lock(&run)?;
    let mut going = checkpoints_to_remove(&run, args.keep as usize)?;
    if let Some(keep) = args.keep_snapshots {
        let old = steps_in(&run.snapshots()).into_iter().rev().skip(keep as usize);
        going.extend(old.map(|(_, path)| (path, "old")));
    }
    let bytes: u64 = going.iter().map(|(path, _)| bytes_in(path)).sum();
    for (path, why) in &going {
        print(&format!("{}, {why}, {}\n", path.display(), mib(bytes_in(path))))?;
        if args.yes {
            std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let count = match going.len() {
        0 => "nothing is to be removed".into(),
        1 => format!("1 folder of {}", mib(bytes)),
        count => format!("{count} folders of {}", mib(bytes)),
    };
    match (going.is_empty(), args.yes) {
        (true, _) => say!("{count}"),
        (false, true) => say!("{count} removed"),
        (false, false) => say!("{count} would be removed; to do it, add --yes"),
    }
    Ok(())
}

/// All but the newest `keep` checkpoints that are whole.
fn checkpoints_to_remove(run: &RunFolder, keep: usize) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
    let origin = Manifest::read(&run.manifest())
        .with_context(|| format!("{}: cannot be read", run.manifest().display()))?
        .origin();
    let is_whole = |path: &Path| Checksums::verify(path, &origin).is_ok();
    let (whole, damaged): (Vec<_>, Vec<_>) =
        steps_in(&run.checkpoints()).into_iter().rev().map(|(_, path)| path).partition(|path| is_whole(path));
    anyhow::ensure!(
        !whole.is_empty(),
        "{} has no checkpoint that is whole, so none is removed",
        run.checkpoints().display()
    );
    let aside = std::fs::read_dir(run.checkpoints())?.flatten().map(|entry| entry.path());
    let aside =
        aside.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("set-aside-")));
    let going = whole.into_iter().skip(keep).map(|path| (path, "old"));
    Ok(going
        .chain(damaged.into_iter().map(|path| (path, "damaged")))
        .chain(aside.map(|path| (path, "set aside")))
        .collect())
}
