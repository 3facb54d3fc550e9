//! What can go wrong with data, each with the file or key at fault.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ddpm_files::WriteError;

use crate::names::{printable, shown};

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
        write!(f, "{}: {}", shown(&self.path), printable(&self.reason))
    }
}

/// Files in a folder of pictures that are none, by their names or by their content: captions, tables, archives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// How many.
    pub count: usize,
    /// The first of them, from the folder on.
    pub first: Vec<PathBuf>,
}

impl Ignored {
    /// As many names as a line holds.
    pub(crate) const NAMED: usize = 3;
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.first.iter().map(|path| shown(path)).collect();
        let more = if self.count > names.len() { ", ..." } else { "" };
        match self.count {
            1 => write!(f, "1 file is not an image and is ignored: ")?,
            count => write!(f, "{count} files are not images and are ignored: ")?,
        }
        write!(f, "{}{more}", names.join(", "))
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
    #[error("{}: not found; expected {expected}", shown(path))]
    NotFound {
        /// What was looked for.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// The operating system refused.
    #[error("{}: cannot be read: {source}", shown(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", shown(path))]
    Write {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A folder without items.
    #[error("{}: the folder is empty; expected {expected}", shown(path))]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// Files in an image folder that are not readable pictures.
    #[error("{}: {}", shown(folder), describe_bad_files(folder, files))]
    BadFiles {
        /// The image folder.
        folder: PathBuf,
        /// All the files at fault.
        files: Vec<BadFile>,
    },
    /// A file is not what it should be.
    #[error("{}: {}", shown(path), printable(reason))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A cell of a CSV file is not a number.
    #[error("{}, line {line}, column {}: {reason}", shown(path), printable(column))]
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
}

impl From<WriteError> for DataError {
    fn from(WriteError { path, error }: WriteError) -> Self {
        Self::Write { path, source: error }
    }
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

fn describe_bad_files(folder: &Path, files: &[BadFile]) -> String {
    let mut text = match files.len() {
        1 => "1 file is not a readable image:".to_string(),
        count => format!("{count} files are not readable images:"),
    };
    for file in files.iter().take(NAMES_SHOWN) {
        text += &format!("\n  {file}");
    }
    if files.len() > NAMES_SHOWN {
        text += &format!("\n  ... and {} more", files.len() - NAMES_SHOWN);
    }
    text + "\nrepair or remove them, or leave them out; " + &ways_out(folder)
}

/// What to do about files that are not readable pictures.
pub(crate) fn ways_out(folder: &Path) -> String {
    format!(
        "`--set data.on_bad_file=skip` leaves such files out, also with `--resume RUN`; `cargo xtask data {:?}` lists \
         them all",
        folder
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_bad_files_are_listed_with_the_count_of_all() {
        let files: Vec<_> =
            (0..13).map(|k| BadFile { path: format!("{k}.png").into(), reason: "not an image".into() }).collect();
        let error = DataError::BadFiles { folder: "cats".into(), files };
        let text = error.to_string();
        assert!(text.starts_with("cats: 13 files are not"), "{text}");
        assert!(text.contains("9.png") && !text.contains("10.png"), "{text}");
        assert!(text.contains("... and 3 more\n"), "{text}");
        for way in ["--set data.on_bad_file=skip", "--resume", "cargo xtask data \"cats\""] {
            assert!(text.contains(way), "{text} should contain {way}");
        }
    }

    #[test]
    fn names_stay_in_their_line_whatever_they_hold() {
        let path = PathBuf::from("a\nb\u{1b}[2J.png");
        let expected = "a\\nb\\u{1b}[2J.png";
        let bad = BadFile { path: path.clone(), reason: "c\rd is damaged".into() };
        let errors = [
            DataError::NotFound { path: path.clone(), expected: "a folder".into() }.to_string(),
            DataError::format(&path, "no picture in e\nf").to_string(),
            bad.to_string(),
            Ignored { count: 1, first: vec![path.clone()] }.to_string(),
        ];
        for text in errors {
            assert!(text.contains(expected) && !text.contains(char::is_control), "{text:?}");
        }
        let many = DataError::BadFiles { folder: path, files: vec![bad] }.to_string();
        assert!(many.lines().count() == 3 && many.contains(expected), "{many:?}");
    }

    #[test]
    fn ignored_files_are_counted_and_the_first_are_named() {
        let first = ["a.txt", "b/c.json", "d"].map(PathBuf::from).to_vec();
        let text = Ignored { count: 12, first }.to_string();
        assert_eq!(text, "12 files are not images and are ignored: a.txt, b/c.json, d, ...");
        let text = Ignored { count: 1, first: vec!["readme.txt".into()] }.to_string();
        assert_eq!(text, "1 file is not an image and is ignored: readme.txt");
    }
}
