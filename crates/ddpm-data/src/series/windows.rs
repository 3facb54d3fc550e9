//! Series as items: windows of equal length in the units of the networks, each with the state of its cells.

use std::ops::Range;
use std::sync::Arc;

use burn_dataset::{Dataset, DatasetError};

use super::{Cell, Index, Normalizer, Series, SeriesInfo, Table};
use crate::example::{DataInfo, Example, Flip, Units};
use crate::open::{OpenData, Split};

/// What an item has besides its values where it is a window `[K, L]` of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The state of each value, `[K, L]`.
    pub cells: Vec<Cell>,
    /// The covariates, `[F, L]`, normalized; 0 where they are not known.
    pub covariates: Vec<f32>,
    /// What does not change along its series: see [`SeriesInfo::statics`].
    pub statics: Vec<f32>,
    /// When the steps of its series are.
    pub index: Index,
    /// Its first step there; what lies before the series was never observed.
    pub start: i64,
}

/// The series of a dataset, with what of them belongs to a split.
pub struct SeriesSet {
    info: DataInfo,
    series: Vec<Series>,
    /// Of each series the steps of the split.
    steps: Vec<Range<usize>>,
    split: Split,
}

/// Which windows of a set are items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowShape {
    /// Steps in front that may belong to training data where the others are for the test.
    pub history: usize,
    /// Steps that belong to the split.
    pub length: usize,
    /// Steps from the start of a window to that of the next one.
    pub stride: usize,
}

impl WindowShape {
    /// Windows of so many steps, one from each step on.
    pub fn of_length(length: usize) -> Self {
        Self { history: 0, length: length.max(1), stride: 1 }
    }

    /// All steps of a window.
    pub fn steps(&self) -> usize {
        self.history + self.length
    }
}

impl SeriesSet {
    /// Series of one number of variables with the steps of each that belong to the split.
    ///
    /// `trained` are the series of training and their steps: whatever is normalized is so by their observed cells alone.
    pub(crate) fn new(
        name: &str,
        trained: (&[Series], &[Range<usize>]),
        series: Vec<Series>,
        steps: Vec<Range<usize>>,
        split: Split,
    ) -> Self {
        let (of_train, train) = trained;
        let tables = of_train.iter().map(|series| &series.target).zip(train.iter().cloned());
        let units = units_of(&Normalizer::fit(tables));
        let info = DataInfo {
            name: name.into(),
            shape: vec![of_train.first().map_or(1, |series| series.target.variables()), 1],
            classes: Vec::new(),
            units,
            series: Some(SeriesInfo::of(of_train, train)),
            latent: false,
            has_captions: false,
        };
        Self { info, series, steps, split }
    }

    /// The series, whole.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// The steps of a series that belong to the split.
    pub fn steps(&self, series: usize) -> Range<usize> {
        self.steps[series].clone()
    }

    /// Variables, frequency and units of the series.
    pub fn info(&self) -> &DataInfo {
        &self.info
    }

    /// The windows of this shape as items.
    ///
    /// Those of the training split lie inside of it. In the test split only the last `length` steps do; the history before
    /// them may be of the training split. A series too short for the history has one window, which begins before it.
    pub fn windows(self: &Arc<Self>, shape: WindowShape) -> OpenData {
        let mut info = self.info.clone();
        info.shape[1] = shape.steps();
        OpenData {
            info: info.clone(),
            items: Arc::new(Windows::new(self.clone(), info, shape)),
            skipped: Vec::new(),
            ignored: Default::default(),
            labels: None,
            flip: Flip::Never,
            series: Some(self.clone()),
        }
    }
}

/// The way back from normalized values.
fn units_of(normalizer: &Normalizer) -> Units {
    Units { shift: normalizer.mean().to_vec(), scale: normalizer.std().to_vec() }
}

impl SeriesInfo {
    /// What series have in common, and what their training steps say of their values.
    fn of(series: &[Series], train: &[Range<usize>]) -> Self {
        let first = series.first();
        let covariates = first.and_then(|series| series.dynamic.as_ref());
        let tables = || {
            let all = series.iter().zip(train.iter().cloned());
            all.filter_map(|(series, steps)| Some((&series.dynamic.as_ref()?.values, steps)))
        };
        let variables = first.map_or(1, |series| series.target.variables());
        let bounds = (0..variables).map(|variable| bounds_of(series, train, variable));
        let (lowest, highest) = bounds.unzip();
        let (static_categories, static_units) = Self::fit_statics(series);
        Self {
            variables: first.map(|series| series.variables.clone()).unwrap_or_default(),
            frequency: first.and_then(|series| match series.index {
                Index::Times { frequency, .. } => Some(frequency.to_string()),
                Index::Counted => None,
            }),
            covariates: covariates.map(|covariates| covariates.names.clone()).unwrap_or_default(),
            covariate_units: units_of(&Normalizer::fit(tables())),
            lowest,
            highest,
            static_categories,
            static_units,
        }
    }
}

