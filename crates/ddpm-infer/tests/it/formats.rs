//! The two formats of a snapshot's description: format 2, which is written, and format 1, which stays readable.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig};
use ddpm_files::npy;
use ddpm_model::network::NetworkConfig;
use ddpm_testing::support::{copy, fixture, read_json};
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";

fn infer(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

fn refusal(dir: &Path, words: &[&str], parts: &[&str]) {
    let output = infer(dir, words);
    let said = said(&output);
    assert!(!output.status.success() && !said.contains("panicked"), "{words:?}: {said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{words:?}: {parts:?} is not in: {said}");
}

/// A copy of the snapshot in one file.
fn of_format_1(dir: &Path) -> PathBuf {
    let root = fixture("format_1");
    let folder = dir.join("old");
    copy(&root.join(read_json(root.join("recorded.json"))["snapshot"].as_str().unwrap()), &folder);
    folder
}

/// A new snapshot of an untrained network.
fn snapshot(dir: &Path, data: &str, network: Value) -> PathBuf {
    let source: DataConfig = serde_json::from_value(json!({"kind": data})).unwrap();
    let info = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let network: NetworkConfig = serde_json::from_value(network).unwrap();
    let network = network.with_io(&info.shape, info.shape[0]);
    let config = SnapshotConfig::new(network.clone(), DiffusionConfig::default(), info, source, "test");
    let folder = dir.join(data);
    Snapshot::save(&network.init(&Device::default()), &config, &folder).unwrap();
    folder
}

fn points(dir: &Path) -> PathBuf {
    snapshot(dir, "swiss-roll", json!({"kind": "point-mlp", "hidden": [16]}))
}

fn digits(dir: &Path) -> PathBuf {
    let network = json!({"kind": "unet", "base_channels": 8, "multipliers": [1, 2], "blocks_per_level": 1,
        "norm_groups": 4, "attention_resolutions": [4], "classes": 10, "null_class": true});
    snapshot(dir, "digits", network)
}

/// The files of a folder, by their paths within it.
fn files(folder: &Path, within: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder.join(within)).unwrap().map(|entry| entry.unwrap());
    let path = |name: &str| if within.is_empty() { name.to_string() } else { format!("{within}/{name}") };
    entries
        .flat_map(|entry| {
            let path = path(entry.file_name().to_str().unwrap());
            if entry.path().is_dir() { files(folder, &path) } else { BTreeSet::from([path]) }
        })
        .collect()
}

/// The values of a safetensors file: its header is in the order of a hash map.
fn tensors(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..].to_vec()
}

#[test]
fn a_snapshot_in_one_file_is_sampled_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let folder = of_format_1(dir.path());
    let recorded = read_json(fixture("format_1").join("recorded.json"));
    let wanted: Vec<f64> = serde_json::from_value::<Vec<Vec<f64>>>(recorded["samples"].clone()).unwrap().concat();
    let [count, seed] = ["count", "seed"].map(|key| recorded[key].to_string());
    for (number, from) in [folder.clone(), folder.join(WEIGHTS)].iter().enumerate() {
        let (from, out) = (from.to_str().unwrap(), format!("out-{number}"));
        let words = ["sample", "--from", from, "--count", &count, "--seed", &seed, "--out", &out];
        let output = infer(dir.path(), &words);
        assert!(output.status.success() && !said(&output).contains("warning"), "{}", said(&output));
        let found = npy::decode(&std::fs::read(dir.path().join(out).join("samples.npy")).unwrap()).unwrap().1;
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!((f64::from(*found) - wanted).abs() <= recorded["tolerance"].as_f64().unwrap(), "{found} {wanted}");
        }
        let output = infer(dir.path(), &["inspect", from]);
        let printed = said(&output);
        assert!(output.status.success() && printed.contains("points-swiss-roll after step 1000"), "{printed}");
        assert!(printed.contains("hidden = [16, 16]"), "{printed}");
    }
}

#[test]
fn damage_to_a_snapshot_in_one_file_is_found_by_the_sum_in_its_header() {
    let dir = tempfile::tempdir().unwrap();
    let folder = of_format_1(dir.path());
    let file = folder.join(WEIGHTS);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for from in [folder.to_str().unwrap(), file.to_str().unwrap()] {
        refusal(dir.path(), &["inspect", from], &[WEIGHTS, "its CRC-32 is ", "expected ", "1 fault"]);
        let output = infer(dir.path(), &["sample", "--from", from, "--count", "1", "--out", "out", "--overwrite"]);
        let said = said(&output);
        assert!(output.status.success() && said.contains("warning: ") && said.contains("CRC-32"), "{said}");
    }
}

