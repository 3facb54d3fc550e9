//! Autoencoders: images to latents and back.

pub mod diagonal_gaussian;
