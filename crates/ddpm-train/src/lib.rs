//! Trains diffusion models with burn-train's `Learner`: step by step, resumable bit for bit.

pub mod checkpoint;
pub mod checksums;
pub mod config;
pub mod fine_tune;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod noising;
pub mod optim;
pub mod preview;
pub mod progress;
pub mod quartiles;
pub mod strategy;
pub mod tensorboard;
pub mod train;
