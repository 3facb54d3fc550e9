//! The U-Net of Ho et al. (2020), with the choices of Nichol & Dhariwal (2021) and Dhariwal & Nichol (2021).
//!
//! Field names spell the keys of diffusers' `UNet2DModel`, so that weights pass in and out by name.

pub(crate) mod attention;
mod attention_layer;
pub(crate) mod block;
pub(crate) mod config;
pub(crate) mod layers;
mod memory;
pub(crate) mod resample;
mod stages;
mod transformer;

use attention::SelfAttentionConfig;
use attention_layer::AttentionLayer;
use block::{ResidualBlock, ResidualBlockConfig};
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm, Initializer, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, concat, conv2d, dense, norm_silu, silu};

use crate::condition::{Condition, Tokens};
use crate::embedding::class_features;
use crate::pass::Pass;
pub use config::{
    AddedEmbeddingConfig, CrossAttentionConfig, DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNetConfig,
};
use layers::{Norm, Start, conv3x3, linear};
use resample::{Downsampler, Resize, Upsampler};
pub use stages::{Attention, Block, Resample, Stage, Topology, Transformer};
use transformer::Context;

impl UNetConfig {
    /// Builds the network. The config must have no [`problems`](Self::problems).
    pub fn init(&self, device: &Device) -> UNet {
        let topology = self.topology();
        let down_blocks = topology.down.iter().map(|stage| self.down_block(stage, device)).collect();
        let mid_block = MiddleBlock {
            resnets: self.residual_blocks(&topology.middle, device),
            attentions: self.attentions(&topology.middle, device),
        };
        let up_blocks = topology.up.iter().map(|stage| self.up_block(stage, device)).collect();
        let (time_width, channels) = (self.time_width(), topology.output[0]);
        UNet {
            conv_in: conv3x3(topology.input, Start::Random, device),
            time_embedding: TimeEmbedding::init(self.base_channels, time_width, device),
            class_embedding: self.class_rows().map(|rows| EmbeddingConfig::new(rows, time_width).init(device)),
            augment_embedding: (self.augment_dim > 0).then(|| {
                // As the dense layers: variance 1 / fan_avg.
                let most = (6.0 / (self.augment_dim + time_width) as f64).sqrt();
                let start = Initializer::Uniform { min: -most, max: most };
                EmbeddingConfig::new(self.augment_dim, time_width).with_initializer(start).init(device)
            }),
            add_embedding: self.added().map(|added| TimeEmbedding::init(added.width(), time_width, device)),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: self.norm().init(channels, device),
            conv_out: conv3x3(topology.output, Start::Zero, device),
            config: self.clone(),
            precision: Precision::F32,
        }
    }

