//! What happens to a run happens to nobody's work: killed, damaged, asked to stop, it goes on from what is whole.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ddpm_data::random::{Stream, mix};
use support::{Bench, TINY_DIGITS, checkpoint_file, last_line, metrics, stderr};

use crate::support;

/// Points that write a checkpoint at every fifth step.
const RESTLESS: [&str; 22] = [
    "--experiment",
    "points-swiss-roll",
    "--set",
    "model.hidden=[16]",
    "--set",
    "train.batch_size=16",
    "--set",
    "train.log_every=3",
    "--set",
    "train.checkpoint_every=5",
    "--set",
    "train.snapshot_every=100000",
    "--set",
    "preview.every=0",
    "--set",
    "preview.count=4",
    "--set",
    "preview.steps=2",
    "--set",
    "train.tensorboard=true",
    "--set",
    "optimizer.decay={ kind = \"cosine\", until = 200, lowest = 0.1 }",
];

fn words<'a>(first: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    [first, sets].concat()
}

/// Waits for something that a trainer does.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The one run in a folder, once it has a file of this name.
fn run_with(runs: &Path, name: &str) -> PathBuf {
    wait_for(name, || {
        let run = std::fs::read_dir(runs).ok()?.next()?.ok()?.path();
        run.join(name).exists().then_some(run)
    })
}

