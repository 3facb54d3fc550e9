//! What a person meets who makes a mistake: one clear message, an exit code, and nothing lost.
#![allow(clippy::unwrap_used)]

use crate::support;

use std::path::Path;

use support::{Bench, TINY_DIGITS, stderr};

#[test]
fn every_problem_of_an_experiment_is_named_at_once() {
    let bench = Bench::new();
    std::fs::write(
        bench.path("x.toml"),
        "[data]\nkind = \"digits\"\n[model]\nkind = \"unet\"\nchanels = 3\n[train]\nsteps = \"ten\"\n",
    )
    .unwrap();
    let (code, said) =
        bench.refusal(&["--experiment", "x.toml", "--set", "train.sed=3", "--set", "optimizer.learning_rate=2"]);
    assert_eq!(code, 2);
    for part in ["x.toml", "model.chanels", "train.steps", "--set train.sed", "--set optimizer.learning_rate"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(!bench.path("runs").exists(), "nothing was begun");
}

#[test]
fn an_unknown_experiment_lists_those_there_are() {
    let (code, said) = Bench::new().refusal(&["--experiment", "digitz"]);
    assert_eq!(code, 2);
    assert!(said.contains("digitz") && said.contains("points-swiss-roll"), "{said}");
}

#[test]
fn a_recipe_is_carried_by_the_program() {
    let bench = Bench::new();
    let (code, said) = bench.refusal(&["--set", "train.steps=ten"]);
    assert_eq!(code, 2);
    assert!(said.contains("digits (built in)"), "{said}");
    // A file of the folder comes first.
    std::fs::create_dir(bench.path("experiments")).unwrap();
    std::fs::write(bench.path("experiments/digits.toml"), "[data]\nkind = \"digits\"\n").unwrap();
    let (_, said) = bench.refusal(&[]);
    assert!(said.contains("experiments/digits.toml: 1 problem\n  model: this section is missing"), "{said}");
}

#[test]
fn without_an_average_a_snapshot_has_the_trained_weights() {
    let bench = Bench::new();
    let same = |set: &str| {
        let run = bench.train(&[&TINY_DIGITS[..], &["--set", "train.steps=3", "--set", set]].concat());
        let read = |name: &str| std::fs::read(run.join("checkpoints/step-00000003").join(name)).unwrap();
        read("model.bpk") == read("ema.bpk")
    };
    assert!(same("ema.kind=none") && !same("ema.decay=0.5"));
}

#[test]
fn what_is_not_read_beside_a_path_is_noted() {
    let bench = Bench::new();
    let dry = |more: &[&str]| bench.run(&[&["--experiment", "digits-edm", "--dry-run"], more].concat());
    let output = dry(&["--set", "diffusion.prediction=eps"]);
    assert!(output.status.success() && stderr(&output).contains("diffusion.prediction\n"), "{}", stderr(&output));
    let output = dry(&[]);
    assert!(!stderr(&output).contains("not read"), "{}", stderr(&output));
    // What is printed can be trained as it is.
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("prediction = \"edm\"") && !printed.contains("prediction = \"eps\""), "{printed}");
    std::fs::write(bench.path("printed.toml"), &printed).unwrap();
    let again = bench.run(&["--experiment", "printed.toml", "--dry-run"]);
    let sections = |text: &str| text.split("\n# experiment").next().map(str::to_string);
    assert_eq!(sections(&String::from_utf8_lossy(&again.stdout)), sections(&printed));
    assert!(!stderr(&again).contains("not read"), "{}", stderr(&again));
}

#[test]
fn a_network_that_does_not_fit_the_data_names_sizes_and_keys() {
    let (code, said) =
        Bench::new().refusal(&["--set", "model.multipliers=[1, 2, 2, 2, 2]", "--set", "model.classes=7"]);
    assert_eq!(code, 2);
    assert!(said.contains("model.multipliers") && said.contains("8x8"), "{said}");
    assert!(said.contains("model.classes") && said.contains("10"), "{said}");
}

#[test]
fn folders_that_hold_no_images_are_told_apart() {
    let bench = Bench::new();
    let images = |path: &str| {
        let toml = format!("[data]\nkind = \"images\"\npath = \"{path}\"\n[model]\nkind = \"unet\"\n");
        std::fs::write(bench.path("images.toml"), toml).unwrap();
        let (code, said) = bench.refusal(&["--experiment", "images.toml"]);
        assert_eq!(code, 1, "{said}");
        said
    };
    let missing = images("nowhere");
    assert!(missing.contains("nowhere") && missing.contains("not found"), "{missing}");

    std::fs::create_dir(bench.path("empty")).unwrap();
    let empty = images("empty");
    assert!(empty.contains("empty"), "{empty}");

    std::fs::create_dir(bench.path("text")).unwrap();
    std::fs::write(bench.path("text/photo.png"), "I am no picture").unwrap();
    let text = images("text");
    assert!(text.contains("photo.png"), "{text}");
}

