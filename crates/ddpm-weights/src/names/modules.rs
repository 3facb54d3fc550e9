//! The modules of the U-Net, scheme-neutral: the place of each in the network, and its sizes.

use ddpm_model::unet::{Attention, Block, Resample, Resampling, Topology, Transformer, UNetConfig};

/// The place of a module. Levels are counted from 0 at the image, on the way down and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    ConvIn,
    /// The first or second layer after the sinusoids.
    Time(usize),
    Classes,
    /// The embedding of the augmentation labels.
    Augment,
    /// The first or second layer of the embedding of the whole prompt.
    Added(usize),
    Down {
        level: usize,
        block: usize,
    },
    DownAttention {
        level: usize,
        block: usize,
    },
    Downsample {
        level: usize,
    },
    Middle(usize),
    MiddleAttention,
    Up {
        level: usize,
        block: usize,
    },
    UpAttention {
        level: usize,
        block: usize,
    },
    /// After the last block of a level, which ends in an attention or does not.
    Upsample {
        level: usize,
        attention: bool,
    },
    NormOut,
    ConvOut,
}

/// What a module is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A dense layer, or a convolution where there is a kernel.
    Layer {
        inputs: usize,
        outputs: usize,
        kernel: Option<usize>,
    },
    Norm {
        channels: usize,
    },
    Table {
        rows: usize,
        width: usize,
    },
    Residual {
        inputs: usize,
        outputs: usize,
        time: usize,
        time_outputs: usize,
    },
    Attention {
        channels: usize,
        heads: usize,
        norm: bool,
    },
    Transformer {
        channels: usize,
        tokens: usize,
        depth: usize,
        linear: bool,
    },
}

/// One module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// All modules, in the order in which the image passes.
pub(super) fn modules(config: &UNetConfig) -> Vec<Module> {
    let Topology { input, down, middle, up, output } = config.topology();
    let mut all = vec![Module { place: Place::ConvIn, kind: conv(input) }];
    all.extend(embeddings(config));
    for stage in &down {
        let level = stage.level;
        for (block, found) in stage.blocks.iter().enumerate() {
            let places = [Place::Down { level, block }, Place::DownAttention { level, block }];
            all.extend(residual_and_attention(config, found, places));
        }
        let place = Place::Downsample { level };
        all.extend(stage.resample.map(|found| Module { place, kind: resampler(config, found) }));
    }
    for (block, found) in middle.blocks.iter().enumerate() {
        all.extend(residual_and_attention(config, found, [Place::Middle(block), Place::MiddleAttention]));
    }
    for stage in &up {
        let level = stage.level;
        for (block, found) in stage.blocks.iter().enumerate() {
            let places = [Place::Up { level, block }, Place::UpAttention { level, block }];
            all.extend(residual_and_attention(config, found, places));
        }
        let attends = |block: &Block| block.attention.is_some() || block.transformer.is_some();
        let attention = stage.blocks.last().is_some_and(attends);
        let place = Place::Upsample { level, attention };
        all.extend(stage.resample.map(|found| Module { place, kind: resampler(config, found) }));
    }
    all.push(Module { place: Place::NormOut, kind: Kind::Norm { channels: output[0] } });
    all.push(Module { place: Place::ConvOut, kind: conv(output) });
    all
}

/// What turns the time, the class and the augmentation labels into the one vector that conditions every block.
fn embeddings(config: &UNetConfig) -> Vec<Module> {
    let width = config.time_width();
    let dense = |inputs| Kind::Layer { inputs, outputs: width, kernel: None };
    let table = |place, rows| Module { place, kind: Kind::Table { rows, width } };
    let mut all = vec![
        Module { place: Place::Time(0), kind: dense(config.base_channels) },
        Module { place: Place::Time(1), kind: dense(width) },
    ];
    all.extend(config.class_rows().map(|rows| table(Place::Classes, rows)));
    all.extend((config.augment_dim > 0).then(|| table(Place::Augment, config.augment_dim)));
    if let Some(added) = config.cross_attention.as_ref().and_then(|cross| cross.added) {
        all.push(Module { place: Place::Added(0), kind: dense(added.width()) });
        all.push(Module { place: Place::Added(1), kind: dense(width) });
    }
    all
}

/// A block of the topology, and the attention that follows it where there is one.
fn residual_and_attention(config: &UNetConfig, block: &Block, [at, attention_at]: [Place; 2]) -> Vec<Module> {
    let channels = block.out_channels;
    let mut all = vec![Module { place: at, kind: residual(config, [block.joined_channels(), channels]) }];
    all.extend(block.attention.map(|Attention { heads, norm_groups }| Module {
        place: attention_at,
        kind: Kind::Attention { channels, heads, norm: norm_groups.is_some() },
    }));
    all.extend(block.transformer.map(|Transformer { depth, token_width, linear_projection, .. }| Module {
        place: attention_at,
        kind: Kind::Transformer { channels, tokens: token_width, depth, linear: linear_projection },
    }));
    all
}

fn residual(config: &UNetConfig, [inputs, outputs]: [usize; 2]) -> Kind {
    Kind::Residual { inputs, outputs, time: config.time_width(), time_outputs: config.time_shift.projected(outputs) }
}

fn resampler(config: &UNetConfig, Resample { channels, kind, .. }: Resample) -> Kind {
    match kind {
        Resampling::Conv => conv([channels; 2]),
        Resampling::Residual => residual(config, [channels; 2]),
    }
}

fn conv([inputs, outputs]: [usize; 2]) -> Kind {
    Kind::Layer { inputs, outputs, kernel: Some(3) }
}
