//! The description of an `AutoencoderKL`: its options, the checks of them, and the scale of its latents.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::network::{NetworkError, Problem};
use crate::unet::config::distinct;

/// The autoencoder of latent diffusion (Rombach et al. 2022), in the terms and with the defaults of diffusers.
///
/// The defaults are a network with one level; that of Stable Diffusion has `block_out_channels = [128, 256, 512, 512]` and
/// `layers_per_block = 2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKLConfig {
    /// Channels of the images that are encoded.
    pub in_channels: usize,
    /// Channels of the images that are decoded.
    pub out_channels: usize,
    /// Channels of each level, from the image down. Each level has half the height and width of the one before.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks on each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group normalization; must divide the channels of every level.
    pub norm_num_groups: usize,
    /// Height and width in pixels of the images it was made for; it takes others.
    pub sample_size: usize,
    /// Factor of the latents that a latent model is trained on.
    pub scaling_factor: f64,
    /// Subtracted from the latents before they are scaled; none: 0.
    pub shift_factor: Option<f64>,
    /// Mean of each channel of the latents, together with `latents_std` in place of `shift_factor`.
    pub latents_mean: Option<Vec<f64>>,
    /// Standard deviation of each channel of the latents.
    pub latents_std: Option<Vec<f64>>,
    /// Whether half precision overflows, so that pipelines should decode in f32. The network itself does not read it.
    pub force_upcast: bool,
    /// A 1x1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1x1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Self-attention in the middle of encoder and decoder.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

/// Values that a residual block keeps for each value of its output.
const KEPT_BY_BLOCK: usize = 6;

/// The residual blocks at one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels that go in.
    pub in_channels: usize,
    /// Channels of every block.
    pub out_channels: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// Whether the resolution changes after the last of them.
    pub resamples: bool,
}

impl Level {
    /// Channels in and out of each block.
    pub fn channels(self) -> impl Iterator<Item = [usize; 2]> {
        let Self { in_channels, out_channels, blocks, .. } = self;
        (0..blocks).map(move |block| [if block == 0 { in_channels } else { out_channels }, out_channels])
    }
}

impl AutoencoderKLConfig {
    /// Channels of the first and the last level.
    pub(crate) fn ends(&self) -> [usize; 2] {
        let of = |channels: Option<&usize>| channels.copied().unwrap_or_default();
        [of(self.block_out_channels.first()), of(self.block_out_channels.last())]
    }

    /// Channels at the lowest resolution.
    pub fn middle_channels(&self) -> usize {
        self.ends()[1]
    }

    /// The levels of the encoder, from the image down.
    pub fn down_levels(&self) -> Vec<Level> {
        levels(self.ends()[0], self.block_out_channels.iter().copied(), self.layers_per_block)
    }

    /// The levels of the decoder, from the lowest resolution up.
    pub fn up_levels(&self) -> Vec<Level> {
        levels(self.ends()[1], self.block_out_channels.iter().rev().copied(), self.layers_per_block + 1)
    }

    /// Height and width of an image divided by those of its latent.
    pub fn size_ratio(&self) -> usize {
        size_ratio(self.block_out_channels.len())
    }

