//! From a config to items.

use std::sync::Arc;

use burn_dataset::{Dataset, DatasetError};

use crate::config::DataConfig;
use crate::error::{BadFile, DataError, Ignored};
use crate::example::{DataInfo, Example, Flip};
use crate::points::Shape;
use crate::series::{SeriesSet, generated};
use crate::{
    binarize, cifar10, csv_points, digits, image_folder, image_table, mnist, packed, points, series, shapes, sprites,
};

/// What items are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure with; never learnt from.
    Test,
}

impl Split {
    /// `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
        }
    }

    /// The one that this is not.
    pub fn other(self) -> Self {
        match self {
            Split::Train => Split::Test,
            Split::Test => Split::Train,
        }
    }
}

/// A dataset that was found and checked.
#[derive(Clone)]
pub struct OpenData {
    /// What all items have in common.
    pub info: DataInfo,
    /// The items, in an order that depends on the data alone.
    pub items: Arc<dyn Dataset<Example>>,
    /// Files that were left out because the config allows it.
    pub skipped: Vec<BadFile>,
    /// Files among the pictures that are none.
    pub ignored: Ignored,
    /// The class of every item, where it is known without reading the items; see [`OpenData::labels`].
    pub labels: Option<Arc<[u32]>>,
    /// Whether the items are mirrored at random when they are learnt from.
    pub flip: Flip,
    /// The series behind the items, where they are windows.
    pub series: Option<Arc<SeriesSet>>,
}

impl OpenData {
    /// The class of every item; none if the data are unlabelled.
    pub fn labels(&self) -> Result<Option<Arc<[u32]>>, DatasetError> {
        if self.labels.is_some() || self.info.classes.is_empty() {
            return Ok(self.labels.clone());
        }
        let label = |item| Ok(self.items.get(item)?.label.map(|label| label as u32));
        (0..self.items.len()).map(label).collect()
    }
}

/// Is told, from any thread, how many files of a folder of pictures have been checked, and of how many.
pub type CheckProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Finds and checks the data of a config. The seed is for generated points only: which files and pictures
/// belong to a split never depends on it.
pub fn open(config: &DataConfig, split: Split, seed: u64) -> Result<OpenData, DataError> {
    open_with_progress(config, split, seed, &|_, _| {})
}

