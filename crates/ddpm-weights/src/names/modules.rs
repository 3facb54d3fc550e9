//! The modules of the U-Net in words that no scheme owns: where each stands, and its sizes.

use ddpm_model::unet::{Heads, MiddleNorm, Resampling, TimeShift, UNetConfig};

/// Where a module stands. Levels are counted from 0 at the image, on the way down and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    ConvIn,
    /// The first or second layer behind the sinusoids.
    Time(usize),
    Classes,
    /// What the network is told of how a training picture was changed.
    Augment,
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
    /// Behind the last block of a level, whether that ends in an attention or not.
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
}

/// One module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// All modules, in the order in which the image passes.
pub(super) fn modules(config: &UNetConfig) -> Vec<Module> {
    let time = config.time_width();
    let levels = config.level_channels();
    let last = levels.len().saturating_sub(1);
    let conv = |inputs, outputs| Kind::Layer { inputs, outputs, kernel: Some(3) };
    let dense = |inputs, outputs| Kind::Layer { inputs, outputs, kernel: None };
    let residual = |inputs, outputs| Kind::Residual {
        inputs,
        outputs,
        time,
        time_outputs: match config.time_shift {
            TimeShift::Additive => outputs,
            TimeShift::ScaleShift => 2 * outputs,
        },
    };
    let attention = |channels, heads: Heads, norm| Kind::Attention { channels, heads: heads.count(channels), norm };
    let resample = |channels| match config.resampling {
        Resampling::Conv => conv(channels, channels),
        Resampling::Residual => residual(channels, channels),
    };

    let mut all = Vec::new();
    let mut add = |place, kind| all.push(Module { place, kind });
    add(Place::ConvIn, conv(config.in_channels, config.base_channels));
    add(Place::Time(0), dense(config.base_channels, time));
    add(Place::Time(1), dense(time, time));
    if config.classes > 0 {
        let rows = config.classes + usize::from(config.null_class);
        add(Place::Classes, Kind::Table { rows, width: time });
    }
    if config.augment_dim > 0 {
        add(Place::Augment, Kind::Table { rows: config.augment_dim, width: time });
    }

    // What each block of the way up finds waiting, in the order in which the way down leaves it.
    let mut skips = vec![config.base_channels];
    let mut channels = config.base_channels;
    for (level, &outputs) in levels.iter().enumerate() {
        for block in 0..config.blocks_per_level {
            add(Place::Down { level, block }, residual(channels, outputs));
            if config.attends(level) {
                add(Place::DownAttention { level, block }, attention(outputs, config.heads, true));
            }
            channels = outputs;
            skips.push(channels);
        }
        if level < last {
            add(Place::Downsample { level }, resample(channels));
            skips.push(channels);
        }
    }

    add(Place::Middle(0), residual(channels, channels));
    if config.middle_attention {
        add(
            Place::MiddleAttention,
            attention(channels, config.heads, config.middle_attention_norm != MiddleNorm::None),
        );
    }
    add(Place::Middle(1), residual(channels, channels));

    for (level, &outputs) in levels.iter().enumerate().rev() {
        for block in 0..=config.blocks_per_level {
            let skip = skips.pop().unwrap_or_default();
            add(Place::Up { level, block }, residual(channels + skip, outputs));
            if config.attends(level) {
                add(Place::UpAttention { level, block }, attention(outputs, config.heads_on_the_way_up(), true));
            }
            channels = outputs;
        }
        if level > 0 {
            add(Place::Upsample { level, attention: config.attends(level) }, resample(channels));
        }
    }
    add(Place::NormOut, Kind::Norm { channels });
    add(Place::ConvOut, conv(channels, config.out_channels));
    all
}
