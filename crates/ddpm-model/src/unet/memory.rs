//! How many values a training step keeps for the way back.

use super::config::{Heads, Resampling, UNetConfig};

impl UNetConfig {
    /// Values kept per image of this size: the inputs of every normalisation, convolution, projection and
    /// softmax. The sums between them are inputs of the next block and counted there.
    pub(crate) fn kept_values(&self, height: usize, width: usize) -> usize {
        let dropout = if self.dropout > 0.0 { 2 } else { 0 };
        let block = |pixels: usize, inputs: usize, outputs: usize| pixels * (2 * inputs + (2 + dropout) * outputs);
        let attention = |pixels: usize, channels: usize, heads: Heads| {
            // The input, its normalisation, q, k, v and what is gathered; the scores before and after softmax.
            6 * pixels * channels + 2 * heads.count(channels) * pixels * pixels
        };
        let resample = |pixels: usize, channels: usize| match self.resampling {
            Resampling::Conv => pixels * channels,
            Resampling::Residual => block(pixels, channels, channels),
        };

        let pixels = |level: usize| (height >> level) * (width >> level);
        let levels = self.level_channels();
        let mut channels = self.base_channels;
        let mut skips = vec![channels];
        let mut kept = pixels(0) * (self.in_channels + 2 * channels);
        for (level, &outputs) in levels.iter().enumerate() {
            for _ in 0..self.blocks_per_level {
                kept += block(pixels(level), channels, outputs);
                kept += if self.attends(level) { attention(pixels(level), outputs, self.heads) } else { 0 };
                channels = outputs;
                skips.push(channels);
            }
            if level + 1 < levels.len() {
                // Down, and later up again through as many pixels.
                kept += 2 * resample(pixels(level), channels);
                skips.push(channels);
            }
        }
        let deepest = pixels(levels.len().saturating_sub(1));
        kept += 2 * block(deepest, channels, channels);
        kept += if self.middle_attention { attention(deepest, channels, self.heads) } else { 0 };
        for (level, &outputs) in levels.iter().enumerate().rev() {
            for _ in 0..=self.blocks_per_level {
                kept += block(pixels(level), channels + skips.pop().unwrap_or(0), outputs);
                kept +=
                    if self.attends(level) { attention(pixels(level), outputs, self.heads_on_the_way_up()) } else { 0 };
                channels = outputs;
            }
        }
        kept
    }
}
