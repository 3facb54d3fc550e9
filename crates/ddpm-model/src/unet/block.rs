//! The residual block.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Dropout, DropoutConfig, GroupNorm, Linear};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, conv2d, dense, norm_scale_shift_silu, norm_silu, shift};

use super::config::TimeShift;
use super::layers::{Norm, Start, conv1x1, conv3x3, linear};
use super::resample::Resize;
use crate::pass::Pass;

/// A residual block from `in_channels` to `out_channels`, conditioned on the time where it has a width.
#[derive(Clone, Copy)]
pub(crate) struct ResidualBlockConfig {
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    /// Width of the time embedding; none in a block without a time, as autoencoders have.
    pub(crate) time_width: Option<usize>,
    pub(crate) norm: Norm,
    pub(crate) time_shift: TimeShift,
    pub(crate) dropout: f64,
    pub(crate) resize: Resize,
}

impl ResidualBlockConfig {
    pub(crate) fn init(&self, device: &Device) -> ResidualBlock {
        let Self { in_channels, out_channels, .. } = *self;
        let time_outputs = self.time_shift.projected(out_channels);
        ResidualBlock {
            norm1: self.norm.init(in_channels, device),
            conv1: conv3x3([in_channels, out_channels], Start::Random, device),
            time_emb_proj: self.time_width.map(|width| linear(width, time_outputs, Start::Random, device)),
            norm2: self.norm.init(out_channels, device),
            dropout: DropoutConfig::new(self.dropout).init(),
            conv2: conv3x3([out_channels, out_channels], Start::Zero, device),
            conv_shortcut: (in_channels != out_channels)
                .then(|| conv1x1([in_channels, out_channels], Start::Random, device)),
            time_shift: self.time_shift,
            resize: self.resize,
        }
    }
}

/// The module; the names of its fields are those of diffusers' files.
#[derive(Module, Debug)]
pub(crate) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    time_shift: TimeShift,
    #[module(skip)]
    resize: Resize,
}

impl ResidualBlock {
    /// `[B, in, H, W]` and the activated time embedding `[B, time]` to `[B, out, H', W']`.
    pub(crate) fn forward(&self, x: Tensor<4>, time: Tensor<2>, pass: &Pass<'_>) -> Tensor<4> {
        self.run(x, Some(time), pass)
    }

    /// As [`forward`](Self::forward), of a block without a time.
    pub(crate) fn forward_without_time(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        self.run(x, None, pass)
    }

    fn run(&self, x: Tensor<4>, time: Option<Tensor<2>>, pass: &Pass<'_>) -> Tensor<4> {
        let h = pass.layer("norm1", x.clone(), |x| norm_silu(&self.norm1, x));
        let (x, h) = (self.resize.apply(x), self.resize.apply(h));
        let h = pass.layer("conv1", h, |h| conv2d(&self.conv1, h, pass.precision));

        let time = self.time_emb_proj.as_ref().zip(time).map(|(projection, time)| {
            pass.layer("time_emb_proj", time, |time| dense(projection, time, pass.precision))
        });
        let h = match (time, self.time_shift) {
            (None, _) => pass.layer("norm2", h, |h| norm_silu(&self.norm2, h)),
            (Some(time), TimeShift::Additive) => pass.layer("norm2", shift(h, time), |h| norm_silu(&self.norm2, h)),
            (Some(time), TimeShift::ScaleShift) => {
                pass.layer("norm2", h, |h| norm_scale_shift_silu(&self.norm2, h, time))
            }
        };
        let h = pass.layer("conv2", self.dropout.forward(h), |h| conv2d(&self.conv2, h, pass.precision));

        let x = match &self.conv_shortcut {
            Some(shortcut) => pass.layer("conv_shortcut", x, |x| conv2d(shortcut, x, pass.precision)),
            None => x,
        };
        pass.joined("sum", add(x, h))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn config() -> ResidualBlockConfig {
        ResidualBlockConfig {
            in_channels: 4,
            out_channels: 4,
            time_width: Some(8),
            norm: Norm { groups: 2, eps: 1e-6 },
            time_shift: TimeShift::Additive,
            dropout: 0.0,
            resize: Resize::Keep,
        }
    }

    fn inputs(device: &Device) -> (Tensor<4>, Tensor<2>) {
        let normal = Distribution::Normal(0.0, 1.0);
        (Tensor::random([2, 4, 4, 6], normal, device), Tensor::random([2, 8], normal, device))
    }

    #[test]
    fn it_starts_as_the_identity() {
        let device = Device::default();
        for time_shift in [TimeShift::Additive, TimeShift::ScaleShift] {
            let (x, time) = inputs(&device);
            let y =
                ResidualBlockConfig { time_shift, ..config() }.init(&device).forward(x.clone(), time, &Pass::default());
            y.into_data().assert_eq(&x.into_data(), true);
        }
    }

    #[test]
    fn channels_and_sizes_follow_the_config() {
        let device = Device::default();
        for (resize, size) in [(Resize::Keep, [4, 6]), (Resize::Halve, [2, 3]), (Resize::Double, [8, 12])] {
            let (x, time) = inputs(&device);
            let block = ResidualBlockConfig { out_channels: 6, resize, ..config() }.init(&device);
            assert_eq!(block.forward(x, time, &Pass::default()).dims(), [2, 6, size[0], size[1]]);
        }
    }

    #[test]
    fn dropout_acts_in_training_only() {
        let device = Device::default();
        let (x, time) = inputs(&device);
        let mut config = ResidualBlockConfig { dropout: 0.5, ..config() };
        let mut block = config.init(&device.clone().autodiff());
        block.conv2 = conv3x3([4, 4], Start::Random, &device.clone().autodiff());
        let run =
            |block: &ResidualBlock, x: Tensor<4>, time: Tensor<2>| block.forward(x, time, &Pass::default()).into_data();

        let (x_train, time_train) = (x.clone().autodiff(), time.clone().autodiff());
        let once = run(&block, x_train.clone(), time_train.clone());
        assert_ne!(once, run(&block, x_train, time_train), "dropped values are drawn again");

        let valid = block.valid();
        let kept = run(&valid, x.clone(), time.clone());
        assert_eq!(kept, run(&valid, x, time));

        config.dropout = 0.0;
        assert!(config.init(&device).dropout.prob == 0.0);
    }
}
