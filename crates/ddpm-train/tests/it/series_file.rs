//! `--data FILE`: training on a file of time series without an experiment.

use std::fmt::Write;

use crate::support::{Bench, last_line, stderr};

/// Days with two variables, the second with holes, and a column of words.
fn table(rows: usize) -> String {
    let mut text = String::from("day,warm,wet,note\n");
    for row in 0..rows {
        let wet = if row % 7 == 3 { String::new() } else { (row % 4).to_string() };
        let (month, day) = match row {
            0..31 => (1, row),
            31..59 => (2, row - 31),
            _ => (3, row - 59),
        };
        let _ = writeln!(text, "2021-{month:02}-{:02},{},{wet},x", day + 1, row % 9);
    }
    text
}

/// Steps and sizes that take no time.
const TINY: [&str; 10] = [
    "--set",
    "train.steps=2",
    "--set",
    "train.batch_size=2",
    "--set",
    "preview.count=0",
    "--set",
    "validation.every=0",
    "--set",
    "optimizer.warmup_steps=1",
];

#[test]
fn a_table_is_trained_on_without_an_experiment() {
    let bench = Bench::new();
    std::fs::write(bench.path("room.csv"), table(80)).unwrap();
    for (horizon, sizes, family, next) in [
        (
            &["--horizon", "3"][..],
            ["model.cells=4", "model.conditioning_length=4"],
            "timegrad",
            "forecast --data room.csv --horizon 3",
        ),
        (&[], ["model.layers=1", "model.channels=4"], "masked", "impute --data room.csv"),
    ] {
        let sizes = sizes.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>();
        let output = bench.run(&[&["--data", "room.csv"][..], horizon, &TINY, &sizes].concat());
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        for part in [
            "80 rows of 2 variables, every d from 2021-01-01T00:00:00",
            "column `note` has words and is left out",
            "values are missing",
            "the first 64 rows are for training, the last 16 for the test",
            &format!("to use the model: cargo xtask {next}"),
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        let run = bench.path(&last_line(&output));
        assert!(run.file_name().unwrap().to_str().unwrap().starts_with(&format!("room-{family}-")), "{run:?}");
        let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(config.contains("kind = \"series\"\npath = \"room.csv\""), "{config}");
        // It goes on as any other run does.
        let run = run.to_str().unwrap();
        bench.train(&["--resume", run, "--set", "train.steps=3"]);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let bench = Bench::new();
    std::fs::write(bench.path("room.csv"), table(80)).unwrap();
    for (words, expected) in [
        (&["--data", "room.csv", "--experiment", "digits"][..], "cannot be used with"),
        (&["--horizon", "3"], "--data"),
        (&["--data", "room.csv", "--horizon", "0"], "0"),
        (
            &["--data", "room.csv", "--horizon", "50"],
            "room.csv has 80 rows, and forecasts of 50 steps are learned from at least 150",
        ),
        (&["--data", "room.csv", "--set", "timegrad.horizon=3"], "the experiment for room.csv"),
    ] {
        let (code, said) = bench.refusal(words);
        assert!(code == 2 && said.contains(expected), "{words:?}: {code} {said}");
    }
    let (_, said) = bench.refusal(&["--data", "none.csv"]);
    assert!(said.contains("none.csv"), "{said}");
    assert!(!bench.path("runs").exists(), "nothing was begun");
}