    /// All reasons why this network cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
            ("sample_size", self.sample_size),
        ];
        for (key, _) in counts.into_iter().filter(|&(_, count)| count == 0) {
            report(key, "must be at least 1".into());
        }
        if let Some(message) = level_problem(&self.block_out_channels) {
            report("block_out_channels", message);
        }
        let groups = self.norm_num_groups;
        for channels in distinct(self.block_out_channels.iter().copied()) {
            if groups > 0 && !channels.is_multiple_of(groups) {
                report("norm_num_groups", format!("{channels} channels do not divide into {groups} groups"));
            }
        }
        problems.extend(self.latent_problems());
        problems
    }

    /// What is wrong with the scale of the latents.
    fn latent_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            report("scaling_factor", format!("{} is not a number other than 0", self.scaling_factor));
        }
        if self.shift_factor.is_some_and(|shift| !shift.is_finite()) {
            report("shift_factor", "is not a finite number".into());
        }
        if self.latents_mean.is_some() != self.latents_std.is_some() {
            report("latents_mean", "needs latents_std, and the other way round".into());
        }
        if self.latents_mean.is_some() && self.shift_factor.is_some_and(|shift| shift != 0.0) {
            report("latents_mean", "takes the place of shift_factor: set one of them".into());
        }
        for (key, list) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            let Some(list) = list else { continue };
            if list.len() != self.latent_channels {
                report(key, format!("has {} values for {} latent channels", list.len(), self.latent_channels));
            }
            if !list.iter().all(|value| value.is_finite() && (key == "latents_mean" || *value > 0.0)) {
                let expected = if key == "latents_mean" { "finite" } else { "finite and greater than 0" };
                report(key, format!("has values that are not {expected}"));
            }
        }
        problems
    }

    /// Whether a batch of images of this shape, batch first, can be encoded.
    pub fn check_images(&self, shape: &[usize]) -> Result<(), NetworkError> {
        check_images(shape, self.in_channels, self.block_out_channels.len())
    }

    /// Whether a batch of latents of this shape, batch first, can be decoded.
    pub fn check_latents(&self, shape: &[usize]) -> Result<(), NetworkError> {
        check_latents(shape, self.latent_channels)
    }

    /// The shape of the latent of an image `[channels, height, width]`, both without the batch.
    pub fn latent_shape(&self, [_, height, width]: [usize; 3]) -> [usize; 3] {
        let ratio = self.size_ratio();
        [self.latent_channels, height / ratio, width / ratio]
    }

    /// Values that a training step keeps for one image, about.
    pub fn kept_values(&self, [channels, height, width]: [usize; 3]) -> usize {
        // Of a block: both normalizations and convolutions, and the sum; of a level: what goes on to the next.
        let level = |(number, level): (usize, &Level)| {
            (KEPT_BY_BLOCK * level.blocks + 2) * level.out_channels * ((height * width) >> (2 * number))
        };
        let (down, mut up) = (self.down_levels(), self.up_levels());
        up.reverse();
        let levels: usize = down.iter().enumerate().map(level).chain(up.iter().enumerate().map(level)).sum();
        let lowest = (height * width) >> (2 * down.len().saturating_sub(1));
        let middle = 2 * (2 * KEPT_BY_BLOCK + 6) * self.middle_channels() * lowest;
        levels + middle + (channels + self.out_channels) * height * width
    }

    /// The latents as a latent model is trained on them: shifted, then scaled.
    pub fn scale_latents(&self, z: Tensor<4>) -> Tensor<4> {
        match self.statistics(&z) {
            Some([mean, std]) => (z - mean) / std * self.scaling_factor,
            None => (z - self.shift_factor.unwrap_or(0.0)) * self.scaling_factor,
        }
    }

    /// The inverse of [`scale_latents`](Self::scale_latents): what the decoder takes.
    pub fn unscale_latents(&self, z: Tensor<4>) -> Tensor<4> {
        match self.statistics(&z) {
            Some([mean, std]) => z / self.scaling_factor * std + mean,
            None => z / self.scaling_factor + self.shift_factor.unwrap_or(0.0),
        }
    }

    /// Mean and standard deviation of the channels, `[1, C, 1, 1]` each, where the config has them.
    fn statistics(&self, like: &Tensor<4>) -> Option<[Tensor<4>; 2]> {
        let tensor = |values: &Vec<f64>| {
            let data = TensorData::new(values.clone(), [1, values.len(), 1, 1]);
            Tensor::from_data(data, (&like.device(), like.dtype()))
        };
        Some([tensor(self.latents_mean.as_ref()?), tensor(self.latents_std.as_ref()?)])
    }
}

fn levels(first: usize, channels: impl ExactSizeIterator<Item = usize>, blocks: usize) -> Vec<Level> {
    let last = channels.len().saturating_sub(1);
    let mut in_channels = first;
    let level = |(level, out_channels)| {
        let in_channels = std::mem::replace(&mut in_channels, out_channels);
        Level { in_channels, out_channels, blocks, resamples: level < last }
    };
    channels.enumerate().map(level).collect()
}

/// Each level but the last halves the image.
pub(super) fn size_ratio(levels: usize) -> usize {
    1 << levels.saturating_sub(1).min(usize::BITS as usize - 1)
}

/// What is wrong with the channels of the levels.
pub(super) fn level_problem(channels: &[usize]) -> Option<String> {
    match channels {
        [] => Some("needs at least one level".into()),
        channels if channels.contains(&0) => Some(format!("{channels:?} has a level without channels")),
        _ => None,
    }
}

/// Whether `levels` levels take images of this shape.
pub(super) fn check_images(shape: &[usize], in_channels: usize, levels: usize) -> Result<(), NetworkError> {
    let ratio = size_ratio(levels);
    let fits = |size: usize| size > 0 && size.is_multiple_of(ratio);
    let reason = match *shape {
        [_, channels, ..] if shape.len() == 4 && channels != in_channels => {
            format!("images have {in_channels} channels")
        }
        [_, _, height, width] if !fits(height) || !fits(width) => {
            format!("{levels} levels need height and width that are multiples of {ratio}")
        }
        [_, _, _, _] => return Ok(()),
        _ => "it takes images [batch, channels, height, width]".into(),
    };
    Err(NetworkError::Input { shape: shape.to_vec(), reason })
}

