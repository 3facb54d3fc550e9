//! Results in the form in which the data came: imputed values in the table that has the holes, and quantiles of
//! forecasts.

use std::fmt::{Display, LowerExp};
use std::path::Path;

use ddpm_files::{WriteError, atomic};

use super::columns::Columns;
use super::sheet::Sheet;
use super::text::{for_each_field, is_missing};
use super::time_text::TimeText;
use super::{Index, Series};

/// The form in which series were read.
#[derive(Clone, Debug, Default)]
pub struct SourceLayout {
    /// The table that was read, where it was one.
    table: Option<SourceTable>,
}

/// A table of text.
#[derive(Clone, Debug)]
struct SourceTable {
    text: String,
    separator: char,
    decimal: char,
    header: bool,
    names: Vec<String>,
    columns: Columns,
    /// Series and step of each row.
    places: Vec<(usize, usize)>,
    times: Option<TimeText>,
}

/// Quantiles of the steps to come of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct ForecastQuantiles {
    /// Which series.
    pub series: usize,
    /// The step of the first value: a series of T steps goes on at step T.
    pub first_step: usize,
    /// Between 0 and 1.
    pub levels: Vec<f64>,
    /// `[steps, variables, levels]`, row-major.
    pub values: Vec<f32>,
}

impl SourceLayout {
    /// Of a table of text.
    pub(super) fn of_table(sheet: Sheet, columns: Columns, places: Vec<(usize, usize)>) -> Self {
        let times = columns.time.and_then(|time| TimeText::of_texts(sheet.column(time)));
        let (separator, decimal, header, names) = (sheet.separator, sheet.decimal, sheet.header, sheet.names.clone());
        let text = sheet.into_text();
        let table = SourceTable { text, separator, decimal, header, names, columns, places, times };
        Self { table: Some(table) }
    }

    /// A CSV with values at the places that had none, from `filled(series, step, variable)`.
    ///
    /// A table of text comes back with all its columns, in the order and notation that it had, and every cell that had a
    /// value as it stood there. Anything else becomes a table with a row for each step.
    pub fn imputed(&self, series: &[Series], filled: impl Fn(usize, usize, usize) -> Option<f32>) -> String {
        match &self.table {
            Some(table) => table.imputed(filled),
            None => imputed(series, filled),
        }
    }

    /// A CSV with a row for each step to come and a column for each variable and level, such as `temp_max_0.05`. Times
    /// are written as in the table that was read; without times, steps are counted from 0.
    pub fn quantiles(&self, series: &[Series], forecasts: &[ForecastQuantiles]) -> String {
        let own = self.table.as_ref();
        let style = own.map_or(CSV, SourceTable::style);
        let has_items = own.map_or(series.len() > 1, |table| table.columns.item.is_some());
        let first = forecasts.first().and_then(|first| Some((first, series.get(first.series)?)));
        let Some((first, of_first)) = first else { return String::new() };
        let mut header = self.index_names(of_first, has_items);
        let names = of_first.variables.iter();
        header.extend(names.flat_map(|name| first.levels.iter().map(move |level| format!("{name}_{level}"))));
        let mut text = style.line(header.iter().map(|name| style.word(name)));
        for forecast in forecasts {
            let Some(series) = series.get(forecast.series) else { continue };
            let times = own.and_then(|table| table.times.clone()).unwrap_or_else(|| TimeText::of_index(&series.index));
            let width = (series.variables.len() * forecast.levels.len()).max(1);
            for (k, values) in forecast.values.chunks(width).enumerate() {
                let item = has_items.then(|| style.word(&item_name(series, forecast.series)));
                let step = time_of(series, forecast.first_step + k, &times);
                let values = values.iter().map(|value| style.number(*value));
                text.push_str(&style.line(item.into_iter().chain([step]).chain(values)));
            }
        }
        text
    }

    /// Names of the columns before the values: as in the table that was read.
    fn index_names(&self, series: &Series, has_items: bool) -> Vec<String> {
        let own = |column: fn(&Columns) -> Option<usize>| {
            let table = self.table.as_ref().filter(|table| table.header)?;
            Some(table.names[column(&table.columns)?].clone()).filter(|name| !name.is_empty())
        };
        let counted = if series.index == Index::Counted { "step" } else { "timestamp" };
        let item = has_items.then(|| own(|columns| columns.item).unwrap_or_else(|| "item_id".into()));
        item.into_iter().chain([own(|columns| columns.time).unwrap_or_else(|| counted.into())]).collect()
    }
}

