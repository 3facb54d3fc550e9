//! `ddpm-train list`: the runs there are.

use std::path::PathBuf;

use ddpm_infer::runs::{list, steps_in};

use crate::facts::{Facts, bytes_in, mib};

/// The words of `ddpm-train list`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_infer::runs::RUNS)]
    runs: PathBuf,
}

/// Prints a table, one row a run.
pub fn run(args: &ListArgs) -> anyhow::Result<()> {
    let runs = list(&args.runs);
    if runs.is_empty() {
        eprintln!("there is no run in {}; to train one: cargo run -p ddpm-train", args.runs.display());
        return Ok(());
    }
    let mut rows = vec![["run", "state", "step", "loss", "checkpoints", "snapshots", "size"].map(String::from)];
    rows.extend(runs.iter().map(|run| {
        let facts = Facts::read(run);
        [
            facts.name(),
            facts.state().into(),
            format!("{} of {}", facts.step(), facts.steps().map_or("?".into(), |steps| steps.to_string())),
            facts.newest("loss").map_or("-".into(), |loss| format!("{loss:.4}")),
            steps_in(&run.checkpoints()).len().to_string(),
            steps_in(&run.snapshots()).len().to_string(),
            mib(bytes_in(&run.0)),
        ]
    }));
    print!("{}", table(&rows));
    Ok(())
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