/// Whether latents of this shape have these channels.
pub(super) fn check_latents(shape: &[usize], latent_channels: usize) -> Result<(), NetworkError> {
    let reason = match *shape {
        [_, channels, height, width] if channels == latent_channels && height > 0 && width > 0 => return Ok(()),
        _ => format!("it takes latents [batch, {latent_channels}, height, width]"),
    };
    Err(NetworkError::Input { shape: shape.to_vec(), reason })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tolerance};

    #[test]
    fn the_decoder_has_the_levels_of_the_encoder_the_other_way_round_and_one_block_more() {
        let config = AutoencoderKLConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..AutoencoderKLConfig::default()
        };
        let level =
            |in_channels, out_channels, blocks, resamples| Level { in_channels, out_channels, blocks, resamples };
        let down = [level(128, 128, 2, true), level(128, 256, 2, true), level(256, 512, 2, true)];
        assert_eq!(config.down_levels()[..3], down);
        assert_eq!(config.down_levels()[3], level(512, 512, 2, false));
        let up = [level(512, 512, 3, true), level(512, 512, 3, true), level(512, 256, 3, true)];
        assert_eq!(config.up_levels()[..3], up);
        assert_eq!(config.up_levels()[3], level(256, 128, 3, false));
        assert_eq!(config.up_levels()[3].channels().collect::<Vec<_>>(), [[256, 128], [128, 128], [128, 128]]);
        assert_eq!((config.size_ratio(), config.latent_shape([3, 512, 768])), (8, [4, 64, 96]));
        assert_eq!(config.problems(), vec![]);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = AutoencoderKLConfig {
            in_channels: 0,
            block_out_channels: vec![0, 48],
            scaling_factor: 0.0,
            shift_factor: Some(f64::NAN),
            latents_mean: Some(vec![0.0]),
            ..AutoencoderKLConfig::default()
        };
        let found: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        for part in [
            "in_channels: must be at least 1",
            "block_out_channels: [0, 48]",
            "norm_num_groups: 48 channels do not divide into 32 groups",
            "scaling_factor: 0",
            "shift_factor: is not a finite number",
            "latents_mean: needs latents_std",
            "latents_mean: takes the place of shift_factor",
            "latents_mean: has 1 values for 4 latent channels",
        ] {
            assert!(found.iter().any(|message| message.starts_with(part)), "{part} is not in {found:?}");
        }
        let none = AutoencoderKLConfig { block_out_channels: vec![], ..AutoencoderKLConfig::default() };
        assert_eq!(none.problems()[0].key, "block_out_channels");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_with_the_reason() {
        let config = AutoencoderKLConfig { block_out_channels: vec![32, 32, 32], ..AutoencoderKLConfig::default() };
        assert_eq!(config.check_images(&[2, 3, 8, 12]), Ok(()));
        let refused = |result: Result<(), NetworkError>, part: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(config.check_images(&[2, 3, 8, 10]), "multiples of 4");
        refused(config.check_images(&[2, 3, 0, 8]), "multiples of 4");
        refused(config.check_images(&[2, 1, 8, 8]), "3 channels");
        refused(config.check_images(&[3, 8, 8]), "[batch, channels, height, width]");
        assert_eq!(config.check_latents(&[1, 4, 3, 5]), Ok(()));
        refused(config.check_latents(&[1, 3, 3, 5]), "[batch, 4, height, width]");
    }

    #[test]
    fn latents_are_shifted_then_scaled_or_standardized() {
        let device = Device::default();
        let z = Tensor::<1>::from_floats([1.0, 5.0], &device).reshape([1, 2, 1, 1]);
        let check = |config: AutoencoderKLConfig, wanted: [f32; 2]| {
            let scaled = config.scale_latents(z.clone());
            let tolerance = Tolerance::absolute(1e-6);
            let wanted = Tensor::<1>::from_floats(wanted, &device).reshape([1, 2, 1, 1]);
            scaled.clone().into_data().assert_approx_eq::<f32>(&wanted.into_data(), tolerance);
            config.unscale_latents(scaled).into_data().assert_approx_eq::<f32>(&z.clone().into_data(), tolerance);
        };
        let half = AutoencoderKLConfig { latent_channels: 2, scaling_factor: 0.5, ..AutoencoderKLConfig::default() };
        check(half.clone(), [0.5, 2.5]);
        check(AutoencoderKLConfig { shift_factor: Some(2.0), ..half.clone() }, [-0.5, 1.5]);
        let [mean, std] = [vec![2.0, 3.0], vec![1.0, 4.0]].map(Some);
        let standardized = AutoencoderKLConfig { latents_mean: mean, latents_std: std, ..half };
        assert_eq!(standardized.problems().iter().filter(|problem| problem.key.starts_with("latents")).count(), 0);
        check(standardized, [-0.5, 0.25]);
    }
}
