//! What can be wrong with weights.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why weights were not opened or not loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is not what it claims to be.
    #[error("{path}: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A pickle asks for more than tensors in dictionaries.
    #[error("{path}: refused: {what}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        what: String,
    },
    /// There is nothing to take, or more than one thing.
    #[error("{path}: {reason}")]
    Choice {
        /// The file or folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Nobody's names.
    #[error("{path}: {reason}")]
    Names {
        /// The file.
        path: PathBuf,
        /// What the names look like.
        reason: String,
    },
    /// The weights are not those of the network.
    #[error("{path}: the weights do not fit the network: {}", list(.faults))]
    Misfit {
        /// The file.
        path: PathBuf,
        /// All keys at fault.
        faults: Vec<Fault>,
    },
}

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The network needs it, the file lacks it.
    Missing(String),
    /// The file holds it, the network has no place for it.
    Unexpected(String),
    /// It is there in another shape.
    Misshapen {
        /// The key.
        key: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the network has.
        expected: Vec<usize>,
    },
    /// Anything else.
    Other {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl WeightsError {
    pub(super) fn broken(path: &Path, reason: impl Into<String>) -> Self {
        Self::Broken { path: path.to_path_buf(), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "{key} is missing"),
            Self::Unexpected(key) => write!(f, "{key} is not part of the network"),
            Self::Misshapen { key, found, expected } => write!(f, "{key} has shape {found:?} instead of {expected:?}"),
            Self::Other { key, reason } => write!(f, "{key} {reason}"),
        }
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}
