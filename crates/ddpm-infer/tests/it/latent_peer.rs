//! Images of latent pipelines of diffusers and transformers themselves against ours: the same folder, the same noise.
//!
//! Runs where `DDPM_PYTHON` names a Python that has them and torch, and says so where it does not run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use ddpm_data::{DataConfig, Split};
use ddpm_families::diffusion::DiffusionFamily;
use ddpm_families::family::{Family, Progress, Subject};
use ddpm_families::snapshot::Written;
use ddpm_families::text_encoder::TextEncoderFamily;
use ddpm_families::vae::VaeFamily;
use ddpm_files::npy;
use ddpm_testing::python::{python_with, run};
use serde_json::{Value, json};

use crate::diffusers_peer::{apart, array};

/// How far two images may be apart: a rounding of the nearest of 256 levels.
const LEVELS: f32 = 1.0;
/// Share of values that must not be black or white, for an image to say anything.
const INSIDE: f32 = 0.5;
/// The networks of the peer are random by this seed.
const SEED: &str = "11";

/// What the peer's script says, unless there is no Python for it.
fn peer(words: &[&str]) -> Option<String> {
    let python = python_with("diffusers and transformers")?;
    Some(run(&python, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/latent_peer.py"), words))
}

/// Our images of a folder, from the noise in a file.
fn ours(dir: &Path, from: &Path, noise: &Path, words: &[String]) -> Vec<f32> {
    let start = ["sample", "--from", from.to_str().unwrap(), "--init-noise", noise.to_str().unwrap()];
    let output = Command::new(env!("CARGO_BIN_EXE_ddpm-infer"))
        .current_dir(dir)
        .args(start)
        .args(["--out", "o", "--overwrite"])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {words:?}: {}", from.display(), String::from_utf8_lossy(&output.stderr));
    array(&dir.join("o/samples.npy"))
}

#[test]
fn latent_pipelines_of_diffusers_draw_the_same_images_here() {
    let dir = tempfile::tempdir().unwrap();
    let Some(versions) = peer(&["make", dir.path().to_str().unwrap(), SEED]) else { return };
    println!("{versions}");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("cases.json")).unwrap()).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let mut failures = Vec::new();
    for case in cases {
        let folder = dir.path().join(case["folder"].as_str().unwrap());
        let words: Vec<String> = serde_json::from_value(case["words"].clone()).unwrap();
        let found = ours(dir.path(), &folder, &folder.join("noise.npy"), &words);
        let (largest, inside) = apart(&found, &array(&folder.join(case["out"].as_str().unwrap())));
        let line = format!(
            "{:12} {largest:.4} levels apart, {:.0} % inside: {}",
            case["folder"].as_str().unwrap(),
            100.0 * inside,
            words.join(" ")
        );
        println!("{line}");
        if largest > LEVELS || inside < INSIDE {
            failures.push(line);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let folders = ["sd1", "sd1-euler", "sd1-square", "sd1-inpaint", "sd1-nine", "sd2", "xl", "dit", "ldm"];
    assert!(folders.iter().all(|folder| cases.iter().any(|case| case["folder"] == *folder)));
}

/// Moves every weight a little, since some of a new network are zero.
struct Shaken(f64);

impl ModuleMapper for Shaken {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.clone() + weight.random_like(Distribution::Normal(0.0, self.0)))
    }
}

/// A snapshot of a family on captioned shapes, of random weights.
fn snapshot<F: Family>(folder: &Path, tables: &str, by: f64) -> Written {
    let config: DataConfig = serde_json::from_value(json!({"kind": "shapes", "count": 60})).unwrap();
    let (data, device) = (ddpm_data::open(&config, Split::Train, 0).unwrap(), Device::default());
    device.seed(9);
    let subject = Subject { experiment: "peer", config: &config, data: &data, balanced: false, device: &device };
    let family = F::resolve(F::read(tables.parse().unwrap()).unwrap(), &subject).unwrap_or_else(|e| panic!("{e:?}"));
    let model = family.init(&device).map(&mut Shaken(by));
    family.save(&model, Progress { step: 1, images_seen: 1 }, folder).unwrap()
}

/// Of the three families that a text-to-image model is trained by: all parts of the folder are ours.
#[test]
fn our_text_to_image_snapshots_draw_the_same_images_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let autoencoder = "[model]\nkind = 'kl'\nblock_out_channels = [8, 8, 16]\nnorm_num_groups = 4\nlatent_channels = 3";
    snapshot::<VaeFamily>(&at("autoencoder"), autoencoder, 0.1);
    let words = "[model]\nwidth = 24\nlayers = 2\nheads = 3\nmax_length = 16\n[contrast]\nchannels = [8, 16, 16, 16]\n\
                 width = 16";
    snapshot::<TextEncoderFamily>(&at("words"), words, 0.1);
    let shuffled: Vec<f32> = (0..2 * 3 * 64).map(|k| ((k * 73 % 389) as f32 / 194.5 - 1.0) * 1.7).collect();
    std::fs::write(at("noise.npy"), npy::encode(&[2, 3, 8, 8], &shuffled)).unwrap();
    for (name, diffusion) in [
        ("eps", "schedule = { kind = 'linear', steps = 200 }"),
        ("v", "prediction = 'v'\nschedule = { kind = 'cosine', steps = 100 }"),
    ] {
        let parts = format!("[latents]\nautoencoder = {:?}\n[text]\nencoder = {:?}\n", at("autoencoder"), at("words"));
        let model = "[model]\nkind = 'unet'\nbase_channels = 16\nmultipliers = [1, 2]\nattention_resolutions = [4]\n\
                     blocks_per_level = 1\nnorm_groups = 4\ncross_attention = { token_width = 24 }\n";
        let written = snapshot::<DiffusionFamily>(&at(name), &format!("{parts}{model}[diffusion]\n{diffusion}"), 0.05);
        assert_eq!(written, Written::Pipeline);
        let prompts = ["a small red circle top left", "a large blue square: bottom, right"];
        let calls = json!([
            {"prompt": prompts, "guidance_scale": 3.0, "num_inference_steps": 9},
            {"prompt": prompts, "guidance_scale": 1.0, "num_inference_steps": 5},
        ]);
        let paths = [at(name), at("noise.npy"), at("theirs.npy")].map(|path| path.to_str().unwrap().to_string());
        let Some(versions) = peer(&["open", &paths[0], &paths[1], &calls.to_string(), &paths[2]]) else { return };
        let wanted = array(&at("theirs.npy"));
        for ((scale, steps), wanted) in [("3", "9"), ("1", "5")].into_iter().zip(wanted.chunks(wanted.len() / 2)) {
            let words = ["--prompt", prompts[0], "--prompt", prompts[1], "--guidance", scale, "--steps", steps];
            let words = words.iter().chain(&["--noise-compat", "torch"]).map(ToString::to_string).collect::<Vec<_>>();
            let (largest, inside) = apart(&ours(dir.path(), &at(name), &at("noise.npy"), &words), wanted);
            println!("{versions}: {name}, scale {scale}: {largest:.4} levels apart, {:.0} % inside", 100.0 * inside);
            assert!(largest <= LEVELS && inside > INSIDE, "{name}, scale {scale}: {largest} levels, {inside} inside");
        }
    }
}
