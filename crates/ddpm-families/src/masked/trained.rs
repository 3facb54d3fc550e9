//! A trained model of masked series for use: it imputes, forecasts and draws windows of which nothing is known.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Device;
use ddpm_data::series::{Cell, Series};
use ddpm_render::Samples;

use super::MaskedFamily;
use super::network::MaskedNetwork;
use super::sampling::{Filler, Sheet};
use crate::family::AnyError;
use crate::family::stored::ModelCard;
use crate::family::trained::{Draw, Forecast, Generate, Impute, SeriesDraw, Stretch, Trained};
use crate::series_sampling::seed_of_row;

/// A trained model of masked series.
pub struct TrainedMasked {
    family: MaskedFamily,
    model: MaskedNetwork,
    device: Device,
    card: ModelCard,
}

impl TrainedMasked {
    /// A model of this family.
    pub(super) fn new(family: MaskedFamily, model: MaskedNetwork, card: ModelCard) -> Self {
        let device = model.devices().into_iter().next().unwrap_or_default();
        Self { family, model, device, card }
    }

    /// The steps of a series from `from` on, of which those in `visible` are known where they were observed.
    fn sheet(&self, series: &Series, from: i64, length: usize, visible: Range<i64>) -> Sheet {
        let item = self.family.origin.data.window(series, from, length);
        let cells = item.window.map(|window| window.cells).unwrap_or_default();
        let is_known = |(place, cell): (usize, &Cell)| {
            *cell == Cell::Observed && visible.contains(&(from + (place % length) as i64))
        };
        Sheet { values: item.values, known: cells.iter().enumerate().map(is_known).collect() }
    }

    /// Samples of stretches, each `[K, L]` in the units of the networks, in the order `[samples, W]`.
    fn fill(&self, sheets: &[(Sheet, u64)], draw: &SeriesDraw) -> Result<Vec<Sheet>, AnyError> {
        let filler = Filler::new(&self.family, &self.model, draw, &self.device)?;
        let all = (0..draw.samples as u64).flat_map(|sample| sheets.iter().map(move |sheet| (sample, sheet)));
        let rows: Vec<(Sheet, u64)> =
            all.map(|(sample, (sheet, stretch))| (sheet.clone(), seed_of_row(draw.seed, *stretch, sample))).collect();
        let mut filled = Vec::with_capacity(rows.len());
        for rows in rows.chunks(draw.at_once.max(1)) {
            let (mut rows, seeds): (Vec<Sheet>, Vec<u64>) = rows.iter().cloned().unzip();
            filler.fill(&mut rows, &seeds)?;
            filled.extend(rows);
        }
        Ok(filled)
    }

    /// A value in the units of the data, inside of the bounds that the variable has.
    fn in_data_units(&self, variable: usize, value: f32) -> f32 {
        let data = &self.family.origin.data;
        let value = data.units.data_unit(variable, f64::from(value));
        let bound = |bounds: &[Option<f64>]| bounds.get(variable).copied().flatten();
        let (low, high) = data.series.as_ref().map_or((None, None), |info| (bound(&info.lowest), bound(&info.highest)));
        let value = low.map_or(value, |low| value.max(low));
        high.map_or(value, |high| value.min(high)) as f32
    }
}

impl Trained for TrainedMasked {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn generate(&self) -> Option<&dyn Generate> {
        Some(self)
    }

    fn usual_sampler(&self) -> Option<(String, usize)> {
        let keys = &self.family.tables.masked;
        Some((keys.sampler.clone(), keys.steps))
    }

    fn forecast(&self) -> Option<&dyn Forecast> {
        Some(self)
    }

    fn impute(&self) -> Option<&dyn Impute> {
        Some(self)
    }
}

impl Generate for TrainedMasked {
    /// Windows of which nothing is known.
    fn generate(&self, draw: &Draw, first: u64, count: usize) -> Result<Samples, AnyError> {
        let [variables, length] = self.family.shape;
        let empty = |number| (Sheet::empty(variables * length), number);
        let sheets: Vec<(Sheet, u64)> = (first..first + count as u64).map(empty).collect();
        let filled = self.fill(&sheets, &SeriesDraw::new(draw.seed, 1))?;
        let in_units = |(place, value): (usize, &f32)| self.in_data_units(place / length, *value);
        let values = filled.iter().flat_map(|sheet| sheet.values.iter().enumerate().map(in_units)).collect();
        Ok(Samples { values, shape: vec![variables, length], labels: vec![None; count], ..Samples::default() })
    }
}

