//! The integration tests of ddpm-sampling: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod convergence;
mod exact_guidance;
mod exact_likelihood;
mod exact_multistep;
mod exact_samplers;
mod exact_tasks;
mod golden_levels;
mod golden_samplers;
mod sampler_table;
