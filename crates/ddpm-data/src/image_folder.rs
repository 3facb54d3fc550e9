//! Pictures in a folder or a zip archive: found, checked and sorted when opened, decoded when asked for.

mod captions;
mod check;
mod claim;
mod place;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn_dataset::{Dataset, DatasetError};
use rayon::prelude::*;

use crate::config::{ImageChannels, ImageLabels, ImageResize, ImagesConfig, OnBadFile};
use crate::decode::pixels;
use crate::error::{BadFile, DataError, Ignored, ways_out};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::file_list::FileList;
use crate::hold_out::held_out;
use crate::known_good::{cache_folder, stamp};
use crate::open::{CheckProgress, OpenData, Split};
use crate::pixels::values_of_bytes;
use crate::random::{Stream, mix};
use check::Checked;
use place::Place;
pub(crate) use place::decode_file;

pub(crate) const EXPECTED: &str = "a folder with png, jpeg, webp, bmp or tiff files, or a zip archive of them";

/// Opens a split of an image folder.
pub(crate) fn open(config: &ImagesConfig, split: Split, progress: CheckProgress<'_>) -> Result<OpenData, DataError> {
    let images = Images::open(config, split, cache_folder().as_deref(), progress)?;
    Ok(OpenData {
        info: images.info(),
        skipped: images.skipped.clone(),
        series: None,
        ignored: images.ignored.clone(),
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
    pub(crate) ignored: Ignored,
    /// The captions of the items.
    captions: Option<Vec<Box<str>>>,
    config: ImagesConfig,
}

impl Images {
    /// Finds and checks the pictures; what is known of them from before lies in `cache`.
    pub(crate) fn open(
        config: &ImagesConfig,
        split: Split,
        cache: Option<&Path>,
        progress: CheckProgress<'_>,
    ) -> Result<Self, DataError> {
        let (place, other) = Place::of_split(&config.path, split)?;
        let checked = Checked::all(&place, config.labels, cache, progress);
        let classes = classes(config.labels, &place, &checked, other.as_ref());
        let mut chosen = checked.good(&place);
        let skipped: Vec<BadFile> = checked.bad.iter().map(|(_, bad)| bad.clone()).collect();
        if !skipped.is_empty() && (config.on_bad_file == OnBadFile::Stop || chosen.is_empty()) {
            return Err(DataError::BadFiles { folder: config.path.clone(), files: skipped });
        }
        if chosen.is_empty() {
            let ignored = checked.ignored(&place, &[]);
            return Err(DataError::format(&place.root(), format!("{ignored}; expected {EXPECTED}")));
        }
        let captions = captions::read(config.captions, &place, &chosen)?;
        let ignored = checked.ignored(&place, captions.as_ref().map_or(&[], |captions| &captions.files));
        let mut captions = captions.map(|captions| captions.of_images);

        if other.is_none() {
            let keys: Vec<u64> = chosen.iter().map(|&file| place.files().key(file as usize)).collect();
            let is_held_out = held_out(&keys);
            let mut is_of_split = is_held_out.iter().map(|&is_test| is_test == (split == Split::Test));
            if let Some(captions) = &mut captions {
                let mut is_of_split = is_of_split.clone();
                captions.retain(|_| is_of_split.next() == Some(true));
            }
            chosen.retain(|_| is_of_split.next() == Some(true));
            chosen.shrink_to_fit();
        }
        let label = |&file: &u32| {
            let folder = place.top_folder(file as usize)?;
            classes.binary_search(&folder).ok().map(|class| class as u32)
        };
        // Every file lies in a class folder, or it would be a bad one.
        let labels = (!classes.is_empty()).then(|| chosen.iter().filter_map(label).collect());
        Ok(Self { place, chosen, labels, classes, skipped, ignored, captions, config: config.clone() })
    }

    /// What all items have in common.
    pub(crate) fn info(&self) -> DataInfo {
        let channels = channels(self.config.channels);
        DataInfo {
            name: "images".into(),
            shape: vec![channels, self.config.size, self.config.size],
            classes: self.classes.clone(),
            units: Units::identity(channels),
            series: None,
            latent: false,
            has_captions: self.captions.is_some(),
        }
    }

    /// A picture as bytes, channel by channel.
    pub(crate) fn pixels(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let file = self.chosen[index] as usize;
        let image = self.place.decode(file).map_err(|reason| {
            let reason = format!("{reason} (it has changed since the start; {})", ways_out(&self.config.path));
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
        let caption = self.captions.as_ref().map(|captions| captions[index].clone());
        Ok(Example { values: values_of_bytes(&pixels), label, window: None, caption })
    }

    fn len(&self) -> usize {
        self.chosen.len()
    }
}

/// The names of the classes: the folders with pictures in them, or what should be such. Both splits must number them
/// alike.
fn classes(labels: ImageLabels, place: &Place, checked: &Checked, other: Option<&Place>) -> Vec<String> {
    if labels == ImageLabels::None {
        return Vec::new();
    }
    let mut names = place.top_folders(|file| !checked.is_other(file as u32));
    if let Some(other) = other {
        names.extend(other.top_folders(|file| other.is_meant_as_picture(file)));
    }
    names.into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
