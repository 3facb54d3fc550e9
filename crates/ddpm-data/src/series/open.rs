//! From the keys of a config to the series of a split.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::arrays::{self, Layout};
use super::grouped::{group_test, group_train};
use super::{
    Frequency, Index, ReadHints, Series, SeriesSet, Table, Timestamp, WindowShape, generated, numbered, read_any,
    seattle_weather,
};
use crate::config::{
    BundledSeriesConfig, GeneratedSeriesConfig, SeriesArrayConfig, SeriesFileConfig, SeriesLayout, SeriesSplit,
};
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
    let mut series = arrays::read_masked(&config.path, config.mask.as_deref(), layout)?;
    if let Some(index) = stated_index(config)? {
        series.iter_mut().for_each(|series| series.index = index);
    }
    open("series-array", series, division, &config.split, config.window, split)
}

/// Opens a file or folder of any format.
pub(crate) fn open_file(config: &SeriesFileConfig, split: Split) -> Result<OpenData, DataError> {
    let opened = read_any(&config.path, &config.hints()?)?;
    let several = || wrong("grouped", "expected series of one variable each, with one frequency".into());
    let (series, test) = match config.grouped {
        false => (opened.series, opened.test),
        true => {
            let dates = opened.test.len() / opened.series.len().max(1);
            let test = if dates == 0 { Some(Vec::new()) } else { group_test(&opened.test, dates, None) };
            (vec![group_train(&opened.series, None).ok_or_else(several)?], test.ok_or_else(several)?)
        }
    };
    check_variables(&config.path, series.iter().chain(&test))?;
    let is_windows = series.len() > 1 && series.iter().all(|one| is_window_like(one, &series[0]));
    let division = if is_windows { Division::Windows } else { Division::Steps };
    if test.is_empty() {
        return open("series", series, division, &config.split, config.window, split);
    }
    // A dataset that says what its test is: the last steps of its series there, as many as it wants forecast.
    let train: Vec<Range<usize>> = series.iter().map(|series| 0..series.target.steps()).collect();
    let (of_split, steps) = match split {
        Split::Train => (series.clone(), train.clone()),
        Split::Test => {
            let horizon = opened.horizon.unwrap_or(USUAL_WINDOW);
            let last = |series: &Series| series.target.steps().saturating_sub(horizon)..series.target.steps();
            let steps = test.iter().map(last).collect();
            (test, steps)
        }
    };
    windows("series", (&series, &train), of_split, steps, division, config.window, split)
}

/// Whether series are windows of one length without times, each of which belongs to one of the splits.
fn is_window_like(series: &Series, first: &Series) -> bool {
    series.index == Index::Counted && series.target.steps() == first.target.steps()
}

/// All series of a dataset have the variables of the first one.
fn check_variables<'a>(path: &Path, mut series: impl Iterator<Item = &'a Series>) -> Result<(), DataError> {
    let format = |reason| DataError::Format { path: path.to_path_buf(), reason };
    let Some(first) = series.next() else { return Err(format("no series in it; expected at least one".into())) };
    let expected = first.target.variables();
    match series.find(|series| series.target.variables() != expected) {
        Some(series) => Err(format(format!(
            "series {} has {} variables; expected {expected}, as the first has",
            series.name.as_deref().unwrap_or("without a name"),
            series.target.variables()
        ))),
        None => Ok(()),
    }
}

impl SeriesFileConfig {
    /// What the keys say of the file.
    pub fn hints(&self) -> Result<ReadHints, DataError> {
        Ok(ReadHints {
            time: self.time.clone(),
            item: self.item.clone(),
            targets: self.target.clone(),
            covariates: self.covariates.clone(),
            frequency: self.frequency.as_deref().map(stated_frequency).transpose()?,
            separator: self.separator,
            decimal: self.decimal,
            ..ReadHints::default()
        })
    }
}

fn stated_frequency(text: &str) -> Result<Frequency, DataError> {
    let reason = || format!("{text:?} is not a frequency; expected such as h, d, b, m or 10min");
    Frequency::parse(text).ok_or_else(|| wrong("frequency", reason()))
}

/// The times that the keys say an array has.
fn stated_index(config: &SeriesArrayConfig) -> Result<Option<Index>, DataError> {
    let (Some(start), Some(frequency)) = (&config.start, &config.frequency) else {
        return match (&config.start, &config.frequency) {
            (None, None) => Ok(None),
            (None, _) => Err(wrong("start", "is missing; expected a time, because data.frequency is given".into())),
            _ => Err(wrong("frequency", "is missing; expected such as \"d\", because data.start is given".into())),
        };
    };
    let expected = |key, text: &str, what: &str| wrong(key, format!("{text:?} is not {what}"));
    let frequency = Frequency::parse(frequency)
        .ok_or_else(|| expected("frequency", frequency, "a frequency; expected such as h, d, b, m or 10min"))?;
    let start =
        Timestamp::parse(start).ok_or_else(|| expected("start", start, "a time; expected such as 2020-01-31"))?;
    Ok(Some(Index::Times { start, frequency }))
}

fn wrong(key: &'static str, reason: String) -> DataError {
    DataError::Config { key, reason }
}