/// A bound is where at least this share of the cells lies.
const SHARE_AT_A_BOUND: f64 = 0.05;

/// The lowest and the highest value of a variable in training, each only where many cells have it: then it is a bound, such
/// as no rain, and not just the most extreme value so far.
fn bounds_of(series: &[Series], train: &[Range<usize>], variable: usize) -> (Option<f64>, Option<f64>) {
    let of_one = |(series, steps): (&Series, &Range<usize>)| {
        let steps = steps.start..steps.end.min(series.target.steps());
        steps.filter_map(|step| series.target.given(step, variable)).collect::<Vec<f64>>()
    };
    let values: Vec<f64> = series.iter().zip(train).flat_map(of_one).collect();
    let bound = |extreme: f64| {
        let at_it = values.iter().filter(|value| **value == extreme).count();
        let is_bound = at_it > 1 && at_it < values.len() && at_it as f64 >= SHARE_AT_A_BOUND * values.len() as f64;
        is_bound.then_some(extreme)
    };
    let extreme = |pick: fn(f64, f64) -> f64, from: f64| values.iter().copied().fold(from, pick);
    (bound(extreme(f64::min, f64::INFINITY)), bound(extreme(f64::max, f64::NEG_INFINITY)))
}

impl DataInfo {
    /// The steps of a series from `start` on as an item; values before the series and behind it were never observed.
    pub fn window(&self, series: &Series, start: i64, length: usize) -> Example {
        let target = &series.target;
        let cell = |step: Option<usize>, variable| match step {
            Some(step) if step < target.steps() => target.cell(step, variable),
            _ => Cell::NeverObserved,
        };
        let steps = || (0..length).map(|k| usize::try_from(start + k as i64).ok());
        let places = (0..target.variables()).flat_map(|variable| steps().map(move |step| (step, variable)));
        let (values, cells) = places
            .map(|(step, variable)| {
                let value = known(target, step, variable).map_or(0.0, |value| self.units.value(variable, value) as f32);
                (value, cell(step, variable))
            })
            .unzip();
        let covariates = self.covariates(series, start, length);
        let statics = self.series.as_ref().map(|info| info.statics(series)).unwrap_or_default();
        let window = Window { cells, covariates, statics, index: series.index, start };
        Example { values, label: None, window: Some(Box::new(window)), caption: None }
    }

    /// The covariates of the steps from `start` on, `[F, L]`, normalized.
    fn covariates(&self, series: &Series, start: i64, length: usize) -> Vec<f32> {
        let Some(info) = &self.series else { return Vec::new() };
        let steps = || (0..length).map(|k| usize::try_from(start + k as i64).ok());
        let value = |covariate: usize, step| {
            let table = &series.dynamic.as_ref()?.values;
            known(table, step, covariate).map(|value| info.covariate_units.value(covariate, value) as f32)
        };
        let rows = (0..info.covariates.len()).flat_map(|covariate| steps().map(move |step| (covariate, step)));
        rows.map(|(covariate, step)| value(covariate, step).unwrap_or(0.0)).collect()
    }
}

/// The value of a cell, if there are such a cell and a value.
fn known(table: &Table, step: Option<usize>, column: usize) -> Option<f64> {
    let step = step.filter(|step| *step < table.steps())?;
    (column < table.variables()).then(|| table.value(step, column)).flatten()
}

/// The windows of a set.
struct Windows {
    set: Arc<SeriesSet>,
    info: DataInfo,
    shape: WindowShape,
    /// Number of windows of the series up to each.
    ends: Vec<usize>,
}

impl Windows {
    fn new(set: Arc<SeriesSet>, info: DataInfo, shape: WindowShape) -> Self {
        let mut count = 0;
        let mut end = |steps: &Range<usize>| {
            count += first_step(set.split, steps, shape)
                .map_or(0, |first| (steps.end - shape.length - first) / shape.stride + 1);
            count
        };
        let ends = set.steps.iter().map(&mut end).collect();
        Self { set, info, shape, ends }
    }
}

/// The first step of the first window of a series, behind its history; none where the steps are too few.
fn first_step(split: Split, steps: &Range<usize>, shape: WindowShape) -> Option<usize> {
    let last = steps.end.checked_sub(shape.length).filter(|last| *last >= steps.start)?;
    match split {
        Split::Train => Some((steps.start + shape.history).min(last)),
        Split::Test => Some(steps.start),
    }
}

