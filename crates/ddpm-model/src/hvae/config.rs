//! The description of a hierarchical VAE, and its checks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::blocks::{DecoderBlock, EncoderBlock, parse_decoder, parse_encoder, parse_widths};
use crate::likelihood::PixelLikelihood;
use crate::network::Problem;

/// A hierarchical VAE with the modules of VDVAE (Child 2021, arXiv:2011.10650). The defaults are its network for CIFAR-10,
/// with channels and size left to the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HvaeConfig {
    /// Channels of the images; 0: as the data have. Another value must fit the data.
    pub image_channels: usize,
    /// Height and width of the images; 0: as the data have. Another value must fit the data.
    pub image_size: usize,
    /// Blocks of the encoder, from the image on: `32x11` are eleven blocks at resolution 32, `32d2` is a block followed by
    /// average pooling by 2.
    #[serde(alias = "enc_blocks")]
    pub encoder: String,
    /// Blocks of the decoder, each with a latent, from the uppermost on: `4x2` are two blocks at resolution 4, `4m1` is a
    /// block that first adds the upsampled state of resolution 1.
    #[serde(alias = "dec_blocks")]
    pub decoder: String,
    /// Channels of the states.
    pub width: usize,
    /// Other widths of some resolutions, as in `1:512,4:256`.
    #[serde(alias = "custom_width_str")]
    pub custom_widths: String,
    /// Channels inside a block, as a multiple of its width.
    pub bottleneck_multiple: f64,
    /// Channels of every latent.
    #[serde(alias = "zdim")]
    pub latent_channels: usize,
    /// Resolutions above start from zeros, the others from a learned state.
    pub no_bias_above: usize,
    /// The posterior as an offset from the prior in mean and log scale (Vahdat & Kautz 2020, NVAE).
    pub residual_posterior: bool,
    /// What the network puts out for a pixel.
    pub likelihood: PixelLikelihood,
}

impl Default for HvaeConfig {
    fn default() -> Self {
        Self {
            image_channels: 0,
            image_size: 0,
            encoder: "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3".into(),
            decoder: "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21".into(),
            width: 384,
            custom_widths: String::new(),
            bottleneck_multiple: 0.25,
            latent_channels: 16,
            no_bias_above: 64,
            residual_posterior: false,
            likelihood: PixelLikelihood::default(),
        }
    }
}

/// The blocks and widths of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// From the image on.
    pub encoder: Vec<EncoderBlock>,
    /// From the uppermost latent on.
    pub decoder: Vec<DecoderBlock>,
    width: usize,
    widths: BTreeMap<usize, usize>,
}

impl Layout {
    /// Channels of the state of a resolution.
    pub fn width(&self, resolution: usize) -> usize {
        self.widths.get(&resolution).copied().unwrap_or(self.width)
    }

    /// The resolutions of the decoder, lowest first.
    pub fn resolutions(&self) -> BTreeSet<usize> {
        self.decoder.iter().map(|block| block.resolution).collect()
    }
}

impl HvaeConfig {
    /// With channels and size of the data where they are left open.
    pub fn with_data(mut self, data_shape: &[usize]) -> Self {
        if let &[channels, height, _] = data_shape {
            let fill = |value: &mut usize, with: usize| {
                if *value == 0 {
                    *value = with;
                }
            };
            fill(&mut self.image_channels, channels);
            fill(&mut self.image_size, height);
        }
        self
    }

    /// The blocks and widths, or what cannot be read.
    pub fn layout(&self) -> Result<Layout, Vec<Problem>> {
        let mut problems = Vec::new();
        let encoder = parsed("encoder", parse_encoder(&self.encoder), &mut problems);
        let decoder = parsed("decoder", parse_decoder(&self.decoder), &mut problems);
        let widths = parsed("custom_widths", parse_widths(&self.custom_widths), &mut problems);
        match problems.is_empty() {
            true => Ok(Layout { encoder, decoder, width: self.width, widths }),
            false => Err(problems),
        }
    }

    /// Channels inside a block at this width.
    pub(super) fn bottleneck(&self, width: usize) -> usize {
        (width as f64 * self.bottleneck_multiple) as usize
    }

    /// Values that a training step keeps for one item, roughly.
    pub fn kept_values(&self, layout: &Layout) -> usize {
        // Of a bottleneck block: what goes into each of its convolutions before and after the GELU, and the sum.
        let block = |inputs: usize, resolution: usize| {
            let inside = self.bottleneck(layout.width(resolution));
            (2 * inputs + 6 * inside + layout.width(resolution)) * resolution * resolution
        };
        let encoder = layout.encoder.iter().map(|at| block(layout.width(at.resolution), at.resolution));
        let decoder = layout.decoder.iter().map(|at| {
            let (width, pixels) = (layout.width(at.resolution), at.resolution * at.resolution);
            // Prior, posterior and what follows; the state and the latent.
            let blocks = [width, 2 * width, width].map(|inputs| block(inputs, at.resolution));
            blocks.iter().sum::<usize>() + (3 * width + 10 * self.latent_channels) * pixels
        });
        let outputs = self.likelihood.parameters(self.image_channels) * self.image_size * self.image_size;
        encoder.chain(decoder).sum::<usize>() + 4 * outputs
    }

