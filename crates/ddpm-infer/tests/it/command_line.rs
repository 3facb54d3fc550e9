//! `ddpm-infer` as a person uses it: samples come out, mistakes are answered with one clear message.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_families::snapshot::{DiffusionConfig, Sampling, Snapshot, SnapshotConfig};
use ddpm_model::network::NetworkConfig;
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::samplers::Sampler;
use ddpm_testing::support::fixture;

fn infer(dir: &Path, words: &[&str]) -> Output {
    let cache = dir.join(".cache");
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer"))
        .current_dir(dir)
        .env("DDPM_CACHE", cache)
        .args(words)
        .output()
        .unwrap()
}

fn refusal(dir: &Path, words: &[&str]) -> String {
    let output = infer(dir, words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{words:?} should have failed: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(output.stdout.is_empty());
    said
}

/// A snapshot of an untrained network.
fn snapshot(dir: &Path, data: &str, network: &str) -> PathBuf {
    snapshot_with(dir, data, network, |config| config)
}

fn snapshot_with(
    dir: &Path,
    data: &str,
    network: &str,
    change: impl FnOnce(SnapshotConfig) -> SnapshotConfig,
) -> PathBuf {
    let source: DataConfig = serde_json::from_str(data).unwrap();
    let info = ddpm_data::open(&source, Split::Train, 0).unwrap().info;
    let network: NetworkConfig = serde_json::from_str(network).unwrap();
    let network = network.with_io(&info.shape, info.shape[0]);
    network.validate(&info.shape).unwrap();
    let diffusion: DiffusionConfig = serde_json::from_str(r#"{"schedule": {"kind": "linear", "steps": 12}}"#).unwrap();
    let config = change(SnapshotConfig::new(network.clone(), diffusion, info, source, "test"));
    Snapshot::save(&network.init(&Device::default()), &config, dir).unwrap();
    dir.to_path_buf()
}

const UNET: &str = r#"{"kind": "unet", "base_channels": 8, "multipliers": [1, 2], "blocks_per_level": 1,
    "norm_groups": 4, "attention_resolutions": [4], "classes": 10, "null_class": true}"#;

fn digits(dir: &Path) -> PathBuf {
    snapshot(&dir.join("digits"), r#"{"kind": "digits"}"#, UNET)
}

fn points(dir: &Path) -> PathBuf {
    snapshot(&dir.join("points"), r#"{"kind": "swiss-roll"}"#, r#"{"kind": "point-mlp", "hidden": [16]}"#)
}

/// Shape and values of an NPY file.
fn npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(end % 64, 0, "the values are aligned");
    let header = String::from_utf8(bytes[10..end].to_vec()).unwrap();
    let shape = header.split("'shape': ").nth(1).unwrap().split(')').next().unwrap().to_string() + ")";
    (shape, bytes[end..].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect())
}

#[test]
fn images_come_out_the_same_at_any_batch_size() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let sample = |out: &str, batch: &str, count: &str, sampler: &str| {
        let words = [
            "sample",
            "--from",
            from.to_str().unwrap(),
            "--count",
            count,
            "--seed",
            "3",
            "--sampler",
            sampler,
            "--steps",
            "4",
        ];
        let output = infer(dir.path(), &[&words[..], &["--batch-size", batch, "--out", out, "--overwrite"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some(out));
        npy(&dir.path().join(out).join("samples.npy"))
    };
    for sampler in ["ddpm", "ddim"] {
        let (shape, together) = sample("a", "7", "7", sampler);
        assert_eq!(shape, "(7, 1, 8, 8)");
        assert!(together.iter().all(|value| (-1.0..=1.0).contains(value)));
        let (_, apart) = sample("b", "3", "7", sampler);
        assert_eq!(together, apart);
        let (_, fewer) = sample("c", "2", "2", sampler);
        assert_eq!(together[..2 * 64], fewer);
    }
    for name in ["grid.png", "0000.png", "0006.png", "denoising.gif", "denoising.png"] {
        assert!(dir.path().join("a").join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn shards_are_the_samples_of_one_piece_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let start = ["sample", "--from", from.to_str().unwrap(), "--count", "11", "--seed", "5", "--steps", "4"];
    let sample = |out: &str, words: &[&str]| {
        let output = infer(dir.path(), &[&start[..], &["--out", out], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    sample("whole", &[]);
    // The second of four is lost, and the first was made twice, in another division.
    for shard in ["3/4", "1/4", "1/5", "4/4"] {
        sample("shared", &["--shard", shard, "--batch-size", "2"]);
    }
    assert!(!dir.path().join("shared/samples.npy").exists());
    sample("shared", &[]);
    let read = |folder: &str, name: &str| std::fs::read(dir.path().join(folder).join(name)).unwrap();
    for name in ["samples.npy", "grid.png", "0000.png", "0010.png"] {
        assert_eq!(read("shared", name), read("whole", name), "{name}");
    }

    let other = ["sample", "--from", from.to_str().unwrap(), "--count", "11", "--seed", "6", "--steps", "4"];
    let said = refusal(dir.path(), &[&other[..], &["--out", "shared", "--shard", "2/4"]].concat());
    assert!(said.contains("another job") && said.contains("seed 5") && said.contains("seed 6"), "{said}");
    let said = refusal(dir.path(), &[&start[..], &["--shard", "2/4"]].concat());
    assert!(said.contains("--out"), "{said}");
}

#[test]
fn devices_are_listed_with_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let listed = String::from_utf8(infer(dir.path(), &["devices"]).stdout).unwrap();
    for name in ddpm_device::device::compiled_in() {
        assert!(listed.lines().any(|line| line.starts_with(name) && !line.contains("--features")), "{listed}");
    }
    assert!(listed.lines().filter(|line| line.contains("not compiled in")).all(|line| line.contains("--features")));
    assert!(listed.contains("flex"), "{listed}");
}

#[test]
fn points_come_out_with_a_table_and_a_plot() {
    let dir = tempfile::tempdir().unwrap();
    let from = points(dir.path());
    let output = infer(dir.path(), &["sample", "--from", from.to_str().unwrap(), "--count", "9", "--out", "o"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (shape, values) = npy(&dir.path().join("o/samples.npy"));
    assert_eq!((shape.as_str(), values.len()), ("(9, 2)", 18));
    let table = std::fs::read_to_string(dir.path().join("o/samples.csv")).unwrap();
    assert_eq!(table.lines().count(), 10);
    assert!(dir.path().join("o/scatter.png").is_file());
}

#[test]
fn every_sampler_and_all_kinds_of_levels_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let from = points(dir.path());
    let help = String::from_utf8(infer(dir.path(), &["sample", "--help"]).stdout).unwrap();
    // In turn, because every pair would take long; samplers do not know where their levels come from.
    let levels = ["trailing", "karras", "beta", "0.3,0.2,0.1,0.05"].into_iter().cycle();
    for (sampler, levels) in Sampler::ALL.iter().zip(levels) {
        assert!(help.contains(sampler.name()) && help.contains(sampler.description()), "{help}");
        let from = from.to_str().unwrap();
        let words = ["sample", "--from", from, "--count", "3", "--out", "o", "--levels", levels, "--steps", "4"];
        let output = infer(dir.path(), &[&words[..], &["--sampler", sampler.name(), "--overwrite"]].concat());
        assert!(output.status.success(), "{sampler:?} {levels}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(LevelSchedule::NAMES.iter().all(|name| help.contains(name)), "{help}");
}

#[test]
fn classes_are_chosen_by_name_and_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let words = ["sample", "--from", from.to_str().unwrap(), "--count", "2", "--steps", "2"];
    assert!(infer(dir.path(), &[&words[..], &["--class", "7", "--out", "o"]].concat()).status.success());
    let said = refusal(dir.path(), &[&words[..], &["--class", "12"]].concat());
    assert!(said.contains("12") && said.contains("0, 1, 2"), "{said}");
    let unconditional = points(dir.path());
    let said = refusal(dir.path(), &["sample", "--from", unconditional.to_str().unwrap(), "--class", "1"]);
    assert!(said.contains("without classes"), "{said}");
}

#[test]
fn mistakes_are_answered_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let from = from.to_str().unwrap();
    let points = points(dir.path());
    let points = points.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 23] = [
        (&["sample"], &["runs", "cargo run -p ddpm-train"]),
        (&["sample", "--run", "yesterday"], &["yesterday"]),
        (&["sample", "--from", "nowhere"], &["nowhere", "not a snapshot"]),
        (&["sample", "--from", from, "--sampler", "magic"], &["magic", "ddpm", "ddim"]),
        (&["sample", "--from", from, "--steps", "13"], &["13", "12"]),
        (&["sample", "--from", from, "--device", "toaster"], &["toaster", "flex"]),
        (&["sample", "--from", from, "--levels", "magic"], &["magic", "karras", "linspace"]),
        (&["sample", "--from", from, "--levels", "0.1,0.2"], &["0.2 comes after 0.1", "falling"]),
        (&["sample", "--from", from, "--levels", "karras", "--sigma-max", "1e6"], &["1000000", "trained"]),
        (&["sample", "--from", from, "--sigma-min", "1"], &["linspace", "karras"]),
        (&["sample", "--from", from, "--sampler", "euler", "--eta", "1"], &["euler", "eta", "ddim"]),
        (&["sample", "--from", from, "--sampler", "lms", "--s-churn", "1"], &["lms", "churn", "heun"]),
        (&["sample", "--from", from, "--sampler", "heun", "--s-churn=-1"], &["-1"]),
        (&["sample", "--from", from, "--sampler", "heun", "--s-noise", "1"], &["--s-churn"]),
        (
            &["sample", "--from", from, "--sampler", "heun:speed=1"],
            &["`speed` of heun", "churn (a number from 0 up), min (a number"],
        ),
        (&["sample", "--from", from, "--guidance=-1"], &["-1", "from 0 up"]),
        (&["sample", "--from", from, "--guidance", "2", "--guidance-interval", "3,1"], &["from sigma 3 to 1"]),
        (&["sample", "--from", from, "--guidance", "2", "--guidance-interval", "3"], &["`3`", "LO,HI"]),
        (&["sample", "--from", from, "--guidance-rescale", "0.5"], &["--guidance"]),
        (&["sample", "--from", from, "--dynamic-threshold", "2"], &["percentile: 2", "at most 1"]),
        (&["sample", "--from", points, "--guidance", "2"], &["classes", "without"]),
        (&["sample", "--from", points, "--dynamic-threshold", "0.9"], &["no bounds"]),
        (&["sample", "--from", from, "--guidance", "2", "--guide", points], &["[2]", "[1, 8, 8]"]),
    ];
    for (words, parts) in cases {
        let said = refusal(dir.path(), words);
        for part in parts {
            assert!(said.contains(part), "{words:?}: `{part}` is missing: {said}");
        }
    }
}

#[test]
fn options_behind_the_name_of_a_sampler_are_those_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let from = points(dir.path());
    let sample = |words: &[&str]| {
        let start = ["sample", "--from", from.to_str().unwrap(), "--steps", "4", "--count", "3", "--out", "o"];
        let output = infer(dir.path(), &[&start[..], &["--overwrite"], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        npy(&dir.path().join("o/samples.npy"))
    };
    let churned = sample(&["--sampler", "heun:churn=4:noise=1.1"]);
    assert_eq!(churned, sample(&["--sampler", "heun", "--s-churn", "4", "--s-noise", "1.1"]));
    assert_ne!(churned, sample(&["--sampler", "heun"]));
}

#[test]
fn samples_are_guided_by_the_null_class_or_by_another_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let from = from.to_str().unwrap();
    let words =
        ["sample", "--from", from, "--count", "2", "--steps", "3", "--guidance", "3", "--out", "o", "--overwrite"];
    let held: &[&str] = &["--guidance-interval", "0.05,1", "--guidance-rescale", "0.7", "--dynamic-threshold", "0.99"];
    for more in [held, &["--guide", from]] {
        let output = infer(dir.path(), &[&words[..], more].concat());
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn tasks_start_from_pictures_and_leave_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let sample = |words: &[&str]| {
        let start = ["sample", "--from", from.to_str().unwrap(), "--steps", "6", "--out", "o"];
        let _ = std::fs::remove_dir_all(dir.path().join("o"));
        let output = infer(dir.path(), &[&start[..], words].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        (npy(&dir.path().join("o/samples.npy")), said)
    };
    let size = |name: &str| image::image_dimensions(dir.path().join("o").join(name)).unwrap();
    // Tiles of 64 pixels with 2 between and around.
    let tiles = |columns: u32, rows: u32| (66 * columns + 2, 66 * rows + 2);

    for (words, shape, columns, rows) in [
        (&["--class-grid", "3"][..], "(30, 1, 8, 8)", 3, 10),
        (&["--interpolate", "4"], "(32, 1, 8, 8)", 4, 8),
        (&["--interpolate", "4", "--count", "10", "--sampler", "dpmpp-2m"], "(10, 1, 8, 8)", 4, 3),
    ] {
        assert_eq!(sample(words).0.0, shape, "{words:?}");
        assert_eq!(size("grid.png"), tiles(columns, rows), "{words:?}");
    }
    for (words, count, columns, asked) in [
        (&["--from-image", "data:0..3", "--strength", "0.5"][..], 3, 2, 3),
        (&["--from-image", "data:7", "--count", "5", "--batch-size", "2", "--sampler", "heun"], 5, 4, 21),
        (&["--inpaint", "data:0..2", "--mask", "center", "--class", "4", "--guidance", "2"], 2, 3, 6),
        (&["--inpaint", "data:0..2", "--mask", "top", "--repaint", "--jump", "2", "--resamples", "3"], 2, 3, 18),
        (&["--invert", "data:0..3"], 3, 2, 12),
    ] {
        let ((shape, _), said) = sample(words);
        assert_eq!(shape, format!("({count}, 1, 8, 8)"), "{words:?}");
        assert_eq!(size("comparison.png").0, tiles(columns, 1).0, "{words:?}");
        assert!(said.contains(&format!("{asked} network evaluations")), "{words:?}: {said}");
    }
    assert_eq!(npy(&dir.path().join("o/noise.npy")).0, "(3, 1, 8, 8)");
    assert_eq!(std::fs::read_to_string(dir.path().join("o/errors.csv")).unwrap().lines().count(), 4);

    // A picture of one's own, white on the left, which is made anew; the right half is kept to the byte.
    let picture = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([if x < 4 { 255 } else { (y * 30) as u8 }]));
    picture.save(dir.path().join("mine.png")).unwrap();
    for mask in ["left", "mine.png"] {
        let ((_, values), _) = sample(&["--inpaint", "mine.png", "--mask", mask, "--count", "3", "--batch-size", "2"]);
        let byte = |value: f32| ((value + 1.0) * 127.5).round() as u32;
        for (i, value) in values.iter().enumerate().filter(|(i, _)| i % 8 >= 4) {
            let kept = mask == "left" || i / 8 % 8 * 30 < 128;
            assert!(!kept || byte(*value) == (i / 8 % 8 * 30) as u32, "{mask} {i}: {value}");
        }
    }
}

#[test]
fn impossible_tasks_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let from = from.to_str().unwrap();
    let points = points(dir.path());
    let points = points.to_str().unwrap();
    image::RgbImage::from_pixel(8, 8, image::Rgb([9, 0, 0])).save(dir.path().join("red.png")).unwrap();
    image::GrayImage::new(5, 9).save(dir.path().join("odd.png")).unwrap();
    let cases: [(&[&str], &[&str]); 17] = [
        (&[points, "--from-image", "red.png"], &["swiss-roll", "[2]", "not on images"]),
        (&[points, "--class-grid", "2"], &["without classes"]),
        (&[from, "--from-image", "none.png"], &["none.png", "not found"]),
        (&[from, "--from-image", "odd.png"], &["odd.png", "5x9", "8x8"]),
        (&[from, "--from-image", "red.png"], &["red.png", "colours"]),
        (&[from, "--from-image", "data:400"], &["360", "digits"]),
        (&[from, "--from-image", "data:0", "--strength", "2"], &["strength is 2"]),
        (&[from, "--from-image", "data:0", "--sampler", "langevin"], &["langevin", "random"]),
        (&[from, "--inpaint", "data:0"], &["--mask"]),
        (&[from, "--repaint"], &["--inpaint"]),
        (&[from, "--inpaint", "data:0", "--mask", "middle"], &["middle", "center"]),
        (&[from, "--inpaint", "data:0", "--mask", "odd.png"], &["odd.png", "5x9"]),
        (&[from, "--inpaint", "data:0", "--mask", "odd.png", "--fit"], &["keeps 64 of 64"]),
        (&[from, "--invert", "data:0", "--sampler", "euler"], &["ddim only", "euler"]),
        (&[from, "--interpolate", "3", "--sampler", "ddpm"], &["deterministic sampler", "ddpm"]),
        (&[from, "--interpolate", "3", "--invert", "data:0"], &["--interpolate", "--invert"]),
        (&[from, "--fit"], &["--fit", "--from-image"]),
    ];
    for (words, parts) in cases {
        let said = refusal(dir.path(), &[&["sample", "--steps", "4", "--out", "o", "--from"], words].concat());
        for part in parts {
            assert!(said.contains(part), "{words:?}: `{part}` is missing: {said}");
        }
        assert!(!dir.path().join("o").exists(), "{words:?} leaves nothing");
    }
    for (pictures, words) in [("odd.png", &["--fit"][..]), ("red.png", &["--fit"])] {
        let out = format!("of-{pictures}");
        let words =
            [&["sample", "--steps", "4", "--out", &out, "--from", from, "--from-image", pictures], words].concat();
        assert!(infer(dir.path(), &words).status.success());
    }
}

#[test]
fn files_that_are_no_snapshots_are_refused_before_memory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(fixture("format_1").join("snapshot/model.safetensors")).unwrap();
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut torn = good.clone();
    torn.truncate(good.len() / 2);
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut foreign = good.clone();
    foreign[8..8 + header].copy_from_slice(&vec![b' '; header]);
    foreign[8..10].copy_from_slice(b"{}");
    for (name, bytes) in
        [("empty", vec![]), ("huge", huge), ("torn", torn), ("foreign", foreign), ("text", b"hello".to_vec())]
    {
        let path = dir.path().join(name).with_extension("safetensors");
        std::fs::write(&path, bytes).unwrap();
        let said = refusal(dir.path(), &["sample", "--from", path.to_str().unwrap()]);
        assert!(said.contains(name), "{name}: {said}");
    }
    std::fs::create_dir(dir.path().join("bare")).unwrap();
    let said = refusal(dir.path(), &["sample", "--from", "bare"]);
    assert!(said.contains("bare") && said.contains("model.safetensors"), "{said}");
}

#[test]
fn likelihoods_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (images, points) = (digits(dir.path()), points(dir.path()));
    let measure = |from: &Path, words: &[&str]| {
        let start = ["likelihood", "--from", from.to_str().unwrap(), "--count", "3"];
        let output = infer(dir.path(), &[&start[..], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_string()
    };
    let number = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();

    let bound = measure(&images, &[]);
    assert!(bound.contains("bits/dim = L_T ") && bound.contains("L_0 "), "{bound}");
    let numbers: Vec<f64> = bound.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!((numbers[0] - numbers[1..].iter().sum::<f64>()).abs() < 2e-4, "{bound}");
    let apart = measure(&images, &["--batch-size", "2"]);
    assert!((number(&apart) - number(&bound)).abs() < 1e-3, "{apart} {bound}");
    assert_ne!(measure(&images, &["--split", "train"]), bound);

    let loose = ["--method", "ode", "--rtol", "1e-2", "--atol", "1e-2"];
    for probe in [&["--probe", "gaussian"][..], &["--probes", "2"]] {
        let ode = measure(&images, &[&loose[..], probe].concat());
        assert!(ode.ends_with(" bits/dim") && number(&ode).is_finite(), "{ode}");
    }
    let ode = measure(&points, &[]);
    assert!(ode.ends_with(" nats/dim") && number(&ode).is_finite(), "{ode}");

    let refused = |words: &[&str]| refusal(dir.path(), &[&["likelihood", "--from"], words].concat());
    let said = refused(&[points.to_str().unwrap(), "--method", "bound"]);
    assert!(said.contains("8-bit") && said.contains("ode"), "{said}");
    assert!(refused(&[points.to_str().unwrap(), "--atol", "0"]).contains("--atol"));
    assert!(refused(&[points.to_str().unwrap(), "--count", "0"]).contains("--count"));
    assert!(refused(&["nowhere"]).contains("nowhere"));
}

#[test]
fn pictures_are_packed_verified_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("cats")).unwrap();
    for k in 0..10 {
        image::RgbImage::new(6, 7 + k).save(dir.path().join(format!("cats/{k}.png"))).unwrap();
    }
    let text = |output: Output| String::from_utf8(output.stdout).unwrap();
    let built = infer(dir.path(), &["data", "build", "cats", "--size", "8", "--out", "cats.ddpm"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(text(built), "cats.ddpm\n");
    assert!(text(infer(dir.path(), &["data", "verify", "cats.ddpm"])).contains("intact; 9 images of shape [3, 8, 8]"));
    assert!(text(infer(dir.path(), &["data", "cats.ddpm"])).contains("9 to train on, 1 held out"));

    let mut bytes = std::fs::read(dir.path().join("cats.ddpm")).unwrap();
    bytes[100] ^= 1;
    std::fs::write(dir.path().join("cats.ddpm"), &bytes).unwrap();
    assert!(refusal(dir.path(), &["data", "verify", "cats.ddpm"]).contains("cats.ddpm: damaged"));
    image::RgbImage::new(9, 9).save(dir.path().join("cats/new.png")).unwrap();
    assert!(refusal(dir.path(), &["data", "cats.ddpm"]).contains("has changed since"));
    assert!(refusal(dir.path(), &["data", "build", "dogs", "--out", "dogs.ddpm"]).contains("dogs: not found"));
    assert!(refusal(dir.path(), &["data", "build", "cats", "--size", "0", "--out", "x.ddpm"]).contains("--size: 0"));
}

#[test]
fn data_are_listed_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let list = String::from_utf8(infer(dir.path(), &["data"]).stdout).unwrap();
    assert!(list.contains("digits") && list.contains("swiss-roll") && list.contains("cifar10"), "{list}");
    let output = infer(dir.path(), &["data", "digits", "--out", "look"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1437") && said.contains("360"), "{said}");
    assert!(said.contains("rows of data.png, from the top: 0, 1, 2,"), "{said}");
    assert!(dir.path().join("look/data.png").is_file());
    assert!(refusal(dir.path(), &["data", "nowhere"]).contains("nowhere"));
    assert!(refusal(dir.path(), &["data", "no\nwhere"]).contains("no\\nwhere"));
}

/// The picture of a folder is of all of it, or has a row for each class.
#[test]
fn a_look_at_pictures_shows_them_all_over_and_class_by_class() {
    let dir = tempfile::tempdir().unwrap();
    // Grey from dark to bright in the order of their names, class after class; of the last class there are few.
    for k in 0..238_u8 {
        let class = ["a", "b", "c"][usize::from(k / 115)];
        std::fs::create_dir_all(dir.path().join("pics").join(class)).unwrap();
        let picture = image::GrayImage::from_pixel(8, 8, image::Luma([k]));
        picture.save(dir.path().join(format!("pics/{class}/{k:03}.png"))).unwrap();
    }
    std::fs::write(dir.path().join("pics/readme.txt"), "no picture").unwrap();
    std::fs::write(dir.path().join("pics/b/cut.png"), "no picture").unwrap();
    // The middle of a tile of 8x8 pixels, which is drawn eight times as large with a border of two.
    let tile = |look: &str, row: u32, column: u32| {
        let picture = image::open(dir.path().join(look).join("data.png")).unwrap().into_luma8();
        picture.get_pixel(2 + 66 * column + 32, 2 + 66 * row + 32).0[0]
    };
    let look = |words: &[&str]| {
        let output = infer(dir.path(), &[&["data", "pics", "--size", "8"], words].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = look(&["--out", "all"]);
    assert!(
        said.contains("1 file is not an image and is ignored: readme.txt") && said.contains("cut.png: not an image")
    );
    assert!(tile("all", 0, 0) < 10 && tile("all", 9, 9) > 220 && (100..140).contains(&tile("all", 5, 0)));

    for words in [&["--labels", "folders", "--out", "rows"][..], &["--classes", "--out", "rows"]] {
        let said = look(words);
        assert!(said.contains("3 classes: a, b, c\n"), "{said}");
        assert!(
            said.contains("rows of data.png, from the top: a, b, c\n") && said.ends_with("rows/data.png\n"),
            "{said}"
        );
        for row in 0..3 {
            let tiles = [0, 4, 9].map(|column| tile("rows", row, column));
            let class: std::ops::Range<u8> = [0..115, 115..230, 230..238][row as usize].clone();
            assert!(class.contains(&tiles[0]) && class.contains(&tiles[1]), "{row}: {tiles:?}");
            // All over the class, and white where there is no tenth picture.
            assert!(if row == 2 { tiles[2] == 255 } else { tiles[2] > tiles[0] + 80 }, "{row}: {tiles:?}");
        }
    }
    assert!(refusal(dir.path(), &["data", "pics", "--labels", "dirs"]).contains("folders"));
}

/// Some of the test digits as files of colour.
fn picture_files(dir: &Path, name: &str, range: std::ops::Range<usize>) -> PathBuf {
    let digits: DataConfig = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
    let data = ddpm_data::open(&digits, Split::Test, 0).unwrap();
    let folder = dir.join(name);
    std::fs::create_dir(&folder).unwrap();
    for k in range {
        let values = data.items.get(k).unwrap().values;
        let byte = |value: f32| ((value + 1.0) * 127.5).round() as u8;
        let picture = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([byte(values[(y * 8 + x) as usize]); 3]));
        picture.save(folder.join(format!("{k:04}.png"))).unwrap();
    }
    folder
}

#[test]
fn pictures_are_judged_with_floor_and_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, range| picture_files(dir.path(), name, range).to_str().unwrap().to_string();
    let (a, b) = (path("a", 0..150), path("b", 150..300));
    let judge = |words: &[&str]| {
        let start = ["eval", "--files", &a, "--extractor", "pixels", "--subsets", "5", "--json", "j.json"];
        let output = infer(dir.path(), &[&start[..], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let json = std::fs::read_to_string(dir.path().join("j.json")).unwrap_or_default();
        (String::from_utf8(output.stdout).unwrap(), serde_json::from_str::<serde_json::Value>(&json).ok())
    };
    let (said, json) = judge(&["--against", &b, "--out", "o", "--statistics", "colour.npz"]);
    let json = json.unwrap();
    let value = |set: usize| json["verdicts"][set]["measured"][0]["value"].as_f64().unwrap();
    // Of one distribution; the floor is of half as many, so it lies higher; the Gaussian knows the data themselves.
    assert!(value(0) > 0.0 && value(0) < value(1), "{said}");
    assert_eq!(json["verdicts"][2]["of"], "Gaussian of the pixels");
    let name = json["verdicts"][0]["measured"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("FD (pixels, 3x8x8 not resized; 150 against 150)"), "{name}");
    assert!(!said.contains("FID") && said.lines().last().unwrap().starts_with(name), "{said}");
    assert!(std::fs::read_to_string(dir.path().join("o/table.csv")).unwrap().contains("precision, k = 3"));

    // Grey files are grey data; these are all of the reference.
    let (said, json) = judge(&["--against", "digits", "--statistics", "a.npz"]);
    let json = json.unwrap();
    assert_eq!(json["verdicts"][0]["against"], "digits test");
    let precision = json["verdicts"][0]["measured"][2]["value"].as_f64();
    assert_eq!(precision, Some(1.0), "{said}");

    // The statistics are those of the features.
    let output = infer(dir.path(), &["eval", "--files", "a.npz", "--against", "a.npz"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().last().unwrap();
    assert!(line.starts_with("FD (statistics of 64 features; 150 against 150) "), "{said}");
    assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap().abs() < 1e-4, "{line}");

    // They can be had alone, and are the same.
    let words = ["eval", "--files", &a, "--extractor", "pixels", "--statistics", "alone.npz"];
    let output = infer(dir.path(), &words);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "alone.npz");
    let output = infer(dir.path(), &["eval", "--files", "alone.npz", "--against", "colour.npz"]);
    let line = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_string();
    assert!(line.contains("150 against 150"), "{line}");
    assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap().abs() < 1e-4, "{line}");

    for (words, parts) in [
        (&["--files", &a] as &[&str], &["--against"] as &[&str]),
        (&["--files", "a.npz", "--statistics", "b.npz"], &["a.npz", "images"]),
        (&["--files", "nowhere", "--against", &b], &["nowhere"]),
        (&["--files", &a, "--against", &b], &["pixels", "inception", "--weights"]),
        (&["--files", &a, "--against", &b, "--extractor", "classifier"], &["labelled", "digits"]),
        (&["--files", &a, "--against", &b, "--extractor", "inception"], &["--weights", "docs/evaluation.md"]),
        (&["--files", &a, "--against", &b, "--weights", "a.npz"], &["a.npz", "torch.save"]),
        (&["--files", "a.npz", "--against", &b, "--extractor", "pixels"], &["statistics"]),
        (&["--files", &a, "--against", &b, "--subset-size", "1"], &["--subset-size", "2"]),
        (&["--files", &a, "--against", &b, "--shard", "3/2"], &["I/N"]),
        (&["--files", &a, "--against", &b, "--resize", "magic"], &["magic", "clean-fid"]),
        (&["--files", &a, "--against", "moons"], &["points"]),
    ] {
        let said = refusal(dir.path(), &[&["eval"], words].concat());
        for part in parts {
            assert!(said.contains(part), "{words:?}: `{part}` is missing: {said}");
        }
    }
}

#[test]
fn samples_are_judged_in_shards_as_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let start = ["eval", "--from", from.to_str().unwrap(), "--count", "300", "--extractor", "pixels", "--subsets", "3"];
    let eval = |work: &str, words: &[&str]| {
        let output = infer(dir.path(), &[&start[..], &["--work", work], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let sweep = ["--samplers", "ddim,euler", "--steps", "2,3", "--out", "o"];
    let whole = eval("one", &sweep);
    assert!(
        whole.contains("samples: test step 0\nreference: digits test\n") && whole.contains("\neuler 3 (300) "),
        "{whole}"
    );
    assert!(std::fs::read_to_string(dir.path().join("o/plot.svg")).unwrap().contains("euler"));
    for shard in ["2/2", "1/2"] {
        assert_eq!(eval("two", &[&sweep[..], &["--shard", shard]].concat()).trim(), "two");
    }
    assert_eq!(eval("two", &sweep), whole);
    let bits = eval("one", &["--steps", "2", "--bits-per-dim", "1"]);
    assert!(bits.contains("bits/dim (bound)") && bits.contains("bits/dim (ode)"), "{bits}");

    let points = points(dir.path());
    let words = ["eval", "--from", points.to_str().unwrap(), "--count", "64", "--steps", "2"];
    let said = String::from_utf8(infer(dir.path(), &words).stdout).unwrap();
    for part in ["chamfer distance", "sliced Wasserstein-2", "energy distance", "real points", "Gaussian (64)"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What a command that succeeds says on stderr.
fn said(dir: &Path, words: &[&str]) -> String {
    let output = infer(dir, words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    said
}

#[test]
fn the_default_sampler_is_that_of_the_previews_or_suits_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let plain = digits(dir.path());
    let sampled = |name: &str, from: &Path, words: &[&str]| {
        let start = ["sample", "--from", from.to_str().unwrap(), "--count", "1", "--out", name];
        said(dir.path(), &[&start[..], words].concat())
    };
    let line = sampled("a", &plain, &[]);
    assert!(line.contains("by ddim in 12 steps") && line.contains("--sampler ddpm is ancestral"), "{line}");
    let line = sampled("b", &plain, &["--sampler", "ddpm"]);
    assert!(line.contains("by ddpm in 12 steps") && !line.contains("ancestral"), "{line}");
    assert!(sampled("c", &plain, &["--noise-compat", "torch"]).contains("by ddpm in 12 steps"));
    let by_unipc = Some(Sampling { sampler: "unipc".into(), steps: 5, guidance: None });
    let unipc = |config: SnapshotConfig| SnapshotConfig { sampling: by_unipc, ..config };
    let own = snapshot_with(&dir.path().join("own"), r#"{"kind": "digits"}"#, UNET, unipc);
    assert!(sampled("d", &own, &[]).contains("by unipc in 5 steps"));
    assert!(sampled("e", &own, &["--steps", "3"]).contains("by unipc in 3 steps"));
    assert!(sampled("f", &own, &["--levels", "0.3,0.2"]).contains("by unipc in 2 steps"));
    assert!(sampled("g", &own, &["--interpolate", "2"]).contains("by ddim in 12 steps"));

    // A scheduler that somebody chose is followed, and that its file has changed is said.
    let index = own.join("model_index.json");
    let changed = std::fs::read_to_string(&index).unwrap().replace("DDPMScheduler", "EulerDiscreteScheduler");
    std::fs::write(&index, changed).unwrap();
    let line = sampled("h", &own, &[]);
    assert!(line.contains("by euler in 12 steps") && line.contains("warning: ") && line.contains("CRC-32"), "{line}");
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let from = from.to_str().unwrap();
    let whole = "whole number from 1 up";
    let cases: [(&str, &[&str], &str); 17] = [
        ("sample", &["--batch-size", "0"], whole),
        ("sample", &["--count", "0"], whole),
        ("sample", &["--count", "-3"], whole),
        ("sample", &["--steps", "0"], whole),
        ("sample", &["--seed", "-1"], "whole number from 0 up"),
        ("sample", &["--guidance", "-1"], "number from 0 up"),
        ("sample", &["--eta", "-1"], "number from 0 to 1"),
        ("sample", &["--class-grid", "0"], whole),
        ("sample", &["--interpolate", "1"], "whole number from 2 up"),
        ("sample", &["--sigma-min", "-1", "--levels", "karras"], "sigma -1 is outside"),
        ("sample", &["--count", "1000000000000"], "of memory are needed"),
        ("sample", &["--class-grid", "1000000000000000000"], "of memory are needed"),
        ("sample", &["--levels", "karras", "--steps", "1000000000000"], "maximum is 1000000"),
        ("sample", &["--shard", "1/18446744073709551615", "--count", "0"], whole),
        ("likelihood", &["--count", "-3"], whole),
        ("likelihood", &["--atol", "-1"], "number above 0"),
        ("eval", &["--count", "-3"], "whole number from 2 up"),
    ];
    for (command, words, part) in cases {
        let out: &[&str] = if command == "sample" { &["--out", "o"] } else { &[] };
        let said = refusal(dir.path(), &[&[command, "--from", from], out, words].concat());
        assert!(said.contains(part), "{words:?}: {said}");
        assert!(!dir.path().join("o").exists(), "{words:?}");
    }
}

#[test]
fn samples_of_another_job_are_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let sample = |count, more: &'static [&'static str]| {
        let words = ["sample", "--from", from.to_str().unwrap(), "--steps", "2", "--out", "o", "--count", count];
        [&words[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let run = |words: Vec<String>| infer(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(run(sample("4", &[])).status.success());
    std::fs::write(dir.path().join("o/notes.txt"), "mine").unwrap();
    let output = run(sample("2", &[]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("samples.npy, 4 images"), "{said}");
    assert!(said.contains("--overwrite"), "{said}");
    assert!(!run(sample("2", &["--shard", "1/2"])).status.success());
    assert!(dir.path().join("o/0003.png").exists());
    assert!(run(sample("2", &["--overwrite"])).status.success());
    let exists = |name: &str| dir.path().join("o").join(name).exists();
    assert!(exists("0001.png") && !exists("0002.png") && exists("notes.txt") && exists("grid.png"));
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let path = from.to_str().unwrap();
    let sample = ["sample", "--from", path, "--count", "2", "--steps", "2", "--out", "read-by-nobody"];
    for words in
        [&["inspect", path][..], &["data"], &["data", "digits"], &["devices"], &["completions", "bash"], &sample]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm-infer"));
        command.current_dir(dir.path()).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{words:?}");
    }
    assert!(dir.path().join("read-by-nobody/0001.png").is_file());
}

#[test]
fn damage_to_a_snapshot_is_found_by_its_sums() {
    let dir = tempfile::tempdir().unwrap();
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let snapshots = [(digits(dir.path()), weights), (points(dir.path()), "model.safetensors")];
    for (number, (from, file)) in snapshots.iter().enumerate() {
        let path = from.to_str().unwrap();
        let inspected = infer(dir.path(), &["inspect", path]);
        assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stdout));
        let out = |kind: &str| format!("{kind}-{number}");
        let sample = ["sample", "--from", path, "--count", "2", "--steps", "2", "--out"];
        assert!(!said(dir.path(), &[&sample[..], &[&out("whole")]].concat()).contains("warning"));

        // The lowest bits of a number: nothing else would show it.
        let file = from.join(file);
        let whole = std::fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        let last = bytes.len() - 4;
        bytes[last] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let inspected = infer(dir.path(), &["inspect", path]);
        let report = String::from_utf8_lossy(&inspected.stdout).into_owned();
        let wrong = report.lines().find(|line| line.starts_with("wrong")).unwrap_or_default();
        assert!(
            !inspected.status.success() && wrong.contains("its CRC-32 is ") && wrong.contains("expected "),
            "{report}"
        );
        assert!(wrong.contains(file.file_name().unwrap().to_str().unwrap()), "{report}");
        let warned = said(dir.path(), &[&sample[..], &[&out("damaged")]].concat());
        assert!(warned.contains("warning: ") && warned.contains("CRC-32"), "{warned}");

        // One fault is said once.
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let inspected = infer(dir.path(), &["inspect", path]);
        assert!(String::from_utf8_lossy(&inspected.stderr).contains("1 fault"), "{inspected:?}");
        std::fs::write(&file, &whole).unwrap();
    }
    // A snapshot of before has no sums, and is opened in silence.
    let (from, _) = &snapshots[0];
    let own = from.join("ddpm.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&own).unwrap()).unwrap();
    assert_eq!(json["checksums"].as_object().unwrap().len(), 4);
    json.as_object_mut().unwrap().remove("checksums");
    std::fs::write(&own, json.to_string()).unwrap();
    let words = ["sample", "--from", from.to_str().unwrap(), "--count", "1", "--steps", "2", "--out", "old"];
    assert!(!said(dir.path(), &words).contains("warning"));
}

#[test]
fn a_cause_is_said_once_and_what_is_wrong_with_items_too() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let path = from.to_str().unwrap();
    let own = from.join("ddpm.json");
    let whole = std::fs::read_to_string(&own).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&whole).unwrap();
    json["data"]["shape"] = serde_json::json!([1, 7, 0]);
    std::fs::write(&own, json.to_string()).unwrap();
    assert!(refusal(dir.path(), &["sample", "--from", path]).contains("[1, 7, 0]"));
    std::fs::write(&own, whole).unwrap();
    std::fs::write(from.join("scheduler/scheduler_config.json"), r#"{"_class_name": "Magic"}"#).unwrap();
    std::fs::write(from.join("model_index.json"), "{}").unwrap();
    let message = refusal(dir.path(), &["sample", "--from", path]);
    let error = message.lines().find(|line| line.starts_with("error")).unwrap();
    assert_eq!(error.matches("Magic").count(), 1, "{error}");
}

#[test]
fn grids_say_which_class_is_where() {
    let dir = tempfile::tempdir().unwrap();
    let from = digits(dir.path());
    let sample = |out: &str, words: &[&str]| {
        let start = ["sample", "--from", from.to_str().unwrap(), "--steps", "2", "--out", out];
        said(dir.path(), &[&start[..], words].concat())
    };
    let classes = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9";
    assert!(sample("a", &["--class-grid", "2"]).lines().any(|line| line == format!("rows: {classes}")));
    assert!(sample("b", &["--count", "20"]).lines().any(|line| line == format!("columns: {classes}")));
    assert!(!sample("c", &["--count", "4", "--class", "3"]).contains("columns: "));
}

#[test]
fn names_of_the_hub_are_known_and_help_has_headings_examples_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["sample", "likelihood", "eval"] {
        let said = refusal(dir.path(), &[command, "--from", "google/ddpm-cifar10-32"]);
        assert!(said.contains("hf download google/ddpm-cifar10-32 --local-dir ddpm-cifar10-32"), "{said}");
    }
    std::fs::create_dir(dir.path().join("runs")).unwrap();
    for path in ["runs/digits", "nowhere", "a/b.safetensors", "/a/b", "a/b/c"] {
        assert!(!refusal(dir.path(), &["sample", "--from", path]).contains("Hub"), "{path}");
    }
    let out = |words: &[&str]| String::from_utf8(infer(dir.path(), words).stdout).unwrap();
    let help = out(&["sample", "--help"]);
    for heading in
        ["Model and device:", "Samples:", "Sampler:", "Noise:", "Guidance:", "Output:", "Tasks:", "Examples:"]
    {
        assert_eq!(help.lines().filter(|line| *line == heading).count(), 1, "{heading}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&["completions", shell]);
        assert!(script.contains("class-grid") && script.contains("likelihood"), "{shell}");
    }
}
