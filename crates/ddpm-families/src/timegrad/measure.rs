//! What the averaged weights make of held-out data: the loss of the denoiser, and how good forecasts of some windows are.

use burn::tensor::Device;
use ddpm_data::series::Cell;
use ddpm_data::{Example, StreamItem};
use ddpm_model::timegrad::TimeGrad;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};

use super::trained::TrainedTimeGrad;
use super::{Terms, TimeGradFamily};
use crate::family::stored::ModelCard;
use crate::family::trained::SeriesDraw;
use crate::family::{AnyError, Family, HeldOut, HeldOutSetup};
use crate::items::{HELD_OUT_SEED, held_out_batches, total};

/// The names in `metrics.jsonl`, with their titles.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("valid_loss", "Loss, held out"),
    ("valid_crps", "CRPS of forecasts by the mean absolute value, held out"),
    ("valid_crps_sum", "CRPS of forecasts of the sum of the variables by its mean absolute value, held out"),
];

/// Windows that are forecast.
const WINDOWS: usize = 16;
/// Paths of each.
const PATHS: usize = 32;
/// The sampler of these forecasts, with its steps.
const SAMPLER: (&str, usize) = ("dpmpp-2m", 10);

/// The loss of held-out windows, and forecasts of some of them.
pub struct ForecastsOfHeldOut {
    family: TimeGradFamily,
    batches: Vec<Vec<StreamItem>>,
    /// Windows to forecast, with their numbers.
    items: Vec<(Example, u64)>,
    draw: SeriesDraw,
    device: Device,
}

impl ForecastsOfHeldOut {
    /// Reads the windows that are looked at, spread over all of the data.
    pub fn read(family: &TimeGradFamily, setup: &HeldOutSetup<'_>) -> Result<Self, AnyError> {
        let batches = held_out_batches(setup)?;
        let count = setup.data.items.len();
        let stride = count.div_ceil(WINDOWS).max(1);
        let places = (0..count).step_by(stride);
        let items = places.map(|place| Ok((setup.data.items.get(place)?, place as u64)));
        let items = items.collect::<Result<Vec<_>, AnyError>>()?;
        let sampler = Some(Sampler::new(SAMPLER.0, SamplerOptions::default())?);
        let steps = Some(SAMPLER.1.min(family.tables.diffusion.steps));
        let draw = SeriesDraw { sampler, steps, ..SeriesDraw::new(HELD_OUT_SEED, PATHS) };
        Ok(Self { family: family.clone(), batches, items, draw, device: setup.device.clone() })
    }

    fn loss(&self, model: &TimeGrad) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for items in &self.batches {
            let batch = self.family.batch(items.clone(), HELD_OUT_SEED, &self.device);
            if let Some(Terms { sums, counts }) = self.family.terms(model, &batch) {
                sum += total(sums);
                count += total(counts);
            }
        }
        sum / f64::max(count, 1.0)
    }

    /// The CRPS of all variables and that of their sum, each by the mean absolute value of the truth.
    fn scores(&self, model: &TimeGrad) -> Result<[f64; 2], AnyError> {
        let card = ModelCard::in_training(&self.family);
        let model = TrainedTimeGrad::new(self.family.clone(), model.clone(), card);
        let (reader, horizon) = (&self.family.reader, self.family.reader.network.prediction_length);
        let (history, variables) = (reader.network.history_length(), reader.network.variables);
        let paths = model.paths(&self.items, horizon, &self.draw)?;
        let (mut each, mut summed) = (Score::default(), Score::default());
        let of_window = PATHS * horizon * variables;
        for ((item, _), paths) in self.items.iter().zip(paths.chunks(of_window)) {
            for step in 0..horizon {
                let samples = |variable: usize| {
                    let at = move |path: usize| (path * horizon + step) * variables + variable;
                    (0..PATHS).map(move |path| f64::from(paths[at(path)])).collect::<Vec<f64>>()
                };
                let truth = |variable: usize| {
                    let at = variable * (history + horizon) + history + step;
                    let seen = item.window.as_deref().is_none_or(|window| window.cells[at] == Cell::Observed);
                    seen.then(|| self.family.origin.data.units.data_unit(variable, f64::from(item.values[at])))
                };
                let truths: Vec<Option<f64>> = (0..variables).map(truth).collect();
                for (variable, truth) in truths.iter().enumerate() {
                    truth.iter().for_each(|truth| each.add(samples(variable), *truth));
                }
                if let Some(truth) = truths.into_iter().sum::<Option<f64>>() {
                    let of_all: Vec<Vec<f64>> = (0..variables).map(samples).collect();
                    let sums = (0..PATHS).map(|path| of_all.iter().map(|values| values[path]).sum()).collect();
                    summed.add(sums, truth);
                }
            }
        }
        Ok([each.value(), summed.value()])
    }
}

impl HeldOut<TimeGrad> for ForecastsOfHeldOut {
    fn names(&self) -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    fn measure(&self, model: &TimeGrad) -> Vec<f64> {
        let [crps, crps_sum] = self.scores(model).unwrap_or([f64::NAN; 2]);
        vec![self.loss(model), crps, crps_sum]
    }
}

/// Continuous ranked probability scores added up, and the absolute values of the truth.
#[derive(Default)]
struct Score {
    crps: f64,
    size: f64,
}

impl Score {
    /// Adds that of samples: `E|X - y| - E|X - X'| / 2`.
    fn add(&mut self, mut samples: Vec<f64>, truth: f64) {
        samples.sort_by(f64::total_cmp);
        let n = samples.len() as f64;
        let distance = samples.iter().map(|sample| (sample - truth).abs()).sum::<f64>() / n;
        // The sum over all pairs, from the order statistics.
        let pairs = samples.iter().enumerate().map(|(i, sample)| (2.0 * i as f64 + 1.0 - n) * sample).sum::<f64>();
        self.crps += distance - pairs / (n * n);
        self.size += truth.abs();
    }

    fn value(&self) -> f64 {
        self.crps / self.size.max(f64::MIN_POSITIVE)
    }
}
