//! The family `timegrad`: forecasts of all variables of a series at once, each step a sample of a diffusion model that is
//! conditioned on the state of a recurrent network over the past (Rasul et al. 2021).

mod features;
pub mod foreign;
mod lags;
pub mod measure;
pub mod preview;
pub mod tables;
pub mod trained;
mod windows;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_data::series::WindowShape;
use ddpm_data::{OpenData, StreamItem};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::network::MemoryEstimate;
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::pass::Pass;
use ddpm_model::timegrad::{DenoiserConfig, TimeGrad, Windows, mean_scale_or};

use toml::Table;

use self::features::TimeFeatures;
pub use self::lags::lags_of_frequency;
use self::tables::{Scaling, TimeGradTables};
use self::trained::TrainedTimeGrad;
use self::windows::{Reader, examples};
use crate::family::stored::ModelCard;
use crate::family::trained::Trained;
use crate::family::{AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Subject};

/// Forecasts of series.
#[derive(Clone, Debug)]
pub struct TimeGradFamily {
    tables: TimeGradTables,
    reader: Arc<Reader>,
    diffusion: Arc<Diffusion>,
    origin: Origin,
}

/// Windows with the diffusion steps and the noise of their values.
#[derive(Clone, Debug)]
pub struct TimeGradBatch {
    windows: Windows,
    /// For each window and each step of it `noises_per_step` steps of the diffusion.
    steps: Vec<usize>,
    /// As many times the variables, `[N, 1, D]`.
    noise: Tensor<3>,
}

/// The losses of a batch.
struct Terms {
    /// Those of each window, added up over what was observed, `[B]`.
    sums: Tensor<1>,
    /// How many they are, `[B]`.
    counts: Tensor<1>,
}

impl TimeGradFamily {
    /// The family for data of which only the description is known.
    pub fn new(tables: TimeGradTables, mut origin: Origin) -> Result<Self, Vec<Problem>> {
        let problems = [tables.problems(), tables.problems_with_data(&origin.data)].concat();
        if !problems.is_empty() {
            return Err(problems);
        }
        let diffusion = tables.diffusion.init().map_err(|error| vec![("diffusion".into(), error.to_string())])?;
        let network = tables.network(&origin.data);
        origin.data.shape = vec![network.variables, network.history_length() + network.prediction_length];
        let features = TimeFeatures::new(tables.timegrad.time_features, &origin.data);
        let reader = Reader { network, features, scaling: tables.timegrad.scaling, data: origin.data.clone() };
        Ok(Self { tables, reader: Arc::new(reader), diffusion: Arc::new(diffusion), origin })
    }

    /// Steps of a window whose values are learned.
    fn learned_steps(&self) -> usize {
        self.reader.network.context_length + self.reader.network.prediction_length
    }

    /// The scale of each variable of each window, `[B, 1, D]`; of one that has none, the size of its values in training.
    fn scale(&self, network: &TimeGrad, windows: &Windows) -> Tensor<3> {
        let (values, observed) = network.context(windows);
        let ([rows, _, variables], device) = (values.dims(), values.device());
        match self.reader.scaling {
            Scaling::Standard | Scaling::None => Tensor::ones([rows, 1, variables], &device),
            Scaling::Mean => {
                let units = &self.origin.data.units;
                let size = |(shift, scale): (&f64, &f64)| shift.hypot(*scale) as f32;
                let sizes: Vec<f32> = units.shift.iter().zip(&units.scale).map(size).collect();
                let sizes = Tensor::<3>::from_data(TensorData::new(sizes, [1, 1, variables]), &device);
                mean_scale_or(values, observed, sizes)
            }
        }
    }

    /// The diffusion steps and the noise of an item: those at its step s follow from the seed, its place and s alone.
    fn draws(&self, seed: u64, place: u64) -> (Vec<usize>, Vec<f32>) {
        let (steps, noises) = (self.learned_steps(), self.tables.timegrad.noises_per_step);
        let last = self.diffusion.schedule().map_or(1, |schedule| schedule.len());
        let mut time = rng(seed, Stream::Time, place);
        // The diffusion steps of one step of the series are spread evenly.
        let of_step = |start: f64| {
            let at = move |k: usize| ((start + k as f64 / noises as f64).fract() * last as f64) as usize;
            (0..noises).map(at).map(|step| step.min(last - 1)).collect::<Vec<usize>>()
        };
        let drawn = (0..steps).flat_map(|_| of_step(time.random())).collect();
        let count = steps * noises * self.reader.network.variables;
        (drawn, normals(&mut rng(seed, Stream::Noise, place), count))
    }