impl Impute for TrainedMasked {
    fn window(&self) -> usize {
        self.family.shape[1]
    }

    fn impute(&self, stretches: &[Stretch<'_>], draw: &SeriesDraw) -> Result<Vec<f32>, AnyError> {
        let length = stretches.first().map_or(0, |stretch| stretch.end.saturating_sub(stretch.start));
        if length == 0 || stretches.iter().any(|stretch| stretch.end.saturating_sub(stretch.start) != length) {
            return Err("stretches to impute: expected all of one length, at least one step".into());
        }
        let sheets = stretches.iter().map(|stretch| {
            self.check(stretch.series)?;
            let (start, end) = (stretch.start as i64, stretch.end as i64);
            Ok((self.sheet(stretch.series, start, length, start..end), stretch.number))
        });
        let sheets: Vec<(Sheet, u64)> = sheets.collect::<Result<_, AnyError>>()?;
        let filled = self.fill(&sheets, draw)?;
        let mut values = Vec::with_capacity(filled.len() * length * self.family.shape[0]);
        for (sheet, stretch) in filled.iter().zip(stretches.iter().cycle()) {
            let cells = (0..length).flat_map(|step| (0..self.family.shape[0]).map(move |variable| (step, variable)));
            values.extend(cells.map(|(step, variable)| match observed_at(stretch, step, variable) {
                Some(observed) => observed as f32,
                None => self.in_data_units(variable, sheet.values[variable * length + step]),
            }));
        }
        Ok(values)
    }
}

impl Forecast for TrainedMasked {
    /// That of the shortest horizon.
    fn history(&self) -> usize {
        self.family.shape[1] - 1
    }

    fn longest_horizon(&self) -> Option<usize> {
        Some(self.family.shape[1] - 1)
    }

    fn usual_horizon(&self) -> usize {
        (self.family.shape[1] / 4).max(1)
    }

    /// The horizon is the missing end of a window.
    fn forecast(&self, pasts: &[Stretch<'_>], horizon: usize, draw: &SeriesDraw) -> Result<Vec<f32>, AnyError> {
        let [variables, length] = self.family.shape;
        if !(1..length).contains(&horizon) {
            let most = length - 1;
            return Err(format!("a horizon of {horizon} steps: expected 1 to {most}, with windows of {length}").into());
        }
        let sheets = pasts.iter().map(|past| {
            self.check(past.series)?;
            let from = (past.end + horizon) as i64 - length as i64;
            Ok((self.sheet(past.series, from, length, past.start as i64..past.end as i64), past.number))
        });
        let sheets: Vec<(Sheet, u64)> = sheets.collect::<Result<_, AnyError>>()?;
        let filled = self.fill(&sheets, draw)?;
        let mut values = Vec::with_capacity(filled.len() * horizon * variables);
        // From [samples, W] to [W, samples].
        for (past, sample) in (0..pasts.len()).flat_map(|past| (0..draw.samples).map(move |sample| (past, sample))) {
            let sheet = &filled[sample * pasts.len() + past];
            let cells =
                (length - horizon..length).flat_map(|step| (0..variables).map(move |variable| (step, variable)));
            values.extend(cells.map(|(step, k)| self.in_data_units(k, sheet.values[k * length + step])));
        }
        Ok(values)
    }
}

impl TrainedMasked {
    fn check(&self, series: &Series) -> Result<(), AnyError> {
        let (found, expected) = (series.target.variables(), self.family.shape[0]);
        match found == expected {
            true => Ok(()),
            false => {
                Err(format!("a series of {found} variables: expected {expected}, as the model was trained on").into())
            }
        }
    }
}

/// The value at a step of a stretch, if it was observed.
fn observed_at(stretch: &Stretch<'_>, step: usize, variable: usize) -> Option<f64> {
    let (step, target) = (stretch.start + step, &stretch.series.target);
    (step < target.steps()).then(|| target.given(step, variable)).flatten()
}