    /// All reasons why this network cannot be built for data of this shape.
    pub fn problems(&self, data_shape: &[usize]) -> Vec<Problem> {
        let mut problems = self.number_problems();
        self.shape_problems(data_shape, &mut problems);
        match self.layout() {
            Err(unread) => problems.extend(unread),
            Ok(layout) => {
                let activations = self.encoder_problems(&layout, &mut problems);
                self.decoder_problems(&layout, &activations, &mut problems);
                self.width_problems(&layout, &mut problems);
            }
        }
        problems
    }

    fn number_problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = [("width", self.width), ("latent_channels", self.latent_channels)]
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, _)| Problem::new(key, "is 0, expected at least 1"))
            .collect();
        if !(self.bottleneck_multiple.is_finite() && self.bottleneck_multiple > 0.0) {
            let message = format!("is {}, expected a positive number", self.bottleneck_multiple);
            problems.push(Problem::new("bottleneck_multiple", message));
        }
        if let Some(message) = self.likelihood.problem() {
            problems.push(Problem::new("likelihood", message));
        }
        problems
    }

    fn shape_problems(&self, data_shape: &[usize], problems: &mut Vec<Problem>) {
        let &[channels, height, width] = data_shape else {
            let message =
                format!("a hierarchical VAE takes images [channels, height, width], the data are {data_shape:?}");
            problems.push(Problem::new("kind", message));
            return;
        };
        if self.image_channels != channels || channels == 0 {
            let message = format!("is {}; expected {channels} as the data have", self.image_channels);
            problems.push(Problem::new("image_channels", message));
        }
        if self.image_size != height || height != width {
            let message = format!("is {}, but images are {height}x{width}; expected square ones", self.image_size);
            problems.push(Problem::new("image_size", message));
        }
    }

    /// The resolutions that the encoder gives a state for.
    fn encoder_problems(&self, layout: &Layout, problems: &mut Vec<Problem>) -> BTreeSet<usize> {
        let mut report = |message: String| problems.push(Problem::new("encoder", message));
        let mut resolution = self.image_size;
        let mut activations = BTreeSet::from([resolution]);
        for (i, block) in layout.encoder.iter().enumerate() {
            if block.resolution != resolution {
                report(format!("block {i} is at resolution {}, but what enters is {resolution}", block.resolution));
                resolution = block.resolution;
            }
            let Some(pool) = block.pool else { continue };
            let pooled = resolution / pool;
            match pooled {
                0 => report(format!("block {i} at resolution {resolution} cannot be pooled by {pool}")),
                _ if layout.width(pooled) < layout.width(resolution) => report(format!(
                    "resolution {pooled} has {} channels, fewer than the {} of {resolution} before it: expected at \
                     least as many",
                    layout.width(pooled),
                    layout.width(resolution)
                )),
                _ => {}
            }
            resolution = pooled.max(1);
            activations.insert(resolution);
        }
        activations
    }

    fn decoder_problems(&self, layout: &Layout, activations: &BTreeSet<usize>, problems: &mut Vec<Problem>) {
        let mut report = |message: String| problems.push(Problem::new("decoder", message));
        let resolutions = layout.resolutions();
        let missing: Vec<usize> = resolutions.difference(activations).copied().collect();
        if !missing.is_empty() {
            report(format!("the encoder has no state at resolution {missing:?}, only at {activations:?}"));
        }
        if !resolutions.contains(&self.image_size) {
            report(format!("no block is at the resolution of the image, {}", self.image_size));
        }
        let mut states: BTreeSet<usize> = resolutions.into_iter().filter(|&r| r <= self.no_bias_above).collect();
        for (i, &DecoderBlock { resolution, mixin }) in layout.decoder.iter().enumerate() {
            if let Some(mixin) = mixin {
                if !states.contains(&mixin) {
                    report(format!("block {i} adds the state of resolution {mixin}, which is not there yet"));
                }
                if !resolution.is_multiple_of(mixin) {
                    report(format!("block {i}: {resolution} is not a multiple of {mixin}"));
                }
                if layout.width(mixin) < layout.width(resolution) {
                    report(format!(
                        "block {i}: resolution {mixin} has {} channels, fewer than the {} of {resolution} that it is \
                         added to: expected at least as many",
                        layout.width(mixin),
                        layout.width(resolution)
                    ));
                }
            }
            states.insert(resolution);
        }
    }

    fn width_problems(&self, layout: &Layout, problems: &mut Vec<Problem>) {
        let found = layout.width(self.image_size);
        if found != self.width {
            let message = format!(
                "the resolution of the image, {}, has {found} channels; expected {} as in width",
                self.image_size, self.width
            );
            problems.push(Problem::new("custom_widths", message));
        }
        let of_encoder = layout.encoder.iter().map(|block| block.resolution);
        let resolutions: BTreeSet<usize> = layout.resolutions().into_iter().chain(of_encoder).collect();
        let narrow = resolutions.into_iter().find(|&resolution| self.bottleneck(layout.width(resolution)) == 0);
        if let Some(resolution) = narrow {
            let message = format!("leaves no channel inside the blocks at resolution {resolution}");
            problems.push(Problem::new("bottleneck_multiple", message));
        }
    }
}

fn parsed<T: Default>(key: &str, found: Result<T, String>, problems: &mut Vec<Problem>) -> T {
    found.unwrap_or_else(|message| {
        problems.push(Problem::new(key, message));
        T::default()
    })
}