    fn terms(&self, network: &TimeGrad, batch: &TimeGradBatch) -> Option<Terms> {
        let Diffusion::Discrete(diffusion) = &*self.diffusion else { return None };
        let scale = self.scale(network, &batch.windows);
        let read = network.read(&batch.windows, scale)?;
        let [rows, steps, width] = read.conditions.dims();
        let noises = batch.noise.dims()[0] / (rows * steps);
        let variables = self.reader.network.variables;
        let each = |x: Tensor<3>| {
            let x: Tensor<3> = x.reshape([rows * steps, 1, variables]).repeat_dim(1, noises);
            x.reshape([rows * steps * noises, 1, variables])
        };
        let x_0 = each(network.targets(&batch.windows, &read.scale)?);
        let observed = each(network.observed(&batch.windows)?);
        let x_t = diffusion.q_sample(x_0.clone(), &batch.steps, batch.noise.clone());
        let target = diffusion.target(&x_0, &x_t, &batch.noise, &batch.steps);
        let times: Vec<f64> = batch.steps.iter().map(|&step| step as f64).collect();
        let conditions = read.conditions.reshape([rows * steps, 1, width]);
        let predicted = network.denoiser().forward(x_t, &times, conditions);
        let losses = self.tables.timegrad.loss.each(predicted, target) * observed.clone();
        let per_row = |x: Tensor<3>| {
            let x: Tensor<2> = x.reshape([rows, steps * noises * variables]);
            x.sum_dim(1).reshape([rows])
        };
        Some(Terms { sums: per_row(losses), counts: per_row(observed) })
    }
}

impl Family for TimeGradFamily {
    const NAME: &'static str = "timegrad";
    const ABOUT: &'static str = "forecasts of time series, step by step from the state of a recurrent network";
    const SECTIONS: &'static [(&'static str, &'static str)] = TimeGradTables::SECTIONS;
    const MEASURES: &'static [(&'static str, &'static str)] = measure::NAMES;

    type Tables = TimeGradTables;
    type Model = TimeGrad;
    type Batch = TimeGradBatch;
    type Memory = ();

    fn read(tables: Table) -> Result<TimeGradTables, String> {
        TimeGradTables::read(tables)
    }

    fn problems(tables: &TimeGradTables) -> Vec<Problem> {
        tables.problems()
    }

    fn has_dropout(tables: &TimeGradTables) -> bool {
        tables.model.dropout > 0.0 && tables.model.layers > 1
    }

    fn resolve(tables: TimeGradTables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        let data = subject.data;
        Self::new(tables.with_lags(&data.info, data.series.as_deref()), subject.origin())
    }

    fn restored(tables: TimeGradTables, origin: Origin) -> Result<Self, AnyError> {
        Self::new(tables, origin).map_err(|problems| {
            let (key, message) = problems.into_iter().next().unwrap_or_default();
            format!("{key}: {message}").into()
        })
    }

    fn tables(&self) -> &TimeGradTables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn init(&self, device: &Device) -> TimeGrad {
        self.reader.network.init_checked(device)
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        let network = &self.reader.network;
        let recurrent = network.layers * network.cells * (3 * network.cell.gates() + 4);
        let denoiser = match &network.denoiser {
            DenoiserConfig::Convolution(config) => {
                config.residual_layers * config.residual_channels * 12 * (network.variables + 4)
            }
            DenoiserConfig::Mlp(config) => config.blocks * config.width * 6,
            DenoiserConfig::Attention(config) => config.blocks * config.width * 14 * network.variables,
        };
        let of_step = recurrent + self.tables.timegrad.noises_per_step * denoiser;
        MemoryEstimate::of(parameters, self.learned_steps() * of_step, batch)
    }

    fn items(&self, data: OpenData) -> OpenData {
        let network = &self.reader.network;
        let shape = WindowShape { history: network.history_length(), length: network.prediction_length, stride: 1 };
        match &data.series {
            Some(series) => series.windows(shape),
            None => data,
        }
    }

    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> TimeGradBatch {
        let windows = self.reader.windows(&examples(&items), self.reader.network.prediction_length, device);
        let (mut steps, mut noise) = (Vec::new(), Vec::new());
        for item in &items {
            let (of_item, noise_of_item) = self.draws(seed, item.place);
            steps.extend(of_item);
            noise.extend(noise_of_item);
        }
        let shape = [steps.len(), 1, self.reader.network.variables];
        TimeGradBatch { windows, steps, noise: Tensor::from_data(TensorData::new(noise, shape), device) }
    }

    fn to_device(&self, batch: TimeGradBatch, device: &Device) -> TimeGradBatch {
        TimeGradBatch {
            windows: batch.windows.to_device(device),
            noise: batch.noise.to_device(device),
            steps: batch.steps,
        }
    }

    /// The mean over all values of the context and the horizon that were observed.
    fn losses(&self, model: &TimeGrad, batch: &TimeGradBatch, _: &Pass<'_>) -> Losses {
        let Some(Terms { sums, counts }) = self.terms(model, batch) else {
            let zero = Tensor::zeros([1], &batch.noise.device());
            return Losses { loss: zero.clone(), rows: zero, parts: Vec::new() };
        };
        let loss = sums.clone().sum() / counts.clone().sum().clamp_min(1.0);
        Losses { loss, rows: (sums / counts.clamp_min(1.0)).detach(), parts: Vec::new() }
    }

    fn first_memory(&self) {}

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<TimeGrad>>, AnyError> {
        Ok(Box::new(measure::ForecastsOfHeldOut::read(self, setup)?))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<TimeGrad>>, AnyError> {
        Ok(Box::new(preview::ForecastPreview::read(self, setup)?))
    }

    fn trained(self, model: TimeGrad, card: ModelCard) -> Box<dyn Trained> {
        Box::new(TrainedTimeGrad::new(self, model, card))
    }
}

#[cfg(test)]
mod tests;
