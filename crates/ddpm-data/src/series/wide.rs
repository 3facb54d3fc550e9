//! CSV files with a row for each time and a column for each variable, such as those of ETT, LSTNet and electricity.

use std::path::Path;

use super::error::{Problem, SeriesError};
use super::index::{Times, find_frequency};
use super::text::{fields, lines, number, read};
use super::{Frequency, Index, Series, Table, Timestamp, numbered};

/// What the files are, for messages.
const EXPECTED: &str = "a CSV file with a row for each time and a column for each variable";

/// How a wide CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Between fields.
    pub separator: char,
    /// In numbers: a point or a comma.
    pub decimal: char,
    /// Whether the first line has the names.
    pub header: bool,
    /// Where the times are from.
    pub times: TimesFrom,
}

/// Where the times of the rows are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimesFrom {
    /// The first column, at this frequency or at the one that it shows.
    FirstColumn {
        /// The frequency, if it is stated.
        frequency: Option<Frequency>,
    },
    /// Stated: every column is a variable.
    Stated(Index),
}

impl Default for Options {
    fn default() -> Self {
        Self { separator: ',', decimal: '.', header: true, times: TimesFrom::FirstColumn { frequency: None } }
    }
}

/// Rows as they are read.
struct Rows<'a> {
    path: &'a Path,
    options: &'a Options,
    /// Names of the variables.
    names: Vec<String>,
    table: Table,
    times: Vec<Timestamp>,
    /// The line of each row.
    lines: Vec<u64>,
}

/// Reads the series of a wide CSV file, plain or gzip.
pub fn read_wide(path: &Path, options: &Options) -> Result<Series, SeriesError> {
    let text = read(path, EXPECTED)?;
    let mut lines = lines(&text).peekable();
    let Some((first_line, first)) = lines.peek().copied() else {
        return Err(SeriesError::new(path, None, Problem::EmptyFile));
    };
    let first = fields(first, options.separator);
    let width = first.len();
    let names = names(path, first_line, first, options)?;
    if options.header {
        lines.next();
    }
    let table = Table::new(names.len());
    let mut rows = Rows { path, options, names, table, times: Vec::new(), lines: Vec::new() };
    for (line, text) in lines {
        rows.push(line, fields(text, options.separator), width).map_err(|it| SeriesError::new(path, line, it))?;
    }
    if rows.lines.is_empty() {
        let problem = Problem::NoRows { expected: "a row for each time below the header".into() };
        return Err(SeriesError::new(path, first_line, problem));
    }
    rows.finish()
}

/// Names of the variables, which must differ.
fn names(path: &Path, line: u64, first: Vec<String>, options: &Options) -> Result<Vec<String>, SeriesError> {
    let has_times = matches!(options.times, TimesFrom::FirstColumn { .. });
    let width = first.len();
    let count = width - usize::from(has_times);
    if count == 0 {
        return Err(SeriesError::new(path, line, Problem::FieldCount { expected: 2, got: width }));
    }
    if !options.header {
        return Ok(numbered(count));
    }
    let names: Vec<String> = first.into_iter().skip(usize::from(has_times)).collect();
    unique(path, line, &names)?;
    Ok(names)
}

/// Two columns of one name could not be told apart.
pub(super) fn unique(path: &Path, line: u64, names: &[String]) -> Result<(), SeriesError> {
    let mut seen = std::collections::HashSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(column) => Err(SeriesError::new(path, line, Problem::DuplicateColumn { column: column.clone() })),
        None => Ok(()),
    }
}

impl Rows<'_> {
    fn push(&mut self, line: u64, fields: Vec<String>, width: usize) -> Result<(), Problem> {
        if fields.len() != width {
            return Err(Problem::FieldCount { expected: width, got: fields.len() });
        }
        let mut fields = fields.into_iter();
        if let TimesFrom::FirstColumn { .. } = self.options.times {
            let text = fields.next().unwrap_or_default();
            self.times.push(timestamp(text)?);
        }
        for (field, name) in fields.zip(&self.names) {
            self.table.push(number(&field, self.options.decimal, || format!("column {name}"))?);
        }
        self.lines.push(line);
        Ok(())
    }

    fn finish(self) -> Result<Series, SeriesError> {
        let index = match self.options.times {
            TimesFrom::Stated(index) => index,
            TimesFrom::FirstColumn { frequency } => {
                let all = [Times { item: None, times: &self.times }];
                let frequency = find_frequency(self.path, &all, frequency, |_, step| self.lines[step])?;
                Index::Times { start: self.times[0], frequency }
            }
        };
        Ok(Series::new(None, index, self.names, self.table))
    }
}

pub(super) fn timestamp(text: String) -> Result<Timestamp, Problem> {
    Timestamp::parse(&text).ok_or(Problem::BadTimestamp { text, expected: Timestamp::EXPECTED })
}

/// Reads the series of a file with all values and of a second one without those that are held out, such as those of the
/// air quality in Beijing: what the second does not have is [`super::Cell::HeldOut`].
pub fn read_with_held_out(all: &Path, given: &Path, options: &Options) -> Result<Series, SeriesError> {
    let (mut series, shown) = (read_wide(all, options)?, read_wide(given, options)?);
    let differ = |reason: String| SeriesError::new(given, None, Problem::FilesDiffer { reason });
    if (series.index, &series.variables, series.target.steps()) != (shown.index, &shown.variables, shown.target.steps())
    {
        return Err(differ(format!("other times or variables; expected those of {}", all.display())));
    }
    for step in 0..series.target.steps() {
        for variable in 0..series.target.variables() {
            match (series.target.value(step, variable), shown.target.value(step, variable)) {
                (_, None) => series.target.hide(step, variable),
                (whole, shown) if whole == shown => {}
                _ => {
                    let (name, row) = (&series.variables[variable], step + 1);
                    let name = super::error::quoted(name);
                    return Err(differ(format!("row {row}, column {name}: expected the value of {}", all.display())));
                }
            }
        }
    }
    Ok(series)
}
