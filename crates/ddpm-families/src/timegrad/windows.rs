//! From items to what the networks read.

use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_data::DataInfo;
use ddpm_data::series::{Cell, Window};
use ddpm_data::{Example, StreamItem};
use ddpm_model::timegrad::{TimeGradConfig, Windows};

use super::features::TimeFeatures;
use super::tables::Scaling;

/// How items become windows.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) network: TimeGradConfig,
    pub(super) features: TimeFeatures,
    pub(super) scaling: Scaling,
    pub(super) data: DataInfo,
}

impl Reader {
    /// A value of a variable as the networks see it, from that of an item.
    fn value(&self, variable: usize, value: f32) -> f32 {
        match self.scaling {
            Scaling::Standard => value,
            Scaling::Mean | Scaling::None => self.data.units.data_unit(variable, f64::from(value)) as f32,
        }
    }

    /// The other way.
    pub(super) fn data_unit(&self, variable: usize, value: f32) -> f64 {
        match self.scaling {
            Scaling::Standard => self.data.units.data_unit(variable, f64::from(value)),
            Scaling::Mean | Scaling::None => f64::from(value),
        }
    }

    /// A number in the units of the data as the networks see it.
    pub(super) fn network_value(&self, variable: usize, number: f64) -> f32 {
        match self.scaling {
            Scaling::Standard => self.data.units.value(variable, number) as f32,
            Scaling::Mean | Scaling::None => number as f32,
        }
    }

    /// Items of the history and `horizon` steps as a batch. Whatever a cell that was not observed has for a value is not
    /// read.
    pub(super) fn windows(&self, items: &[&Example], horizon: usize, device: &Device) -> Windows {
        let history = self.network.history_length();
        let (mut past, mut future) = (Parts::default(), Parts::default());
        for item in items {
            for step in 0..history + horizon {
                let part = if step < history { &mut past } else { &mut future };
                self.read_step(item, step, history + horizon, part);
            }
        }
        let stack = |values: Vec<f32>, steps: usize, width: usize| {
            Tensor::<3>::from_data(TensorData::new(values, [items.len(), steps, width]), (device, DType::F32))
        };
        let (variables, features) = (self.network.variables, self.network.time_features);
        Windows {
            past_values: stack(past.values, history, variables),
            past_observed: stack(past.observed, history, variables),
            past_features: stack(past.features, history, features),
            future_values: Some(stack(future.values, horizon, variables)),
            future_observed: Some(stack(future.observed, horizon, variables)),
            future_features: stack(future.features, horizon, features),
        }
    }

    fn read_step(&self, item: &Example, step: usize, steps: usize, part: &mut Parts) {
        let window = item.window.as_deref();
        let is_seen = |at: usize| window.is_none_or(|window| window.cells[at] == Cell::Observed);
        for variable in 0..self.network.variables {
            let at = variable * steps + step;
            let seen = is_seen(at);
            part.values.push(if seen { self.value(variable, item.values[at]) } else { 0.0 });
            part.observed.push(f32::from(u8::from(seen)));
        }
        if let Some(window) = window {
            self.read_features(window, step, steps, part);
        }
    }

    /// The time features and the covariates of a step.
    fn read_features(&self, window: &Window, step: usize, steps: usize, part: &mut Parts) {
        let time = self.features.of(&window.index, window.start + step as i64);
        let covariates = self.network.time_features - time.len();
        part.features.extend(time);
        let value = |covariate: usize| window.covariates.get(covariate * steps + step).copied().unwrap_or(0.0);
        part.features.extend((0..covariates).map(value));
    }
}

/// Some steps of the windows, one after the other.
#[derive(Default)]
struct Parts {
    values: Vec<f32>,
    observed: Vec<f32>,
    features: Vec<f32>,
}

/// The items of a stream.
pub(super) fn examples(items: &[StreamItem]) -> Vec<&Example> {
    items.iter().map(|item| &item.example).collect()
}
