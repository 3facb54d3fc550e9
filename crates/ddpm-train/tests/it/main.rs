//! The integration tests of ddpm-train: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod batch_norm;
mod command_line;
mod crash;
mod devices;
mod evaluations;
mod families;
mod fine_tune_pipeline;
mod hierarchy;
mod hostile_runs;
mod known_bits;
mod linear_vae;
mod objectives;
mod own_network;
mod places;
mod post_hoc;
mod resume;
mod runs;
mod series_file;
mod text_to_image;