/// [`open`], which takes minutes where a great many pictures are checked for the first time.
pub fn open_with_progress(
    config: &DataConfig,
    split: Split,
    seed: u64,
    progress: CheckProgress<'_>,
) -> Result<OpenData, DataError> {
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(DataError::Config { key: problem.key, reason: problem.reason });
    }
    let name = config.kind();
    let mut data = match config {
        DataConfig::Digits(config) => digits::open(config, split)?,
        DataConfig::Sprites(_) => sprites::open(split),
        DataConfig::Shapes(config) => shapes::open(config, split),
        DataConfig::Images(images) => image_folder::open(images, split, progress)?,
        DataConfig::ImageTable(table) => image_table::open(table, split, progress)?,
        DataConfig::Packed(packed) => packed::open(packed, split)?,
        DataConfig::Cifar10(cifar) => cifar10::open(cifar, split)?,
        DataConfig::Mnist(mnist) => mnist::open(mnist, name, &mnist::DIGITS, split)?,
        DataConfig::FashionMnist(mnist) => mnist::open(mnist, name, &mnist::CLOTHES, split)?,
        DataConfig::SwissRoll(c) => points::open(Shape::SwissRoll, c, name, split, seed),
        DataConfig::Moons(c) => points::open(Shape::Moons, c, name, split, seed),
        DataConfig::Circles(c) => points::open(Shape::Circles, c, name, split, seed),
        DataConfig::SCurve(c) => points::open(Shape::SCurve, c, name, split, seed),
        DataConfig::Gaussians8(c) => points::open(Shape::Gaussians8, c, name, split, seed),
        DataConfig::Gaussians25(c) => points::open(Shape::Gaussians25, c, name, split, seed),
        DataConfig::Checkerboard(c) => points::open(Shape::Checkerboard, c, name, split, seed),
        DataConfig::Csv(csv) => csv_points::open(csv, split)?,
        DataConfig::SeriesArray(array) => series::open::open_array(array, split)?,
        DataConfig::BimodalSeries(c) => series::open::open_bimodal(c, split)?,
        DataConfig::Sines(c) => series::open::open_windows(name, c, generated::sines, [1200, 1000], split)?,
        DataConfig::Ecg(c) => series::open::open_windows(name, c, generated::ecg, [460, 400], split)?,
        DataConfig::SeattleWeather(c) => series::open::open_weather(c, split)?,
        DataConfig::Series(file) => series::open::open_file(file, split)?,
    };
    if data.items.is_empty() {
        return Err(DataError::EmptySplit {
            name: data.info.name,
            split: split.name(),
            reason: "more items are needed to have both splits",
        });
    }
    if let Some(threshold) = config.binarize() {
        data.items = binarize::binarized(data.items, threshold);
    }
    if split == Split::Test {
        data.flip = Flip::Never;
    }
    Ok(data)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_opens_with_nothing_but_its_kind() {
        for (kind, shape, len) in [
            ("digits", vec![1, 8, 8], [1437, 360]),
            ("sprites", vec![1, 16, 16], [1037, 115]),
            ("shapes", vec![3, 32, 32], [20_000, 960]),
            ("swiss-roll", vec![2], [1_000_000; 2]),
            ("moons", vec![2], [1_000_000; 2]),
            ("circles", vec![2], [1_000_000; 2]),
            ("s-curve", vec![2], [1_000_000; 2]),
            ("gaussians-8", vec![2], [1_000_000; 2]),
            ("gaussians-25", vec![2], [1_000_000; 2]),
            ("checkerboard", vec![2], [1_000_000; 2]),
        ] {
            let config: DataConfig = toml::from_str(&format!("kind = '{kind}'")).unwrap();
            for (split, len) in [Split::Train, Split::Test].into_iter().zip(len) {
                let data = open(&config, split, 0).unwrap();
                assert_eq!(data.info.name, kind);
                assert_eq!(data.info.shape, shape);
                assert_eq!(data.items.len(), len);
                assert_eq!(data.flip, Flip::Never);
                let last = data.items.get(len - 1).unwrap();
                assert_eq!(last.values.len(), data.info.values_per_item());
            }
        }
    }

    #[test]
    fn impossible_values_and_missing_files_name_key_or_path() {
        for (text, expected) in [
            ("kind = 'moons'\ncount = 0", "data.count: 0 is out of range"),
            ("kind = 'images'\npath = 'no/cats'", "no/cats: not found; expected a folder"),
            ("kind = 'image-table'\npath = 'no/table'", "no/table: not found; expected a Parquet file"),
            ("kind = 'cifar10'\npath = 'no/cifar'", "no/cifar: not found; expected the folder of CIFAR-10"),
            ("kind = 'mnist'\npath = 'no/mnist'", "no/mnist: not found; expected a folder with train-images"),
            ("kind = 'csv'\npath = 'no/table.csv'", "no/table.csv: not found; expected a CSV file"),
        ] {
            let config: DataConfig = toml::from_str(text).unwrap();
            let message = open(&config, Split::Train, 0).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn only_the_train_split_is_mirrored() {
        let folder = tempfile::tempdir().unwrap();
        for k in 0..4 {
            let path = folder.path().join(format!("{k}.png"));
            image::RgbImage::new(4, 4).save(path).unwrap();
        }
        for (line, expected) in [("horizontal_flip = true", Flip::Half), ("", Flip::Never)] {
            let path = folder.path().display();
            let text = format!("kind = 'images'\npath = '{path}'\n{line}");
            let config: DataConfig = toml::from_str(&text).unwrap();
            assert_eq!(open(&config, Split::Train, 0).unwrap().flip, expected);
            assert_eq!(open(&config, Split::Test, 0).unwrap().flip, Flip::Never);
        }
    }
}
