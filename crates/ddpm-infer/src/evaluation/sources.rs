//! Where pictures come from: each source gives any of its pictures when asked, so that nothing holds all of them.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{DataConfig, OpenData, Split};
use ddpm_model::diffusion::Diffusion;
use faer::Mat;

use super::arrays::{Number, RowReader, npz_member};
use super::classifier::get;
use super::frechet::root;
use super::picture::{Picture, files};
use super::{EvaluationError, Features, Moments};
use crate::job::{JobError, Progress, SamplingJob, TrainedModel};
use crate::sample::in_half;
use crate::snapshot::{Snapshot, trained};

/// Values of a picture beyond which no covariance of pixels is taken: it would have the square of it.
pub const GAUSSIAN_VALUES: usize = 4096;

/// A source of whatever kind.
pub type AnySource = Box<dyn PictureSource>;

/// Some pictures in a fixed order.
pub trait PictureSource {
    /// How many there are.
    fn count(&self) -> usize;

    /// A short name for people.
    fn name(&self) -> String;

    /// All that the pictures depend on: two sources with one identity have the same ones.
    fn identity(&self) -> String;

    /// Some of them.
    fn pictures(&self, range: Range<usize>) -> Result<Vec<Picture>, EvaluationError>;

    /// The same, with a report of every step where they are drawn only now.
    fn drawn(
        &self,
        range: Range<usize>,
        _on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Picture>, EvaluationError> {
        self.pictures(range)
    }
}

/// The picture files of a folder, by path.
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

impl PictureSource for Folder {
    fn count(&self) -> usize {
        self.files.len()
    }

    fn name(&self) -> String {
        self.folder.display().to_string()
    }

    fn identity(&self) -> String {
        let stamps: String = self.files.iter().map(|file| stamp(file)).collect();
        format!("folder {} {:016x}", self.folder.display(), hash(stamps.as_bytes()))
    }

    fn pictures(&self, range: Range<usize>) -> Result<Vec<Picture>, EvaluationError> {
        use rayon::prelude::*;
        self.files[range].par_iter().map(|file| Picture::read(file)).collect()
    }
}

trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// Pictures in one array: bytes [N, H, W, C], or values in [-1, 1] as [N, C, H, W], which is what `sample` writes.
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
                    "an array of {:?} {:?} is not taken for pictures; expected u8 [N, H, W, C], or f32 in [-1, 1] as \
                     [N, C, H, W], with C = 1 or 3",
                    header.number, header.shape
                );
                return Err(EvaluationError::format(path, reason));
            }
        };
        Ok(Self { path: path.to_path_buf(), reader: Mutex::new(reader), count, shape, channels_last })
    }
}

impl PictureSource for Rows {
    fn count(&self) -> usize {
        self.count
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn identity(&self) -> String {
        format!("array {}", stamp(&self.path))
    }

    fn pictures(&self, range: Range<usize>) -> Result<Vec<Picture>, EvaluationError> {
        let mut reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let values = reader.rows(range.clone(), &self.path)?;
        let [channels, height, width] = self.shape;
        let mut pictures = Vec::with_capacity(range.len());
        for (row, values) in range.zip(values.chunks_exact(channels * height * width)) {
            if self.channels_last {
                let bytes =
                    (0..channels).flat_map(|c| values.iter().skip(c).step_by(channels)).map(|v| *v as u8).collect();
                pictures.push(Picture { channels, height, width, bytes });
                continue;
            }
            if let Some(value) = values.iter().find(|value| value.is_nan() || value.abs() > 1.001) {
                let reason =
                    format!("picture {row} holds {value}; expected values in [-1, 1], as `sample` writes them");
                return Err(EvaluationError::format(&self.path, reason));
            }
            let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
            pictures.push(Picture::from_values(self.shape, &values));
        }
        Ok(pictures)
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
            let reason = format!("items of shape {:?} are no pictures", data.info.shape);
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

    /// Channels, height and width of all of them.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }
}

impl PictureSource for Dataset {
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

    fn pictures(&self, range: Range<usize>) -> Result<Vec<Picture>, EvaluationError> {
        let place = |index: usize| self.class.as_ref().map_or(index, |(_, places)| places[index]);
        range.map(|index| Ok(Picture::from_values(self.shape, &get(&self.data, place(index))?.values))).collect()
    }
}

/// A weaker snapshot that guides another one (autoguidance).
pub struct Guide {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The process it was trained for.
    pub diffusion: Diffusion,
    /// Of its weights, see [`weights_hash`].
    pub weights_hash: u64,
}

/// What a snapshot draws: sample k is the same in whichever part it is drawn.
pub struct Samples {
    /// The snapshot; many sets may be drawn from one.
    pub snapshot: Arc<Snapshot>,
    /// The process it was trained for.
    pub diffusion: Arc<Diffusion>,
    /// What guides it in place of its null class.
    pub guide: Option<Arc<Guide>>,
    /// How it samples.
    pub job: SamplingJob,
    /// Where.
    pub device: Device,
    /// A short name for people.
    pub name: String,
    /// Of its weights, see [`weights_hash`].
    pub weights_hash: u64,
}

/// A number for the weights of a snapshot and what they are trained for.
pub fn weights_hash(snapshot: &Snapshot) -> u64 {
    struct Bytes(Vec<u8>);
    impl ModuleVisitor for Bytes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().as_bytes());
        }
    }
    let mut bytes = Bytes(format!("{:?}", snapshot.config.diffusion).into_bytes());
    snapshot.network.visit(&mut bytes);
    hash(&bytes.0)
}

