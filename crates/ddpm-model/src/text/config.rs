//! The config of CLIP's text encoder, under the keys of transformers' `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::network::Problem;

/// The id of the end token in the first configs, which is wrong there: the pooled state is then that of the largest id.
const LEGACY_END: usize = 2;

/// The activation between the two layers of a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextActivation {
    /// `x sigmoid(1.702 x)`, as OpenAI trained it.
    QuickGelu,
    /// The exact GELU.
    Gelu,
}

/// The text encoder of CLIP (Radford et al. 2021). The defaults are that of Stable Diffusion 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the states.
    pub hidden_size: usize,
    /// Width inside a feed-forward part.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// The most tokens of a sequence.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward parts.
    pub hidden_act: TextActivation,
    /// Added to the variance in every normalization.
    pub layer_norm_eps: f64,
    /// The id of the end token, whose state is the pooled one; 2 in old files: the largest id of the sequence.
    pub eos_token_id: usize,
    /// Width of the projection of the pooled state; without one there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_dim: Option<usize>,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 77,
            hidden_act: TextActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: LEGACY_END,
            projection_dim: None,
        }
    }
}

impl ClipTextConfig {
    /// Reads a `config.json` of transformers, whose other keys say nothing about the network. `projection_dim` is in all of
    /// them, but only a `CLIPTextModelWithProjection` has the projection.
    pub fn from_transformers(json: &Value) -> Result<Self, serde_json::Error> {
        let mut config: Self = serde_json::from_value(json.clone())?;
        let classes = json.get("architectures").and_then(Value::as_array);
        let projects = classes.is_some_and(|classes| classes.contains(&"CLIPTextModelWithProjection".into()));
        if !projects {
            config.projection_dim = None;
        }
        Ok(config)
    }

    /// The `config.json` of transformers for this encoder, whose vocabulary has these tokens for the start of a sequence and
    /// for padding.
    pub fn to_transformers(&self, start: usize, pad: usize) -> Value {
        let (class, projection) = match self.projection_dim {
            Some(width) => ("CLIPTextModelWithProjection", width),
            None => ("CLIPTextModel", self.hidden_size),
        };
        serde_json::json!({
            "architectures": [class], "attention_dropout": 0.0, "bos_token_id": start, "dropout": 0.0,
            "eos_token_id": self.eos_token_id, "hidden_act": self.hidden_act, "hidden_size": self.hidden_size,
            "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": self.intermediate_size,
            "layer_norm_eps": self.layer_norm_eps, "max_position_embeddings": self.max_position_embeddings,
            "model_type": "clip_text_model", "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers, "pad_token_id": pad, "projection_dim": projection,
            "torch_dtype": "float32", "vocab_size": self.vocab_size,
        })
    }

    /// The id whose first place in a sequence is that of the pooled state; nothing: the largest id of the sequence.
    pub fn pooled_id(&self) -> Option<usize> {
        (self.eos_token_id != LEGACY_END).then_some(self.eos_token_id)
    }

    /// All reasons why this encoder cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let counts = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("projection_dim", self.projection_dim.unwrap_or(1)),
        ];
        let zero = counts.into_iter().filter(|&(_, count)| count == 0);
        let mut problems: Vec<Problem> = zero.map(|(key, _)| Problem::new(key, "must be at least 1")).collect();
        if self.num_attention_heads > 0 && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let message = format!("{} does not divide into {} heads", self.hidden_size, self.num_attention_heads);
            problems.push(Problem::new("hidden_size", message));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            problems.push(Problem::new("layer_norm_eps", format!("{} is not a positive number", self.layer_norm_eps)));
        }
        problems
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_class_with_a_projection_has_one() {
        let of = |class: &str| {
            let json = json!({"architectures": [class], "projection_dim": 5, "hidden_act": "gelu", "model_type": "x"});
            ClipTextConfig::from_transformers(&json).unwrap()
        };
        assert_eq!(of("CLIPTextModel").projection_dim, None);
        assert_eq!(of("CLIPTextModelWithProjection").projection_dim, Some(5));
        assert_eq!(of("CLIPTextModel").hidden_act, TextActivation::Gelu);
        let error = ClipTextConfig::from_transformers(&json!({"hidden_act": "relu"})).unwrap_err().to_string();
        assert!(error.contains("relu"), "{error}");
    }

    #[test]
    fn what_is_written_for_transformers_is_read_as_the_same() {
        for projection_dim in [None, Some(7)] {
            let config = ClipTextConfig { vocab_size: 600, eos_token_id: 599, projection_dim, ..Default::default() };
            assert_eq!(ClipTextConfig::from_transformers(&config.to_transformers(598, 599)).unwrap(), config);
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_key() {
        let config = ClipTextConfig { hidden_size: 10, vocab_size: 0, layer_norm_eps: 0.0, ..Default::default() };
        let keys: Vec<String> = config.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["vocab_size", "hidden_size", "layer_norm_eps"]);
        assert_eq!(ClipTextConfig::default().problems(), vec![]);
    }
}
