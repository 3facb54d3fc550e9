//! The integration tests of ddpm-weights: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod csdi;
mod hostile_weights;
mod vdvae;
