//! Likelihoods of a decoder: `log p(x | z)` in nats, from the data and what the decoder gives.

pub mod bernoulli;
pub mod gaussian;
