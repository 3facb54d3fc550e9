//! `ddpm-lab`: measures speed, and checks devices.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 a device to be checked was not there.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ddpm_console::errors::in_one_line;
use ddpm_console::say;
use ddpm_lab::bench::{self, BenchArgs};
use ddpm_lab::conformance::{self, ConformanceArgs, Verdict};
use ddpm_train::config::load::ConfigError;
use ddpm_train::train::UsageError;

/// Measure speed and memory, and check the results of devices.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measure speed and memory, next to PyTorch with --peer.
    Bench(BenchArgs),
    /// Check the results of a device against the reference backend.
    Conformance(ConformanceArgs),
}

fn main() -> ExitCode {
    ddpm_kernels::memory::one_heap();
    match Args::parse().command {
        Command::Bench(args) => bench::run(&args).map_or_else(failed, |()| ExitCode::SUCCESS),
        Command::Conformance(args) => conformance::run(&args).map_or_else(failed, verdict),
    }
}

fn verdict(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
        Verdict::Skipped => ExitCode::from(3),
    }
}

fn failed(error: anyhow::Error) -> ExitCode {
    say!("error: {}", in_one_line(&error));
    let usage = error.is::<ConfigError>() || error.is::<UsageError>();
    ExitCode::from(if usage { 2 } else { 1 })
}
