//! Several devices and other precisions, with what every machine has: flex, once or twice.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ddpm_families::snapshot::Snapshot;
use ddpm_files::runs::step_name;
use support::{Bench, TINY_DIGITS, checkpoint_file, metrics};

use crate::support;

/// A run of the tiny digits, without dropout unless it is asked for last.
fn words<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    [first, &TINY_DIGITS, &["--set", "model.dropout=0"], last].concat()
}

fn assert_same_weights(a: &Path, b: &Path, step: u64) {
    for name in ["model.bpk", "ema.bpk"] {
        assert!(checkpoint_file(a, step, name) == checkpoint_file(b, step, name), "{name} differs after step {step}");
    }
    assert_eq!(metrics(a), metrics(b));
}

#[test]
fn two_devices_take_the_steps_of_one_in_two_parts() {
    let bench = Bench::new();
    let steps = ["--set", "train.steps=6"];
    let one = bench.train(&words(&["--runs", "a", "--set", "train.accumulate=2"], &steps));
    let two = bench.train(&words(&["--runs", "b", "--devices", "flex,flex"], &steps));
    assert_same_weights(&one, &two, 6);

    // Two parts on each of them, stopped half way, and on one device after that.
    let four = ["--set", "train.accumulate=4"];
    let one = bench.train(&words(&["--runs", "c"], &[&steps[..], &four].concat()));
    let sets = ["--set", "train.accumulate=2", "--set", "train.steps=3"];
    let two = bench.train(&words(&["--runs", "d", "--devices", "flex,flex"], &sets));
    bench.train(&[&["--resume", two.to_str().unwrap()], &steps[..], &four].concat());
    assert_same_weights(&one, &two, 6);
}

#[test]
fn importance_classes_and_self_conditioning_go_along() {
    let bench = Bench::new();
    let more = [
        "--set",
        "train.steps=6",
        "--set",
        "train.time_sampling=loss-second-moment",
        "--set",
        "diffusion.variance=learned",
        "--set",
        "model.classes=10",
        "--set",
        "diffusion.self_conditioning=true",
        "--set",
        "diffusion.prediction=v",
    ];
    let one = bench.train(&words(&["--runs", "a", "--set", "train.accumulate=2"], &more));
    let two = bench.train(&words(&["--runs", "b", "--devices", "flex,flex"], &more));
    assert_same_weights(&one, &two, 6);
}

#[test]
fn what_devices_cannot_share_is_refused() {
    let bench = Bench::new();
    let (code, said) = bench.refusal(&words(&["--devices", "flex,flex"], &["--set", "train.batch_size=7"]));
    assert_eq!(code, 2);
    assert!(said.contains("train.batch_size: 7") && said.contains("2 devices"), "{said}");
    let (_, said) = bench.refusal(&words(&["--devices", "flex,toaster"], &[]));
    assert!(said.contains("toaster"), "{said}");
    let (code, said) = bench.refusal(&words(&["--devices", "flex,flex"], &["--set", "model.dropout=0.1"]));
    assert_eq!(code, 2);
    assert!(said.contains("model.dropout") && said.contains("twice"), "{said}");
}

#[test]
fn f16_is_refused_where_a_device_cannot() {
    let bench = Bench::new();
    let (code, said) = bench.refusal(&words(&["--device", "flex", "--set", "train.precision=f16"], &[]));
    assert_eq!(code, 2);
    assert!(said.contains("train.precision: --device flex does not compute in f16; it does in f32, bf16"), "{said}");
    let (code, said) = bench.refusal(&words(&["--set", "train.precision=f8"], &[]));
    assert_eq!(code, 2);
    assert!(said.contains("train.precision") && said.contains("f8") && said.contains("bf16"), "{said}");
}

/// A run that began on a processor on which bf16 is no faster goes on in f32 on one on which it is, as in f32 from the first.
#[test]
fn a_run_goes_on_in_the_precision_it_began_in() {
    let bench = Bench::new();
    let full = bench.train(&words(&["--runs", "a", "--set", "train.steps=8"], &[]));
    let begun = bench.train(&words(&["--runs", "b", "--set", "train.steps=3"], &[]));
    let manifest = std::fs::read_to_string(begun.join("manifest.json")).unwrap();
    assert!(manifest.contains(r#""precision": "f32""#), "{manifest}");
    let config = std::fs::read_to_string(begun.join("config.toml")).unwrap();
    let wanted = config.replace(r#"precision = "f32""#, r#"precision = "bf16""#);
    assert_ne!(config, wanted);
    std::fs::write(begun.join("config.toml"), wanted).unwrap();
    bench.train(&["--resume", begun.to_str().unwrap(), "--set", "train.steps=8"]);
    assert_same_weights(&full, &begun, 8);
}

#[test]
fn bf16_trains_beside_f32_goes_on_where_it_was_and_leaves_f32_weights() {
    let bench = Bench::new();
    let half = ["--set", "train.precision=bf16"];
    let whole = bench.train(&words(&["--runs", "a", "--set", "train.steps=8"], &half));
    let stopped = bench.train(&words(&["--runs", "b", "--set", "train.steps=3"], &half));
    bench.train(&["--resume", stopped.to_str().unwrap(), "--set", "train.steps=8"]);
    assert_same_weights(&whole, &stopped, 8);

    let full = bench.train(&words(&["--runs", "c", "--set", "train.steps=8"], &[]));
    let loss = |run: &Path| -> f64 {
        let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        last["loss"].as_f64().unwrap()
    };
    let off = (loss(&whole) / loss(&full) - 1.0).abs();
    assert!(off > 1e-7 && off < 2e-2, "the loss is off by {off} of itself");

    let device = burn::tensor::Device::flex();
    let _alone = crate::support::alone();
    let snapshot = Snapshot::load(&whole.join("snapshots").join(step_name(8)), &device).unwrap();
    struct Kinds(Vec<burn::tensor::DType>);
    impl burn::module::ModuleVisitor for Kinds {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<burn::tensor::Tensor<D>>) {
            self.0.push(param.val().dtype());
        }
    }
    let mut kinds = Kinds(Vec::new());
    burn::module::Module::visit(&snapshot.network, &mut kinds);
    assert!(kinds.0.iter().all(|kind| *kind == burn::tensor::DType::F32));
}
