//! `ddpm-infer`: samples from what was trained, measures it, and shows what data hold.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ddpm_infer::{evaluate, inspect_data, measure_likelihood, sample};

/// Sample from diffusion models.
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
    /// Draws samples from a snapshot.
    Sample(Box<sample::SampleArgs>),
    /// Says how likely a snapshot finds its data: bits per dimension of images, nats of points.
    Likelihood(measure_likelihood::LikelihoodArgs),
    /// Judges samples: Frechet and kernel distances, precision and recall, copies, and more.
    Eval(Box<evaluate::EvalArgs>),
    /// Lists the datasets there are, or reads one and says what it holds.
    Data(inspect_data::DataArgs),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Sample(args) => sample::run(&args).map(|out| println!("{}", out.display())),
        Command::Likelihood(args) => measure_likelihood::run(&args).map(|found| println!("{found}")),
        Command::Eval(args) => evaluate::run(&args).map(|found| println!("{found}")),
        Command::Data(args) => inspect_data::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
