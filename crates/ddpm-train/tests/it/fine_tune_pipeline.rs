//! From a text-to-image pipeline of diffusers and a folder of captioned images to a snapshot of its own, and to a file of LoRA.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_families::latent::{LatentPipeline, Subject};
use ddpm_files::npy;
use ddpm_model::condition::{Condition, Tokens};
use ddpm_model::network::Network;
use ddpm_testing::python::{self, python_with};
use ddpm_testing::support::fixture;
use ddpm_train::train::{Finish, Options, run};
use ddpm_weights::lora::{FILE, Lora, Part};

const SIDE: u32 = 16;
const STEPS: u64 = 4;
/// Attention, and a convolution of every size.
const LORA: &str = "[fine_tune.lora]\nrank = 3\nalpha = 6.0\n\
                    parts = [\"*.*.attentions\", \"mid_block\", \"conv_in\", \"time_embedding\"]\n";

/// The pipeline that training starts from.
fn base(name: &str) -> PathBuf {
    fixture("sd_pipelines").join(name).canonicalize().unwrap()
}

/// Twenty images with captions.
fn images(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for k in 0..20_u8 {
        let color = [[200, 30, 30], [30, 200, 30], [30, 30, 200]][usize::from(k) % 3];
        let image =
            image::RgbImage::from_fn(SIDE, SIDE, |x, y| image::Rgb(if (x + y) as u8 > k { color } else { [9; 3] }));
        image.save(folder.join(format!("{k}.png"))).unwrap();
        let word = ["red", "green", "blue"][usize::from(k) % 3];
        std::fs::write(folder.join(format!("{k}.txt")), format!("a {word} field")).unwrap();
    }
}

/// What an experiment needs besides the pipeline.
fn experiment(more: &str) -> String {
    format!(
        "[data]\nkind = \"images\"\npath = \"IMAGES\"\nsize = {SIDE}\ncaptions = \"auto\"\n[train]\nbatch_size = 2\n\
         log_every = 1\ngradient_checkpointing = true\n[optimizer]\nlearning_rate = 1e-2\nwarmup_steps = 0\n[ema]\ndecay = 0.5\n\
         [preview]\ncount = 1\nsteps = 2\nprompts = [\"a red field\"]\n[validation]\nevery = 2\ncount = 2\nlevels = 2\n{more}"
    )
}

fn train(dir: &Path, text: &str, from: Option<&Path>, resume: Option<&Path>, steps: u64) -> anyhow::Result<PathBuf> {
    let (file, folder) = (dir.join("mine.toml"), dir.join("images"));
    if !folder.is_dir() {
        images(&folder);
    }
    std::fs::write(&file, text.replace("IMAGES", folder.to_str().unwrap())).unwrap();
    let options = Options {
        experiment: file.to_str().unwrap().into(),
        set: vec![format!("train.steps={steps}")],
        from: from.map(Path::to_path_buf),
        resume: resume.map(|run| run.to_str().unwrap().into()),
        runs: dir.join("runs"),
        ..Options::default()
    };
    match run(&options)? {
        Finish::Done(run) => Ok(run),
        other => panic!("{other:?}"),
    }
}

fn snapshot(run: &Path) -> PathBuf {
    run.join(format!("snapshots/step-{STEPS:08}"))
}

fn pipeline(folder: &Path) -> LatentPipeline {
    LatentPipeline::open(folder, &Device::default()).unwrap()
}

/// All weights of the network, by the names of diffusers.
fn weights(network: &Network) -> BTreeMap<String, Vec<f32>> {
    let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true).into_iter();
    tensors.map(|tensor| (tensor.name.clone(), bridge::into_data(tensor).unwrap().iter().collect())).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The images of a pipeline for a prompt, by the scheduler of another.
