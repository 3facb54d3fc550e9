//! Experiments, checkpoints and run folders that are damaged or made to do harm: refused in words, in little time.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use ddpm_testing::hostile;
use ddpm_train::checkpoint::Checkpoint;
use ddpm_train::config::load::load;
use ddpm_train::metrics::{read_lines, truncate_after};
use hostile::{Random, damage, within_bounds};
use support::{Bench, TINY_DIGITS};

use crate::support;

/// A table of the file becomes several in memory, and each is read more than once.
const AT_LEAST: usize = 4 << 20;
const PER_BYTE: usize = 512;

/// As [`damage`], within bounds.
fn damage_within(path: &Path, count: usize, read: impl Fn() -> Result<(), String>) {
    damage(path, count, || {
        let size = fs::metadata(path).unwrap().len() as usize;
        within_bounds(size, AT_LEAST, PER_BYTE, &read)
    });
}

#[test]
fn damaged_experiments_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    for name in ["digits", "points-edm", "cifar10"] {
        fs::copy(experiments.join(format!("{name}.toml")), &path).unwrap();
        load(&path, &[]).unwrap();
        damage_within(&path, 400, || load(&path, &[]).map(|_| ()).map_err(|error| error.to_string()));
    }
}

#[test]
fn experiments_that_are_too_much_are_refused_soon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let good = "[data]\nkind = \"digits\"\n[model]\nkind = \"unet\"\n";
    let many = |line: fn(usize) -> String| (0..3000).map(line).collect::<String>();
    for text in [
        format!("{good}[train]\n{}", many(|k| format!("unknown_{k} = {k}\n"))),
        format!("{good}{}", many(|k| format!("[section_{k}]\n"))),
        format!("{good}[train]\nsteps = {}1{}\n", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{good}{}x = 1\n", "a.".repeat(100_000)),
        format!("{good}[{}]\n", vec!["a"; 100_000].join(".")),
        format!("{good}[diffusion.schedule]\nkind = \"explicit\"\nbetas = [{}]\n", "0.5, ".repeat(100_000)),
        format!("{good}[train]\nseed = {}\n", "9".repeat(100_000)),
    ] {
        fs::write(&path, &text).unwrap();
        let said =
            within_bounds(text.len(), AT_LEAST, PER_BYTE, || load(&path, &[]).map_err(|error| error.to_string()));
        if let Err(said) = said {
            assert!(said.contains("x.toml") && said.len() < 20_000, "{} bytes: {said:.300}", said.len());
        }
    }
}

/// A checkpoint without its checksums, as an older version wrote it, is read as it is; what is damaged is refused.
#[test]
fn damaged_checkpoints_and_metrics_are_survived() {
    let bench = Bench::new();
    let run = bench.train(&[&["--set", "train.steps=2"], &TINY_DIGITS[..]].concat());
    let checkpoint = run.join("checkpoints/step-00000002");
    let read = || Checkpoint::load(&checkpoint, &[]).map(|_| ()).map_err(|error| error.to_string());
    read().unwrap();
    for (name, count) in [("state.json", 400), ("model.bpk", 60), ("optimizer.bpk", 60)] {
        let path = checkpoint.join(name);
        damage_within(&path, count, read);
        // What says where the values lie stands at the front.
        let whole = fs::read(&path).unwrap();
        let mut random = Random(3);
        for _ in 0..count {
            let mut bytes = whole[..whole.len().min(256)].to_vec();
            random.damage(&mut bytes);
            bytes.extend(&whole[whole.len().min(256)..]);
            fs::write(&path, &bytes).unwrap();
            let _ = within_bounds(bytes.len(), AT_LEAST, PER_BYTE, read);
        }
        fs::write(&path, &whole).unwrap();
    }
    let metrics = run.join("metrics.jsonl");
    damage_within(&metrics, 400, || {
        read_lines(&metrics).map_err(|e| e.to_string())?;
        truncate_after(&metrics, 1).map_err(|e| e.to_string())
    });
}
