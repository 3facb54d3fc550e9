//! How many values a training step keeps for the backward pass.

use super::config::{Resampling, UNetConfig};
use super::stages::{Block, Resample, Stage, Transformer};

impl UNetConfig {
    /// Values kept per image of this size: the inputs of every normalization, convolution, projection and
    /// softmax. The sums between them are inputs of the next block and counted there.
    pub(crate) fn kept_values(&self, height: usize, width: usize) -> usize {
        let pixels = |level: usize| (height >> level) * (width >> level);
        let topology = self.topology();
        // The first convolution, and the normalization and the convolution at the end.
        let ends = pixels(0) * (topology.input[0] + 2 * topology.output[0]);
        ends + topology.stages().map(|stage| self.kept_in_stage(stage, pixels)).sum::<usize>()
    }

    fn kept_in_stage(&self, stage: &Stage, pixels: impl Fn(usize) -> usize) -> usize {
        let here = pixels(stage.level);
        let block = |block: &Block| {
            let channels = [block.joined_channels(), block.out_channels];
            self.kept_in_block(channels, [here; 2]) + kept_in_attention(block, here) + kept_in_transformer(block, here)
        };
        let resample = |Resample { channels, to_level, kind }: Resample| match kind {
            // Halved by the convolution itself, and doubled before it.
            Resampling::Conv => channels * here.max(pixels(to_level)),
            Resampling::Residual => self.kept_in_block([channels; 2], [here, pixels(to_level)]),
        };
        stage.blocks.iter().map(block).sum::<usize>() + stage.resample.map_or(0, resample)
    }

    /// A block resamples between its first normalization and its first convolution.
    fn kept_in_block(&self, [inputs, outputs]: [usize; 2], [pixels, resampled]: [usize; 2]) -> usize {
        let dropout = if self.dropout > 0.0 { 2 } else { 0 };
        pixels * inputs + resampled * (inputs + (2 + dropout) * outputs)
    }
}

/// The input, its normalization, q, k, v and the weighted sum; the scores before and after softmax.
fn kept_in_attention(block: &Block, pixels: usize) -> usize {
    let kept = |heads: usize| 6 * pixels * block.out_channels + 2 * heads * pixels * pixels;
    block.attention.map_or(0, |attention| kept(attention.heads))
}

/// The normalization and the projections around the blocks; in each block three normalizations, q and the weighted sum of two
/// attentions, k, v and the scores of the pixels, and the feed-forward part. The tokens of the condition are few.
fn kept_in_transformer(block: &Block, pixels: usize) -> usize {
    let kept = |Transformer { heads, depth, .. }: Transformer| {
        let of_block = 24 * pixels * block.out_channels + 2 * heads * pixels * pixels;
        3 * pixels * block.out_channels + depth * of_block
    };
    block.transformer.map_or(0, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_values_are_those_counted_by_hand() {
        let config = UNetConfig {
            in_channels: 2,
            out_channels: 2,
            sample_size: 8,
            base_channels: 8,
            multipliers: vec![1.5, 2.0],
            blocks_per_level: 1,
            attention_resolutions: vec![],
            middle_attention: false,
            dropout: 0.0,
            norm_groups: 4,
            ..UNetConfig::default()
        };
        // 64 pixels with 12 channels, 16 pixels with 16 channels.
        let ends = 64 * (2 + 12 + 12);
        let down = 64 * 2 * (8 + 12) + 16 * 2 * (12 + 16);
        let middle = 2 * 16 * 2 * (16 + 16);
        let up = 16 * 2 * (32 + 16) + 16 * 2 * (28 + 16) + 64 * 2 * (28 + 12) + 64 * 2 * (20 + 12);
        // Each convolution reads the larger of its two feature maps: stride 2 going down, doubled before going up.
        let resampling = 64 * 12 + 64 * 16;
        assert_eq!(config.kept_values(8, 8), ends + down + middle + up + resampling);

        // A block normalizes before it resamples; the other three inputs have the new size.
        let residual = UNetConfig { resampling: Resampling::Residual, ..config.clone() };
        let resampling = (64 * 12 + 16 * 3 * 12) + (16 * 16 + 64 * 3 * 16);
        assert_eq!(residual.kept_values(8, 8), ends + down + middle + up + resampling);

        let attending = UNetConfig { middle_attention: true, ..config.clone() };
        assert_eq!(attending.kept_values(8, 8) - config.kept_values(8, 8), 6 * 16 * 16 + 2 * 16 * 16);
    }
}
