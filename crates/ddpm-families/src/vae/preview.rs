//! Images made while training: held-out items, what is left of them, and samples, always of the same items and noise.

use std::path::{Path, PathBuf};

use ddpm_data::reference_points;
use ddpm_render::Samples;

use super::trained::TrainedVae;
use super::{Vae, VaeFamily};
use crate::family::stored::ModelCard;
use crate::family::trained::{Draw, Generate, Reconstruct};
use crate::family::{AnyError, Preview, PreviewSetup};
use crate::items::held_out_items;

/// All that a preview needs besides the weights.
pub struct VaePreview {
    family: VaeFamily,
    /// Held-out items, one after the other.
    items: Vec<f32>,
    count: usize,
    draw: Draw,
    /// Points to draw next to the samples.
    points: Option<Vec<f32>>,
}

impl VaePreview {
    /// Reads the items of the previews of a run.
    pub fn read(family: &VaeFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let is_image = family.likelihood.of_images;
        let points = if is_image { None } else { reference_points(setup.config) };
        // Images stand in groups of three.
        let count = if is_image { setup.count.div_ceil(3) } else { setup.count.max(MANY_POINTS) };
        let items = held_out_items(setup.config, count)?;
        let count = items.len() / family.origin.data.values_per_item().max(1);
        Ok(Self { family: family.clone(), items, count, draw: Draw::of_seed(setup.seed), points })
    }
}

/// Points of a scatter plot.
const MANY_POINTS: usize = 1000;

impl Preview<Vae> for VaePreview {
    fn draw(&self, model: &Vae, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let path = folder.join(name).with_extension("png");
        let (family, data) = (self.family.clone(), &self.family.origin.data);
        let is_variational = family.tables.vae.is_variational();
        let model = TrainedVae::new(family, model.clone(), ModelCard::in_training(&self.family));
        let reconstructions = model.reconstruct(&self.items, 1, &self.draw, 0)?;
        if data.is_image() {
            let samples = is_variational.then(|| model.generate(&self.draw, 0, self.count)).transpose()?;
            let sets = [Some(&self.items), Some(&reconstructions), samples.as_ref().map(|samples| &samples.values)];
            let sets: Vec<&[f32]> = sets.into_iter().flatten().map(Vec::as_slice).collect();
            ddpm_render::write_comparison(&path, &sets, &data.shape)?;
            return Ok(path);
        }
        let samples = match is_variational {
            true => model.generate(&self.draw, 0, self.count)?,
            false => Samples {
                values: data.in_data_units(reconstructions),
                shape: data.shape.clone(),
                labels: vec![None; self.count],
                ..Samples::default()
            },
        };
        ddpm_render::write_overview(&path, &samples, self.points.as_deref())?;
        Ok(path)
    }
}
