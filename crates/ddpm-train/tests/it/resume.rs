//! Stopping and going on is the same as never stopping: bit for bit on flex.
#![allow(clippy::unwrap_used)]

use crate::support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::{Bench, TINY_DIGITS, checkpoint_file, metrics, stderr};

fn words<'a>(first: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    [first, sets].concat()
}

/// Weights, average, counters and metrics after `step` are the same; and since the optimiser's file has no
/// fixed order, so are the weights after one more step of each.
fn assert_same_run(bench: &Bench, a: &Path, b: &Path, step: u64) {
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(a, step, name) == checkpoint_file(b, step, name), "{name} differs after step {step}");
    }
    assert_eq!(metrics(a), metrics(b));
    let further = format!("train.steps={}", step + 1);
    for run in [a, b] {
        bench.train(&["--resume", run.to_str().unwrap(), "--set", &further]);
    }
    for name in ["model.bpk", "ema.bpk"] {
        let equal = checkpoint_file(a, step + 1, name) == checkpoint_file(b, step + 1, name);
        assert!(equal, "{name}: the optimiser differs");
    }
}

#[test]
fn twice_five_steps_of_a_dropout_unet_are_ten() {
    let bench = Bench::new();
    let whole = bench.train(&words(&["--runs", "a", "--set", "train.steps=10"], &TINY_DIGITS));
    let half = bench.train(&words(&["--runs", "b", "--set", "train.steps=5"], &TINY_DIGITS));
    let resumed = bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=10"]);
    assert_eq!(half, resumed);
    assert_same_run(&bench, &whole, &half, 10);
}

#[test]
fn changed_pictures_and_balanced_classes_go_on_where_they_were() {
    let bench = Bench::new();
    let more = ["augment.probability=0.4", "augment.crop=1", "train.balance=classes", "model.classes=10"];
    let more = more.into_iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>();
    let sets = words(&TINY_DIGITS, &more);
    let whole = bench.train(&words(&["--runs", "a", "--set", "train.steps=8"], &sets));
    let half = bench.train(&words(&["--runs", "b", "--set", "train.steps=3", "--set", "train.workers=1"], &sets));
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=8", "--set", "train.workers=3"]);
    assert_same_run(&bench, &whole, &half, 8);
    // Another run than without.
    let plain = bench.train(&words(&["--runs", "c", "--set", "train.steps=8"], &TINY_DIGITS));
    assert_ne!(checkpoint_file(&plain, 8, "model.bpk"), checkpoint_file(&whole, 8, "model.bpk"));
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    let bench = Bench::new();
    let plain = bench.train(&words(&["--runs", "a", "--set", "train.steps=4"], &TINY_DIGITS));
    let sets = ["--runs", "b", "--set", "train.steps=4", "--set", "train.gradient_checkpointing=true"];
    let saving = bench.train(&words(&sets, &TINY_DIGITS));
    assert_same_run(&bench, &plain, &saving, 4);
}

#[test]
fn twice_twenty_steps_of_points_are_forty() {
    let bench = Bench::new();
    let sets = [
        "--experiment",
        "points-swiss-roll",
        "--set",
        "preview.count=8",
        "--set",
        "preview.steps=2",
        "--set",
        "train.log_every=7",
    ];
    let whole = bench.train(&words(&sets, &["--runs", "a", "--set", "train.steps=40"]));
    let half = bench.train(&words(&sets, &["--runs", "b", "--set", "train.steps=20"]));
    bench.train(&["--resume", half.file_name().unwrap().to_str().unwrap(), "--runs", "b", "--set", "train.steps=40"]);
    assert_same_run(&bench, &whole, &half, 40);
}

#[test]
fn continuous_time_and_self_conditioning_go_on_where_they_were() {
    let bench = Bench::new();
    let sets = [
        "--experiment",
        "points-flow",
        "--set",
        "preview.every=0",
        "--set",
        "preview.count=8",
        "--set",
        "diffusion.self_conditioning=true",
    ];
    let whole = bench.train(&words(&sets, &["--runs", "a", "--set", "train.steps=20"]));
    let half = bench.train(&words(&sets, &["--runs", "b", "--set", "train.steps=9"]));
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=20"]);
    assert_same_run(&bench, &whole, &half, 20);
}