    /// What is added to the embedding of the time.
    fn added(&self) -> Option<AddedEmbeddingConfig> {
        self.cross_attention.as_ref()?.added
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.norm_groups, eps: self.norm_eps }
    }

    fn down_block(&self, stage: &Stage, device: &Device) -> DownBlock {
        let downsampler = |Resample { channels, kind, .. }| match kind {
            Resampling::Conv => Downsampler::conv(channels, self.downsample_padding, device),
            Resampling::Residual => Downsampler::Residual(self.residual_block([channels; 2], Resize::Halve, device)),
        };
        DownBlock {
            resnets: self.residual_blocks(stage, device),
            attentions: self.attentions(stage, device),
            downsamplers: stage.resample.map(downsampler).into_iter().collect(),
        }
    }

    fn up_block(&self, stage: &Stage, device: &Device) -> UpBlock {
        let upsampler = |Resample { channels, kind, .. }| match kind {
            Resampling::Conv => Upsampler::conv(channels, device),
            Resampling::Residual => Upsampler::Residual(self.residual_block([channels; 2], Resize::Double, device)),
        };
        UpBlock {
            resnets: self.residual_blocks(stage, device),
            attentions: self.attentions(stage, device),
            upsamplers: stage.resample.map(upsampler).into_iter().collect(),
        }
    }

    fn residual_blocks(&self, stage: &Stage, device: &Device) -> Vec<ResidualBlock> {
        let block =
            |block: &Block| self.residual_block([block.joined_channels(), block.out_channels], Resize::Keep, device);
        stage.blocks.iter().map(block).collect()
    }

    fn residual_block(
        &self,
        [in_channels, out_channels]: [usize; 2],
        resize: Resize,
        device: &Device,
    ) -> ResidualBlock {
        let config = ResidualBlockConfig {
            in_channels,
            out_channels,
            time_width: Some(self.time_width()),
            norm: self.norm(),
            time_shift: self.time_shift,
            dropout: self.dropout,
            resize,
        };
        config.init(device)
    }

    /// Those of the blocks that have one; these are the first ones.
    fn attentions(&self, stage: &Stage, device: &Device) -> Vec<AttentionLayer> {
        let attention = |block: &Block| {
            let channels = block.out_channels;
            if let Some(transformer) = block.transformer {
                return Some(AttentionLayer::Transformer(transformer.init(channels, device)));
            }
            let Attention { heads, norm_groups } = block.attention?;
            let norm = norm_groups.map(|groups| Norm { groups, eps: self.norm_eps });
            Some(AttentionLayer::SelfAttention(SelfAttentionConfig { channels, heads, norm }.init(device)))
        };
        stage.blocks.iter().filter_map(attention).collect()
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct UNet {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    class_embedding: Option<Embedding>,
    /// A linear map without a bias: the augmentation labels times these rows.
    augment_embedding: Option<Embedding>,
    /// Of the whole prompt and of sizes.
    add_embedding: Option<TimeEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MiddleBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNetConfig,
    #[module(skip)]
    pub(crate) precision: Precision,
}

impl UNet {
    /// The config that this network was built from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// `x_t` `[B, C, H, W]` at the times `[B]` to the prediction `[B, C_out, H, W]`.
    pub fn forward(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        self.forward_with(x_t, t, condition, None, &Pass::default())
    }

    /// As [`forward`](Self::forward), conditioned on augmentation labels `[B, augment_dim]` (Karras et al. 2022,
    /// appendix F.2; zeros and `None` are the same), and with a pass that can observe every layer.
    pub fn forward_with(
        &self,
        x_t: Tensor<4>,
        t: Tensor<1>,
        condition: &Condition,
        augment_labels: Option<Tensor<2>>,
        pass: &Pass<'_>,
    ) -> Tensor<4> {
        let (pass, dtype) = (&pass.of(self.precision), x_t.dtype());
        let time = pass.precision.carried(self.time_features(t, condition, augment_labels, pass));
        let given = Given { time, context: self.context(condition, &x_t, pass) };

        let mut h = pass.layer("conv_in", pass.precision.carried(x_t), |x| conv2d(&self.conv_in, x, pass.precision));
        let mut skips = vec![h.clone()];
        for (i, block) in self.down_blocks.iter().enumerate() {
            h = block.forward(h, &given, &mut skips, &pass.inside(format_args!("down_blocks.{i}")));
        }
        h = self.mid_block.forward(h, &given, &pass.inside(format_args!("mid_block")));
        for (i, block) in self.up_blocks.iter().enumerate() {
            h = block.forward(h, &given, &mut skips, &pass.inside(format_args!("up_blocks.{i}")));
        }
        h = pass.layer("conv_norm_out", h, |h| norm_silu(&self.conv_norm_out, h));
        pass.layer("conv_out", h, |h| conv2d(&self.conv_out, h, pass.precision)).cast(dtype)
    }

    /// The embedding that conditions every block, `[B, time]`, in f32 whatever the precision: steps 999 and 1000 differ
    /// by little. Each block applies its own projection to the activation, which is therefore computed once.
    fn time_features(
        &self,
        t: Tensor<1>,
        condition: &Condition,
        augment_labels: Option<Tensor<2>>,
        pass: &Pass<'_>,
    ) -> Tensor<2> {
        let ([batch], device) = (t.dims(), t.device());
        let sinusoids = self.config.embedding.embed(t, self.config.base_channels);
        let time = self.time_embedding.forward(sinusoids, &pass.inside(format_args!("time_embedding")));
        let time = match (&self.augment_embedding, augment_labels) {
            (Some(rows), Some(labels)) => pass.joined("augment_embedding", time + labels.matmul(rows.weight.val())),
            _ => time,
        };
        let class = match &self.class_embedding {
            Some(table) => class_features(table, self.config.null_class(), condition, batch, &device),
            None => {
                debug_assert!(!matches!(condition, Condition::Class(_)), "this network is not class-conditional");
                None
            }
        };
        let time = match class {
            Some(class) => pass.joined("class_embedding", time + class),
            None => time,
        };
        silu(match &self.add_embedding {
            Some(embedding) => {
                let added = self.added_features(condition, batch, &device);
                time + embedding.forward(added, &pass.inside(format_args!("add_embedding")))
            }
            None => time,
        })
    }

    /// The vector of the whole prompt and the sinusoids of the sizes, `[B, width]`; without them, zeros and those of 0.
    fn added_features(&self, condition: &Condition, batch: usize, device: &Device) -> Tensor<2> {
        let AddedEmbeddingConfig { pooled_width, sizes, size_width } = self.config.added().unwrap_or_default();
        let added = tokens_of(condition).and_then(|tokens| tokens.added.clone());
        let (pooled, numbers) = match added {
            Some(added) => (added.pooled, added.sizes),
            None => (Tensor::zeros([batch, pooled_width], device), Tensor::zeros([batch, sizes], device)),
        };
        if sizes == 0 {
            return pooled;
        }
        let sinusoids = self.config.embedding.embed(numbers.reshape([batch * sizes]), size_width);
        Tensor::cat(vec![pooled, sinusoids.reshape([batch, sizes * size_width])], 1)
    }

    /// What the transformers attend to, where there are any.
    fn context(&self, condition: &Condition, x_t: &Tensor<4>, pass: &Pass<'_>) -> Option<Context> {
        let width = self.config.cross_attention.as_ref()?.token_width;
        Some(Context::of(tokens_of(condition), [x_t.dims()[0], width], x_t, pass))
    }
}

fn tokens_of(condition: &Condition) -> Option<&Tokens> {
    match condition {
        Condition::Tokens(tokens) => Some(tokens),
        Condition::None | Condition::Class(_) => None,
    }
}

/// What every block is conditioned on.
struct Given {
    /// The activated embedding of the time, the class and the rest, `[B, time]`.
    time: Tensor<2>,
    context: Option<Context>,
}

/// Two dense layers with an activation between them.
#[derive(Module, Debug)]
struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbedding {
    fn init(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            linear_1: linear(inputs, outputs, Start::Random, device),
            linear_2: linear(outputs, outputs, Start::Random, device),
        }
    }

    /// In f32 whatever the precision.
    fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let h = pass.layer("linear_1", x, |x| dense(&self.linear_1, x, Precision::F32));
        pass.layer("linear_2", silu(h), |h| dense(&self.linear_2, h, Precision::F32))
    }
}

