//! A trained TimeGrad model for use.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::Example;
use ddpm_data::series::{Cell, Index};
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::timegrad::{SampledPaths, TimeGrad};

use super::TimeGradFamily;
use super::features::frequency_of;
use crate::family::AnyError;
use crate::family::stored::ModelCard;
use crate::family::trained::{Forecast, SeriesBound, SeriesDraw, Stretch, Trained};
use crate::series_sampling::{RowNoise, RowSampler, seed_of_row};

/// The sampler of a forecast where none is named.
const USUAL_SAMPLER: &str = "ddpm";

/// A trained TimeGrad model.
pub struct TrainedTimeGrad {
    pub(super) family: TimeGradFamily,
    pub(super) model: TimeGrad,
    pub(super) device: Device,
    card: ModelCard,
}

impl TrainedTimeGrad {
    /// A model of this family.
    pub(super) fn new(family: TimeGradFamily, model: TimeGrad, card: ModelCard) -> Self {
        let device = model.devices().into_iter().next().unwrap_or_default();
        Self { family, model, device, card }
    }

    fn sampler(&self, draw: &SeriesDraw) -> Result<RowSampler<'_>, AnyError> {
        let diffusion = &*self.family.diffusion;
        let steps = diffusion.schedule().map_or(1, |schedule| schedule.len());
        RowSampler::new(diffusion, draw, (USUAL_SAMPLER, steps))
    }

    /// Samples of the `horizon` steps behind the history of each item, each with the number that addresses its noise:
    /// `[W, samples, horizon, K]`, in the units of the data.
    pub(super) fn paths(
        &self,
        items: &[(Example, u64)],
        horizon: usize,
        draw: &SeriesDraw,
    ) -> Result<Vec<f32>, AnyError> {
        let sampler = self.sampler(draw)?;
        let mut found = Vec::new();
        for items in items.chunks(draw.at_once.max(1)) {
            // The past is read once for all samples.
            let examples: Vec<&Example> = items.iter().map(|(example, _)| example).collect();
            let windows = self.family.reader.windows(&examples, horizon, &self.device);
            let start = self.model.start_forecast(&windows, self.family.scale(&self.model, &windows));
            let rows: Vec<(usize, u64)> =
                (0..items.len()).flat_map(|item| (0..draw.samples as u64).map(move |sample| (item, sample))).collect();
            for rows in rows.chunks(draw.at_once.max(1)) {
                let indices: Vec<i64> = rows.iter().map(|(item, _)| *item as i64).collect();
                let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [rows.len()]), &self.device);
                let seeds = rows.iter().map(|(item, sample)| seed_of_row(draw.seed, items[*item].1, *sample));
                found.extend(self.run(start.rows(&indices), &sampler, seeds.collect()));
            }
        }
        let variables = self.family.reader.network.variables;
        for (place, value) in found.iter_mut().enumerate() {
            *value = self.number(place % variables, *value) as f32;
        }
        Ok(found)
    }

    /// The values of all steps of a forecast, row by row, as the network has them.
    fn run(&self, mut paths: SampledPaths, sampler: &RowSampler<'_>, seeds: Vec<u64>) -> Vec<f32> {
        let (rows, variables) = (seeds.len(), self.family.reader.network.variables);
        let mut noise = RowNoise { seeds, part: 0, shape: [rows, 1, variables], device: self.device.clone() };
        let mut steps = Vec::new();
        while let Some(condition) = self.model.next_condition(&mut paths) {
            let given = self.model.denoiser().given(condition);
            let network = |x: Tensor<3>, t: Tensor<1>| {
                // All rows are at one noise level.
                let step: f64 = t.into_data().iter::<f64>().next().unwrap_or(0.0);
                self.model.denoiser().forward_given(x, &[step], &given)
            };
            let sample = sampler.run(network, noise.clone());
            steps.push(paths.push_within(sample, |values| self.clamped(values)));
            noise.part += 1;
        }
        match steps.is_empty() {
            true => Vec::new(),
            false => Tensor::cat(steps, 1).into_data().iter::<f32>().collect(),
        }
    }

    /// Values `[rows, 1, D]` within the bounds of their variables.
    fn clamped(&self, values: Tensor<3>) -> Tensor<3> {
        let variables = self.family.reader.network.variables;
        let bound = |end: usize, open: f32| {
            let one = |k: usize| self.bounds(k)[end].map_or(open, |bound| self.family.reader.network_value(k, bound));
            let all: Vec<f32> = (0..variables).map(one).collect();
            let is_open = all.iter().all(|bound| *bound == open);
            (!is_open).then(|| Tensor::<3>::from_data(TensorData::new(all, [1, 1, variables]), &self.device))
        };
        let values = match bound(0, f32::MIN) {
            Some(lowest) => values.max_pair(lowest),
            None => values,
        };
        match bound(1, f32::MAX) {
            Some(highest) => values.min_pair(highest),
            None => values,
        }
    }

    /// The lowest and the highest value of a variable, where these are bounds.
    fn bounds(&self, variable: usize) -> [Option<f64>; 2] {
        self.family.origin.data.series.as_ref().map_or([None; 2], |info| info.bounds(variable))
    }

    /// A value as the network has it in the units of the data; at a bound of its variable it is the bound to the last bit.
    fn number(&self, variable: usize, value: f32) -> f64 {
        let reader = &self.family.reader;
        let [lowest, highest] = self.bounds(variable);
        let at_or_beyond = |bound: f64, is_beyond: fn(&f32, &f32) -> bool| {
            is_beyond(&value, &reader.network_value(variable, bound)).then_some(bound)
        };
        let lowest = lowest.and_then(|bound| at_or_beyond(bound, f32::le));
        let highest = highest.and_then(|bound| at_or_beyond(bound, f32::ge));
        lowest.or(highest).unwrap_or_else(|| reader.data_unit(variable, value))
    }

    /// The history before step `end` of a series, and the `horizon` steps behind it, of which the covariates are known and the
    /// values up to the end of the stretch.
    pub(super) fn item(&self, stretch: &Stretch<'_>, end: usize, horizon: usize) -> Result<Example, AnyError> {
        let data = &self.family.origin.data;
        let variables = self.family.reader.network.variables;
        let found = stretch.series.target.variables();
        if found != variables {
            return Err(format!("the series has {found} variables, and the model is of {variables}").into());
        }
        if let Some(frequency) = frequency_of(data).filter(|_| self.family.reader.features.count() > 0)
            && !matches!(stretch.series.index, Index::Times { frequency: found, .. } if found == frequency)
        {
            let message = format!("the model is of series with times, every {frequency}, and reads them");
            return Err(message.into());
        }
        if self.family.reader.network.statics.given() > 0 {
            data.series.as_ref().map_or(Ok(()), |info| info.check_statics(stretch.series))?;
        }
        let history = self.history();
        let start = end as i64 - history as i64;
        let mut item = data.window(stretch.series, start, history + horizon);
        let steps = history + horizon;
        if let Some(window) = &mut item.window {
            let place_of = |step: usize| usize::try_from(step as i64 - start).unwrap_or(0);
            let known = place_of(stretch.start)..place_of(stretch.end);
            for (place, cell) in window.cells.iter_mut().enumerate() {
                if !known.contains(&(place % steps)) {
                    *cell = Cell::NeverObserved;
                }
            }
        }
        Ok(item)
    }
}

impl Trained for TrainedTimeGrad {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn usual_sampler(&self) -> Option<(String, usize)> {
        let steps = self.family.diffusion.schedule().map_or(1, |schedule| schedule.len());
        Some((USUAL_SAMPLER.into(), steps))
    }

    fn forecast(&self) -> Option<&dyn Forecast> {
        Some(self)
    }

    fn series_bound(&self) -> Option<&dyn SeriesBound> {
        Some(self)
    }
}

impl Forecast for TrainedTimeGrad {
    fn history(&self) -> usize {
        self.family.reader.network.history_length()
    }

    fn longest_horizon(&self) -> Option<usize> {
        None
    }

    fn usual_horizon(&self) -> usize {
        self.family.reader.network.prediction_length
    }

    fn forecast(&self, pasts: &[Stretch<'_>], horizon: usize, draw: &SeriesDraw) -> Result<Vec<f32>, AnyError> {
        let item = |stretch: &Stretch<'_>| Ok((self.item(stretch, stretch.end, horizon)?, stretch.number));
        let items = pasts.iter().map(item).collect::<Result<Vec<_>, AnyError>>()?;
        self.paths(&items, horizon, draw)
    }
}
