//! How far reconstructions are from their images: mean squared error and peak signal-to-noise ratio.

use super::features::squared_distance;
use super::{EvaluationError, Features};

/// Largest less smallest possible value of images in [0, 1].
pub const RANGE_0_TO_1: f64 = 1.0;
/// The same of images in [-1, 1], which is how networks see them.
pub const RANGE_MINUS_1_TO_1: f64 = 2.0;

/// The mean squared error per value of every reconstruction, in the square of the values' unit: of images in [-1, 1] it is 4
/// times that of the same images in [0, 1].
pub fn mean_squared_errors(images: &Features, reconstructions: &Features) -> Result<Vec<f64>, EvaluationError> {
    images.same_width(reconstructions)?;
    if images.len() != reconstructions.len() || images.is_empty() {
        let reason = format!(
            "{} reconstructions of {} images; expected one for each, and at least one",
            reconstructions.len(),
            images.len()
        );
        return Err(EvaluationError::Argument { what: "a reconstruction error", reason });
    }
    let width = images.width() as f64;
    Ok(images.rows().zip(reconstructions.rows()).map(|(a, b)| squared_distance(a, b) / width).collect())
}

/// The peak signal-to-noise ratio of a mean squared error in decibels, 10 log10(range^2 / error), where `range` is the
/// largest less the smallest possible value; infinite without an error. Of a set the mean over its images is quoted.
pub fn psnr(mean_squared_error: f64, range: f64) -> f64 {
    10.0 * (range * range / mean_squared_error).log10()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_per_image_and_decibels_do_not_depend_on_the_unit() {
        let images = Features::new(2, vec![0.0, 0.5, 1.0, 1.0]);
        let errors = mean_squared_errors(&images, &Features::new(2, vec![0.0, 0.75, 1.0, 1.0])).unwrap();
        assert_eq!(errors, [0.03125, 0.0]);
        assert_eq!(psnr(0.01, RANGE_0_TO_1), 20.0);
        assert_eq!(psnr(0.04, RANGE_MINUS_1_TO_1), 20.0);
        assert_eq!(psnr(255.0 * 255.0, 255.0), 0.0);
        assert_eq!(psnr(0.0, RANGE_0_TO_1), f64::INFINITY);
    }

    #[test]
    fn every_image_needs_a_reconstruction() {
        let images = Features::new(2, vec![0.0; 4]);
        for other in [Features::new(2, vec![0.0; 2]), Features::new(4, vec![0.0; 8])] {
            assert!(mean_squared_errors(&images, &other).is_err());
        }
        assert!(mean_squared_errors(&Features::empty(2), &Features::empty(2)).is_err());
    }
}
