//! Images and captions in Parquet files, as the datasets of the Hugging Face Hub are: a column with the bytes of image files,
//! alone or in a group with their paths, and a column of text.

#[cfg(feature = "parquet")]
mod rows;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn_dataset::{Dataset, DatasetError};
use rayon::prelude::*;

use crate::config::{ImageTableConfig, OnBadFile};
use crate::decode::{decode, pixels};
use crate::error::{BadFile, DataError, Ignored};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::hold_out::{held_out, key_of_name};
use crate::image_folder::channels;
use crate::names::shown;
use crate::open::{CheckProgress, OpenData, Split};
use crate::pixels::values_of_bytes;

const EXPECTED: &str = "a Parquet file, or a folder of them, with a column of images";
/// The folder in which the Hub keeps the files of a dataset.
const DATA: &str = "data";
/// The beginnings of the names of files of a test split; the first one that is there counts.
const TESTS: [&str; 2] = ["test", "validation"];
const TRAIN: &str = "train";
/// `captions = ..` where there are none.
const NONE: &str = "none";
/// `captions = ..` where the column is found by its name.
#[cfg(feature = "parquet")]
const AUTO: &str = "auto";
/// The columns that captions may be in; the first one that is there counts.
#[cfg(feature = "parquet")]
const CAPTIONS: [&str; 3] = ["text", "caption", "captions"];

/// A row of a file.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(not(feature = "parquet"), allow(dead_code))]
struct Row {
    /// The file of the image, as it was put into the table.
    image: Arc<[u8]>,
    caption: Option<Box<str>>,
}

impl ImageTableConfig {
    fn has_captions(&self) -> bool {
        self.captions != NONE
    }
}

/// Opens a split of the rows of a file or a folder.
pub(crate) fn open(
    config: &ImageTableConfig,
    split: Split,
    progress: CheckProgress<'_>,
) -> Result<OpenData, DataError> {
    let (files, has_splits) = files_of_split(&config.path, split)?;
    let mut rows = Vec::new();
    for file in &files {
        let places = read(file, config)?.into_iter().enumerate().map(|(number, row)| Placed { file, number, row });
        rows.extend(places);
    }
    let skipped = take_bad(&mut rows, config, progress)?;
    if !has_splits {
        let key = |row: &Placed<'_>| {
            let name = row.file.file_name().unwrap_or_default().as_encoded_bytes();
            key_of_name([name, &row.number.to_le_bytes()].into_iter())
        };
        let keys: Vec<u64> = rows.iter().map(key).collect();
        let mut is_test = held_out(&keys).into_iter();
        rows.retain(|_| is_test.next() == Some(split == Split::Test));
    }
    let channels = channels(config.channels);
    let info = DataInfo {
        name: "images".into(),
        shape: vec![channels, config.size, config.size],
        classes: Vec::new(),
        units: Units::identity(channels),
        series: None,
        latent: false,
        has_captions: config.has_captions(),
    };
    let rows = rows.into_iter().map(|placed| placed.row).collect();
    Ok(OpenData {
        info,
        items: Arc::new(Table { rows, config: config.clone() }),
        skipped,
        ignored: Ignored::default(),
        labels: None,
        flip: Flip::half_if(config.horizontal_flip),
        series: None,
    })
}

/// A row, and where it is.
struct Placed<'a> {
    file: &'a Path,
    number: usize,
    row: Row,
}

/// Takes rows whose images cannot be read out, or refuses them.
fn take_bad(
    rows: &mut Vec<Placed<'_>>,
    config: &ImageTableConfig,
    progress: CheckProgress<'_>,
) -> Result<Vec<BadFile>, DataError> {
    let (checked, count) = (AtomicUsize::new(0), rows.len());
    let reasons: Vec<Option<String>> = rows
        .par_iter()
        .map(|placed| {
            let reason = placed.row.decode(config).err();
            progress(checked.fetch_add(1, Ordering::Relaxed) + 1, count);
            reason
        })
        .collect();
    let bad: Vec<BadFile> = rows
        .iter()
        .zip(&reasons)
        .filter_map(|(placed, reason)| {
            let path = format!("{}, row {}", shown(placed.file), placed.number).into();
            Some(BadFile { path, reason: reason.clone()? })
        })
        .collect();
    if bad.is_empty() {
        return Ok(bad);
    }
    if config.on_bad_file == OnBadFile::Stop || bad.len() == count {
        return Err(DataError::BadFiles { folder: config.path.clone(), files: bad });
    }
    let mut reasons = reasons.into_iter();
    rows.retain(|_| reasons.next() == Some(None));
    Ok(bad)
}

/// The files of a split, and whether their names say of which split they are.
fn files_of_split(path: &Path, split: Split) -> Result<(Vec<PathBuf>, bool), DataError> {
    if path.is_file() {
        return Ok((vec![path.to_path_buf()], false));
    }
    let data = path.join(DATA);
    let folder = if data.is_dir() { &data } else { path };
    let on_io = |source| DataError::io(folder, EXPECTED, source);
    let entries = std::fs::read_dir(folder).map_err(on_io)?.collect::<Result<Vec<_>, _>>().map_err(on_io)?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path()).filter(|path| is_parquet(path)).collect();
    files.sort();
    if files.is_empty() {
        return Err(DataError::format(path, format!("has no file *.parquet; expected {EXPECTED}")));
    }
    let of = |beginning: &str| -> Vec<PathBuf> {
        let begins =
            |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
        files.iter().filter(|file| begins(file)).cloned().collect()
    };
    let train = of(TRAIN);
    let test = TESTS.into_iter().map(of).find(|files| !files.is_empty()).unwrap_or_default();
    Ok(match (train.is_empty(), test.is_empty(), split) {
        (false, false, Split::Train) => (train, true),
        (false, false, Split::Test) => (test, true),
        (false, true, _) => (train, false),
        _ => (files, false),
    })
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

#[cfg(feature = "parquet")]
fn read(file: &Path, config: &ImageTableConfig) -> Result<Vec<Row>, DataError> {
    rows::read(file, config)
}

#[cfg(not(feature = "parquet"))]
fn read(file: &Path, _: &ImageTableConfig) -> Result<Vec<Row>, DataError> {
    let reason = "this program was built without Parquet files; build it with `--features parquet`";
    Err(DataError::format(file, reason))
}

impl Row {
    /// The pixels of the image, channel by channel.
    fn decode(&self, config: &ImageTableConfig) -> Result<Vec<u8>, String> {
        let image = decode(Cursor::new(self.image.clone()), self.image.len() as u64)?;
        // At most 4096, as the config was checked.
        Ok(pixels(&image, config.channels, [config.size as u32; 2]))
    }
}

/// The rows of a split, with the files of the images as they are.
struct Table {
    rows: Vec<Row>,
    config: ImageTableConfig,
}

impl Dataset<Example> for Table {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let row = &self.rows[index];
        let pixels = row
            .decode(&self.config)
            .map_err(|reason| DatasetError::new(DataError::format(&self.config.path, reason)))?;
        Ok(Example { values: values_of_bytes(&pixels), label: None, window: None, caption: row.caption.clone() })
    }

    fn len(&self) -> usize {
        self.rows.len()
    }
}
