//! A denoiser of attention among the variables: each is a token.

use burn::module::{Module, Param};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, attention, silu};

use super::config::AttentionConfig;
use super::mlp::{StepEmbedding, add_condition, linear, zeros};

/// Standard deviation of the embeddings of the variables before training.
const EMBEDDING: f64 = 0.5;

/// Attention among the variables of a step, to which the condition and the diffusion step add at the start.
#[derive(Module, Debug)]
pub struct AttentionDenoiser {
    step: StepEmbedding,
    /// What tells the variables apart, `[D, width]`.
    variables: Param<Tensor<2>>,
    input: Linear,
    condition: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
    #[module(skip)]
    heads: usize,
}

/// Attention and two dense layers, each around a residual and behind a normalization.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    to_qkv: Linear,
    to_out: Linear,
    norm2: LayerNorm,
    first: Linear,
    second: Linear,
}

impl AttentionDenoiser {
    pub(super) fn init(config: &AttentionConfig, variables: usize, condition: usize, device: &Device) -> Self {
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        let width = config.width;
        let norm = || LayerNormConfig::new(width).init(device);
        let block = |_| Block {
            norm1: norm(),
            to_qkv: linear(width, 3 * width),
            to_out: linear(width, width),
            norm2: norm(),
            first: linear(width, 2 * width),
            second: linear(2 * width, width),
        };
        Self {
            step: StepEmbedding::init(width, device),
            variables: Initializer::Normal { mean: 0.0, std: EMBEDDING }.init([variables, width], device),
            input: linear(1, width),
            condition: linear(condition, width),
            blocks: (0..config.blocks).map(block).collect(),
            norm: norm(),
            output: zeros(width, 1, device),
            heads: config.heads,
        }
    }

    /// See [`super::Denoiser::forward`].
    pub(super) fn forward(&self, x: Tensor<3>, steps: &[f64], condition: Tensor<3>) -> Tensor<3> {
        let [rows, _, variables] = x.dims();
        let (steps, step) = self.step.forward(steps, &x);
        let condition = linear(&self.condition, condition.squeeze_dim::<2>(1));
        let width = condition.dims()[1];
        let shift = steps.rows_of(step).expand([rows, width]);
        let shift = add_condition(shift, condition).unsqueeze_dim::<3>(1);
        let tokens = linear(&self.input, x.reshape([rows, variables, 1]));
        let mut h = tokens + shift + self.variables.val().unsqueeze_dim::<3>(0);
        for block in &self.blocks {
            h = block.forward(h, self.heads);
        }
        linear(&self.output, self.norm.forward(h)).reshape([rows, 1, variables])
    }
}

impl Block {
    fn forward(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        let [rows, variables, width] = x.dims();
        let qkv = linear(&self.to_qkv, self.norm1.forward(x.clone()));
        // [rows, heads, width of a head, variables]
        let part = |k: usize| {
            let part = qkv.clone().narrow(2, k * width, width).swap_dims(1, 2);
            part.reshape([rows, heads, width / heads, variables])
        };
        let mixed = attention(part(0), part(1), part(2), Precision::F32);
        let mixed = mixed.reshape([rows, width, variables]).swap_dims(1, 2);
        let x = x + linear(&self.to_out, mixed);
        let hidden = silu(linear(&self.first, self.norm2.forward(x.clone())));
        x + linear(&self.second, hidden)
    }
}
