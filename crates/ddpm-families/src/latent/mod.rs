//! Latent diffusion models (Rombach et al. 2022). The frozen parts: the first stage, between images and the latents that are
//! denoised, and the text encoder, from prompts to the tokens that a network is conditioned on. And whole pipelines of
//! diffusers, as `pipeline.rs` reads them, with the jobs over them in `job.rs`.

mod find;
mod first_stage;
mod frozen;
mod index;
mod job;
mod pipeline;
mod prompt_encoder;
mod single_file;
mod text_encoder;
mod tiles;

pub use find::find_part;
pub use first_stage::{FIRST_STAGE, FirstStage, FirstStageError};
pub use frozen::{FrozenError, FrozenParts, FrozenText, write_text_encoder};
pub use index::is_latent_pipeline;
pub use job::{GivenImages, LatentJob, LatentSamples, Subject};
pub use pipeline::{LatentError, LatentPipeline};
pub use prompt_encoder::{ImageSizes, PromptEncoder};
pub use text_encoder::{TEXT_ENCODER, TOKENIZER, TextEncoder, TextEncoderError};
pub use tiles::Tiles;
