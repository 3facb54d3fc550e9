//! The integration tests of ddpm-kernels: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod bf16;
mod channels;
mod conv;
mod dense;
mod gelu;
mod group_norm;
mod half;
mod inference;
mod layer_norm;
mod series;
mod tokens;
mod weights;
