//! A block of the transformer, and the embedding of time and class that modulates it.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, add, add_gated, dense, layer_norm, modulated_layer_norm, silu};

use super::activated;
use super::config::{DiTConfig, TIME_WIDTH};
use crate::condition::Condition;
use crate::embedding::class_features;
use crate::pass::Pass;
use crate::transformer::{Activation, FeedForward, TokenAttention, TokenAttentionConfig, apply};
use crate::unet::layers::{Start, linear};

/// Added to the variance in the normalization in front of the attention.
const NORM1_EPS: f64 = 1e-6;
/// Standard deviation of the initial weights of the embeddings.
const EMBEDDING_STD: f64 = 0.02;

/// What every block is conditioned on.
pub(super) struct BlockContext {
    /// Of the time, `[B, 256]`.
    pub(super) sinusoids: Tensor<2>,
    pub(super) condition: Condition,
    pub(super) null_class: Option<usize>,
    /// The tokens that are attended to and the bias that hides some, in networks that take any.
    pub(super) tokens: Option<(Tensor<3>, Option<Tensor<4>>)>,
}

/// Attention and a feed-forward part, each normalized, modulated and gated.
#[derive(Module, Debug)]
pub(super) struct DiTBlock {
    norm1: AdaptiveNorm,
    attn1: TokenAttention,
    /// In front of the attention to the tokens of a condition.
    norm2: Option<LayerNorm>,
    attn2: Option<TokenAttention>,
    ff: FeedForward,
    #[module(skip)]
    norm_eps: f64,
}

impl DiTBlock {
    /// Block number `place`.
    pub(super) fn init(config: &DiTConfig, place: usize, device: &Device) -> Self {
        let channels = config.hidden_size;
        let attention = |token_width, out| {
            TokenAttentionConfig { channels, token_width, heads: config.heads, bias: true }.init(out, device)
        };
        let has_tokens = config.token_width > 0;
        let has_embedding = place == 0 || !config.shared_embedding;
        Self {
            norm1: AdaptiveNorm {
                emb: has_embedding.then(|| CombinedEmbedding::init(config, device)),
                linear: linear(channels, 6 * channels, Start::Zero, device),
            },
            attn1: attention(channels, Start::Random),
            norm2: has_tokens.then(|| LayerNormConfig::new(channels).with_epsilon(NORM1_EPS).init(device)),
            attn2: has_tokens.then(|| attention(config.token_width, Start::Zero)),
            ff: FeedForward::init(channels, Activation::TanhGelu, device),
            norm_eps: config.norm_eps,
        }
    }

    /// The activated embedding of time and class, `[B, C]`, of a block that has one.
    pub(super) fn embed(&self, context: &BlockContext, pass: &Pass<'_>) -> Option<Tensor<2>> {
        let embedding = self.norm1.emb.as_ref()?;
        Some(pass.precision.carried(activated(embedding.forward(context, &pass.inside(format_args!("norm1.emb"))))))
    }

    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        conditioning: Tensor<2>,
        context: &BlockContext,
        pass: &Pass<'_>,
    ) -> Tensor<3> {
        let modulation = apply("norm1.linear", &self.norm1.linear, conditioning, pass);
        let width = x.dims()[2];
        let [shift_1, scale_1, gate_1, shift_2, scale_2, gate_2] =
            [0, 1, 2, 3, 4, 5].map(|i| modulation.clone().narrow(1, i * width, width));

        let h = pass.joined("norm1", modulated_layer_norm(x.clone(), scale_1, shift_1, NORM1_EPS));
        let h = self.attn1.forward(h.clone(), h, None, &pass.inside(format_args!("attn1")));
        let x = add_gated(x, h, gate_1);
        let x = self.attend_to_tokens(x, context, pass);
        let h = pass.joined("norm3", modulated_layer_norm(x.clone(), scale_2, shift_2, self.norm_eps));
        let h = self.ff.forward(h, &pass.inside(format_args!("ff")));
        pass.joined("sum", add_gated(x, h, gate_2))
    }

    fn attend_to_tokens(&self, x: Tensor<3>, context: &BlockContext, pass: &Pass<'_>) -> Tensor<3> {
        let (Some(norm), Some(attention), Some((states, bias))) = (&self.norm2, &self.attn2, &context.tokens) else {
            return x;
        };
        let h = pass.layer("norm2", x.clone(), |x| layer_norm(norm, NORM1_EPS, x));
        add(x, attention.forward(h, states.clone(), bias.clone(), &pass.inside(format_args!("attn2"))))
    }
}

#[derive(Module, Debug)]
struct AdaptiveNorm {
    emb: Option<CombinedEmbedding>,
    /// To shift, scale and gate of the attention, then of the feed-forward part.
    linear: Linear,
}

/// The embeddings of time and class, summed.
#[derive(Module, Debug)]
struct CombinedEmbedding {
    timestep_embedder: TimestepEmbedder,
    class_embedder: Option<ClassEmbedder>,
}

#[derive(Module, Debug)]
struct TimestepEmbedder {
    linear_1: Linear,
    linear_2: Linear,
}

/// A module of its own so that the key is `class_embedder.embedding_table`, as in diffusers' files.
#[derive(Module, Debug)]
struct ClassEmbedder {
    embedding_table: Embedding,
}

impl CombinedEmbedding {
    fn init(config: &DiTConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let start = Initializer::Normal { mean: 0.0, std: EMBEDDING_STD };
        let table = |rows| EmbeddingConfig::new(rows, width).with_initializer(start.clone()).init(device);
        let time = |inputs| {
            let mut layer = linear(inputs, width, Start::Random, device);
            layer.weight = start.init([inputs, width], device);
            layer
        };
        Self {
            timestep_embedder: TimestepEmbedder { linear_1: time(TIME_WIDTH), linear_2: time(width) },
            class_embedder: config.class_rows().map(|rows| ClassEmbedder { embedding_table: table(rows) }),
        }
    }

    /// `[B, C]`, in f32 whatever the precision.
    fn forward(&self, context: &BlockContext, pass: &Pass<'_>) -> Tensor<2> {
        let TimestepEmbedder { linear_1, linear_2 } = &self.timestep_embedder;
        let sinusoids = context.sinusoids.clone();
        let ([batch, _], device) = (sinusoids.dims(), sinusoids.device());
        let h = pass.layer("timestep_embedder.linear_1", sinusoids, |x| dense(linear_1, x, Precision::F32));
        let time = pass.layer("timestep_embedder.linear_2", silu(h), |h| dense(linear_2, h, Precision::F32));
        let class = self.class_embedder.as_ref().and_then(|embedder| {
            class_features(&embedder.embedding_table, context.null_class, &context.condition, batch, &device)
        });
        match class {
            Some(class) => pass.joined("class_embedder", time + class),
            None => time,
        }
    }
}
