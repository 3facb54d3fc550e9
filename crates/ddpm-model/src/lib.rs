//! The mathematics of diffusion models and their networks, on any Burn backend.
//!
//! Nothing here touches files, clocks, threads, the environment or a terminal, and nothing is global.
//! Randomness is always passed in.

pub mod any_module;
pub mod autoencoder;
pub mod batch_norm;
pub mod bound;
pub mod condition;
pub mod continuous;
pub mod csdi;
pub mod custom;
pub mod denoiser;
pub mod density_bound;
pub mod diffusion;
pub mod dit;
pub mod ema;
pub mod embedding;
pub mod gaussian;
pub mod hvae;
pub mod likelihood;
pub mod network;
pub mod noise_level;
pub mod pass;
pub mod path;
pub mod point_mlp;
pub mod posthoc;
pub mod prediction;
pub mod resample;
pub mod schedule;
pub mod sssd;
pub mod statics;
pub mod text;
pub mod time_density;
pub mod timegrad;
mod transformer;
pub mod unet;
pub mod variance;
pub mod weighting;
