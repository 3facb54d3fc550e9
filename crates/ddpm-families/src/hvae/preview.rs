//! Images made while training: held-out items, their reconstructions, and samples, always of the same items and noise.

use std::path::{Path, PathBuf};

use ddpm_model::hvae::Hvae;

use super::HvaeFamily;
use super::trained::TrainedHvae;
use crate::family::stored::ModelCard;
use crate::family::trained::{Draw, Generate, Reconstruct};
use crate::family::{AnyError, Preview, PreviewSetup};
use crate::items::held_out_items;

/// All that a preview needs besides the weights.
pub struct HvaePreview {
    family: HvaeFamily,
    /// Held-out items, one after the other.
    items: Vec<f32>,
    draw: Draw,
}

impl HvaePreview {
    /// Reads the items of the previews of a run. Images stand in groups of three.
    pub fn read(family: &HvaeFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let items = held_out_items(setup.config, setup.count.div_ceil(3))?;
        Ok(Self { family: family.clone(), items, draw: Draw::of_seed(setup.seed) })
    }
}

impl Preview<Hvae> for HvaePreview {
    fn draw(&self, model: &Hvae, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let path = folder.join(name).with_extension("png");
        let data = &self.family.origin.data;
        let model = TrainedHvae::new(self.family.clone(), model.clone(), ModelCard::in_training(&self.family));
        let reconstructions = model.reconstruct(&self.items, model.layers(), &self.draw, 0)?;
        let samples = model.generate(&self.draw, 0, self.items.len() / data.values_per_item())?;
        ddpm_render::write_comparison(&path, &[&self.items, &reconstructions, &samples.values], &data.shape)?;
        Ok(path)
    }
}
