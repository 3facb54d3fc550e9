//! Samples of what is missing, by any sampler.
//!
//! A series that is longer than the windows of the network is filled window by window. Windows overlap, and what was sampled
//! for one is given to the next, so that all windows of a sample go together.

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_model::denoiser::Denoised;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::pass::Pass;

use super::MaskedFamily;
use super::network::{Condition, Given, MaskedNetwork};
use crate::family::AnyError;
use crate::family::trained::SeriesDraw;
use crate::series_sampling::{RowNoise, RowSampler};

/// A stretch of a series `[K, L]` in the units of the networks, and the cells whose values are known.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) values: Vec<f32>,
    pub(super) known: Vec<bool>,
}

/// Fills in what is missing.
pub(super) struct Filler<'a> {
    family: &'a MaskedFamily,
    model: &'a MaskedNetwork,
    sampler: RowSampler<'a>,
    device: &'a Device,
}

/// Steps of a window, and up to where what is sampled for it stays.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    start: usize,
    kept: usize,
}

/// The windows of this length that a series is filled by: each begins half a window behind the one before, and the last quarter
/// of what is sampled is sampled again, since it has nothing behind it.
fn parts(length: usize, window: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start + window < length {
        parts.push(Part { start, kept: start + window - window / 4 });
        start += (window / 2).max(1);
    }
    parts.push(Part { start: length.saturating_sub(window), kept: length });
    parts
}

impl<'a> Filler<'a> {
    pub(super) fn new(
        family: &'a MaskedFamily,
        model: &'a MaskedNetwork,
        draw: &SeriesDraw,
        device: &'a Device,
    ) -> Result<Self, AnyError> {
        let keys = &family.tables.masked;
        let sampler = RowSampler::new(&family.diffusion, draw, (&keys.sampler, keys.steps))?;
        Ok(Self { family, model, sampler, device })
    }

    /// Fills in what is not known of stretches of one length, each with the noise of its own seed.
    pub(super) fn fill(&self, sheets: &mut [Sheet], seeds: &[u64]) -> Result<(), AnyError> {
        let [variables, window] = self.family.shape;
        let length = sheets.first().map_or(0, |sheet| sheet.values.len() / variables);
        for (number, part) in parts(length, window).into_iter().enumerate() {
            let windows: Vec<Sheet> = sheets.iter().map(|sheet| sheet.window(variables, part.start, window)).collect();
            let end = (part.start + window).min(length);
            let is_full =
                |sheet: &Sheet| (0..variables).all(|k| (part.start..end).all(|step| sheet.known[k * length + step]));
            if sheets.iter().all(is_full) {
                continue;
            }
            let sampled = self.sample(&windows, seeds.to_vec(), number as u32)?;
            for (sheet, sampled) in sheets.iter_mut().zip(sampled.chunks(variables * window)) {
                sheet.accept(sampled, variables, part, window);
            }
        }
        Ok(())
    }

    /// Samples of windows, `[rows, K, L]`.
    pub(super) fn sample(&self, windows: &[Sheet], seeds: Vec<u64>, part: u32) -> Result<Vec<f32>, AnyError> {
        let [variables, length] = self.family.shape;
        let shape = [windows.len(), variables, length];
        let tensor = |values: Vec<f32>| Tensor::<3>::from_data(TensorData::new(values, shape), self.device);
        let known = windows.iter().flat_map(|window| window.known.iter().map(|known| f32::from(u8::from(*known))));
        let given = Given {
            values: tensor(windows.iter().flat_map(|window| window.values.iter().copied()).collect()),
            cells: tensor(known.collect()),
            variables: None,
        };
        let noise = RowNoise { seeds, part, shape, device: self.device.clone() };
        let condition = self.model.condition(&given)?;
        let sampled = match self.family.tables.model.is_unconditional() {
            false => self.sampler.run_denoiser(|x, level| self.denoise(x, level, &given, &condition), noise),
            true => {
                let replaced = noise.other();
                let denoiser = |x: &Tensor<3>, level: NoiseLevel| {
                    let known = given.values.clone() * level.alpha + replaced.clone() * level.sigma;
                    let x = x.clone() * given.missing() + known * given.cells.clone();
                    self.denoise(&x, level, &given, &condition)
                };
                self.sampler.run_denoiser(denoiser, noise)
            }
        };
        Ok(sampled.into_data().iter::<f32>().collect())
    }

    /// The estimate of the data. At given cells, which the network knows, none is needed: the prediction there is 0.
    fn denoise(&self, x: &Tensor<3>, level: NoiseLevel, given: &Given, condition: &Condition) -> Denoised<3> {
        let missing = given.missing();
        let network = |x: Tensor<3>, t: Tensor<1>| {
            let steps: Vec<f64> = t.into_data().iter::<f64>().collect();
            self.model.forward(x, &steps, condition, &Pass::default()) * missing.clone()
        };
        self.family.diffusion.denoise(network, x, level)
    }
}

impl Sheet {
    /// Nothing is known.
    pub(super) fn empty(cells: usize) -> Self {
        Self { values: vec![0.0; cells], known: vec![false; cells] }
    }

    /// A window; what lies behind the end is not known.
    fn window(&self, variables: usize, start: usize, window: usize) -> Self {
        let length = self.values.len() / variables;
        let mut found = Self::empty(variables * window);
        for (variable, step) in (0..variables).flat_map(|k| (0..window.min(length - start)).map(move |step| (k, step)))
        {
            let (from, to) = (variable * length + start + step, variable * window + step);
            if self.known[from] {
                (found.values[to], found.known[to]) = (self.values[from], true);
            }
        }
        found
    }

    /// Takes what was sampled for the missing cells of a window.
    fn accept(&mut self, sampled: &[f32], variables: usize, part: Part, window: usize) {
        let length = self.values.len() / variables;
        for (variable, step) in (0..variables).flat_map(|k| (part.start..part.kept).map(move |step| (k, step))) {
            let (from, to) = (variable * window + step - part.start, variable * length + step);
            if !self.known[to] {
                (self.values[to], self.known[to]) = (sampled[from], true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_a_series_and_overlap() {
        assert_eq!(parts(5, 8), [Part { start: 0, kept: 5 }]);
        assert_eq!(parts(8, 8), [Part { start: 0, kept: 8 }]);
        let found = parts(19, 8);
        let wanted = [(0, 6), (4, 10), (8, 14), (11, 19)].map(|(start, kept)| Part { start, kept });
        assert_eq!(found, wanted);
        for (length, window) in [(100, 7), (9, 1), (50, 2), (51, 50)] {
            let found = parts(length, window);
            assert!(found.windows(2).all(|two| two[1].start <= two[0].kept), "{length} {window}");
            assert_eq!(found.last().map(|part| part.kept), Some(length));
        }
    }

    #[test]
    fn a_window_shows_what_is_known_and_takes_the_rest() {
        let mut sheet = Sheet { values: (0..10).map(|k| k as f32).collect(), known: vec![true; 10] };
        sheet.known[3] = false;
        let window = sheet.window(2, 2, 4);
        assert_eq!(window.values, [2.0, 0.0, 4.0, 0.0, 7.0, 8.0, 9.0, 0.0]);
        assert_eq!(window.known.iter().filter(|known| **known).count(), 5);
        sheet.accept(&[-1.0; 8], 2, Part { start: 2, kept: 5 }, 4);
        assert_eq!(sheet.values, [0.0, 1.0, 2.0, -1.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    }
}
