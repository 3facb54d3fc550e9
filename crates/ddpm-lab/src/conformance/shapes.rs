//! Every operation, with its shape, that a network does on images of a size.

use std::collections::BTreeSet;

use ddpm_model::network::NetworkConfig;
use ddpm_model::point_mlp::PointMlpConfig;
use ddpm_model::unet::{Attention, DownsamplePadding, Resample, Resampling, Stage, TimeShift, Topology, UNetConfig};

use super::operations::Operation;

/// The operations of a network, each once; of data of shape `[C, H, W]` or `[N]`.
pub fn operations_of(config: &NetworkConfig, data_shape: &[usize]) -> BTreeSet<Operation> {
    match (config, data_shape) {
        (NetworkConfig::UNet(config), &[_, height, width]) => of_unet(config, [height, width]),
        (NetworkConfig::PointMlp(config), _) => of_point_mlp(config),
        _ => BTreeSet::new(),
    }
}

/// The operations of every stage, and of the layers before and after them.
fn of_unet(config: &UNetConfig, size: [usize; 2]) -> BTreeSet<Operation> {
    let Topology { input, output, .. } = config.topology();
    let (base, time) = (config.base_channels, config.time_width());
    let mut operations = Operations { config, size, found: BTreeSet::new() };
    operations.add([
        conv(input, size),
        Operation::Linear { inputs: base, outputs: time, pixels: None },
        Operation::Linear { inputs: time, outputs: time, pixels: None },
        Operation::Silu { width: time },
        norm(output[0], config.norm_groups, size, true),
        conv(output, size),
    ]);
    operations.found.extend(config.class_rows().map(|rows| Operation::Embedding { rows, width: time }));
    for stage in config.topology().stages() {
        operations.add_stage(stage);
    }
    operations.found
}

/// The layers of the perceptron; its products with the time are element by element.
fn of_point_mlp(config: &PointMlpConfig) -> BTreeSet<Operation> {
    let ends = || config.hidden.iter().copied().chain([config.out_dims]);
    let starts = [config.in_dims].into_iter().chain(config.hidden.iter().copied());
    let layers = starts.zip(ends()).map(|(inputs, outputs)| Operation::Linear { inputs, outputs, pixels: None });
    layers.collect()
}

/// The operations found so far, of a network on images of a size.
struct Operations<'a> {
    config: &'a UNetConfig,
    size: [usize; 2],
    found: BTreeSet<Operation>,
}

impl Operations<'_> {
    fn add<const N: usize>(&mut self, operations: [Operation; N]) {
        self.found.extend(operations);
    }

    fn add_stage(&mut self, stage: &Stage) {
        let size_at = |level: usize, [height, width]: [usize; 2]| [height >> level, width >> level];
        let size = size_at(stage.level, self.size);
        for block in &stage.blocks {
            if block.skip_channels > 0 {
                self.add([Operation::Join { channels: [block.in_channels, block.skip_channels], size }]);
            }
            self.add_block([block.joined_channels(), block.out_channels], [size; 2]);
            if let Some(attention) = block.attention {
                self.add_attention(attention, block.out_channels, size);
            }
        }
        if let Some(resample) = stage.resample {
            self.add_resample(resample, [size, size_at(resample.to_level, self.size)]);
        }
    }

    /// A residual block; `sizes` are those before and after its resampling, which follows its first normalization.
    fn add_block(&mut self, [inputs, outputs]: [usize; 2], [before, size]: [[usize; 2]; 2]) {
        let (groups, time_shift) = (self.config.norm_groups, self.config.time_shift);
        let projection = Operation::Linear {
            inputs: self.config.time_width(),
            outputs: time_shift.projected(outputs),
            pixels: None,
        };
        self.add([
            norm(inputs, groups, before, true),
            conv([inputs, outputs], size),
            projection,
            conv([outputs; 2], size),
            Operation::Sum { channels: outputs, size },
        ]);
        match time_shift {
            TimeShift::Additive => {
                self.add([Operation::TimeShift { channels: outputs, size }, norm(outputs, groups, size, true)]);
            }
            TimeShift::ScaleShift => self.add([Operation::NormScaleShift { channels: outputs, groups, size }]),
        }
        if inputs != outputs {
            self.add([Operation::Conv { channels: [inputs, outputs], kernel: 1, stride: 1, padding: [0, 0], size }]);
        }
    }

    fn add_attention(&mut self, attention: Attention, channels: usize, size: [usize; 2]) {
        let heads = attention.heads.max(1);
        let pixels = size[0] * size[1];
        self.found.extend(attention.norm_groups.map(|groups| norm(channels, groups, size, false)));
        self.add([
            Operation::Linear { inputs: channels, outputs: channels, pixels: Some(pixels) },
            Operation::Attention { heads, width: channels / heads, pixels },
            Operation::Sum { channels, size },
        ]);
    }

    fn add_resample(&mut self, Resample { channels, kind, .. }: Resample, [from, to]: [[usize; 2]; 2]) {
        let doubles = to > from;
        let resize = Operation::Resize { channels, size: from, doubles };
        match kind {
            Resampling::Residual => {
                self.add([resize]);
                self.add_block([channels; 2], [from, to]);
            }
            Resampling::Conv if doubles => self.add([resize, conv([channels; 2], to)]),
            Resampling::Conv => {
                let padding = match self.config.downsample_padding {
                    DownsamplePadding::RightBottom => [0, 1],
                    DownsamplePadding::Symmetric => [1, 1],
                };
                self.add([Operation::Conv { channels: [channels; 2], kernel: 3, stride: 2, padding, size: from }]);
            }
        }
    }
}

