//! `ddpm-infer`: samples from what was trained, measures it, and shows what data hold.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ddpm_infer::{average_weights, evaluate, import, inspect, inspect_data, list_devices, measure_likelihood, sample};

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
    /// Makes the average of any width of a run's weights, from those that the run stored.
    Ema(average_weights::EmaArgs),
    /// Makes a snapshot of a checkpoint of improved-diffusion, guided-diffusion or pesser's DDPM.
    Import(import::ImportArgs),
    /// Says what a file or folder of weights is, what it can be used for, and what is wrong with it.
    Inspect(inspect::InspectArgs),
    /// Judges samples: Frechet and kernel distances, precision and recall, copies, and more.
    Eval(Box<evaluate::EvalArgs>),
    /// Lists the datasets there are, or reads one and says what it holds.
    Data(inspect_data::DataArgs),
    /// Lists the devices there are, and the backends that this program was built with.
    Devices(list_devices::DevicesArgs),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Sample(args) => sample::run(&args).map(|out| println!("{}", out.display())),
        Command::Likelihood(args) => measure_likelihood::run(&args).map(|found| println!("{found}")),
        Command::Ema(args) => average_weights::run(&args).map(|out| println!("{}", out.display())),
        Command::Import(args) => import::run(&args).map(|out| println!("{}", out.display())),
        Command::Inspect(args) => inspect::run(&args),
        Command::Eval(args) => evaluate::run(&args).map(|found| println!("{found}")),
        Command::Data(args) => inspect_data::run(&args),
        Command::Devices(args) => list_devices::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
