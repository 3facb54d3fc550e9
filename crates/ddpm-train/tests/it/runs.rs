//! Looking after runs: list, show, prune, report.
#![allow(clippy::unwrap_used)]

use crate::support;

use std::path::Path;

use support::{Bench, TINY_DIGITS, stderr};

fn run_of_six(bench: &Bench, more: &[&str]) -> std::path::PathBuf {
    let sets = ["--set", "train.steps=6", "--set", "train.checkpoint_every=2", "--set", "train.snapshot_every=3"];
    bench.train(&[&sets[..], &["--set", "train.keep_checkpoints=9"], &TINY_DIGITS, more].concat())
}

fn said(bench: &Bench, words: &[&str]) -> String {
    let output = bench.run(words);
    assert!(output.status.success(), "{words:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn runs_are_listed_shown_and_pruned() {
    let bench = Bench::new();
    assert!(said(&bench, &["list"]).contains("there is no run in runs"));
    let run = run_of_six(&bench, &[]);
    let name = run.file_name().unwrap().to_str().unwrap();
    let list = said(&bench, &["list"]);
    let row = list.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(row.contains("done") && row.contains("6 of 6"), "{list}");

    let model = run.join("checkpoints/step-00000004/model.bpk");
    let mut bytes = std::fs::read(&model).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&model, bytes).unwrap();
    let show = said(&bench, &["show", name]);
    for part in ["done, step 6 of 6", "seed         0", "flex", "loss_q1", "step-00000006, ", "whole"] {
        assert!(show.contains(part), "{part} is missing: {show}");
    }
    assert!(show.contains("damaged: ") && show.contains("step-00000004/model.bpk has changed"), "{show}");

    // First only said, then done; the damaged one does not count.
    let [all, snapshots] = ["checkpoints", "snapshots"].map(|kind| names(&run.join(kind)));
    assert_eq!((all.len(), snapshots.len()), (3, 2));
    let dry = said(&bench, &["prune", name, "--keep", "2"]);
    assert!(dry.contains("step-00000004, damaged") && dry.contains("add --yes"), "{dry}");
    assert!(!dry.contains("step-00000002"), "{dry}");
    assert_eq!(names(&run.join("checkpoints")), all);
    said(&bench, &["prune", name, "--keep", "1", "--keep-snapshots", "1", "--yes"]);
    assert_eq!(names(&run.join("checkpoints")), ["step-00000006"]);
    assert_eq!(names(&run.join("snapshots")), ["step-00000006"]);
    assert!(said(&bench, &["prune", name, "--keep", "1", "--yes"]).contains("nothing is to be removed"));

    let (code, refused) = bench.refusal(&["prune", name, "--keep", "0"]);
    assert_eq!(code, 2, "{refused}");
    let (code, refused) = bench.refusal(&["show", "yesterday"]);
    assert!(
        code == 1 && refused.contains("there is no run yesterday; there are: ") && refused.contains(name),
        "{refused}"
    );
    // With nothing whole left, nothing is taken away.
    std::fs::remove_file(run.join("checkpoints/step-00000006/ema.bpk")).unwrap();
    let (code, refused) = bench.refusal(&["prune", name, "--keep", "1", "--yes"]);
    assert!(code == 1 && refused.contains("no checkpoint that is whole"), "{refused}");
    assert_eq!(names(&run.join("checkpoints")), ["step-00000006"]);
}

/// Whether every tag that is opened is closed, in order.
fn is_well_formed(html: &str) -> bool {
    let mut open = Vec::new();
    for tag in html.split('<').skip(1).map(|part| part.split('>').next().unwrap()) {
        let name = tag.split(|c: char| c.is_whitespace()).next().unwrap().trim_end_matches('/');
        match name.strip_prefix('/') {
            Some(closed) if open.pop() != Some(closed) => return false,
            None if !tag.ends_with('/') && !["!DOCTYPE", "meta", "img"].contains(&name) => open.push(name),
            _ => {}
        }
    }
    open.is_empty()
}

#[test]
fn reports_need_nothing_but_themselves() {
    let bench = Bench::new();
    let run = run_of_six(&bench, &["--set", "preview.every=3"]);
    let html = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(is_well_formed(&html));
    for part in
        ["6 of 6", "Loss by noise level", "<polyline", "data:image/png;base64,iVBOR", "base_channels = 8", "flex"]
    {
        assert!(html.contains(part), "{part} is missing");
    }
    assert!(!html.contains("src=\"http") && !html.contains("href=") && !html.contains("<script"));

    let other = run_of_six(&bench, &["--set", "optimizer.learning_rate=0.01", "--set", "train.seed=3"]);
    let paths = [&run, &other].map(|run| run.to_str().unwrap());
    let printed = said(&bench, &["report", paths[0], paths[1], "--out", "both.html"]);
    assert_eq!(printed.trim(), "both.html");
    let both = std::fs::read_to_string(bench.path("both.html")).unwrap();
    assert!(is_well_formed(&both));
    for part in ["2 runs", "<td>optimizer.learning_rate</td>", "<td>train.seed</td>", "Loss, most noise"] {
        assert!(both.contains(part), "{part} is missing");
    }
    assert!(!both.contains("<td>train.steps</td>"), "it is the same in both");
    let (code, refused) = bench.refusal(&["report", paths[0], "--out", "nowhere/x.html"]);
    assert!(code == 1 && refused.contains("cannot write nowhere/x.html"), "{refused}");
}
