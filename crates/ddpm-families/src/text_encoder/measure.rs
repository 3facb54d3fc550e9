//! What the averaged weights make of held-out data: whether captions and images find each other.

use burn::tensor::{Device, Int, Tensor};
use ddpm_data::Example;
use ddpm_model::pass::Pass;
use ddpm_model::text::{contrastive_loss, found_captions};

use super::{TextAndImages, TextEncoderFamily};
use crate::family::{AnyError, HeldOut, HeldOutSetup};
use crate::items::total;

/// The names in `metrics.jsonl`, with their titles.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("valid_loss", "Loss, held out"),
    ("valid_found_captions", "Share of captions found by their image, held out"),
    ("valid_found_images", "Share of images found by their caption, held out"),
];

/// The first held-out items, all of which are compared with each other.
pub struct Retrieval {
    images: Tensor<4>,
    ids: Tensor<2, Int>,
    batch_size: usize,
}

impl Retrieval {
    /// Reads the items that are looked at.
    pub fn read(family: &TextEncoderFamily, setup: &HeldOutSetup<'_>) -> Result<Self, AnyError> {
        let count = setup.count.min(setup.data.items.len());
        let items: Vec<Example> =
            (0..count).map(|item| Ok(setup.data.items.get(item)?)).collect::<Result<_, AnyError>>()?;
        let batch = of_examples(family, &items, setup.device);
        Ok(Self { images: batch.images, ids: batch.ids, batch_size: setup.batch_size })
    }
}

/// Images and captions of items.
pub(super) fn of_examples(family: &TextEncoderFamily, items: &[Example], device: &Device) -> super::CaptionedBatch {
    let captions: Vec<&str> = items.iter().map(|item| item.caption.as_deref().unwrap_or("")).collect();
    family.captioned(items.iter().flat_map(|item| item.values.iter().copied()).collect(), &captions, device)
}

/// The similarities of all images and all captions, encoded so many at a time.
pub(super) fn similarities(
    model: &TextAndImages,
    images: &Tensor<4>,
    ids: &Tensor<2, Int>,
    batch_size: usize,
) -> Tensor<2> {
    let pass = Pass::default();
    let images = images.clone().split(batch_size, 0).into_iter().map(|images| model.images(images, &pass));
    let captions = ids.clone().split(batch_size, 0).into_iter().map(|ids| model.captions(ids, &pass));
    model.contrast.similarities(Tensor::cat(images.collect(), 0), Tensor::cat(captions.collect(), 0))
}

impl HeldOut<TextAndImages> for Retrieval {
    fn names(&self) -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    fn measure(&self, model: &TextAndImages) -> Vec<f64> {
        let similarities = similarities(model, &self.images, &self.ids, self.batch_size);
        let count = similarities.dims()[0] as f64;
        let found = |similarities: Tensor<2>| found_captions(similarities).into_scalar::<f64>() / count;
        let of_images = found(similarities.clone().transpose());
        vec![total(contrastive_loss(similarities.clone())) / count, found(similarities), of_images]
    }
}
