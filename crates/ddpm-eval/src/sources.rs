//! Sources of images: each provides any of its images on demand, so that no set needs to fit into memory.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{DataConfig, OpenData, Split, fnv1a};
use ddpm_files::npy::{Number, RowReader};
use faer::Mat;

use super::arrays::npz_member;
use super::classifier::get;
use super::frechet::root;
use super::image::{Image, files};
use super::{EvaluationError, Features, Moments};

/// Values of an image at most for a covariance of pixels, whose size is the square of that.
pub const GAUSSIAN_VALUES: usize = 4096;

/// A source of any kind.
pub type AnySource = Box<dyn ImageSource>;

/// How far the sampling of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplingStep {
    /// Steps taken.
    pub done: usize,
    /// Steps of a batch.
    pub of: usize,
}

/// A sequence of images in a fixed order.
pub trait ImageSource {
    /// Number of images.
    fn count(&self) -> usize;

    /// A short name for people.
    fn name(&self) -> String;

    /// Everything that the images depend on: sources with equal identities have the same images.
    fn identity(&self) -> String;

    /// The images in a range.
    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError>;

    /// The same, with a report of every sampling step by a source that generates its images.
    fn images_with_progress(
        &self,
        range: Range<usize>,
        _on_step: &mut dyn FnMut(SamplingStep),
    ) -> Result<Vec<Image>, EvaluationError> {
        self.images(range)
    }
}

/// The image files of a folder, by path.
#[derive(Debug)]
pub struct Folder {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl Folder {
    /// Finds them.
    pub fn open(folder: &Path) -> Result<Self, EvaluationError> {
        Ok(Self { folder: folder.to_path_buf(), files: files(folder)? })
    }
}

impl ImageSource for Folder {
    fn count(&self) -> usize {
        self.files.len()
    }

    fn name(&self) -> String {
        self.folder.display().to_string()
    }

    fn identity(&self) -> String {
        let stamps: String = self.files.iter().map(|file| stamp(file)).collect();
        format!("folder {} {:016x}", self.folder.display(), fnv1a(stamps.bytes()))
    }

    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
        use rayon::prelude::*;
        self.files[range].par_iter().map(|file| Image::read(file)).collect()
    }
}

trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// Images in one array: bytes [N, H, W, C], or values in [-1, 1] as [N, C, H, W], which is what `sample` writes.
pub struct Rows {
    path: PathBuf,
    reader: Mutex<RowReader<Box<dyn ReadSeek>>>,
    count: usize,
    shape: [usize; 3],
    channels_last: bool,
}

impl Rows {
    /// Opens an `.npy`, or the array `arr_0` of an `.npz`.
    pub fn open(path: &Path) -> Result<Self, EvaluationError> {
        let source: Box<dyn ReadSeek> = match path.extension().is_some_and(|extension| extension == "npz") {
            true => Box::new(Cursor::new(npz_member(path, "arr_0")?)),
            false => Box::new(BufReader::new(File::open(path).map_err(EvaluationError::io(path))?)),
        };
        let reader = RowReader::new(source, path)?;
        let header = reader.header().clone();
        let (count, shape, channels_last) = match (header.number, &header.shape[..]) {
            (Number::U8, &[count, height, width, channels @ (1 | 3)]) => (count, [channels, height, width], true),
            (Number::F32 | Number::F64, &[count, channels @ (1 | 3), height, width]) => {
                (count, [channels, height, width], false)
            }
            _ => {
                let reason = format!(
                    "an array of {:?} {:?} is no array of images; expected u8 [N, H, W, C], or f32 in [-1, 1] as \
                     [N, C, H, W], with C = 1 or 3",
                    header.number, header.shape
                );
                return Err(EvaluationError::format(path, reason));
            }
        };
        Ok(Self { path: path.to_path_buf(), reader: Mutex::new(reader), count, shape, channels_last })
    }
}

impl ImageSource for Rows {
    fn count(&self) -> usize {
        self.count
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn identity(&self) -> String {
        format!("array {}", stamp(&self.path))
    }

    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
        let mut reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let values = reader.rows(range.clone(), &self.path)?;
        let [channels, height, width] = self.shape;
        let mut images = Vec::with_capacity(range.len());
        for (row, values) in range.zip(values.chunks_exact(channels * height * width)) {
            if self.channels_last {
                let bytes =
                    (0..channels).flat_map(|c| values.iter().skip(c).step_by(channels)).map(|v| *v as u8).collect();
                images.push(Image { channels, height, width, bytes });
                continue;
            }
            if let Some(value) = values.iter().find(|value| value.is_nan() || value.abs() > 1.001) {
                let reason =
                    format!("image {row} has a value {value}; expected values in [-1, 1], as `sample` writes them");
                return Err(EvaluationError::format(&self.path, reason));
            }
            let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
            images.push(Image::from_values(self.shape, &values));
        }
        Ok(images)
    }
}

/// A split of a dataset.
pub struct Dataset {
    data: OpenData,
    split: Split,
    identity: String,
    shape: [usize; 3],
    /// Only the items of a class: its name and their places.
    class: Option<(String, Vec<usize>)>,
}

impl Dataset {
    /// Opens it.
    pub fn open(config: &DataConfig, split: Split) -> Result<Self, EvaluationError> {
        let data = ddpm_data::open(config, split, 0)?;
        let [channels, height, width] = data.info.shape[..] else {
            let reason = format!("items of shape {:?} are no images", data.info.shape);
            return Err(EvaluationError::format(Path::new(&data.info.name), reason));
        };
        let identity = format!("dataset {config:?} {} of {}", split.name(), data.items.len());
        Ok(Self { data, split, identity, shape: [channels, height, width], class: None })
    }