#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<AttentionLayer>,
    downsamplers: Vec<Downsampler>,
}

impl DownBlock {
    fn forward(&self, mut h: Tensor<4>, given: &Given, skips: &mut Vec<Tensor<4>>, pass: &Pass<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            h = resnet.forward(h, given.time.clone(), &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, given.context.as_ref(), &pass.inside(format_args!("attentions.{i}")));
            }
            skips.push(h.clone());
        }
        for downsampler in &self.downsamplers {
            h = downsampler.forward(h, given.time.clone(), &pass.inside(format_args!("downsamplers.0")));
            skips.push(h.clone());
        }
        h
    }
}

#[derive(Module, Debug)]
struct MiddleBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<AttentionLayer>,
}

impl MiddleBlock {
    fn forward(&self, mut h: Tensor<4>, given: &Given, pass: &Pass<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            h = resnet.forward(h, given.time.clone(), &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, given.context.as_ref(), &pass.inside(format_args!("attentions.{i}")));
            }
        }
        h
    }
}

#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<AttentionLayer>,
    upsamplers: Vec<Upsampler>,
}

impl UpBlock {
    fn forward(&self, mut h: Tensor<4>, given: &Given, skips: &mut Vec<Tensor<4>>, pass: &Pass<'_>) -> Tensor<4> {
        let waiting = skips.split_off(skips.len() - self.resnets.len());
        for (i, (resnet, skip)) in self.resnets.iter().zip(waiting.into_iter().rev()).enumerate() {
            h = resnet.forward(concat(h, skip), given.time.clone(), &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, given.context.as_ref(), &pass.inside(format_args!("attentions.{i}")));
            }
        }
        for upsampler in &self.upsamplers {
            let [_, _, height, width] = h.dims();
            // The skip connection that comes next, which may be smaller where a side did not halve evenly.
            let size = skips.last().map_or([2 * height, 2 * width], |skip| [skip.dims()[2], skip.dims()[3]]);
            h = upsampler.forward(h, size, given.time.clone(), &pass.inside(format_args!("upsamplers.0")));
        }
        h
    }
}

#[cfg(test)]
mod tests;