/// Opens a long series of [`generated::bimodal`].
pub(crate) fn open_bimodal(config: &GeneratedSeriesConfig, split: Split) -> Result<OpenData, DataError> {
    let series = generated::bimodal(config.seed, config.count.unwrap_or(generated::BIMODAL_STEPS));
    let keys = config.split.or_train(BIMODAL_TRAIN, config.count);
    open("bimodal-series", vec![series], Division::Steps, &keys, config.window, split)
}

/// Opens windows that one function generates, of which so many there are and so many are for training.
pub(crate) fn open_windows(
    name: &str,
    config: &GeneratedSeriesConfig,
    window: fn(u64, u64) -> Table,
    [count, train]: [usize; 2],
    split: Split,
) -> Result<OpenData, DataError> {
    let one = |place| {
        let table = window(config.seed, place);
        Series::new(None, Index::Counted, numbered(table.variables()), table)
    };
    let series = (0..config.count.unwrap_or(count) as u64).map(one).collect();
    open(name, series, Division::Windows, &config.split.or_train(train, config.count), None, split)
}

/// Opens the bundled weather.
pub(crate) fn open_weather(config: &BundledSeriesConfig, split: Split) -> Result<OpenData, DataError> {
    let keys = config.split.or_train(WEATHER_TRAIN, None);
    open("seattle-weather", vec![seattle_weather()?], Division::Steps, &keys, config.window, split)
}

/// Steps of the bimodal series before its 60 windows of 12.
const BIMODAL_TRAIN: usize = 4000;

/// Days of the weather up to the end of 2014.
const WEATHER_TRAIN: usize = 1096;

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
    windows(name, (&series, &train), series.clone(), steps, division, window, split)
}

/// The same for series whose steps are divided already.
fn windows(
    name: &str,
    trained: (&[Series], &[Range<usize>]),
    series: Vec<Series>,
    steps: Vec<Range<usize>>,
    division: Division,
    window: Option<usize>,
    split: Split,
) -> Result<OpenData, DataError> {
    let most = steps.iter().map(Range::len).max().unwrap_or(0);
    let length = match division {
        Division::Steps => window.unwrap_or(USUAL_WINDOW).min(most.max(1)),
        Division::Windows => most.max(1),
    };
    let set = Arc::new(SeriesSet::new(name, trained, series, steps, split));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::{DataConfig, Split, open};

    fn opened(text: &str, split: Split) -> (Vec<usize>, usize) {
        let config: DataConfig = toml::from_str(text).unwrap();
        let data = open(&config, split, 7).unwrap();
        (data.info.shape, data.items.len())
    }

    #[test]
    fn what_ships_is_divided_as_its_baselines_say() {
        for (kind, shape, [train, test]) in [
            ("bimodal-series", vec![4, 48], [4000 - 47, 720 - 47]),
            ("sines", vec![4, 48], [1000, 200]),
            ("ecg", vec![4, 248], [400, 60]),
            ("seattle-weather", vec![4, 48], [1096 - 47, 365 - 47]),
        ] {
            let text = format!("kind = '{kind}'");
            assert_eq!(opened(&text, Split::Train), (shape.clone(), train), "{kind}");
            assert_eq!(opened(&text, Split::Test), (shape, test), "{kind}");
        }
        // Of another size: four in five are for training, or what is stated.
        assert_eq!(opened("kind = 'sines'\ncount = 10", Split::Test), (vec![4, 48], 2));
        assert_eq!(opened("kind = 'sines'\ncount = 10\nsplit.train = 3", Split::Test), (vec![4, 48], 7));
        assert_eq!(opened("kind = 'bimodal-series'\nwindow = 700", Split::Test), (vec![4, 700], 21));
    }

    #[test]
    fn arrays_have_the_layout_mask_and_times_that_are_stated() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let array = |name: &str, shape: &str, values: &[f32]| {
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.bytes());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            std::fs::write(path(name), bytes).unwrap();
        };
        let values: Vec<f32> = (0..20).map(|k| k as f32).collect();
        let mask: Vec<f32> = (0..20).map(|k| f32::from(k != 3)).collect();
        array("x.npy", "10, 2", &values);
        array("m.npy", "10, 2", &mask);
        let (x, m) = (path("x.npy"), path("m.npy"));
        let text = format!("kind = 'series-array'\npath = '{x}'\nmask = '{m}'\nlayout = 'TK'\nwindow = 4\n");
        assert_eq!(opened(&text, Split::Train), (vec![2, 4], 5));
        let config: DataConfig = toml::from_str(&format!("{text}start = '2020-01-30'\nfrequency = 'd'")).unwrap();
        let data = open(&config, Split::Train, 0).unwrap();
        let window = data.items.get(0).unwrap().window.unwrap();
        assert_eq!(window.index.timestamp(2).unwrap().to_string(), "2020-02-01T00:00:00");
        let hidden: Vec<usize> = (0..8).filter(|k| window.cells[*k] != crate::series::Cell::Observed).collect();
        assert_eq!(hidden, [5]);
        for (more, expected) in [
            ("start = '2020-01-30'", "data.frequency: is missing"),
            ("start = '2020-01-30'\nfrequency = 'soon'", "data.frequency: \"soon\" is not a frequency"),
            ("layout = 'NLK'", "duplicate key"),
        ] {
            let error = toml::from_str::<DataConfig>(&format!("{text}{more}"));
            let message = match error {
                Ok(config) => open(&config, Split::Train, 0).err().unwrap().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(message.contains(expected), "{message}");
        }
    }
}
