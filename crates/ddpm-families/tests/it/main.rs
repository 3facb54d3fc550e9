//! The integration tests of ddpm-families: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod golden_autoencoder;
mod golden_latent_pipelines;
mod golden_pipelines;
mod golden_tables;
mod golden_unet;
mod golden_weights;
