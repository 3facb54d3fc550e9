//! `checksums.json`: what the files of a checkpoint were when they were written, and whose they are.
//!
//! CRC-32 is enough: it guards against accidents (a full disk, a torn copy, a bad sector), not against forgery.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use ddpm_files::WriteError;
use ddpm_files::atomic::AtomicFolder;
use ddpm_files::checksums::{crc32, hex};
use serde::{Deserialize, Serialize};

/// The file's name within a folder.
const NAME: &str = "checksums.json";

/// Why a folder is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The list cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The list itself is damaged.
    #[error("{path} is not a list of checksums: {reason}")]
    List {
        /// The list.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
    /// A file is not there.
    #[error("{path} is missing")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file has another length.
    #[error("{path} has {found} bytes, expected {expected}")]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that was written.
        expected: u64,
    },
    /// A file has another content.
    #[error("{path} has changed since it was written: its CRC-32 is {found}, expected {expected}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Its checksum.
        found: String,
        /// The checksum of what was written.
        expected: String,
    },
    /// The folder belongs to somebody else.
    #[error("{path} belongs to another run ({found}), not to this one ({expected})")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        expected: String,
    },
}

/// Length and checksum of each file of a folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksums {
    /// The run that wrote the folder.
    run: String,
    files: BTreeMap<String, Checksum>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checksum {
    bytes: u64,
    crc32: String,
}

impl Checksums {
    /// Measures the files of a folder that `run` has written, and adds the list to them.
    pub fn seal(folder: &AtomicFolder, run: &str) -> Result<(), ChecksumError> {
        let dir = folder.path();
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(io(dir))? {
            let entry = entry.map_err(io(dir))?;
            let path = entry.path();
            files.insert(entry.file_name().to_string_lossy().into_owned(), Checksum::of(&path).map_err(io(&path))?);
        }
        let list = dir.join(NAME);
        let json =
            serde_json::to_vec_pretty(&Self { run: run.into(), files }).map_err(|error| io(&list)(error.into()))?;
        Ok(folder.write(&list, json)?)
    }

    /// Compares a folder with its list. False if it has none: it was written before there were lists.
    pub fn verify(dir: &Path, run: &str) -> Result<bool, ChecksumError> {
        let list = dir.join(NAME);
        let text = match std::fs::read(&list) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            text => text.map_err(io(&list))?,
        };
        let sealed: Self = serde_json::from_slice(&text)
            .map_err(|error| ChecksumError::List { path: list, reason: error.to_string() })?;
        for (name, expected) in sealed.files {
            let path = dir.join(name);
            let found = match Checksum::of(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(ChecksumError::Missing { path });
                }
                found => found.map_err(io(&path))?,
            };
            if found.bytes != expected.bytes {
                return Err(ChecksumError::Length { path, found: found.bytes, expected: expected.bytes });
            }
            if found.crc32 != expected.crc32 {
                return Err(ChecksumError::Content { path, found: found.crc32, expected: expected.crc32 });
            }
        }
        if sealed.run != run {
            return Err(ChecksumError::Foreign { path: dir.into(), found: sealed.run, expected: run.into() });
        }
        Ok(true)
    }
}

impl Checksum {
    fn of(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { bytes: file.metadata()?.len(), crc32: hex(crc32(file)?) })
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> ChecksumError {
    let path = path.to_path_buf();
    move |source| ChecksumError::Io { path: path.clone(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sealed() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let folder = AtomicFolder::begin(dir.path()).unwrap();
        // The check value that CRC catalogues give for CRC-32/ISO-HDLC.
        folder.write(&folder.path().join("digits"), "123456789").unwrap();
        folder.write(&folder.path().join("empty"), "").unwrap();
        Checksums::seal(&folder, "me").unwrap();
        folder.commit().unwrap();
        dir
    }

    #[test]
    fn what_was_sealed_verifies_and_nothing_else_does() {
        let dir = sealed();
        let list = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert!(list.contains("cbf43926"), "{list}");
        assert!(Checksums::verify(dir.path(), "me").unwrap());
        let foreign = Checksums::verify(dir.path(), "you").unwrap_err();
        assert!(matches!(&foreign, ChecksumError::Foreign { found, .. } if found == "me"), "{foreign}");
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        assert!(!Checksums::verify(dir.path(), "me").unwrap());
    }

    #[test]
    fn every_flipped_bit_of_every_file_is_noticed() {
        let dir = sealed();
        for name in ["digits", NAME] {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, &bytes).unwrap();
                let is_blank = |byte: u8| byte.is_ascii_whitespace();
                let found = Checksums::verify(dir.path(), "me");
                // One kind of white space for another says the same.
                let same = is_blank(whole[bit / 8]) && is_blank(bytes[bit / 8]);
                assert!(found.is_err() || same, "{name}, bit {bit}");
            }
            std::fs::write(&path, &whole).unwrap();
        }
        std::fs::write(dir.path().join("digits"), "1234").unwrap();
        assert!(matches!(Checksums::verify(dir.path(), "me"), Err(ChecksumError::Length { found: 4, .. })));
        std::fs::remove_file(dir.path().join("digits")).unwrap();
        assert!(matches!(Checksums::verify(dir.path(), "me"), Err(ChecksumError::Missing { .. })));
    }
}
