//! Where a frozen part lies that an experiment names.

use std::path::{Path, PathBuf};

use ddpm_files::runs::{RUNS, RunFolder, list};

/// The folder of a frozen part: a snapshot or a folder of diffusers as it is; of a run, by its path or by its name within
/// `runs`, the newest snapshot; of an experiment, that of its newest run.
pub fn find_part(name: &Path) -> Result<PathBuf, String> {
    let run = RunFolder(name.to_path_buf());
    if name.is_dir() && !run.config().is_file() {
        return absolute(name);
    }
    let runs = Path::new(RUNS);
    let text = name.to_string_lossy();
    let found = RunFolder::find(runs, &text).ok().or_else(|| newest_run(runs, &text));
    let run = found.ok_or_else(|| format!("{text}: there is no such folder, and no run of this name in {RUNS}"))?;
    absolute(&run.newest_snapshot().map_err(|error| error.to_string())?)
}

/// The newest run of an experiment that has a snapshot: runs are called `<experiment>-<time>`.
fn newest_run(runs: &Path, experiment: &str) -> Option<RunFolder> {
    let is_of = |run: &RunFolder| {
        let name = run.0.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let time = name.strip_prefix(experiment).and_then(|rest| rest.strip_prefix('-'));
        time.is_some_and(|time| time.starts_with(|first: char| first.is_ascii_digit())) && run.newest_snapshot().is_ok()
    };
    // Sorted by name, and so by time.
    list(runs).into_iter().rfind(is_of)
}

fn absolute(folder: &Path) -> Result<PathBuf, String> {
    folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))
}
