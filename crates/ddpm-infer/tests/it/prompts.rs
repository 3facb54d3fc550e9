//! Latent pipelines as a person uses them: prompts, classes and images in, images with captions out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ddpm_files::npy;
use ddpm_testing::support::{Safetensors, fixture};
use ddpm_weights::lora::{FILE, LayerFactors, Part, encode};

fn infer(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap()
}

fn folder(name: &str) -> PathBuf {
    fixture("sd_pipelines").join(name).canonicalize().unwrap()
}

/// Shape and values of the samples, and what was said.
fn sample(dir: &Path, pipeline: &str, words: &[&str]) -> (Vec<usize>, Vec<f32>, String) {
    let from = folder(pipeline);
    let start = ["sample", "--from", from.to_str().unwrap(), "--out", "o", "--overwrite", "--steps", "4"];
    let output = infer(dir, &[&start[..], words].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    let (shape, values) = npy::decode(&std::fs::read(dir.join("o/samples.npy")).unwrap()).unwrap();
    (shape, values, said)
}

fn refusal(dir: &Path, pipeline: &str, words: &[&str], parts: &[&str]) {
    let from = folder(pipeline);
    let start = ["sample", "--from", from.to_str().unwrap(), "--out", "refused", "--steps", "4"];
    let output = infer(dir, &[&start[..], words].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !said.contains("panicked"), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} is not in: {said}");
    assert!(!dir.join("refused").exists(), "{words:?} left a folder");
}

#[test]
fn every_line_of_a_file_is_an_image_in_its_order_at_any_batch_size() {
    let dir = tempfile::tempdir().unwrap();
    let long = "a very long prompt ".repeat(600);
    let lines = ["a red circle", "", "\u{1F600} \u{5E9}\u{5DC}\u{5D5}\u{5DD}", &long];
    std::fs::write(dir.path().join("prompts.txt"), lines.join("\n") + "\n").unwrap();
    let (shape, all, said) = sample(dir.path(), "p_sd1", &["--prompts", "prompts.txt", "--seed", "7"]);
    assert_eq!(shape, [4, 3, 16, 16]);
    assert!(said.contains("have no room") && said.contains("4 images of 16x16"), "{said}");
    for file in ["captions.png", "grid.png", "0000.png", "0003.png"] {
        assert!(dir.path().join("o").join(file).is_file(), "{file}");
    }
    let in_threes = ["--prompts", "prompts.txt", "--seed", "7", "--batch-size", "3"];
    assert_eq!(sample(dir.path(), "p_sd1", &in_threes).1, all);
    let (_, first, _) = sample(dir.path(), "p_sd1", &["--prompt", "a red circle", "--seed", "7"]);
    assert_eq!(first, all[..3 * 16 * 16]);
    let (shape, several, _) = sample(dir.path(), "p_sd1", &["--prompt", "a red circle", "--seed", "7", "--count", "2"]);
    assert_eq!((shape[0], &several[..3 * 16 * 16]), (2, &first[..]));
    let other = |words: &[&str]| {
        let start = ["--prompt", "a red circle", "--seed", "7"];
        sample(dir.path(), "p_sd1", &[&start[..], words].concat()).1
    };
    for words in [
        &["--negative", "blurry"][..],
        &["--guidance", "2"],
        &["--guidance", "2", "--guidance-rescale", "0.5"],
        &["--clip-skip", "1"],
        &["--sampler", "euler"],
    ] {
        assert_ne!(other(words), first, "{words:?}");
    }
    let (shape, _, _) = sample(dir.path(), "p_sdxl", &["--prompt", "a cat", "--size", "16x32"]);
    assert_eq!(shape, [1, 3, 16, 32]);
}

#[test]
fn images_are_changed_and_repainted() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = ["--prompt", "a red circle", "--seed", "3"];
    let (_, drawn, _) = sample(dir.path(), "p_sd1", &prompt);
    std::fs::copy(dir.path().join("o/0000.png"), dir.path().join("given.png")).unwrap();
    let with = |pipeline: &str, words: &[&str]| sample(dir.path(), pipeline, &[&prompt[..], words].concat()).1;
    assert_ne!(with("p_sd1", &["--from-image", "given.png", "--strength", "0.5"]), drawn);
    assert_ne!(with("p_sd1", &["--inpaint", "given.png", "--mask", "left"]), drawn);
    let nine = with("p_inpaint9", &["--inpaint", "given.png", "--mask", "left"]);
    assert_ne!(nine, with("p_inpaint9", &["--inpaint", "given.png", "--mask", "right"]));
    refusal(dir.path(), "p_inpaint9", &prompt, &["repaints", "mask"]);
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--interpolate", "3"]].concat(), &["--interpolate", "--from-image"]);
}

