//! Evaluations of a run: every snapshot and every width of the average, kept with the run, and in its report.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::Parser;
use ddpm_eval::record::{Record, read};
use ddpm_files::runs::RunFolder;
use ddpm_infer::commands::evaluate::{self, EvalArgs};
use support::{Bench, TINY_DIGITS};

use crate::support;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    eval: EvalArgs,
}

/// What `ddpm-infer eval` does with these words, on few samples by their pixels.
fn eval(bench: &Bench, words: &[&str]) -> anyhow::Result<String> {
    let work = bench.path("work");
    let fixed = ["eval", "--work", work.to_str().unwrap(), "--count", "30", "--steps", "2", "--subsets", "2"];
    evaluate::run(&Command::try_parse_from([&fixed[..], &["--extractor", "pixels"], words].concat())?.eval)
}

fn train(bench: &Bench, more: &[&str]) -> std::path::PathBuf {
    let sets = ["--set", "train.steps=6", "--set", "train.snapshot_every=3"];
    bench.train(&[&sets[..], more, &TINY_DIGITS].concat())
}

fn kept(run: &Path) -> Vec<Record> {
    read(&RunFolder(run.to_path_buf()).evaluations())
}

const WIDTHS: [&str; 2] = ["--set", "ema.post_hoc={ widths = [0.05, 0.1], every = 2 }"];

#[test]
fn every_width_and_snapshot_is_judged_kept_and_reported() {
    let bench = Bench::new();
    let run = train(&bench, &WIDTHS);
    let (word, out) = (run.to_str().unwrap(), bench.path("o"));
    let found =
        eval(&bench, &["--run", word, "--every-width", "--every-snapshot", "--out", out.to_str().unwrap()]).unwrap();
    let about = |record: &Record| (record.sampling.step, record.sampling.width);
    let records = kept(&run);
    // The averages were stored at 2, 4 and 6: the last ones before the snapshot of step 3 are those of step 2.
    let expected = [(3, None), (2, Some(0.05)), (2, Some(0.1)), (6, None), (6, Some(0.05)), (6, Some(0.1))];
    assert_eq!(records.iter().map(about).collect::<Vec<_>>(), expected);
    for part in ["samples: ddim 2\n", "step 3 (30)  ", "step 2 width 0.05 (30)  ", "step 6 width 0.1 (30)  "] {
        assert!(found.contains(part), "{part}: {found}");
    }
    let table = std::fs::read_to_string(out.join("table.csv")).unwrap();
    assert!(table.contains(",6,0.05,ddim,2,0,1,\n") && table.contains(",3,usual,ddim,2,0,1,\n"), "{table}");
    let plot = std::fs::read_to_string(out.join("plot.svg")).unwrap();
    for part in ["training step", "ddim 2, width 0.1", "ddim 2, usual"] {
        assert!(plot.contains(part), "{part}: {plot}");
    }

    // Each number is the one that its weights have alone, wherever the path to them comes from.
    let alone = run.join("averages/width-0.05/step-00000006");
    eval(&bench, &["--from", alone.to_str().unwrap()]).unwrap();
    let records = kept(&run);
    assert_eq!(records.len(), 7);
    assert_eq!(about(&records[6]), (6, Some(0.05)));
    assert_eq!(records[6].evaluation.measured, records[4].evaluation.measured);
    assert_ne!(records[6].evaluation.measured, records[3].evaluation.measured);
    assert_eq!(records[3].floors.len(), 2);

    // Only widths: over the width, with the usual one as a mark.
    let found = eval(&bench, &["--run", word, "--every-width", "--out", out.to_str().unwrap()]).unwrap();
    assert!(found.contains("step 6 width 0.1") && !found.contains("step 2"), "{found}");
    let plot = std::fs::read_to_string(out.join("plot.svg")).unwrap();
    assert!(plot.contains("width of the average") && plot.contains(">0.05<") && plot.contains(", usual"), "{plot}");

    let printed = bench.run(&["report", word]);
    assert!(printed.status.success());
    let html = std::fs::read_to_string(run.join("report.html")).unwrap();
    for part in [
        "<h2>Evaluations</h2>",
        "Against digits test",
        "<td>width 0.05</td>",
        "class=\"mark\"",
        "ddim 2, width 0.1",
        "<p class=\"warning\">Warning: 30 items for 64 features",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    // Measured again is not shown twice: three averages at 6, two at 2, one at 3, and two floors.
    let section = html.split("<h2>Evaluations</h2>").nth(1).unwrap().split("</table>").next().unwrap();
    assert_eq!(section.matches("<tr>").count(), 1 + 6 + 2, "{section}");
}

#[test]
fn an_evaluation_is_not_lost_with_the_run() {
    let bench = Bench::new();
    let run = train(&bench, &[]);
    // A folder stands where the file should: nothing can be added to it.
    std::fs::create_dir(run.join("evaluations.jsonl")).unwrap();
    let found = eval(&bench, &["--run", run.to_str().unwrap()]).unwrap();
    assert!(found.lines().last().unwrap().starts_with("FD (pixels"), "{found}");
    let refused = eval(&bench, &["--run", run.to_str().unwrap(), "--every-width"]).unwrap_err().to_string();
    assert!(refused.contains("--every-width") && refused.contains("ema.post_hoc"), "{refused}");
    let from = run.join("snapshots/step-00000006");
    assert!(eval(&bench, &["--from", from.to_str().unwrap(), "--every-width"]).is_err());
}
