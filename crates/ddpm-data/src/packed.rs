//! Pictures decoded once and for all: one file of bytes in the size of training, mapped into memory.
//!
//! The file is a mark, the pixels of all items (those of the train split first), a class of four bytes for each where
//! there are classes, a description in JSON, and a tail that says where the description begins. Nothing of it is read
//! but what is asked for; the checksum of all is compared by [`verify`].

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use burn_dataset::{Dataset, DatasetError};
use ddpm_files::atomic::AtomicFile;
use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::{ImagesConfig, PackedConfig};
use crate::error::{BadFile, DataError, Ignored};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::image_folder::{self, Images};
use crate::known_good::cache_folder;
use crate::names::shown;
use crate::open::{CheckProgress, OpenData, Split};
use crate::pixels::values_of_bytes;

const MAGIC: &[u8; 16] = b"ddpm pictures 1\n";
/// Where the description begins, and its checksum.
const TAIL: usize = 12;
/// A description has a name for each class, and little else.
const LARGEST_DESCRIPTION: u64 = 64 << 20;
const EXPECTED: &str = "a file that `ddpm-infer data build` made";
/// Pictures that are decoded at once.
const TOGETHER: usize = 256;

/// What a file of packed pictures says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// What all items have in common.
    pub info: DataInfo,
    /// Items of the train split.
    pub train: usize,
    /// Items of the test split, which follow.
    pub test: usize,
    /// What it was made of, with its whole path.
    pub source: ImagesConfig,
    /// Of the names, sizes and times of change in the source.
    fingerprint: u64,
    /// Of all that stands before the description.
    checksum: u32,
}

/// Decodes all pictures of a folder or archive into the file `out`, and tells `progress` how many are done, and of how
/// many. Before that all of them are checked. Gives the description, the files that were left out, and those that are
/// no pictures.
pub fn build(
    source: &ImagesConfig,
    out: &Path,
    checked: CheckProgress<'_>,
    mut progress: impl FnMut(usize, usize),
) -> Result<(Packed, Vec<BadFile>, Ignored), DataError> {
    if source.binarize.is_some() {
        let reason = "a packed file has the images as they are; give the threshold where the file is read".into();
        return Err(DataError::Config { key: "binarize", reason });
    }
    let mut source = source.clone();
    source.path =
        fs::canonicalize(&source.path).map_err(|error| DataError::io(&source.path, image_folder::EXPECTED, error))?;
    let fingerprint = image_folder::fingerprint(&source.path)?;
    let cache = cache_folder();
    let open = |split| Images::open(&source, split, cache.as_deref(), checked);
    let splits = [open(Split::Train)?, open(Split::Test)?];
    let info = splits[0].info();

    let on_io = |source| DataError::Write { path: out.to_path_buf(), source };
    let mut file = Summed { file: AtomicFile::begin(out)?, crc: Default::default(), len: 0 };
    file.write(MAGIC).map_err(on_io)?;
    let (mut done, all) = (0, splits.iter().map(Dataset::len).sum());
    for images in &splits {
        for start in (0..images.len()).step_by(TOGETHER) {
            let end = (start + TOGETHER).min(images.len());
            let pixels: Vec<_> = (start..end).into_par_iter().map(|index| images.pixels(index)).collect();
            for pixels in pixels {
                file.write(&pixels?).map_err(on_io)?;
            }
            done += end - start;
            progress(done, all);
        }
    }
    for label in splits.iter().filter_map(|images| images.labels.as_deref()).flatten() {
        file.write(&label.to_le_bytes()).map_err(on_io)?;
    }
    let [train, test] = [splits[0].len(), splits[1].len()];
    let checksum = file.crc.clone().finalize();
    let packed = Packed { info, train, test, source: source.clone(), fingerprint, checksum };
    let description = serde_json::to_vec(&packed).map_err(|error| on_io(error.into()))?;
    let start = file.len;
    file.write(&description).map_err(on_io)?;
    file.write(&start.to_le_bytes()).map_err(on_io)?;
    file.write(&crc32fast::hash(&description).to_le_bytes()).map_err(on_io)?;
    file.file.commit()?;
    let [train, _] = splits;
    Ok((packed, train.skipped, train.ignored))
}

