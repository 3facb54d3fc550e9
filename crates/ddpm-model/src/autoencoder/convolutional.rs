//! Encoder and decoder of residual blocks with one vector between them, for images.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, conv2d, dense, norm_silu};
use serde::{Deserialize, Serialize};

use super::diagonal_gaussian::DiagonalGaussian;
use crate::network::Problem;
use crate::pass::Pass;
use crate::unet::layers::{Norm, Start, conv3x3, conv3x3_strided};
use crate::unet::resample::Resize;

/// Residual blocks at a few resolutions in each direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvolutionalConfig {
    /// Channels at each resolution, the largest resolution first; each is half as high and wide as the one before.
    pub channels: Vec<usize>,
    /// Residual blocks at each resolution.
    pub blocks: usize,
    /// Dimensions of the latent.
    pub latent: usize,
    /// Groups of the normalizations; they must divide the channels.
    pub norm_groups: usize,
}

impl Default for ConvolutionalConfig {
    fn default() -> Self {
        Self { channels: vec![32, 64], blocks: 1, latent: 8, norm_groups: 8 }
    }
}

/// Epsilon of the normalizations.
const EPSILON: f64 = 1e-6;

impl ConvolutionalConfig {
    /// All reasons why this network cannot be built for items of this shape.
    pub fn problems(&self, shape: [usize; 3]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));
        if self.channels.is_empty() || self.channels.contains(&0) {
            report("channels", "one number of at least 1 for each resolution".into());
        } else if self.norm_groups == 0 || self.channels.iter().any(|channels| channels % self.norm_groups != 0) {
            report("norm_groups", format!("is {}, which does not divide all of {:?}", self.norm_groups, self.channels));
        }
        for (key, value) in [("blocks", self.blocks), ("latent", self.latent)] {
            if value == 0 {
                report(key, "must be at least 1, not 0".into());
            }
        }
        let halvings = self.channels.len().saturating_sub(1) as u32;
        let [_, height, width] = shape;
        let divides = |side: usize| 1usize.checked_shl(halvings).is_some_and(|unit| side.is_multiple_of(unit));
        if !divides(height) || !divides(width) {
            let message = format!("images of {height}x{width} cannot be halved {halvings} times");
            report("channels", message);
        }
        problems
    }

    /// Builds the network for items of this shape, whose decoder gives `outputs` numbers in place of each channel.
    pub fn init(&self, shape: [usize; 3], outputs: usize, device: &Device) -> Convolutional {
        let [channels, height, width] = shape;
        let norm = Norm { groups: self.norm_groups, eps: EPSILON };
        let halvings = self.channels.len() - 1;
        let [first, last] = [self.channels[0], self.channels[halvings]];
        let coarse = [last, height >> halvings, width >> halvings];
        let size = coarse.iter().product();
        let down = (0..=halvings).map(|level| {
            let to_next = (level < halvings).then(|| {
                let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
                conv3x3_strided([self.channels[level], self.channels[level + 1]], padding, device)
            });
            Level { blocks: self.blocks_of(self.channels[level], norm, device), resample: to_next }
        });
        let up = (0..=halvings).rev().map(|level| {
            let to_next =
                (level > 0).then(|| conv3x3([self.channels[level], self.channels[level - 1]], Start::Random, device));
            Level { blocks: self.blocks_of(self.channels[level], norm, device), resample: to_next }
        });
        let linear = |inputs: usize, outputs: usize| LinearConfig::new(inputs, outputs).init(device);
        Convolutional {
            conv_in: conv3x3([channels, first], Start::Random, device),
            down: down.collect(),
            norm_in: norm.init(last, device),
            mean: linear(size, self.latent),
            log_variance: linear(size, self.latent),
            from_latent: linear(self.latent, size),
            up: up.collect(),
            norm_out: norm.init(first, device),
            conv_out: conv3x3([first, outputs], Start::Random, device),
            coarse,
        }
    }

    fn blocks_of(&self, channels: usize, norm: Norm, device: &Device) -> Vec<Block> {
        (0..self.blocks).map(|_| Block::init(channels, norm, device)).collect()
    }

    /// Values that a training step keeps for one item.
    pub fn kept_values(&self, shape: [usize; 3], outputs: usize) -> usize {
        let [channels, height, width] = shape;
        let level = |level: usize| 2 * (6 * self.blocks + 2) * self.channels[level] * ((height * width) >> (2 * level));
        (channels + 3 * outputs) * height * width + (0..self.channels.len()).map(level).sum::<usize>()
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Convolutional {
    conv_in: Conv2d,
    down: Vec<Level>,
    norm_in: GroupNorm,
    mean: Linear,
    log_variance: Linear,
    from_latent: Linear,
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    coarse: [usize; 3],
}

impl Convolutional {
    /// Images `[B, C, H, W]` to their posterior `[B, latent, 1, 1]`.
    pub fn encode(&self, x: Tensor<4>, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        let rows = x.dims()[0];
        let mut h = pass.layer("conv_in", x, |x| conv2d(&self.conv_in, x, pass.precision));
        for (number, level) in self.down.iter().enumerate() {
            h = level.forward(h, Resize::Keep, &pass.inside(format_args!("down.{number}")));
        }
        let h = pass.layer("norm_in", h, |h| norm_silu(&self.norm_in, h)).reshape([rows as i32, -1]);
        let head = |name: &str, layer: &Linear| {
            let y = pass.layer(name, h.clone(), |h| dense(layer, h, pass.precision));
            let latent = y.dims()[1];
            y.reshape([rows, latent, 1, 1])
        };
        DiagonalGaussian::new(head("mean", &self.mean), head("log_variance", &self.log_variance))
    }

    /// Latents `[B, latent, 1, 1]` to what the likelihood takes, `[B, outputs, H, W]`.
    pub fn decode(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let ([rows, latent, ..], [channels, height, width]) = (z.dims(), self.coarse);
        let z = z.reshape([rows, latent]);
        let h = pass.layer("from_latent", z, |z| dense(&self.from_latent, z, pass.precision));
        let mut h = h.reshape([rows, channels, height, width]);
        for (number, level) in self.up.iter().enumerate() {
            h = level.forward(h, Resize::Double, &pass.inside(format_args!("up.{number}")));
        }
        let h = pass.layer("norm_out", h, |h| norm_silu(&self.norm_out, h));
        pass.layer("conv_out", h, |h| conv2d(&self.conv_out, h, pass.precision))
    }
}

/// The blocks at one resolution, and the convolution to the next.
#[derive(Module, Debug)]
struct Level {
    blocks: Vec<Block>,
    resample: Option<Conv2d>,
}

impl Level {
    fn forward(&self, x: Tensor<4>, resize: Resize, pass: &Pass<'_>) -> Tensor<4> {
        let mut h = x;
        for (number, block) in self.blocks.iter().enumerate() {
            h = block.forward(h, &pass.inside(format_args!("blocks.{number}")));
        }
        match &self.resample {
            Some(conv) => pass.layer("resample", resize.apply(h), |h| conv2d(conv, h, pass.precision)),
            None => h,
        }
    }
}

/// A residual block without a time.
#[derive(Module, Debug)]
struct Block {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
}

impl Block {
    fn init(channels: usize, norm: Norm, device: &Device) -> Self {
        Self {
            norm1: norm.init(channels, device),
            conv1: conv3x3([channels; 2], Start::Random, device),
            norm2: norm.init(channels, device),
            conv2: conv3x3([channels; 2], Start::Zero, device),
        }
    }

    fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let h = pass.layer("norm1", x.clone(), |x| norm_silu(&self.norm1, x));
        let h = pass.layer("conv1", h, |h| conv2d(&self.conv1, h, pass.precision));
        let h = pass.layer("norm2", h, |h| norm_silu(&self.norm2, h));
        let h = pass.layer("conv2", h, |h| conv2d(&self.conv2, h, pass.precision));
        pass.joined("sum", add(x, h))
    }
}
