//! Text to image: a network of latents that attends to captions, trained with a tiny autoencoder and text encoder.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_families::diffusers::autoencoder::save_autoencoder;
use ddpm_families::family::trained::{Draw, open};
use ddpm_families::latent::write_text_encoder;
use ddpm_families::parameters::settle;
use ddpm_files::atomic::AtomicFolder;
use ddpm_kernels::Precision;
use ddpm_model::autoencoder::AutoencoderKLConfig;
use ddpm_model::text::ClipTextConfig;
use ddpm_train::train::{Finish, Options, run};
use serde_json::{Value, json};

/// Width of the tokens.
const WIDTH: usize = 8;
/// Start and end token: they have the last ids.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// The frozen parts, as a pipeline has them.
fn parts(folder: &Path) {
    let device = Device::default();
    device.seed(3);
    let autoencoder = AutoencoderKLConfig {
        block_out_channels: vec![4, 4, 4],
        norm_num_groups: 2,
        latent_channels: 2,
        mid_block_add_attention: false,
        ..AutoencoderKLConfig::default()
    };
    save_autoencoder(&settle(autoencoder.init(&device)), &folder.join("parts/vae")).unwrap();
    let letters = ('a'..='z').map(String::from).chain([",".into(), ":".into()]);
    let symbols: Vec<String> = letters.flat_map(|letter| [format!("{letter}</w>"), letter]).collect();
    let vocabulary = symbols.iter().map(String::as_str).chain(SPECIAL).zip(0..);
    let vocabulary: serde_json::Map<String, Value> = vocabulary.map(|(word, id)| (word.into(), json!(id))).collect();
    let config = ClipTextConfig {
        vocab_size: vocabulary.len(),
        hidden_size: WIDTH,
        intermediate_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        max_position_embeddings: 12,
        eos_token_id: vocabulary.len() - 1,
        ..ClipTextConfig::default()
    };
    let text = AtomicFolder::begin(&folder.join("parts/text")).unwrap();
    let [start, end] = SPECIAL.map(|token| vocabulary[token].as_u64().unwrap() as u32);
    write_text_encoder(&settle(config.init(&device)), [start, end], &text).unwrap();
    text.commit().unwrap();
    let tokenizer = folder.join("parts/text/tokenizer");
    std::fs::create_dir_all(&tokenizer).unwrap();
    std::fs::write(tokenizer.join("vocab.json"), Value::Object(vocabulary).to_string()).unwrap();
    std::fs::write(tokenizer.join("merges.txt"), "#version: 0.2\n").unwrap();
    std::fs::write(tokenizer.join("tokenizer_config.json"), json!({"model_max_length": 12}).to_string()).unwrap();
}

const UNET: &str = "kind = \"unet\"\nbase_channels = 8\nmultipliers = [1, 2]\nattention_resolutions = [4]\n\
                    blocks_per_level = 1\nnorm_groups = 4\ndropout = 0.0\ncross_attention = { token_width = 8 }\n";
const DIT: &str = "kind = \"dit\"\nhidden_size = 16\ndepth = 1\nheads = 2\ntoken_width = 8\n";

/// An experiment on the parts in a folder.
fn experiment(folder: &Path, model: &str, latents: &str) -> String {
    let part = |name: &str| folder.join("parts").join(name).display().to_string();
    format!(
        "[data]\nkind = \"shapes\"\ncount = 24\n[model]\n{model}[latents]\nautoencoder = {:?}\n{latents}\n[text]\n\
         encoder = {:?}\n[train]\nbatch_size = 4\nlabel_drop = 0.3\nlog_every = 2\ncheckpoint_every = 3\n\
         snapshot_every = 6\n[optimizer]\nlearning_rate = 1e-2\n\
         warmup_steps = 0\n[preview]\nevery = 6\ncount = 2\nsteps = 3\nguidance = 2.0\n[validation]\nevery = 2\ncount = 6\n\
         levels = 3\n",
        part("vae"),
        part("text")
    )
}

fn train(dir: &Path, name: &str, text: &str, resume: Option<&Path>, steps: u64) -> anyhow::Result<PathBuf> {
    let file = dir.join(format!("{name}.toml"));
    std::fs::write(&file, text).unwrap();
    let options = Options {
        experiment: file.to_str().unwrap().into(),
        set: vec![format!("train.steps={steps}")],
        resume: resume.map(|run| run.to_str().unwrap().into()),
        runs: dir.join("runs"),
        ..Options::default()
    };
    match run(&options)? {
        Finish::Done(run) => Ok(run),
        other => panic!("{other:?}"),
    }
}

