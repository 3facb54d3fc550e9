//! What can be read off a run folder: for the list, for a closer look, and for the report.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use ddpm_files::runs::{RunFolder, steps_in};
use toml::Table;

use crate::manifest::Manifest;
use crate::metrics::read_lines;

/// A run as its folder shows it. What cannot be read is empty: a look at a damaged run must not fail.
pub struct Facts {
    /// The folder.
    pub run: RunFolder,
    /// What made it.
    pub manifest: Option<Manifest>,
    /// Its experiment.
    pub config: Table,
    /// The lines of its metrics.
    pub lines: Vec<BTreeMap<String, f64>>,
    /// Whether a trainer holds its lock.
    pub at_work: bool,
}

impl Facts {
    /// Reads the folder.
    pub fn read(run: &RunFolder) -> Self {
        let lock = File::open(run.0.join(".lock"));
        Self {
            manifest: Manifest::read(&run.manifest()).ok(),
            config: std::fs::read_to_string(run.config()).ok().and_then(|text| text.parse().ok()).unwrap_or_default(),
            lines: read_lines(&run.metrics()).unwrap_or_default(),
            at_work: lock.is_ok_and(|file| file.try_lock_shared().is_err()),
            run: run.clone(),
        }
    }

    /// The folder's own name.
    pub fn name(&self) -> String {
        self.run.0.file_name().map_or_else(|| self.run.0.display().to_string(), |name| name.to_string_lossy().into())
    }

    /// The steps that are wanted.
    pub fn steps(&self) -> Option<u64> {
        self.config.get("train")?.get("steps")?.as_integer()?.try_into().ok()
    }

    /// The last step that left something: a line of metrics, or a checkpoint.
    pub fn step(&self) -> u64 {
        let line = self.newest("step").map_or(0, |step| step as u64);
        line.max(steps_in(&self.run.checkpoints()).last().map_or(0, |(step, _)| *step))
    }

    /// A number of the last line of metrics that has it.
    pub fn newest(&self, name: &str) -> Option<f64> {
        self.lines.iter().rev().find_map(|line| line.get(name)).copied()
    }

    /// In a word or two, how things stand.
    pub fn state(&self) -> &'static str {
        let snapshot = || steps_in(&self.run.snapshots()).last().map_or(0, |(step, _)| *step);
        match self.steps() {
            _ if self.at_work => "running",
            Some(steps) if self.step() >= steps && snapshot() >= steps => "done",
            Some(steps) if self.step() >= steps => "stopped: no snapshot",
            _ => "stopped",
        }
    }
}

/// The bytes of all files in a folder.
pub fn bytes_in(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_in(&entry.path())).sum()
}

/// A number for people: whole, or with five digits.
pub fn rounded(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (value.fract() == 0.0 && size < 1e15) {
        return format!("{value}");
    }
    let decimals = 4.0 - size.log10().floor();
    match decimals {
        _ if size >= 1e15 || decimals > 8.0 => format!("{value:.4e}"),
        _ if decimals <= 0.0 => format!("{value:.0}"),
        _ => format!("{value:.*}", decimals as usize).trim_end_matches('0').trim_end_matches('.').into(),
    }
}

/// Bytes for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people_have_five_digits() {
        for (value, expected) in [
            (2000.0, "2000"),
            (4_246_717.207_025_094, "4246717"),
            (171.234_567, "171.23"),
            (0.246_123_9, "0.24612"),
            (0.9995, "0.9995"),
            (0.0002, "0.0002"),
            (-1.5, "-1.5"),
            (2.345_678e-12, "2.3457e-12"),
            (0.0, "0"),
            (1.6e300, "1.6000e300"),
            (0.999_999_99, "1"),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }

    #[test]
    fn a_folder_tells_where_its_run_stands() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder(dir.path().join("r"));
        std::fs::create_dir_all(run.checkpoints().join("step-00000008")).unwrap();
        assert_eq!((Facts::read(&run).state(), Facts::read(&run).step()), ("stopped", 8));
        std::fs::write(run.config(), "[train]\nsteps = 9").unwrap();
        std::fs::write(run.metrics(), "{\"step\":6,\"loss\":0.5}\n{\"step\":9,\"loss\":null}\n{\"st").unwrap();
        // The last step was taken, and nothing is left of it.
        assert_eq!(Facts::read(&run).state(), "stopped: no snapshot");
        std::fs::create_dir_all(run.snapshots().join("step-00000009")).unwrap();
        let facts = Facts::read(&run);
        assert_eq!((facts.state(), facts.step(), facts.newest("loss")), ("done", 9, Some(0.5)));
        let lock = File::create(run.0.join(".lock")).unwrap();
        lock.try_lock().unwrap();
        assert_eq!(Facts::read(&run).state(), "running");
        assert_eq!(bytes_in(&run.0), 17 + 22 + 23 + 4);
    }
}
