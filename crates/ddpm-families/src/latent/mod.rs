//! The frozen parts of a latent diffusion model (Rombach et al. 2022): the first stage, between images and the latents
//! that are denoised, and the text encoder, from prompts to the tokens that a network is conditioned on.

mod first_stage;
mod text_encoder;

pub use first_stage::{FirstStage, FirstStageError};
pub use text_encoder::{TEXT_ENCODER, TOKENIZER, TextEncoder, TextEncoderError};