/// The kinds of networks, and what is learned of the latents.
const CASES: [(&str, &str, &str); 2] =
    [("unet", UNET, "scale = \"measured\""), ("dit", DIT, "posterior = \"sample\"\nscale = 0.5")];

#[test]
fn two_times_n_steps_are_n_and_n_bit_for_bit() {
    let _alone = crate::support::alone();
    for (name, model, latents) in CASES {
        let dir = tempfile::tempdir().unwrap();
        parts(dir.path());
        let text = experiment(dir.path(), model, latents);
        let whole = train(dir.path(), name, &text, None, 6).unwrap();
        let half = train(dir.path(), "half", &text, None, 3).unwrap();
        let resumed = train(dir.path(), "half", &text, Some(&half), 6).unwrap();
        let weights = |run: &Path| std::fs::read(run.join("checkpoints/step-00000006/model.bpk")).unwrap();
        assert_eq!(weights(&whole), weights(&resumed), "{name}");
        let losses = |run: &Path| {
            let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.map(|line| [line["loss"].clone(), line["valid_loss"].clone()]).collect::<Vec<_>>()
        };
        assert_eq!(losses(&whole), losses(&resumed), "{name}");
        assert!(losses(&whole)[0].iter().all(Value::is_number), "{name}: {:?}", losses(&whole));
        // Parts of a batch see the same items, captions and noise.
        let parts =
            train(dir.path(), "parts", &text.replace("label_drop", "accumulate = 2\nlabel_drop"), None, 2).unwrap();
        let (found, wanted) = (losses(&parts)[0][0].as_f64().unwrap(), losses(&whole)[0][0].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-4 * wanted, "{name}: {found} {wanted}");
    }
}

#[test]
fn a_snapshot_alone_in_a_folder_draws_the_same_images_at_any_count() {
    let _alone = crate::support::alone();
    for (name, model, latents) in CASES {
        let dir = tempfile::tempdir().unwrap();
        parts(dir.path());
        let run = train(dir.path(), name, &experiment(dir.path(), model, latents), None, 6).unwrap();
        let previews = std::fs::read_dir(run.join("previews")).unwrap().count();
        assert!(previews > 0, "{name}");
        let alone = tempfile::tempdir().unwrap();
        let snapshot = alone.path().join("snapshot");
        std::fs::rename(run.join("snapshots/step-00000006"), &snapshot).unwrap();
        drop(dir);
        let has_index = snapshot.join("model_index.json").is_file();
        assert_eq!(has_index, name == "unet", "{name}");
        if has_index {
            let index: Value =
                serde_json::from_str(&std::fs::read_to_string(snapshot.join("model_index.json")).unwrap()).unwrap();
            assert_eq!(index["_class_name"], "StableDiffusionPipeline");
            assert_eq!(index["text_encoder"], json!(["transformers", "CLIPTextModel"]));
        }
        for file in ["vae/config.json", "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"] {
            assert!(snapshot.join(file).is_file(), "{name}: {file}");
        }
        let model = open(&snapshot, &Device::default(), Precision::F32).unwrap();
        let generator = model.generate().unwrap();
        let draw = |first, count| generator.generate(&Draw::of_seed(5), first, count).unwrap();
        let (all, last) = (draw(0, 5), draw(3, 2));
        assert_eq!((&all.shape[..], all.count()), (&[3, 32, 32][..], 5));
        let size = all.values.len() / 5;
        let apart = all.values[3 * size..].iter().zip(&last.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{name}: {apart}");
        assert!(all.values[..size] != all.values[size..2 * size], "{name}");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused_by_key() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    parts(dir.path());
    let text = experiment(dir.path(), UNET, "");
    let refuse = |from: &str, to: &str, parts: &[&str]| {
        assert!(text.contains(from), "{from}");
        let error = train(dir.path(), "refused", &text.replace(from, to), None, 1).unwrap_err();
        let message = format!("{error:#}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    refuse(
        "token_width = 8",
        "token_width = 9",
        &["model.cross_attention.token_width", "is 9", "parts/text", "8 values"],
    );
    refuse("cross_attention = { token_width = 8 }\n", "", &["attends to no tokens"]);
    refuse("parts/vae", "parts/text", &["latents.autoencoder", "parts/text"]);
    refuse("parts/text", "parts/vae", &["text.encoder", "parts/vae"]);
    refuse("parts/vae", "parts/none", &["latents.autoencoder", "parts/none", "no such folder"]);
    refuse("kind = \"shapes\"\ncount = 24", "kind = \"digits\"", &["latents.autoencoder", "3 channels", "[1, 8, 8]"]);
    refuse("dropout = 0.0", "in_channels = 3", &["model.in_channels", "is 3"]);
}
