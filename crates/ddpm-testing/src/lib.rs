//! What the integration tests of several crates share: fixtures, damaged files, data whose best denoiser is known, networks
//! of other projects. No program depends on it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "tensors")]
pub mod drawn;
#[cfg(feature = "tensors")]
pub mod gradients;
pub mod hostile;
#[cfg(feature = "tensors")]
pub mod known;
#[cfg(feature = "tensors")]
pub mod networks;
pub mod python;
pub mod sources;
pub mod support;
#[cfg(feature = "tensors")]
pub mod tensors;
