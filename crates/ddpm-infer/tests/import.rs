//! `import` and `inspect` as a person uses them, and folders of diffusers with every kind of weights.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/networks.rs"]
mod networks;
#[path = "../../ddpm-model/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_infer::snapshot::Snapshot;
use ddpm_model::variance::Variance;
use networks::compare;
use serde_json::Value;
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

/// The checkpoint of improved-diffusion among the fixtures.
struct Checkpoint {
    folder: PathBuf,
    meta: Value,
    file: String,
    size: String,
    heads: String,
}

fn checkpoint() -> Checkpoint {
    let folder = fixtures_dir().join("iddpm_pt");
    let meta = read_json(folder.join("meta.json"));
    let kwargs = read_json(folder.join("kwargs.json"));
    Checkpoint {
        file: folder.join(text(&meta, "weights")).to_str().unwrap().into(),
        size: whole_numbers(&cases(&meta, "cases")[0]["shape"])[2].to_string(),
        heads: format!("model.heads={}", whole(&kwargs, "num_heads")),
        folder,
        meta,
    }
}

#[test]
fn a_checkpoint_becomes_a_snapshot_that_answers_the_same_and_samples() {
    let Checkpoint { folder, meta, file, size, heads } = checkpoint();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("s");
    let out = out.to_str().unwrap();
    let words = ["import", &file, "--out", out, "--size", &size, "--set", &heads];
    let schedule = ["--set", "diffusion.schedule.kind=cosine", "--set", "diffusion.schedule.steps=50"];
    let times = ["--set", "diffusion.rescaled_times=true"];
    let said = succeed(&[&words[..], &schedule, &times].concat());
    assert_eq!(said.lines().last(), Some(out));

    let snapshot = Snapshot::load(Path::new(out), &Device::default()).unwrap();
    assert_eq!(snapshot.config.diffusion.schedule.steps(), 50);
    assert!(snapshot.config.diffusion.rescaled_times);
    assert_eq!(snapshot.config.diffusion.variance, Variance::Learned);
    let io = Safetensors::open(folder.join(text(&meta, "io")));
    for case in cases(&meta, "cases") {
        compare(&snapshot.network, &io, case, "imported");
    }
    let samples = dir.path().join("o");
    succeed(&["sample", "--from", out, "--count", "1", "--steps", "2", "--out", samples.to_str().unwrap()]);
    assert!(samples.join("samples.npy").is_file());
    let said = succeed(&["inspect", out]);
    assert!(said.contains("a U-Net") && said.contains("\"learned\"") && said.contains("kind = \"cosine\""), "{said}");
}

#[test]
fn what_the_file_does_not_hold_is_asked_for() {
    let Checkpoint { file, size, heads, .. } = checkpoint();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("s");
    let words = ["import", &file, "--out", out.to_str().unwrap(), "--size", &size];
    let said = fail(&words);
    assert!(said.contains("model.heads") && said.contains("diffusion.schedule"), "{said}");
    let kind = ["--set", &heads, "--set", "diffusion.schedule.kind=cosine"];
    let said = fail(&[&words[..], &kind, &["--set", "diffusion.schedule.steps=4000"]].concat());
    assert!(said.contains("rescaled_times") && said.contains("4000"), "{said}");
    let said = fail(&[&words[..], &kind, &["--set", "model.headz=3"]].concat());
    assert!(said.contains("headz"), "{said}");
    let said = fail(&[&words[..], &kind, &["--set", "diffusion.variance=fixed-small"]].concat());
    assert!(said.contains("variance"), "{said}");
    // A wrong claim about the network is a list of keys.
    let said = fail(&[&words[..], &kind, &["--set", "model.blocks_per_level=3"]].concat());
    assert!(said.contains("is missing") && said.contains("input_blocks."), "{said}");
    assert!(!out.exists());
}

#[test]
fn inspect_says_what_a_path_is_and_what_is_wrong() {
    let Checkpoint { file, meta, .. } = checkpoint();
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
    assert!(said.contains("x holds 1 values that are not finite") && said.contains("nobody's names"), "{said}");
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
