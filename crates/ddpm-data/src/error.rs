//! What can go wrong with data, each with the file or key at fault.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is not a readable picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Data cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A value of the config is impossible.
    #[error("data.{key}: {reason}")]
    Config {
        /// The key inside the `[data]` table.
        key: &'static str,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A file or folder is not there.
    #[error("{}: not found; expected {expected}", path.display())]
    NotFound {
        /// What was looked for.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// The operating system refused.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A folder without items.
    #[error("{}: the folder is empty; expected {expected}", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// Files in an image folder that are not readable pictures.
    #[error("{}: {}", folder.display(), describe_bad_files(files))]
    BadFiles {
        /// The image folder.
        folder: PathBuf,
        /// All the files at fault.
        files: Vec<BadFile>,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A cell of a CSV file is not a number.
    #[error("{}, line {line}, column {column}: {reason}", path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The column, counted from 0, and its name where there is a header.
        column: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A split without items.
    #[error("{name}: the {split} split has no items; {reason}")]
    EmptySplit {
        /// The data.
        name: String,
        /// `train` or `test`.
        split: &'static str,
        /// What would help.
        reason: &'static str,
    },
    /// Items of a shape that the batches cannot have.
    #[error("{name} has items of shape {shape:?}; batches of rank {rank} need items of rank {}", rank - 1)]
    Rank {
        /// The data.
        name: String,
        /// Shape of an item.
        shape: Vec<usize>,
        /// Rank of the batch.
        rank: usize,
    },
}

impl DataError {
    /// An IO error as "not there" or as what else it is.
    pub(crate) fn io(path: &Path, expected: &str, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => DataError::NotFound { path, expected: expected.into() },
            _ => DataError::Io { path, source },
        }
    }

    /// A file that is not what it should be.
    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        DataError::Format { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// More names than this hide the message.
const NAMES_SHOWN: usize = 10;

fn describe_bad_files(files: &[BadFile]) -> String {
    let mut text = match files.len() {
        1 => "1 file is not a readable picture".to_string(),
        count => format!("{count} files are not readable pictures"),
    };
    text += " (on_bad_file = \"skip\" leaves such files out):";
    for file in files.iter().take(NAMES_SHOWN) {
        text += &format!("\n  {file}");
    }
    if files.len() > NAMES_SHOWN {
        text += &format!("\n  ... and {} more", files.len() - NAMES_SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_bad_files_are_listed_with_the_count_of_all() {
        let files: Vec<_> =
            (0..13).map(|k| BadFile { path: format!("{k}.png").into(), reason: "not a picture".into() }).collect();
        let error = DataError::BadFiles { folder: "cats".into(), files };
        let text = error.to_string();
        assert!(text.starts_with("cats: 13 files are not"), "{text}");
        assert!(text.contains("9.png") && !text.contains("10.png"), "{text}");
        assert!(text.ends_with("... and 3 more"), "{text}");
    }
}