/// Reads a whole file and compares it with its checksum.
pub fn verify(path: &Path) -> Result<Packed, DataError> {
    let (mut file, packed, start) = describe(path)?;
    let on_io = |source| DataError::io(path, EXPECTED, source);
    file.seek(SeekFrom::Start(0)).map_err(on_io)?;
    let mut rest = file.take(start);
    let mut crc = crc32fast::Hasher::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        match rest.read(&mut bytes).map_err(on_io)? {
            0 => break,
            read => crc.update(&bytes[..read]),
        }
    }
    if crc.finalize() != packed.checksum {
        return Err(damaged(path, "its images are not those that were written"));
    }
    packed.check_source(path)?;
    Ok(packed)
}

/// Opens a split of packed pictures. Damage that keeps the length is only found by [`verify`].
pub(crate) fn open(config: &PackedConfig, split: Split) -> Result<OpenData, DataError> {
    let path = &config.path;
    let (file, packed, start) = describe(path)?;
    packed.check_source(path)?;
    let map = map(&file).map_err(|source| DataError::io(path, EXPECTED, source))?;
    // The file may have been cut meanwhile.
    if (map.len() as u64) < start {
        return Err(damaged(path, "it was cut short"));
    }
    let (first, len) = match split {
        Split::Train => (0, packed.train),
        Split::Test => (packed.train, packed.test),
    };
    let labels = match packed.info.classes.len() {
        0 => None,
        classes => {
            let at = MAGIC.len() + (packed.train + packed.test) * packed.info.values_per_item() + 4 * first;
            let words = map[at..at + 4 * len].as_chunks::<4>().0;
            let labels: Arc<[u32]> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
            if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
                return Err(damaged(path, format!("it has the class {label} of {classes}")));
            }
            Some(labels)
        }
    };
    let width = packed.info.values_per_item();
    Ok(OpenData {
        info: packed.info,
        items: Arc::new(Mapped { map, start: MAGIC.len() + first * width, width, len, labels: labels.clone() }),
        skipped: Vec::new(),
        series: None,
        ignored: Default::default(),
        labels,
        flip: Flip::half_if(config.horizontal_flip),
    })
}

impl Packed {
    /// Whether the items have pixels, and units for each of their channels.
    fn describes_pictures(&self) -> bool {
        let Units { shift, scale } = &self.info.units;
        matches!(*self.info.shape, [channels @ (1 | 3), height, width]
            if height > 0 && width > 0 && shift.len() == channels && scale.len() == channels)
    }

    /// Bytes before the description.
    fn body(&self) -> Option<u64> {
        let item = self.info.shape.iter().try_fold(1u64, |bytes, &size| bytes.checked_mul(size as u64))?;
        let item = item.checked_add(if self.info.classes.is_empty() { 0 } else { 4 })?;
        let items = (self.train as u64).checked_add(self.test as u64)?;
        items.checked_mul(item)?.checked_add(MAGIC.len() as u64)
    }

    /// Whether the source, if it still lies where it was, is what it was.
    fn check_source(&self, path: &Path) -> Result<(), DataError> {
        let source = &self.source.path;
        if !source.exists() || image_folder::fingerprint(source)? == self.fingerprint {
            return Ok(());
        }
        let source = shown(source);
        let reason =
            format!("{source} has changed since this was made of it; make it again with `ddpm-infer data build`");
        Err(DataError::format(path, reason))
    }
}

