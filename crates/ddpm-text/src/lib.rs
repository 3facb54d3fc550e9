//! Prompts to ids of a vocabulary.
//!
//! It knows neither networks nor tensors: a text encoder takes the ids.

mod clip;
mod files;
mod vocabulary;

pub use clip::{ClipTokenizer, Encoding};
pub use files::TokenizerError;
pub use vocabulary::{LEAST_TOKENS, Vocabulary};
