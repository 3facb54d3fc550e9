//! An imputation drawn while training: always of the same held-out window with the same cells hidden.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_data::{Split, StreamItem};
use ddpm_render::series::ImputationPlot;

use super::network::MaskedNetwork;
use super::sampling::{Filler, Sheet};
use super::{MaskedFamily, Row};
use crate::family::trained::SeriesDraw;
use crate::family::{AnyError, Family, Preview, PreviewSetup};
use crate::items::HELD_OUT_SEED;
use crate::series_sampling::seed_of_row;

/// All that a preview needs besides the weights.
pub struct ImputationPreview {
    family: MaskedFamily,
    row: Row,
    draw: SeriesDraw,
    device: Device,
}

impl ImputationPreview {
    /// Reads the window of the previews of a run: the first of the test split, or of the train split where there is no other.
    pub fn read(family: &MaskedFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let family = family.clone().of_all_variables();
        let open = |split| ddpm_data::open(setup.config, split, setup.seed).map(|data| family.items(data).items);
        let items = match open(Split::Test) {
            Ok(items) if !items.is_empty() => items,
            _ => open(Split::Train)?,
        };
        let item = StreamItem { example: items.get(0)?, place: 0, augment_labels: None };
        let row = family.row(item, HELD_OUT_SEED);
        let draw = SeriesDraw::new(setup.seed, setup.count.max(1));
        Ok(Self { row, draw, device: setup.device.clone(), family })
    }
}

impl Preview<MaskedNetwork> for ImputationPreview {
    fn draw(&self, model: &MaskedNetwork, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let [variables, length] = self.family.shape;
        let filler = Filler::new(&self.family, model, &self.draw, &self.device)?;
        let windows = vec![Sheet::of(&self.row); self.draw.samples];
        let seeds = (0..self.draw.samples as u64).map(|sample| seed_of_row(self.draw.seed, 0, sample)).collect();
        let samples = filler.sample(&windows, seeds, 0)?;
        let units = &self.family.origin.data.units;
        // From [K, L] to [L, K].
        let places = || (0..length).flat_map(|step| (0..variables).map(move |k| (k, k * length + step)));
        let of = |values: &[f32], shown: &[bool]| {
            let value = |(k, place): (usize, usize)| match shown[place] {
                true => units.data_unit(k, f64::from(values[place])),
                false => f64::NAN,
            };
            places().map(value).collect::<Vec<f64>>()
        };
        let all = vec![true; variables * length];
        let samples: Vec<f64> = samples.chunks(variables * length).flat_map(|sample| of(sample, &all)).collect();
        let names = self.family.origin.data.series.as_ref().map(|info| info.variables.clone()).unwrap_or_default();
        let path = folder.join(name).with_extension("png");
        let (observed, truth) = (of(&self.row.values, &self.row.given), of(&self.row.values, &self.row.observed));
        ImputationPlot {
            title: name,
            names: &names,
            observed: &observed,
            samples: &samples,
            shape: [self.draw.samples, length, variables],
            truth: Some(&truth),
            times: &[],
        }
        .plot()?
        .write(&path, &path.with_extension("svg"))?;
        Ok(path)
    }
}
