//! Pictures in a folder or a zip archive: found, checked and sorted when opened, decoded when asked for.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn_dataset::{Dataset, DatasetError};
use image::DynamicImage;
use rayon::prelude::*;

use crate::config::{ImageChannels, ImageLabels, ImageResize, ImagesConfig, OnBadFile};
use crate::decode::{check_header, decode, pixels};
use crate::error::{BadFile, DataError};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::file_list::FileList;
use crate::hold_out::held_out;
use crate::known_good::{KnownGood, WORTH_KEEPING, cache_folder, note, stamp};
use crate::open::{OpenData, Split};
use crate::pixels::values_of_bytes;
use crate::random::{Stream, mix};
use crate::zip_pictures::ZipPictures;

pub(crate) const EXPECTED: &str = "a folder with png, jpeg, webp, bmp or tiff files, or a zip archive of them";

/// Opens a split of an image folder.
pub(crate) fn open(config: &ImagesConfig, split: Split) -> Result<OpenData, DataError> {
    let images = Images::open(config, split, cache_folder().as_deref())?;
    let channels = channels(config.channels);
    Ok(OpenData {
        info: DataInfo {
            name: "images".into(),
            shape: vec![channels, config.size, config.size],
            classes: images.classes.clone(),
            units: Units::identity(channels),
        },
        skipped: images.skipped.clone(),
        labels: images.labels.clone(),
        items: Arc::new(images),
        flip: Flip::half_if(config.horizontal_flip),
    })
}

/// A number for what lies in a folder, or for an archive: names, sizes and times of change.
pub(crate) fn fingerprint(root: &Path) -> Result<u64, DataError> {
    let on_io = |source| DataError::io(root, EXPECTED, source);
    if !root.is_dir() {
        return Ok(stamp(0, &fs::metadata(root).map_err(on_io)?));
    }
    let files = FileList::find(root, EXPECTED)?;
    let stamps: Vec<u64> = (0..files.len())
        .into_par_iter()
        // A link that leads nowhere has no metadata, and its name counts.
        .map(|file| match fs::metadata(root.join(files.path(file))) {
            Ok(metadata) => stamp(files.key(file), &metadata),
            Err(_) => files.key(file),
        })
        .collect();
    Ok(stamps.into_iter().fold(0, |all, stamp| mix(all, Stream::Split, stamp)))
}

/// Whether a file is a zip archive, by its name or its first bytes.
fn is_zip(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
    let mut start = [0; 2];
    path.is_file()
        && (named || File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && &start == b"PK"))
}

/// How many.
pub(crate) fn channels(channels: ImageChannels) -> usize {
    match channels {
        ImageChannels::Rgb => 3,
        ImageChannels::Grayscale => 1,
    }
}

/// The pictures of a split. In memory lies what finds them: about their names.
pub(crate) struct Images {
    place: Place,
    /// Which of the files are items, in their order.
    chosen: Vec<u32>,
    pub(crate) labels: Option<Arc<[u32]>>,
    pub(crate) classes: Vec<String>,
    pub(crate) skipped: Vec<BadFile>,
    config: ImagesConfig,
}

impl Images {
    /// Finds and checks the pictures; what is known of them from before lies in `cache`.
    pub(crate) fn open(config: &ImagesConfig, split: Split, cache: Option<&Path>) -> Result<Self, DataError> {
        let root = &config.path;
        let (place, all_classes, has_split) = if root.is_dir() {
            let (train, test) = (root.join("train"), root.join("test"));
            if train.is_dir() && test.is_dir() {
                let (train, test) = (Place::folder(&train)?, Place::folder(&test)?);
                // Both splits must number the classes alike.
                let classes = &train.top_folders() | &test.top_folders();
                (if split == Split::Train { train } else { test }, classes, true)
            } else {
                let place = Place::folder(root)?;
                let classes = place.top_folders();
                (place, classes, false)
            }
        } else if is_zip(root) {
            let (zip, classes, has_split) = ZipPictures::open(root, split)?;
            (Place::Zip(zip), classes, has_split)
        } else {
            // Says what is wrong.
            (Place::folder(root)?, BTreeSet::new(), false)
        };
        let classes = match config.labels {
            ImageLabels::None => Vec::new(),
            ImageLabels::Folders => all_classes.into_iter().collect::<Vec<_>>(),
        };

        let skipped = place.bad_files(config, cache);
        let bad: Vec<u32> = skipped.iter().map(|(file, _)| *file).collect();
        let skipped: Vec<BadFile> = skipped.into_iter().map(|(_, bad)| bad).collect();
        let mut good: Vec<u32> = (0..place.files().len() as u32).collect();
        good.retain(|file| bad.binary_search(file).is_err());
        if !skipped.is_empty() && (config.on_bad_file == OnBadFile::Stop || good.is_empty()) {
            return Err(DataError::BadFiles { folder: root.clone(), files: skipped });
        }

        let mut chosen = good;
        if !has_split {
            let keys: Vec<u64> = chosen.iter().map(|&file| place.files().key(file as usize)).collect();
            let mut is_held_out = held_out(&keys).into_iter();
            chosen.retain(|_| is_held_out.next() == Some(split == Split::Test));
            chosen.shrink_to_fit();
        }
        let label = |&file: &u32| {
            let folder = place.top_folder(file as usize)?;
            classes.binary_search(&folder).ok().map(|class| class as u32)
        };
        // Every file lies in a class folder, or it would be a bad one.
        let labels = (!classes.is_empty()).then(|| chosen.iter().filter_map(label).collect());
        Ok(Self { place, chosen, labels, classes, skipped, config: config.clone() })
    }

