//! Evaluation of samples: feature extractors, and distances between sets of features.
//!
//! A metric is a function of [`Features`], and a [`FeatureExtractor`](extractor::FeatureExtractor) makes these of images.
//! One file each.

pub mod arrays;
pub mod bernoulli_mixture;
pub mod blocks;
pub mod classifier;
pub mod disentanglement;
mod error;
pub mod extractor;
mod features;
mod frechet;
pub mod image;
pub mod inception;
mod inception_score;
mod kid;
mod memorization;
pub mod metrics;
mod moments;
pub mod pca;
pub mod points;
mod precision_recall;
pub mod probabilistic_pca;
pub mod reconstruction;
pub mod record;
pub mod report;
pub mod resize;
pub mod series;
pub mod sources;

pub use error::EvaluationError;
pub use features::Features;
pub use frechet::{frechet, root as symmetric_root};
pub use inception_score::{InceptionScore, Score};
pub use kid::{Kid, kid, mmd2_unbiased};
pub use memorization::{median_nearest, novelty};
pub use moments::{Moments, Statistics};
pub use precision_recall::{PrecisionRecall, precision_recall};
