//! What a trained model can do. A command asks for what it needs, and never which family it has.

use std::path::Path;

use burn::tensor::Device;
use ddpm_render::Samples;

use super::AnyError;
use super::registry::family;
use super::stored::ModelCard;
use crate::diffusion::trained::TrainedDiffusion;

/// A trained model of a family.
pub trait Trained {
    /// What it says about itself.
    fn card(&self) -> &ModelCard;

    /// New samples, all at once.
    fn generate(&self) -> Option<&dyn Generate> {
        None
    }
}

/// Draws samples in one pass.
pub trait Generate {
    /// Samples number `first` to `first + count` of this seed: sample k is the same whatever is drawn with it.
    fn generate(&self, seed: u64, first: u64, count: usize) -> Result<Samples, AnyError>;
}

/// What a model can do, as a message names it.
pub fn abilities(model: &dyn Trained) -> String {
    let all = [("sample", model.generate().is_some())];
    let known: Vec<&str> = all.iter().filter(|(_, can)| *can).map(|(name, _)| *name).collect();
    match known[..] {
        [] => "it can be trained further, and nothing else".into(),
        _ => format!("it can {}", known.join(", ")),
    }
}

/// Opens a snapshot of any family.
pub fn open(path: &Path, device: &Device) -> Result<Box<dyn Trained>, AnyError> {
    let Some(card) = ModelCard::find(path)? else { return Ok(Box::new(TrainedDiffusion::open(path, device)?)) };
    family(&card.family)
        .map_err(|_| format!("{}: family {} is not in this program", path.display(), card.family))?
        .open(card, path, device)
        .map_err(|error| format!("{}: {error}", path.display()).into())
}
