//! The integration tests of ddpm-eval: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod formula;
mod golden_csdi;
mod golden_inception;
mod golden_metrics;
mod golden_series_baselines;
mod golden_vae_baselines;
mod known_answers;
