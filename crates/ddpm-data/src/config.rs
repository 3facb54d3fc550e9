//! The `[data]` table of an experiment. Every key but `path` has a default.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::names::read_path;
use crate::series::ReadHints;

/// Which data, and how they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataConfig {
    /// The bundled UCI handwritten digits, 8x8, 10 classes.
    Digits(DigitsConfig),
    /// Generated images of a square, an ellipse or a triangle, 16x16, with known factors: shape, scale and position.
    Sprites(SpritesConfig),
    /// Generated images of one colored shape on a dark background, 32x32, with captions.
    Shapes(ShapesConfig),
    /// A folder or zip archive of images.
    Images(ImagesConfig),
    /// Images, with captions if wanted, in Parquet files, as the datasets of the Hugging Face Hub are. Needs the feature
    /// `parquet`.
    ImageTable(ImageTableConfig),
    /// Images that `cargo xtask data build` decoded into one file.
    Packed(PackedConfig),
    /// CIFAR-10 in its binary version, 32x32, 10 classes.
    Cifar10(Cifar10Config),
    /// MNIST as idx files, 10 classes.
    Mnist(MnistConfig),
    /// Fashion-MNIST as idx files, 10 classes.
    FashionMnist(MnistConfig),
    /// A spiral of one and a half turns.
    SwissRoll(PointsConfig),
    /// Two half circles, one inside the arm of the other.
    Moons(PointsConfig),
    /// Two circles, one inside the other.
    Circles(PointsConfig),
    /// The letter S.
    SCurve(PointsConfig),
    /// Eight Gaussians on a circle.
    #[serde(rename = "gaussians-8")]
    Gaussians8(PointsConfig),
    /// Twenty-five Gaussians on a grid.
    #[serde(rename = "gaussians-25")]
    Gaussians25(PointsConfig),
    /// Every other field of a 4x4 board.
    Checkerboard(PointsConfig),
    /// Two columns of a CSV file.
    Csv(CsvConfig),
    /// A generated series of 4 variables with a season, which all jump up or down together at each step.
    BimodalSeries(GeneratedSeriesConfig),
    /// Generated windows of 4 variables over 48 steps: mixtures of two waves with noise.
    Sines(GeneratedSeriesConfig),
    /// Generated windows of 4 leads over 248 steps that look like electrocardiograms.
    Ecg(GeneratedSeriesConfig),
    /// Four years of daily weather in Seattle (bundled): precipitation, highest and lowest temperature, wind.
    SeattleWeather(BundledSeriesConfig),
    /// Time series in a file or a folder: CSV, JSON lines, GluonTS, `.tsf`, PhysioNet 2012, Parquet.
    Series(SeriesFileConfig),
    /// Time series in an array of NumPy.
    SeriesArray(SeriesArrayConfig),
}

/// No key mirrors them: mirrored digits are not digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigitsConfig {
    /// Which digits are for the test.
    #[serde(default, skip_serializing_if = "DigitsSplit::is_usual")]
    pub split: DigitsSplit,
    /// Threshold between 0 (black) and 1 (white): values at or above it become white, the others black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarize: Option<f64>,
}

/// Which digits are for the test: one in five in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DigitsSplit {
    /// One in five of each class, so that every writer is on both sides.
    #[default]
    Stratified,
    /// The last rows of the file, so that most writers of the test are in the test only.
    LastRows,
}

impl DigitsSplit {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// All 1,152 combinations of 3 shapes, 6 scales and 8x8 positions, one image each; the class is the shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpritesConfig {
    /// Threshold between 0 (black) and 1 (white): values at or above it become white, the others black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarize: Option<f64>,
}

/// A circle, square or triangle in one of four colors, two sizes and four places, each image with a caption such as `a tiny
/// red circle at the upper left`. Ten of the 96 combinations are never in the train split; the test split shows all 96 ten
/// times, so that it has other images of what was seen, and what was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapesConfig {
    /// Images of the train split.
    pub count: usize,
    /// Which images are drawn. The same for every run, whatever its own seed: models that are trained apart see the same
    /// data.
    pub seed: u64,
}