fn drawn(pipeline: &LatentPipeline, scheduler: &LatentPipeline) -> Vec<f32> {
    let pipeline = pipeline.clone().with_scheduler(scheduler.scheduler.clone());
    let subject = Subject::Prompts { prompts: vec!["a red field".into()], negative: None };
    let job = pipeline.job(subject, Some(4), 0.0).unwrap();
    job.run(&pipeline, &mut |_| {}).unwrap().images.values
}

#[test]
fn lora_of_a_pipeline_is_a_file_that_gives_the_snapshot() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let run = train(dir.path(), &experiment(LORA), Some(&base("p_sd1")), None, STEPS).unwrap();
    assert!(std::fs::read_dir(run.join("previews")).unwrap().count() > 0);
    let snapshot = snapshot(&run);
    let lora = Lora::open(&snapshot).unwrap();
    assert_eq!(lora.path(), snapshot.join(FILE));
    assert_eq!(lora.parts().into_iter().collect::<Vec<_>>(), [Part::UNet]);

    let (plain, tuned) = (pipeline(&base("p_sd1")), pipeline(&snapshot));
    let mut adapted = plain.clone();
    let changed = adapted.merge_lora(&lora, 1.0).unwrap();
    let [before, merged, after] = [&plain, &adapted, &tuned].map(|pipeline| weights(&pipeline.network));
    let mut moved = 0;
    for (name, after) in &after {
        let apart = largest_difference(after, &merged[name]);
        assert!(apart < 1e-6, "{name}: {apart}");
        moved += usize::from(*after != before[name]);
    }
    assert_eq!(moved, changed, "all that has factors, and nothing else, is changed");
    let convolutions = ["conv_in", "mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in"];
    let matrices = ["time_embedding.linear_1", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"];
    for layer in convolutions.into_iter().chain(matrices) {
        let name = format!("{layer}.weight");
        assert_ne!(after[&name], before[&name], "{name}");
    }
    let [plain_images, merged_images, images] = [&plain, &adapted, &tuned].map(|pipeline| drawn(pipeline, &plain));
    let (same, other) = (largest_difference(&merged_images, &images), largest_difference(&plain_images, &images));
    assert!(same < 1e-4 && other > 1e-2, "{same} {other}");
}

#[test]
fn two_times_n_steps_of_lora_are_n_and_n_bit_for_bit() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    // The experiment names the pipeline itself.
    let from = format!("[fine_tune]\nfrom = {:?}\n[fine_tune.lora]", base("p_sd1"));
    let text = experiment(LORA).replace("[fine_tune.lora]", &from);
    let whole = train(dir.path(), &text, None, None, STEPS).unwrap();
    let half = train(dir.path(), &text, None, None, STEPS / 2).unwrap();
    let resumed = train(dir.path(), &text, None, Some(&half), STEPS).unwrap();
    for file in ["model.bpk", "ema.bpk"] {
        let read = |run: &Path| std::fs::read(run.join(format!("checkpoints/step-{STEPS:08}")).join(file)).unwrap();
        assert_eq!(read(&whole), read(&resumed), "{file}");
    }
    let read = |run: &Path| std::fs::read(snapshot(run).join(FILE)).unwrap();
    assert_eq!(read(&whole), read(&resumed));
}

#[test]
fn a_whole_pipeline_is_tuned_and_drawn_from_alone() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    for (name, more) in [("p_sd1", ""), ("p_sd2", "[fine_tune]\nfreeze = [\"down_blocks\"]\n")] {
        let run = train(dir.path(), &experiment(more), Some(&base(name)), None, STEPS).unwrap();
        let alone = tempfile::tempdir().unwrap();
        let folder = alone.path().join("snapshot");
        std::fs::rename(snapshot(&run), &folder).unwrap();
        assert!(!folder.join(FILE).exists(), "{name}");
        let (plain, tuned) = (pipeline(&base(name)), pipeline(&folder));
        assert_eq!(tuned.class, "StableDiffusionPipeline");
        assert_eq!(tuned.scheduler.diffusion.prediction, plain.scheduler.diffusion.prediction, "{name}");
        let (before, after) = (weights(&plain.network), weights(&tuned.network));
        for (weight, after) in &after {
            let is_frozen = !more.is_empty() && weight.starts_with("down_blocks");
            if weight.ends_with("weight") {
                assert_eq!(*after == before[weight], is_frozen, "{name} {weight}");
            }
        }
        assert!(largest_difference(&drawn(&tuned, &plain), &drawn(&plain, &plain)) > 1e-3, "{name}");
    }
}

