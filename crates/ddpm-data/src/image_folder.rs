//! A folder of pictures: found, checked and sorted when opened, decoded when asked for.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn_dataset::transform::SelectionDataset;
use burn_dataset::{Dataset, DatasetError};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use rayon::prelude::*;

use crate::config::{ImageChannels, ImageLabels, ImageResize, ImagesConfig, OnBadFile};
use crate::error::{BadFile, DataError};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::hold_out::{held_out, key_of_name};
use crate::open::{OpenData, Split};
use crate::pixels::value_of_byte;

const EXPECTED: &str = "a folder with png, jpeg, webp, bmp or tiff files";

/// A picture may not take more memory than this while it is decoded: headers can claim anything.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Opens a split of an image folder.
pub(crate) fn open(config: &ImagesConfig, split: Split) -> Result<OpenData, DataError> {
    let root = &config.path;
    let (train_root, test_root) = (root.join("train"), root.join("test"));
    let has_split_folders = train_root.is_dir() && test_root.is_dir();

    let (files, classes) = if has_split_folders {
        let (train, test) = (find_files(&train_root)?, find_files(&test_root)?);
        // Both splits must number the classes alike.
        let classes = classes(config.labels, train.iter().chain(&test));
        match split {
            Split::Train => (train, classes),
            Split::Test => (test, classes),
        }
    } else {
        let files = find_files(root)?;
        let classes = classes(config.labels, files.iter());
        (files, classes)
    };

    let (files, bad): (Vec<_>, Vec<_>) = files
        .into_par_iter()
        .map(|file| match check(&file, config) {
            Ok(()) => (Some(file), None),
            Err(reason) => {
                let path = file.path;
                (None, Some(BadFile { path, reason }))
            }
        })
        .unzip();
    let files: Vec<FoundFile> = files.into_iter().flatten().collect();
    let skipped: Vec<BadFile> = bad.into_iter().flatten().collect();
    if !skipped.is_empty() && (config.on_bad_file == OnBadFile::Stop || files.is_empty()) {
        return Err(DataError::BadFiles { folder: root.clone(), files: skipped });
    }

    let is_held_out = match has_split_folders {
        true => vec![split == Split::Test; files.len()],
        false => held_out(&files.iter().map(FoundFile::key).collect::<Vec<_>>()),
    };
    let chosen = (0..files.len()).filter(|&file| is_held_out[file] == (split == Split::Test)).collect();
    let images = ImageFiles {
        labels: files.iter().map(|file| file.label(&classes)).collect(),
        paths: files.into_iter().map(|file| file.path).collect(),
        config: config.clone(),
    };
    let channels = match config.channels {
        ImageChannels::Rgb => 3,
        ImageChannels::Grayscale => 1,
    };
    Ok(OpenData {
        info: DataInfo {
            name: "images".into(),
            shape: vec![channels, config.size, config.size],
            classes,
            units: Units::identity(channels),
        },
        items: Arc::new(SelectionDataset::from_indices_checked(images, chosen)),
        skipped,
        flip: Flip::half_if(config.horizontal_flip),
    })
}

/// The pictures of a folder, by path.
struct ImageFiles {
    paths: Vec<PathBuf>,
    labels: Vec<Option<usize>>,
    config: ImagesConfig,
}

impl Dataset<Example> for ImageFiles {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let path = &self.paths[index];
        let image = decode(path).map_err(|reason| {
            let reason = format!("{reason} (data.on_bad_file = \"skip\" leaves such files out)");
            DatasetError::new(DataError::format(path, reason))
        })?;
        // At most 4096, as the config was checked.
        let side = self.config.size as u32;
        let ImageResize::CoverAndCentreCrop = self.config.resize;
        Ok(Example { values: values(&image, self.config.channels, [side; 2]), label: self.labels[index] })
    }

    fn len(&self) -> usize {
        self.paths.len()
    }
}

/// A file below the root.
pub(crate) struct FoundFile {
    pub(crate) path: PathBuf,
    /// From the root: its parts are what the class and the split depend on, wherever the root lies.
    relative: PathBuf,
}

impl FoundFile {
    /// The first folder on the way to the file.
    fn folder(&self) -> Option<String> {
        let mut parts = self.relative.components();
        let first = parts.next()?;
        parts.next()?;
        Some(first.as_os_str().to_string_lossy().into_owned())
    }

    fn label(&self, classes: &[String]) -> Option<usize> {
        classes.binary_search(&self.folder()?).ok()
    }

    fn key(&self) -> u64 {
        let parts = self.relative.components();
        key_of_name(parts.map(|part| part.as_os_str().as_encoded_bytes()))
    }
}

