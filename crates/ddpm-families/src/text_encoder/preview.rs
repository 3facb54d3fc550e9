//! Images drawn while training: each held-out image next to the one that its caption finds among all of them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_data::{Example, Split};

use super::measure::{of_examples, similarities};
use super::{TextAndImages, TextEncoderFamily};
use crate::family::{AnyError, Preview, PreviewSetup};

/// Held-out images with their captions.
pub struct FoundImages {
    family: TextEncoderFamily,
    items: Vec<Example>,
    /// How many pairs are drawn.
    count: usize,
    device: Device,
}

/// Images among which a caption finds one.
const AMONG: usize = 256;

impl FoundImages {
    /// Reads the items of the previews of a run.
    pub fn read(family: &TextEncoderFamily, setup: &PreviewSetup<'_>) -> Result<Self, AnyError> {
        let open = |split| ddpm_data::open(setup.config, split, 0);
        let data = open(Split::Test).or_else(|_| open(Split::Train))?;
        let among = data.items.len().min(AMONG.max(setup.count));
        let items = (0..among).map(|item| Ok(data.items.get(item)?)).collect::<Result<_, AnyError>>()?;
        Ok(Self { family: family.clone(), items, count: setup.count.div_ceil(2), device: setup.device.clone() })
    }
}

impl Preview<TextAndImages> for FoundImages {
    fn draw(&self, model: &TextAndImages, folder: &Path, name: &str) -> Result<PathBuf, AnyError> {
        let path = folder.join(name).with_extension("png");
        let batch = of_examples(&self.family, &self.items, &self.device);
        let similarities = similarities(model, &batch.images, &batch.ids, AMONG);
        let nearest = similarities.argmax(0).into_data().iter::<i64>().map(|item| item as usize).collect::<Vec<_>>();
        let shown = self.count.min(self.items.len());
        let values = |items: &mut dyn Iterator<Item = usize>| -> Vec<f32> {
            items.flat_map(|item| self.items[item].values.iter().copied()).collect()
        };
        let (own, found) = (values(&mut (0..shown)), values(&mut nearest.iter().take(shown).copied()));
        ddpm_render::write_comparison(&path, &[&own, &found], &self.family.origin.data.shape)?;
        Ok(path)
    }
}
