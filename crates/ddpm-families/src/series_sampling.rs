//! Samples of rows by any sampler, where each row has noise of its own: rows are samples of stretches of series.

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::random::{Stream, mix, normals, rng};
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::noise_level::{NoiseLevel, NoiseRange};
use ddpm_sampling::samplers::{NoiseSource, Sampler, SamplerOptions};

use crate::family::AnyError;
use crate::family::trained::SeriesDraw;

/// A sampler over the noise levels that it visits of a model.
#[derive(Debug)]
pub(crate) struct RowSampler<'a> {
    diffusion: &'a Diffusion,
    sampler: Sampler,
    levels: Vec<NoiseLevel>,
}

impl<'a> RowSampler<'a> {
    /// The sampler that was chosen with its steps; else the usual one of the model.
    pub(crate) fn new(diffusion: &'a Diffusion, draw: &SeriesDraw, usual: (&str, usize)) -> Result<Self, AnyError> {
        let (sampler, steps) = match draw.sampler {
            Some(sampler) => (sampler, draw.steps.unwrap_or_else(|| sampler.usual_steps(diffusion))),
            None => (Sampler::new(usual.0, SamplerOptions::default())?, draw.steps.unwrap_or(usual.1)),
        };
        let most = diffusion.schedule().map_or(usize::MAX, |schedule| schedule.len());
        if !(1..=most).contains(&steps) {
            return Err(
                format!("--steps {steps}: expected 1 to {most}, the steps that the model was trained with").into()
            );
        }
        let levels = sampler.usual_levels(diffusion).levels(steps, diffusion)?;
        Ok(Self { diffusion, sampler, levels })
    }

    /// A sample of every row.
    ///
    /// `network(x_t, t)` is as for [`ddpm_model::denoiser::DiscreteDenoiser`], and holds its own condition. It is given rows
    /// `[B, K, L]`; the samplers have four axes.
    pub(crate) fn run(&self, network: impl Fn(Tensor<3>, Tensor<1>) -> Tensor<3>, noise: RowNoise) -> Tensor<3> {
        self.run_denoiser(|x, level| self.diffusion.denoise(&network, x, level), noise)
    }

    /// A sample of every row, of which the denoiser estimates the clean data.
    pub(crate) fn run_denoiser(
        &self,
        denoiser: impl Fn(&Tensor<3>, NoiseLevel) -> Denoised<3>,
        mut noise: RowNoise,
    ) -> Tensor<3> {
        let start = noise.start();
        let shape = start.dims();
        let denoiser = |x_t: &Tensor<4>, level| {
            let Denoised { x_0, variance_logit } = denoiser(&x_t.clone().reshape(shape), level);
            Denoised { x_0: four_axes(x_0), variance_logit: variance_logit.map(four_axes) }
        };
        self.sampler.run(&Denoise(denoiser), &self.levels, four_axes(start), &mut noise, &mut |_| {}).reshape(shape)
    }
}

/// With one more axis, of size 1.
fn four_axes(x: Tensor<3>) -> Tensor<4> {
    let [rows, variables, length] = x.dims();
    x.reshape([rows, variables, length, 1])
}

/// A function as a denoiser.
struct Denoise<F>(F);

impl<F> Denoiser<4> for Denoise<F>
where
    F: Fn(&Tensor<4>, NoiseLevel) -> Denoised<4>,
{
    fn denoise(&self, x_t: &Tensor<4>, level: NoiseLevel) -> Denoised<4> {
        (self.0)(x_t, level)
    }
}

/// The seed of a sample of a stretch: it depends on the seed of the draw, the number of the stretch and that of the sample.
pub(crate) fn seed_of_row(seed: u64, stretch: u64, sample: u64) -> u64 {
    mix(mix(seed, Stream::SeriesRow, stretch), Stream::SeriesRow, sample)
}

/// The noise of rows of shape `shape[1..]`, each of its own seed. `part` tells apart what is sampled for one row after the
/// other, such as the steps of a forecast.
#[derive(Clone, Debug)]
pub(crate) struct RowNoise {
    /// One for each row.
    pub(crate) seeds: Vec<u64>,
    pub(crate) part: u32,
    /// The first entry does not matter.
    pub(crate) shape: [usize; 3],
    pub(crate) device: Device,
}

impl RowNoise {
    fn start(&self) -> Tensor<3> {
        self.draw(Stream::SampleStart, 0)
    }

    /// Noise that has nothing to do with that of the sampler.
    pub(crate) fn other(&self) -> Tensor<3> {
        self.draw(Stream::SampleStart, 1)
    }

    fn draw(&self, stream: Stream, step: u64) -> Tensor<3> {
        let mut shape = self.shape;
        shape[0] = self.seeds.len();
        let (size, index) = (shape[1..].iter().product(), u64::from(self.part) << 32 | step);
        let values: Vec<f32> =
            self.seeds.iter().flat_map(|seed| normals(&mut rng(*seed, stream, index), size)).collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

impl NoiseSource<4> for RowNoise {
    fn step(&mut self, index: usize) -> Tensor<4> {
        four_axes(self.draw(Stream::SampleStep, index as u64))
    }
}
