//! Trains diffusion models with burn-train's `Learner`: step by step, resumable bit for bit.

pub mod adam;
pub mod bench;
pub mod checkpoint;
pub mod checksums;
pub mod config;
pub mod facts;
pub mod fine_tune;
pub mod list_runs;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod noising;
pub mod optim;
pub mod preview;
pub mod progress;
pub mod prune_run;
pub mod quartiles;
pub mod report;
pub mod show_run;
pub mod strategy;
pub mod tensorboard;
pub mod train;
