//! `import` and `inspect` as a person uses them, and folders of diffusers with every kind of weights.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_families::snapshot::Snapshot;
use ddpm_model::variance::Variance;
use ddpm_testing::networks;
use ddpm_testing::support;
use networks::{Checkpoint, compare};
use support::*;

fn infer(words: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).args(words).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    output
}

fn succeed(words: &[&str]) -> String {
    let output = infer(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fail(words: &[&str]) -> String {
    let output = infer(words);
    assert!(!output.status.success(), "{words:?} should have failed");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a checkpoint of improved-diffusion is imported with.
struct Words {
    file: String,
    size: String,
    heads: String,
    heads_up: Option<String>,
}

impl Words {
    fn import<'a>(&'a self, out: &'a str) -> Vec<&'a str> {
        let mut words = vec!["import", &self.file, "--out", out, "--size", &self.size, "--set", &self.heads];
        words.extend(self.heads_up.iter().flat_map(|heads_up| ["--set", heads_up.as_str()]));
        words.extend(["--set", "diffusion.schedule=cosine", "--set", "diffusion.schedule.steps=50"]);
        words
    }
}

impl From<&Checkpoint> for Words {
    fn from(checkpoint: &Checkpoint) -> Self {
        let count = |key: &str| checkpoint.kwargs[key].as_u64();
        Self {
            file: checkpoint.weights().to_str().unwrap().into(),
            size: whole_numbers(&cases(&checkpoint.meta, "cases")[0]["shape"])[2].to_string(),
            heads: format!("model.heads={}", count("num_heads").unwrap()),
            heads_up: count("num_heads_upsample").map(|count| format!("model.heads_up={count}")),
        }
    }
}

fn first() -> (Checkpoint, Words) {
    let checkpoint = Checkpoint::all().remove(0);
    let words = Words::from(&checkpoint);
    (checkpoint, words)
}

#[test]
fn a_checkpoint_becomes_a_snapshot_that_answers_the_same_and_samples() {
    Checkpoint::all().iter().for_each(becomes_a_snapshot);
}

fn becomes_a_snapshot(checkpoint: &Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("s");
    let out = out.to_str().unwrap();
    let times = ["--set", "diffusion.rescaled_times=true"];
    let said = succeed(&[&Words::from(checkpoint).import(out)[..], &times].concat());
    assert_eq!(said.lines().last(), Some(out));

    let snapshot = Snapshot::load(Path::new(out), &Device::default()).unwrap();
    assert_eq!(snapshot.config.diffusion.schedule.steps(), 50);
    assert!(snapshot.config.diffusion.rescaled_times);
    assert_eq!(snapshot.config.diffusion.variance, Variance::Learned);
    for case in cases(&checkpoint.meta, "cases") {
        compare(&snapshot.network, &checkpoint.io(), case, "imported");
    }
    let samples = dir.path().join("o");
    succeed(&["sample", "--from", out, "--count", "1", "--steps", "2", "--out", samples.to_str().unwrap()]);
    assert!(samples.join("samples.npy").is_file());
    let said = succeed(&["inspect", out]);
    assert!(said.contains("a U-Net") && said.contains("\"learned\"") && said.contains("kind = \"cosine\""), "{said}");
}

#[test]
fn other_heads_on_the_up_path_are_no_pipeline_of_diffusers() {
    let others = |checkpoint: &Checkpoint| checkpoint.heads_up().is_some_and(|up| up != checkpoint.heads());
    for checkpoint in Checkpoint::all().into_iter().filter(others) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("s");
        let words = Words::from(&checkpoint);
        let words = [&words.import(out.to_str().unwrap())[..], &["--set", "diffusion.rescaled_times=false"]].concat();
        let output = infer(&words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && out.join("model.safetensors").is_file(), "{said}");
        assert!(said.contains("no pipeline of diffusers") && said.contains("model.heads_up"), "{said}");
        let said = succeed(&["inspect", out.to_str().unwrap()]);
        assert!(said.contains("on the up path"), "{said}");
    }
}

#[test]
fn what_the_file_does_not_hold_is_asked_for() {
    let (Checkpoint { kwargs, .. }, Words { file, size, heads, .. }) = first();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("s");
    let words = ["import", &file, "--out", out.to_str().unwrap(), "--size", &size];
    let said = fail(&words);
    assert!(
        said.contains("model.heads=") && said.contains("model.heads_up=") && said.contains("diffusion.schedule"),
        "{said}"
    );
    let kind = ["--set", &heads, "--set", "diffusion.schedule.kind=cosine"];
    let said = fail(&[&words[..], &kind, &["--set", "diffusion.schedule.steps=4000"]].concat());
    assert!(said.contains("rescaled_times") && said.contains("4000"), "{said}");
    let said = fail(&[&words[..], &kind, &["--set", "model.headz=3"]].concat());
    assert!(said.contains("headz"), "{said}");
    for (set, part) in
        [("diffusion.schedule=3", "expected a name such as \"cosine\""), ("diffusion.schedule=cosin", "unknown name")]
    {
        let said = fail(&[&words[..], &["--set", &heads, "--set", set]].concat());
        assert!(said.contains(part), "{said}");
    }
    let said = fail(&[&words[..], &kind, &["--set", "diffusion.variance=fixed-small"]].concat());
    assert!(said.contains("variance"), "{said}");
    // A wrong claim about the network is a list of keys.
    let more = format!("model.blocks_per_level={}", whole(&kwargs, "num_res_blocks") + 1);
    let said = fail(&[&words[..], &kind, &["--set", &more]].concat());
    assert!(said.contains("is missing") && said.contains("input_blocks."), "{said}");
    assert!(!out.exists());
}

#[test]
fn inspect_says_what_a_path_is_and_what_is_wrong() {
    let (Checkpoint { meta, .. }, Words { file, .. }) = first();
    let said = succeed(&["inspect", &file]);
    for part in ["improved-diffusion", "ddpm-infer import", &whole(&meta, "params").to_string()] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let root = fixtures_dir().join("pipelines");
    for entry in cases(&read_json(root.join("index.json")), "pipelines") {
        let folder = root.join(text(entry, "folder"));
        let index = read_json(folder.join("model_index.json"));
        let said = succeed(&["inspect", folder.to_str().unwrap()]);
        for part in [text(&index, "_class_name"), "UNet2DModel", "ddpm-infer sample --from"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    // A file that was cut short, one with a number that is none, and nothing at all.
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.pt");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&cut, bytes).unwrap();
    assert!(fail(&["inspect", cut.to_str().unwrap()]).contains("cut short"));
    let broken = dir.path().join("nan.safetensors");
    let nan = f32::NAN.to_le_bytes();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &nan).unwrap();
    safetensors::serialize_to_file([("x", view)], None, &broken).unwrap();
    let said = fail(&["inspect", broken.to_str().unwrap()]);
    assert!(
        said.contains("x holds 1 values that are not finite") && said.contains("unrecognized parameter names"),
        "{said}"
    );
    assert!(fail(&["inspect", dir.path().join("no").to_str().unwrap()]).contains("nothing at this path"));
}

/// Every model of `unet/`, whatever its file, is a pipeline once a scheduler lies beside it.
#[test]
fn folders_open_with_any_kind_of_weights() {
    let root = fixtures_dir().join("unet");
    for entry in cases(&read_json(root.join("index.json")), "models") {
        let (folder, dir) = (root.join(text(entry, "folder")), tempfile::tempdir().unwrap());
        for name in ["config.json", text(entry, "weights")] {
            std::fs::copy(folder.join(name), dir.path().join(name)).unwrap();
        }
        let config = read_json(folder.join("config.json"));
        let learned = whole(&config, "out_channels") == 2 * whole(&config, "in_channels");
        let variance = if learned { "learned_range" } else { "fixed_small" };
        let scheduler = format!(r#"{{"_class_name": "DDPMScheduler", "variance_type": "{variance}"}}"#);
        std::fs::write(dir.path().join("scheduler_config.json"), scheduler).unwrap();
        let snapshot = Snapshot::load(dir.path(), &Device::default()).unwrap();
        let meta = read_json(folder.join("meta.json"));
        let io = Safetensors::open(folder.join(text(&meta, "io")));
        for case in cases(&meta, "cases") {
            compare(&snapshot.network, &io, case, text(entry, "id"));
        }
    }
}
