//! What the columns of a table are: times, names of series, variables and covariates, or nothing that is used.

use std::collections::HashSet;
use std::path::Path;

use super::Timestamp;
use super::any::ReadHints;
use super::error::{Problem, SeriesError};
use super::sheet::Sheet;
use super::text::{is_missing, number};

/// What the columns of a table are, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) time: Option<usize>,
    pub(super) item: Option<usize>,
    pub(super) targets: Vec<usize>,
    pub(super) covariates: Vec<usize>,
}

/// Usual names of the time.
const TIMES: [&str; 6] = ["timestamp", "datetime", "date_time", "date", "time", "ds"];
/// Usual names of the name of a series.
const ITEMS: [&str; 6] = ["item_id", "unique_id", "series_id", "ts_id", "item", "series"];
/// Usual names of the one variable of a table with a row for each series and time.
const TARGETS: [&str; 3] = ["target", "y", "value"];
/// Usual names of a column that counts the rows.
const COUNTERS: [&str; 8] = ["", "unnamed: 0", "index", "no", "id", "row", "step", "t"];

/// What is in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Numbers,
    /// 0, 1, 2, ... or 1, 2, 3, ...
    RowNumbers,
    Words,
    Nothing,
}

impl Columns {
    /// Finds what is not given. `notes` says what is left out.
    pub(super) fn find(
        path: &Path,
        sheet: &Sheet,
        hints: &ReadHints,
        notes: &mut Vec<String>,
    ) -> Result<Self, SeriesError> {
        let line = sheet.first_line;
        let all = |names: &[String]| names.iter().map(|name| sheet.find(name)).collect::<Result<Vec<_>, _>>();
        let given = || {
            let time = hints.time.as_deref().map(|name| sheet.find(name)).transpose()?;
            let item = hints.item.as_deref().map(|name| sheet.find(name)).transpose()?;
            Ok(Self { time, item, targets: all(&hints.targets)?, covariates: all(&hints.covariates)? })
        };
        let mut columns = given().map_err(|problem| SeriesError::new(path, line, problem))?;
        if columns.time.is_none() {
            columns.time = columns.find_time(sheet);
        }
        if columns.item.is_none() {
            columns.item = columns.find_item(sheet);
        }
        if columns.time.is_none() {
            notes.push("no column has dates: steps are counted".into());
        }
        if columns.targets.is_empty() {
            columns.targets = columns.find_targets(sheet, notes);
        }
        if columns.targets.is_empty() {
            let problem = Problem::NoRows { expected: "a column of numbers to learn".into() };
            return Err(SeriesError::new(path, line, problem));
        }
        Ok(columns)
    }

    fn is_free(&self, column: usize) -> bool {
        let used = self.time.iter().chain(&self.item).chain(&self.targets).chain(&self.covariates);
        !used.copied().any(|used| used == column)
    }

    fn free<'a>(&'a self, sheet: &'a Sheet) -> impl Iterator<Item = usize> + 'a {
        (0..sheet.names.len()).filter(|column| self.is_free(*column))
    }

    /// The column of a usual name, the most usual first.
    fn named(&self, sheet: &Sheet, names: &[&str]) -> Option<usize> {
        let of_name = |name: &&str| self.free(sheet).find(|column| sheet.names[*column].eq_ignore_ascii_case(name));
        names.iter().find_map(of_name)
    }

    /// A column that is called so and has words, which must be dates then; or the first that has mostly dates.
    fn find_time(&self, sheet: &Sheet) -> Option<usize> {
        let named = self.named(sheet, &TIMES).filter(|column| content(sheet, *column) == Content::Words);
        let times = |column| sheet.column(column).filter(|field| Timestamp::parse(field).is_some()).count();
        let has_times = |column: &usize| 2 * times(*column) > sheet.rows();
        named.or_else(|| self.free(sheet).find(has_times))
    }

    /// A column that is called so, or one of words of which each has every time once, where times are there twice.
    fn find_item(&self, sheet: &Sheet) -> Option<usize> {
        let named = self.named(sheet, &ITEMS);
        let time = self.time?;
        let differ = |item: Option<usize>| {
            let mut seen = HashSet::new();
            (0..sheet.rows()).all(|row| seen.insert((sheet.field(row, time), item.map(|item| sheet.field(row, item)))))
        };
        named.or_else(|| {
            let tells_apart = |column: &usize| content(sheet, *column) == Content::Words && differ(Some(*column));
            if differ(None) { None } else { self.free(sheet).find(tells_apart) }
        })
    }

    /// With a column of names the column that is called so; or all columns of numbers.
    fn find_targets(&self, sheet: &Sheet, notes: &mut Vec<String>) -> Vec<usize> {
        let only = self.item.and_then(|_| self.named(sheet, &TARGETS));
        let mut targets = Vec::new();
        for column in self.free(sheet) {
            let is_counter = || COUNTERS.iter().chain(&TIMES).any(|it| sheet.names[column].eq_ignore_ascii_case(it));
            let left_out = match content(sheet, column) {
                Content::Words => "has words and is left out",
                Content::Nothing => "has no values and is left out",
                Content::RowNumbers if sheet.header && is_counter() => "counts the rows and is left out",
                _ if sheet.names[column].is_empty() => "is left out",
                _ if only.is_some_and(|only| only != column) => {
                    "is left out; name it as a target or as a covariate to use it"
                }
                _ => {
                    targets.push(column);
                    continue;
                }
            };
            notes.push(format!("{} {left_out}", sheet.name(column)));
        }
        targets
    }
}

/// What is in a column. One that has more numbers than words has numbers, so that the words in it are refused.
fn content(sheet: &Sheet, column: usize) -> Content {
    let (mut numbers, mut words) = (Vec::new(), 0);
    for field in sheet.column(column).filter(|field| !is_missing(field.trim())) {
        match number(&field, sheet.decimal, String::new) {
            Err(Problem::NotANumber { .. }) => words += 1,
            value => numbers.push(value.ok().flatten()),
        }
    }
    let first = numbers.first().copied().flatten().filter(|first| *first == 0.0 || *first == 1.0);
    let counts = |first: f64| numbers.iter().enumerate().all(|(k, value)| *value == Some(first + k as f64));
    match (numbers.len(), words) {
        (0, 0) => Content::Nothing,
        (count, words) if count <= words => Content::Words,
        (count, 0) if count == sheet.rows() && first.is_some_and(counts) => Content::RowNumbers,
        _ => Content::Numbers,
    }
}