/// The steps of the complete checkpoints.
fn steps(run: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut steps: Vec<u64> = names.filter_map(|name| name.to_str()?.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

fn signal(name: &str, trainer: &Child) {
    // The shell has a `kill` of its own; a machine may have no other.
    let kill = format!("kill -{name} {}", trainer.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// What a trainer that was started with its stderr piped ends with.
fn end_of(trainer: Child) -> (Option<i32>, String) {
    let output = trainer.wait_with_output().unwrap();
    (output.status.code(), stderr(&output))
}

#[test]
fn thirty_kills_lose_nothing() {
    let bench = Bench::new();
    // The end is far away: a trainer leaves only by being killed.
    let endless = ["--set", "train.steps=100000000"];
    let spawn = |words: &[&str]| {
        bench
            .command(words)
            .stderr(std::fs::File::create(bench.path("said")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let started = Instant::now();
    let mut trainer = spawn(&[&["--runs", "killed"], &RESTLESS[..], &endless].concat());
    let run = run_with(&bench.path("killed"), "checkpoints/step-00000005");
    // Long enough for a start and some checkpoints, on this machine as busy as it is.
    let longest = started.elapsed().mul_f64(2.5).min(Duration::from_millis(900));
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let name = run.to_str().unwrap().to_string();
    let mut whole = 0;
    for kill in 0..30 {
        std::thread::sleep(longest.mul_f64(mix(seed, Stream::Split, kill) as f64 / u64::MAX as f64));
        let said = || std::fs::read_to_string(bench.path("said")).unwrap();
        assert!(trainer.try_wait().unwrap().is_none(), "kill {kill} of seed {seed}: it left by itself: {}", said());
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        let newest = *steps(&run).last().unwrap();
        assert!(newest >= whole, "kill {kill} of seed {seed}: back from step {whole} to {newest}");
        whole = newest;
        trainer = spawn(&["--resume", &name]);
    }
    trainer.kill().unwrap();
    trainer.wait().unwrap();

    let last = steps(&run).last().unwrap() + 4;
    let end = format!("train.steps={last}");
    let resumed = bench.run(&["--resume", &name, "--set", &end]);
    assert!(resumed.status.success() && !stderr(&resumed).contains("warning"), "seed {seed}: {}", stderr(&resumed));
    let never_killed = bench.train(&[&["--runs", "whole"], &RESTLESS[..], &["--set", &end]].concat());
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        let equal = checkpoint_file(&run, last, name) == checkpoint_file(&never_killed, last, name);
        assert!(equal, "seed {seed}: {name} differs after step {last}");
    }
    assert_eq!(metrics(&run), metrics(&never_killed), "seed {seed}");
    // Nothing half-written is left.
    let left = std::fs::read_dir(run.join("checkpoints")).unwrap().count();
    assert_eq!(left, 2, "seed {seed}");
    println!("thirty kills took {:.1} s, to step {last}", started.elapsed().as_secs_f64());
}

#[test]
fn what_a_killed_run_left_half_written_is_removed_when_it_goes_on() {
    let bench = Bench::new();
    let run = run_of_six(&bench, "runs");
    let left = [
        ".config.toml.4711.tmp",
        "manifest.json.tmp",
        "checkpoints/.step-00000007.4711.tmp/model.bpk",
        "checkpoints/.step-00000001.old/model.bpk",
        "snapshots/.step-00000007.4711.tmp/ddpm.json",
        "previews/.step-00000007.png.4711.tmp",
    ];
    for name in left {
        std::fs::create_dir_all(run.join(name).parent().unwrap()).unwrap();
        std::fs::write(run.join(name), "half").unwrap();
    }
    let kept = run.join("notes.tmp");
    std::fs::write(&kept, "not ours").unwrap();
    let resumed = bench.run(&["--resume", run.to_str().unwrap(), "--set", "train.steps=7"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    for name in left {
        let gone =
            Path::new(name).ancestors().take_while(|path| path.to_string_lossy().contains(['.'])).last().unwrap();
        assert!(!run.join(gone).exists(), "{name}");
    }
    assert!(kept.exists());
}

/// A run of six steps with the checkpoints of steps 2, 4 and 6.
fn run_of_six(bench: &Bench, runs: &str) -> PathBuf {
    let sets = ["--runs", runs, "--set", "train.steps=6", "--set", "train.checkpoint_every=2"];
    bench.train(&[&sets[..], &["--set", "train.keep_checkpoints=9"], &TINY_DIGITS].concat())
}

#[test]
fn damaged_checkpoints_are_named_and_the_newest_good_one_is_used() {
    let bench = Bench::new();
    let whole = run_of_six(&bench, "a");
    let run = run_of_six(&bench, "b");
    let name = run.to_str().unwrap();
    let file = |step: u64, name: &str| run.join(format!("checkpoints/step-{step:08}")).join(name);
    // One is cut off, in one a bit has changed.
    let cut = std::fs::read(file(6, "optimizer.bpk")).unwrap();
    std::fs::write(file(6, "optimizer.bpk"), &cut[..cut.len() / 2]).unwrap();
    let mut flipped = std::fs::read(file(4, "ema.bpk")).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    std::fs::write(file(4, "ema.bpk"), flipped).unwrap();

    // Asked for by name, a damaged one is refused and a good one offered; nothing is moved.
    let (code, said) = bench.refusal(&["--resume", name, "--step", "6", "--set", "train.steps=8"]);
    assert_eq!(code, 1);
    let expected = format!("optimizer.bpk has {} bytes, expected {}", cut.len() / 2, cut.len());
    assert!(said.contains(&expected) && said.contains("that of step 2"), "{said}");
    let (_, said) = bench.refusal(&["--resume", name, "--step", "5"]);
    assert!(said.contains("no checkpoint of step 5; there are: 2, 4, 6"), "{said}");
    assert_eq!(steps(&run), [2, 4, 6]);

    // Otherwise the newest good one is used, and said to be.
    let output = bench.run(&["--resume", name]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    for part in ["step-00000006/optimizer.bpk has", "step-00000004/ema.bpk has changed", "going on after step 2"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(run.join("checkpoints/set-aside-1-step-00000006/optimizer.bpk").is_file(), "it is kept to be inspected");
    assert_eq!(steps(&run), [2, 4, 6]);
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&run, 6, name) == checkpoint_file(&whole, 6, name), "{name} differs");
    }
    assert_eq!(metrics(&run), metrics(&whole));
}

#[test]
fn foreign_checkpoints_are_refused_and_old_ones_noted() {
    let bench = Bench::new();
    let [here, there] = ["a", "b"].map(|runs| run_of_six(&bench, runs));
    let name = here.to_str().unwrap();
    let checkpoint = |run: &Path, step: u64| run.join(format!("checkpoints/step-{step:08}"));
    for step in [2, 4] {
        std::fs::remove_dir_all(checkpoint(&here, step)).unwrap();
    }
    std::fs::remove_dir_all(checkpoint(&here, 6)).unwrap();
    std::fs::rename(checkpoint(&there, 6), checkpoint(&here, 6)).unwrap();
    let (code, said) = bench.refusal(&["--resume", name, "--set", "train.steps=8"]);
    assert_eq!(code, 1);
    assert!(said.contains("no checkpoint to resume from") && said.contains("belongs to another run"), "{said}");
    // Without its list nobody can tell, as with those of older versions.
    std::fs::remove_file(checkpoint(&here, 6).join("checksums.json")).unwrap();
    let output = bench.run(&["--resume", name, "--set", "train.steps=8"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("not verified"), "{}", stderr(&output));
}

#[test]
fn an_earlier_checkpoint_is_gone_on_from_as_told() {
    let bench = Bench::new();
    let run = run_of_six(&bench, "a");
    let name = run.to_str().unwrap();
    let slow = ["--resume", name, "--step", "4", "--set", "optimizer.learning_rate=1e-9"];
    let output = bench.run(&slow);
    assert!(stderr(&output).contains("going on after step 4"), "{}", stderr(&output));
    let kept = std::fs::read(run.join("checkpoints/set-aside-1-step-00000006/model.bpk")).unwrap();
    assert!(checkpoint_file(&run, 6, "model.bpk") != kept, "the step was taken anew");
}

#[test]
fn a_second_trainer_on_a_run_is_refused_and_a_second_signal_leaves_at_once() {
    let bench = Bench::new();
    // One step takes seconds, so that both signals come before it ends.
    let big = ["--set", "train.batch_size=1024", "--set", "model.base_channels=64", "--set", "train.steps=9"];
    let said = bench.path("said");
    let to_file = std::fs::File::create(&said).unwrap();
    let mut trainer = bench.command(&words(&big, &TINY_DIGITS[2..8])).stderr(to_file).spawn().unwrap();
    let run = run_with(&bench.path("runs"), "metrics.jsonl");
    let (code, refused) = bench.refusal(&["--resume", run.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(refused.contains("another ddpm-train is at work on"), "{refused}");

    assert!(trainer.try_wait().unwrap().is_none());
    signal("TERM", &trainer);
    let said = || std::fs::read_to_string(&said).unwrap();
    wait_for("the answer to the first signal", || said().contains("stopping after this step").then_some(()));
    signal("TERM", &trainer);
    let sent = Instant::now();
    assert_eq!(trainer.wait().unwrap().code(), Some(131), "{}", said());
    assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    assert!(steps(&run).is_empty());
}

#[test]
fn sigterm_saves_as_ctrl_c_does() {
    let bench = Bench::new();
    let sets = ["--set", "train.steps=100000", "--set", "train.checkpoint_every=100000"];
    let trainer = bench.command(&words(&sets, &TINY_DIGITS)).stderr(Stdio::piped()).spawn().unwrap();
    let run = run_with(&bench.path("runs"), "metrics.jsonl");
    wait_for("a line", || std::fs::read(run.join("metrics.jsonl")).is_ok_and(|text| !text.is_empty()).then_some(()));
    signal("TERM", &trainer);
    let (code, said) = end_of(trainer);
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(steps(&run).len(), 1, "{said}");
}

#[test]
fn a_run_that_can_no_longer_write_says_where_and_keeps_what_it_has() {
    let bench = Bench::new();
    let sets = ["--set", "train.steps=100000000", "--set", "train.keep_checkpoints=3"];
    let trainer = bench.command(&words(&RESTLESS, &sets)).stderr(Stdio::piped()).spawn().unwrap();
    let run = run_with(&bench.path("runs"), "checkpoints/step-00000010");
    // In one moment the folder is gone, and there is something in its place that nobody can write into.
    std::fs::rename(run.join("checkpoints"), run.join("elsewhere")).unwrap();
    std::fs::write(run.join("checkpoints"), "").unwrap();
    let (code, said) = end_of(trainer);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("could not be written") && said.contains("checkpoints/.step-"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let reason = said.trim().rsplit(": ").next().unwrap();
    assert_eq!(said.matches(reason).count(), 1, "{said}");

    std::fs::remove_file(run.join("checkpoints")).unwrap();
    std::fs::rename(run.join("elsewhere"), run.join("checkpoints")).unwrap();
    let end = format!("train.steps={}", steps(&run).last().unwrap() + 3);
    let output = bench.run(&["--resume", run.to_str().unwrap(), "--set", &end]);
    assert!(output.status.success() && !stderr(&output).contains("warning"), "{}", stderr(&output));
}

/// A trainer that the rules for files hold for, which they do not for root.
fn ruled(bench: &Bench, words: &[&str]) -> std::process::Command {
    let program = bench.path("trainer");
    if !program.exists() {
        // Where the program and the experiment lie, others may not look.
        std::fs::copy(env!("CARGO_BIN_EXE_ddpm-train"), &program).unwrap();
        let experiment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/points-swiss-roll.toml");
        std::fs::copy(experiment, bench.path("points.toml")).unwrap();
    }
    let mut command = std::process::Command::new(program);
    command.current_dir(bench.path("")).args(words);
    if std::fs::metadata(bench.path("")).unwrap().uid() == 0 {
        allow(&bench.path(""), 0o777);
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A user without rights.
const NOBODY: u32 = 65534;

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn permissions_that_are_missing_or_lost_are_named_and_nothing_else_is_lost() {
    let bench = Bench::new();
    let points = [&["--experiment", "points.toml"], &RESTLESS[2..]].concat();
    std::fs::create_dir(bench.path("closed")).unwrap();
    allow(&bench.path("closed"), 0o555);
    let output = ruled(&bench, &words(&points, &["--runs", "closed"])).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot make the folder closed/points-") && said.contains("Permission denied"), "{said}");

    let sets = ["--set", "train.steps=100000000", "--set", "train.keep_checkpoints=3"];
    let trainer = ruled(&bench, &words(&points, &sets)).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let run = run_with(&bench.path("runs"), "checkpoints/step-00000010");
    allow(&run.join("checkpoints"), 0o555);
    let (code, said) = end_of(trainer);
    assert_eq!(code, Some(1), "{said}");
    for part in ["could not be written", "checkpoints/.step-", "Permission denied"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");

    allow(&run.join("checkpoints"), 0o777);
    let end = format!("train.steps={}", steps(&run).last().unwrap() + 3);
    let output = ruled(&bench, &["--resume", run.to_str().unwrap(), "--set", &end]).output().unwrap();
    assert!(output.status.success() && !stderr(&output).contains("warning"), "{}", stderr(&output));
}

/// A trainer whose files may have so many blocks of 512 bytes.
fn limited(bench: &Bench, blocks: u32, words: &[&str]) -> std::process::Output {
    let script = format!("ulimit -f {blocks} && exec \"$0\" \"$@\"");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_ddpm-train")]).args(words);
    shell.current_dir(bench.path("")).output().unwrap()
}

#[test]
fn metrics_that_can_no_longer_be_written_are_told_once_and_training_goes_on() {
    let bench = Bench::new();
    // Checkpoints have room, and hundreds of lines have not.
    let sets = ["--set", "train.steps=600", "--set", "train.log_every=1", "--set", "train.checkpoint_every=600"];
    let output = limited(&bench, 200, &words(&RESTLESS, &sets));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{:?}: {said}", output.status);
    assert_eq!(said.matches("metrics.jsonl: metrics are no longer all written: File too large").count(), 1, "{said}");
    assert_eq!(steps(&run_with(&bench.path("runs"), "config.toml")), [600]);
}

#[test]
fn a_file_that_may_not_grow_so_large_is_an_error_and_not_the_end_of_the_process() {
    let bench = Bench::new();
    let sets = ["--set", "model.hidden=[64, 64]", "--set", "train.steps=6"];
    let run = bench.train(&words(&RESTLESS, &sets));
    let name = run.to_str().unwrap();
    // Less than the weights take.
    let output = limited(&bench, 64, &["--resume", name, "--set", "train.steps=100000000"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{:?}: {said}", output.status);
    for part in ["the checkpoint of step 10 could not be written", ".bpk", "File too large"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(steps(&run), [5, 6]);

    let output = bench.run(&["--resume", name, "--set", "train.steps=12"]);
    assert!(output.status.success() && !stderr(&output).contains("warning"), "{}", stderr(&output));
    assert!(stderr(&output).contains("going on after step 6"), "{}", stderr(&output));
    let twelve = ["--runs", "whole", "--set", "train.steps=12"];
    let whole = bench.train(&words(&RESTLESS, &[&sets[..2], &twelve].concat()));
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&run, 12, name) == checkpoint_file(&whole, 12, name), "{name} differs");
    }
}

/// Six steps of points, with one checkpoint at the end.
const SIX: [&str; 4] = ["--set", "train.steps=6", "--set", "train.checkpoint_every=100000"];

#[test]
fn a_trainer_outlives_its_terminal() {
    let bench = Bench::new();
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let ends = |runs: &str, stderr: Stdio| {
        let mut trainer = bench
            .command(&words(&["--runs", runs], &words(&RESTLESS, &SIX)))
            .stderr(stderr)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Whoever read it is gone before the first line.
        drop(trainer.stderr.take());
        let code = trainer.wait().unwrap().code();
        (code, steps(&run_with(&bench.path(runs), "config.toml")))
    };
    assert_eq!(ends("gone", Stdio::piped()), (Some(0), vec![6]));
    assert_eq!(ends("full", full()), (Some(0), vec![6]));

    // Nor is a folder that cannot be printed a training that failed.
    let mut trainer = bench.command(&words(&["--runs", "mute"], &words(&RESTLESS, &SIX)));
    let output = trainer.stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("warning: cannot write to stdout: No space left"), "{}", stderr(&output));

    // What a command prints and nobody reads is no failure; what a disk does not take is one, in one line.
    let mut list = bench.command(&["list", "--runs", "full"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(list.stdout.take());
    assert_eq!(list.wait().unwrap().code(), Some(0));
    let list = bench.command(&["list", "--runs", "full"]).stdout(full()).output().unwrap();
    assert_eq!(list.status.code(), Some(1));
    assert!(stderr(&list).starts_with("error: cannot write to stdout: No space left"), "{}", stderr(&list));
}

#[cfg(target_os = "linux")]
#[test]
fn a_hang_up_that_is_ignored_does_not_stop_a_training() {
    let bench = Bench::new();
    let sets = ["--set", "train.steps=3000", "--set", "train.checkpoint_every=100000"];
    // As `nohup` does.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ddpm-train")]);
    shell.args(words(&RESTLESS, &sets)).current_dir(bench.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let trainer = shell.spawn().unwrap();
    let run = run_with(&bench.path("runs"), "metrics.jsonl");
    wait_for("a line", || std::fs::read(run.join("metrics.jsonl")).is_ok_and(|text| !text.is_empty()).then_some(()));
    signal("HUP", &trainer);
    let (code, said) = end_of(trainer);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(steps(&run), [3000]);
}

#[test]
fn a_checkpoint_is_written_after_so_many_minutes_too() {
    let bench = Bench::new();
    let sets =
        ["--set", "train.steps=4", "--set", "train.checkpoint_every=100000", "--set", "train.keep_checkpoints=9"];
    let sets = words(&RESTLESS, &sets);
    let run = bench.train(&words(&["--runs", "often", "--set", "train.checkpoint_minutes=1e-9"], &sets));
    assert_eq!(steps(&run), [1, 2, 3, 4]);
    let never = bench.train(&words(&["--runs", "never", "--set", "train.checkpoint_minutes=0"], &sets));
    assert_eq!(steps(&never), [4]);
    assert!(checkpoint_file(&run, 4, "model.bpk") == checkpoint_file(&never, 4, "model.bpk"));
    let (code, said) = bench.refusal(&["--set", "train.checkpoint_minutes=-1"]);
    assert!(code == 2 && said.contains("train.checkpoint_minutes: must be 0 or more"), "{said}");
}

#[test]
fn a_run_without_a_checkpoint_begins_again_to_the_same_bits() {
    let bench = Bench::new();
    let endless = ["--set", "train.steps=100000000", "--set", "train.checkpoint_every=100000000", "--seed", "5"];
    let mut trainer = bench.command(&words(&RESTLESS, &endless)).stderr(Stdio::null()).spawn().unwrap();
    let run = run_with(&bench.path("runs"), "metrics.jsonl");
    wait_for("a line", || std::fs::read(run.join("metrics.jsonl")).is_ok_and(|text| !text.is_empty()).then_some(()));
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    assert!(steps(&run).is_empty());

    let output = bench.run(&["--resume", "latest", "--set", "train.steps=12"]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no checkpoint") && said.contains("step 0"), "{said}");
    let twelve =
        ["--runs", "whole", "--seed", "5", "--set", "train.steps=12", "--set", "train.checkpoint_every=100000000"];
    let whole = bench.train(&words(&RESTLESS, &twelve));
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&run, 12, name) == checkpoint_file(&whole, 12, name), "{name} differs");
    }
    assert_eq!(metrics(&run), metrics(&whole));
    // A checkpoint that is asked for by its step must be there.
    let (code, said) = bench.refusal(&["--resume", "latest", "--step", "7"]);
    assert!(code == 1 && said.contains('7'), "{said}");
}

#[test]
fn a_snapshot_that_cannot_be_written_is_told_and_made_when_the_run_goes_on() {
    let bench = Bench::new();
    let run = bench.train(&words(&RESTLESS, &["--set", "train.steps=6"]));
    let name = run.to_str().unwrap();
    std::fs::rename(run.join("snapshots"), run.join("elsewhere")).unwrap();
    std::fs::write(run.join("snapshots"), "").unwrap();
    let (code, said) = bench.refusal(&["--resume", name, "--set", "train.steps=9"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("snapshot of step 9"), "{said}");
    // The checkpoint was first.
    assert_eq!(steps(&run), [6, 9]);
    let state = || {
        let list = bench.run(&["list", "--json"]);
        let runs: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
        runs[0]["state"].as_str().unwrap().to_string()
    };
    assert_eq!(state(), "stopped: no snapshot");

    std::fs::remove_file(run.join("snapshots")).unwrap();
    std::fs::rename(run.join("elsewhere"), run.join("snapshots")).unwrap();
    let output = bench.run(&["--resume", name]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(run.join("snapshots/step-00000009").exists());
    assert_eq!(state(), "done");
    let torn = |dir: &str| {
        std::fs::read_dir(run.join(dir))
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with('.'))
    };
    assert!(!torn("snapshots") && !torn("checkpoints"));
}

/// A chain whose last step has hardly any signal, and a weight of its loss that no number of 32 bits can hold.
const CHANCY: [&str; 12] = [
    "--set",
    "diffusion.schedule={ kind = \"explicit\", betas = [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.9999] }",
    "--set",
    "diffusion.weighting={ kind = \"p2\", k = 1e-9, gamma = 20.0 }",
    "--set",
    "train.batch_size=1",
    "--set",
    "train.max_skips=30",
    "--set",
    "train.log_every=2",
    "--set",
    "train.checkpoint_every=7",
];

#[test]
fn steps_that_are_not_finite_are_skipped_and_counted() {
    let bench = Bench::new();
    let sets = [&CHANCY[..], &["--set", "train.on_non_finite=skip"]].concat();
    let sets: Vec<&str> = [&RESTLESS[..], &sets].concat();
    let whole = bench.train(&words(&["--runs", "a", "--set", "train.steps=60"], &sets));
    let last: serde_json::Value = serde_json::from_str(&format!("{}}}", metrics(&whole).last().unwrap())).unwrap();
    let skipped = last["skipped"].as_u64().unwrap();
    assert!((1..30).contains(&skipped), "one step in eight: {skipped}");
    assert!(last["loss"].is_number() && last["weight_norm"].as_f64().unwrap().is_finite());

    let half = bench.train(&words(&["--runs", "b", "--set", "train.steps=31"], &sets));
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=60"]);
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&whole, 60, name) == checkpoint_file(&half, 60, name), "{name} differs");
    }
    assert_eq!(metrics(&whole), metrics(&half));
}

#[test]
fn too_many_steps_that_are_not_finite_stop_the_run_and_name_the_parameter() {
    let bench = Bench::new();
    let sets: Vec<&str> = [&RESTLESS[..], &CHANCY, &["--set", "train.steps=60"]].concat();
    let (code, said) = bench.refusal(&sets);
    assert_eq!(code, 1);
    assert!(said.contains("not finite") && said.contains("first in the gradient of layers."), "{said}");
    let all = [&sets[..], &["--set", "diffusion.schedule={ kind = \"explicit\", betas = [0.9999, 0.9999] }"]].concat();
    let patient = [&all[..], &["--set", "train.on_non_finite=skip", "--set", "train.max_skips=3"]].concat();
    let (code, said) = bench.refusal(&patient);
    assert_eq!(code, 1);
    for part in ["(1 in a row, at most 3)", "(3 in a row, at most 3)", "step 4: ", "after 3 skipped in a row"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
}

/// The lines of metrics as numbers by name.
fn numbers(run: &Path) -> Vec<serde_json::Value> {
    metrics(run).into_iter().map(|line| serde_json::from_str(&format!("{line}}}")).unwrap()).collect()
}

#[test]
fn steps_with_large_gradients_are_skipped_and_counted() {
    let bench = Bench::new();
    let every = ["--set", "train.log_every=1", "--set", "train.max_skips=60"];
    let usual = bench.train(&words(&words(&["--runs", "a", "--set", "train.steps=60"], &RESTLESS), &every));
    let norm = |line: &serde_json::Value| line["grad_norm"].as_f64().unwrap();
    let mut norms: Vec<f64> = numbers(&usual).iter().map(norm).collect();
    norms.sort_by(f64::total_cmp);
    assert!(numbers(&usual).iter().all(|line| line.get("clipped").is_none()));

    let (clip, skip) = (norms[15], norms[45]);
    let limits = [format!("optimizer.clip_norm={clip}"), format!("optimizer.skip_norm={skip}")];
    let sets = words(&words(&RESTLESS, &every), &["--set", &limits[0], "--set", &limits[1]]);
    let output = bench.run(&words(&["--runs", "b", "--set", "train.steps=60"], &sets));
    let (whole, said) = (bench.path(&last_line(&output)), stderr(&output));
    let (mut clipped, mut skipped, mut weights) = (0, 0, None);
    for line in numbers(&whole) {
        let is_large = norm(&line) > skip;
        skipped += u64::from(is_large);
        clipped += u64::from(norm(&line) > clip && !is_large);
        assert_eq!([&line["clipped"], &line["skipped"]].map(|count| count.as_u64().unwrap()), [clipped, skipped]);
        assert!(!is_large || weights.is_none() || weights == Some(line["weight_norm"].clone()), "{line}");
        weights = Some(line["weight_norm"].clone());
    }
    assert!(clipped > 0 && (1..60).contains(&skipped), "{clipped} {skipped}");
    for part in [
        format!("is above optimizer.skip_norm = {skip}; the step is skipped (1 in a row, at most 60)"),
        format!("clipped {clipped}, skipped {skipped}"),
        format!("of 60 steps {clipped} were clipped (norm above {clip}) and {skipped} skipped (norm above {skip})"),
    ] {
        assert!(said.contains(&part), "{part} is missing: {said}");
    }

    let half = bench.train(&words(&["--runs", "c", "--set", "train.steps=31"], &sets));
    bench.train(&["--resume", half.to_str().unwrap(), "--set", "train.steps=60"]);
    for name in ["model.bpk", "ema.bpk", "state.json"] {
        assert!(checkpoint_file(&whole, 60, name) == checkpoint_file(&half, 60, name), "{name} differs");
    }
    assert_eq!(metrics(&whole), metrics(&half));
}

#[test]
fn too_many_steps_with_large_gradients_stop_the_run() {
    let bench = Bench::new();
    let limits = ["--set", "optimizer.clip_norm=0", "--set", "optimizer.skip_norm=1e-9", "--set", "train.max_skips=3"];
    let (code, said) = bench.refusal(&words(&words(&RESTLESS, &limits), &["--set", "train.steps=60"]));
    assert_eq!(code, 1);
    for part in ["(3 in a row, at most 3)", "step 4: the norm", "skip_norm = 0.000000001", "after 3 skipped in a row"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    // A higher limit is enough to go on.
    let run = run_with(&bench.path("runs"), "metrics.jsonl");
    bench.train(&["--resume", run.to_str().unwrap(), "--set", "optimizer.skip_norm=1e9", "--set", "train.steps=5"]);
    let (code, said) = bench.refusal(&["--set", "optimizer.clip_norm=2", "--set", "optimizer.skip_norm=1"]);
    assert!(code == 2 && said.contains("optimizer.skip_norm: must be 0 or above optimizer.clip_norm = 2"), "{said}");
}
