//! Text encoders: tokens of a prompt to vectors that an image network is conditioned on.

mod clip;
mod config;

pub use clip::{ClipText, TextStates};
pub use config::{ClipTextConfig, TextActivation};