impl Samples {
    /// Some of them, with a report of every step.
    pub fn draw(
        &self,
        range: Range<usize>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<crate::job::Samples, JobError> {
        let guide = self.guide.as_ref().map(|guide| trained(&guide.snapshot, &guide.diffusion));
        let model = TrainedModel { guide: guide.as_ref(), ..trained(&self.snapshot, &self.diffusion) };
        self.job.run_part(&model, range, &self.device, on_progress)
    }
}

impl PictureSource for Samples {
    fn count(&self) -> usize {
        self.job.count
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn identity(&self) -> String {
        // Neither the number of samples nor that of a batch is anything to a sample.
        let job = SamplingJob { count: 0, batch_size: 0, ..self.job.clone() };
        let half = in_half(&self.snapshot.network);
        let guide = self.guide.as_ref().map(|guide| format!(" guided by {:016x}", guide.weights_hash));
        let guide = guide.unwrap_or_default();
        format!("samples of {:016x}{guide} by {job:?} on {:?}{half}", self.weights_hash, self.device)
    }

    fn pictures(&self, range: Range<usize>) -> Result<Vec<Picture>, EvaluationError> {
        self.drawn(range, &mut |_| {})
    }

    fn drawn(
        &self,
        range: Range<usize>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Picture>, EvaluationError> {
        let samples = self.draw(range, on_progress)?;
        let [channels, height, width] = samples.shape[..] else {
            return Err(JobError::Rank { shape: samples.shape }.into());
        };
        let one = |values: &[f32]| Picture::from_values([channels, height, width], values);
        Ok(samples.values.chunks_exact(channels * height * width).map(one).collect())
    }
}

/// Draws of a Gaussian with the mean and the full covariance of some pictures' values: what a model is worth that
/// knows nothing but these.
pub struct PixelGaussian {
    shape: [usize; 3],
    mean: Vec<f64>,
    root: Mat<f64>,
    count: usize,
    seed: u64,
    identity: String,
}

impl PixelGaussian {
    /// Fits the first `most` pictures of a source; nothing if these are too large, too few or of several sizes.
    pub fn fit(
        source: &dyn PictureSource,
        most: usize,
        count: usize,
        seed: u64,
    ) -> Result<Option<Self>, EvaluationError> {
        let most = most.min(source.count());
        let Some(shape) = source.pictures(0..most.min(1))?.first().map(Picture::shape) else { return Ok(None) };
        let width = shape.iter().product();
        if width > GAUSSIAN_VALUES || most < 2 {
            return Ok(None);
        }
        let mut moments = Moments::empty(width);
        for start in (0..most).step_by(512) {
            let pictures = source.pictures(start..(start + 512).min(most))?;
            if pictures.iter().any(|picture| picture.shape() != shape) {
                return Ok(None);
            }
            let values = pictures.iter().flat_map(Picture::values).collect();
            moments.merge(&Moments::of(&Features::new(width, values)))?;
        }
        let statistics = moments.statistics()?;
        let identity = format!("pixel Gaussian of the first {most} of {}, seed {seed}", source.identity());
        Ok(Some(Self { shape, root: root(&statistics.covariance)?, mean: statistics.mean, count, seed, identity }))
    }
}

impl PictureSource for PixelGaussian {
    fn count(&self) -> usize {
        self.count
    }

    fn name(&self) -> String {
        "Gaussian of the pixels".into()
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn pictures(&self, range: Range<usize>) -> Result<Vec<Picture>, EvaluationError> {
        let draws = gaussian_draws(&self.mean, &self.root, self.seed, range);
        Ok(draws.rows().map(|values| Picture::from_values(self.shape, values)).collect())
    }
}

/// Draw k of a Gaussian depends on the seed and on k alone.
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

/// FNV-1a of 64 bits: it tells inputs apart, and withstands no attack.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_both_layouts_are_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npy");
        std::fs::write(&path, crate::npy::encode(&[2, 1, 1, 2], &[-1.0, 1.0, 0.0, 0.5])).unwrap();
        let rows = Rows::open(&path).unwrap();
        assert_eq!(rows.count(), 2);
        assert_eq!(rows.pictures(1..2).unwrap()[0].bytes, [128, 191]);
        std::fs::write(&path, crate::npy::encode(&[1, 1, 1, 2], &[-1.0, 3.0])).unwrap();
        let said = Rows::open(&path).unwrap().pictures(0..1).unwrap_err().to_string();
        assert!(said.contains("samples.npy") && said.contains("[-1, 1]"), "{said}");
        std::fs::write(&path, crate::npy::encode(&[2, 2], &[0.0; 4])).unwrap();
        assert!(Rows::open(&path).err().unwrap().to_string().contains("[N, H, W, C]"));
    }

    #[test]
    fn the_gaussian_has_the_moments_of_the_pictures() {
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
