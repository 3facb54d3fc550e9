//! Folders of diffusers as a person meets them: opened and followed, written and read again, refused by name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig, Written};
use ddpm_files::npy;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_sampling::torch_noise::TorchGenerator;
use ddpm_testing::support;
use serde_json::{Value, json};
use support::{Safetensors, assert_close, cases, fixtures_dir, number, read_json, text, whole};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn infer(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap()
}

fn sample(dir: &Path, from: &Path, words: &[&str]) -> Vec<f32> {
    let start = ["sample", "--from", from.to_str().unwrap(), "--out", "o", "--overwrite"];
    let output = infer(dir, &[&start[..], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    npy::decode(&std::fs::read(dir.join("o/samples.npy")).unwrap()).unwrap().1
}

fn refusal(dir: &Path, from: &Path, parts: &[&str]) {
    let output = infer(dir, &["sample", "--from", from.to_str().unwrap(), "--count", "1", "--out", "o"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !said.contains("panicked"), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} is not in: {said}");
}

fn write_json(path: &Path, json: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, json.to_string()).unwrap();
}

/// The pipelines of the fixtures.
fn pipelines() -> Vec<(PathBuf, Value)> {
    let root = fixtures_dir().join("pipelines");
    let folders = cases(&read_json(root.join("index.json")), "pipelines")
        .iter()
        .map(|entry| root.join(text(entry, "folder")))
        .collect::<Vec<_>>();
    folders.into_iter().map(|folder| (folder.canonicalize().unwrap(), read_json(folder.join("cases.json")))).collect()
}

/// A copy of a pipeline with another scheduler, in either layout.
fn pipeline(dir: &Path, of: &Path, scheduler: &Path, flat: bool) -> PathBuf {
    let copy = dir.join("pipeline");
    let (network, beside) =
        if flat { (copy.clone(), copy.clone()) } else { (copy.join("unet"), copy.join("scheduler")) };
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir_all(&network).unwrap();
    std::fs::create_dir_all(&beside).unwrap();
    for file in ["config.json", WEIGHTS] {
        std::fs::copy(of.join("unet").join(file), network.join(file)).unwrap();
    }
    std::fs::copy(scheduler, beside.join("scheduler_config.json")).unwrap();
    copy
}

#[test]
fn a_pipeline_is_followed_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut classes: Vec<String> = Vec::new();
    for (folder, index) in pipelines() {
        let noise = Safetensors::open(folder.join(text(&index, "noise_file")));
        std::fs::write(dir.path().join("x_T.npy"), npy::encode(&noise.shape("x_T"), &noise.f32("x_T"))).unwrap();
        for case in cases(&index, "cases") {
            let class = text(case, "scheduler").to_string();
            // One of every class, and none whose noise on the way is of another seed.
            if !case["uses_step_noise"].as_array().unwrap().is_empty() || classes.contains(&class) {
                continue;
            }
            let files = folder.join("cases").join(text(case, "id"));
            let from =
                pipeline(dir.path(), &folder, &files.join("scheduler_config.json"), classes.len().is_multiple_of(2));
            let steps = whole(case, "num_inference_steps").to_string();
            let count = noise.shape("x_T")[0].to_string();
            let words = ["--init-noise", "x_T.npy", "--steps", &steps, "--count", &count, "--noise-compat", "torch"];
            let found: Vec<f64> = sample(dir.path(), &from, &words).into_iter().map(f64::from).collect();
            let wanted = Safetensors::open(files.join("trajectory.safetensors")).f64("trajectory");
            let wanted: Vec<f64> =
                wanted[wanted.len() - found.len()..].iter().map(|value| value.clamp(-1.0, 1.0)).collect();
            // Entries are held to [-1, 1] here, and a share of the largest is allowed.
            assert_close(&found, &wanted, 3.0 * number(case, "tol_over_scale_f32"), text(case, "id"));
            classes.push(class);
        }
    }
    assert!(classes.len() >= 7, "{classes:?}");
}

#[test]
fn a_seed_of_torch_is_its_noise() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, index) = pipelines().remove(0);
    let shape: Vec<usize> = index["shape"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap() as usize).collect();
    let shape = [&[3], &shape[1..]].concat();
    let noise = TorchGenerator::new(12).randn(shape.iter().product());
    std::fs::write(dir.path().join("x.npy"), npy::encode(&shape, &noise)).unwrap();
    let ddim = folder.join("cases/ddim_eta0_leading/scheduler_config.json");
    let from = pipeline(dir.path(), &folder, &ddim, false);
    let seeded = |more: &[&str]| {
        let words = ["--noise-compat", "torch", "--steps", "5", "--count", "3", "--seed", "12"];
        sample(dir.path(), &from, &[&words[..], more].concat())
    };
    let drawn = seeded(&[]);
    // Without --count, as many as the file has.
    let given = sample(dir.path(), &from, &["--noise-compat", "torch", "--steps", "5", "--init-noise", "x.npy"]);
    assert_eq!(drawn, given);
    assert_eq!(drawn, seeded(&["--batch-size", "2"]));
    assert_ne!(drawn, seeded(&["--eta", "0.5"]));
    let output = infer(dir.path(), &["sample", "--from", "pipeline", "--init-noise", "x.npy", "--count", "4"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("3 samples"));
    let words = ["sample", "--from", "pipeline", "--init-noise", "pipeline/unet/diffusion_pytorch_model.safetensors"];
    assert!(String::from_utf8_lossy(&infer(dir.path(), &words).stderr).contains("expected one"));
}

