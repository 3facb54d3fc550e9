//! Latent pipelines as a person uses them: prompts, classes and images in, images with captions out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_families::diffusion::DiffusionFamily;
use ddpm_families::family::{Family, Progress, Subject};
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
    // With no more than a tokenizer the networks follow from the shapes; heads are as in Stable Diffusion.
    let tokenizer = folder("p_sd1/tokenizer");
    let tokenizer = ["--config", tokenizer.to_str().unwrap(), "--size", "16x16"];
    let (shape, ..) = sample(dir.path(), "p_sd1_single/model.ckpt", &[&words[..], &tokenizer].concat());
    assert_eq!(shape, [1, 3, 16, 16]);
    let nothing = ["--config", dir.path().to_str().unwrap()];
    refusal(dir.path(), "p_sd1_single/model.ckpt", &[&words[..], &nothing].concat(), &["tokenizer.json"]);
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

#[test]
fn a_grid_of_prompts_has_a_row_for_each_and_columns_that_share_their_noise() {
    let dir = tempfile::tempdir().unwrap();
    let two = ["--prompt", "a red circle", "--prompt", "a cat", "--seed", "7"];
    let with = |words: &[&str]| sample(dir.path(), "p_sd1", &[&two[..], words].concat());
    let (shape, grid, _) = with(&["--prompt-grid", "3"]);
    assert_eq!(shape[0], 6);
    // Two rows of three.
    for file in ["o/grid.png", "o/captions.png"] {
        let sheet = image::open(dir.path().join(file)).unwrap();
        assert!(sheet.width() > sheet.height(), "{file}");
    }
    let size = 3 * 16 * 16;
    // The first row is that of the first prompt alone.
    let (_, first, _) = sample(dir.path(), "p_sd1", &["--prompt", "a red circle", "--seed", "7", "--count", "3"]);
    assert_eq!(grid[..3 * size], first);
    let (_, second, _) = sample(dir.path(), "p_sd1", &["--prompt", "a cat", "--seed", "7", "--count", "3"]);
    assert_eq!(grid[3 * size..], second);
    // Several of each in turn: a column for each prompt.
    let (_, in_turn, _) = with(&["--count", "6"]);
    assert_eq!(in_turn[..size], first[..size]);
    let columns = image::open(dir.path().join("o/grid.png")).unwrap();
    assert!(columns.height() > columns.width());
}

#[test]
fn several_scales_of_guidance_start_from_the_same_noise() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = ["--prompt", "a red circle", "--seed", "7", "--count", "2"];
    let with = |words: &[&str]| sample(dir.path(), "p_sd1", &[&prompt[..], words].concat());
    let [one, three] = ["1", "3"].map(|scale| with(&["--guidance", scale]).1);
    let (shape, both, said) = with(&["--guidance", "1,3"]);
    assert!(said.contains("at 2 scales"), "{said}");
    assert_eq!(shape[0], 4);
    let size = 3 * 16 * 16;
    let wanted = [&one[..size], &three[..size], &one[size..], &three[size..]].concat();
    assert_eq!(both, wanted);
    assert!(dir.path().join("o/captions.png").is_file());
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--guidance", "1,3", "--shard", "1/2"]].concat(), &["--shard"]);
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--guidance", "1,x"]].concat(), &["--guidance"]);
    refusal(
        dir.path(),
        "p_sd1",
        &[&prompt[..], &["--guidance", "2", "--guide", "p"]].concat(),
        &["--guide", "--negative"],
    );
}

#[test]
fn variations_of_an_image_are_as_many_as_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path(), "p_sd1", &["--prompt", "a red circle"]);
    std::fs::copy(dir.path().join("o/0000.png"), dir.path().join("given.png")).unwrap();
    let with = |words: &[&str]| {
        let start = ["--prompt", "", "--from-image", "given.png", "--strength", "0.5", "--count", "3"];
        sample(dir.path(), "p_sd1", &[&start[..], words].concat())
    };
    let (shape, all, _) = with(&[]);
    assert_eq!(shape[0], 3);
    let images: Vec<&[f32]> = all.chunks(all.len() / 3).collect();
    assert!(images[0] != images[1] && images[1] != images[2] && images[0] != images[2]);
    assert_eq!(with(&["--batch-size", "2"]).1, all);
}

