//! CLIP's text encoder: a transformer in which every token attends to itself and to those before it.
//!
//! Field names spell the keys of transformers' `CLIPTextModel`.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Int, Tensor};
use ddpm_kernels::{Precision, add, gelu, layer_norm};

use super::config::{ClipTextConfig, TextActivation};
use crate::network::NetworkError;
use crate::pass::Pass;
use crate::transformer::{apply, attend, causal_bias, mask_bias};

impl ClipTextConfig {
    /// Builds the encoder. The config must have no [`problems`](Self::problems).
    pub fn init(&self, device: &Device) -> ClipText {
        let table = |rows, std| {
            let start = Initializer::Normal { mean: 0.0, std };
            EmbeddingConfig::new(rows, self.hidden_size).with_initializer(start).init(device)
        };
        let projection = |width| dense(self.hidden_size, width, (self.hidden_size as f64).powf(-0.5), false, device);
        ClipText {
            text_model: TextModel {
                embeddings: Embeddings {
                    token_embedding: table(self.vocab_size, 0.02),
                    position_embedding: table(self.max_position_embeddings, 0.02),
                },
                encoder: Layers { layers: (0..self.num_hidden_layers).map(|_| self.layer(device)).collect() },
                final_layer_norm: self.norm(device),
            },
            text_projection: self.projection_dim.map(projection),
            config: self.clone(),
            precision: Precision::F32,
        }
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNormConfig::new(self.hidden_size).with_epsilon(self.layer_norm_eps).init(device)
    }

    /// A layer with the initial weights of CLIP: what is added to the states shrinks with the number of layers.
    fn layer(&self, device: &Device) -> Layer {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let std = (width as f64).powf(-0.5);
        let added = std * (2.0 * self.num_hidden_layers as f64).powf(-0.5);
        let project = |std| dense(width, width, std, true, device);
        Layer {
            self_attn: CausalAttention {
                q_proj: project(added),
                k_proj: project(added),
                v_proj: project(added),
                out_proj: project(std),
                heads: self.num_attention_heads,
            },
            layer_norm1: self.norm(device),
            mlp: FeedForward {
                fc1: dense(width, inner, std * 2f64.powf(-0.5), true, device),
                fc2: dense(inner, width, added, true, device),
                activation: self.hidden_act,
            },
            layer_norm2: self.norm(device),
            eps: self.layer_norm_eps,
        }
    }
}

fn dense(inputs: usize, outputs: usize, std: f64, bias: bool, device: &Device) -> Linear {
    let start = Initializer::Normal { mean: 0.0, std };
    let mut layer = LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(start).init(device);
    layer.bias = bias.then(|| Initializer::Zeros.init([outputs], device));
    layer
}

/// The encoder.
#[derive(Module, Debug)]
pub struct ClipText {
    text_model: TextModel,
    text_projection: Option<Linear>,
    #[module(skip)]
    config: ClipTextConfig,
    #[module(skip)]
    precision: Precision,
}

/// What the encoder makes of a batch of token sequences.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// The embeddings and the states after each layer, `[B, L, D]`, none of them normalized.
    pub hidden: Vec<Tensor<3>>,
    /// The normalized states after the last layer, `[B, L, D]`.
    pub last: Tensor<3>,
    /// The normalized state at the end token, `[B, D]`.
    pub pooled: Tensor<2>,
    /// The projection of the pooled state, `[B, P]`, where the encoder has one.
    pub projected: Option<Tensor<2>>,
}

impl TextStates {
    /// The states after the last layer but one, not normalized, which Stable Diffusion XL uses.
    pub fn penultimate(&self) -> Tensor<3> {
        self.hidden[self.hidden.len().saturating_sub(2)].clone()
    }
}

impl ClipText {
    /// The config that this encoder was built from.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The same encoder, computing in this precision.
    pub fn in_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Whether sequences of ids of this shape, `[B, L]`, can be encoded.
    pub fn check_input(&self, shape: [usize; 2]) -> Result<(), NetworkError> {
        let most = self.config.max_position_embeddings;
        if (1..=most).contains(&shape[1]) {
            return Ok(());
        }
        let reason = format!("the text encoder takes 1 to {most} tokens");
        Err(NetworkError::Input { shape: shape.to_vec(), reason })
    }