/// A 3x3 convolution that keeps the size.
fn conv(channels: [usize; 2], size: [usize; 2]) -> Operation {
    Operation::Conv { channels, kernel: 3, stride: 1, padding: [1, 1], size }
}

fn norm(channels: usize, groups: usize, size: [usize; 2], activated: bool) -> Operation {
    Operation::Norm { channels, groups, size, activated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{Device, Tensor};
    use ddpm_model::unet::Heads;

    /// The first normalization of a block that resamples has the old size, everything after it the new one.
    #[test]
    fn residual_resampling_changes_the_size_after_the_first_normalization() {
        let config = UNetConfig {
            multipliers: vec![1.0, 1.5],
            attention_resolutions: vec![],
            time_shift: TimeShift::ScaleShift,
            resampling: Resampling::Residual,
            ..UNetConfig::cifar10()
        };
        let found = of_unet(&config, [32, 16]);
        let resize = |channels, size, doubles| Operation::Resize { channels, size, doubles };
        let resizes: Vec<_> = found.iter().filter(|found| matches!(found, Operation::Resize { .. })).cloned().collect();
        assert_eq!(resizes, [resize(128, [32, 16], false), resize(192, [16, 8], true)]);
        assert!(found.contains(&norm(192, 32, [16, 8], true)));
        assert!(found.contains(&conv([128, 128], [16, 8])) && found.contains(&conv([192, 192], [32, 16])));
        // No block of 192 channels begins at the resolution of the image.
        assert!(!found.contains(&norm(192, 32, [32, 16], true)));
    }

    /// Shapes of the parameters of rank 2 and 4.
    #[derive(Default)]
    struct Shapes(BTreeSet<Vec<usize>>);

    impl ModuleVisitor for Shapes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D > 1 {
                self.0.insert(param.lazy_shape().to_vec());
            }
        }
    }

    #[test]
    fn the_operations_have_every_weight_of_the_network() {
        let nichol = UNetConfig {
            multipliers: vec![1.0, 2.0, 3.0],
            attention_resolutions: vec![16, 8],
            heads: Heads::Count(4),
            time_shift: TimeShift::ScaleShift,
            resampling: Resampling::Residual,
            out_channels: 6,
            classes: 10,
            ..UNetConfig::cifar10()
        };
        for config in [UNetConfig::cifar10(), nichol] {
            let mut network = Shapes::default();
            config.init(&Device::default()).visit(&mut network);
            let operations: BTreeSet<Vec<usize>> = of_unet(&config, [32, 32])
                .into_iter()
                .filter_map(|operation| match operation {
                    Operation::Conv { channels: [inputs, outputs], kernel, .. } => {
                        Some(vec![outputs, inputs, kernel, kernel])
                    }
                    Operation::Linear { inputs, outputs, .. } => Some(vec![inputs, outputs]),
                    Operation::Embedding { rows, width } => Some(vec![rows, width]),
                    _ => None,
                })
                .collect();
            assert_eq!(operations, network.0);
        }
    }

    #[test]
    fn both_ways_have_their_own_heads() {
        let config = UNetConfig { heads: Heads::Count(2), heads_up: Some(Heads::Count(4)), ..UNetConfig::cifar10() };
        let heads: BTreeSet<(usize, usize)> = of_unet(&config, [32, 32])
            .into_iter()
            .filter_map(|operation| match operation {
                Operation::Attention { heads, pixels, .. } => Some((heads, pixels)),
                _ => None,
            })
            .collect();
        assert_eq!(heads, BTreeSet::from([(2, 256), (4, 256), (2, 16)]));
    }
}
