//! `ddpm-train`: trains the model of an experiment, or goes on with a run.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 130 interrupted after a checkpoint,
//! 131 left at once after a second signal.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ddpm_train::config::load::ConfigError;
use ddpm_train::train::{Finish, Options, UsageError, run};

/// Train a diffusion model.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "The last line on stdout is the run's folder. Ctrl-C finishes the step, saves and stops; \
                  once more leaves at once."
)]
struct Args {
    /// An experiment: a name from experiments/, or a TOML file.
    #[arg(long, value_name = "NAME|FILE.toml", conflicts_with = "resume", default_value = "digits")]
    experiment: String,
    /// Changes a key of the experiment, e.g. train.steps=1000; can be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Goes on with a run: its folder, or its name in the runs folder.
    #[arg(long, value_name = "RUN")]
    resume: Option<String>,
    /// With --resume: goes on from the checkpoint of this step instead of the newest good one.
    #[arg(long, value_name = "STEP", requires = "resume")]
    step: Option<u64>,
    /// Starts from the weights of a snapshot or of a folder of diffusers, whose network must be the experiment's.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Where to compute, e.g. flex, wgpu, cuda:1; without it, the device of the compiled-in feature.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_infer::runs::RUNS)]
    runs: PathBuf,
    /// Shows Burn's dashboard instead of a progress bar.
    #[arg(long)]
    tui: bool,
    /// Prints the resolved experiment, the number of parameters and the memory needed, and stops.
    #[arg(long)]
    dry_run: bool,
}

fn main() -> ExitCode {
    let Args { experiment, set, resume, step, from, device, runs, tui, dry_run } = Args::parse();
    match run(&Options { experiment, set, resume, step, from, device, runs, tui, dry_run }) {
        Ok(Finish::DryRun) => ExitCode::SUCCESS,
        Ok(Finish::Done(folder)) => {
            println!("{}", folder.display());
            ExitCode::SUCCESS
        }
        Ok(Finish::Interrupted(folder)) => {
            println!("{}", folder.display());
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            let usage = error.is::<ConfigError>() || error.is::<UsageError>();
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}