/// The description, and where it begins, which is where what it describes must end.
fn describe(path: &Path) -> Result<(File, Packed, u64), DataError> {
    let on_io = |source| DataError::io(path, EXPECTED, source);
    let mut file = File::open(path).map_err(on_io)?;
    let len = file.metadata().map_err(on_io)?.len();
    let mut magic = [0; MAGIC.len()];
    let is_packed = file.read_exact(&mut magic).is_ok() && &magic == MAGIC;
    if !is_packed {
        return Err(DataError::format(path, format!("begins with other bytes; expected {EXPECTED}")));
    }
    let cut = || damaged(path, "its end is missing, as if it was cut short");
    let tail_start = len.checked_sub(TAIL as u64).ok_or_else(cut)?;
    let mut tail = [0; TAIL];
    file.seek(SeekFrom::Start(tail_start)).and_then(|_| file.read_exact(&mut tail)).map_err(on_io)?;
    let (start, crc) = tail.split_at(8);
    let start = start.try_into().map_or(u64::MAX, u64::from_le_bytes);
    let crc = crc.try_into().map_or(0, u32::from_le_bytes);
    let description_len = tail_start.checked_sub(start).filter(|&len| len <= LARGEST_DESCRIPTION).ok_or_else(cut)?;
    let mut description = vec![0; description_len as usize];
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut description)).map_err(on_io)?;
    if crc32fast::hash(&description) != crc {
        return Err(damaged(path, "its description is not the one that was written"));
    }
    let packed: Packed = serde_json::from_slice(&description).map_err(|error| {
        DataError::format(path, format!("its description cannot be read ({error}); make it again with this version"))
    })?;
    if !packed.describes_pictures() {
        return Err(damaged(path, format!("its items have the shape {:?}", packed.info.shape)));
    }
    if packed.body() != Some(start) {
        return Err(damaged(path, format!("it has {start} bytes of images, and describes others")));
    }
    Ok((file, packed, start))
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> DataError {
    DataError::format(path, format!("damaged: {reason}; make it again with `ddpm-infer data build`"))
}

/// The bytes of a file as memory.
#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes are read as numbers of any value, so another program that writes into the file can change
    // pictures and nothing else. Whoever cuts it short under a running training ends that, as with a program's file.
    unsafe { Mmap::map(file) }
}

/// The pictures of a split.
struct Mapped {
    map: Mmap,
    start: usize,
    width: usize,
    len: usize,
    labels: Option<Arc<[u32]>>,
}

impl Dataset<Example> for Mapped {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let pixels = &self.map[self.start + index * self.width..][..self.width];
        let label = self.labels.as_ref().map(|labels| labels[index] as usize);
        Ok(Example { values: values_of_bytes(pixels), label, window: None, caption: None })
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// A file that is written from front to back, with its checksum so far.
struct Summed {
    file: AtomicFile,
    crc: crc32fast::Hasher,
    len: u64,
}

impl Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Whether a file begins as packed pictures do.
pub fn is_packed(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok() && &magic == MAGIC)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use crate::DataConfig;
    use image::{Rgb, RgbImage};

    fn folder() -> (tempfile::TempDir, ImagesConfig, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for k in 0..20_u8 {
            let path = dir.path().join(format!("pictures/{}/{k}.png", ["cat", "dog"][usize::from(k % 2)]));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::from_fn(9, 12, |x, y| Rgb([k, 20 * x as u8, 20 * y as u8])).save(path).unwrap();
        }
        let path = dir.path().join("pictures");
        let config = toml::from_str(&format!("path = '{}'\nsize = 8\nlabels = 'folders'", path.display())).unwrap();
        let out = dir.path().join("pictures.ddpm");
        (dir, config, out)
    }

    fn split(config: &DataConfig, split: Split) -> Result<Vec<Example>, DataError> {
        let data = crate::open(config, split, 0)?;
        let items = (0..data.items.len()).map(|item| data.items.get(item).unwrap()).collect::<Vec<_>>();
        let labels: Vec<_> = items.iter().map(|item| item.label.map(|label| label as u32)).collect();
        assert_eq!(data.labels().unwrap().unwrap().iter().map(|&label| Some(label)).collect::<Vec<_>>(), labels);
        Ok(items)
    }

