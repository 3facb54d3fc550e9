//! Judging samples: distances between sets of features, and what gives the features.
//!
//! A metric is a function of [`Features`]; where these come from is the business of a
//! [`FeatureExtractor`](extractor::FeatureExtractor). One file for each.

pub mod arrays;
pub mod blocks;
pub mod classifier;
mod error;
pub mod extractor;
mod features;
mod frechet;
pub mod inception;
mod inception_score;
pub mod judge;
mod kid;
mod memorisation;
mod moments;
pub mod picture;
pub mod points;
mod precision_recall;
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
pub use memorisation::{median_nearest, novelty};
pub use moments::{Moments, Statistics};
pub use precision_recall::{PrecisionRecall, precision_recall};
