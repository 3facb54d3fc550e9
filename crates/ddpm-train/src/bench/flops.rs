//! Operations of a network, counted from its config.

use ddpm_model::unet::UNetConfig;

/// Multiplications and additions of the products in one forward pass of one picture: convolutions, dense layers
/// and attention. What is done once a value (normalisation, activations, sums) is left out, as is usual.
pub(super) fn forward(config: &UNetConfig, size: usize) -> f64 {
    let time = config.time_width();
    let pixels = |level: usize| (size >> level).pow(2);
    let conv = |pixels: usize, inputs: usize, outputs: usize, taps: usize| 2 * pixels * inputs * outputs * taps;
    let block = |pixels: usize, inputs: usize, outputs: usize| {
        let shortcut = if inputs == outputs { 0 } else { conv(pixels, inputs, outputs, 1) };
        conv(pixels, inputs, outputs, 9) + conv(pixels, outputs, outputs, 9) + shortcut + 2 * time * outputs
    };
    let attention = |pixels: usize, channels: usize| {
        // Four projections; scores and their use, over all heads together.
        4 * conv(pixels, channels, channels, 1) + 2 * 2 * pixels * pixels * channels
    };

    let levels = config.level_channels();
    let last = levels.len() - 1;
    let mut channels = config.base_channels;
    let mut skips = vec![channels];
    let mut count = conv(pixels(0), config.in_channels, channels, 9) + 2 * (channels * time + time * time);
    for (level, &outputs) in levels.iter().enumerate() {
        for _ in 0..config.blocks_per_level {
            count += block(pixels(level), channels, outputs);
            count += if config.attends(level) { attention(pixels(level), outputs) } else { 0 };
            channels = outputs;
            skips.push(channels);
        }
        if level < last {
            count += conv(pixels(level + 1), channels, channels, 9);
            skips.push(channels);
        }
    }
    count += 2 * block(pixels(last), channels, channels) + attention(pixels(last), channels);
    for (level, &outputs) in levels.iter().enumerate().rev() {
        for _ in 0..=config.blocks_per_level {
            count += block(pixels(level), channels + skips.pop().unwrap_or(0), outputs);
            count += if config.attends(level) { attention(pixels(level), outputs) } else { 0 };
            channels = outputs;
        }
        if level > 0 {
            count += conv(pixels(level - 1), channels, channels, 9);
        }
    }
    (count + conv(pixels(0), channels, config.out_channels, 9)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_the_paper_has_the_published_count() {
        // 3.20 and 12.44 GFLOP a picture, counted by PyTorch's profiler on its own twin.
        for (channels, expected) in [(64, 3.20e9), (128, 12.44e9)] {
            let config = UNetConfig { base_channels: channels, ..UNetConfig::cifar10() };
            let found = forward(&config, 32);
            assert!((found / expected - 1.0).abs() < 0.01, "{found:e} at {channels} channels");
        }
    }
}