/// The names of the sub-folders, sorted; none if they are not to be classes.
fn classes<'a>(labels: ImageLabels, files: impl Iterator<Item = &'a FoundFile>) -> Vec<String> {
    match labels {
        ImageLabels::None => Vec::new(),
        ImageLabels::Folders => {
            let mut classes: Vec<String> = files.filter_map(FoundFile::folder).collect();
            classes.sort_unstable();
            classes.dedup();
            classes
        }
    }
}

/// All files below a folder, sorted by path; hidden ones (`.DS_Store`, `.thumbnails`) are not looked at.
pub(crate) fn find_files(root: &Path) -> Result<Vec<FoundFile>, DataError> {
    let on_io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| DataError::io(&path, EXPECTED, source)
    };
    let metadata = fs::metadata(root).map_err(on_io(root))?;
    if !metadata.is_dir() {
        return Err(DataError::format(root, format!("not a folder; expected {EXPECTED}")));
    }
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    // Links to folders are followed, so a folder can be reached twice, or for ever.
    let mut visited = HashSet::new();
    while let Some(folder) = folders.pop() {
        let folder_path = root.join(&folder);
        if !visited.insert(fs::canonicalize(&folder_path).map_err(on_io(&folder_path))?) {
            continue;
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder_path).map_err(on_io(&folder_path))? {
            let name = entry.map_err(on_io(&folder_path))?.file_name();
            if !name.as_encoded_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        // Sorted backwards because the last one pushed is the next one visited.
        names.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            let relative = folder.join(name);
            let path = root.join(&relative);
            // A link that leads nowhere has no metadata: it is kept as a file, and found bad when read.
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => folders.push(relative),
                _ => files.push(FoundFile { path, relative }),
            }
        }
    }
    if files.is_empty() {
        return Err(DataError::EmptyFolder { path: root.to_path_buf(), expected: EXPECTED.into() });
    }
    files.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(files)
}

/// Whether a file will do. Reading headers finds foreign files quickly; only a full decode finds those that
/// break off later, and that is done where the config wants them left out.
fn check(file: &FoundFile, config: &ImagesConfig) -> Result<(), String> {
    if config.labels == ImageLabels::Folders && file.folder().is_none() {
        return Err("lies in no class folder (labels = \"folders\")".into());
    }
    match config.on_bad_file {
        OnBadFile::Stop => decoder(&file.path).map(|_| ()),
        OnBadFile::Skip => decode(&file.path).map(|_| ()),
    }
}

/// Reads the header. The format is told by the content; the name of a file promises nothing.
fn decoder(path: &Path) -> Result<impl ImageDecoder + use<>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        return Err("the file is empty".into());
    }
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp | ImageFormat::Tiff) => {}
        Some(other) => return Err(format!("a {other:?} file; expected png, jpeg, webp, bmp or tiff")),
        None => return Err("not a picture; expected png, jpeg, webp, bmp or tiff".into()),
    }
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || decoder.total_bytes() > MAX_DECODED_BYTES {
        let most = MAX_DECODED_BYTES >> 20;
        return Err(format!("{width}x{height} pixels; expected some, and at most {most} MiB of them"));
    }
    Ok(decoder)
}

pub(crate) fn decode(path: &Path) -> Result<DynamicImage, String> {
    let mut decoder = decoder(path)?;
    // Cameras save pictures lying on their side with a note which way is up.
    let orientation = decoder.orientation().map_err(|error| error.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// A picture as values in [-1, 1], channel by channel, scaled until it covers this width and height and cut to them.
pub(crate) fn values(image: &DynamicImage, channels: ImageChannels, [width, height]: [u32; 2]) -> Vec<f32> {
    let image = DynamicImage::from(over_white(image));
    let image = match (image.width(), image.height()) {
        size if size == (width, height) => image,
        _ => image.resize_to_fill(width, height, FilterType::Lanczos3),
    };
    match channels {
        ImageChannels::Grayscale => image.to_luma8().iter().map(|&byte| value_of_byte(byte)).collect(),
        ImageChannels::Rgb => {
            let rgb = image.to_rgb8();
            (0..3).flat_map(|channel| rgb.iter().skip(channel).step_by(3)).map(|&byte| value_of_byte(byte)).collect()
        }
    }
}

/// Transparent parts become white: what lies hidden under them is arbitrary.
pub(crate) fn over_white(image: &DynamicImage) -> image::RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let rgba = image.to_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0;
        let alpha = u32::from(alpha);
        let blend = |byte: u8| ((u32::from(byte) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        image::Rgb([blend(r), blend(g), blend(b)])
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
