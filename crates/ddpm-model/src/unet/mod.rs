//! The U-Net of Ho et al. (2020), with the choices of Nichol & Dhariwal (2021) and Dhariwal & Nichol (2021).
//!
//! Field names spell the keys of diffusers' `UNet2DModel`, so that weights pass in and out by name.

mod attention;
mod block;
mod config;
pub(crate) mod layers;
mod memory;
pub(crate) mod resample;
mod stages;

use attention::{SelfAttention, SelfAttentionConfig};
use block::{ResidualBlock, ResidualBlockConfig};
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm, Initializer, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, concat, conv2d, dense, norm_silu, silu};

use crate::condition::Condition;
use crate::embedding::class_features;
use crate::pass::Pass;
pub use config::{DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNetConfig};
use layers::{Norm, Start, conv3x3, linear};
use resample::{Downsampler, Resize, Upsampler};
pub use stages::{Attention, Block, Resample, Stage, Topology};

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
            time_embedding: TimeEmbedding {
                linear_1: linear(self.base_channels, time_width, Start::Random, device),
                linear_2: linear(time_width, time_width, Start::Random, device),
            },
            class_embedding: self.class_rows().map(|rows| EmbeddingConfig::new(rows, time_width).init(device)),
            augment_embedding: (self.augment_dim > 0).then(|| {
                // As the dense layers: variance 1 / fan_avg.
                let most = (6.0 / (self.augment_dim + time_width) as f64).sqrt();
                let start = Initializer::Uniform { min: -most, max: most };
                EmbeddingConfig::new(self.augment_dim, time_width).with_initializer(start).init(device)
            }),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: self.norm().init(channels, device),
            conv_out: conv3x3(topology.output, Start::Zero, device),
            config: self.clone(),
            precision: Precision::F32,
        }
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
            time_width: self.time_width(),
            norm: self.norm(),
            time_shift: self.time_shift,
            dropout: self.dropout,
            resize,
        };
        config.init(device)
    }

    /// Those of the blocks that have one; these are the first ones.
    fn attentions(&self, stage: &Stage, device: &Device) -> Vec<SelfAttention> {
        let attention = |block: &Block| {
            let Attention { heads, norm_groups } = block.attention?;
            let norm = norm_groups.map(|groups| Norm { groups, eps: self.norm_eps });
            Some(SelfAttentionConfig { channels: block.out_channels, heads, norm }.init(device))
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

        let mut h = pass.layer("conv_in", pass.precision.carried(x_t), |x| conv2d(&self.conv_in, x, pass.precision));
        let mut skips = vec![h.clone()];
        for (i, block) in self.down_blocks.iter().enumerate() {
            h = block.forward(h, &time, &mut skips, &pass.inside(format_args!("down_blocks.{i}")));
        }
        h = self.mid_block.forward(h, &time, &pass.inside(format_args!("mid_block")));
        for (i, block) in self.up_blocks.iter().enumerate() {
            h = block.forward(h, &time, &mut skips, &pass.inside(format_args!("up_blocks.{i}")));
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
        let TimeEmbedding { linear_1, linear_2 } = &self.time_embedding;
        let time =
            pass.layer("time_embedding.linear_1", sinusoids, |sinusoids| dense(linear_1, sinusoids, Precision::F32));
        let time = pass.layer("time_embedding.linear_2", silu(time), |time| dense(linear_2, time, Precision::F32));
        let time = match (&self.augment_embedding, augment_labels) {
            (Some(rows), Some(labels)) => pass.joined("augment_embedding", time + labels.matmul(rows.weight.val())),
            _ => time,
        };
        let class = match &self.class_embedding {
            Some(table) => class_features(table, self.config.null_class(), condition, batch, &device),
            None => {
                debug_assert!(matches!(condition, Condition::None), "this network is not class-conditional");
                None
            }
        };
        silu(match class {
            Some(class) => pass.joined("class_embedding", time + class),
            None => time,
        })
    }
}

#[derive(Module, Debug)]
struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<SelfAttention>,
    downsamplers: Vec<Downsampler>,
}

impl DownBlock {
    fn forward(&self, mut h: Tensor<4>, time: &Tensor<2>, skips: &mut Vec<Tensor<4>>, pass: &Pass<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            h = resnet.forward(h, time.clone(), &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, &pass.inside(format_args!("attentions.{i}")));
            }
            skips.push(h.clone());
        }
        for downsampler in &self.downsamplers {
            h = downsampler.forward(h, time.clone(), &pass.inside(format_args!("downsamplers.0")));
            skips.push(h.clone());
        }
        h
    }
}

#[derive(Module, Debug)]
struct MiddleBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<SelfAttention>,
}

impl MiddleBlock {
    fn forward(&self, mut h: Tensor<4>, time: &Tensor<2>, pass: &Pass<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            h = resnet.forward(h, time.clone(), &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, &pass.inside(format_args!("attentions.{i}")));
            }
        }
        h
    }
}

#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<SelfAttention>,
    upsamplers: Vec<Upsampler>,
}

impl UpBlock {
    fn forward(&self, mut h: Tensor<4>, time: &Tensor<2>, skips: &mut Vec<Tensor<4>>, pass: &Pass<'_>) -> Tensor<4> {
        let waiting = skips.split_off(skips.len() - self.resnets.len());
        for (i, (resnet, skip)) in self.resnets.iter().zip(waiting.into_iter().rev()).enumerate() {
            h = resnet.forward(concat(h, skip), time.clone(), &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, &pass.inside(format_args!("attentions.{i}")));
            }
        }
        for upsampler in &self.upsamplers {
            h = upsampler.forward(h, time.clone(), &pass.inside(format_args!("upsamplers.0")));
        }
        h
    }
}

#[cfg(test)]
mod tests;
