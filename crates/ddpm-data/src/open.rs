//! From a config to items.

use std::sync::Arc;

use burn_dataset::Dataset;

use crate::config::DataConfig;
use crate::error::{BadFile, DataError};
use crate::example::{DataInfo, Example, Flip};
use crate::points::Shape;
use crate::{cifar10, csv_points, digits, image_folder, mnist, points};

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
    /// Whether the items are mirrored at random when they are learnt from.
    pub flip: Flip,
}

/// Finds and checks the data of a config. The seed is for generated points only: which files and pictures
/// belong to a split never depends on it.
pub fn open(config: &DataConfig, split: Split, seed: u64) -> Result<OpenData, DataError> {
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(DataError::Config {
            key: problem.key,
            reason: problem.reason,
        });
    }
    let name = config.kind();
    let mut data = match config {
        DataConfig::Digits(_) => digits::open(split)?,
        DataConfig::Images(images) => image_folder::open(images, split)?,
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
    };
    if data.items.is_empty() {
        return Err(DataError::EmptySplit {
            name: data.info.name,
            split: split.name(),
            reason: "more items are needed to have both splits",
        });
    }
    if split == Split::Test {
        data.flip = Flip::Never;
    }
    Ok(data)
}