/// The network, the description and the folder of a snapshot.
fn snapshot(dir: &Path, network: &str, diffusion: &str) -> (Network, SnapshotConfig, Written) {
    let network: NetworkConfig = serde_json::from_str(network).unwrap();
    let data = if matches!(network, NetworkConfig::UNet(_)) { "digits" } else { "swiss-roll" };
    let source: DataConfig = serde_json::from_value(json!({"kind": data})).unwrap();
    let info = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let diffusion: DiffusionConfig = serde_json::from_str(diffusion).unwrap();
    let network = network.with_io(&info.shape, diffusion.variance.output_channels(info.shape[0]));
    network.validate(&info.shape).unwrap();
    let config = SnapshotConfig::new(network.clone(), diffusion, info, source, "test");
    let network = network.init(&Device::default());
    let written = Snapshot::save(&network, &config, dir).unwrap();
    (network, config, written)
}

const UNET: &str = r#"{"kind": "unet", "base_channels": 8, "multipliers": [1, 2], "blocks_per_level": 1,
    "norm_groups": 4, "attention_resolutions": [4], "classes": 0}"#;

#[test]
fn a_snapshot_is_a_pipeline_and_complete_for_us() {
    let dir = tempfile::tempdir().unwrap();
    let diffusion = r#"{"schedule": {"kind": "cosine", "steps": 12}, "prediction": "v", "variance": "learned",
        "loss": "rescaled-mse"}"#;
    let first = dir.path().join("first");
    let (_, config, written) = snapshot(&first, UNET, diffusion);
    assert_eq!(written, Written::Pipeline);
    let read = |file: &str| read_json(first.join(file));
    assert_eq!(read("model_index.json")["unet"], json!(["diffusers", "UNet2DModel"]));
    assert_eq!(read("model_index.json")["scheduler"], json!(["diffusers", "DDPMScheduler"]));
    let scheduler = read("scheduler/scheduler_config.json");
    for (key, value) in [
        ("beta_schedule", "squaredcos_cap_v2"),
        ("prediction_type", "v_prediction"),
        ("variance_type", "learned_range"),
    ] {
        assert_eq!(scheduler[key], value);
    }
    assert_eq!((&scheduler["num_train_timesteps"], &scheduler["clip_sample"]), (&json!(12), &json!(true)));
    let loaded = Snapshot::load(&first, &Device::default()).unwrap();
    assert_eq!(loaded.config, config);

    // Without our own file it is a pipeline like any other, and says the same of the network.
    let bytes = |dir: &Path| std::fs::read(dir.join("unet").join(WEIGHTS)).unwrap();
    std::fs::copy(first.join("ddpm.json"), dir.path().join("kept.json")).unwrap();
    std::fs::remove_file(first.join("ddpm.json")).unwrap();
    let foreign = Snapshot::load(&first, &Device::default()).unwrap();
    assert_eq!(foreign.config.diffusion.schedule, config.diffusion.schedule);
    let second = dir.path().join("second");
    assert_eq!(foreign.save_again(&second).unwrap(), Written::Pipeline);
    assert!(bytes(&first) == bytes(&second), "weights have changed on their way");
    let said = |dir: &Path, file: &str| read_json(dir.join(file));
    for file in ["unet/config.json", "scheduler/scheduler_config.json"] {
        assert_eq!(said(&first, file)["norm_eps"], said(&second, file)["norm_eps"], "{file}");
        assert_eq!(said(&first, file)["beta_schedule"], said(&second, file)["beta_schedule"], "{file}");
    }
}

