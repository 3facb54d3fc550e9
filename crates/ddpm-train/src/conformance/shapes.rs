//! Every operation, with its shape, that a network does on images of a size.

use std::collections::BTreeSet;

use ddpm_model::network::NetworkConfig;
use ddpm_model::point_mlp::PointMlpConfig;
use ddpm_model::unet::{DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNetConfig};

use super::operations::Operation;

/// The operations of a network, each once; of data of shape `[C, H, W]` or `[N]`.
pub fn operations_of(config: &NetworkConfig, data_shape: &[usize]) -> BTreeSet<Operation> {
    match (config, data_shape) {
        (NetworkConfig::UNet(config), &[_, height, width]) => of_unet(config, [height, width]),
        (NetworkConfig::PointMlp(config), _) => of_point_mlp(config),
        _ => BTreeSet::new(),
    }
}

/// Follows the picture through the network, as [`UNetConfig::init`] lays it out.
fn of_unet(config: &UNetConfig, size: [usize; 2]) -> BTreeSet<Operation> {
    let mut walk = Walk { config, found: BTreeSet::new() };
    let size_at = |level: usize| size.map(|pixels| pixels >> level);
    let levels = config.level_channels();
    let (base, time) = (config.base_channels, config.time_width());

    walk.add([
        conv([config.in_channels, base], size),
        Operation::Linear { inputs: base, outputs: time, pixels: None },
        Operation::Linear { inputs: time, outputs: time, pixels: None },
        Operation::Silu { width: time },
    ]);
    if config.classes > 0 {
        walk.add([Operation::Embedding { rows: config.classes + usize::from(config.null_class), width: time }]);
    }
    let mut channels = base;
    let mut skips = vec![channels];
    for (level, &outputs) in levels.iter().enumerate() {
        for _ in 0..config.blocks_per_level {
            walk.block([channels, outputs], size_at(level));
            channels = outputs;
            skips.push(channels);
            if config.attends(level) {
                walk.attention(channels, config.heads, Some(config.norm_groups), size_at(level));
            }
        }
        if level + 1 < levels.len() {
            walk.down(channels, size_at(level));
            skips.push(channels);
        }
    }
    let deepest = size_at(levels.len().saturating_sub(1));
    walk.block([channels; 2], deepest);
    if config.middle_attention {
        let groups = match config.middle_attention_norm {
            MiddleNorm::Same => Some(config.norm_groups),
            MiddleNorm::None => None,
            MiddleNorm::Groups(groups) => Some(groups),
        };
        walk.attention(channels, config.heads, groups, deepest);
    }
    for (level, &outputs) in levels.iter().enumerate().rev() {
        for _ in 0..=config.blocks_per_level {
            let skip = skips.pop().unwrap_or(0);
            walk.add([Operation::Join { channels: [channels, skip], size: size_at(level) }]);
            walk.block([channels + skip, outputs], size_at(level));
            channels = outputs;
            if config.attends(level) {
                walk.attention(channels, config.heads_on_the_way_up(), Some(config.norm_groups), size_at(level));
            }
        }
        if level > 0 {
            walk.up(channels, size_at(level));
        }
    }
    walk.add([norm(channels, config.norm_groups, size, true), conv([channels, config.out_channels], size)]);
    walk.found
}

/// The layers of the perceptron; its products with the time are element by element.
fn of_point_mlp(config: &PointMlpConfig) -> BTreeSet<Operation> {
    let ends = || config.hidden.iter().copied().chain([config.out_dims]);
    let starts = [config.in_dims].into_iter().chain(config.hidden.iter().copied());
    let layers = starts.zip(ends()).map(|(inputs, outputs)| Operation::Linear { inputs, outputs, pixels: None });
    layers.collect()
}

struct Walk<'a> {
    config: &'a UNetConfig,
    found: BTreeSet<Operation>,
}

impl Walk<'_> {
    fn add<const N: usize>(&mut self, operations: [Operation; N]) {
        self.found.extend(operations);
    }

    fn block(&mut self, [inputs, outputs]: [usize; 2], size: [usize; 2]) {
        let config = self.config;
        let scales = config.time_shift == TimeShift::ScaleShift;
        self.add([
            norm(inputs, config.norm_groups, size, true),
            conv([inputs, outputs], size),
            Operation::Linear {
                inputs: config.time_width(),
                outputs: if scales { 2 * outputs } else { outputs },
                pixels: None,
            },
            conv([outputs; 2], size),
            Operation::Sum { channels: outputs, size },
        ]);
        let groups = config.norm_groups;
        match config.time_shift {
            TimeShift::Additive => {
                self.add([Operation::TimeShift { channels: outputs, size }, norm(outputs, groups, size, true)]);
            }
            TimeShift::ScaleShift => self.add([Operation::NormScaleShift { channels: outputs, groups, size }]),
        }
        if inputs != outputs {
            self.add([Operation::Conv { channels: [inputs, outputs], kernel: 1, stride: 1, padding: [0, 0], size }]);
        }
    }

    fn attention(&mut self, channels: usize, heads: Heads, groups: Option<usize>, size: [usize; 2]) {
        let heads = heads.count(channels).max(1);
        let pixels = size[0] * size[1];
        self.found.extend(groups.map(|groups| norm(channels, groups, size, false)));
        self.add([
            Operation::Linear { inputs: channels, outputs: channels, pixels: Some(pixels) },
            Operation::Attention { heads, width: channels / heads, pixels },
            Operation::Sum { channels, size },
        ]);
    }

    /// From `size` to half of it.
    fn down(&mut self, channels: usize, size: [usize; 2]) {
        match self.config.resampling {
            Resampling::Conv => {
                let padding = match self.config.downsample_padding {
                    DownsamplePadding::RightBottom => [0, 1],
                    DownsamplePadding::Symmetric => [1, 1],
                };
                self.add([Operation::Conv { channels: [channels; 2], kernel: 3, stride: 2, padding, size }]);
            }
            Resampling::Residual => {
                self.add([
                    norm(channels, self.config.norm_groups, size, true),
                    Operation::Resize { channels, size, doubles: false },
                ]);
                self.block([channels; 2], size.map(|pixels| pixels / 2));
            }
        }
    }

    /// From `size` to twice that.
    fn up(&mut self, channels: usize, size: [usize; 2]) {
        let larger = size.map(|pixels| 2 * pixels);
        self.add([Operation::Resize { channels, size, doubles: true }]);
        match self.config.resampling {
            Resampling::Conv => self.add([conv([channels; 2], larger)]),
            Resampling::Residual => {
                self.add([norm(channels, self.config.norm_groups, size, true)]);
                self.block([channels; 2], larger);
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

    /// The walk above and the network itself must not part ways.
    #[test]
    fn the_walk_meets_every_weight_of_the_network() {
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
            let walk: BTreeSet<Vec<usize>> = of_unet(&config, [32, 32])
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
            assert_eq!(walk, network.0);
        }
    }

    #[test]
    fn both_ways_meet_their_own_heads() {
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
