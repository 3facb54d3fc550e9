//! Pictures of diffusers itself against ours: the same folder, the same seed.
//!
//! Runs where `DDPM_PYTHON` names a Python that has diffusers and torch, and says so where it does not run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use ddpm_data::{DataConfig, Split};
use ddpm_families::family::{Family, Origin, Progress};
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig, Written};
use ddpm_families::vae::VaeFamily;
use ddpm_files::npy;
use ddpm_model::network::NetworkConfig;
use ddpm_testing::python::{python_with, run};
use serde_json::{Value, json};

/// How far two pictures may be apart: a rounding of the nearest of 256 levels.
const LEVELS: f32 = 1.0;
/// Share of values that must not be black or white, for a picture to say anything.
const INSIDE: f32 = 0.03;

/// What the peer's script says, unless there is no Python for it.
fn peer(words: &[&str]) -> Option<String> {
    let python = python_with("diffusers")?;
    Some(run(&python, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diffusers_peer.py"), words))
}

pub(crate) fn array(path: &Path) -> Vec<f32> {
    npy::decode(&std::fs::read(path).unwrap()).unwrap().1
}

/// Our samples of a folder with the noise of torch.
fn ours(dir: &Path, from: &Path, case: &Value) -> Vec<f32> {
    let word = |key: &str| case[key].to_string();
    let (seed, count, steps) = (word("seed"), word("count"), word("steps"));
    let mut words =
        vec!["sample", "--from", from.to_str().unwrap(), "--noise-compat", "torch", "--out", "o", "--overwrite"];
    words.extend(["--seed", &seed, "--count", &count, "--steps", &steps]);
    let eta = word("eta");
    if case["eta"].is_number() {
        words.extend(["--eta", &eta]);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(&words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    array(&dir.join("o/samples.npy"))
}

/// The largest difference in levels of 8 bits, and the share of values inside of [-1, 1].
pub(crate) fn apart(found: &[f32], wanted: &[f32]) -> (f32, f32) {
    assert_eq!(found.len(), wanted.len());
    let largest = found.iter().zip(wanted).map(|(f, w)| (f - w).abs() * 127.5).fold(0.0, f32::max);
    let inside = wanted.iter().filter(|value| value.abs() < 0.999).count() as f32 / wanted.len() as f32;
    (largest, inside)
}

#[test]
fn folders_of_diffusers_sample_the_same_pictures_here() {
    let dir = tempfile::tempdir().unwrap();
    let folders = dir.path().join("theirs");
    std::fs::create_dir(&folders).unwrap();
    let Some(versions) = peer(&["make", folders.to_str().unwrap()]) else { return };
    println!("{versions}");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(folders.join("cases.json")).unwrap()).unwrap();
    let mut failures = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let folder = folders.join(case["folder"].as_str().unwrap());
        let (largest, inside) = apart(&ours(dir.path(), &folder, case), &array(&folder.join("samples.npy")));
        let line = format!(
            "{:12} {:32} {:4} steps: {largest:.4} levels apart, {:.0} % inside  {}",
            case["folder"].as_str().unwrap(),
            case["scheduler"].as_str().unwrap(),
            case["steps"],
            100.0 * inside,
            case["settings"]
        );
        println!("{line}");
        if largest > LEVELS || inside < INSIDE {
            failures.push(line);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn our_snapshots_sample_the_same_pictures_there() {
    let dir = tempfile::tempdir().unwrap();
    let unet = |more: Value| {
        let mut json = json!({"kind": "unet", "base_channels": 16, "multipliers": [1, 2], "blocks_per_level": 1,
            "norm_groups": 4, "attention_resolutions": [4]});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json
    };
    let scaled = json!({"time_shift": "scale-shift", "resampling": "residual", "heads": {"width": 8},
        "middle_attention_norm": "same", "norm_eps": 1e-5, "embedding": {"order": "cos-sin", "frequency_shift": 0}});
    let rounded = json!({"downsample_padding": "symmetric", "heads": 4, "attention_resolutions": []});
    let linear = json!({"kind": "linear", "steps": 60, "beta_start": 1e-3, "beta_end": 0.2});
    let cases = [
        (unet(json!({})), json!({"schedule": linear})),
        (unet(scaled), json!({"schedule": {"kind": "cosine", "steps": 50}, "prediction": "v"})),
        (
            unet(rounded),
            json!({"schedule": {"kind": "cosine", "steps": 50, "s": 0.02}, "prediction": "x0",
            "variance": "fixed-small", "zero_terminal_snr": true}),
        ),
        (unet(json!({})), json!({"schedule": linear, "variance": "learned", "loss": "rescaled-mse"})),
    ];
    for (number, (network, diffusion)) in cases.into_iter().enumerate() {
        let source: DataConfig = serde_json::from_value(json!({"kind": "digits"})).unwrap();
        let info = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
        let diffusion: DiffusionConfig = serde_json::from_value(diffusion).unwrap();
        let network: NetworkConfig = serde_json::from_value(network).unwrap();
        let network = network.with_io(&info.shape, diffusion.variance.output_channels(1));
        network.validate(&info.shape).unwrap();
        let config = SnapshotConfig::new(network.clone(), diffusion, info, source, "peer");
        let (device, folder) = (Device::default(), dir.path().join(format!("ours-{number}")));
        device.seed(number as u64);
        // An untrained network says nothing.
        let network = network.init(&device).map(&mut Shaken);
        let written = Snapshot::save(&network, &config, &folder).unwrap();
        assert_eq!(written, Written::Pipeline);

        for (steps, seed) in [(config.diffusion.schedule.steps(), 3), (10, 4)] {
            let out = folder.join("theirs.npy");
            let words = [folder.to_str().unwrap(), &seed.to_string(), "2", &steps.to_string(), out.to_str().unwrap()];
            let Some(versions) = peer(&[&["open"], &words[..]].concat()) else { return };
            let case = json!({"seed": seed, "count": 2, "steps": steps});
            let (largest, inside) = apart(&ours(dir.path(), &folder, &case), &array(&out));
            println!(
                "{versions}: ours-{number}, {steps} steps: {largest:.4} levels apart, {:.0} % inside",
                100.0 * inside
            );
            assert!(largest <= LEVELS, "ours-{number}, {steps} steps: {largest} levels");
        }
    }
}

/// Moves every weight a little.
struct Shaken;

impl ModuleMapper for Shaken {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.clone() + weight.random_like(Distribution::Normal(0.0, 0.05)))
    }
}

#[test]
fn autoencoders_reconstruct_the_same_there_and_here() {
    let dir = tempfile::tempdir().unwrap();
    let source: DataConfig = serde_json::from_value(json!({"kind": "digits"})).unwrap();
    let opened = ddpm_data::open(&source, Split::Test, 0).unwrap();
    let tables = "[model]\nkind = 'kl'\nblock_out_channels = [8, 16]\nnorm_num_groups = 4\nlatent_channels = 2";
    let origin = Origin { experiment: "peer".into(), data: opened.info.clone(), source: Some(source) };
    let family = VaeFamily::restored(VaeFamily::read(tables.parse().unwrap()).unwrap(), origin).unwrap();
    let device = Device::default();
    device.seed(1);
    let model = family.init(&device).map(&mut Shaken);
    let progress = Progress { step: 1, images_seen: 0 };
    assert_eq!(family.save(&model, progress, &dir.path().join("ours")).unwrap(), Written::Pipeline);
    let gray: Vec<f32> = (0..5).flat_map(|item| opened.items.get(item).unwrap().values).collect();
    std::fs::write(dir.path().join("gray.npy"), npy::encode(&[5, 1, 8, 8], &gray)).unwrap();

    let Some(versions) = peer(&["autoencoder", dir.path().to_str().unwrap()]) else { return };
    for (model, given) in [("ours", "gray.npy"), ("theirs", "x.npy")] {
        let words = ["reconstruct", "--from", model, "--files", given, "--out", "o", "--overwrite"];
        let output =
            Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&output.stderr));
        let [here, there] =
            ["o/reconstructions.npy".into(), format!("{model}.npy")].map(|file| array(&dir.path().join(file)));
        let (largest, inside) = apart(&here, &there);
        println!("{versions}: {model}: {largest:.5} levels apart, {:.0} % inside", 100.0 * inside);
        assert!(largest <= LEVELS && inside > INSIDE, "{model}: {largest} levels, {inside} inside");
    }
}