/// A folder or zip archive of png, jpeg, webp, bmp or tiff files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// The folder or archive; sub-folders `train` and `test`, where both exist, are the split.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// Height and width that every image is scaled and cropped to.
    #[serde(default = "default_image_size")]
    pub size: usize,
    /// Colour or grey.
    #[serde(default)]
    pub channels: ImageChannels,
    /// Where the classes come from.
    #[serde(default)]
    pub labels: ImageLabels,
    /// Where the captions come from, for text to image.
    #[serde(default, skip_serializing_if = "ImageCaptions::is_usual")]
    pub captions: ImageCaptions,
    /// How an image of another size is made to fit.
    #[serde(default)]
    pub resize: ImageResize,
    /// Mirrors half of the training images left to right.
    #[serde(default)]
    pub horizontal_flip: bool,
    /// What to do about files that should be images and cannot be read. They are found at the start: every file is then
    /// decoded once.
    #[serde(default)]
    pub on_bad_file: OnBadFile,
    /// Threshold between 0 (black) and 1 (white): values at or above it become white, the others black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarize: Option<f64>,
}

/// A Parquet file, or a folder of them, itself or in its folder `data`. Where there are files `train*` and `test*` (or
/// `validation*`), these are the split. The files of the images stay in memory as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTableConfig {
    /// The file or folder.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// Height and width that every image is scaled and cropped to.
    #[serde(default = "default_image_size")]
    pub size: usize,
    /// Colour or grey.
    #[serde(default)]
    pub channels: ImageChannels,
    /// The column of the images: bytes of png, jpeg, webp, bmp or tiff files, or a group with such `bytes`.
    #[serde(default = "default_image_column")]
    pub image: String,
    /// The column of the captions, for text to image; `"auto"`: `text`, `caption` or `captions`; `"none"`: no captions. Of a
    /// list of captions the first one counts.
    #[serde(default = "default_captions")]
    pub captions: String,
    /// Mirrors half of the training images left to right.
    #[serde(default)]
    pub horizontal_flip: bool,
    /// What to do about images that cannot be read.
    #[serde(default)]
    pub on_bad_file: OnBadFile,
}

/// Colour or grey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageChannels {
    /// Three channels.
    #[default]
    Rgb,
    /// One channel.
    Grayscale,
}

/// Where the classes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageLabels {
    /// No classes.
    #[default]
    None,
    /// One class for each sub-folder.
    Folders,
}

/// Where the captions come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageCaptions {
    /// No captions.
    #[default]
    None,
    /// `metadata.jsonl` if there is one, or else the text files.
    Auto,
    /// A line of `metadata.jsonl` for each image: its `file_name`, and its caption as `text` or `caption`.
    Metadata,
    /// A text file next to each image: `a.txt` for `a.png`.
    TextFiles,
}

impl ImageCaptions {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How an image of another size is made to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageResize {
    /// Scaled until it covers the square, then cropped to the center.
    #[default]
    CoverAndCentreCrop,
}

/// What to do about files that should be pictures and cannot be read as such. They are known at the start: every file
/// is then decoded once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadFile {
    /// Stop with an error that names them.
    #[default]
    Stop,
    /// Leave them out, and report them.
    Skip,
}

/// A file of images in the size of training, with their classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedConfig {
    /// The file.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// Mirrors half of the training images left to right.
    #[serde(default)]
    pub horizontal_flip: bool,
    /// Threshold between 0 (black) and 1 (white): values at or above it become white, the others black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarize: Option<f64>,
}

/// The binary version, as its authors distribute it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cifar10Config {
    /// The folder with `data_batch_1.bin` and the other files, or the folder above it.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// Mirrors half of the training images left to right, as the DDPM paper does.
    #[serde(default = "default_true")]
    pub horizontal_flip: bool,
    /// Threshold between 0 (black) and 1 (white): values at or above it become white, the others black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarize: Option<f64>,
}

/// The four idx files, as their authors distribute them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MnistConfig {
    /// The folder with `train-images-idx3-ubyte` and the other files, with or without `.gz`.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// 28 as in the files, or 32 with a border of background, which halves more often.
    #[serde(default)]
    pub size: MnistSize,
    /// Mirrors half of the training images left to right (sensible for some clothes, not for digits).
    #[serde(default)]
    pub horizontal_flip: bool,
    /// Threshold between 0 (black) and 1 (white): values at or above it become white, the others black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarize: Option<f64>,
}

/// Height and width of an MNIST picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub enum MnistSize {
    /// As in the files.
    As28,
    /// With a border of two pixels of background.
    #[default]
    PaddedTo32,
}

