//! `ddpm-infer eval` as a person uses it: the axes of its table, the folders it reads, and what it warns of.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::{DataConfig, Split};
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig};
use ddpm_model::network::NetworkConfig;
use serde_json::Value;

fn infer(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap()
}

/// Adds waves to all weights: what an untrained network predicts is 0 whatever the class.
struct Shaken(f32);

impl ModuleMapper for Shaken {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let waves: Vec<f32> = (0..value.shape().num_elements()).map(|k| 0.2 * (k as f32 * self.0).sin()).collect();
        let waves = Tensor::from_data(TensorData::new(waves, value.shape()), &value.device());
        Param::from_mapped_value(id, value + waves, mapper)
    }
}

/// A snapshot of a network that was never trained.
fn snapshot(dir: &Path, name: &str, data: &Value, classes: usize) -> PathBuf {
    let source: DataConfig = serde_json::from_value(data.clone()).unwrap();
    let info = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let network = serde_json::json!({"kind": "unet", "base_channels": 8, "multipliers": [1, 2], "blocks_per_level": 1,
        "norm_groups": 4, "attention_resolutions": [4], "classes": classes, "null_class": classes > 0});
    let network: NetworkConfig = serde_json::from_value(network).unwrap();
    let network = network.with_io(&info.shape, info.shape[0]);
    let diffusion: DiffusionConfig = serde_json::from_str(r#"{"schedule": {"kind": "linear", "steps": 12}}"#).unwrap();
    let config = SnapshotConfig::new(network.clone(), diffusion, info, source, name);
    let folder = dir.join(name);
    let network = network.init(&Device::default()).map(&mut Shaken(name.len() as f32));
    Snapshot::save(&network, &config, &folder).unwrap();
    folder
}

fn digits(dir: &Path, name: &str) -> PathBuf {
    snapshot(dir, name, &serde_json::json!({"kind": "digits"}), 10)
}

/// What an evaluation by pixels printed, and its JSON.
fn eval(dir: &Path, words: &[&str]) -> (String, Value) {
    let start = ["eval", "--extractor", "pixels", "--subsets", "2", "--json", "j.json"];
    let output = infer(dir, &[&start[..], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read_to_string(dir.join("j.json")).unwrap();
    (String::from_utf8(output.stdout).unwrap(), serde_json::from_str(&json).unwrap())
}

fn refusal(dir: &Path, words: &[&str]) -> String {
    let output = infer(dir, &[&["eval"], words].concat());
    assert!(!output.status.success(), "{words:?} should have failed");
    String::from_utf8(output.stderr).unwrap()
}

fn first_value(json: &Value, set: usize) -> f64 {
    json["verdicts"][set]["measured"][0]["value"].as_f64().unwrap()
}

#[test]
fn guidance_is_an_axis_of_table_and_plot() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path(), "digits");
    let start = ["--from", from.to_str().unwrap(), "--count", "70"];
    let sweep = ["--samplers", "ddim,unipc", "--steps", "2,3", "--guidance", "0,1,2.5", "--eta", "0.5", "--out", "o"];
    let (said, json) = eval(dir.path(), &[&start[..], &sweep].concat());
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    assert!(said.starts_with("samples: digits step 0\nreference: digits test\nset (count) "), "{said}");
    for part in ["\nunipc 3, guidance 2.5 (70) ", "\nddim 2, guidance 0, eta 0.5 (70) ", "\nall numbers: o/table.csv\n"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let table = std::fs::read_to_string(dir.path().join("o/table.csv")).unwrap();
    assert!(table.contains(",ddim,3,0,2.5,eta=0.5\n") && table.contains(",unipc,2,0,0,\n"), "{table}");
    let plot = std::fs::read_to_string(dir.path().join("o/plot.svg")).unwrap();
    for part in ["guidance scale", ">ddim 2<", ">unipc 3<", ">2.5<"] {
        assert!(plot.contains(part), "{part}: {plot}");
    }
    // Sets 0 to 2 are ddim in 2 steps, 6 to 8 unipc in 2 steps.
    let how = &json["verdicts"][2]["how"];
    assert_eq!((how["guidance"].as_f64(), how["options"]["eta"].as_str()), (Some(2.5), Some("0.5")), "{json}");
    assert!(json["verdicts"][6]["how"]["options"].is_null() && json["verdicts"][12]["how"].is_null());
    assert_ne!(first_value(&json, 0), first_value(&json, 2));

    // Scale 1 is no guidance, and --sampler and --samplers are one option.
    let (said, plain) = eval(dir.path(), &[&start[..], &["--sampler", "unipc", "--steps", "2"]].concat());
    assert_eq!(first_value(&plain, 0), first_value(&json, 7));
    assert!(said.lines().all(|line| line.chars().count() <= 100) && said.contains("\nprecision, k = 3"), "{said}");

    // Another snapshot guides, but for scale 1.
    let weaker = digits(dir.path(), "weak");
    let guide = ["--sampler", "unipc", "--steps", "2", "--guidance", "1,2.5", "--guide", weaker.to_str().unwrap()];
    let (_, guided) = eval(dir.path(), &[&start[..], &guide].concat());
    assert_eq!(first_value(&guided, 0), first_value(&json, 7));
    assert_ne!(first_value(&guided, 1), first_value(&json, 8));
}

#[test]
fn a_class_is_compared_with_the_items_of_that_class() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path(), "digits");
    let from = from.to_str().unwrap();
    let (said, json) = eval(dir.path(), &["--from", from, "--count", "20", "--steps", "2", "--class", "3"]);
    assert_eq!(json["verdicts"][0]["against"], "digits test, class 3", "{said}");
    assert_eq!(json["verdicts"][0]["how"]["options"]["class"], "3");
    let data: DataConfig = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
    let test = ddpm_data::open(&data, Split::Test, 0).unwrap();
    let threes = (0..test.items.len()).filter(|k| test.items.get(*k).unwrap().label == Some(3)).count();
    let name = json["verdicts"][0]["measured"][0]["name"].as_str().unwrap();
    assert!(name.contains(&format!("20 against {threes}")), "{name}");
    // So few items say little of 64 values.
    assert!(json["verdicts"][0]["warnings"][0].as_str().unwrap().contains("64 features"), "{json}");

    let unlabelled = snapshot(dir.path(), "plain", &serde_json::json!({"kind": "digits"}), 0);
    let unlabelled = unlabelled.to_str().unwrap();
    for (words, parts) in [
        (&["--from", from, "--class", "eleven"] as &[&str], &["eleven", "there are 0, 1"] as &[&str]),
        (&["--from", unlabelled, "--class", "3"], &["--class 3", "without classes"]),
        (&["--from", unlabelled, "--guidance", "1,2"], &["guidance needs classes"]),
        (&["--from", from, "--samplers", "unipc,euler", "--eta", "0.5"], &["eta", "ddim"]),
        (&["--from", from, "--eta", "1.5"], &["1.5", "from 0 to 1"]),
        (&["--from", from, "--guidance-rescale", "0.5"], &["--guidance"]),
        (&["--files", from], &["--files requires --against (the reference set)"]),
        (&["--files", from, "--against", "digits", "--guidance", "2"], &["--files", "--guidance"]),
        (&["--from", from, "--split", "validation"], &["--split", "train, test"]),
    ] {
        let said = refusal(dir.path(), words);
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?}: {said}");
    }
}

