//! Datasets, their formats, and the order in which items are seen.
//!
//! [`open`] turns a [`DataConfig`] into items behind burn-dataset's `Dataset` trait, and an
//! [`OrderedLoader`] turns the items into batches in an order that depends on the seed alone.

pub mod augment;
mod binarize;
mod cifar10;
mod config;
mod csv_points;
mod decode;
mod digits;
mod error;
mod example;
mod file_list;
mod hash;
mod hold_out;
mod image_folder;
mod image_table;
mod known_good;
mod loader;
mod mnist;
mod names;
mod open;
mod order;
pub mod packed;
mod pictures;
mod pixels;
mod points;
pub use ddpm_random as random;
pub mod series;
pub mod shapes;
mod space;
pub mod sprites;
pub mod zip;
mod zip_pictures;

pub use config::{
    BundledSeriesConfig, Cifar10Config, Column, CsvConfig, DataConfig, DigitsConfig, DigitsSplit,
    GeneratedSeriesConfig, ImageCaptions, ImageChannels, ImageLabels, ImageResize, ImageTableConfig, ImagesConfig,
    MnistConfig, MnistSize, OnBadFile, PackedConfig, PointsConfig, Problem, SeriesArrayConfig, SeriesFileConfig,
    SeriesLayout, SeriesSplit, ShapesConfig, SpritesConfig,
};
pub use error::{BadFile, DataError, Ignored};
pub use example::{DataInfo, Example, Flip, Units};
pub use hash::fnv1a;
pub use loader::{ItemBatches, OrderedLoader, ReadingSpeed, StreamItem};
pub use names::{printable, shown, with_home};
pub use open::{CheckProgress, OpenData, Split, open, open_with_progress};
pub use order::{BalancedOrder, Order, items_by_class, permutation};
pub use pictures::{Fit, read_pictures};
pub use points::reference_points;
pub use space::{Bounds, Space, three_axes};
