//! Series of one variable joined to one of many, as GluonTS' `MultivariateGrouper` does it.

use super::{Index, Series, Table, Timestamp};

/// Joins training series: from the earliest step of any to the latest. Where a series has not begun or is over, it has
/// its own mean; what is missing inside stays missing. With `most`, the last so many of the series are joined.
///
/// None if there are no series, or if they are not of one variable and one frequency.
pub fn group_train(series: &[Series], most: Option<usize>) -> Option<Series> {
    let series = last(series, most);
    let joined = Joined::of(series)?;
    let columns = series.iter().zip(&joined.offsets).map(|(series, offset)| {
        let mean = mean(&series.target);
        (0..joined.steps).map(|step| value(series, step.checked_sub(*offset), mean)).collect()
    });
    Some(joined.series(series, columns.collect()))
}

/// Joins the test series of each of `dates` windows, which follow each other: what begins later has zeros before.
///
/// None if the windows do not have equally many series, or if they cannot be joined.
pub fn group_test(series: &[Series], dates: usize, most: Option<usize>) -> Option<Vec<Series>> {
    if dates == 0 || series.is_empty() || !series.len().is_multiple_of(dates) {
        return None;
    }
    series.chunks(series.len() / dates).map(|block| group_block(last(block, most))).collect()
}

fn group_block(series: &[Series]) -> Option<Series> {
    let joined = Joined::of(series)?;
    let steps = series.iter().map(|series| series.target.steps()).max()?;
    let columns = series.iter().map(|series| {
        let offset = steps - series.target.steps();
        (0..steps).map(|step| value(series, step.checked_sub(offset), 0.0)).collect()
    });
    Some(joined.series(series, columns.collect()))
}

fn last(series: &[Series], most: Option<usize>) -> &[Series] {
    &series[series.len() - most.unwrap_or(series.len()).min(series.len())..]
}

/// The value at a step of a series, or `outside` where there is none such.
fn value(series: &Series, step: Option<usize>, outside: f64) -> Option<f64> {
    match step {
        Some(step) if step < series.target.steps() => series.target.given(step, 0),
        _ => Some(outside),
    }
}

fn mean(table: &Table) -> f64 {
    let given: Vec<f64> = (0..table.steps()).filter_map(|step| table.given(step, 0)).collect();
    given.iter().sum::<f64>() / given.len().max(1) as f64
}

/// Where the joined series begin.
struct Joined {
    index: Index,
    /// The step at which each begins.
    offsets: Vec<usize>,
    /// From the earliest step to the latest.
    steps: usize,
}

impl Joined {
    fn of(series: &[Series]) -> Option<Self> {
        let Index::Times { frequency, .. } = series.first()?.index else { return None };
        let start_of = |series: &Series| match series.index {
            Index::Times { start, frequency: own } if own == frequency && series.target.variables() == 1 => Some(start),
            _ => None,
        };
        let starts: Vec<Timestamp> = series.iter().map(start_of).collect::<Option<_>>()?;
        let start = starts.iter().copied().min()?;
        let offset = |time: &Timestamp| usize::try_from(frequency.steps_between(start, *time)?).ok();
        let offsets: Vec<usize> = starts.iter().map(offset).collect::<Option<_>>()?;
        let ends = series.iter().zip(&offsets).map(|(series, offset)| series.target.steps() + offset);
        let steps = ends.max()?;
        Some(Self { index: Index::Times { start, frequency }, offsets, steps })
    }

    fn series(&self, series: &[Series], columns: Vec<Vec<Option<f64>>>) -> Series {
        let names = series.iter().enumerate().map(|(k, series)| series.name.clone().unwrap_or_else(|| k.to_string()));
        Series::new(None, self.index, names.collect(), Table::from_columns(&columns))
    }
}
