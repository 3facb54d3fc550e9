//! The integration tests of ddpm-model: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod golden_ema;
mod golden_gaussian;
mod golden_resample;
mod golden_schedules;
mod golden_vae;
mod unet_kernels;
