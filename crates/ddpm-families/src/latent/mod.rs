//! The frozen parts of a latent diffusion model (Rombach et al. 2022): the first stage, between images and the latents
//! that are denoised, and the text encoder, from prompts to the tokens that a network is conditioned on.

mod find;
mod first_stage;
mod frozen;
mod text_encoder;

pub use find::find_part;
pub use first_stage::{FIRST_STAGE, FirstStage, FirstStageError};
pub use frozen::{FrozenError, FrozenParts, FrozenText, write_text_encoder};
pub use text_encoder::{TEXT_ENCODER, TOKENIZER, TextEncoder, TextEncoderError};
