//! The text encoder: a frozen transformer over the tokens of a prompt.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_kernels::Precision;
use ddpm_model::condition::Tokens;
use ddpm_model::pass::Pass;
use ddpm_model::text::{ClipText, ClipTextConfig, TextStates};
use ddpm_text::{ClipTokenizer, TokenizerError};
use ddpm_weights::{Weights, load_clip_text};

use crate::diffusers::DiffusersError;
use crate::diffusers::pipeline::{CONFIG, read_json};
use crate::snapshot::SnapshotError;

/// The folder of the network in a pipeline.
pub const TEXT_ENCODER: &str = "text_encoder";
/// The folder of its tokenizer.
pub const TOKENIZER: &str = "tokenizer";

/// A frozen text encoder with its tokenizer.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    /// From prompts to ids.
    pub tokenizer: ClipTokenizer,
    /// From ids to states.
    pub network: ClipText,
    device: Device,
}

/// Why there is no such text encoder, or why it cannot encode a prompt.
#[derive(Debug, thiserror::Error)]
pub enum TextEncoderError {
    /// The network cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A tokenizer with more tokens than the network knows.
    #[error("{}: the tokenizer has {tokens} tokens, and the text encoder next to it knows {known}", path.display())]
    Vocabulary {
        /// The folder of the tokenizer.
        path: PathBuf,
        /// Its tokens.
        tokens: usize,
        /// Those that the network has embeddings for.
        known: usize,
    },
    /// A tokenizer of another encoder: the prompt as a whole is read off at the end token.
    #[error(
        "{}: the end token has the id {end}, and {known} in the config.json of the text encoder next to it: the vocabulary \
         is that of another encoder",
        path.display()
    )]
    EndToken {
        /// The folder of the tokenizer.
        path: PathBuf,
        /// The id of its end token.
        end: u32,
        /// The id that the network knows.
        known: usize,
    },
    /// A prompt that the tokenizer refuses.
    #[error("the prompt {prompt:?}: {reason}")]
    Prompt {
        /// The prompt.
        prompt: String,
        /// Why not.
        reason: String,
    },
}

impl TextEncoder {
    /// Reads `text_encoder` and `tokenizer` of a pipeline.
    pub fn open(pipeline: &Path, device: &Device) -> Result<Self, TextEncoderError> {
        Self::open_parts(&pipeline.join(TEXT_ENCODER), &pipeline.join(TOKENIZER), device)
    }

    /// Reads a network and a tokenizer that lie in these folders.
    pub fn open_parts(network: &Path, tokenizer: &Path, device: &Device) -> Result<Self, TextEncoderError> {
        let weights = Weights::find_in(network, None).map_err(SnapshotError::from)?;
        Self::open_with(network, tokenizer, weights, device)
    }

    /// As [`open_parts`](Self::open_parts), with weights from elsewhere.
    pub fn open_with(
        network: &Path,
        tokenizer: &Path,
        weights: Weights,
        device: &Device,
    ) -> Result<Self, TextEncoderError> {
        Self::open_as(describe(network)?, tokenizer, weights, device)
    }

    /// As [`open_with`](Self::open_with), of a network that is described already.
    pub(super) fn open_as(
        config: ClipTextConfig,
        tokenizer: &Path,
        weights: Weights,
        device: &Device,
    ) -> Result<Self, TextEncoderError> {
        let opened = ClipTokenizer::open(tokenizer)?;
        let (tokens, known) = (opened.vocab_size(), config.vocab_size);
        if tokens > known {
            return Err(TextEncoderError::Vocabulary { path: tokenizer.into(), tokens, known });
        }
        if let Some(known) = config.pooled_id().filter(|end| *end != opened.end() as usize) {
            return Err(TextEncoderError::EndToken { path: tokenizer.into(), end: opened.end(), known });
        }
        let mut encoder = config.init(device);
        load_clip_text(&mut encoder, weights).map_err(SnapshotError::from)?;
        Ok(Self { tokenizer: opened, network: encoder, device: device.clone() })
    }

    /// The same text encoder, computing in this precision.
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { network: self.network.in_precision(precision), ..self }
    }

    /// Width of the tokens.
    pub fn width(&self) -> usize {
        self.network.config().hidden_size
    }

    /// The ids of prompts, `[B, L]`, cut off or padded to the length of the encoder. No mask belongs to them: as in Stable
    /// Diffusion the padding counts.
    pub fn ids<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Tensor<2, Int>, TextEncoderError> {
        let length = self.tokenizer.max_length();
        let mut ids = Vec::with_capacity(prompts.len() * length);
        for prompt in prompts {
            let prompt = prompt.as_ref();
            let encoding = self.tokenizer.encode(prompt);
            let encoding = encoding.map_err(|reason| TextEncoderError::Prompt { prompt: prompt.into(), reason })?;
            ids.extend(encoding.ids.into_iter().map(i64::from));
        }
        Ok(Tensor::from_data(TensorData::new(ids, [prompts.len(), length]), &self.device))
    }

    /// All states of prompts.
    pub fn states<S: AsRef<str>>(&self, prompts: &[S]) -> Result<TextStates, TextEncoderError> {
        Ok(self.network.encode(self.ids(prompts)?, None, &Pass::default()))
    }

    /// The tokens that a network is conditioned on, as in Stable Diffusion 1 and 2: the normalized states after the last
    /// layer.
    pub fn tokens<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Tokens, TextEncoderError> {
        Ok(Tokens::new(self.states(prompts)?.last))
    }
}

/// The config of the network in a folder.
fn describe(folder: &Path) -> Result<ClipTextConfig, SnapshotError> {
    let file = folder.join(CONFIG);
    let at = |error| SnapshotError::Diffusers { path: file.clone(), error };
    let read = ClipTextConfig::from_transformers(&read_json(&file)?);
    let config = read.map_err(|error| at(DiffusersError::Json { reason: error.to_string() }))?;
    match config.problems().into_iter().next() {
        Some(problem) => Err(at(DiffusersError::Json { reason: format!("{}: {}", problem.key, problem.message) })),
        None => Ok(config),
    }
}
