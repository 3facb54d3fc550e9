//! Feature extractors.

use burn::tensor::Tensor;

use super::image::Image;
use super::{EvaluationError, Features};

/// Features and logits of some images.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The features.
    pub features: Features,
    /// The logits of the classes; of width 0 if the extractor has none.
    pub logits: Features,
}

impl Extracted {
    /// Reads both from their device.
    pub(super) fn from_tensors(features: Tensor<2>, logits: Tensor<2>) -> Result<Self, EvaluationError> {
        Ok(Self { features: rows(features)?, logits: rows(logits)? })
    }
}

fn rows(tensor: Tensor<2>) -> Result<Features, EvaluationError> {
    let [_, width] = tensor.dims();
    let values = tensor.try_into_vec_as().map_err(|error| EvaluationError::Device { reason: error.to_string() })?;
    Ok(Features::new(width, values))
}

/// Computes features of images.
pub trait FeatureExtractor {
    /// Its name with the preprocessing of images, which is part of the name of every metric.
    fn name(&self) -> String;

    /// Width of the features, and of the logits.
    fn widths(&self) -> [usize; 2];

    /// Whether the Frechet distance of these features may be called FID.
    fn is_published_inception(&self) -> bool {
        false
    }

    /// Why its features may be unreliable, if they may.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Features and logits of images, one row for each.
    fn extract(&self, images: &[Image]) -> Result<Extracted, EvaluationError>;
}

/// The images themselves: their values in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Channels, height and width of all of them.
    pub shape: [usize; 3],
}

impl FeatureExtractor for Pixels {
    fn name(&self) -> String {
        let [channels, height, width] = self.shape;
        format!("pixels, {channels}x{height}x{width} not resized")
    }

    fn widths(&self) -> [usize; 2] {
        [self.shape.iter().product(), 0]
    }

    fn extract(&self, images: &[Image]) -> Result<Extracted, EvaluationError> {
        let mut values = Vec::new();
        for image in images {
            values.extend(in_shape(image, self.shape, &self.name())?.values());
        }
        Ok(Extracted { features: Features::new(self.widths()[0], values), logits: Features::empty(0) })
    }
}

/// The image in the shape of the data: files of grayscale data are read as RGB.
pub(super) fn in_shape(image: &Image, shape: [usize; 3], extractor: &str) -> Result<Image, EvaluationError> {
    let fitted = match (image.channels, shape[0]) {
        (3, 1) => image.gray(),
        _ => Some(image.clone()),
    };
    fitted.filter(|fitted| fitted.shape() == shape).ok_or_else(|| EvaluationError::Shape {
        extractor: extractor.into(),
        expected: shape,
        found: image.shape(),
    })
}