impl Dataset<Example> for Windows {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        let number = self.ends.partition_point(|end| *end <= index);
        assert!(number < self.ends.len(), "window {index} of {}", self.len());
        let before = number.checked_sub(1).map_or(0, |number| self.ends[number]);
        let steps = &self.set.steps[number];
        let first = first_step(self.set.split, steps, self.shape).unwrap_or(steps.start);
        let start = (first + (index - before) * self.shape.stride) as i64 - self.shape.history as i64;
        Ok(self.info.window(&self.set.series[number], start, self.shape.steps()))
    }

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::single_range_in_vec_init, clippy::cloned_ref_to_slice_refs)]
mod tests {
    use super::*;

    fn series(from: usize, steps: usize) -> Series {
        let values = (0..steps).flat_map(|t| [Some((from + t) as f64), (t != 1).then_some(-(t as f64))]);
        Series::new(None, Index::Counted, vec!["a".into(), "b".into()], Table::from_rows(2, values))
    }

    /// The first values of the windows, in the units of the data.
    fn starts(set: &Arc<SeriesSet>, shape: WindowShape) -> Vec<(i64, f64)> {
        let data = set.windows(shape);
        let start = |k| {
            let item = data.items.get(k).unwrap();
            let value = data.info.units.data_unit(0, f64::from(item.values[shape.history])).round();
            (item.window.unwrap().start, value)
        };
        (0..data.items.len()).map(start).collect()
    }

    #[test]
    fn windows_lie_inside_of_their_split() {
        let all = || vec![series(0, 5), series(100, 2), series(200, 8)];
        let train = [0..4, 0..2, 0..6];
        let set = Arc::new(SeriesSet::new("any", (&all(), &train), all(), train.to_vec(), Split::Train));
        let shape = WindowShape { stride: 2, ..WindowShape::of_length(3) };
        assert_eq!(starts(&set, shape), [(0, 0.0), (0, 200.0), (2, 202.0)]);
        // With history: from the training steps alone, and before a series that is too short.
        let shape = WindowShape { history: 3, length: 2, stride: 1 };
        assert_eq!(starts(&set, shape), [(-1, 2.0), (-3, 100.0), (0, 203.0), (1, 204.0)]);
        // The test has what follows, with a history that was trained on.
        let set = Arc::new(SeriesSet::new("any", (&all(), &train), all(), vec![4..5, 2..2, 6..8], Split::Test));
        let shape = WindowShape { history: 3, length: 1, stride: 1 };
        assert_eq!(starts(&set, shape), [(1, 4.0), (3, 206.0), (4, 207.0)]);
    }

    #[test]
    fn cells_and_covariates_go_with_the_values() {
        let mut one = series(0, 4);
        one.target.hide(2, 0);
        let values = Table::from_rows(1, [1.0, 3.0, 5.0, 7.0, 9.0].map(Some));
        one.dynamic = Some(crate::series::Covariates { names: vec!["c".into()], values });
        let set = Arc::new(SeriesSet::new("any", (&[one.clone()], &[0..2]), vec![one], vec![0..4], Split::Test));
        let data = set.windows(WindowShape { history: 1, length: 5, stride: 1 });
        assert_eq!(data.items.len(), 0);
        let item = data.info.window(&set.series()[0], -1, 6);
        let window = item.window.unwrap();
        let state = |variable: usize| window.cells[6 * variable..6 * variable + 6].to_vec();
        let (never, seen) = (Cell::NeverObserved, Cell::Observed);
        assert_eq!(state(0), [never, seen, seen, Cell::HeldOut, seen, never]);
        assert_eq!(state(1), [never, seen, never, seen, seen, never]);
        // Normalized by the two training steps, and 0 where nothing is known.
        assert_eq!(window.covariates, [0.0, -1.0, 1.0, 3.0, 5.0, 7.0]);
        assert_eq!(item.values[..6], [0.0, -1.0, 1.0, 3.0, 5.0, 0.0]);
    }

    #[test]
    fn a_value_that_many_cells_share_is_a_bound() {
        let rain = (0..40).flat_map(|t| [Some(if t % 2 == 0 { 0.0 } else { f64::from(t) }), Some(f64::from(t))]);
        let one = Series::new(None, Index::Counted, vec!["r".into(), "t".into()], Table::from_rows(2, rain));
        let set = SeriesSet::new("any", (&[one.clone()], &[0..30]), vec![one], vec![0..30], Split::Train);
        let info = set.info.series.unwrap();
        assert_eq!((info.lowest, info.highest), (vec![Some(0.0), None], vec![None, None]));
    }
}
