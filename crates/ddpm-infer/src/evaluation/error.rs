//! What can go wrong when samples are judged.

use std::path::{Path, PathBuf};

/// Why something cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A metric needs more items.
    #[error("{what} needs at least {least} items, but there are {found}")]
    TooFew {
        /// The metric.
        what: &'static str,
        /// How many it needs.
        least: usize,
        /// How many there are.
        found: usize,
    },
    /// Features that were not made alike.
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
        /// What was judged.
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
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
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
    /// The device did not give the features back.
    #[error("cannot read the features back from the device: {reason}")]
    Device {
        /// What Burn said.
        reason: String,
    },
    /// Images that an extractor cannot look at.
    #[error("{extractor} looks at images of shape {expected:?}, but this one has {found:?}")]
    Shape {
        /// The extractor.
        extractor: String,
        /// Channels, height and width that it wants.
        expected: [usize; 3],
        /// Those of the image.
        found: [usize; 3],
    },
    /// A classifier asked of data without classes.
    #[error("the classifier is trained on labelled data, and {data} has no classes; use another extractor")]
    NoClasses {
        /// The data.
        data: String,
    },
}

impl EvaluationError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), reason: reason.into() }
    }
}
