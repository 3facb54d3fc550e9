//! Drives the real program as a person would, in a folder that goes away.
#![allow(dead_code, unreachable_pub, reason = "every test target uses its own part")]

pub mod judge;
pub mod shapes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_families::snapshot::{Snapshot, trained};
use ddpm_files::runs::RunFolder;
use ddpm_infer::commands::sample::{self, SampleArgs};
use ddpm_sampling::job::SamplingJob;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};

/// A folder for runs, and the program in it.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ddpm-train` with these words, in the bench's folder.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm-train"));
        command.current_dir(self.dir.path()).args(words).env("NO_COLOR", "1");
        command
    }

    /// Runs it to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs it, expects it to succeed, and gives the run folder it printed last.
    pub fn train(&self, words: &[&str]) -> PathBuf {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        self.dir.path().join(last_line(&output))
    }

    /// Runs it, expects it to fail, and gives the exit code and what it said.
    pub fn refusal(&self, words: &[&str]) -> (i32, String) {
        let output = self.run(words);
        let said = stderr(&output);
        assert!(!output.status.success(), "{words:?} should have failed: {said}");
        assert!(!said.contains("panicked"), "{words:?}: {said}");
        assert!(output.stdout.is_empty(), "{words:?}: a failure prints no path");
        (output.status.code().unwrap_or(-1), said)
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_string()
}

/// The `--set` words of a digits model that trains in a second.
pub const TINY_DIGITS: [&str; 18] = [
    "--set",
    "model.base_channels=8",
    "--set",
    "model.norm_groups=4",
    "--set",
    "model.dropout=0.1",
    "--set",
    "model.blocks_per_level=1",
    "--set",
    "train.batch_size=8",
    "--set",
    "train.log_every=2",
    "--set",
    "preview.count=4",
    "--set",
    "preview.steps=2",
    "--set",
    "optimizer.warmup_steps=3",
];

/// The lines of `metrics.jsonl` without what depends on the clock.
pub fn metrics(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<String> =
        text.lines().map(|line| line.split(",\"images_per_sec\"").next().unwrap().to_string()).collect();
    assert!(!lines.is_empty());
    lines
}

/// Samples of a run's newest snapshot, as `cargo xtask sample --sampler NAME` draws them, in `steps` or as many as are
/// usual.
pub fn sample(run: &Path, count: usize, sampler: &str, steps: Option<usize>) -> Vec<f32> {
    let device = Device::default();
    let snapshot = Snapshot::load(&RunFolder(run.to_path_buf()).newest_snapshot().unwrap(), &device).unwrap();
    let diffusion = snapshot.config.diffusion.init().unwrap();
    let options = SamplerOptions { variance: diffusion.variance(), ..SamplerOptions::default() };
    let sampler = Sampler::new(sampler, options).unwrap();
    let model = trained(&snapshot, &diffusion);
    let job = SamplingJob { count, seed: 1, batch_size: 256, steps, ..SamplingJob::new(sampler, &model) };
    job.run(&model, &device, &mut |_| {}).unwrap().values
}

/// What `ddpm-infer sample` does with these words.
pub fn sample_command<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> anyhow::Result<PathBuf> {
    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        args: SampleArgs,
    }
    sample::run(&<Words as clap::Parser>::parse_from(words).args)
}

/// The bytes of one file of a checkpoint.
pub fn checkpoint_file(run: &Path, step: u64, name: &str) -> Vec<u8> {
    std::fs::read(run.join(format!("checkpoints/step-{step:08}")).join(name)).unwrap()
}

/// Weights are drawn from the device's generator, which all threads share: who makes networks in this process does so alone.
#[allow(dead_code)]
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
