//! `ddpm-infer`: samples from what was trained, measures it, and shows what data hold.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line.

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use ddpm_console::errors::in_one_line;
use ddpm_console::{output, say};
use ddpm_infer::commands::{
    average_weights, encode, evaluate, forecast, import, impute, inspect, inspect_data, list_devices,
    measure_likelihood, reconstruct, sample,
};

/// Sample from and evaluate diffusion models, autoencoders and models of time series.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "The last line on stdout is the path of what was made, or the number that was measured."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Draw samples from a snapshot.
    Sample(Box<sample::SampleArgs>),
    /// Encode items, decode them again, and measure what was lost.
    Reconstruct(reconstruct::ReconstructArgs),
    /// Encode items: the means of their posteriors as an array.
    Encode(encode::EncodeArgs),
    /// Forecast what comes after a time series: sampled paths and their quantiles.
    Forecast(forecast::ForecastArgs),
    /// Impute what is missing in time series.
    Impute(impute::ImputeArgs),
    /// Measure the log-likelihood of data under a snapshot: bits per dimension of images, nats of points.
    Likelihood(measure_likelihood::LikelihoodArgs),
    /// Reconstruct a post-hoc EMA of any width, from the averages that the run stored.
    Ema(average_weights::EmaArgs),
    /// Convert a checkpoint of another project to a snapshot: of images, or of series (pytorch-ts, CSDI, SSSD).
    Import(import::ImportArgs),
    /// Identify a file or folder of weights, what it can be used for, and what is wrong with it.
    Inspect(inspect::InspectArgs),
    /// Evaluate samples, reconstructions, forecasts and imputations: Frechet and kernel distances, CRPS, errors, and more.
    ///
    /// Features of images are cached in the work folder: an interrupted evaluation resumes, and with --shard several
    /// processes share the work.
    Eval(Box<evaluate::EvalArgs>),
    /// List the built-in datasets, or inspect one.
    Data(inspect_data::DataArgs),
    /// List the devices, and the backends that this program was built with.
    Devices(list_devices::DevicesArgs),
    /// Print a shell's completion script for this command.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let mut command = with_negative_numbers(Args::command());
    let args = Args::from_arg_matches_mut(&mut command.get_matches_mut());
    match run(args.unwrap_or_else(|error| error.format(&mut command).exit()).command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("error: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Sample(args) => print(sample::run(&args)?.display()),
        Command::Reconstruct(args) => print(reconstruct::run(&args)?.display()),
        Command::Encode(args) => print(encode::run(&args)?.display()),
        Command::Forecast(args) => print(forecast::run(&args)?.display()),
        Command::Impute(args) => print(impute::run(&args)?.display()),
        Command::Likelihood(args) => print(measure_likelihood::run(&args)?),
        Command::Ema(args) => print(average_weights::run(&args)?.display()),
        Command::Import(args) => print(import::run(&args)?.display()),
        Command::Inspect(args) => inspect::run(&args),
        Command::Eval(args) => print(evaluate::run(&args)?),
        Command::Data(args) => inspect_data::run(&args),
        Command::Devices(args) => list_devices::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "ddpm-infer", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

/// A line on stdout.
fn print(line: impl Display) -> anyhow::Result<()> {
    output::print(&format!("{line}\n"))
}

/// After an option, what looks like a negative number is its value, which is checked against its range.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let with = |argument: Arg| {
        let is_option = argument.get_action().takes_values() && !argument.is_positional();
        argument.allow_negative_numbers(is_option)
    };
    command.mut_args(with).mut_subcommands(with_negative_numbers)
}
