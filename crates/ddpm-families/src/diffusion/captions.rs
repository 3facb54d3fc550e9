//! Training on captions: which text encoder, and the tokens of a batch.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::StreamItem;
use ddpm_data::random::{RngExt, Stream, rng};
use ddpm_model::condition::{Condition, Tokens};
use serde::{Deserialize, Serialize};

use crate::family::Problem;
use crate::latent::{FrozenText, find_part};

/// Numbers of tokens that are kept, at most: 512 MiB.
const MOST_KEPT: usize = 128 << 20;

/// It is the captions of the data. A share `train.label_drop` of them is replaced by the empty prompt, which guidance leads
/// away from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// The text encoder, which stays as it is: a pipeline of diffusers, a snapshot of family `text-encoder`, a run, or the
    /// name of an experiment, of which the newest run counts. Must be given.
    pub encoder: PathBuf,
}

impl TextConfig {
    /// What is wrong with values that are of the right type.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let message = "must name a text encoder: a folder, a run, or an experiment that was run";
        let is_missing = self.encoder.as_os_str().is_empty();
        is_missing.then(|| ("text.encoder".to_string(), message.to_string())).into_iter().collect()
    }

    /// Opens the encoder on a device, and gives the config with an absolute path.
    pub(super) fn resolve(self, device: &Device) -> Result<(Self, FrozenText), Problem> {
        let at_fault = |message| ("text.encoder".to_string(), message);
        let encoder = find_part(&self.encoder).map_err(at_fault)?;
        let of_folder = |error: &dyn std::fmt::Display| at_fault(format!("{}: {error}", encoder.display()));
        let text = FrozenText::open(&encoder, device).map_err(|error| of_folder(&error))?;
        text.encoder.tokens(&[""]).map_err(|error| of_folder(&error))?;
        Ok((Self { encoder }, text))
    }
}

/// From captions to tokens, each caption once.
#[derive(Clone, Debug)]
pub struct Captions {
    text: Arc<FrozenText>,
    /// The share of captions that is replaced by the empty prompt.
    dropped: f64,
    kept: Arc<Mutex<HashMap<Box<str>, Arc<Encoded>>>>,
}

/// The tokens of one caption.
#[derive(Debug)]
struct Encoded {
    values: Vec<f32>,
    shape: [usize; 2],
}

impl Captions {
    /// Captions that this encoder reads.
    pub fn new(text: FrozenText, dropped: f64) -> Self {
        Self { text: Arc::new(text), dropped, kept: Arc::default() }
    }

    /// The same captions, of which none is dropped.
    #[must_use]
    pub fn all_kept(self) -> Self {
        Self { dropped: 0.0, ..self }
    }

    /// The encoder.
    pub fn encoder(&self) -> &FrozenText {
        &self.text
    }

    /// What the network is conditioned on for these items.
    pub(super) fn condition(&self, items: &[StreamItem], seed: u64, device: &Device) -> Condition {
        let caption = |item: &StreamItem| -> Box<str> {
            let is_dropped = rng(seed, Stream::LabelDrop, item.place).random_bool(self.dropped);
            if is_dropped { "".into() } else { item.example.caption.clone().unwrap_or_default() }
        };
        let captions: Vec<Box<str>> = items.iter().map(caption).collect();
        Condition::Tokens(self.tokens(&captions, device))
    }

    /// The tokens of prompts. A prompt that the tokenizer refuses counts as the empty one.
    pub(super) fn tokens<S: AsRef<str>>(&self, prompts: &[S], device: &Device) -> Tokens {
        let encoded: Vec<Arc<Encoded>> = prompts.iter().map(|prompt| self.encoded(prompt.as_ref())).collect();
        let [length, width] = encoded.first().map_or([1, 1], |first| first.shape);
        let values = encoded.iter().flat_map(|encoded| encoded.values.iter().copied()).collect();
        Tokens::new(Tensor::from_data(TensorData::new(values, [prompts.len(), length, width]), device))
    }

    /// The tokens of one prompt, computed alone, so that they are the same in every batch.
    fn encoded(&self, prompt: &str) -> Arc<Encoded> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoded) = kept.get(prompt) {
            return encoded.clone();
        }
        let encoder = &self.text.encoder;
        let states = encoder.tokens(&[prompt]).or_else(|_| encoder.tokens(&[""])).map(|tokens| tokens.states);
        let encoded = Arc::new(match states {
            Ok(states) => {
                let [_, length, width] = states.dims();
                Encoded { values: states.into_data().iter::<f32>().collect(), shape: [length, width] }
            }
            // The empty prompt was encoded when the encoder was opened.
            Err(error) => unreachable!("the empty prompt: {error}"),
        });
        if kept.len() * encoded.values.len() > MOST_KEPT {
            kept.clear();
        }
        kept.insert(prompt.into(), encoded.clone());
        encoded
    }
}
