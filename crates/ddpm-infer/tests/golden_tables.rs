//! Tables of diffusers in f32, over the fixtures' `schedules` folder: bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../ddpm-model/tests/support/mod.rs"]
mod support;
