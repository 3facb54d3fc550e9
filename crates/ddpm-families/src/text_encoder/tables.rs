//! What an experiment says of a text encoder.

use ddpm_data::{DataInfo, three_axes};
use ddpm_model::text::{ClipTextConfig, ContrastConfig, TextActivation};
use ddpm_text::{LEAST_TOKENS, Vocabulary};
use serde::{Deserialize, Serialize};

use crate::family::Problem;

/// The sections of a text encoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextEncoderTables {
    /// The text encoder: CLIP's, with a vocabulary of its own.
    pub model: TextModelConfig,
    /// The image encoder that it learns with, and the space in which captions and images are compared.
    pub contrast: ContrastConfig,
}

/// A transformer in which every token attends to itself and to those before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextModelConfig {
    /// Tokens of the vocabulary, at most. 514 are always there: the symbols of the bytes, with which any text can be encoded,
    /// and the start and end of a text.
    pub vocabulary: usize,
    /// Pairs of symbols that are joined to tokens, the first ones first; left out: learned from the captions of the train
    /// split.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub merges: Vec<String>,
    /// Tokens of a caption: longer ones are cut off, shorter ones padded.
    pub max_length: usize,
    /// Width of the states, which is that of the tokens that a diffusion model is conditioned on.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
}

impl Default for TextModelConfig {
    fn default() -> Self {
        Self { vocabulary: 1024, merges: Vec::new(), max_length: 24, width: 128, layers: 2, heads: 4 }
    }
}

impl TextModelConfig {
    /// The network for a vocabulary.
    pub fn network(&self, vocabulary: &Vocabulary) -> ClipTextConfig {
        ClipTextConfig {
            hidden_size: self.width,
            intermediate_size: 4 * self.width,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            max_position_embeddings: self.max_length,
            hidden_act: TextActivation::Gelu,
            vocab_size: vocabulary.size(),
            // The last token is the end.
            eos_token_id: vocabulary.size() - 1,
            ..ClipTextConfig::default()
        }
    }
}

/// The shortest captions have a start, a token and an end.
const LEAST_LENGTH: usize = 3;
/// Longer ones than any text encoder has; a typing mistake is more likely.
const MOST_LENGTH: usize = 4096;

impl TextEncoderTables {
    /// The sections, each with what must be in it.
    pub(super) const SECTIONS: &'static [(&'static str, &'static str)] = &[("model", ""), ("contrast", "")];

    /// What is wrong with the values, before the data are known.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let keys = &self.model;
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push((format!("model.{key}"), message));
        for (key, value) in [("width", keys.width), ("layers", keys.layers), ("heads", keys.heads)] {
            if value == 0 {
                report(key, "must be at least 1, not 0".into());
            }
        }
        if keys.heads > 0 && !keys.width.is_multiple_of(keys.heads) {
            report("heads", format!("{} does not divide the width, {}", keys.heads, keys.width));
        }
        if !(LEAST_LENGTH..=MOST_LENGTH).contains(&keys.max_length) {
            report(
                "max_length",
                format!("{} is out of range; expected {LEAST_LENGTH} to {MOST_LENGTH}", keys.max_length),
            );
        }
        if keys.vocabulary < LEAST_TOKENS {
            report("vocabulary", format!("must be at least {LEAST_TOKENS}, not {}", keys.vocabulary));
        }
        if let Err(error) = Vocabulary::of_merges(&keys.merges, keys.max_length) {
            report("merges", error.to_string());
        }
        problems
    }

    /// What does not go together with these data.
    pub(super) fn problems_with_data(&self, data: &DataInfo) -> Vec<Problem> {
        if !data.is_image() {
            let message = format!("a text encoder learns with images [C, H, W], the data are {:?}", data.shape);
            return vec![("data.kind".into(), message)];
        }
        let network = self.contrast.problems(three_axes(&data.shape));
        let mut problems: Vec<Problem> =
            network.into_iter().map(|problem| (format!("contrast.{}", problem.key), problem.message)).collect();
        if !data.has_captions {
            let message = format!("a text encoder learns from captions, and the images of {:?} have none", data.name);
            problems.push(("data.kind".into(), message));
        }
        problems
    }
}
