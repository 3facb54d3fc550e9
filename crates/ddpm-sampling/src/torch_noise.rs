//! The normal numbers of PyTorch's generator on the CPU, so that a seed makes the same image here as there.
//!
//! The generator is the Mersenne Twister (Matsumoto & Nishimura 1998, MT19937); normal numbers are made of its
//! uniform ones by Box and Muller's transform, in blocks of 16 where there are that many.

use std::f64::consts::PI;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use crate::samplers::NoiseSource;

/// Words of the twister's state.
const WORDS: usize = 624;
/// How far apart the words are that are mixed.
const MIXED: usize = 397;
/// Numbers that are made together.
const BLOCK: usize = 16;

/// `torch.Generator("cpu")`.
#[derive(Clone, Debug)]
pub struct TorchGenerator {
    state: Vec<u32>,
    next: usize,
    /// The second of a pair of single normal numbers.
    kept: Option<f64>,
}

impl TorchGenerator {
    /// After `manual_seed(seed)`, of which 32 bits count.
    pub fn new(seed: u64) -> Self {
        let mut state = vec![seed as u32];
        for i in 1..WORDS {
            let before = state[i - 1];
            state.push(1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32));
        }
        Self { state, next: WORDS, kept: None }
    }

    /// `torch.randn(count, generator=self)` in f32.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.single() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            let last = &mut values[count - BLOCK..];
            last.fill_with(|| self.uniform());
            box_muller(last);
        }
        values
    }

    /// A normal number of few.
    fn single(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let (turn, length) = (self.long_uniform(), self.long_uniform());
        let radius = (-2.0 * (-length).ln_1p()).sqrt();
        let angle = 2.0 * PI * turn;
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// Uniform on [0, 1), of 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// Uniform on [0, 1), of 53 bits of two words, the high one first.
    fn long_uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        let bits = ((high << 32) | low) & ((1 << 53) - 1);
        bits as f64 / (1u64 << 53) as f64
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIXED) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// Sixteen uniform numbers into normal ones: those of the first half are lengths, those of the second angles.
fn box_muller(block: &mut [f32]) {
    let half = block.len() / 2;
    for j in 0..half {
        let radius = (-2.0 * (1.0 - block[j]).ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * block[j + half];
        (block[j], block[j + half]) = (radius * angle.cos(), radius * angle.sin());
    }
}

/// The noise of a batch of samples as diffusers draws it for all samples of a job together: first where they
/// start, then for every step that draws noise.
///
/// Unlike our own noise, the noise of sample k depends on the number of samples.
#[derive(Clone, Debug)]
pub struct TorchNoise<const D: usize> {
    generator: TorchGenerator,
    count: usize,
    samples: Range<usize>,
    shape: [usize; D],
    device: Device,
}

impl<const D: usize> TorchNoise<D> {
    /// Noise for samples `samples` of `count`, each of shape `shape[1..]`.
    pub fn new(seed: u64, count: usize, samples: Range<usize>, mut shape: [usize; D], device: &Device) -> Self {
        shape[0] = samples.len();
        Self { generator: TorchGenerator::new(seed), count, samples, shape, device: device.clone() }
    }

    /// The next noise of the batch.
    pub fn draw(&mut self) -> Tensor<D> {
        let per_sample: usize = self.shape[1..].iter().product();
        let all = self.generator.randn(self.count * per_sample);
        let ours = all[self.samples.start * per_sample..self.samples.end * per_sample].to_vec();
        Tensor::from_data(TensorData::new(ours, self.shape), &self.device)
    }
}

impl<const D: usize> NoiseSource<D> for TorchNoise<D> {
    fn step(&mut self, _index: usize) -> Tensor<D> {
        self.draw()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn close(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        let near = |(f, w): (&f32, &f32)| (f - w).abs() <= 1e-6 * w.abs().max(1.0);
        assert!(found.iter().zip(wanted).all(near), "{found:?} {wanted:?}");
    }

    /// What torch 2.15.0 gave on a CPU for `torch.randn(n, generator=g)` in this order, few numbers and many.
    #[test]
    fn numbers_are_those_of_torch() {
        let mut zero = TorchGenerator::new(0);
        close(&zero.randn(3), &[1.540996, -0.2934289, -2.178789]);
        close(&zero.randn(5), &[0.5684313, -1.084522, -1.398595, 0.4033468, 0.8380263]);
        close(&zero.randn(16)[..4], &[-1.352654, -1.695931, 0.5666506, 0.7935084]);
        close(
            &zero.randn(20),
            &[
                -0.6135831,
                0.03159274,
                -0.492677,
                0.2484148,
                -0.2303355,
                -0.3917544,
                0.5432947,
                -0.3951575,
                0.2055257,
                -0.4503298,
                -0.5730771,
                -0.5553584,
                -1.531184,
                -1.234135,
                1.819725,
                -0.5515287,
                -1.325326,
                0.1885536,
                -0.06907269,
                -0.4949253,
            ],
        );
        let mut large = TorchGenerator::new(1_234_567_890_123);
        close(&large.randn(1), &[0.6120991]);
        close(&large.randn(1), &[-0.9301381]);
        close(&large.randn(17)[13..], &[-0.9652004, -0.4388135, -1.309715, -2.197178]);
        close(&large.randn(2), &[-1.256014, -0.6338112]);
    }

    #[test]
    fn only_32_bits_of_a_seed_count() {
        let of = |seed| TorchGenerator::new(seed).randn(20);
        assert_eq!(of(5), of(5 + (1 << 32)));
        assert_ne!(of(5), of(6));
    }

    #[test]
    fn a_batch_is_a_part_of_the_noise_of_all() {
        let device = Device::default();
        let values = |noise: Tensor<2>| noise.try_into_vec_as::<f32>().unwrap();
        let mut all = TorchNoise::<2>::new(7, 5, 0..5, [0, 3], &device);
        let mut part = TorchNoise::<2>::new(7, 5, 3..5, [0, 3], &device);
        assert_eq!(values(all.draw())[9..], values(part.draw()));
        assert_eq!(values(all.step(4))[9..], values(part.step(0)));
    }
}