#[test]
#[cfg(unix)]
fn whoever_may_read_a_new_file_may_read_weights() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("new"), "").unwrap();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode();
    let points = r#"{"kind": "point-mlp", "hidden": [16]}"#;
    for (network, file) in [(UNET, "unet/diffusion_pytorch_model.safetensors"), (points, "model.safetensors")] {
        snapshot(&dir.path().join("s"), network, "{}");
        assert_eq!(mode(dir.path().join("s").join(file)), mode(dir.path().join("new")), "{file}");
    }
}

#[test]
fn foreign_weights_come_out_as_they_came_in() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, _) in pipelines() {
        let [once, twice] = ["once", "twice"].map(|name| dir.path().join(name));
        Snapshot::load(&folder, &Device::default()).unwrap().save_again(&once).unwrap();
        Snapshot::load(&once, &Device::default()).unwrap().save_again(&twice).unwrap();
        let weights = |dir: &Path| dir.join("unet").join(WEIGHTS);
        let [theirs, ours] = [&folder, &once].map(|dir| Safetensors::open(weights(dir)));
        assert_eq!(theirs.names(), ours.names());
        for name in theirs.names() {
            assert_eq!((theirs.shape(&name), theirs.f64(&name)), (ours.shape(&name), ours.f64(&name)), "{name}");
        }
        assert!(std::fs::read(weights(&once)).unwrap() == std::fs::read(weights(&twice)).unwrap());
    }
}