/// Points drawn from a formula.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PointsConfig {
    /// Points of the train split; the test split has as many others.
    pub count: usize,
    /// Which points are drawn; left out: the seed of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A table of numbers, one point a line. Each coordinate is scaled to mean 0 and standard deviation 1; samples come
/// back in the units of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// The file.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// The columns of the two coordinates: names, or numbers counted from 0.
    #[serde(default = "default_columns")]
    pub columns: [Column; 2],
}

/// A column of a CSV file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a column's name, or its number counted from 0")]
pub enum Column {
    /// Counted from 0.
    Index(usize),
    /// As in the header line.
    Name(String),
}

/// Which steps or windows are for training; the others, which follow them, are for the test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesSplit {
    /// The first so many steps of each series, or windows of a set of windows; left out: four in five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<usize>,
}

impl SeriesSplit {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// With what is usual for data that nobody changed the size of.
    pub(crate) fn or_train(&self, usual: usize, count: Option<usize>) -> Self {
        Self { train: self.train.or(count.is_none().then_some(usual)) }
    }

    /// How many of these are for training: at least one is, and one is not where there are two or more.
    pub(crate) fn train_of(&self, count: usize) -> usize {
        let usual = count - count / 5;
        self.train.unwrap_or(usual).min(count)
    }
}

/// Series that are generated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedSeriesConfig {
    /// Which series are drawn.
    #[serde(default)]
    pub seed: u64,
    /// Steps of one long series, or number of windows; left out: what the baselines are stated for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// What is for training.
    #[serde(default, skip_serializing_if = "SeriesSplit::is_usual")]
    pub split: SeriesSplit,
    /// Steps of a window of one long series, for families that do not say it themselves; left out: 48.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
}

/// Series that come with the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledSeriesConfig {
    /// What is for training; left out: the first three of the four years.
    #[serde(default, skip_serializing_if = "SeriesSplit::is_usual")]
    pub split: SeriesSplit,
    /// Steps of a window, for families that do not say it themselves; left out: 48.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
}

/// Time series in a file or a folder. The format, the column of the times and their frequency are found; the keys are for
/// where they are not, or not the ones that are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesFileConfig {
    /// The file or folder.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// The column of the times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The column that names the series, where each row has one value of one series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The columns to learn; left out: all that are numbers and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<String>,
    /// Columns that are known beforehand, also for the time to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covariates: Vec<String>,
    /// The frequency: `h`, `d`, `b` (business days), `10min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency: Option<String>,
    /// Whether series of one variable each are learned together, as the variables of one series.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grouped: bool,
    /// What separates the fields of a CSV file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
    /// The decimal mark of its numbers: `.` or `,`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimal: Option<char>,
    /// What is for training.
    #[serde(default, skip_serializing_if = "SeriesSplit::is_usual")]
    pub split: SeriesSplit,
    /// Steps of a window, for families that do not say it themselves; left out: 48.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
}

/// Time series in an `.npy` file. NaN is a value that was never observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesArrayConfig {
    /// The file.
    #[serde(deserialize_with = "read_path")]
    pub path: PathBuf,
    /// What its axes are.
    pub layout: SeriesLayout,
    /// An `.npy` file of the same shape: 1 where a value was observed, 0 where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<PathBuf>,
    /// The time of the first step, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The frequency, where it is known: `h`, `d`, `b` (business days), `10min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency: Option<String>,
    /// What is for training: steps of `"TK"`, windows of `"NLK"`.
    #[serde(default, skip_serializing_if = "SeriesSplit::is_usual")]
    pub split: SeriesSplit,
    /// Steps of a window of `"TK"`, for families that do not say it themselves; left out: 48.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
}

/// The axes of an array of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeriesLayout {
    /// One long series: its steps, its variables.
    TK,
    /// Windows of one length: which one, their steps, their variables.
    NLK,
}

/// A key of the config and what is wrong with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key inside the `[data]` table.
    pub key: &'static str,
    /// What is wrong and what was expected.
    pub reason: String,
}

