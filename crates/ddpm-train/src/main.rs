//! `ddpm-train`: trains the model of an experiment, or goes on with a run; lists, shows, prunes and reports on runs.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 130 interrupted after a checkpoint, 131 left at
//! once after a second signal.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use ddpm_console::errors::in_one_line;
use ddpm_console::numbers::at_least;
use ddpm_console::output::{print, print_path};
use ddpm_console::say;
use ddpm_train::config::load::ConfigError;
use ddpm_train::config::recipes::RECIPES;
use ddpm_train::list_runs::{self, ListArgs};
use ddpm_train::prune_run::{self, PruneArgs};
use ddpm_train::report::{self, ReportArgs};
use ddpm_train::show_run::{self, ShowArgs};
use ddpm_train::train::{Finish, Options, UsageError, run};

/// Train a diffusion model, an autoencoder or a model of time series.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// An experiment: a name from experiments/, or a TOML file.
    #[arg(long, value_name = "NAME|FILE.toml", conflicts_with = "resume", default_value = "digits")]
    experiment: String,
    /// Trains on a file of time series without an experiment: CSDI, to impute, or with --horizon TimeGrad, to forecast.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["experiment", "resume", "from"])]
    data: Option<PathBuf>,
    /// Steps to forecast.
    #[arg(long, value_name = "H", requires = "data", value_parser = at_least::<1, usize>)]
    horizon: Option<usize>,
    /// Changes a key of the experiment, e.g. train.steps=1000; can be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The seed of a new run: short for --set train.seed=N.
    #[arg(long, value_name = "N", conflicts_with = "resume", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<u64>,
    /// Resumes a run: its folder, its name in the runs folder, or `latest`. Without a checkpoint it begins again.
    #[arg(long, value_name = "RUN")]
    resume: Option<String>,
    /// With --resume: goes on from the checkpoint of this step instead of the newest good one.
    #[arg(long, value_name = "STEP", requires = "resume")]
    step: Option<u64>,
    /// Starts from the weights of a snapshot or of a folder of diffusers. An experiment without [model] takes its network.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Where to compute, e.g. flex, wgpu, cuda:1; without it, the device of the compiled-in feature.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Several devices, which share every batch, e.g. cuda:0,cuda:1; all of one backend.
    #[arg(long, value_name = "DEVICE,..", value_delimiter = ',', conflicts_with = "device")]
    devices: Vec<String>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_files::runs::RUNS)]
    runs: PathBuf,
    /// Shows Burn's dashboard instead of a progress bar.
    #[arg(long)]
    tui: bool,
    /// Names the first layer whose output or gradient is not finite, with its input and weights.
    #[arg(long)]
    detect_anomaly: bool,
    /// Prints the resolved experiment, the number of parameters and the memory needed, and stops.
    #[arg(long)]
    dry_run: bool,
}

/// What else there is to do with runs.
#[derive(Subcommand, Debug)]
enum Command {
    /// List the runs.
    List(ListArgs),
    /// Show the settings and progress of a run, and check its checkpoints.
    Show(ShowArgs),
    /// Remove old and damaged checkpoints of a run; without --yes they are only listed.
    Prune(PruneArgs),
    /// Write one HTML page with the curves, images and settings of runs.
    Report(ReportArgs),
    /// Print a shell's completion script, e.g. `ddpm-train completions bash > ~/.local/share/bash-completion/completions/ddpm-train`.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// The command line, with the experiments that come with the program in its help.
fn command_line() -> clap::Command {
    let width = RECIPES.iter().map(|recipe| recipe.name.len()).max().unwrap_or(0);
    let recipes: String =
        RECIPES.iter().map(|recipe| format!("  {:width$}  {}\n", recipe.name, recipe.about())).collect();
    Args::command().after_help(format!(
        "Experiments:\n{recipes}\n\
         Examples:\n  \
           ddpm-train                                            train the bundled digits\n  \
           ddpm-train --experiment points-flow --seed 3\n  \
           ddpm-train --experiment my.toml --dry-run             check it, and print every key\n  \
           ddpm-train --data weather.csv --horizon 14            forecasts of a table; without --horizon imputation\n  \
           ddpm-train --experiment digits --set train.steps=500 --set optimizer.learning_rate=1e-3\n  \
           ddpm-train --resume latest\n\n\
         The last line on stdout is the run's folder. Ctrl-C finishes the step, saves and stops; once more leaves at \
         once."
    ))
}

fn parse() -> Args {
    let matches = command_line().get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    ddpm_kernels::memory::one_heap();
    outlive_file_size_limit();
    let Args {
        command,
        experiment,
        data,
        horizon,
        mut set,
        seed,
        resume,
        step,
        from,
        device,
        devices,
        runs,
        tui,
        detect_anomaly,
        dry_run,
    } = parse();
    if let Some(command) = command {
        let done = match command {
            Command::List(args) => list_runs::run(&args),
            Command::Show(args) => show_run::run(&args),
            Command::Prune(args) => prune_run::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Completions { shell } => completions(shell),
        };
        return done.map_or_else(failed, |()| ExitCode::SUCCESS);
    }
    let devices = device.into_iter().chain(devices).collect();
    set.extend(seed.map(|seed| format!("train.seed={seed}")));
    let done = run(&Options {
        experiment,
        data,
        horizon,
        set,
        resume,
        step,
        from,
        devices,
        runs,
        tui,
        detect_anomaly,
        dry_run,
    });
    let (folder, code) = match done {
        Ok(Finish::DryRun) => return ExitCode::SUCCESS,
        Ok(Finish::Done(folder)) => (folder, ExitCode::SUCCESS),
        Ok(Finish::Interrupted(folder)) => (folder, ExitCode::from(130)),
        Err(error) => return failed(error),
    };
    // The training is done and saved, whether or not its folder can be printed.
    if let Err(error) = print_path(&folder) {
        say!("warning: {}", in_one_line(&error));
    }
    code
}

fn seed(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number from 0 up")
}

fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line(), "ddpm-train", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// By default a write that goes past `ulimit -f` ends the process; with any handler it only fails, and the error says
/// which file it was.
fn outlive_file_size_limit() {
    #[cfg(unix)]
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Default::default()) {
        say!("warning: a file that reaches the limit of its size would end the program: {error}");
    }
}

fn failed(error: anyhow::Error) -> ExitCode {
    say!("error: {}", in_one_line(&error));
    let usage = error.is::<ConfigError>() || error.is::<UsageError>();
    ExitCode::from(if usage { 2 } else { 1 })
}