    /// Only the items of a class.
    pub fn of_class(mut self, class: &str) -> Result<Self, EvaluationError> {
        let name = || Path::new(&self.data.info.name);
        let Some(label) = self.data.info.classes.iter().position(|name| name == class) else {
            let reason = format!("there is no class {class}; there are {}", self.data.info.classes.join(", "));
            return Err(EvaluationError::format(name(), reason));
        };
        let mut places = Vec::new();
        for index in 0..self.data.items.len() {
            if get(&self.data, index)?.label == Some(label) {
                places.push(index);
            }
        }
        if places.is_empty() {
            return Err(EvaluationError::format(
                name(),
                format!("no {} item has the class {class}", self.split.name()),
            ));
        }
        self.identity += &format!(", class {class}");
        self.class = Some((class.into(), places));
        Ok(self)
    }
}

impl ImageSource for Dataset {
    fn count(&self) -> usize {
        self.class.as_ref().map_or(self.data.items.len(), |(_, places)| places.len())
    }

    fn name(&self) -> String {
        let class = self.class.as_ref().map(|(class, _)| format!(", class {class}")).unwrap_or_default();
        format!("{} {}{class}", self.data.info.name, self.split.name())
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
        let place = |index: usize| self.class.as_ref().map_or(index, |(_, places)| places[index]);
        range.map(|index| Ok(Image::from_values(self.shape, &get(&self.data, place(index))?.values))).collect()
    }
}

/// Samples of a Gaussian with the mean and the full covariance of some images' values: the baseline.
pub struct PixelGaussian {
    shape: [usize; 3],
    mean: Vec<f64>,
    root: Mat<f64>,
    count: usize,
    seed: u64,
    identity: String,
}

impl PixelGaussian {
    /// Fits the first `most` images of a source; `None` if these are too large, too few or of several sizes.
    pub fn fit(
        source: &dyn ImageSource,
        most: usize,
        count: usize,
        seed: u64,
    ) -> Result<Option<Self>, EvaluationError> {
        let most = most.min(source.count());
        let Some(shape) = source.images(0..most.min(1))?.first().map(Image::shape) else { return Ok(None) };
        let width = shape.iter().product();
        if width > GAUSSIAN_VALUES || most < 2 {
            return Ok(None);
        }
        let mut moments = Moments::empty(width);
        for start in (0..most).step_by(512) {
            let images = source.images(start..(start + 512).min(most))?;
            if images.iter().any(|image| image.shape() != shape) {
                return Ok(None);
            }
            let values = images.iter().flat_map(Image::values).collect();
            moments.merge(&Moments::of(&Features::new(width, values)))?;
        }
        let statistics = moments.statistics()?;
        let identity = format!("pixel Gaussian of the first {most} of {}, seed {seed}", source.identity());
        Ok(Some(Self { shape, root: root(&statistics.covariance)?, mean: statistics.mean, count, seed, identity }))
    }
}

impl ImageSource for PixelGaussian {
    fn count(&self) -> usize {
        self.count
    }

    fn name(&self) -> String {
        "Gaussian of the pixels".into()
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
        let draws = gaussian_draws(&self.mean, &self.root, self.seed, range);
        Ok(draws.rows().map(|values| Image::from_values(self.shape, values)).collect())
    }
}

/// Samples of a Gaussian; sample k depends on the seed and on k alone.
pub fn gaussian_draws(mean: &[f64], root: &Mat<f64>, seed: u64, range: Range<usize>) -> Features {
    let width = mean.len();
    let eps = range.clone().flat_map(|k| normals(&mut rng(seed, Stream::Points, k as u64), width)).collect();
    let draws = Features::new(width, eps).matrix() * root;
    let value = |row: usize, column: usize| (mean[column] + draws[(row, column)]) as f32;
    Features::new(width, (0..range.len() * width).map(|i| value(i / width, i % width)).collect())
}

/// Path, size and time of the last change.
fn stamp(path: &Path) -> String {
    let metadata = std::fs::metadata(path).ok();
    let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    format!("{} {:?} {modified:?}\n", path.display(), metadata.map(|metadata| metadata.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_both_layouts_are_images() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npy");
        std::fs::write(&path, ddpm_files::npy::encode(&[2, 1, 1, 2], &[-1.0, 1.0, 0.0, 0.5])).unwrap();
        let rows = Rows::open(&path).unwrap();
        assert_eq!(rows.count(), 2);
        assert_eq!(rows.images(1..2).unwrap()[0].bytes, [128, 191]);
        std::fs::write(&path, ddpm_files::npy::encode(&[1, 1, 1, 2], &[-1.0, 3.0])).unwrap();
        let said = Rows::open(&path).unwrap().images(0..1).unwrap_err().to_string();
        assert!(said.contains("samples.npy") && said.contains("[-1, 1]"), "{said}");
        std::fs::write(&path, ddpm_files::npy::encode(&[2, 2], &[0.0; 4])).unwrap();
        assert!(Rows::open(&path).err().unwrap().to_string().contains("[N, H, W, C]"));
    }

    #[test]
    fn the_gaussian_has_the_moments_of_the_images() {
        let digits: DataConfig = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
        let digits = Dataset::open(&digits, Split::Train).unwrap();
        let gaussian = PixelGaussian::fit(&digits, 1000, 4000, 3).unwrap().unwrap();
        let all = gaussian_draws(&gaussian.mean, &gaussian.root, 3, 0..4000);
        let drawn = Moments::of(&all).statistics().unwrap();
        let off = drawn.mean.iter().zip(&gaussian.mean).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 0.05, "{off}");
        assert_eq!(all.select(7..9), gaussian_draws(&gaussian.mean, &gaussian.root, 3, 7..9));
    }
}
