//! What turns pictures into features.

use burn::tensor::Tensor;

use super::picture::Picture;
use super::{EvaluationError, Features};

/// Features and logits of some pictures.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// What distances are about.
    pub features: Features,
    /// What classes are seen; of width 0 where there is no classifier.
    pub logits: Features,
}

impl Extracted {
    /// Reads both back from their device.
    pub(super) fn from_tensors(features: Tensor<2>, logits: Tensor<2>) -> Result<Self, EvaluationError> {
        Ok(Self { features: rows(features)?, logits: rows(logits)? })
    }
}

fn rows(tensor: Tensor<2>) -> Result<Features, EvaluationError> {
    let [_, width] = tensor.dims();
    let values = tensor.try_into_vec_as().map_err(|error| EvaluationError::Device { reason: error.to_string() })?;
    Ok(Features::new(width, values))
}

/// Looks at pictures and says what matters about them.
pub trait FeatureExtractor {
    /// Its name and how pictures are prepared for it: every number carries this.
    fn name(&self) -> String;

    /// Width of the features, and of the logits.
    fn widths(&self) -> [usize; 2];

    /// Whether a Frechet distance of these features is what papers call FID.
    fn is_published_inception(&self) -> bool {
        false
    }

    /// Why its features may say little, if they do.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// Features and logits of pictures, one row for each.
    fn extract(&self, pictures: &[Picture]) -> Result<Extracted, EvaluationError>;
}

/// The pictures themselves: their values in [-1, 1].
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

    fn extract(&self, pictures: &[Picture]) -> Result<Extracted, EvaluationError> {
        let mut values = Vec::new();
        for picture in pictures {
            values.extend(fitted(picture, self.shape, &self.name())?.values());
        }
        Ok(Extracted { features: Features::new(self.widths()[0], values), logits: Features::empty(0) })
    }
}

/// The picture in the shape of the data: files of grey data are read as colour, and are grey all the same.
pub(super) fn fitted(picture: &Picture, shape: [usize; 3], extractor: &str) -> Result<Picture, EvaluationError> {
    let fitted = match (picture.channels, shape[0]) {
        (3, 1) => picture.grey(),
        _ => Some(picture.clone()),
    };
    fitted.filter(|fitted| fitted.shape() == shape).ok_or_else(|| EvaluationError::Shape {
        extractor: extractor.into(),
        expected: shape,
        found: picture.shape(),
    })
}