/// Writes [`SourceLayout::imputed`] to a file.
pub fn write_imputed(
    path: &Path,
    layout: &SourceLayout,
    series: &[Series],
    filled: impl Fn(usize, usize, usize) -> Option<f32>,
) -> Result<(), WriteError> {
    atomic::write(path, layout.imputed(series, filled))
}

/// Writes [`SourceLayout::quantiles`] to a file.
pub fn write_quantiles(
    path: &Path,
    layout: &SourceLayout,
    series: &[Series],
    forecasts: &[ForecastQuantiles],
) -> Result<(), WriteError> {
    atomic::write(path, layout.quantiles(series, forecasts))
}

impl SourceTable {
    fn style(&self) -> Style {
        Style { separator: self.separator, decimal: self.decimal }
    }

    fn imputed(&self, filled: impl Fn(usize, usize, usize) -> Option<f32>) -> String {
        let style = self.style();
        let mut text = String::with_capacity(self.text.len());
        let header = self.header.then_some(None);
        let mut rows = header.into_iter().chain(self.places.iter().map(Some));
        for line in self.text.split_inclusive('\n') {
            let content = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
            let place = if content.trim().is_empty() { None } else { rows.next().flatten() };
            match place {
                Some((series, step)) => {
                    self.row(content, style, |variable| filled(*series, *step, variable), &mut text);
                    text.push_str(&line[content.len()..]);
                }
                None => text.push_str(line),
            }
        }
        text
    }

    fn row(&self, line: &str, style: Style, filled: impl Fn(usize) -> Option<f32>, text: &mut String) {
        let mut column = 0;
        for_each_field(line, self.separator, |field, raw| {
            if column > 0 {
                text.push(self.separator);
            }
            let variable = self.columns.targets.iter().position(|target| *target == column);
            match variable.filter(|_| is_missing(field.trim())).and_then(&filled).filter(|value| value.is_finite()) {
                Some(value) => text.push_str(&style.number(value)),
                None => text.push_str(raw),
            }
            column += 1;
        });
    }
}

/// A table with a row for each step of all series.
fn imputed(series: &[Series], filled: impl Fn(usize, usize, usize) -> Option<f32>) -> String {
    let style = CSV;
    let has_items = series.len() > 1;
    let Some(first) = series.first() else { return String::new() };
    let header = SourceLayout::default().index_names(first, has_items).into_iter().chain(first.variables.clone());
    let mut text = style.line(header.map(|name| style.word(&name)));
    for (number, series) in series.iter().enumerate() {
        let times = TimeText::of_index(&series.index);
        for step in 0..series.target.steps() {
            let item = has_items.then(|| style.word(&item_name(series, number)));
            let cell = |variable| match (series.target.value(step, variable), filled(number, step, variable)) {
                (Some(value), _) => style.number(value),
                (None, Some(value)) => style.number(value),
                (None, None) => String::new(),
            };
            let cells = (0..series.target.variables()).map(cell);
            text.push_str(&style.line(item.into_iter().chain([time_of(series, step, &times)]).chain(cells)));
        }
    }
    text
}

/// The name of a series, or its number.
fn item_name(series: &Series, number: usize) -> String {
    series.name.clone().unwrap_or_else(|| number.to_string())
}

/// The time of a step, or its number.
fn time_of(series: &Series, step: usize, times: &TimeText) -> String {
    series.index.timestamp(step).map_or_else(|| step.to_string(), |time| times.text(time))
}

/// How a table of text is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    separator: char,
    decimal: char,
}

/// The most usual way.
pub(super) const CSV: Style = Style { separator: ',', decimal: '.' };

impl Style {
    pub(super) fn line(self, fields: impl Iterator<Item = String>) -> String {
        let mut line = fields.collect::<Vec<_>>().join(&self.separator.to_string());
        line.push('\n');
        line
    }

    /// A word, in quotes where it needs them.
    pub(super) fn word(self, word: &str) -> String {
        match word.contains([self.separator, '"', '\n', '\r']) {
            true => format!("\"{}\"", word.replace('"', "\"\"")),
            false => word.into(),
        }
    }

    /// The shortest text that reads as the same number; nothing where it is not finite.
    pub(super) fn number<N: Copy + Into<f64> + Display + LowerExp>(self, number: N) -> String {
        let value: f64 = number.into();
        let text = match value.abs() {
            0.0 => "0".into(),
            1e-5..1e15 => number.to_string(),
            _ if value.is_finite() => format!("{number:e}"),
            _ => return String::new(),
        };
        self.word(&text.replace('.', &self.decimal.to_string()))
    }
}
