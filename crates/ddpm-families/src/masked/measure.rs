//! What the averaged weights make of held-out windows: the loss over steps and masks that are always the same, and the errors of
//! a few imputations in few steps.

use burn::tensor::Device;
use ddpm_data::StreamItem;
use ddpm_model::pass::Pass;

use super::network::MaskedNetwork;
use super::sampling::{Filler, Sheet};
use super::{MaskedFamily, Row};
use crate::family::trained::SeriesDraw;
use crate::family::{AnyError, Family, HeldOut, HeldOutSetup};
use crate::items::{HELD_OUT_SEED, held_out_batches, total};
use crate::series_sampling::seed_of_row;

/// The names in `metrics.jsonl`, with their titles.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("valid_loss", "Loss, held out"),
    ("valid_mae", "Mean absolute error of imputations (medians of samples), normalized, held out"),
    ("valid_crps", "CRPS of imputations (energy form), normalized, held out"),
];

/// Steps of the grid on which the loss is measured.
const GRID: usize = 10;
/// Windows that are imputed.
const IMPUTED: usize = 8;
/// Samples of each.
const SAMPLES: usize = 8;
/// Steps of the sampler.
const STEPS: usize = 8;

/// Losses and errors of held-out windows.
pub struct ErrorsOfHeldOut {
    family: MaskedFamily,
    batches: Vec<Vec<StreamItem>>,
    device: Device,
}

impl ErrorsOfHeldOut {
    /// Reads the windows that are looked at, spread over all of the data.
    pub fn read(family: &MaskedFamily, setup: &HeldOutSetup<'_>) -> Result<Self, AnyError> {
        let batches = held_out_batches(setup)?;
        Ok(Self { family: family.clone(), batches, device: setup.device.clone() })
    }

    /// The mean over the windows of the weighted error of a cell.
    fn loss(&self, model: &MaskedNetwork) -> f64 {
        let steps = self.family.chain().schedule.len();
        let on_grid = |number: usize| (2 * (number % GRID) + 1) * steps / (2 * GRID);
        let (mut sum, mut count) = (0.0, 0);
        for items in &self.batches {
            let mut batch = self.family.batch(items.clone(), HELD_OUT_SEED, &self.device);
            batch.times = (count..count + items.len()).map(on_grid).collect();
            count += items.len();
            let [errors, targets] = self.family.errors(model, &batch, &Pass::default());
            let rows = errors / targets.clamp_min(1.0);
            let weights = self.family.chain().weights(self.family.tables.diffusion.weighting, &batch.times);
            sum += total(ddpm_model::noise_level::per_row(&weights, &rows) * rows);
        }
        sum / count.max(1) as f64
    }

    /// The mean absolute error of medians, and the CRPS, over the hidden cells of a few windows.
    fn imputation(&self, model: &MaskedNetwork) -> Result<[f64; 2], AnyError> {
        let steps = STEPS.min(self.family.chain().schedule.len());
        let draw = SeriesDraw { steps: Some(steps), ..SeriesDraw::new(HELD_OUT_SEED, SAMPLES) };
        let filler = Filler::new(&self.family, model, &draw, &self.device)?;
        let whole = self.family.clone().of_all_variables();
        let items = self.batches.iter().flatten().take(IMPUTED).cloned();
        let rows: Vec<Row> = items.map(|item| whole.row(item, HELD_OUT_SEED)).collect();
        let all = || rows.iter().enumerate().flat_map(|(number, row)| (0..SAMPLES).map(move |k| (number, row, k)));
        let windows: Vec<Sheet> =
            all().map(|(_, row, _)| Sheet { values: row.values.clone(), known: row.given.clone() }).collect();
        let seeds = all().map(|(number, _, k)| seed_of_row(HELD_OUT_SEED, number as u64, k as u64)).collect();
        let samples = filler.sample(&windows, seeds, 0)?;
        let cells = self.family.shape.iter().product::<usize>();
        let (mut errors, mut scores, mut count) = (0.0, 0.0, 0.0f64);
        for (row, samples) in rows.iter().zip(samples.chunks(SAMPLES * cells)) {
            for place in (0..cells).filter(|&place| row.observed[place] && !row.given[place]) {
                let at = samples.iter().skip(place).step_by(cells).map(|value| f64::from(*value)).collect();
                let [error, score] = scores_of(at, f64::from(row.values[place]));
                (errors, scores, count) = (errors + error, scores + score, count + 1.0);
            }
        }
        Ok([errors, scores].map(|sum| sum / count.max(1.0)))
    }
}

/// The error of the median of some samples, and their CRPS in the energy form.
fn scores_of(mut samples: Vec<f64>, truth: f64) -> [f64; 2] {
    samples.sort_by(f64::total_cmp);
    let count = samples.len() as f64;
    let middle = samples.len() / 2;
    let median = (samples[middle] + samples[(samples.len() - 1) / 2]) / 2.0;
    let distance = samples.iter().map(|sample| (sample - truth).abs()).sum::<f64>() / count;
    let pairs: f64 = samples.iter().flat_map(|a| samples.iter().map(move |b| (a - b).abs())).sum();
    [(median - truth).abs(), distance - pairs / (2.0 * count * count)]
}

impl MaskedFamily {
    /// The same with all variables in each window.
    pub(super) fn of_all_variables(mut self) -> Self {
        self.tables.masked.variables_per_item = None;
        self
    }
}

impl HeldOut<MaskedNetwork> for ErrorsOfHeldOut {
    fn names(&self) -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    fn measure(&self, model: &MaskedNetwork) -> Vec<f64> {
        let [error, crps] = self.imputation(model).unwrap_or([f64::NAN; 2]);
        vec![self.loss(model), error, crps]
    }
}

#[cfg(test)]
mod tests {
    use super::scores_of;

    #[test]
    fn scores_are_those_of_the_samples() {
        assert_eq!(scores_of(vec![3.0, 1.0], 5.0), [3.0, 2.5]);
        assert_eq!(scores_of(vec![2.0], 1.5), [0.5, 0.5]);
    }
}