#[test]
fn steps_drawn_by_their_losses_go_on_where_they_were() {
    let bench = Bench::new();
    // So few steps that their histories are full before the stop, and count.
    let sets = words(
        &[
            "--set",
            "diffusion.schedule={ kind = \"linear\", steps = 4, beta_start = 0.2, beta_end = 0.9 }",
            "--set",
            "diffusion.variance=learned",
            "--set",
            "diffusion.loss=rescaled-kl",
            "--set",
            "train.time_sampling=loss-second-moment",
        ],
        &TINY_DIGITS,
    );
    let train = |more: &[&str]| bench.train(&words(more, &sets));
    let whole = train(&["--runs", "a", "--set", "train.steps=24"]);
    let half = train(&["--runs", "b", "--set", "train.steps=14"]);
    let state = String::from_utf8(checkpoint_file(&half, 14, "state.json")).unwrap();
    let histories = state.split("loss_history").nth(1).unwrap();
    assert_eq!(histories.matches('.').count(), 4 * 10, "ten losses of each step: {histories}");
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=24"]);
    assert_same_run(&bench, &whole, &half, 24);
}

#[test]
fn averages_for_later_go_on_where_they_were() {
    let bench = Bench::new();
    let sets = words(&["--set", "ema.post_hoc={ widths = [0.05, 0.1], every = 2 }"], &TINY_DIGITS);
    let whole = bench.train(&words(&["--runs", "a", "--set", "train.steps=8"], &sets));
    let half = bench.train(&words(&["--runs", "b", "--set", "train.steps=4"], &sets));
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=8"]);
    for width in ["width-0.05", "width-0.1"] {
        let kept = |run: &Path| checkpoint_file(run, 8, &format!("{width}.bpk"));
        assert!(kept(&whole) == kept(&half), "{width} differs");
        for step in [2, 4, 6, 8] {
            let name = format!("averages/{width}/step-{step:08}/unet/diffusion_pytorch_model.safetensors");
            // Behind the header, in which the entries have no fixed order.
            let stored = |run: &Path| {
                let bytes = std::fs::read(run.join(&name)).unwrap();
                bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..].to_vec()
            };
            assert!(stored(&whole) == stored(&half), "{name} differs");
        }
    }
    assert_same_run(&bench, &whole, &half, 8);
}

#[test]
fn a_look_at_held_out_data_changes_nothing_and_goes_on_where_it_was() {
    let bench = Bench::new();
    let train = |runs: &str, every: &str, steps: &str| {
        bench.train(&words(
            &["--runs", runs, "--set", every, "--set", steps, "--set", "validation.count=5"],
            &TINY_DIGITS,
        ))
    };
    let whole = train("a", "validation.every=3", "train.steps=10");
    let half = train("b", "validation.every=3", "train.steps=5");
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=10"]);
    assert_same_run(&bench, &whole, &half, 10);
    let without = train("c", "validation.every=0", "train.steps=10");
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&whole, 10, name) == checkpoint_file(&without, 10, name), "{name} differs");
    }
    // At the first line of metrics after every third step.
    let looked_at: Vec<bool> = metrics(&whole).iter().map(|line| line.contains("valid_bpd")).collect();
    assert_eq!(looked_at[..5], [false, true, true, false, true]);
    assert!(metrics(&without).iter().all(|line| !line.contains("valid")));
}

#[test]
fn other_optimisers_go_on_where_they_were() {
    let bench = Bench::new();
    let points = ["--experiment", "points-swiss-roll", "--set", "model.hidden=[16]", "--set", "preview.count=4"];
    let points = words(&points, &["--set", "preview.steps=2", "--set", "train.log_every=4"]);
    for (kind, sets) in [("muon", &TINY_DIGITS[..]), ("sgd", &points), ("adafactor", &points)] {
        let kind = format!("optimizer.kind={kind}");
        let train =
            |runs: &str, steps: &str| bench.train(&words(&["--runs", runs, "--set", &kind, "--set", steps], sets));
        let (whole, half) = (train("a", "train.steps=8"), train("b", "train.steps=4"));
        bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=8"]);
        assert_same_run(&bench, &whole, &half, 8);
    }
}

