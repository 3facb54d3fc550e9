//! `ddpm-train show RUN`: what made a run, where it stands, and whether its checkpoints are whole.

use std::path::PathBuf;

use ddpm_files::runs::{RunFolder, steps_in};
use serde_json::{Value, json};

use crate::checksums::Checksums;
use crate::facts::{Facts, bytes_in, mib, rounded};
use crate::manifest::Manifest;
use ddpm_console::output::print;

/// The arguments of `ddpm-train show`.
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    /// The run: its folder, or its name in the runs folder.
    #[arg(value_name = "RUN")]
    run: String,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_files::runs::RUNS)]
    runs: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Prints all about it. Every checkpoint is read and compared with its checksums.
pub fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let run = RunFolder::find(&args.runs, &args.run)?;
    let facts = Facts::read(&run);
    let checkpoints =
        steps_in(&run.checkpoints()).into_iter().map(|(step, path)| Checkpoint::check(step, path, &facts));
    let checkpoints: Vec<Checkpoint> = checkpoints.collect();
    match args.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&json(&facts, &checkpoints))?)),
        false => print(&text(&facts, &checkpoints)),
    }
}

/// A checkpoint, and whether it is as it was written.
struct Checkpoint {
    step: u64,
    path: PathBuf,
    state: &'static str,
    damage: Option<String>,
}

impl Checkpoint {
    fn check(step: u64, path: PathBuf, facts: &Facts) -> Self {
        let origin = facts.manifest.as_ref().map(Manifest::origin).unwrap_or_default();
        let (state, damage) = match Checksums::verify(&path, &origin) {
            Ok(true) => ("whole", None),
            Ok(false) => ("without checksums", None),
            Err(error) => ("damaged", Some(error.to_string())),
        };
        Self { step, path, state, damage }
    }
}

fn text(facts: &Facts, checkpoints: &[Checkpoint]) -> String {
    let run = &facts.run;
    let steps = facts.steps().map_or("?".into(), |steps| steps.to_string());
    let mut lines = vec![
        run.0.display().to_string(),
        format!("{}, step {} of {steps}, {}", facts.state(), facts.step(), mib(bytes_in(&run.0))),
    ];
    match &facts.manifest {
        Some(manifest) => lines.extend(origin(manifest)),
        None => lines.push("manifest.json cannot be read".into()),
    }
    let newest = facts.lines.last().into_iter().flatten().filter(|(name, _)| *name != "time");
    lines.extend(newest.map(|(name, value)| format!("{name:<15} {}", rounded(*value))));
    lines.extend(checkpoints.iter().map(|Checkpoint { path, state, damage, .. }| {
        let damage = damage.as_ref().map_or_else(String::new, |damage| format!(": {damage}"));
        format!("checkpoint   {}, {}, {state}{damage}", path.display(), mib(bytes_in(path)))
    }));
    let snapshots = steps_in(&run.snapshots());
    lines.extend(snapshots.iter().map(|(_, path)| format!("snapshot     {}, {}", path.display(), mib(bytes_in(path)))));
    lines.join("\n") + "\n"
}

/// What made the run.
fn origin(manifest: &Manifest) -> Vec<String> {
    let mut lines = vec![
        format!("experiment   {}", manifest.experiment),
        format!("data         {}", manifest.data),
        format!("parameters   {}", manifest.parameters),
        format!("seed         {}", manifest.seed),
    ];
    lines.extend(manifest.from.iter().map(|from| format!("from         {}", from.display())));
    lines.extend(manifest.starts.iter().map(|start| {
        let commit = start.commit.as_deref().unwrap_or("unknown");
        format!("start        {} from step {} on {}, commit {commit}", start.at, start.from_step, start.device)
    }));
    lines
}

fn json(facts: &Facts, checkpoints: &[Checkpoint]) -> Value {
    let checkpoint = |Checkpoint { step, path, state, damage }: &Checkpoint| {
        let (path, bytes) = (path.to_string_lossy(), bytes_in(path));
        json!({ "step": step, "path": path, "bytes": bytes, "state": state, "damage": damage })
    };
    let snapshots = steps_in(&facts.run.snapshots());
    let snapshot = |(step, path): &(u64, PathBuf)| {
        let (path, bytes) = (path.to_string_lossy(), bytes_in(path));
        json!({ "step": step, "path": path, "bytes": bytes })
    };
    json!({
        "run": facts.name(),
        "path": facts.run.0.to_string_lossy(),
        "state": facts.state(),
        "step": facts.step(),
        "steps": facts.steps(),
        "bytes": bytes_in(&facts.run.0),
        "manifest": facts.manifest,
        "config": facts.config,
        "metrics": facts.lines.last(),
        "checkpoints": checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
        "snapshots": snapshots.iter().map(snapshot).collect::<Vec<_>>(),
    })
}