#[test]
fn what_cannot_be_tuned_is_named() {
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let refuse = |text: &str, from: &Path, parts: &[&str]| {
        let error = train(dir.path(), text, Some(from), None, 1).unwrap_err();
        let message = format!("{error:#}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let (text, sd1) = (experiment(LORA), base("p_sd1"));
    refuse(&text, &dir.path().join("none"), &["none", "there is nothing at this path"]);
    for (name, class) in [
        ("p_sdxl", "StableDiffusionXLPipeline"),
        ("p_inpaint9", "StableDiffusionInpaintPipeline"),
        ("p_dit", "DiTPipeline"),
        ("p_ldm", "LDMPipeline"),
    ] {
        refuse(&text, &base(name), &[name, class, "expected a StableDiffusionPipeline"]);
    }
    let without = text.replace("captions = \"auto\"\n", "");
    refuse(&without, &sd1, &["text.encoder", "no captions", "data.captions = \"auto\""]);
    refuse(&text.replace("size = 16", "size = 15"), &sd1, &["latents.autoencoder", "multiples of 2"]);
    refuse(&text.replace("\"conv_in\"", "\"conv_inn\""), &sd1, &["fine_tune.lora.parts", "conv_inn", "conv_in, "]);
    std::fs::remove_file(dir.path().join("images/7.txt")).unwrap();
    refuse(&text, &sd1, &["7.txt", "a .txt file with the caption next to each image"]);
}

#[test]
fn diffusers_opens_the_file_and_its_network_gives_the_same() {
    let Some(python) = python_with("diffusers and peft") else { return };
    let _alone = crate::support::alone();
    let dir = tempfile::tempdir().unwrap();
    let run = train(dir.path(), &experiment(LORA), Some(&base("p_sd1")), None, STEPS).unwrap();
    let tuned = pipeline(&snapshot(&run));
    let (shapes, mut given) = ([[2, 4, 8, 8].as_slice(), &[2, 77, 12]], Vec::new());
    for (name, shape) in ["x", "tokens"].into_iter().zip(shapes) {
        let values = normals(&mut rng(3, Stream::Noise, shape.len() as u64), shape.iter().product());
        std::fs::write(dir.path().join(format!("{name}.npy")), npy::encode(shape, &values)).unwrap();
        given.push(TensorData::new(values, shape.to_vec()));
    }
    let device = Device::default();
    let tokens = Condition::Tokens(Tokens::new(Tensor::from_data(given.remove(1), &device)));
    let x = Tensor::<4>::from_data(given.remove(0), &device);
    let t = Tensor::<1>::from_floats([10.0, 800.0], &device);
    let ours: Vec<f32> = tuned.network.forward(x, t, &tokens).into_data().iter().collect();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lora_peer.py");
    let words = [base("p_sd1"), snapshot(&run), dir.path().to_path_buf()];
    println!("{}", python::run(&python, &script, words));
    let read = |name: &str| npy::decode(&std::fs::read(dir.path().join(name)).unwrap()).unwrap().1;
    let size = ours.iter().map(|value| value.abs()).fold(0.0, f32::max);
    for name in ["by_lora.npy", "by_snapshot.npy"] {
        let apart = largest_difference(&ours, &read(name));
        println!("{name}: {apart} of {size}");
        assert!(apart < 1e-5 * size.max(1.0), "{name}: {apart} of {size}");
    }
    assert!(largest_difference(&ours, &read("without.npy")) > 1e-2 * size);
}
