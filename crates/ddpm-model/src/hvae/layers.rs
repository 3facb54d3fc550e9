//! The layers of VDVAE and the block that encoder and decoder are made of.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, conv2d, gelu};

use crate::pass::Pass;

/// From this resolution on the inner convolutions are 3x3; below, where most of such a kernel would lie outside, 1x1.
const LOWEST_RESOLUTION_OF_3X3: usize = 3;

/// A convolution that keeps the size. Weights are drawn as PyTorch does and multiplied by `scale`; biases are zero.
pub(super) fn conv(channels: [usize; 2], kernel: usize, scale: f64, device: &Device) -> Conv2d {
    let bound = scale / ((channels[0] * kernel * kernel) as f64).sqrt();
    let weight = match scale {
        0.0 => Initializer::Zeros,
        _ => Initializer::Uniform { min: -bound, max: bound },
    };
    let pad = kernel / 2;
    let config = Conv2dConfig::new(channels, [kernel, kernel])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_initializer(weight);
    let mut layer = config.init(device);
    layer.bias = Some(Initializer::Zeros.init([channels[1]], device));
    layer
}

/// A convolution in the precision of the pass, from f32 to f32: what states and latents are made of stays exact.
pub(super) fn apply(name: &str, conv: &Conv2d, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
    let dtype = x.dtype();
    pass.layer(name, pass.precision.carried(x), |x| conv2d(conv, x, pass.precision)).cast(dtype)
}

/// The sizes of a [`BottleneckBlock`].
#[derive(Clone, Copy)]
pub(super) struct BottleneckConfig {
    pub(super) inputs: usize,
    pub(super) inside: usize,
    pub(super) outputs: usize,
    pub(super) resolution: usize,
    /// Factor of the last convolution's initial weights.
    pub(super) last_scale: f64,
}

impl BottleneckConfig {
    pub(super) fn init(self, device: &Device) -> BottleneckBlock {
        let kernel = if self.resolution >= LOWEST_RESOLUTION_OF_3X3 { 3 } else { 1 };
        BottleneckBlock {
            c1: conv([self.inputs, self.inside], 1, 1.0, device),
            c2: conv([self.inside, self.inside], kernel, 1.0, device),
            c3: conv([self.inside, self.inside], kernel, 1.0, device),
            c4: conv([self.inside, self.outputs], 1, self.last_scale, device),
        }
    }
}

/// Four convolutions, each after a GELU.
#[derive(Module, Debug)]
pub(super) struct BottleneckBlock {
    c1: Conv2d,
    c2: Conv2d,
    c3: Conv2d,
    c4: Conv2d,
}

impl BottleneckBlock {
    pub(super) fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let layers = [("c1", &self.c1), ("c2", &self.c2), ("c3", &self.c3), ("c4", &self.c4)];
        layers.into_iter().fold(x, |x, (name, conv)| apply(name, conv, gelu(x), pass))
    }

    /// With the input added.
    pub(super) fn residual(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        add(x.clone(), self.forward(x, pass))
    }
}

/// The means of squares of `factor` pixels; what is left over at the lower and right edge is dropped.
pub(super) fn pooled(x: Tensor<4>, factor: usize) -> Tensor<4> {
    avg_pool2d(x, AvgPoolOptions::new([factor, factor]).with_stride([factor, factor]))
}

/// Nearest-neighbour upsampling to this height and width.
pub(super) fn upsampled(x: Tensor<4>, resolution: usize) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([resolution, resolution]);
    interpolate(x, options)
}

/// Zeros appended up to this many channels.
pub(super) fn padded(x: Tensor<4>, channels: usize) -> Tensor<4> {
    let [batch, found, height, width] = x.dims();
    match channels > found {
        true => {
            let zeros = Tensor::zeros([batch, channels - found, height, width], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, zeros], 1)
        }
        false => x,
    }
}