    /// A picture as bytes, channel by channel.
    pub(crate) fn pixels(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let file = self.chosen[index] as usize;
        let image = self.place.decode(file).map_err(|reason| {
            let reason = format!("{reason} (data.on_bad_file = \"skip\" leaves such files out)");
            DataError::format(&self.place.path(file), reason)
        })?;
        // At most 4096, as the config was checked.
        let side = self.config.size as u32;
        let ImageResize::CoverAndCentreCrop = self.config.resize;
        Ok(pixels(&image, self.config.channels, [side; 2]))
    }
}

impl Dataset<Example> for Images {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let pixels = self.pixels(index).map_err(DatasetError::new)?;
        let label = self.labels.as_ref().map(|labels| labels[index] as usize);
        Ok(Example { values: values_of_bytes(&pixels), label })
    }

    fn len(&self) -> usize {
        self.chosen.len()
    }
}

/// Where the files are.
enum Place {
    Folder { root: PathBuf, files: FileList },
    Zip(ZipPictures),
}

impl Place {
    fn folder(root: &Path) -> Result<Self, DataError> {
        Ok(Self::Folder { root: root.to_path_buf(), files: FileList::find(root, EXPECTED)? })
    }

    fn files(&self) -> &FileList {
        match self {
            Self::Folder { files, .. } => files,
            Self::Zip(zip) => &zip.files,
        }
    }

    /// What all paths begin with.
    fn root(&self) -> PathBuf {
        match self {
            Self::Folder { root, .. } => root.clone(),
            Self::Zip(zip) => zip.path.join(zip.prefix),
        }
    }

    /// For messages, and to open a file of a folder.
    fn path(&self, file: usize) -> PathBuf {
        match self {
            Self::Folder { root, files } => root.join(files.path(file)),
            Self::Zip(zip) => zip.path.join(zip.files.path(file)),
        }
    }

    fn top_folder(&self, file: usize) -> Option<String> {
        Some(self.files().top_folder(file)?.to_string_lossy().into_owned())
    }

    fn top_folders(&self) -> BTreeSet<String> {
        (0..self.files().len()).filter_map(|file| self.top_folder(file)).collect()
    }

    fn decode(&self, file: usize) -> Result<DynamicImage, String> {
        match self {
            Self::Folder { .. } => decode_file(&self.path(file)),
            Self::Zip(zip) => zip.read(file).and_then(|bytes| {
                let len = bytes.len() as u64;
                decode(Cursor::new(bytes), len)
            }),
        }
    }

    /// The files that will not do, in their order. Reading headers finds foreign files quickly; only a full decode
    /// finds those that break off later, and that is done where the config wants them left out.
    fn bad_files(&self, config: &ImagesConfig, cache: Option<&Path>) -> Vec<(u32, BadFile)> {
        let cache = cache.filter(|_| self.files().len() >= WORTH_KEEPING);
        let decoded = config.on_bad_file == OnBadFile::Skip;
        let note = cache.map(|cache| note(cache, &self.root(), decoded));
        let known = note.as_deref().map(KnownGood::read).unwrap_or_default();
        let bad = Mutex::new(Vec::new());
        let stamps: Vec<u64> = (0..self.files().len() as u32)
            .into_par_iter()
            .filter_map(|file| {
                let found = match config.labels {
                    ImageLabels::Folders if self.files().top_folder(file as usize).is_none() => {
                        Err("lies in no class folder (labels = \"folders\")".into())
                    }
                    _ => self.check(file as usize, decoded, &known),
                };
                found
                    .map_err(|reason| {
                        let bad_file = BadFile { path: self.path(file as usize), reason };
                        bad.lock().unwrap_or_else(PoisonError::into_inner).push((file, bad_file));
                    })
                    .ok()
            })
            .collect();
        if let Some(note) = note {
            known.replace(stamps, &note);
        }
        let mut bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        bad.sort_by_key(|(file, _)| *file);
        bad
    }

    /// The stamp of a file that will do.
    fn check(&self, file: usize, decoded: bool, known: &KnownGood) -> Result<u64, String> {
        let metadata = match self {
            Self::Folder { .. } => fs::metadata(self.path(file)),
            Self::Zip(zip) => fs::metadata(&zip.path),
        };
        let stamp = stamp(self.files().key(file), &metadata.map_err(|error| error.to_string())?);
        if known.has(stamp) {
            return Ok(stamp);
        }
        match (self, decoded) {
            (_, true) => self.decode(file).map(|_| ())?,
            (Self::Folder { .. }, false) => {
                open_file(&self.path(file)).and_then(|(file, len)| check_header(file, len))?;
            }
            (Self::Zip(zip), false) => {
                let bytes = zip.read(file)?;
                let len = bytes.len() as u64;
                check_header(Cursor::new(bytes), len)?;
            }
        }
        Ok(stamp)
    }
}

fn open_file(path: &Path) -> Result<(BufReader<File>, u64), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    Ok((BufReader::new(file), len))
}

/// Reads the picture in a file.
pub(crate) fn decode_file(path: &Path) -> Result<DynamicImage, String> {
    let (file, len) = open_file(path)?;
    decode(file, len)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