#[test]
fn a_snapshot_of_format_1_that_is_written_again_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = fixture("known_bits").join("old-run/snapshots/step-00000010");
    for (name, old) in [("points", of_format_1(dir.path())), ("pipeline", pipeline)] {
        let new = dir.path().join(name);
        let loaded = Snapshot::load(&old, &Device::default()).unwrap();
        loaded.save_again(&new).unwrap();
        assert_eq!(Snapshot::describe(&old).unwrap(), loaded.config);
        assert_eq!(Snapshot::describe(&new).unwrap(), loaded.config);
        assert_eq!(read_json(new.join("ddpm.json"))["format"], 2);
        for file in files(&old, "") {
            match file.ends_with(".safetensors") {
                true => assert!(tensors(&old.join(&file)) == tensors(&new.join(&file)), "{file}"),
                false if file == "ddpm.json" => assert_eq!(read_json(old.join(&file))["format"], 1),
                false => assert_eq!(read_json(old.join(&file)), read_json(new.join(&file)), "{file}"),
            }
        }
    }
}

#[test]
fn a_new_snapshot_names_its_family_and_has_the_sums_of_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    for folder in [digits(dir.path()), points(dir.path())] {
        let card = read_json(folder.join("ddpm.json"));
        assert_eq!((&card["format"], &card["family"]), (&json!(2), &json!("diffusion")));
        let sections: Vec<&String> = card["tables"].as_object().unwrap().keys().collect();
        assert_eq!(sections, ["diffusion", "model"]);
        let mut others = files(&folder, "");
        assert!(others.remove("ddpm.json"));
        assert_eq!(card["checksums"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), others);
    }
    assert_eq!(files(&dir.path().join("swiss-roll"), ""), ["ddpm.json", WEIGHTS].map(String::from).into());
}

#[test]
fn what_a_description_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = points(dir.path());
    let own = folder.join("ddpm.json");
    let whole = read_json(&own);
    let from = folder.to_str().unwrap();
    let refused = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let mut json = whole.clone();
        change(&mut json);
        std::fs::write(&own, json.to_string()).unwrap();
        let parts = [&["ddpm.json"][..], parts].concat();
        let said = Snapshot::describe(&folder).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} is not in: {said}");
    };
    let by_program = |parts: &[&str]| {
        refusal(dir.path(), &["sample", "--from", from, "--out", "out"], parts);
        refusal(dir.path(), &["inspect", from], parts);
    };
    for (format, found) in [(json!(3), "format 3"), (json!("1"), "format \"1\""), (Value::Null, "format null")] {
        refused(&|json| json["format"] = format.clone(), &[found, "formats 1 and 2"]);
        by_program(&["ddpm.json", found, "formats 1 and 2"]);
    }
    refused(&|json| json["family"] = "vae".into(), &["of family vae", "expected one of family diffusion"]);
    refused(&|json| json["family"] = "mine".into(), &["family mine is not in this program"]);
    by_program(&["family mine is not in this program"]);
    refused(&|json| drop(json["tables"].as_object_mut().unwrap().remove("model")), &["missing field `model`"]);
    by_program(&["ddpm.json", "missing field `model`"]);
    refused(&|json| json["tables"]["ema"] = json!({}), &["unknown field `ema`"]);
    refused(&|json| json["tables"]["model"]["kind"] = "mine".into(), &["there is no network `mine` in this program"]);
    refused(&|json| json["data"]["shape"] = json!([2, 0]), &["[2, 0]"]);

    // The file of weights alone is told from the snapshot that it is in.
    std::fs::write(&own, whole.to_string()).unwrap();
    let file = folder.join(WEIGHTS);
    let file = file.to_str().unwrap();
    refusal(dir.path(), &["sample", "--from", file, "--out", "out"], &[WEIGHTS, &format!("name its folder, {from}")]);
    let printed = said(&infer(&folder, &["inspect", WEIGHTS]));
    assert!(printed.contains("pass the snapshot that it is in, ."), "{printed}");
    std::fs::remove_file(&own).unwrap();
    refusal(dir.path(), &["sample", "--from", from, "--out", "out"], &[WEIGHTS, "there is no ddpm.json beside it"]);
}