#[test]
fn frozen_parts_and_factors_go_on_where_they_were_and_leave_whole_snapshots() {
    let bench = Bench::new();
    let train = |more: &[&str]| bench.train(&words(more, &TINY_DIGITS));
    let first = train(&["--runs", "a", "--set", "train.steps=2"]);
    let from = first.join("snapshots/step-00000002");
    let from = from.to_str().unwrap();
    for (runs, key) in [
        ("b", "fine_tune.freeze=[\"down_blocks\", \"time_embedding\"]"),
        ("c", "fine_tune.lora={ rank = 2, parts = [\"mid_block\", \"up_blocks\"] }"),
    ] {
        let [all, half] = ["8", "4"].map(|steps| {
            let steps = format!("train.steps={steps}");
            train(&["--runs", runs, "--from", from, "--set", key, "--set", &steps])
        });
        bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=8"]);
        assert_same_run(&bench, &all, &half, 8);
        // Anybody can open what it leaves, another training for one.
        let snapshot = all.join("snapshots/step-00000008");
        train(&["--runs", "d", "--from", snapshot.to_str().unwrap(), "--set", "train.steps=1"]);
        let size = |run: &Path| {
            let file = run.join("unet/diffusion_pytorch_model.safetensors");
            std::fs::metadata(file).unwrap().len().div_ceil(1024)
        };
        assert_eq!(size(&snapshot), size(&first.join("snapshots/step-00000002")));
    }
}

#[test]
fn threads_and_workers_change_nothing() {
    let bench = Bench::new();
    let sets = words(&["--set", "train.steps=4"], &TINY_DIGITS);
    let many = bench.train(&words(&["--runs", "a", "--set", "train.workers=3"], &sets));
    let output = bench
        .command(&words(&["--runs", "b", "--set", "train.workers=1"], &sets))
        .env("RAYON_NUM_THREADS", "1")
        .output();
    let one = bench.path(&support::last_line(&output.unwrap()));
    assert!(checkpoint_file(&many, 4, "model.bpk") == checkpoint_file(&one, 4, "model.bpk"));
}

#[test]
fn parts_of_a_batch_average_to_the_batch() {
    let bench = Bench::new();
    let sets = words(
        &["--set", "train.steps=4", "--set", "model.dropout=0"],
        &TINY_DIGITS.map(|word| if word == "model.dropout=0.1" { "model.dropout=0.0" } else { word }),
    );
    let loss = |run: &Path| -> Vec<f64> {
        metrics(run)
            .iter()
            .map(|line| line.split("\"loss\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap())
            .collect()
    };
    let whole = loss(&bench.train(&words(&["--runs", "a"], &sets)));
    let parts = loss(&bench.train(&words(&["--runs", "b", "--set", "train.accumulate=4"], &sets)));
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{whole:?} {parts:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on_as_if_nothing_had_been() {
    let bench = Bench::new();
    let sets = words(&["--set", "train.steps=60", "--set", "train.keep_checkpoints=100"], &TINY_DIGITS);
    let whole = bench.train(&words(&["--runs", "a"], &sets));

    let mut trainer =
        bench.command(&words(&["--runs", "b"], &sets)).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let run = loop {
        assert!(started.elapsed() < Duration::from_secs(60), "training did not start");
        std::thread::sleep(Duration::from_millis(20));
        let run = std::fs::read_dir(bench.path("b")).ok().and_then(|mut runs| Some(runs.next()?.ok()?.path()));
        if let Some(run) = run
            && std::fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() > 1)
        {
            break run;
        }
    };
    // The shell has a `kill` of its own; a machine may have no other.
    let kill = format!("kill -INT {}", trainer.id());
    let signal = std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(signal.success());
    let status = trainer.wait().unwrap();
    let said = stderr(&std::process::Output { status, stdout: Vec::new(), stderr: read_all(&mut trainer) });
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("--resume"), "it says how to go on: {said}");

    bench.train(&["--resume", run.to_str().unwrap()]);
    assert_same_run(&bench, &whole, &run, 60);
}

#[cfg(unix)]
fn read_all(trainer: &mut std::process::Child) -> Vec<u8> {
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut trainer.stderr.take().unwrap(), &mut said).unwrap();
    said
}
