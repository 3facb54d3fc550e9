//! Changes of resolution by a factor of two.

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::conv2d;

use super::block::ResidualBlock;
use super::config::DownsamplePadding;
use super::layers::{Start, conv3x3, conv3x3_strided};
use crate::pass::Pass;

/// The resampling inside a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resize {
    Keep,
    /// The mean of each 2x2 square.
    Halve,
    /// Nearest-neighbour upsampling.
    Double,
}

impl Resize {
    pub(crate) fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Keep => x,
            Self::Halve => avg_pool2d(x, AvgPoolOptions::new([2, 2])),
            Self::Double => {
                let [_, _, height, width] = x.dims();
                enlarged(x, [2 * height, 2 * width])
            }
        }
    }
}

/// Nearest-neighbour upsampling to this height and width.
fn enlarged(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    interpolate(x, InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size))
}

/// The way down to the next level.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per level: a box would save nothing.
pub(crate) enum Downsampler {
    /// A convolution with stride 2.
    Conv(ConvDown),
    /// A residual block that halves.
    Residual(ResidualBlock),
}

impl Downsampler {
    pub(crate) fn conv(channels: usize, padding: DownsamplePadding, device: &Device) -> Self {
        Self::Conv(ConvDown::new(channels, padding, device))
    }

    pub(crate) fn forward(&self, x: Tensor<4>, time: Tensor<2>, pass: &Pass<'_>) -> Tensor<4> {
        match self {
            Self::Conv(down) => down.forward(x, pass),
            Self::Residual(block) => block.forward(x, time, pass),
        }
    }
}

/// The way up to the level above.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per level: a box would save nothing.
pub(crate) enum Upsampler {
    /// Doubling, then a convolution.
    Conv(ConvUp),
    /// A residual block that doubles.
    Residual(ResidualBlock),
}

impl Upsampler {
    pub(crate) fn conv(channels: usize, device: &Device) -> Self {
        Self::Conv(ConvUp::new(channels, device))
    }

    /// To the height and width `size`, which a residual block doubles to.
    pub(crate) fn forward(&self, x: Tensor<4>, size: [usize; 2], time: Tensor<2>, pass: &Pass<'_>) -> Tensor<4> {
        match self {
            Self::Conv(up) => up.forward_to(x, size, pass),
            Self::Residual(block) => block.forward(x, time, pass),
        }
    }
}

/// A module of its own so that the key of the convolution is `conv`, as in diffusers' files.
#[derive(Module, Debug)]
pub(crate) struct ConvDown {
    conv: Conv2d,
}

impl ConvDown {
    pub(crate) fn new(channels: usize, padding: DownsamplePadding, device: &Device) -> Self {
        let padding = match padding {
            DownsamplePadding::RightBottom => PaddingConfig2d::Explicit(0, 0, 1, 1),
            DownsamplePadding::Symmetric => PaddingConfig2d::Explicit(1, 1, 1, 1),
        };
        Self { conv: conv3x3_strided([channels, channels], padding, device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        pass.layer("conv", x, |x| conv2d(&self.conv, x, pass.precision))
    }
}

/// A module of its own so that the key of the convolution is `conv`, as in diffusers' files.
#[derive(Module, Debug)]
pub(crate) struct ConvUp {
    conv: Conv2d,
}

impl ConvUp {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        Self { conv: conv3x3([channels, channels], Start::Random, device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        self.forward_to(x, [2 * height, 2 * width], pass)
    }

    /// To this height and width, which differ from the double where a side did not halve evenly.
    fn forward_to(&self, x: Tensor<4>, size: [usize; 2], pass: &Pass<'_>) -> Tensor<4> {
        pass.layer("conv", enlarged(x, size), |x| conv2d(&self.conv, x, pass.precision))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::module::Param;
    use ddpm_kernels::Precision;

    fn square() -> Tensor<4> {
        Tensor::<1>::from_floats(
            [1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16.],
            &Device::default(),
        )
        .reshape([1, 1, 4, 4])
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn halving_averages_and_doubling_repeats() {
        let half = Resize::Halve.apply(square());
        assert_eq!(values(half.clone()), [3.5, 5.5, 11.5, 13.5]);
        let double = values(Resize::Double.apply(half));
        assert_eq!(double[..8], [3.5, 3.5, 5.5, 5.5, 3.5, 3.5, 5.5, 5.5]);
    }

    #[test]
    fn padding_decides_which_pixels_are_in_the_first_window() {
        let first = |padding| {
            let Downsampler::Conv(mut down) = Downsampler::conv(1, padding, &Device::default()) else {
                unreachable!("made as a convolution")
            };
            down.conv.weight = Param::from_tensor(Tensor::ones([1, 1, 3, 3], &Device::default()));
            let y = conv2d(&down.conv, square(), Precision::F32);
            assert_eq!(y.dims(), [1, 1, 2, 2]);
            values(y)
        };
        assert_eq!(first(DownsamplePadding::RightBottom), [54., 45., 72., 54.]);
        assert_eq!(first(DownsamplePadding::Symmetric), [14., 30., 57., 99.]);
    }
}