#[test]
fn a_folder_of_samples_is_read_without_its_overviews() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path(), "digits");
    let words = ["sample", "--from", from.to_str().unwrap(), "--sampler", "ddim", "--steps", "2", "--count", "70"];
    let output = infer(dir.path(), &[&words[..], &["--out", "s"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path().join("s/grid.png").is_file() && dir.path().join("s/denoising.gif").is_file());
    let run_eval = || eval(dir.path(), &["--files", "s", "--against", "digits"]).1;
    let of_array = run_eval();
    assert_eq!(
        (&of_array["verdicts"][0]["of"], &of_array["verdicts"][0]["count"]),
        (&"s/samples.npy".into(), &70.into())
    );
    std::fs::remove_file(dir.path().join("s/samples.npy")).unwrap();
    let of_images = run_eval();
    assert_eq!((&of_images["verdicts"][0]["of"], &of_images["verdicts"][0]["count"]), (&"s".into(), &70.into()));
    assert_eq!(of_array["verdicts"][0]["measured"], of_images["verdicts"][0]["measured"]);
}

#[test]
fn a_classifier_that_is_often_wrong_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    // Noise of two names: nothing tells them apart.
    let mut state = 1_u32;
    for folder in ["train/cats", "train/dogs", "test/cats", "test/dogs"] {
        let folder = dir.path().join("noise").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        for image in 0..40 {
            let noise = image::GrayImage::from_fn(8, 8, |_, _| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                image::Luma([(state >> 24) as u8])
            });
            noise.save(folder.join(format!("{image}.png"))).unwrap();
        }
    }
    let path = dir.path().join("noise");
    let data =
        serde_json::json!({"kind": "images", "path": path, "size": 8, "channels": "grayscale", "labels": "folders"});
    let from = snapshot(dir.path(), "noisy", &data, 2);
    let words = ["eval", "--from", from.to_str().unwrap(), "--count", "70", "--steps", "2", "--json", "j.json"];
    let output = infer(dir.path(), &words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: the classifier is right in only") && said.contains("--extractor pixels"), "{said}");
    let json: Value = serde_json::from_slice(&std::fs::read(dir.path().join("j.json")).unwrap()).unwrap();
    let warning = json["verdicts"][0]["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("the classifier is right in only"), "{json}");
}

#[test]
fn the_help_has_the_terms_of_the_field_and_old_names_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let output = infer(dir.path(), &["eval", "--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    for part in ["pt_inception-2015-12-05-6726825d.pth", "safetensors", "--k <K>", "--max-items <N>", "Reference set"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(!help.contains("--neighbour") && !help.contains("--most"), "{help}");
    let from = digits(dir.path(), "digits");
    let old = ["--from", from.to_str().unwrap(), "--count", "20", "--steps", "2", "--neighbour", "2", "--most", "15"];
    let (said, json) = eval(dir.path(), &[&old[..], &["--split", "train"]].concat());
    assert!(said.contains("precision, k = 2"), "{said}");
    assert_eq!(json["verdicts"][0]["against"], "digits train");
}