#[test]
fn classes_and_images_of_anything() {
    let dir = tempfile::tempdir().unwrap();
    let (shape, two, _) = sample(dir.path(), "p_dit", &["--class", "977", "--count", "2"]);
    assert_eq!(shape, [2, 3, 16, 16]);
    assert_ne!(two[..768], two[768..]);
    assert!(dir.path().join("o/captions.png").is_file());
    let (shape, ..) = sample(dir.path(), "p_ldm", &["--count", "3"]);
    assert_eq!(shape, [3, 3, 16, 16]);
}

#[test]
fn what_a_pipeline_cannot_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    refusal(dir.path(), "p_sd1", &[], &["StableDiffusionPipeline", "--prompt"]);
    refusal(dir.path(), "p_dit", &["--prompt", "a cat"], &["without text", "0 to 999", "--class"]);
    refusal(dir.path(), "p_dit", &["--class", "1000"], &["class 1000"]);
    refusal(dir.path(), "p_ldm", &["--prompt", "a cat"], &["not of prompts"]);
    refusal(dir.path(), "p_sd1", &["--prompt", "a", "--class", "3"], &["--class"]);
    refusal(dir.path(), "p_sd1", &["--prompt", "a", "--size", "17x16"], &["multiples of 2"]);
    refusal(dir.path(), "p_sd1", &["--prompt", "a", "--temperature", "1"], &["--temperature"]);
    refusal(dir.path(), "p_sd1", &["--prompts", "nowhere.txt"], &["nowhere.txt"]);
}

#[test]
fn a_single_file_takes_the_rest_from_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (config, words) = (folder("p_sd1"), ["--prompt", "a red circle"]);
    let (_, wanted, _) = sample(dir.path(), "p_sd1", &words);
    let config = ["--config", config.to_str().unwrap()];
    let (_, found, _) = sample(dir.path(), "p_sd1_single/model.ckpt", &[&words[..], &config].concat());
    assert_eq!(found, wanted);
    let (_, average, _) = sample(dir.path(), "p_sd1_single/model.ckpt", &[&words[..], &config, &["--ema"]].concat());
    assert_ne!(average, wanted);
    refusal(dir.path(), "p_sd1_single/model.ckpt", &words, &["--config"]);
}

/// Factors of rank 1 for a layer of the U-Net of a pipeline.
fn factors(pipeline: &str, layer: &str) -> LayerFactors {
    let file = Safetensors::open(folder(pipeline).join("unet/diffusion_pytorch_model.safetensors"));
    let shape = file.shape(&format!("{layer}.weight"));
    let values = |count: usize| (0..count).map(|k| (k as f32 * 0.7).sin()).collect::<Vec<f32>>();
    let down = [&[1], &shape[1..]].concat();
    let inputs = shape[1..].iter().product();
    LayerFactors {
        layer: layer.into(),
        down: (down, values(inputs)),
        up: ([&[shape[0], 1][..], &vec![1; shape.len() - 2]].concat(), values(shape[0])),
    }
}

#[test]
fn lora_changes_the_images_by_its_weight() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = ["--prompt", "a red circle", "--seed", "3"];
    let (_, plain, _) = sample(dir.path(), "p_sd1", &prompt);
    let layers = [factors("p_sd1", "conv_in"), factors("p_sd1", "time_embedding.linear_1")];
    let write = |name: &str, part: Part, layers: &[LayerFactors]| {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join(FILE), encode(part, 1.0, layers).unwrap()).unwrap();
    };
    write("style", Part::UNet, &layers);
    let with = |words: &[&str]| sample(dir.path(), "p_sd1", &[&prompt[..], words].concat());
    let (_, whole, said) = with(&["--lora", "style"]);
    assert!(said.contains("2 layers changed"), "{said}");
    assert_ne!(whole, plain);
    assert_eq!(with(&["--lora", "style:0"]).1, plain);
    assert_ne!(with(&["--lora", "style:0.5"]).1, whole);
    let twice = with(&["--lora", "style:0.5", "--lora", &format!("style/{FILE}:0.5")]).1;
    let error = twice.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-3, "{error}");

    write("other", Part::UNet, &[LayerFactors { layer: "conv_between".into(), ..layers[0].clone() }]);
    write("text", Part::TextEncoder2, &layers);
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--lora", "other"]].concat(), &[FILE, "unet.conv_between"]);
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--lora", "text"]].concat(), &[FILE, "text_encoder_2"]);
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--lora", "nowhere"]].concat(), &["nowhere"]);
}