#[test]
fn what_diffusers_has_no_word_for_says_so_and_is_complete_for_us() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let steps = r#""schedule": {"kind": "linear", "steps": 12}"#;
    let cases = [
        (r#"{"kind": "point-mlp", "hidden": [16]}"#, format!("{{{steps}}}"), "no U-Net"),
        (UNET, format!(r#"{{{steps}, "prediction": "posterior-mean"}}"#), "posterior mean"),
        (UNET, format!(r#"{{{steps}, "rescaled_times": true}}"#), "rescaled times"),
    ];
    for (network, diffusion, part) in cases {
        let (_, config, written) = snapshot(&at, network, &diffusion);
        let remark = written.remark().unwrap();
        assert!(remark.contains(part) && !remark.contains('\n'), "{remark}");
        assert!(at.join("model.safetensors").is_file() && !at.join("model_index.json").exists());
        let loaded = Snapshot::load(&at, &Device::default()).unwrap();
        assert_eq!((loaded.config, loaded.scheduler), (config, None));
    }
    let classes = UNET.replace(r#""classes": 0"#, r#""classes": 10, "null_class": true"#);
    let (_, config, written) = snapshot(&at, &classes, &format!("{{{steps}}}"));
    assert_eq!(written, Written::PipelineOfClasses);
    assert!(written.remark().unwrap().contains("class_labels"));
    assert_eq!(read_json(at.join("unet/config.json"))["num_class_embeds"], 11);
    assert_eq!(Snapshot::load(&at, &Device::default()).unwrap().config, config);
}

#[test]
fn what_is_broken_or_odd_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = pipelines().remove(0);
    let scheduler = folder.join("scheduler/scheduler_config.json");
    let fresh = || pipeline(dir.path(), &folder, &scheduler, false);
    let change = |file: &str, key: &str, value: Value| {
        let path = fresh().join(file);
        let mut json = read_json(&path);
        json[key] = value;
        write_json(&path, &json);
        dir.path().join("pipeline")
    };
    let config = "unet/config.json";
    refusal(dir.path(), &change(config, "out_channels", json!(7)), &[config, "out_channels"]);
    refusal(dir.path(), &change(config, "act_fn", json!("mish")), &[config, "act_fn", "mish", "silu"]);
    refusal(dir.path(), &change(config, "layers_per_block", json!(2)), &[WEIGHTS, "is missing"]);
    refusal(dir.path(), &change(config, "add_attention", json!(false)), &[WEIGHTS, "not part of the network"]);
    let file = "scheduler/scheduler_config.json";
    refusal(dir.path(), &change(file, "_class_name", json!("VQDiffusionScheduler")), &[file, "VQDiffusionScheduler"]);
    refusal(dir.path(), &change(file, "beta_end", json!("much")), &[file, "beta_end", "much", "a number"]);
    refusal(dir.path(), &change(file, "clip_sample_range", json!(-1)), &[file, "clip_sample_range", "-1"]);
    // The index names the class, and other parts.
    let with_index = |index: Value| {
        write_json(&fresh().join("model_index.json"), &index);
        dir.path().join("pipeline")
    };
    let unet = json!(["diffusers", "UNet2DModel"]);
    let latent = with_index(json!({"unet": unet, "vqvae": ["diffusers", "VQModel"]}));
    refusal(dir.path(), &latent, &["model_index.json", "vqvae", "VQModel"]);
    let other = with_index(json!({"unet": ["diffusers", "UNet1DModel"]}));
    refusal(dir.path(), &other, &["UNet1DModel", "UNet2DModel"]);
    let named = with_index(json!({"unet": unet, "scheduler": ["diffusers", "DDIMScheduler"]}));
    assert_eq!(Snapshot::load(&named, &Device::default()).unwrap().scheduler.unwrap().class(), "DDIMScheduler");

    for broken in ["{", "[1]", "\"text\"", ""] {
        for file in [config, file] {
            let path = fresh().join(file);
            std::fs::write(&path, broken).unwrap();
            refusal(dir.path(), &dir.path().join("pipeline"), &[file, "JSON"]);
        }
    }
    std::fs::remove_file(fresh().join("scheduler/scheduler_config.json")).unwrap();
    refusal(dir.path(), &dir.path().join("pipeline"), &["scheduler_config.json is missing"]);
    std::fs::remove_file(fresh().join("unet").join(WEIGHTS)).unwrap();
    refusal(dir.path(), &dir.path().join("pipeline"), &[WEIGHTS]);
    std::fs::write(fresh().join("unet").join(WEIGHTS), u64::MAX.to_le_bytes()).unwrap();
    refusal(dir.path(), &dir.path().join("pipeline"), &[WEIGHTS, "not a safetensors file"]);
}

#[test]
fn inspect_prints_the_sections_of_an_experiment_with_that_network() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sections {
        model: NetworkConfig,
        diffusion: DiffusionConfig,
    }
    for (folder, _) in pipelines() {
        let snapshot = Snapshot::load(&folder, &Device::default()).unwrap();
        let path = folder.to_str().unwrap();
        let output = infer(&folder, &["inspect", path]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        let sections: Sections = toml::from_str(&printed[printed.find("[model]").unwrap()..]).unwrap();
        assert_eq!(sections.model, snapshot.config.network);
        assert_eq!(sections.diffusion, snapshot.config.diffusion);

        let output = infer(&folder, &["inspect", path, "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["wrong"], json!([]));
        assert!(printed.ends_with(&format!("{}\n", text(&said, "experiment"))), "{said}");
    }
    // Of a path in continuous time nothing is said that is about counted steps.
    let dir = tempfile::tempdir().unwrap();
    let points = r#"{"kind": "point-mlp", "hidden": [16]}"#;
    let edm = r#"{"continuous": {"path": {"kind": "ve"}, "prediction": "edm", "sigma_data": 2.0}}"#;
    let (_, config, _) = snapshot(dir.path(), points, edm);
    let output = infer(dir.path(), &["inspect", "."]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = &printed[printed.find("[model]").unwrap()..];
    let sections: Sections = toml::from_str(printed).unwrap();
    assert_eq!((sections.model, sections.diffusion), (config.network, config.diffusion));
    assert!(!printed.contains("schedule") && !printed.contains("\"eps\""), "{printed}");
}
