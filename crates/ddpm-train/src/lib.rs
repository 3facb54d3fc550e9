//! Trains diffusion models with burn-train's `Learner`: step by step, resumable bit for bit.
//!
//! Start at [`Trainer`], which trains an experiment, and a network of your own, from another program.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where nobody can read any more")]

pub mod adam;
pub mod anomaly;
pub mod batches;
pub mod checkpoint;
pub mod checksums;
pub mod clip_and_average;
pub mod config;
mod devices;
pub mod divergence;
pub mod facts;
pub mod list_runs;
pub mod loss_scale;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod optimizers;
pub mod plan;
pub mod progress;
pub mod prune_run;
pub mod rate;
pub mod report;
mod run_folder;
pub mod show_run;
mod signals;
mod started_as;
mod status_line;
mod step_loop;
pub mod strategy;
pub mod tensorboard;
pub mod train;
pub mod train_error;
pub mod train_step;
pub mod trained_part;
pub mod trainer;

pub use train::Finish;
pub use trainer::Trainer;

/// The names that training a network of your own needs, of this crate and of those below it.
pub mod prelude {
    pub use ddpm_model::custom::{CustomNetwork, Io, NoKeys};
    pub use ddpm_model::embedding::SinusoidConfig;
    pub use ddpm_model::network::Problem;

    pub use crate::train::Finish;
    pub use crate::trainer::Trainer;
}
