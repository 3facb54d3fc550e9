//! The library's front door: the same samples as from the command line, and examples that run.
#![allow(clippy::unwrap_used)]

#[path = "../../examples/sample_snapshot.rs"]
mod sample_snapshot;
#[path = "../../examples/write_your_own_sampler.rs"]
mod write_your_own_sampler;

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::{DataConfig, Split};
use ddpm_families::snapshot::{DiffusionConfig, Sampling, Snapshot, SnapshotConfig};
use ddpm_files::npy;
use ddpm_infer::pipeline::{Pipeline, PipelineError};
use ddpm_model::network::NetworkConfig;
use serde_json::{Value, json};

/// Moves every weight: the last layers start at zero, and every sampler would find the same.
struct Shake;

impl ModuleMapper for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| {
            let count = weight.shape().num_elements();
            let noise: Vec<f32> = (0..count).map(|i| 0.03 * (i as f32 * 12.9898).sin()).collect();
            weight.clone() + Tensor::from_data(TensorData::new(noise, weight.shape()), &weight.device())
        })
    }
}

fn snapshot(dir: &Path, data: Value, network: Value) -> PathBuf {
    let source: DataConfig = serde_json::from_value(data).unwrap();
    let info = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let network: NetworkConfig = serde_json::from_value(network).unwrap();
    let network = network.with_io(&info.shape, info.shape[0]);
    let diffusion: DiffusionConfig =
        serde_json::from_value(json!({"schedule": {"kind": "linear", "steps": 12}})).unwrap();
    let sampling = Some(Sampling { sampler: "unipc".into(), steps: 6, guidance: None });
    let config = SnapshotConfig { sampling, ..SnapshotConfig::new(network.clone(), diffusion, info, source, "test") };
    Snapshot::save(&network.init(&Device::default()).map(&mut Shake), &config, dir).unwrap();
    dir.to_path_buf()
}

fn digits(dir: &Path) -> PathBuf {
    let network = json!({"kind": "unet", "base_channels": 8, "multipliers": [1, 2], "blocks_per_level": 1,
        "norm_groups": 4, "attention_resolutions": [4], "classes": 10, "null_class": true});
    snapshot(dir, json!({"kind": "digits"}), network)
}

fn points(dir: &Path) -> PathBuf {
    snapshot(dir, json!({"kind": "swiss-roll"}), json!({"kind": "point-mlp", "hidden": [16]}))
}

/// Shape and values of what the command draws.
fn drawn(dir: &Path, from: &Path, arguments: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_ddpm-infer"))
        .current_dir(dir)
        .env("DDPM_CACHE", dir.join(".cache"))
        .args(["sample", "--from", from.to_str().unwrap(), "--count", "3", "--out", "o", "--overwrite"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    npy::decode(&std::fs::read(dir.join("o/samples.npy")).unwrap()).unwrap()
}

#[test]
fn a_pipeline_draws_the_samples_of_the_command_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let images = digits(&dir.path().join("digits"));
    let roll = points(&dir.path().join("points"));
    // The same folder as others would have made it, with a scheduler of its own.
    let foreign = digits(&dir.path().join("foreign"));
    std::fs::remove_file(foreign.join("ddpm.json")).unwrap();

    type Choose = fn(Pipeline) -> Pipeline;
    let cases: [(&Path, &[&str], Choose); 7] = [
        (&images, &[], |pipeline| pipeline),
        (&images, &["--sampler", "ddpm", "--steps", "4", "--seed", "3"], |p| p.sampler("ddpm").steps(4).seed(3)),
        (&images, &["--sampler", "ddim", "--eta", "0.5", "--steps", "3", "--class", "7"], |p| {
            p.sampler("ddim").eta(0.5).steps(3).class(7)
        }),
        (&images, &["--guidance", "2", "--steps", "3"], |p| p.guidance_scale(2.0).steps(3).batch_size(2)),
        (&roll, &[], |pipeline| pipeline.device("flex")),
        (&foreign, &["--steps", "3", "--class", "2"], |p| p.steps(3).class(2)),
        (&foreign, &["--sampler", "heun", "--steps", "3"], |p| p.sampler("heun").steps(3)),
    ];
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for (from, arguments, choose) in cases {
        let (shape, wanted) = drawn(dir.path(), from, arguments);
        let samples = choose(Pipeline::open(from).unwrap()).sample(3).unwrap();
        assert_eq!(samples.array_shape(), shape, "{arguments:?}");
        assert_eq!(samples.values, wanted, "{arguments:?}");
        assert!(!seen.contains(&wanted), "{arguments:?} gives what another case gave, which proves nothing");
        seen.push(wanted);
    }
}

#[test]
fn what_a_pipeline_cannot_do_is_a_typed_error() {
    let dir = tempfile::tempdir().unwrap();
    let (images, roll) = (digits(&dir.path().join("digits")), points(&dir.path().join("points")));
    let open = |path: &Path| Pipeline::open(path).unwrap();

    assert!(matches!(Pipeline::open(dir.path().join("none")), Err(PipelineError::Snapshot(_))));
    let unknown = open(&images).sampler("dimm").sample(1).unwrap_err();
    assert!(matches!(unknown, PipelineError::Choice(_)) && unknown.to_string().contains("dimm"), "{unknown}");
    let class = open(&images).class("eleven").sample(1).unwrap_err();
    assert!(matches!(class, PipelineError::Class(_)) && class.to_string().contains("0, 1, 2"), "{class}");
    assert!(matches!(open(&roll).class(1).sample(1), Err(PipelineError::Class(_))));
    assert!(matches!(open(&roll).guidance_scale(2.0).sample(1), Err(PipelineError::Job(_))));
    assert!(matches!(open(&roll).sample(0), Err(PipelineError::Job(_))));
    assert!(matches!(open(&roll).sample(1 << 50), Err(PipelineError::Memory { .. })));
    assert!(matches!(open(&roll).device("abacus").sample(1), Err(PipelineError::Device(_))));
    // The last choice counts: nothing is remembered of one that could not be followed.
    open(&images).sampler("dimm").sampler("ddim").device("abacus").device("flex").steps(1).sample(1).unwrap();
}

#[test]
fn images_of_samples_are_their_values_as_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = Pipeline::open(digits(&dir.path().join("digits"))).unwrap().steps(2);
    let samples = pipeline.sample(2).unwrap();
    let images = samples.images().unwrap();
    assert_eq!(images.len(), 2);
    for (image, values) in images.iter().zip(samples.values.chunks(64)) {
        assert_eq!(image.dimensions(), (8, 8));
        let bytes: Vec<u8> = values.iter().map(|value| ((value + 1.0) * 127.5).round() as u8).collect();
        assert_eq!(image.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>(), bytes);
    }
    let points = Pipeline::open(points(&dir.path().join("points"))).unwrap().steps(2).sample(2).unwrap();
    assert!(points.images().unwrap_err().to_string().contains("[2]"));
}

#[test]
fn the_examples_run() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(&dir.path().join("digits"));
    let out = dir.path().join("out");
    sample_snapshot::run(&from, &out).unwrap();
    let (shape, _) = npy::decode(&std::fs::read(out.join("samples.npy")).unwrap()).unwrap();
    assert_eq!(shape, [4, 1, 8, 8]);
    assert!(out.join("samples.png").is_file() && out.join("ddim.png").is_file());

    let off = write_your_own_sampler::run(&from).unwrap();
    assert!(off < 1e-4, "our sampler differs from the built-in one by {off}");
}