impl DataConfig {
    /// Built-in datasets, which need no path, and their descriptions.
    pub const BUILT_IN: [(&str, &str); 14] = [
        ("digits", "1,797 handwritten digits, 8x8, ten classes (built in)"),
        ("sprites", "1,152 images of three shapes, 16x16, with known factors (generated)"),
        ("shapes", "images of a colored shape with a caption, 32x32 (generated)"),
        ("swiss-roll", "2-D points on a spiral (generated)"),
        ("moons", "2-D points on two half circles (generated)"),
        ("circles", "2-D points on two circles (generated)"),
        ("s-curve", "2-D points on the letter S (generated)"),
        ("gaussians-8", "2-D points of eight Gaussians on a circle (generated)"),
        ("gaussians-25", "2-D points of 25 Gaussians on a grid (generated)"),
        ("checkerboard", "2-D points on every other field of a board (generated)"),
        ("bimodal-series", "a long time series of 4 variables that jump up or down together (generated)"),
        ("sines", "time series of 4 variables over 48 steps: mixtures of two waves (generated)"),
        ("ecg", "time series of 4 leads over 248 steps, like electrocardiograms (generated)"),
        ("seattle-weather", "daily weather in Seattle, 2012 to 2015, 4 variables (built in)"),
    ];

    /// Kinds of data that are read from a path, and their descriptions.
    pub const FROM_PATH: [(&str, &str); 9] = [
        ("images", "a folder or zip archive of png, jpeg, webp, bmp or tiff files, classes by sub-folder if wanted"),
        ("image-table", "images and captions in Parquet files, as on the Hugging Face Hub"),
        ("packed", "images that `data build` decoded into one file"),
        ("cifar10", "the folder of CIFAR-10's binary version"),
        ("mnist", "the folder of MNIST's idx files, with or without .gz"),
        ("fashion-mnist", "the same for Fashion-MNIST"),
        ("csv", "a CSV file with two columns of numbers"),
        ("series", "time series as CSV, JSON lines, GluonTS, .tsf, PhysioNet 2012 or Parquet; the format is found"),
        ("series-array", "time series in an .npy file; `layout` says what its axes are: \"TK\" or \"NLK\""),
    ];

