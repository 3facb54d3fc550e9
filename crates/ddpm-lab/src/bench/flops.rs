//! Operations of a network, counted from its config.

use ddpm_model::unet::{Attention, Block, Resample, Resampling, Stage, Transformer, UNetConfig};

/// Tokens of a condition that transformers are counted with: a prompt of Stable Diffusion.
const TOKENS: usize = 77;

/// Multiplications and additions of the products in one forward pass of one image: convolutions, dense layers
/// and attention. What is done once per value (normalization, activations, sums) is left out, as is usual.
pub(super) fn forward(config: &UNetConfig, size: usize) -> f64 {
    let topology = config.topology();
    let (base, time) = (config.base_channels, config.time_width());
    let ends = conv(size.pow(2), topology.input, 9) + conv(size.pow(2), topology.output, 9);
    let embedding = dense([base, time]) + dense([time, time]);
    (ends + embedding + topology.stages().map(|stage| of_stage(config, stage, size)).sum::<usize>()) as f64
}

fn of_stage(config: &UNetConfig, stage: &Stage, size: usize) -> usize {
    let pixels = |level: usize| (size >> level).pow(2);
    let here = pixels(stage.level);
    let block = |block: &Block| {
        let channels = block.out_channels;
        of_block(config, here, [block.joined_channels(), channels])
            + of_attention(block.attention, here, channels)
            + of_transformer(block.transformer, here, channels)
    };
    // What is multiplied has the new size: the stride halves, and pixels are doubled or averaged before.
    let resample = |Resample { channels, to_level, kind }: Resample| match kind {
        Resampling::Conv => conv(pixels(to_level), [channels; 2], 9),
        Resampling::Residual => of_block(config, pixels(to_level), [channels; 2]),
    };
    stage.blocks.iter().map(block).sum::<usize>() + stage.resample.map_or(0, resample)
}

fn of_block(config: &UNetConfig, pixels: usize, [inputs, outputs]: [usize; 2]) -> usize {
    let shortcut = if inputs == outputs { 0 } else { conv(pixels, [inputs, outputs], 1) };
    let projection = dense([config.time_width(), config.time_shift.projected(outputs)]);
    conv(pixels, [inputs, outputs], 9) + conv(pixels, [outputs; 2], 9) + shortcut + projection
}

/// Four projections; scores and the sums that they weight, over all heads together.
fn of_attention(attention: Option<Attention>, pixels: usize, channels: usize) -> usize {
    attention.map_or(0, |_| 4 * conv(pixels, [channels; 2], 1) + 2 * 2 * pixels * pixels * channels)
}

/// Two projections around blocks of self-attention, cross-attention and a gated feed-forward part four times as wide.
fn of_transformer(transformer: Option<Transformer>, pixels: usize, channels: usize) -> usize {
    let Some(Transformer { depth, token_width, .. }) = transformer else { return 0 };
    let own = 4 * conv(pixels, [channels; 2], 1) + 2 * 2 * pixels * pixels * channels;
    let keys = 2 * conv(TOKENS, [token_width, channels], 1);
    let cross = 2 * conv(pixels, [channels; 2], 1) + keys + 2 * 2 * pixels * TOKENS * channels;
    let feed_forward = conv(pixels, [channels, 8 * channels], 1) + conv(pixels, [4 * channels, channels], 1);
    2 * conv(pixels, [channels; 2], 1) + depth * (own + cross + feed_forward)
}

/// A convolution with a kernel of so many taps, which gives so many pixels.
fn conv(pixels: usize, channels: [usize; 2], taps: usize) -> usize {
    pixels * taps * dense(channels)
}

fn dense([inputs, outputs]: [usize; 2]) -> usize {
    2 * inputs * outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddpm_model::unet::{CrossAttentionConfig, TimeShift};

    #[test]
    fn the_network_of_the_paper_has_the_published_count() {
        // 3.20 and 12.44 GFLOP per image, counted by PyTorch's profiler on its own twin.
        for (channels, expected) in [(64, 3.20e9), (128, 12.44e9)] {
            let config = UNetConfig { base_channels: channels, ..UNetConfig::cifar10() };
            let found = forward(&config, 32);
            assert!((found / expected - 1.0).abs() < 0.01, "{found:e} at {channels} channels");
        }
    }

    /// Two levels of 8 and 16 channels, one block each, on 64 and 16 pixels; 32 values of the time.
    fn small() -> UNetConfig {
        UNetConfig {
            in_channels: 3,
            out_channels: 3,
            sample_size: 8,
            base_channels: 8,
            multipliers: vec![1.0, 2.0],
            blocks_per_level: 1,
            attention_resolutions: vec![],
            middle_attention: false,
            norm_groups: 4,
            ..UNetConfig::default()
        }
    }

    #[test]
    fn the_middle_attention_is_counted_where_there_is_one() {
        let with = UNetConfig { middle_attention: true, ..small() };
        // On 16 pixels of 16 channels: q, k, v and the output; scores of all pairs of pixels and their weighted sums.
        let (projections, products) = (4.0 * 2.0 * 16.0 * 16.0 * 16.0, 2.0 * 2.0 * 16.0 * 16.0 * 16.0);
        assert_eq!(forward(&with, 8) - forward(&small(), 8), projections + products);
    }

    #[test]
    fn transformers_are_counted_in_place_of_attentions() {
        let cross = CrossAttentionConfig { token_width: 8, ..CrossAttentionConfig::default() };
        let with = UNetConfig { middle_attention: true, cross_attention: Some(cross), ..small() };
        // In the middle, on 16 pixels of 16 channels: projections in and out, q, k, v and out of both attentions, where keys
        // and values of the second are of tokens, their products, and the feed-forward part.
        let dense = |rows: f64, inputs: f64, outputs: f64| 2.0 * rows * inputs * outputs;
        let projections = (2.0 + 4.0 + 2.0) * dense(16.0, 16.0, 16.0) + 2.0 * dense(77.0, 8.0, 16.0);
        let products = 4.0 * 16.0 * 16.0 * 16.0 + 4.0 * 16.0 * 77.0 * 16.0;
        let feed_forward = dense(16.0, 16.0, 128.0) + dense(16.0, 64.0, 16.0);
        assert_eq!(forward(&with, 8) - forward(&small(), 8), projections + products + feed_forward);
    }

    #[test]
    fn residual_resampling_is_counted_as_blocks() {
        let residual = UNetConfig { resampling: Resampling::Residual, ..small() };
        // One more 3x3 convolution each, on 16 pixels of 8 channels and on 64 of 16, and projections of the time.
        let down = 2.0 * 16.0 * 8.0 * 8.0 * 9.0 + 2.0 * 32.0 * 8.0;
        let up = 2.0 * 64.0 * 16.0 * 16.0 * 9.0 + 2.0 * 32.0 * 16.0;
        assert_eq!(forward(&residual, 8) - forward(&small(), 8), down + up);
    }

    #[test]
    fn scale_and_shift_take_a_projection_twice_as_wide() {
        let scaled = UNetConfig { time_shift: TimeShift::ScaleShift, ..small() };
        // Two blocks of 8 channels, on the way up, and one down; of 16 one down, two in the middle and two up.
        let (narrow, wide) = (3.0 * 2.0 * 32.0 * 8.0, 5.0 * 2.0 * 32.0 * 16.0);
        assert_eq!(forward(&scaled, 8) - forward(&small(), 8), narrow + wide);
    }
}
