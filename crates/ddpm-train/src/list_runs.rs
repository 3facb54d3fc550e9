//! `ddpm-train list`: the runs there are.

use std::path::PathBuf;

use ddpm_files::runs::{list, steps_in};
use serde_json::{Value, json};

use crate::facts::{Facts, bytes_in, mib};
use crate::started_as;
use ddpm_console::output::print;
use ddpm_console::say;

/// The arguments of `ddpm-train list`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_files::runs::RUNS)]
    runs: PathBuf,
    /// Prints JSON: an array with an object for each run.
    #[arg(long)]
    json: bool,
}

/// Prints a table, one row a run.
pub fn run(args: &ListArgs) -> anyhow::Result<()> {
    let runs: Vec<Facts> = list(&args.runs).iter().map(Facts::read).collect();
    if args.json {
        let runs: Vec<Value> = runs.iter().map(json).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&runs)?));
    }
    if runs.is_empty() {
        say!("there is no run in {}; to train one: {}", args.runs.display(), started_as::without_arguments());
        return Ok(());
    }
    let mut rows = vec![["run", "state", "step", "loss", "checkpoints", "snapshots", "size"].map(String::from)];
    rows.extend(runs.iter().map(|facts| {
        [
            facts.name(),
            facts.state().into(),
            format!("{} of {}", facts.step(), facts.steps().map_or("?".into(), |steps| steps.to_string())),
            facts.newest("loss").map_or("-".into(), |loss| format!("{loss:.4}")),
            steps_in(&facts.run.checkpoints()).len().to_string(),
            steps_in(&facts.run.snapshots()).len().to_string(),
            mib(bytes_in(&facts.run.0)),
        ]
    }));
    print(&table(&rows))
}

/// The row of a run for programs.
fn json(facts: &Facts) -> Value {
    json!({
        "run": facts.name(),
        "path": facts.run.0.to_string_lossy(),
        "experiment": facts.manifest.as_ref().map(|manifest| &manifest.experiment),
        "state": facts.state(),
        "step": facts.step(),
        "steps": facts.steps(),
        "loss": facts.newest("loss"),
        "checkpoints": steps_in(&facts.run.checkpoints()).len(),
        "snapshots": steps_in(&facts.run.snapshots()).len(),
        "bytes": bytes_in(&facts.run.0),
    })
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|k| rows.iter().map(|row| row[k].chars().count()).max().unwrap_or_default());
    let line = |row: &[String; N]| {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}