    fn packed(path: &Path) -> DataConfig {
        DataConfig::Packed(PackedConfig { path: path.into(), horizontal_flip: false, binarize: None })
    }

    #[test]
    fn packed_pictures_are_those_of_the_folder_in_the_same_order() {
        let (_dir, config, out) = folder();
        let mut told = Vec::new();
        let (described, skipped, _) = build(&config, &out, &|_, _| {}, |done, all| told.push((done, all))).unwrap();
        assert_eq!((described.train, described.test, skipped.len()), (18, 2, 0));
        assert_eq!(told, [(18, 20), (20, 20)]);
        assert_eq!(verify(&out).unwrap(), described);
        assert!(is_packed(&out));
        for which in [Split::Train, Split::Test] {
            let folder = split(&DataConfig::Images(config.clone()), which).unwrap();
            assert_eq!(split(&packed(&out), which).unwrap(), folder);
        }
        assert_eq!(crate::open(&packed(&out), Split::Train, 0).unwrap().info, described.info);
        // The folder is not needed.
        fs::rename(&config.path, config.path.with_extension("away")).unwrap();
        assert_eq!(split(&packed(&out), Split::Train).unwrap().len(), 18);
    }

    #[test]
    fn stale_and_damaged_files_are_named() {
        let (_dir, config, out) = folder();
        build(&config, &out, &|_, _| {}, |_, _| {}).unwrap();
        let said = |expected: &str, at_once: bool| {
            let refused = [verify(&out).err(), split(&packed(&out), Split::Train).err()];
            let [verified, opened] = refused.map(|error| error.map_or(String::new(), |error| error.to_string()));
            assert!(verified.contains("pictures.ddpm") && verified.contains(expected), "{verified}");
            assert_eq!(at_once, opened.contains(expected), "{opened}");
        };
        let whole = fs::read(&out).unwrap();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            fs::write(&out, bytes).unwrap();
        };
        with(&|bytes| bytes[1000] ^= 1);
        said("its images are not those", false);
        with(&|bytes| bytes.truncate(2000));
        said("cut short", true);
        with(&|bytes| bytes.truncate(20));
        said("cut short", true);
        with(&|bytes| bytes[3] = b'X');
        said("begins with other bytes", true);
        let description = whole.len() - 50;
        with(&|bytes| bytes[description] ^= 1);
        said("its description is not the one", true);
        with(&|bytes| drop(bytes.drain(100..200)));
        said("damaged", true);

        fs::write(&out, &whole).unwrap();
        verify(&out).unwrap();
        let one = config.path.join("cat/0.png");
        fs::copy(config.path.join("dog/1.png"), &one).unwrap();
        said("has changed since", true);
        build(&config, &out, &|_, _| {}, |_, _| {}).unwrap();
        fs::remove_file(&one).unwrap();
        said("has changed since", true);
    }

    #[test]
    fn what_cannot_be_packed_leaves_nothing_behind() {
        let (dir, config, out) = folder();
        fs::write(config.path.join("cat/bad.png"), "no picture").unwrap();
        assert!(build(&config, &out, &|_, _| {}, |_, _| {}).unwrap_err().to_string().contains("bad.png"));
        let binary = ImagesConfig { binarize: Some(0.5), ..config.clone() };
        let said = build(&binary, &out, &|_, _| {}, |_, _| {}).unwrap_err().to_string();
        assert!(said.contains("data.binarize"), "{said}");
        let nowhere = dir.path().join("no/folder/x.ddpm");
        let skip = ImagesConfig { on_bad_file: crate::OnBadFile::Skip, ..config };
        assert!(build(&skip, &nowhere, &|_, _| {}, |_, _| {}).unwrap_err().to_string().contains("cannot be written"));
        let (described, skipped, _) = build(&skip, &out, &|_, _| {}, |_, _| {}).unwrap();
        assert_eq!((described.train + described.test, skipped.len()), (20, 1));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