#[test]
fn noise_is_given_or_drawn_as_torch_does() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<f32> = (0..2 * 4 * 64).map(|k| ((k * 37 % 101) as f32 - 50.0) / 29.0).collect();
    let write = |name: &str, shape: &[usize], values: &[f32]| {
        std::fs::write(dir.path().join(name), npy::encode(shape, values)).unwrap();
    };
    write("two.npy", &[2, 4, 8, 8], &noise);
    write("second.npy", &[1, 4, 8, 8], &noise[256..]);
    write("wrong.npy", &[1, 3, 8, 8], &noise[..192]);
    let prompt = ["--prompt", "a red circle"];
    let with = |words: &[&str]| sample(dir.path(), "p_sd1", &[&prompt[..], words].concat());
    let (shape, both, _) = with(&["--init-noise", "two.npy"]);
    assert_eq!(shape[0], 2);
    let (_, second, _) = with(&["--init-noise", "second.npy", "--seed", "3"]);
    assert_eq!(both[768..], second);
    let (_, torch, _) = with(&["--noise-compat", "torch"]);
    assert!(torch != with(&[]).1 && torch == with(&["--noise-compat", "torch"]).1);
    let refused = |words: &[&str], parts: &[&str]| refusal(dir.path(), "p_sd1", &[&prompt[..], words].concat(), parts);
    refused(&["--init-noise", "wrong.npy"], &["wrong.npy", "[1, 3, 8, 8]", "[N, 4, 8, 8]"]);
    refused(&["--init-noise", "two.npy", "--count", "3"], &["2 samples", "count is 3"]);
    refused(&["--init-noise", "two.npy", "--prompt-grid", "2"], &["--init-noise"]);
    refused(&["--noise-compat", "torch", "--prompt-grid", "2"], &["--noise-compat torch"]);
}

