//! Judges digits by what `ddpm-infer eval` measures: a Frechet distance on a classifier's features, classes, copies.

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_eval::classifier::{Classifier, best};
use ddpm_eval::extractor::FeatureExtractor;
use ddpm_eval::image::Image;
use ddpm_eval::sources::{Dataset, ImageSource, PixelGaussian};
use ddpm_eval::{Features, Moments, Statistics, frechet, novelty};

const SHAPE: [usize; 3] = [1, 8, 8];

fn config() -> DataConfig {
    serde_json::from_str(r#"{"kind": "digits"}"#).unwrap()
}

/// The digits of one split.
pub struct Digits {
    pub pixels: Vec<f32>,
}

impl Digits {
    pub fn open(split: Split) -> Self {
        let data = Dataset::open(&config(), split).unwrap();
        Self { pixels: data.images(0..data.count()).unwrap().iter().flat_map(Image::values).collect() }
    }

    fn rows(&self) -> Features {
        rows(&self.pixels)
    }
}

/// What is said of a set of samples.
#[derive(Debug)]
pub struct Verdict {
    /// Frechet distance to the test split, on the classifier's features.
    pub distance: f64,
    /// Share of each class, as the classifier sees it.
    pub shares: [f64; 10],
    /// Median distance to the nearest training image, over that of the test split.
    pub novelty: f64,
}

/// A trained classifier and what it saw in the real digits.
pub struct Judge {
    classifier: Classifier,
    train: Digits,
    test: Digits,
    test_features: Statistics,
    /// Share of the test split that the classifier gets right.
    pub accuracy: f64,
}

impl Judge {
    pub fn train() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("classifier.safetensors");
        let classifier = Classifier::open(&file, &config(), &Device::default()).unwrap();
        let (train, test) = (Digits::open(Split::Train), Digits::open(Split::Test));
        let test_features = moments(&classifier.extract(&pictures(&test.pixels)).unwrap().features);
        Self { accuracy: classifier.accuracy(), test_features, classifier, train, test }
    }

    pub fn judge(&self, pixels: &[f32]) -> Verdict {
        let seen = self.classifier.extract(&pictures(pixels)).unwrap();
        let predicted: Vec<usize> = seen.logits.rows().map(best).collect();
        let share = |class| predicted.iter().filter(|label| **label == class).count() as f64 / predicted.len() as f64;
        Verdict {
            distance: frechet(&moments(&seen.features), &self.test_features).unwrap(),
            shares: std::array::from_fn(share),
            novelty: novelty(&rows(pixels), &self.train.rows(), &self.test.rows()).unwrap(),
        }
    }

    pub fn train_split(&self) -> &[f32] {
        &self.train.pixels
    }

    /// Samples of a Gaussian with the mean and the full covariance of the training pixels, kept in [-1, 1].
    pub fn pixel_gaussian(&self, count: usize, seed: u64) -> Vec<f32> {
        let train = Dataset::open(&config(), Split::Train).unwrap();
        let gaussian = PixelGaussian::fit(&train, usize::MAX, count, seed).unwrap().unwrap();
        gaussian.images(0..count).unwrap().iter().flat_map(Image::values).collect()
    }
}

fn rows(pixels: &[f32]) -> Features {
    Features::new(SHAPE.iter().product(), pixels.to_vec())
}

fn pictures(pixels: &[f32]) -> Vec<Image> {
    rows(pixels).rows().map(|values| Image::from_values(SHAPE, values)).collect()
}

fn moments(features: &Features) -> Statistics {
    Moments::of(features).statistics().unwrap()
}
