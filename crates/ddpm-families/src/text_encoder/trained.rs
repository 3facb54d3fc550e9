//! A trained text encoder: it draws nothing by itself, but is a part of a text-to-image model.

use crate::family::stored::ModelCard;
use crate::family::trained::Trained;

/// A trained text encoder.
pub struct TrainedTextEncoder {
    pub(super) card: ModelCard,
}

impl Trained for TrainedTextEncoder {
    fn card(&self) -> &ModelCard {
        &self.card
    }
}