    /// The kind, as it is written in a config.
    pub fn kind(&self) -> &'static str {
        match self {
            DataConfig::Digits(_) => "digits",
            DataConfig::Sprites(_) => "sprites",
            DataConfig::Shapes(_) => "shapes",
            DataConfig::Images(_) => "images",
            DataConfig::ImageTable(_) => "image-table",
            DataConfig::Packed(_) => "packed",
            DataConfig::Cifar10(_) => "cifar10",
            DataConfig::Mnist(_) => "mnist",
            DataConfig::FashionMnist(_) => "fashion-mnist",
            DataConfig::SwissRoll(_) => "swiss-roll",
            DataConfig::Moons(_) => "moons",
            DataConfig::Circles(_) => "circles",
            DataConfig::SCurve(_) => "s-curve",
            DataConfig::Gaussians8(_) => "gaussians-8",
            DataConfig::Gaussians25(_) => "gaussians-25",
            DataConfig::Checkerboard(_) => "checkerboard",
            DataConfig::Csv(_) => "csv",
            DataConfig::BimodalSeries(_) => "bimodal-series",
            DataConfig::Sines(_) => "sines",
            DataConfig::Ecg(_) => "ecg",
            DataConfig::SeattleWeather(_) => "seattle-weather",
            DataConfig::Series(_) => "series",
            DataConfig::SeriesArray(_) => "series-array",
        }
    }

    /// The threshold of binarized images; none for points and for images that stay as they are.
    pub fn binarize(&self) -> Option<f64> {
        match self {
            DataConfig::Digits(config) => config.binarize,
            DataConfig::Sprites(config) => config.binarize,
            DataConfig::Images(config) => config.binarize,
            DataConfig::Packed(config) => config.binarize,
            DataConfig::Cifar10(config) => config.binarize,
            DataConfig::Mnist(config) | DataConfig::FashionMnist(config) => config.binarize,
            DataConfig::Shapes(_)
            | DataConfig::ImageTable(_)
            | DataConfig::SwissRoll(_)
            | DataConfig::Moons(_)
            | DataConfig::Circles(_)
            | DataConfig::SCurve(_)
            | DataConfig::Gaussians8(_)
            | DataConfig::Gaussians25(_)
            | DataConfig::Checkerboard(_)
            | DataConfig::Csv(_)
            | DataConfig::BimodalSeries(_)
            | DataConfig::Sines(_)
            | DataConfig::Ecg(_)
            | DataConfig::SeattleWeather(_)
            | DataConfig::Series(_)
            | DataConfig::SeriesArray(_) => None,
        }
    }

    /// What is known of other files of series that are like those of this config.
    pub fn read_hints(&self) -> Result<ReadHints, DataError> {
        match self {
            DataConfig::Series(config) => config.hints(),
            _ => Ok(ReadHints::default()),
        }
    }

    /// Whether series of one variable each are the variables of one.
    pub fn is_grouped(&self) -> bool {
        matches!(self, DataConfig::Series(config) if config.grouped)
    }

    /// Keys that series have, whatever they come from: what is for training, and the steps of a window.
    fn series_keys(&self) -> Option<(&SeriesSplit, Option<usize>)> {
        match self {
            DataConfig::BimodalSeries(config) | DataConfig::Sines(config) | DataConfig::Ecg(config) => {
                Some((&config.split, config.window))
            }
            DataConfig::SeattleWeather(config) => Some((&config.split, config.window)),
            DataConfig::Series(config) => Some((&config.split, config.window)),
            DataConfig::SeriesArray(config) => Some((&config.split, config.window)),
            _ => None,
        }
    }

    /// Everything that can be found wrong without looking at a file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = match self {
            DataConfig::Images(ImagesConfig { size, .. }) | DataConfig::ImageTable(ImageTableConfig { size, .. }) => {
                range_problem("size", *size, 1..=MAX_IMAGE_SIZE)
            }
            DataConfig::Shapes(shapes) => range_problem("count", shapes.count, 1..=MAX_POINTS),
            DataConfig::SwissRoll(points)
            | DataConfig::Moons(points)
            | DataConfig::Circles(points)
            | DataConfig::SCurve(points)
            | DataConfig::Gaussians8(points)
            | DataConfig::Gaussians25(points)
            | DataConfig::Checkerboard(points) => range_problem("count", points.count, 1..=MAX_POINTS),
            DataConfig::Csv(csv) if csv.columns[0] == csv.columns[1] => vec![Problem {
                key: "columns",
                reason: "both coordinates name the same column; expected two different columns".into(),
            }],
            _ => Vec::new(),
        };
        if let Some((split, window)) = self.series_keys() {
            let given = [("split", split.train), ("window", window)];
            let is_zero = given.into_iter().filter(|(_, value)| *value == Some(0));
            problems.extend(
                is_zero.map(|(key, _)| Problem { key, reason: "0 is out of range; expected at least 1".into() }),
            );
        }
        // Written so that NaN is a problem.
        if let Some(threshold) = self.binarize()
            && !(threshold > 0.0 && threshold <= 1.0)
        {
            let reason = format!("{threshold} is out of range; expected a threshold above 0 and at most 1");
            problems.push(Problem { key: "binarize", reason });
        }
        problems
    }
}

impl Default for ShapesConfig {
    fn default() -> Self {
        Self { count: 20_000, seed: 0 }
    }
}

impl Default for PointsConfig {
    fn default() -> Self {
        Self { count: 1_000_000, seed: None }
    }
}

impl MnistSize {
    /// Height and width in pixels.
    pub fn pixels(self) -> usize {
        match self {
            MnistSize::As28 => 28,
            MnistSize::PaddedTo32 => 32,
        }
    }
}

impl From<MnistSize> for usize {
    fn from(size: MnistSize) -> Self {
        size.pixels()
    }
}

impl TryFrom<usize> for MnistSize {
    type Error = String;

    fn try_from(pixels: usize) -> Result<Self, Self::Error> {
        match pixels {
            28 => Ok(MnistSize::As28),
            32 => Ok(MnistSize::PaddedTo32),
            _ => Err(format!("size {pixels} is not possible; expected 28 or 32")),
        }
    }
}

/// Larger pictures would not fit into memory as activations anyway; a typing mistake is more likely.
const MAX_IMAGE_SIZE: usize = 4096;

/// Bounds the memory of a permutation (8 bytes an item).
const MAX_POINTS: usize = 100_000_000;

fn range_problem(key: &'static str, value: usize, allowed: std::ops::RangeInclusive<usize>) -> Vec<Problem> {
    if allowed.contains(&value) {
        return Vec::new();
    }
    let (least, most) = (allowed.start(), allowed.end());
    vec![Problem { key, reason: format!("{value} is out of range; expected {least} to {most}") }]
}

fn default_image_size() -> usize {
    32
}

fn default_image_column() -> String {
    "image".into()
}

fn default_captions() -> String {
    "none".into()
}

