//! The numbers that trainings and samplers gave before the code was moved: metrics, weights and samples, bit for bit on the
//! processor that they were recorded on, and closely on any other.
//!
//! `DDPM_RECORD_KNOWN_BITS=DIR cargo test -p ddpm-train --test it known_bits` records them anew with the programs
//! `ddpm-train` and `ddpm-infer` in DIR.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddpm_data::fnv1a;
use ddpm_files::npy;
use ddpm_testing::support::{copy, fixture};
use serde::{Deserialize, Serialize};

use crate::support::{metrics, sample_command};

/// What each case trains: its name, the experiment, and what is set. Every case takes 20 steps.
const CASES: [(&str, &str, &[&str]); 8] = [
    ("digits", "digits", &[]),
    (
        "importance",
        "digits",
        &[
            "train.time_sampling=loss-second-moment",
            "train.accumulate=2",
            // So few steps that all of them have a full history before the end.
            "diffusion.schedule={ kind = \"linear\", steps = 6, beta_start = 0.01, beta_end = 0.5 }",
        ],
    ),
    (
        "self-conditioning",
        "digits",
        &["diffusion.self_conditioning=true", "diffusion.prediction=v", "model.dropout=0.1"],
    ),
    ("learned-variance", "digits-improved", &[]),
    ("augmented", "digits-edm", &["augment.probability=0.3"]),
    ("lora", "digits", &["fine_tune.lora.rank=2", "ema.post_hoc.widths=[0.05,0.1]"]),
    ("flow-bf16", "digits-flow", &["train.precision=bf16"]),
    ("points", "points-swiss-roll", &["train.batch_size=16"]),
];

/// What makes a case of images short.
const SMALL: [&str; 5] = [
    "model.base_channels=8",
    "model.norm_groups=4",
    "model.blocks_per_level=1",
    "train.batch_size=8",
    "optimizer.warmup_steps=2",
];

/// What all cases have in common.
const COMMON: [&str; 6] = [
    "train.steps=20",
    "train.log_every=5",
    "train.checkpoint_every=10",
    "validation.every=10",
    "preview.count=0",
    "preview.steps=5",
];

/// The samplers, each in five steps.
const SAMPLERS: [&str; 5] = ["ddim", "ddpm", "dpmpp-2m", "euler-ancestral", "heun"];

/// What was recorded.
#[derive(Debug, Deserialize, Serialize)]
struct Recorded {
    /// The processor.
    processor: String,
    /// Each case by name; the run of an older version, which is resumed, is the last.
    cases: BTreeMap<String, Case>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Case {
    metrics: Vec<String>,
    /// Hashes of the weights.
    weights: BTreeMap<String, String>,
    samples: BTreeMap<String, Drawn>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Drawn {
    hash: String,
    mean_square: f64,
}

fn recorded_file() -> PathBuf {
    fixture("known_bits").join("recorded.json")
}

/// Folder of the programs that record.
fn recorder() -> Option<PathBuf> {
    std::env::var_os("DDPM_RECORD_KNOWN_BITS").map(PathBuf::from)
}

fn train(dir: &Path, words: &[&str]) -> PathBuf {
    let own = || PathBuf::from(env!("CARGO_BIN_EXE_ddpm-train"));
    let program = recorder().map_or_else(own, |dir| dir.join("ddpm-train"));
    let output = Command::new(program).current_dir(dir).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    dir.join(String::from_utf8_lossy(&output.stdout).lines().last().unwrap())
}

/// Eight samples, by the command `sample` or by the program that records.
fn drawn(run: &Path, sampler: &str) -> Vec<f32> {
    let out = run.join(format!("samples-{sampler}"));
    let words = ["sample", "--count", "8", "--seed", "1", "--steps", "5", "--sampler", sampler, "--run"];
    let words: Vec<OsString> =
        words.map(OsString::from).into_iter().chain([run.into(), "--out".into(), out.clone().into()]).collect();
    match recorder() {
        Some(dir) => {
            let output = Command::new(dir.join("ddpm-infer")).args(words).output().unwrap();
            assert!(output.status.success(), "{sampler}: {}", String::from_utf8_lossy(&output.stderr));
        }
        None => drop(sample_command(words).unwrap()),
    }
    npy::decode(&std::fs::read(out.join("samples.npy")).unwrap()).unwrap().1
}

fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", fnv1a(bytes.iter().copied()))
}

/// The tensors of a safetensors file: its header is in the order of a hash map.
fn tensors(file: &[u8]) -> &[u8] {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    &file[8 + header as usize..]
}

fn case(run: &Path, images: bool) -> Case {
    let mut weights = BTreeMap::new();
    for (step, name) in [(10, "model.bpk"), (20, "model.bpk"), (20, "ema.bpk")] {
        let file = run.join(format!("checkpoints/step-{step:08}")).join(name);
        weights.insert(format!("{step}/{name}"), hash(&std::fs::read(file).unwrap()));
    }
    let snapshot = run.join("snapshots/step-00000020");
    let files = ["unet/diffusion_pytorch_model.safetensors", "model.safetensors"].map(|name| snapshot.join(name));
    let file = std::fs::read(files.iter().find(|file| file.is_file()).unwrap()).unwrap();
    weights.insert("snapshot".into(), hash(tensors(&file)));
    let samplers = SAMPLERS.iter().filter(|name| images || **name != "heun");
    let samples = samplers.map(|sampler| {
        let values = drawn(run, sampler);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let square = |value: &f32| f64::from(*value).powi(2);
        let mean_square = values.iter().map(square).sum::<f64>() / values.len() as f64;
        (sampler.to_string(), Drawn { hash: hash(&bytes), mean_square })
    });
    Case { metrics: metrics(run), weights, samples: samples.collect() }
}

/// All cases as they are now.
fn cases() -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    let dir = tempfile::tempdir().unwrap();
    for (name, experiment, own) in CASES {
        let images = experiment.starts_with("digits");
        let small = if images { &SMALL[..] } else { &[] };
        let sets = small.iter().chain(&COMMON).chain(own).flat_map(|set| ["--set", set]);
        let words: Vec<&str> = ["--experiment", experiment].into_iter().chain(sets).collect();
        cases.insert(name.to_string(), case(&train(dir.path(), &words), images));
    }
    // A run that an older version began.
    let run = dir.path().join("runs/old-run");
    copy(&fixture("known_bits").join("old-run"), &run);
    let run = train(dir.path(), &["--resume", "old-run", "--set", "train.steps=20"]);
    cases.insert("old-run".into(), case(&run, true));
    cases
}

