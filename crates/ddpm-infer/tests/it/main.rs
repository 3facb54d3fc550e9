//! The integration tests of ddpm-infer: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod command_line;
mod diffusers_folders;
mod diffusers_peer;
mod evaluate;
mod evaluate_autoencoders;
mod formats;
mod hostile_files;
mod import;
mod latent_peer;
mod pipeline;
mod prompts;
mod series;
mod series_models;
