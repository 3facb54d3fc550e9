//! Likelihoods of a decoder: `log p(x | z)` in nats, from the data and what the decoder gives.

pub mod bernoulli;
pub mod discretized_logistic;
pub mod gaussian;
pub mod logistic_mixture;
mod pixels;

pub use pixels::{PixelLikelihood, UniformShapes, Uniforms};
