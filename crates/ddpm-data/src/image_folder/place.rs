//! Where the pictures of a split lie: a folder, or a zip archive.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use image::DynamicImage;

use super::EXPECTED;
use super::claim::{Claim, claim};
use crate::decode::{check_header, decode};
use crate::error::DataError;
use crate::file_list::FileList;
use crate::open::Split;
use crate::zip_pictures::ZipPictures;

/// Where the files are.
pub(super) enum Place {
    Folder { root: PathBuf, files: FileList },
    Zip(ZipPictures),
}

impl Place {
    /// Where a split lies; besides where the other one does, if each has a folder of its own.
    pub(super) fn of_split(root: &Path, split: Split) -> Result<(Self, Option<Self>), DataError> {
        let [train, test] = ["train", "test"].map(|name| root.join(name));
        let mut places: Vec<Self> = if is_zip(root) {
            ZipPictures::open(root)?.into_iter().map(Self::Zip).collect()
        } else if train.is_dir() && test.is_dir() {
            vec![Self::folder(&train)?, Self::folder(&test)?]
        } else {
            // Also says what is wrong with what is no folder.
            vec![Self::folder(root)?]
        };
        if split == Split::Test {
            places.reverse();
        }
        let mut places = places.into_iter();
        match places.next() {
            Some(place) => Ok((place, places.next())),
            None => Err(DataError::EmptyFolder { path: root.to_path_buf(), expected: EXPECTED.into() }),
        }
    }

    fn folder(root: &Path) -> Result<Self, DataError> {
        Ok(Self::Folder { root: root.to_path_buf(), files: FileList::find(root, EXPECTED)? })
    }

    pub(super) fn files(&self) -> &FileList {
        match self {
            Self::Folder { files, .. } => files,
            Self::Zip(zip) => &zip.files,
        }
    }

    /// What all paths begin with.
    pub(super) fn root(&self) -> PathBuf {
        match self {
            Self::Folder { root, .. } => root.clone(),
            Self::Zip(zip) => zip.path.join(zip.prefix),
        }
    }

    /// For messages, and to open a file of a folder.
    pub(super) fn path(&self, file: usize) -> PathBuf {
        match self {
            Self::Folder { root, files } => root.join(files.path(file)),
            Self::Zip(zip) => zip.path.join(zip.files.path(file)),
        }
    }

    pub(super) fn top_folder(&self, file: usize) -> Option<String> {
        Some(self.files().top_folder(file)?.to_string_lossy().into_owned())
    }

    /// The top folders of the files that are `wanted`.
    pub(super) fn top_folders(&self, wanted: impl Fn(usize) -> bool) -> BTreeSet<String> {
        (0..self.files().len()).filter(|&file| wanted(file)).filter_map(|file| self.top_folder(file)).collect()
    }

    /// Whether a file is meant to be a picture: by its name, or else by its content. What cannot be read at all may
    /// have been one.
    pub(super) fn is_meant_as_picture(&self, file: usize) -> bool {
        match claim(&self.files().path(file)) {
            Claim::Picture => true,
            Claim::Other => false,
            // A pipe, say.
            Claim::Unknown if self.metadata(file).is_ok_and(|metadata| !metadata.is_file()) => false,
            Claim::Unknown => match self.open(file) {
                Ok((bytes, len)) => check_header(bytes, len).is_ok(),
                Err(_) => true,
            },
        }
    }

    /// What the system says of a file, or of the archive that it lies in.
    pub(super) fn metadata(&self, file: usize) -> io::Result<Metadata> {
        match self {
            Self::Folder { .. } => fs::metadata(self.path(file)),
            Self::Zip(zip) => fs::metadata(&zip.path),
        }
    }

    pub(super) fn decode(&self, file: usize) -> Result<DynamicImage, String> {
        let (bytes, len) = self.open(file)?;
        decode(bytes, len)
    }

    /// A file of text.
    pub(super) fn text(&self, file: usize, most: u64) -> Result<String, String> {
        let (bytes, len) = self.open(file)?;
        if len > most {
            return Err(format!("has {len} bytes; expected a text of at most {most}"));
        }
        let mut text = Vec::new();
        bytes.take(most).read_to_end(&mut text).map_err(|error| error.to_string())?;
        String::from_utf8(text).map_err(|error| format!("is not a text in UTF-8: {error}"))
    }

    /// The bytes of a file, and how many there are.
    fn open(&self, file: usize) -> Result<(Box<dyn Bytes>, u64), String> {
        match self {
            Self::Folder { .. } => {
                let (file, len) = open_file(&self.path(file))?;
                Ok((Box::new(file), len))
            }
            Self::Zip(zip) => {
                let bytes = zip.read(file)?;
                let len = bytes.len() as u64;
                Ok((Box::new(Cursor::new(bytes)), len))
            }
        }
    }
}

/// What a picture is read from.
trait Bytes: BufRead + Seek {}

impl<T: BufRead + Seek> Bytes for T {}

/// Whether a file is a zip archive, by its name or its first bytes.
fn is_zip(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
    let mut start = [0; 2];
    path.is_file()
        && (named || File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && &start == b"PK"))
}

fn open_file(path: &Path) -> Result<(BufReader<File>, u64), String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    // A pipe would be waited for, for ever.
    if !metadata.is_file() {
        return Err("no file but a folder, a pipe or a device".into());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    Ok((BufReader::new(file), metadata.len()))
}

/// Reads the picture in a file.
pub(crate) fn decode_file(path: &Path) -> Result<DynamicImage, String> {
    let (file, len) = open_file(path)?;
    decode(file, len)
}
