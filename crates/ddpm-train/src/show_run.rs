//! `ddpm-train show RUN`: what made a run, where it stands, and whether its checkpoints are whole.

use std::path::PathBuf;

use ddpm_infer::runs::{RunFolder, steps_in};

use crate::checksums::Checksums;
use crate::facts::{Facts, bytes_in, mib};

/// The words of `ddpm-train show`.
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    /// The run: its folder, or its name in the runs folder.
    #[arg(value_name = "RUN")]
    run: String,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_infer::runs::RUNS)]
    runs: PathBuf,
}

/// Prints all about it. Every checkpoint is read and compared with its checksums.
pub fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let run = RunFolder::find(&args.runs, &args.run)?;
    let facts = Facts::read(&run);
    println!("{}", run.0.display());
    let steps = facts.steps().map_or("?".into(), |steps| steps.to_string());
    println!("{}, step {} of {steps}, {}", facts.state(), facts.step(), mib(bytes_in(&run.0)));
    let origin = match &facts.manifest {
        Some(manifest) => {
            println!("experiment   {}", manifest.experiment);
            println!("data         {}", manifest.data);
            println!("parameters   {}", manifest.parameters);
            println!("seed         {}", manifest.seed);
            for start in &manifest.starts {
                let commit = start.commit.as_deref().unwrap_or("unknown");
                println!(
                    "start        {} from step {} on {}, commit {commit}",
                    start.at, start.from_step, start.device
                );
            }
            manifest.origin()
        }
        None => {
            println!("manifest.json cannot be read");
            String::new()
        }
    };
    if let Some(line) = facts.lines.last() {
        for (name, value) in line.iter().filter(|(name, _)| *name != "time") {
            println!("{name:<15} {value}");
        }
    }
    for (_, path) in steps_in(&run.checkpoints()) {
        let state = match Checksums::verify(&path, &origin) {
            Ok(true) => "whole".into(),
            Ok(false) => "without checksums".into(),
            Err(error) => format!("damaged: {error}"),
        };
        println!("checkpoint   {}, {}, {state}", path.display(), mib(bytes_in(&path)));
    }
    for (_, path) in steps_in(&run.snapshots()) {
        println!("snapshot     {}, {}", path.display(), mib(bytes_in(&path)));
    }
    Ok(())
}
