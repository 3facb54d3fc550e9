//! CSV files with a row for each series and time, in any order.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{Problem, SeriesError};
use super::index::{Times, find_frequency};
use super::text::{fields, lines, number, read};
use super::wide::{timestamp, unique};
use super::{Covariates, Frequency, Index, Series, Table, Timestamp};

/// What the files are, for messages.
const EXPECTED: &str = "a CSV file with a row for each series and time";

/// How a long CSV file is written, and which columns are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Between fields.
    pub separator: char,
    /// In numbers: a point or a comma.
    pub decimal: char,
    /// The column with the name of the series; without one, the file has one series.
    pub item: Option<String>,
    /// The column with the time.
    pub time: String,
    /// The columns with the variables.
    pub targets: Vec<String>,
    /// The columns with covariates.
    pub covariates: Vec<String>,
    /// The frequency, if it is stated.
    pub frequency: Option<Frequency>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            separator: ',',
            decimal: '.',
            item: Some("item_id".into()),
            time: "timestamp".into(),
            targets: vec!["target".into()],
            covariates: Vec::new(),
            frequency: None,
        }
    }
}

/// Numbers of the columns.
struct Columns {
    width: usize,
    item: Option<usize>,
    time: usize,
    /// Targets and covariates, with their names.
    numbers: Vec<(usize, String)>,
}

/// A row of one series.
struct Row {
    time: Timestamp,
    line: u64,
    numbers: Vec<Option<f64>>,
}

/// Reads the series of a long CSV file, plain or gzip: sorted by name, and inside by time.
pub fn read_long(path: &Path, options: &Options) -> Result<Vec<Series>, SeriesError> {
    parse_long(path, &read(path, EXPECTED)?, options)
}

/// The series of the text of a long CSV file.
pub(super) fn parse_long(path: &Path, text: &str, options: &Options) -> Result<Vec<Series>, SeriesError> {
    let mut lines = lines(text);
    let Some((first_line, first)) = lines.next() else {
        return Err(SeriesError::new(path, None, Problem::EmptyFile));
    };
    let header = fields(first, options.separator);
    unique(path, first_line, &header)?;
    let columns = Columns::find(&header, options).map_err(|problem| SeriesError::new(path, first_line, problem))?;
    let mut items: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
    for (line, text) in lines {
        let fields = fields(text, options.separator);
        let (item, row) =
            columns.row(fields, line, options.decimal).map_err(|problem| SeriesError::new(path, line, problem))?;
        items.entry(item).or_default().push(row);
    }
    if items.is_empty() {
        let problem = Problem::NoRows { expected: "a row for each series and time below the header".into() };
        return Err(SeriesError::new(path, first_line, problem));
    }
    // Rows of one time stay in the order of the file, so that the second of them is named.
    items.values_mut().for_each(|rows| rows.sort_by_key(|row| row.time));
    let frequency = frequency(path, &items, options.frequency)?;
    Ok(items.into_iter().map(|(name, rows)| series(name, &rows, frequency, options)).collect())
}

impl Columns {
    fn find(header: &[String], options: &Options) -> Result<Self, Problem> {
        let find = |name: &String| {
            let missing = || Problem::MissingColumn { column: name.clone(), found: header.to_vec() };
            header.iter().position(|found| found == name).ok_or_else(missing)
        };
        let numbers = options.targets.iter().chain(&options.covariates);
        Ok(Self {
            width: header.len(),
            item: options.item.as_ref().map(find).transpose()?,
            time: find(&options.time)?,
            numbers: numbers.map(|name| Ok((find(name)?, name.clone()))).collect::<Result<_, _>>()?,
        })
    }

    fn row(&self, mut fields: Vec<String>, line: u64, decimal: char) -> Result<(Option<String>, Row), Problem> {
        if fields.len() != self.width {
            return Err(Problem::FieldCount { expected: self.width, got: fields.len() });
        }
        let number = |(column, name): &(usize, String)| number(&fields[*column], decimal, || format!("column {name}"));
        let numbers = self.numbers.iter().map(number).collect::<Result<_, _>>()?;
        let time = timestamp(std::mem::take(&mut fields[self.time]))?;
        let item = self.item.map(|item| std::mem::take(&mut fields[item]));
        Ok((item, Row { time, line, numbers }))
    }
}

/// One frequency for all series.
fn frequency(
    path: &Path,
    items: &BTreeMap<Option<String>, Vec<Row>>,
    stated: Option<Frequency>,
) -> Result<Frequency, SeriesError> {
    let times: Vec<Vec<Timestamp>> = items.values().map(|rows| rows.iter().map(|row| row.time).collect()).collect();
    let named = items.keys().zip(&times);
    let all: Vec<Times> = named.map(|(item, times)| Times { item: item.as_deref(), times }).collect();
    let lines: Vec<&Vec<Row>> = items.values().collect();
    find_frequency(path, &all, stated, |item, step| lines[item][step].line)
}

fn series(name: Option<String>, rows: &[Row], frequency: Frequency, options: &Options) -> Series {
    let targets = options.targets.len();
    let table = |range: std::ops::Range<usize>| {
        Table::from_rows(range.len(), rows.iter().flat_map(|row| row.numbers[range.clone()].iter().copied()))
    };
    let index = Index::Times { start: rows[0].time, frequency };
    let mut series = Series::new(name, index, options.targets.clone(), table(0..targets));
    if !options.covariates.is_empty() {
        let values = table(targets..targets + options.covariates.len());
        series.dynamic = Some(Covariates { names: options.covariates.clone(), values });
    }
    series
}