    /// Encodes ids `[B, L]` of the vocabulary. Where `mask` `[B, L]` is 0 a token is not attended to; Stable Diffusion uses
    /// no mask.
    pub fn encode(&self, ids: Tensor<2, Int>, mask: Option<Tensor<2>>, pass: &Pass<'_>) -> TextStates {
        debug_assert_eq!(self.check_input(ids.dims()), Ok(()));
        let pass = &pass.of(self.precision);
        let TextModel { embeddings, encoder, final_layer_norm } = &self.text_model;
        let tokens = ids.dims()[1];
        let causal = causal_bias(tokens, &ids.device());
        let bias = match mask {
            None => causal,
            Some(mask) => causal + mask_bias(mask),
        };
        let mut h = embeddings.forward(ids.clone());
        let mut hidden = vec![h.clone()];
        for (i, layer) in encoder.layers.iter().enumerate() {
            h = layer.forward(h, &bias, &pass.inside(format_args!("text_model.encoder.layers.{i}")));
            hidden.push(h.clone());
        }
        let last = pass
            .layer("text_model.final_layer_norm", h, |h| layer_norm(final_layer_norm, self.config.layer_norm_eps, h));
        let pooled = at(last.clone(), self.pooled_places(ids));
        let projected =
            self.text_projection.as_ref().map(|layer| apply("text_projection", layer, pooled.clone(), pass));
        TextStates { hidden, last, pooled, projected }
    }

    /// The normalized states of `skip` layers before the last one ("clip skip"); with 0 they are `last`. There must be as many
    /// layers.
    pub fn skipping(&self, states: &TextStates, skip: usize) -> Tensor<3> {
        let layer = (states.hidden.len() - 1).saturating_sub(skip);
        layer_norm(&self.text_model.final_layer_norm, self.config.layer_norm_eps, states.hidden[layer].clone())
    }

    /// The place of the pooled state in every row, `[B]`: the first one of the end token or of the largest id.
    pub fn pooled_places(&self, ids: Tensor<2, Int>) -> Tensor<1, Int> {
        let [batch, tokens] = ids.dims();
        let is_end = match self.config.pooled_id() {
            Some(id) => ids.equal_elem(id as i64),
            None => {
                let largest = ids.clone().max_dim(1).expand([batch, tokens]);
                ids.equal(largest)
            }
        };
        let places = Tensor::<1, Int>::arange(0..tokens as i64, &is_end.device()).unsqueeze_dim::<2>(0);
        let places = places.expand([batch, tokens]).mask_fill(is_end.bool_not(), tokens as i64);
        let first = places.min_dim(1).reshape([batch]);
        // Without an end token the first place counts.
        let none = first.clone().equal_elem(tokens as i64);
        first.mask_fill(none, 0)
    }
}

/// The states `[B, L, D]` at one place of each row.
fn at(states: Tensor<3>, places: Tensor<1, Int>) -> Tensor<2> {
    let [batch, _, width] = states.dims();
    let places = places.reshape([batch, 1, 1]).expand([batch, 1, width]);
    states.gather(1, places).reshape([batch, width])
}

#[derive(Module, Debug)]
struct TextModel {
    embeddings: Embeddings,
    encoder: Layers,
    final_layer_norm: LayerNorm,
}

#[derive(Module, Debug)]
struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

impl Embeddings {
    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let tokens = ids.dims()[1];
        let places = self.position_embedding.weight.val().narrow(0, 0, tokens).unsqueeze_dim::<3>(0);
        self.token_embedding.forward(ids) + places
    }
}

#[derive(Module, Debug)]
struct Layers {
    layers: Vec<Layer>,
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: CausalAttention,
    layer_norm1: LayerNorm,
    mlp: FeedForward,
    layer_norm2: LayerNorm,
    #[module(skip)]
    eps: f64,
}

impl Layer {
    fn forward(&self, x: Tensor<3>, bias: &Tensor<4>, pass: &Pass<'_>) -> Tensor<3> {
        let h = pass.layer("layer_norm1", x.clone(), |x| layer_norm(&self.layer_norm1, self.eps, x));
        let x = add(x, self.self_attn.forward(h, bias, &pass.inside(format_args!("self_attn"))));
        let h = pass.layer("layer_norm2", x.clone(), |x| layer_norm(&self.layer_norm2, self.eps, x));
        add(x, self.mlp.forward(h, &pass.inside(format_args!("mlp"))))
    }
}

#[derive(Module, Debug)]
struct CausalAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl CausalAttention {
    fn forward(&self, x: Tensor<3>, bias: &Tensor<4>, pass: &Pass<'_>) -> Tensor<3> {
        let q = apply("q_proj", &self.q_proj, x.clone(), pass);
        let k = apply("k_proj", &self.k_proj, x.clone(), pass);
        let v = apply("v_proj", &self.v_proj, x, pass);
        apply("out_proj", &self.out_proj, attend([q, k, v], self.heads, Some(bias.clone()), pass), pass)
    }
}

#[derive(Module, Debug)]
struct FeedForward {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: TextActivation,
}

impl FeedForward {
    fn forward(&self, x: Tensor<3>, pass: &Pass<'_>) -> Tensor<3> {
        let h = apply("fc1", &self.fc1, x, pass);
        let h = match self.activation {
            TextActivation::QuickGelu => h.clone() * sigmoid(h * 1.702),
            TextActivation::Gelu => gelu(h),
        };
        apply("fc2", &self.fc2, h, pass)
    }
}
