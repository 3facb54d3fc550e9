//! Addressed randomness: every random number is a function of (seed, stream, index), never of how many
//! numbers were drawn before it. That is what makes a resumed run the same run, and image k of a
//! sampling job the same image at any batch size.

/// Draws other numbers than normal ones; here so that users need no `rand` of the same version.
pub use rand::RngExt;
use rand::SeedableRng;
pub use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// What a random number is for. Two streams never share numbers.
///
/// The values are part of the address: they may be added to, never renumbered, or old runs change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Seed of the device's generator for the first values of the weights; index: always 0.
    Init = 1,
    /// Order of the items; index: the epoch; in `eval` the step of the classifier, or the restart of a mixture.
    Order = 2,
    /// Horizontal flip; index: the item's place in the endless stream.
    Flip = 3,
    /// Time steps of training; index: the item's place in the endless stream.
    Time = 4,
    /// Noise of training; index: the item's place in the endless stream.
    Noise = 5,
    /// Labels dropped in training; index: the item's place in the endless stream.
    LabelDrop = 6,
    /// Seed of the device's generator, which only dropout uses; index: the step, with the number of the device
    /// above bit 48.
    Dropout = 7,
    /// The noise a sample starts from; index: the sample.
    SampleStart = 8,
    /// Noise added while sampling; index: the sample times 2^32, plus the step.
    SampleStep = 9,
    /// Generated points of the train split; index: the point.
    Points = 11,
    /// Which items are held out; index: the item.
    Split = 12,
    /// Generated points of the test split; index: the point.
    TestPoints = 13,
    /// Training noise that a whole channel shares; index: the item's place in the endless stream.
    OffsetNoise = 14,
    /// Where in its bin a value of an 8-bit image is taken to be; index: the item.
    Dequantize = 15,
    /// Probes of a divergence; index: the item times 2^32, plus the probe.
    Probe = 16,
    /// Noise of the variational bound; index: the item times 2^32, plus the step.
    Bound = 17,
    /// Whether a training item is shown the network's own estimate; index: the item's place in the endless stream.
    SelfConditioning = 18,
    /// Order of the classes in a round of balanced data; index: the round.
    ClassRound = 19,
    /// Order of the items of a class in balanced data; index: the class times 2^32, plus how often all were seen.
    ClassItems = 20,
    /// How a training picture is augmented, with labels; index: the item's place in the endless stream.
    Augment = 21,
    /// By how much a training picture is moved; index: the item's place in the endless stream.
    Crop = 22,
    /// Generated time series; index: the window, or 0 for one long series.
    GeneratedSeries = 23,
    /// Samples of stretches of series; index: the stretch, or the sample of a stretch.
    SeriesRow = 24,
    /// Which cells of a training window are hidden from the model; index: the item's place in the endless stream.
    Mask = 25,
    /// Generated shapes and their captions; index: twice the item, plus 1 in the test split.
    Shapes = 26,
    /// The latents that are learned of the posterior of an item's; index: the item's place in the endless stream.
    Latents = 27,
}

/// One 64-bit number for an address. For one seed and stream, different indexes give different numbers.
pub fn mix(seed: u64, stream: Stream, index: u64) -> u64 {
    split_mix_64(split_mix_64(split_mix_64(seed) ^ stream as u64) ^ index)
}

/// A generator for an address.
///
/// The address itself is the key of the cipher, so that two addresses cannot collide.
pub fn rng(seed: u64, stream: Stream, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(stream as u64).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// The next `n` standard normal numbers of a generator.
pub fn normals(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    StandardNormal.sample_iter(rng).take(n).collect()
}

/// A step of SplitMix64 (Steele, Lea & Flood 2014): a bijection of 64-bit numbers.
fn split_mix_64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn split_mix_matches_the_published_sequence() {
        // First outputs of the reference implementation for the state 1234567.
        let gamma = 0x9E37_79B9_7F4A_7C15_u64;
        let state = 1_234_567_u64;
        assert_eq!(split_mix_64(state), 6_457_827_717_110_365_317);
        assert_eq!(split_mix_64(state.wrapping_add(gamma)), 3_203_168_211_198_807_973);
    }

    // The numbers below are part of the project: if one changes, no old run can be resumed or repeated.
    #[test]
    fn addresses_give_the_same_numbers_for_ever() {
        assert_eq!(mix(0, Stream::Init, 0), 0x44e5_b981_00c6_7fb0);
        assert_eq!(mix(42, Stream::Noise, 7), 0xe4ec_3c7c_79d6_ee2b);
        assert_eq!(mix(u64::MAX, Stream::Split, u64::MAX), 0x5379_aec0_f1da_8d84);
        assert_eq!(rng(0, Stream::Init, 0).next_u64(), 0x3feb_e7d0_52d7_6565);
        assert_eq!(rng(42, Stream::Noise, 7).next_u64(), 0x015f_37f2_5aca_e72e);
        assert_eq!(normals(&mut rng(42, Stream::Noise, 7), 4), [-2.188_050_3, 2.156_509_9, 0.804_726_3, 1.389_767]);
    }

    #[test]
    fn the_number_of_a_stream_does_not_move() {
        let streams = [
            Stream::Init,
            Stream::Order,
            Stream::Flip,
            Stream::Time,
            Stream::Noise,
            Stream::LabelDrop,
            Stream::Dropout,
            Stream::SampleStart,
            Stream::SampleStep,
            Stream::Points,
            Stream::Split,
            Stream::TestPoints,
            Stream::OffsetNoise,
            Stream::Dequantize,
            Stream::Probe,
            Stream::Bound,
            Stream::SelfConditioning,
            Stream::ClassRound,
            Stream::ClassItems,
            Stream::Augment,
            Stream::Crop,
            Stream::GeneratedSeries,
            Stream::SeriesRow,
            Stream::Mask,
            Stream::Shapes,
        ];
        for (k, stream) in streams.into_iter().enumerate() {
            // 10 is free.
            assert_eq!(stream as u64, k as u64 + if k < 9 { 1 } else { 2 });
        }
    }

    #[test]
    fn neighbouring_addresses_differ() {
        let first = |seed, stream, index| rng(seed, stream, index).next_u64();
        let base = first(1, Stream::Time, 1);
        assert_ne!(base, first(2, Stream::Time, 1));
        assert_ne!(base, first(1, Stream::Noise, 1));
        assert_ne!(base, first(1, Stream::Time, 2));
        assert_eq!(base, first(1, Stream::Time, 1));

        let mut mixed: Vec<u64> = (0..10_000).map(|n| mix(3, Stream::Order, n)).collect();
        mixed.sort_unstable();
        mixed.dedup();
        assert_eq!(mixed.len(), 10_000);
    }

    #[test]
    fn normals_are_standard_normal_across_addresses() {
        // One number from each of many addresses: tests the addressing, not only the cipher.
        let n = 20_000;
        let x: Vec<f64> = (0..n).map(|i| f64::from(normals(&mut rng(5, Stream::SampleStart, i), 1)[0])).collect();
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.05, "variance {variance}");
    }
}
