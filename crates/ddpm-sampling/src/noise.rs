//! Noise of a sampling job: a function of (seed, image, step) alone.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::random::{Stream, normals, rng};
use serde::{Deserialize, Serialize};

use crate::samplers::NoiseSource;
use crate::torch_noise::TorchNoise;

/// Where the noise of a job comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NoiseChoice {
    /// The generator.
    pub generator: Generator,
    /// What the samples start from instead of drawn noise: all values, row-major, sample after sample.
    pub start: Option<Vec<f32>>,
    /// What is used in the first steps instead of drawn noise: for each step all values, row-major, sample after sample.
    pub steps: Vec<Vec<f32>>,
}

/// A noise generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// Our own: sample k depends on the seed and on k alone.
    #[default]
    Own,
    /// PyTorch's on the CPU, in the order of diffusers: the same seed and count make the same image.
    Torch,
}

/// The noise of a batch of a job, by either generator.
#[derive(Clone, Debug)]
pub struct JobNoise<const D: usize> {
    drawn: Drawn<D>,
    start: Option<Tensor<D>>,
    steps: Vec<Tensor<D>>,
}

#[derive(Clone, Debug)]
enum Drawn<const D: usize> {
    Own(SampleNoise<D>),
    Torch(TorchNoise<D>),
}

impl<const D: usize> JobNoise<D> {
    /// Noise for samples `samples` of `count`, each of shape `shape[1..]`; our own generator knows them by `numbers`.
    pub fn new(
        choice: &NoiseChoice,
        seed: u64,
        count: usize,
        samples: Range<usize>,
        numbers: Vec<usize>,
        mut shape: [usize; D],
        device: &Device,
    ) -> Self {
        shape[0] = samples.len();
        let per_sample: usize = shape[1..].iter().product();
        let ours = |all: &Vec<f32>| {
            let ours = all[samples.start * per_sample..samples.end * per_sample].to_vec();
            Tensor::from_data(TensorData::new(ours, shape), device)
        };
        let start = choice.start.as_ref().map(ours);
        let steps = choice.steps.iter().map(ours).collect();
        let drawn = match choice.generator {
            Generator::Own => Drawn::Own(SampleNoise::new(seed, numbers, shape, device)),
            Generator::Torch => Drawn::Torch(TorchNoise::new(seed, count, samples, shape, device)),
        };
        Self { drawn, start, steps }
    }

    /// The noise that the samples start from.
    pub fn start(&mut self) -> Tensor<D> {
        match (&self.start, &mut self.drawn) {
            (Some(start), _) => start.clone(),
            (None, Drawn::Own(noise)) => noise.start(),
            (None, Drawn::Torch(noise)) => noise.draw(),
        }
    }
}

impl<const D: usize> NoiseSource<D> for JobNoise<D> {
    fn step(&mut self, index: usize) -> Tensor<D> {
        match (self.steps.get(index), &mut self.drawn) {
            (Some(step), _) => step.clone(),
            (None, Drawn::Own(noise)) => noise.step(index),
            (None, Drawn::Torch(noise)) => noise.step(index),
        }
    }
}

/// The noise of a batch of samples. It is drawn on the host, one generator for a sample and step, so that
/// sample k gets the same numbers on every device and in every batch.
#[derive(Clone, Debug)]
pub struct SampleNoise<const D: usize> {
    seed: u64,
    samples: Vec<usize>,
    shape: [usize; D],
    device: Device,
}

impl<const D: usize> SampleNoise<D> {
    /// Noise for the samples of these numbers, each of shape `shape[1..]`.
    pub fn new(seed: u64, samples: impl IntoIterator<Item = usize>, mut shape: [usize; D], device: &Device) -> Self {
        let samples: Vec<usize> = samples.into_iter().collect();
        shape[0] = samples.len();
        Self { seed, samples, shape, device: device.clone() }
    }

    /// The noise that the samples start from.
    pub fn start(&self) -> Tensor<D> {
        self.draw(Stream::SampleStart, |sample| sample as u64)
    }

    fn draw(&self, stream: Stream, address: impl Fn(usize) -> u64) -> Tensor<D> {
        let per_sample: usize = self.shape[1..].iter().product();
        let values: Vec<f32> = self
            .samples
            .iter()
            .flat_map(|&sample| normals(&mut rng(self.seed, stream, address(sample)), per_sample))
            .collect();
        Tensor::from_data(TensorData::new(values, self.shape), &self.device)
    }
}

impl<const D: usize> NoiseSource<D> for SampleNoise<D> {
    fn step(&mut self, index: usize) -> Tensor<D> {
        // Sample and step side by side in one number: no two addresses meet below 2^32 of either.
        self.draw(Stream::SampleStep, |sample| ((sample as u64) << 32) | index as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn values(noise: Tensor<2>) -> Vec<f32> {
        noise.try_into_vec_as().unwrap()
    }

    #[test]
    fn a_sample_has_its_noise_in_any_batch() {
        let device = Device::default();
        let mut all = SampleNoise::<2>::new(7, 0..5, [0, 3], &device);
        let mut part = SampleNoise::<2>::new(7, 3..5, [0, 3], &device);
        assert_eq!(values(all.start())[9..], values(part.start()));
        assert_eq!(values(all.step(4))[9..], values(part.step(4)));
    }

    #[test]
    fn seed_sample_step_and_purpose_each_matter() {
        let device = Device::default();
        let noise = |seed, sample: usize| SampleNoise::<2>::new(seed, sample..sample + 1, [0, 3], &device);
        let mut draws = vec![values(noise(7, 0).start())];
        for (seed, sample, step) in [(7, 0, 0), (7, 0, 1), (7, 1, 0), (8, 0, 0)] {
            draws.push(values(noise(seed, sample).step(step)));
        }
        for (i, a) in draws.iter().enumerate() {
            assert!(draws[..i].iter().all(|b| a != b));
        }
    }
}