/// What results may depend on: the vector instructions, and the caches that products are cut by. Virtual machines give
/// one name to many.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.trim().to_string()).unwrap_or_default()
    };
    let cache = |index: u32| {
        let file = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        std::fs::read_to_string(file).unwrap_or_default().trim().to_string()
    };
    let flags = format!("flags {}", hash(value("flags").as_bytes()));
    let known = ["model name", "cpu family", "model"].map(value).into_iter().chain((0..4).map(cache));
    known.chain([flags]).collect::<Vec<_>>().join(", ")
}

/// Whether two lines of metrics have the same keys and nearly the same numbers.
fn close(found: &str, wanted: &str) -> bool {
    let numbers = |line: &str| serde_json::from_str::<BTreeMap<String, f64>>(&format!("{line}}}")).unwrap();
    let (found, wanted) = (numbers(found), numbers(wanted));
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-2 * b.abs().max(1e-6);
    found.keys().eq(wanted.keys()) && found.values().zip(wanted.values()).all(near)
}

#[test]
fn metrics_weights_and_samples_are_what_they_were() {
    let found = cases();
    if recorder().is_some() {
        let recorded = Recorded { processor: processor(), cases: found };
        std::fs::write(recorded_file(), serde_json::to_string_pretty(&recorded).unwrap()).unwrap();
        return;
    }
    let recorded: Recorded = serde_json::from_str(&std::fs::read_to_string(recorded_file()).unwrap()).unwrap();
    assert!(found.keys().eq(recorded.cases.keys()));
    for ((name, found), wanted) in found.into_iter().zip(recorded.cases.into_values()) {
        if processor() == recorded.processor {
            assert_eq!(found.metrics, wanted.metrics, "{name}");
            assert_eq!(found.weights, wanted.weights, "{name}");
            let hashes = |case: &Case| case.samples.values().map(|drawn| drawn.hash.clone()).collect::<Vec<_>>();
            assert_eq!(hashes(&found), hashes(&wanted), "{name}");
            continue;
        }
        assert_eq!(found.metrics.len(), wanted.metrics.len(), "{name}");
        for (found, wanted) in found.metrics.iter().zip(&wanted.metrics) {
            assert!(close(found, wanted), "{name}: {found} {wanted}");
        }
        for (sampler, wanted) in &wanted.samples {
            let found = found.samples[sampler].mean_square;
            assert!((found / wanted.mean_square - 1.0).abs() < 5e-2, "{name}, {sampler}: {found} {wanted:?}");
        }
    }
}
