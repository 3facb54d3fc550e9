//! Captions of the images in a folder or an archive: in `metadata.jsonl`, as the loaders of Hugging Face have them, or in a
//! text file next to each image.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::place::Place;
use crate::config::ImageCaptions;
use crate::error::DataError;
use crate::names::shown;

/// The file with the captions of a folder, and of the folders in it.
const METADATA: &str = "metadata.jsonl";
/// The key with the path of an image, from the folder of the file on.
const FILE_NAME: &str = "file_name";
/// The keys that a caption may have; the first one that is there counts.
const CAPTION: [&str; 2] = ["text", "caption"];
const EXPECTED_LINE: &str = "expected {\"file_name\": \"a.png\", \"text\": \"what it shows\"}";

/// The largest `metadata.jsonl`, and the largest text of one image.
const LARGEST_METADATA: u64 = 1 << 30;
const LARGEST_TEXT: u64 = 1 << 20;

/// Images without a caption that a message names.
const NAMED: usize = 5;

/// The captions of images, and the files that they are in.
pub(super) struct Captions {
    /// Of every image, in the order of the images.
    pub(super) of_images: Vec<Box<str>>,
    /// The files of the place that captions are in.
    pub(super) files: Vec<usize>,
}

/// Reads the captions of the chosen images; none if they are not wanted.
pub(super) fn read(wanted: ImageCaptions, place: &Place, chosen: &[u32]) -> Result<Option<Captions>, DataError> {
    let by_path = || (0..place.files().len()).map(|file| (place.files().path(file), file)).collect();
    let files: BTreeMap<PathBuf, usize> = match wanted {
        ImageCaptions::None => return Ok(None),
        _ => by_path(),
    };
    let tables: Vec<usize> = files
        .iter()
        .filter(|(path, _)| path.file_name() == Some(OsStr::new(METADATA)))
        .map(|(_, file)| *file)
        .collect();
    match wanted {
        ImageCaptions::TextFiles => from_texts(place, &files, chosen),
        ImageCaptions::Auto if tables.is_empty() => from_texts(place, &files, chosen),
        _ if tables.is_empty() => {
            Err(DataError::format(&place.root(), format!("no {METADATA} with the captions of the images")))
        }
        _ => from_tables(place, &files, tables, chosen),
    }
    .map(Some)
}

/// From the text file next to each image.
fn from_texts(place: &Place, files: &BTreeMap<PathBuf, usize>, chosen: &[u32]) -> Result<Captions, DataError> {
    let (mut of_images, mut read, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for &image in chosen {
        let text = place.files().path(image as usize).with_extension("txt");
        let Some(&file) = files.get(&text) else {
            missing.push(text);
            continue;
        };
        let caption = text_of(place, file, LARGEST_TEXT)?;
        of_images.push(caption.trim().into());
        read.push(file);
    }
    let expected = "a .txt file with the caption next to each image";
    if missing.is_empty() { Ok(Captions { of_images, files: read }) } else { Err(without(place, &missing, expected)) }
}

/// From the lines of one or more tables.
fn from_tables(
    place: &Place,
    files: &BTreeMap<PathBuf, usize>,
    tables: Vec<usize>,
    chosen: &[u32],
) -> Result<Captions, DataError> {
    let mut known = BTreeMap::new();
    for &table in &tables {
        let text = text_of(place, table, LARGEST_METADATA)?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |reason: String| {
                let reason = format!("line {}: {reason}; {EXPECTED_LINE}", number + 1);
                DataError::format(&place.path(table), reason)
            };
            let (name, caption) = entry(line).map_err(wrong)?;
            let path = place.files().folder(table).join(&name);
            let Some(&image) = files.get(&path) else {
                return Err(wrong(format!("there is no file {name:?}")));
            };
            if known.insert(image, caption).is_some() {
                return Err(wrong(format!("{name:?} has a caption already")));
            }
        }
    }
    let missing: Vec<PathBuf> = chosen
        .iter()
        .filter(|&&image| !known.contains_key(&(image as usize)))
        .map(|&image| place.files().path(image as usize))
        .collect();
    if !missing.is_empty() {
        return Err(without(place, &missing, &format!("a line in {METADATA} for each image")));
    }
    let of_images = chosen.iter().filter_map(|&image| known.remove(&(image as usize))).collect();
    Ok(Captions { of_images, files: tables })
}

/// The path and the caption of a line.
fn entry(line: &str) -> Result<(String, Box<str>), String> {
    let line: Value = serde_json::from_str(line).map_err(|error| format!("is not JSON ({error})"))?;
    let text = |key: &str| line[key].as_str().map(str::trim);
    let name = text(FILE_NAME).ok_or_else(|| format!("has no text {FILE_NAME:?}"))?;
    let caption = CAPTION.into_iter().find_map(text);
    let caption = caption.ok_or_else(|| format!("has neither a text {:?} nor {:?}", CAPTION[0], CAPTION[1]))?;
    Ok((name.into(), caption.into()))
}

fn text_of(place: &Place, file: usize, most: u64) -> Result<String, DataError> {
    place.text(file, most).map_err(|reason| DataError::format(&place.path(file), reason))
}

/// What is said of images that have no caption.
fn without(place: &Place, missing: &[PathBuf], expected: &str) -> DataError {
    let names: Vec<String> = missing.iter().take(NAMED).map(|path: &PathBuf| shown(Path::new(path))).collect();
    let more = if missing.len() > NAMED { ", ..." } else { "" };
    let reason = match missing.len() {
        1 => format!("1 caption is missing: {}; expected {expected}", names[0]),
        count => format!("{count} captions are missing: {}{more}; expected {expected}", names.join(", ")),
    };
    DataError::format(&place.root(), reason)
}
