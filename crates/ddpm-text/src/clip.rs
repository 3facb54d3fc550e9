//! CLIP's tokenizer: byte-pair encoding (Sennrich et al. 2016) of lower-case words.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::files::{Parts, TokenizerError, read};

/// A tokenizer, and the tokens with a meaning of their own.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    max_length: usize,
}

/// A prompt as a sequence of fixed length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Start token, tokens of the prompt, end token, padding.
    pub ids: Vec<u32>,
    /// 1 for all but the padding.
    pub mask: Vec<u32>,
    /// How many tokens of the prompt had no room.
    pub dropped: usize,
}

impl ClipTokenizer {
    /// Reads the files in a folder: `tokenizer.json`, or `vocab.json` and `merges.txt`.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        Self::of_parts(read(folder)?)
    }

    pub(crate) fn of_parts(parts: Parts) -> Result<Self, TokenizerError> {
        let wrong = |reason: String| TokenizerError::malformed(&parts.file, reason);
        // The crate says what is wrong only when it reads text.
        let text = parts.json.to_string();
        let mut tokenizer =
            Tokenizer::from_bytes(text).map_err(|error| wrong(format!("is not a tokenizer: {error}")))?;
        // Lengths are ours to set.
        let truncates = tokenizer.with_truncation(None).map(|_| ());
        truncates.map_err(|error| wrong(format!("is not a tokenizer: {error}")))?;
        tokenizer.with_padding(None);
        let id = |token: &str| {
            let id = tokenizer.token_to_id(token);
            id.ok_or_else(|| wrong(format!("the token {token:?} is not in the vocabulary")))
        };
        let settings = &parts.settings;
        let (start, end, pad) = (id(&settings.start)?, id(&settings.end)?, id(&settings.pad)?);
        let opened = Self { start, end, pad, max_length: settings.max_length, tokenizer };
        // Rules that do not fit CLIP show in any text.
        let empty = opened.ids("").map_err(|reason| wrong(format!("cannot encode: {reason}")))?;
        if empty != [start, end] {
            return Err(wrong(format!("an empty text has the ids {empty:?}, not start and end: {start}, {end}")));
        }
        Ok(opened)
    }

    /// The ids of a text with start and end token, however many.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A text as `max_length` ids: cut off so that the end token is the last one, or padded.
    pub fn encode(&self, text: &str) -> Result<Encoding, String> {
        let mut ids = self.ids(text)?;
        let dropped = ids.len().saturating_sub(self.max_length);
        if dropped > 0 {
            ids.truncate(self.max_length - 1);
            ids.push(self.end);
        }
        let mut mask = vec![1; ids.len()];
        ids.resize(self.max_length, self.pad);
        mask.resize(self.max_length, 0);
        Ok(Encoding { ids, mask, dropped })
    }

    /// The tokens of ids; nothing for an id that is not in the vocabulary.
    pub fn tokens(&self, ids: &[u32]) -> Option<Vec<String>> {
        ids.iter().map(|&id| self.tokenizer.id_to_token(id)).collect()
    }

    /// The same tokenizer, padding with this token: Stable Diffusion 2 pads with `!`, the others with the end token.
    pub fn padded_with(mut self, token: &str) -> Result<Self, String> {
        let id = self.tokenizer.token_to_id(token);
        self.pad = id.ok_or_else(|| format!("the token {token:?} is not in the vocabulary"))?;
        Ok(self)
    }

    /// Length of an [`Encoding`].
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The id of the start token.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The id of the end token.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The id of the padding.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// One more than the largest id: a text encoder needs as many embeddings.
    pub fn vocab_size(&self) -> usize {
        let vocabulary = self.tokenizer.get_vocab(true);
        vocabulary.into_values().max().map_or(0, |id| id as usize + 1)
    }
}
