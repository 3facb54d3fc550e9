//! Autoencoders: images to latents and back.
//!
//! Field names spell the keys of diffusers' `AutoencoderKL` and `AutoencoderTiny`, so that weights pass in and out by
//! name.

mod config;
pub mod diagonal_gaussian;
mod kl;
mod tiny;

pub use config::{AutoencoderKLConfig, Level};
pub use diagonal_gaussian::DiagonalGaussian;
pub use kl::AutoencoderKL;
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig};