#[test]
fn shards_join_to_the_whole_and_levels_are_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["--prompt", "a red circle", "--prompt", "a cat", "--count", "5", "--seed", "2"];
    let (_, whole, _) = sample(dir.path(), "p_sd1", &words);
    let from = folder("p_sd1");
    let start = ["sample", "--from", from.to_str().unwrap(), "--out", "parts", "--steps", "4"];
    for shard in ["1/2", "2/2"] {
        let output = infer(dir.path(), &[&start[..], &words, &["--shard", shard]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let other = infer(dir.path(), &[&start[..], &words, &["--guidance", "2", "--shard", "1/2"]].concat());
    assert!(String::from_utf8_lossy(&other.stderr).contains("another job"));
    let output = infer(dir.path(), &[&start[..], &words].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (_, joined) = npy::decode(&std::fs::read(dir.path().join("parts/samples.npy")).unwrap()).unwrap();
    assert_eq!(joined, whole);
    let with = |more: &[&str]| sample(dir.path(), "p_sd1", &[&words[..], &["--sampler", "euler"], more].concat()).1;
    assert_ne!(with(&["--levels", "karras"]), with(&[]));
    refusal(dir.path(), "p_sd1", &[&words[..], &["--levels", "karras"]].concat(), &["--levels", "--sampler"]);
}

#[test]
fn images_are_decoded_in_tiles() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = ["--prompt", "a red circle", "--seed", "7", "--size", "48x32"];
    let with = |words: &[&str]| sample(dir.path(), "p_sd1", &[&prompt[..], words].concat());
    let (shape, whole, _) = with(&[]);
    let (_, tiled, _) = with(&["--tile", "16"]);
    assert_eq!(shape, [1, 3, 48, 32]);
    assert!(whole != tiled && whole.len() == tiled.len());
    assert_eq!(with(&["--tile", "64"]).1, whole);
    refusal(dir.path(), "p_sd1", &[&prompt[..], &["--tile", "12"]].concat(), &["--tile 12", "multiple of 8"]);
}

/// A snapshot of ours on captioned shapes whose frozen parts are those of a pipeline.
fn snapshot(folder: &Path, tables: &str) {
    let config: DataConfig = serde_json::from_str(r#"{"kind": "shapes", "count": 8}"#).unwrap();
    let (data, device) = (ddpm_data::open(&config, Split::Train, 0).unwrap(), Device::default());
    let subject = Subject { experiment: "own", config: &config, data: &data, balanced: false, device: &device };
    let family = DiffusionFamily::resolve(DiffusionFamily::read(tables.parse().unwrap()).unwrap(), &subject).unwrap();
    family.save(&family.init(&device), Progress { step: 1, images_seen: 1 }, folder).unwrap();
}

#[test]
fn snapshots_that_are_no_pipeline_of_diffusers_take_prompts_and_classes_too() {
    let dir = tempfile::tempdir().unwrap();
    let parts = folder("p_sd1");
    let latents = format!("[latents]\nautoencoder = {parts:?}\n");
    let text = format!("[text]\nencoder = {parts:?}\n");
    let config = std::fs::read_to_string(parts.join("text_encoder/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let width = config["hidden_size"].as_u64().unwrap();
    let dit = format!("[model]\nkind = 'dit'\nhidden_size = 16\ndepth = 1\nheads = 2\ntoken_width = {width}\n");
    let flow = "[diffusion.continuous]\npath = { kind = 'linear' }\nprediction = 'flow'\n";
    let unet = "[model]\nkind = 'unet'\nbase_channels = 8\nmultipliers = [1]\nblocks_per_level = 1\nnorm_groups = 4\n\
                attention_resolutions = []\n";
    snapshot(&dir.path().join("dit"), &format!("{latents}{text}{dit}"));
    snapshot(&dir.path().join("flow"), &format!("{latents}{text}{dit}{flow}"));
    snapshot(&dir.path().join("unet"), &format!("{latents}{unet}"));
    let draw = |name: &str, words: &[&str]| {
        let start = ["sample", "--from", name, "--out", "o", "--overwrite", "--steps", "3"];
        infer(dir.path(), &[&start[..], words].concat())
    };
    for (name, words) in [
        ("dit", &["--prompt", "a red circle", "--prompt", "", "--guidance", "2"][..]),
        ("flow", &["--prompt", "a red circle", "--count", "2"]),
        ("unet", &["--count", "2"]),
    ] {
        let output = draw(name, words);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let (shape, _) = npy::decode(&std::fs::read(dir.path().join("o/samples.npy")).unwrap()).unwrap();
        assert_eq!(shape, [2, 3, 32, 32], "{name}");
    }
    let said = draw("dit", &[]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("--prompt"));
}

/// A copy of a pipeline, of which a file is replaced.
fn copied(dir: &Path, pipeline: &str) -> PathBuf {
    let to = dir.join("copy");
    let _ = std::fs::remove_dir_all(&to);
    for part in std::fs::read_dir(folder(pipeline)).unwrap().flatten().filter(|part| part.file_name() != "cases") {
        let name = to.join(part.file_name());
        if part.path().is_dir() {
            std::fs::create_dir_all(&name).unwrap();
            for file in std::fs::read_dir(part.path()).unwrap().flatten() {
                std::fs::copy(file.path(), name.join(file.file_name())).unwrap();
            }
        } else if part.file_name() == "model_index.json" {
            std::fs::copy(part.path(), name).unwrap();
        }
    }
    to
}

#[test]
fn parts_of_other_models_are_refused_by_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&Path), parts: &[&str]| {
        change(&copied(dir.path(), "p_sd1"));
        let output =
            infer(dir.path(), &["sample", "--from", "copy", "--prompt", "a", "--steps", "2", "--out", "refused"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && !said.contains("panicked"), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} is not in: {said}");
    };
    let write = |file: &'static str, text: &'static str| {
        move |copy: &Path| {
            std::fs::write(copy.join(file), text).unwrap();
        }
    };
    refused(&write("tokenizer/vocab.json", "{\"a\": 0"), &["copy/tokenizer/vocab.json", "JSON"]);
    refused(&write("tokenizer/vocab.json", "[1, 2]"), &["copy/tokenizer/vocab.json", "table"]);
    refused(&write("tokenizer/vocab.json", "{\"a\": 0, \"b\": 0}"), &["copy/tokenizer/vocab.json", "id 0"]);
    refused(&write("tokenizer/merges.txt", "a b c\n"), &["copy/tokenizer/merges.txt", "line 1"]);
    refused(&write("tokenizer/merges.txt", "qq zz\n"), &["copy/tokenizer/merges.txt", "qq"]);
    refused(
        &write("tokenizer/tokenizer.json", "{\"model\": {\"type\": \"WordPiece\"}}"),
        &["tokenizer.json", "WordPiece"],
    );
    refused(&write("tokenizer/tokenizer_config.json", "nothing"), &["tokenizer_config.json", "JSON"]);
    refused(&|copy| std::fs::remove_dir_all(copy.join("tokenizer")).unwrap(), &["copy/tokenizer"]);
    // A vocabulary of another encoder, with more tokens or with fewer.
    refused(
        &|copy| {
            let file = copy.join("tokenizer/vocab.json");
            let mut words: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            words["another</w>"] = 5000.into();
            std::fs::write(&file, words.to_string()).unwrap();
        },
        &["copy/tokenizer", "5001 tokens", "text encoder"],
    );
    let part = |part: &'static str, of: &'static str| {
        move |copy: &Path| {
            for file in std::fs::read_dir(folder(of).join(part)).unwrap().flatten() {
                std::fs::copy(file.path(), copy.join(part).join(file.file_name())).unwrap();
            }
        }
    };
    // A text encoder of another width, and an autoencoder of other latents.
    refused(&part("text_encoder", "p_sd2"), &["copy/"]);
    refused(
        &|copy| {
            let file = copy.join("vae/config.json");
            let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            config["latent_channels"] = 3.into();
            std::fs::write(&file, config.to_string()).unwrap();
        },
        &["copy/vae"],
    );
}