#[test]
fn a_device_that_is_not_there_lists_those_that_are() {
    let (code, said) = Bench::new().refusal(&["--device", "warp-drive"]);
    assert_eq!(code, 1);
    assert!(said.contains("warp-drive") && said.contains("flex"), "{said}");
}

#[test]
fn runs_that_are_not_there_or_cannot_be_written_are_named() {
    let bench = Bench::new();
    let (code, said) = bench.refusal(&["--resume", "yesterday"]);
    assert_eq!(code, 1);
    assert!(said.contains("yesterday"), "{said}");

    std::fs::write(bench.path("file"), "").unwrap();
    let (code, said) = bench.refusal(&[&["--runs", "file/runs"], &TINY_DIGITS[..]].concat());
    assert_eq!(code, 1);
    assert!(said.contains("file/runs"), "{said}");
}

#[test]
fn what_would_make_it_another_run_is_refused_on_resume() {
    let bench = Bench::new();
    let run = bench.train(&[&["--set", "train.steps=1"], &TINY_DIGITS[..]].concat());
    let run = run.to_str().unwrap();
    let (code, said) = bench.refusal(&["--resume", run, "--set", "model.base_channels=16"]);
    assert_eq!(code, 2);
    assert!(said.contains("model.base_channels"), "{said}");
    // A run that is finished says so and leaves everything as it is.
    let output = bench.run(&["--resume", run]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("train.steps"), "{}", stderr(&output));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_leaves_state() {
    let bench = Bench::new();
    let hot = [
        "--set",
        "train.steps=200",
        "--set",
        "optimizer.learning_rate=1.0",
        "--set",
        "optimizer.clip_norm=0.0",
        "--set",
        "optimizer.epsilon=0.0",
        "--set",
        "optimizer.beta_2=0.0",
    ];
    let (code, said) = bench.refusal(&[&TINY_DIGITS[..16], &["--set", "optimizer.warmup_steps=1"], &hot].concat());
    assert_eq!(code, 1);
    for part in ["step", "not finite", "learning rate", "last finite loss", "checkpoints/step-"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(said.contains("--detect-anomaly"), "it says how to learn more: {said}");
    let run = std::fs::read_dir(bench.path("runs")).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_dir(run.join("checkpoints")).unwrap().next().is_some());

    // The same step once more, and where it fails.
    let (code, closer) = bench.refusal(&["--resume", run.to_str().unwrap(), "--detect-anomaly"]);
    assert_eq!(code, 1);
    let step = |said: &str| said.split("step ").find_map(|rest| rest.split_once(": the")?.0.parse::<u64>().ok());
    assert!(step(&said).is_some() && step(&said) == step(&closer), "{said} {closer}");
    for part in ["the first ", "its output: ", "root mean square"] {
        assert!(closer.contains(part), "{part} is missing: {closer}");
    }
}

#[test]
fn a_learned_variance_is_trained_on_images_and_refused_for_points() {
    let bench = Bench::new();
    let learned =
        ["--set", "diffusion.variance=learned", "--set", "diffusion.loss=rescaled-mse", "--set", "train.steps=2"];
    let run = bench.train(&[&learned[..], &TINY_DIGITS[..]].concat());
    assert!(std::fs::read_to_string(run.join("config.toml")).unwrap().contains("out_channels = 2"));
    let (code, said) = bench.refusal(&[&["--experiment", "points-swiss-roll"], &learned[..]].concat());
    assert_eq!(code, 2);
    assert!(said.contains("variational bound"), "{said}");
}

/// A folder of the digits as pictures, and an experiment `pictures.toml` on it.
fn digits_as_pictures(bench: &Bench, folders: &[&str], data: &str, model: &str) {
    let config = serde_json::json!({"kind": "digits"});
    let digits = ddpm_data::open(&serde_json::from_value(config).unwrap(), ddpm_data::Split::Train, 0).unwrap();
    for k in 0..40 {
        let pixels: Vec<u8> = digits.items.get(k).unwrap().values.iter().map(|v| ((v + 1.0) * 127.5) as u8).collect();
        let folder = bench.path("pictures").join(folders[k % folders.len()]);
        std::fs::create_dir_all(&folder).unwrap();
        image::GrayImage::from_raw(8, 8, pixels).unwrap().save(folder.join(format!("{k:02}.png"))).unwrap();
    }
    let toml = format!(
        "[data]\nkind = \"images\"\npath = \"pictures\"\nsize = 8\nchannels = \"grayscale\"\n{data}\n\
         [model]\nkind = \"unet\"\nmultipliers = [1, 2]\nattention_resolutions = []\n{model}\n"
    );
    std::fs::write(bench.path("pictures.toml"), toml).unwrap();
}

/// Cuts a file short behind its header, which is whole.
fn tear(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(file, &bytes[..bytes.len() - 30]).unwrap();
}

#[test]
fn a_torn_picture_is_found_before_anything_is_begun() {
    let bench = Bench::new();
    digits_as_pictures(&bench, &[""], "", "");
    tear(&bench.path("pictures/07.png"));
    for more in [&["--dry-run"][..], &[]] {
        let (code, said) = bench.refusal(&[&["--experiment", "pictures.toml"], more].concat());
        assert_eq!(code, 1);
        for part in ["07.png", "--resume", "--set data.on_bad_file=skip", "cargo xtask data \"pictures\""] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
    }
    assert!(!bench.path("runs").exists(), "nothing was begun");
}

#[test]
fn a_picture_that_is_torn_while_training_stops_the_run_which_goes_on_without_it() {
    let bench = Bench::new();
    digits_as_pictures(&bench, &[""], "", "");
    let words = [&["--experiment", "pictures.toml", "--set", "train.steps=100000"], &TINY_DIGITS[..]].concat();
    let trainer = bench.command(&words).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let run = || std::fs::read_dir(bench.path("runs")).ok()?.next().map(|entry| entry.unwrap().path());
    let begun =
        || run().and_then(|run| std::fs::metadata(run.join("metrics.jsonl")).ok()).is_some_and(|file| file.len() > 0);
    while !begun() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    tear(&bench.path("pictures/07.png"));
    let output = trainer.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["07.png", "checkpoints/step-", "--set data.on_bad_file=skip"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }

    let run = run().unwrap();
    let run_name = run.to_str().unwrap();
    let (_, said) = bench.refusal(&["--resume", run_name]);
    assert!(said.contains("07.png") && said.contains("--set data.on_bad_file=skip"), "{said}");
    let checkpoints = std::fs::read_dir(run.join("checkpoints")).unwrap();
    let steps = checkpoints.map(|entry| entry.unwrap().file_name().to_str().unwrap()[5..].parse::<u64>().unwrap());
    let further = format!("train.steps={}", steps.max().unwrap() + 2);
    let output = bench.run(&["--resume", run_name, "--set", "data.on_bad_file=skip", "--set", &further]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(std::fs::read_to_string(run.join("config.toml")).unwrap().contains("on_bad_file = \"skip\""));
}

#[test]
fn classes_are_counted_named_and_missed() {
    let bench = Bench::new();
    let dry = |model: &str, data: &str| {
        digits_as_pictures(&bench, &["faces", "animals", "food"], data, model);
        bench.run(&["--experiment", "pictures.toml", "--dry-run"])
    };
    std::fs::create_dir_all(bench.path("pictures/notes")).unwrap();
    std::fs::write(bench.path("pictures/notes/readme.txt"), "about them").unwrap();

    let folders = "labels = \"folders\"";
    let counted = dry("classes = \"data\"", folders);
    let config = String::from_utf8_lossy(&counted.stdout).into_owned();
    assert!(counted.status.success() && config.contains("\nclasses = 3\n"), "{config}{}", stderr(&counted));
    assert!(stderr(&counted).contains("note: 1 file is not an image and is ignored: notes/readme.txt"));
    assert!(!stderr(&counted).contains("learns no classes"));

    let other = stderr(&dry("classes = 7", folders));
    assert!(other.contains("model.classes: 7 classes, but the folder has 3 (animals, faces, food)"), "{other}");
    let none = stderr(&dry("", folders));
    assert!(none.contains("note: the network learns no classes, and the folder has 3 (animals"), "{none}");
    assert!(none.contains("model.classes = \"data\""), "{none}");
    for classes in ["classes = \"data\"", "classes = 3"] {
        let unlabelled = stderr(&dry(classes, ""));
        assert!(
            unlabelled.contains("model.classes: ") && unlabelled.contains("data.labels is \"none\""),
            "{unlabelled}"
        );
    }

    // A run notes the number, and goes on with it.
    dry("classes = \"data\"", folders);
    let run = bench.train(&[&["--experiment", "pictures.toml", "--set", "train.steps=2"], &TINY_DIGITS[..]].concat());
    assert!(std::fs::read_to_string(run.join("config.toml")).unwrap().contains("\nclasses = 3\n"));
    let resumed = bench.run(&["--resume", run.to_str().unwrap(), "--set", "train.steps=3"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
}

#[test]
fn a_dry_run_shows_everything_and_leaves_nothing() {
    let bench = Bench::new();
    let output = bench.run(&["--experiment", "digits", "--dry-run"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["[train]", "batch_size", "# parameters", "# memory", "in_channels = 1"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(!bench.path("runs").exists());
}

#[test]
fn a_run_folder_holds_what_is_promised() {
    let bench = Bench::new();
    let run = bench.train(&[&["--set", "train.steps=3", "--set", "preview.every=2"], &TINY_DIGITS[..]].concat());
    for name in [
        "config.toml",
        "manifest.json",
        "metrics.jsonl",
        "previews/step-00000002.png",
        "previews/step-00000003.png",
        "checkpoints/step-00000003/optimizer.bpk",
        "snapshots/step-00000003/ddpm.json",
        "snapshots/step-00000003/model_index.json",
        "snapshots/step-00000003/unet/diffusion_pytorch_model.safetensors",
    ] {
        assert!(run.join(name).is_file(), "{name} is missing");
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap();
    assert!(manifest["parameters"].as_u64().unwrap() > 1000);
    assert_eq!(manifest["starts"][0]["device"], "flex");
    let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(line["step"], 2);
    assert_eq!(line["images_seen"], 16);
}

#[test]
fn a_part_that_is_not_there_cannot_be_frozen() {
    let bench = Bench::new();
    let (code, said) = bench.refusal(&["--set", "fine_tune.freeze=[\"down\", \"conv_in\"]"]);
    assert_eq!(code, 2);
    assert!(said.contains("fine_tune.freeze: no parameter begins with `down`"), "{said}");
    assert!(said.contains("down_blocks, ") && said.contains("time_embedding"), "{said}");
    let lora = "fine_tune.lora={ rank = 4, parts = [\"mid_block\"] }";
    let output = bench.run(&["--dry-run", "--set", lora]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains(" of them trained"), "{told}");
}

#[test]
fn optimisers_and_their_constants_are_checked_by_name() {
    let bench = Bench::new();
    let (code, said) = bench.refusal(&["--set", "optimizer.kind=lion", "--set", "optimizer.epsilon=1e-8"]);
    assert_eq!(code, 2);
    assert!(said.contains("optimizer.epsilon: is no constant of this kind, which has beta_1, beta_2"), "{said}");
    let (_, said) = bench.refusal(&["--set", "optimizer.kind=adamm"]);
    assert!(said.contains("optimizer.kind") && said.contains("adafactor"), "{said}");
    let decay = "optimizer.decay={ kind = \"cosine\", until_images = 6400 }";
    let (_, said) = bench.refusal(&["--set", decay, "--set", "optimizer.warmup_images=6400"]);
    assert!(said.contains("optimizer.decay.until_images: step 100 must be after the warm-up of 100 steps"), "{said}");
    // What is left out is that of the rule's paper, and is written down.
    let output = bench.run(&["--dry-run", "--set", "optimizer.kind=lion"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("kind = \"lion\"") && told.contains("beta_2 = 0.99\n"), "{told}");
}

#[test]
fn training_starts_from_a_snapshot() {
    let bench = Bench::new();
    let train = |more: &[&str]| bench.train(&[&["--set", "train.steps=1"], more, &TINY_DIGITS[..]].concat());
    let weights = |run: &Path| -> Vec<f32> {
        let file = run.join("snapshots/step-00000001/unet/diffusion_pytorch_model.safetensors");
        let bytes = std::fs::read(file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].chunks(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    let apart = |a: &Path, b: &Path| {
        let (a, b) = (weights(a), weights(b));
        assert_eq!(a.len(), b.len());
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let first = train(&[]);
    let from = first.join("snapshots/step-00000001");
    let from = from.to_str().unwrap();
    // A step that moves nothing leaves what it started from; another seed would have drawn other weights.
    let still = train(&["--from", from, "--set", "train.seed=9", "--set", "optimizer.learning_rate=1e-30"]);
    assert!(apart(&first, &still) < 1e-6, "{}", apart(&first, &still));
    assert!(apart(&first, &train(&["--set", "train.seed=9"])) > 1e-2);

    // Without a network of its own an experiment has that of the snapshot.
    std::fs::write(bench.path("ft.toml"), "[data]\nkind = \"digits\"\n").unwrap();
    let told = bench.run(&["--experiment", "ft.toml", "--from", from, "--dry-run"]);
    assert!(told.status.success(), "{}", stderr(&told));
    assert!(String::from_utf8_lossy(&told.stdout).contains("base_channels = 8\n"));
    let other = bench.run(&["--experiment", "ft.toml", "--from", from, "--set", "diffusion.prediction=v", "--dry-run"]);
    let warning = "diffusion.prediction is \"v\" in the experiment, \"eps\" there";
    assert!(stderr(&other).contains(warning), "{}", stderr(&other));

    let (code, said) =
        bench.refusal(&[&["--from", from, "--set", "model.time_shift=scale-shift"], &TINY_DIGITS[..]].concat());
    assert_eq!(code, 1);
    assert!(said.contains("model.time_shift is \"scale-shift\" in the experiment, \"additive\" there"), "{said}");
    std::fs::write(bench.path("points.toml"), "[data]\nkind = \"moons\"\n").unwrap();
    let (_, said) = bench.refusal(&["--experiment", "points.toml", "--from", from]);
    assert!(said.contains("points.toml with the network of ") && said.contains("model.kind"), "{said}");
    let (_, said) = bench.refusal(&["--from", "nowhere"]);
    assert!(said.contains("nowhere") && said.contains("not a snapshot"), "{said}");
    let (code, said) = bench.refusal(&["--from", from, "--resume", first.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(said.contains("--resume"), "{said}");
}

#[test]
fn what_is_hardly_meant_is_warned_of_and_what_is_too_much_refused() {
    let bench = Bench::new();
    let warned = bench.run(&[&["--dry-run", "--set", "train.batch_size=100000"], &TINY_DIGITS[..8]].concat());
    assert!(warned.status.success(), "{}", stderr(&warned));
    assert!(stderr(&warned).contains("warning") && stderr(&warned).contains("1437"), "{}", stderr(&warned));
    let (code, said) = bench.refusal(&["--set", "train.workers=9999", "--set", "preview.count=100000000"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("train.workers: must be at most") && said.contains("preview.count: must be at most"),
        "{said}"
    );
}

#[test]
fn a_loss_that_runs_away_is_told_and_the_way_on_repeats_how_it_was_started() {
    let bench = Bench::new();
    let points = ["--experiment", "points-swiss-roll", "--set", "model.hidden=[16]", "--set", "train.batch_size=16"];
    let hot = ["optimizer.learning_rate=1", "optimizer.warmup_steps=1", "optimizer.clip_norm=0", "train.log_every=10"];
    let hot = hot.into_iter().chain(["train.steps=60", "preview.count=0"]).flat_map(|set| ["--set", set]);
    let output = bench.run(&points.into_iter().chain(hot).collect::<Vec<_>>());
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("the run diverges").count(), 2, "once while it runs, and at its end: {said}");
    assert!(said.contains("optimizer.learning_rate"), "{said}");

    let mut list = bench.command(&["list", "--runs", "none"]);
    let said = stderr(&list.env("DDPM_STARTED_AS", "cargo xtask train --features wgpu").output().unwrap());
    assert!(said.contains("cargo xtask train --features wgpu\n"), "{said}");
}

#[test]
fn no_previews_are_drawn_where_there_are_to_be_none() {
    let bench = Bench::new();
    let run = bench.train(&[&TINY_DIGITS[..12], &["--set", "preview.count=0", "--set", "train.steps=1"]].concat());
    assert_eq!(std::fs::read_dir(run.join("previews")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_taken_as_they_are() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let runs = std::ffi::OsStr::from_bytes(b"d\xff");
    let mut command = bench.command(&[&TINY_DIGITS[..], &["--set", "train.steps=1"]].concat());
    let output = command.arg("--runs").arg(runs).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(bench.path("").join(runs)).unwrap().count(), 1);
}

#[test]
fn help_lists_the_experiments_and_completions_are_printed() {
    let bench = Bench::new();
    let help = bench.run(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("points-swiss-roll") && help.contains("--resume latest"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.run(&["completions", shell]);
        assert!(
            script.status.success() && String::from_utf8_lossy(&script.stdout).contains("detect-anomaly"),
            "{shell}"
        );
    }
}
