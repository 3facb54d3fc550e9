//! Layers with the initial values of Ho et al. (2020).
//!
//! Weights are drawn uniformly with variance `1 / fan_avg` and biases are zero, as in the original code.
//! PyTorch's default has a third of that variance, and the last convolutions start at zero in the paper, so
//! that every block begins as the identity and the whole network as the prediction 0.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::Device;

/// The initial weights of a layer.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    Random,
    Zero,
}

impl Start {
    fn weight(self) -> Initializer {
        match self {
            // "Xavier" is the name of variance scaling by the fan average.
            Self::Random => Initializer::XavierUniform { gain: 1.0 },
            Self::Zero => Initializer::Zeros,
        }
    }
}

/// Groups and epsilon, the same in the whole network.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) groups: usize,
    pub(crate) eps: f64,
}

impl Norm {
    pub(crate) fn init(self, channels: usize, device: &Device) -> GroupNorm {
        GroupNormConfig::new(self.groups, channels).with_epsilon(self.eps).init(device)
    }
}

/// A 3x3 convolution that keeps the size.
pub(crate) fn conv3x3(channels: [usize; 2], start: Start, device: &Device) -> Conv2d {
    init_conv(Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)), start, device)
}

/// A 3x3 convolution with stride 2 and this padding.
pub(crate) fn conv3x3_strided(channels: [usize; 2], padding: PaddingConfig2d, device: &Device) -> Conv2d {
    let config = Conv2dConfig::new(channels, [3, 3]).with_stride([2, 2]).with_padding(padding);
    init_conv(config, Start::Random, device)
}

/// A 1x1 convolution.
pub(crate) fn conv1x1(channels: [usize; 2], start: Start, device: &Device) -> Conv2d {
    init_conv(Conv2dConfig::new(channels, [1, 1]), start, device)
}

/// A dense layer.
pub(crate) fn linear(inputs: usize, outputs: usize, start: Start, device: &Device) -> Linear {
    let mut layer = LinearConfig::new(inputs, outputs).with_initializer(start.weight()).init(device);
    layer.bias = Some(Initializer::Zeros.init([outputs], device));
    layer
}

/// A dense layer without a bias.
pub(crate) fn unbiased(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(Start::Random.weight()).init(device)
}

fn init_conv(config: Conv2dConfig, start: Start, device: &Device) -> Conv2d {
    let outputs = config.channels[1];
    let mut layer = config.with_initializer(start.weight()).init(device);
    layer.bias = Some(Initializer::Zeros.init([outputs], device));
    layer
}
