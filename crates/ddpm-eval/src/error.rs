//! Errors of evaluations.

use std::path::{Path, PathBuf};

/// Why a metric cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A metric needs more items.
    #[error("{what} needs at least {least} items, but there are {found}")]
    TooFew {
        /// The metric.
        what: &'static str,
        /// The number that it needs.
        least: usize,
        /// The number that there is.
        found: usize,
    },
    /// Features of different widths.
    #[error("features of width {left} cannot be compared with features of width {right}: use one extractor for both")]
    Width {
        /// Width on one side.
        left: usize,
        /// Width on the other.
        right: usize,
    },
    /// Features that are NaN or infinite.
    #[error("the features of {what} are not finite: its images, or the weights of the extractor, may be broken")]
    NotFinite {
        /// The source.
        what: String,
    },
    /// The eigenvalues of a covariance were not found.
    #[error("the eigenvalues of a covariance matrix of {width} dimensions were not found: are its values finite?")]
    Eigen {
        /// Its width.
        width: usize,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file with other content than expected.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The dataset cannot be read.
    #[error(transparent)]
    Data(#[from] ddpm_data::DataError),
    /// A source cannot generate its images.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// Features cannot be read from the device.
    #[error("cannot read the features back from the device: {reason}")]
    Device {
        /// The message of Burn.
        reason: String,
    },
    /// Images of a shape that an extractor does not accept.
    #[error("{extractor} expects images of shape {expected:?}, but this one has {found:?}")]
    Shape {
        /// The extractor.
        extractor: String,
        /// Channels, height and width that it expects.
        expected: [usize; 3],
        /// Those of the image.
        found: [usize; 3],
    },
    /// Arguments that do not fit each other, or the metric.
    #[error("{what}: {reason}")]
    Argument {
        /// The metric or the model.
        what: &'static str,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A classifier for data without classes.
    #[error("the classifier is trained on labelled data, and {data} has no classes; use another extractor")]
    NoClasses {
        /// The data.
        data: String,
    },
}

impl EvaluationError {
    /// Of a file that cannot be read or written.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// Of a file that is not what was expected.
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), reason: reason.into() }
    }
}
