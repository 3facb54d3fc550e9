//! From the keys of a config to the series of a split.

use std::ops::Range;
use std::sync::Arc;

use super::arrays::{self, Layout};
use super::{Series, SeriesSet, WindowShape};
use crate::config::{SeriesArrayConfig, SeriesLayout, SeriesSplit};
use crate::error::DataError;
use crate::open::{OpenData, Split};

/// Steps of a window where nobody says it.
const USUAL_WINDOW: usize = 48;

/// How series are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Division {
    /// In time: the first steps of each are for training.
    Steps,
    /// Each series is a window, and belongs to one of the splits as a whole.
    Windows,
}

/// Opens an array.
pub(crate) fn open_array(config: &SeriesArrayConfig, split: Split) -> Result<OpenData, DataError> {
    let (layout, division) = match config.layout {
        SeriesLayout::TK => (Layout::TK, Division::Steps),
        SeriesLayout::NLK => (Layout::NLK, Division::Windows),
    };
    let series = arrays::read_masked(&config.path, config.mask.as_deref(), layout)?;
    open("series-array", series, division, &config.split, config.window, split)
}

/// The windows of a split, of the length that the config says.
fn open(
    name: &str,
    series: Vec<Series>,
    division: Division,
    keys: &SeriesSplit,
    window: Option<usize>,
    split: Split,
) -> Result<OpenData, DataError> {
    let (train, test) = divide(&series, division, keys);
    let steps = if split == Split::Train { train.clone() } else { test };
    let most = steps.iter().map(Range::len).max().unwrap_or(0);
    let length = match division {
        Division::Steps => window.unwrap_or(USUAL_WINDOW).min(most.max(1)),
        Division::Windows => most.max(1),
    };
    let set = Arc::new(SeriesSet::new(name, series, &train, steps, split));
    Ok(set.windows(WindowShape::of_length(length)))
}

/// The steps of each series that are for training, and those that are for the test.
fn divide(series: &[Series], division: Division, keys: &SeriesSplit) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    let trained = keys.train_of(series.len());
    let steps = series.iter().map(|series| series.target.steps()).enumerate();
    let one = |(number, steps)| {
        let end = match division {
            Division::Steps => keys.train_of(steps),
            Division::Windows if number < trained => steps,
            Division::Windows => 0,
        };
        (0..end, end..steps)
    };
    steps.map(one).unzip()
}
