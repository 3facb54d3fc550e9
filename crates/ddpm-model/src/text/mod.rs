//! Text encoders: tokens of a prompt to vectors that an image network is conditioned on.

mod clip;
mod config;
mod contrast;

pub use clip::{ClipText, TextStates};
pub use config::{ClipTextConfig, TextActivation};
pub use contrast::{Contrast, ContrastConfig, contrastive_loss, found_captions};