fn default_true() -> bool {
    true
}

fn default_columns() -> [Column; 2] {
    [Column::Index(0), Column::Index(1)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every kind, with what must be given besides.
    fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
        let built_in = DataConfig::BUILT_IN.into_iter().map(|(kind, _)| (kind, ""));
        let more = |kind: &str| if kind == "series-array" { "path = 'p'\nlayout = 'TK'" } else { "path = 'p'" };
        built_in.chain(DataConfig::FROM_PATH.into_iter().map(move |(kind, _)| (kind, more(kind))))
    }

    fn parse(text: &str) -> Result<DataConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn every_kind_needs_at_most_a_path_and_comes_back_whole() {
        for (kind, path) in kinds() {
            let config = parse(&format!("kind = '{kind}'\n{path}")).unwrap();
            assert_eq!(config.kind(), kind);
            assert_eq!(config.problems(), []);
            let text = toml::to_string(&config).unwrap();
            assert!(text.contains(&format!("kind = \"{kind}\"")), "{text}");
            assert_eq!(parse(&text).unwrap(), config);
        }
    }

    #[test]
    fn unknown_keys_are_refused_in_every_kind() {
        for (kind, path) in kinds() {
            let error = parse(&format!("kind = '{kind}'\n{path}\nsizze = 3")).unwrap_err();
            assert!(error.to_string().contains("sizze"), "{kind}: {error}");
        }
        assert!(parse("kind = 'digits'\nhorizontal_flip = true").is_err());
    }

    #[test]
    fn an_unknown_kind_is_answered_with_the_kinds_there_are() {
        let error = parse("kind = 'digit'").unwrap_err();
        assert!(error.to_string().contains("digit") && error.to_string().contains("gaussians-25"), "{error}");
        // Each of them is listed, with its description.
        let named: BTreeSet<&str> = error.message().split('`').skip(3).step_by(2).collect();
        assert_eq!(named, kinds().map(|(kind, _)| kind).collect());
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = parse("kind = 'images'").unwrap_err().to_string();
        assert!(error.contains("path"), "{error}");
    }

    #[test]
    fn a_tilde_at_the_front_of_a_path_is_the_home_folder() {
        for (kind, path) in kinds().filter(|(_, path)| !path.is_empty()) {
            let path = path.replace("'p'", "'~/pics'");
            let config = serde_json::to_value(parse(&format!("kind = '{kind}'\n{path}")).unwrap()).unwrap();
            let expected = crate::with_home(std::path::Path::new("~/pics"));
            assert_eq!(config["path"], serde_json::json!(expected), "{kind}");
        }
    }

    #[test]
    fn all_options_are_read_and_written() {
        let text = "kind = 'images'\npath = 'p'\nbinarize = 0.5\nsize = 64\nchannels = 'grayscale'\nlabels = 'folders'\ncaptions = 'metadata'\n\
                    resize = 'cover-and-centre-crop'\nhorizontal_flip = true\non_bad_file = 'skip'";
        let config = parse(text).unwrap();
        let DataConfig::Images(images) = &config else { panic!("{config:?}") };
        assert_eq!(images.size, 64);
        assert_eq!(images.channels, ImageChannels::Grayscale);
        assert_eq!(images.labels, ImageLabels::Folders);
        assert_eq!(images.captions, ImageCaptions::Metadata);
        assert_eq!(images.on_bad_file, OnBadFile::Skip);
        assert!(images.horizontal_flip);
        assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);

        let csv = parse("kind = 'csv'\npath = 'p'\ncolumns = ['y', 3]").unwrap();
        let DataConfig::Csv(csv) = csv else { panic!() };
        assert_eq!(csv.columns, [Column::Name("y".into()), Column::Index(3)]);

        let mnist = parse("kind = 'mnist'\npath = 'p'\nsize = 30").unwrap_err();
        assert!(mnist.to_string().contains("expected 28 or 32"), "{mnist}");
    }

    #[test]
    fn impossible_values_are_problems_with_their_key() {
        for (text, key) in [
            ("kind = 'images'\npath = 'p'\nsize = 0", "size"),
            ("kind = 'moons'\ncount = 0", "count"),
            ("kind = 'csv'\npath = 'p'\ncolumns = [1, 1]", "columns"),
        ] {
            let problems = parse(text).unwrap().problems();
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].key, key);
        }
    }
}
