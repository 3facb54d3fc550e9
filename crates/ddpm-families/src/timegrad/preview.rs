//! Images made while training: a held-out window, and forecasts of its end, always of the same window and noise.

use std::path::{Path, PathBuf};

use ddpm_data::series::Cell;
use ddpm_data::{Example, Split};
use ddpm_model::timegrad::TimeGrad;
use ddpm_render::series::ForecastPlot;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};

use super::TimeGradFamily;
use super::trained::TrainedTimeGrad;
use crate::family::stored::ModelCard;
use crate::family::trained::SeriesDraw;
use crate::family::{AnyError, Family, Preview, PreviewSetup};

/// The sampler of previews, with its steps.
const SAMPLER: (&str, usize) = ("dpmpp-2m", 10);

/// All that a preview needs besides the weights.
pub struct ForecastPreview {
    family: TimeGradFamily,
    item: Example,
    draw: SeriesDraw,
}

impl ForecastPreview {
    /// Reads the window of the previews of a run: the first of the test split, or the last of training where there is no
    /// other.
    pub fn read(family: &TimeGradFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let open = |split| ddpm_data::open(setup.config, split, setup.seed).map(|data| family.items(data));
        let test = open(Split::Test).ok().filter(|data| !data.items.is_empty());
        let item = match test {
            Some(data) => data.items.get(0)?,
            None => {
                let data = open(Split::Train)?;
                let last = data.items.len().checked_sub(1).ok_or("there is no window to forecast")?;
                data.items.get(last)?
            }
        };
        let sampler = Some(Sampler::new(SAMPLER.0, SamplerOptions::default())?);
        let steps = Some(SAMPLER.1.min(family.tables.diffusion.steps));
        let draw = SeriesDraw { sampler, steps, ..SeriesDraw::new(setup.seed, setup.count.max(1)) };
        Ok(Self { family: family.clone(), item, draw })
    }

    /// The values of some steps of the window in the units of the data, step by step; NaN where nothing was observed.
    fn values(&self, steps: std::ops::Range<usize>) -> Vec<f64> {
        let data = &self.family.origin.data;
        let [variables, length] = [data.shape[0], data.shape[1]];
        let value = |step: usize, variable: usize| {
            let at = variable * length + step;
            let seen = self.item.window.as_deref().is_none_or(|window| window.cells[at] == Cell::Observed);
            if seen { data.units.data_unit(variable, f64::from(self.item.values[at])) } else { f64::NAN }
        };
        steps.flat_map(|step| (0..variables).map(move |variable| value(step, variable))).collect()
    }
}

impl Preview<TimeGrad> for ForecastPreview {
    fn draw(&self, model: &TimeGrad, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let network = &self.family.reader.network;
        let (history, horizon) = (network.history_length(), network.prediction_length);
        let trained = TrainedTimeGrad::new(self.family.clone(), model.clone(), ModelCard::in_training(&self.family));
        let paths = trained.paths(&[(self.item.clone(), 0)], horizon, &self.draw)?;
        let paths: Vec<f64> = paths.into_iter().map(f64::from).collect();
        let series = self.family.origin.data.series.as_ref();
        let plot = ForecastPlot {
            title: "",
            names: series.map_or(&[], |series| &series.variables),
            history: &self.values(0..history),
            paths: &paths,
            shape: [self.draw.samples, horizon, network.variables],
            truth: Some(&self.values(history..history + horizon)),
            times: &[],
        };
        let path = folder.join(name).with_extension("png");
        plot.plot()?.write(&path, &path.with_extension("svg"))?;
        Ok(path)
    }
}
