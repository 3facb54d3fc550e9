//! Opens series of any format: what a path is, and what the columns of a table are, is found.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::arrays::{Layout, Mask, read_npy, read_npz};
use super::columns::Columns;
use super::error::{Problem, SeriesError};
use super::gluonts::{self, Metadata};
use super::index::{Times, find_frequency};
use super::sheet::{Given, Sheet};
use super::text::read;
use super::wide::timestamp;
use super::write::SourceLayout;
use super::{Covariates, Frequency, Index, Series, Table, Timestamp, physionet, tsf};

const EXPECTED_TABLE: &str = "a CSV file";
const EXPECTED: &str = "a .csv, .tsv or .txt table, .json or .jsonl (also with .gz), .tsf, .npy, .npz, .parquet, \
                        a GluonTS folder or a folder of PhysioNet 2012";

/// What is known about a file; what is not given is found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadHints {
    /// The column with the times.
    pub time: Option<String>,
    /// The column with the names of the series, in a table with a row for each series and time.
    pub item: Option<String>,
    /// The columns with the variables.
    pub targets: Vec<String>,
    /// The columns with what is known beforehand. Rows at the end of a series that have no variable are its future.
    pub covariates: Vec<String>,
    /// The frequency.
    pub frequency: Option<Frequency>,
    /// What the axes of an array are.
    pub layout: Option<Layout>,
    /// The name of the array in an `.npz`; `values` unless given.
    pub values: Option<String>,
    /// The mask in an `.npz`.
    pub mask: Option<Mask>,
    /// Between the fields of a table.
    pub separator: Option<char>,
    /// In the numbers of a table: a point or a comma.
    pub decimal: Option<char>,
    /// Whether the first line of a table has the names.
    pub header: Option<bool>,
}

/// Series as they were found.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The format, for the user.
    pub format: String,
    /// The series; those to train on where a dataset has others to test on.
    pub series: Vec<Series>,
    /// The series to test on, with history and horizon, of a dataset that has them.
    pub test: Vec<Series>,
    /// Steps to forecast, where a dataset states them.
    pub horizon: Option<usize>,
    /// What was left out or taken for granted, for the user.
    pub notes: Vec<String>,
    /// For results in the form of the data.
    pub layout: SourceLayout,
}

impl Opened {
    fn of(format: &str, series: Vec<Series>) -> Self {
        Self { format: format.into(), series, ..Self::default() }
    }
}

/// Opens the series of a path, in whatever format it is.
pub fn read_any(path: &Path, hints: &ReadHints) -> Result<Opened, SeriesError> {
    if path.is_dir() {
        return read_folder(path, hints);
    }
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("csv" | "tsv" | "txt" | "tab" | "dat") => read_table(path, hints),
        Some("json" | "jsonl" | "ndjson") => read_lines(path, hints),
        Some("tsf") => {
            let tsf::Tsf { series, horizon, .. } = tsf::read_tsf(path)?;
            Ok(Opened { horizon, ..Opened::of(".tsf of the Monash archive", series) })
        }
        Some("npy") => read_array("NumPy array", hints, |layout| read_npy(path, layout)),
        Some("npz") => {
            let values = hints.values.as_deref().unwrap_or("values");
            read_array("NumPy archive", hints, |layout| read_npz(path, values, hints.mask.as_ref(), layout))
        }
        Some("parquet" | "pq") => read_parquet(path, hints),
        _ if !path.exists() => Err(SeriesError::new(path, None, Problem::MissingFile { expected: EXPECTED })),
        _ => Err(SeriesError::new(path, None, Problem::UnknownFile { expected: EXPECTED })),
    }
}

/// A folder of GluonTS, of PhysioNet, or of series in lines of JSON.
fn read_folder(folder: &Path, hints: &ReadHints) -> Result<Opened, SeriesError> {
    if folder.join("metadata.json").is_file() {
        let gluonts::GluonTs { metadata, train, test } = gluonts::read_gluonts(folder)?;
        return Ok(Opened { test, horizon: metadata.prediction_length, ..Opened::of("folder of GluonTS", train) });
    }
    let on_io = |error| SeriesError::io(folder, EXPECTED, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(on_io)? {
        names.push(entry.map_err(on_io)?.file_name().to_string_lossy().to_lowercase());
    }
    let has = |ending: &str| names.iter().any(|name| name.trim_end_matches(".gz").ends_with(ending));
    if has(".json") || has(".jsonl") {
        return Ok(Opened::of("folder of JSON lines", gluonts::read_folder(folder, &metadata(folder, hints)?)?));
    }
    if has(".txt") || names.iter().any(|name| name == "set-a") {
        return Ok(Opened::of("folder of PhysioNet 2012", physionet::read_physionet(folder)?));
    }
    Err(SeriesError::new(folder, None, Problem::UnknownFile { expected: EXPECTED }))
}

fn read_lines(path: &Path, hints: &ReadHints) -> Result<Opened, SeriesError> {
    let metadata = metadata(path, hints)?;
    let horizon = metadata.prediction_length;
    Ok(Opened { horizon, ..Opened::of("JSON lines of GluonTS", gluonts::read_json_lines(path, &metadata)?) })
}

/// What holds for series in lines of JSON: the `metadata.json` of the dataset, or the frequency that is given.
fn metadata(path: &Path, hints: &ReadHints) -> Result<Metadata, SeriesError> {
    let beside = path.ancestors().skip(1).take(2).map(|folder| folder.join("metadata.json"));
    match (hints.frequency, beside.into_iter().find(|file| file.is_file() && file != path)) {
        (Some(frequency), _) => {
            let (cardinalities, dynamic_names) = (Vec::new(), Vec::new());
            Ok(Metadata { frequency, prediction_length: None, cardinalities, dynamic_names })
        }
        (None, Some(file)) => gluonts::read_metadata(&file),
        (None, None) => Err(SeriesError::new(path, None, Problem::UnstatedFrequency)),
    }
}

/// An array whose axes are given, or shown by their number.
fn read_array(
    format: &str,
    hints: &ReadHints,
    read: impl Fn(Layout) -> Result<Vec<Series>, SeriesError>,
) -> Result<Opened, SeriesError> {
    if let Some(layout) = hints.layout {
        return Ok(Opened::of(format, read(layout)?));
    }
    let (series, note) = match read(Layout::TK) {
        Err(SeriesError { problem: Problem::WrongRank { shape, .. }, .. }) if shape.len() == 3 => {
            (read(Layout::NLK)?, "an array of three axes: series, steps, variables (NLK)")
        }
        series => (series?, "an array of two axes: steps, variables (TK)"),
    };
    Ok(Opened { notes: vec![note.into()], ..Opened::of(format, series) })
}

#[cfg(feature = "parquet")]
fn read_parquet(path: &Path, hints: &ReadHints) -> Result<Opened, SeriesError> {
    of_table(
        path,
        super::parquet::read_as_text(path)?,
        &ReadHints { separator: Some(','), decimal: Some('.'), header: Some(true), ..hints.clone() },
    )
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(path: &Path, _: &ReadHints) -> Result<Opened, SeriesError> {
    Err(SeriesError::new(path, None, Problem::WithoutFeature { feature: "parquet" }))
}

fn read_table(path: &Path, hints: &ReadHints) -> Result<Opened, SeriesError> {
    of_table(path, read(path, EXPECTED_TABLE)?, hints)
}

/// The series of a table of text.
fn of_table(path: &Path, text: String, hints: &ReadHints) -> Result<Opened, SeriesError> {
    let ReadHints { separator, decimal, header, .. } = *hints;
    let sheet = Sheet::parse(path, text, Given { separator, decimal, header })?;
    let mut notes = Vec::new();
    let columns = Columns::find(path, &sheet, hints, &mut notes)?;
    let groups = groups(path, &sheet, &columns)?;
    let frequency = match columns.time {
        Some(_) => Some(frequency(path, &sheet, &groups, hints.frequency)?),
        None => None,
    };
    let mut places = vec![(0, 0); sheet.rows()];
    for (series, group) in groups.iter().enumerate() {
        group.rows.iter().enumerate().for_each(|(step, row)| places[*row] = (series, step));
    }
    let mut series = Vec::with_capacity(groups.len());
    for group in groups {
        series.push(group.series(path, &sheet, &columns, frequency)?);
    }
    let future = series.iter().map(future_steps).max().unwrap_or(0);
    if future > 0 {
        notes.push(format!("up to {future} rows at the end have no variable: the future of the covariates"));
    }
    let format = format_of(&sheet, &columns);
    let layout = SourceLayout::of_table(sheet, columns, places);
    Ok(Opened { notes, layout, ..Opened::of(&format, series) })
}

/// How a table is written.
fn format_of(sheet: &Sheet, columns: &Columns) -> String {
    let separator = match sheet.separator {
        '\t' => "tabs".to_string(),
        ' ' => "spaces".to_string(),
        separator => format!("\"{separator}\""),
    };
    let mut format = format!("table separated by {separator}");
    if sheet.decimal == ',' {
        format += ", decimal commas";
    }
    if !sheet.header {
        format += ", no header";
    }
    for (what, column) in [("times", columns.time), ("names of the series", columns.item)] {
        if let Some(column) = column {
            format += &format!(", {what} in {}", sheet.name(column));
        }
    }
    format
}

fn future_steps(series: &Series) -> usize {
    series.dynamic.as_ref().map_or(0, |covariates| covariates.values.steps() - series.target.steps())
}

/// The rows of one series.
#[derive(Default)]
struct Group {
    name: Option<String>,
    rows: Vec<usize>,
    /// The times of the rows, if there are any.
    times: Vec<Timestamp>,
}

/// The rows of each series: as they come where there is one, and sorted by name and time where there may be several.
fn groups(path: &Path, sheet: &Sheet, columns: &Columns) -> Result<Vec<Group>, SeriesError> {
    let mut groups: BTreeMap<Option<String>, Vec<(Option<Timestamp>, usize)>> = BTreeMap::new();
    for row in 0..sheet.rows() {
        let time = columns.time.map(|time| timestamp(sheet.field(row, time).into_owned())).transpose();
        let time = time.map_err(|problem| SeriesError::new(path, sheet.lines[row], problem))?;
        let name = columns.item.map(|item| sheet.field(row, item).into_owned());
        groups.entry(name).or_default().push((time, row));
    }
    let group = |(name, mut rows): (_, Vec<(Option<Timestamp>, usize)>)| {
        if columns.item.is_some() {
            // Rows of one time stay in the order of the file, so that the second of them is named.
            rows.sort_by_key(|row| row.0);
        }
        let times = rows.iter().filter_map(|row| row.0).collect();
        Group { name, rows: rows.into_iter().map(|row| row.1).collect(), times }
    };
    Ok(groups.into_iter().map(group).collect())
}

/// One frequency for all series.
fn frequency(
    path: &Path,
    sheet: &Sheet,
    groups: &[Group],
    stated: Option<Frequency>,
) -> Result<Frequency, SeriesError> {
    let all: Vec<Times> =
        groups.iter().map(|group| Times { item: group.name.as_deref(), times: &group.times }).collect();
    find_frequency(path, &all, stated, |series, step| sheet.lines[groups[series].rows[step]])
}

impl Group {
    fn series(
        self,
        path: &Path,
        sheet: &Sheet,
        columns: &Columns,
        frequency: Option<Frequency>,
    ) -> Result<Series, SeriesError> {
        let table = |of: &[usize], rows: &[usize]| {
            let mut table = Table::new(of.len());
            for row in rows {
                for column in of {
                    let number = sheet.number(*row, *column);
                    table.push(number.map_err(|problem| SeriesError::new(path, sheet.lines[*row], problem))?);
                }
            }
            Ok(table)
        };
        let names = |of: &[usize]| of.iter().map(|column| sheet.names[*column].clone()).collect();
        let index = match (self.times.first(), frequency) {
            (Some(start), Some(frequency)) => Index::Times { start: *start, frequency },
            _ => Index::Counted,
        };
        let mut target = table(&columns.targets, &self.rows)?;
        let dynamic = match columns.covariates.as_slice() {
            [] => None,
            covariates => Some(Covariates { names: names(covariates), values: table(covariates, &self.rows)? }),
        };
        if dynamic.is_some() {
            let known = |step: &usize| (0..target.variables()).any(|variable| target.value(*step, variable).is_some());
            let Some(last) = (0..target.steps()).rev().find(known) else {
                return Err(SeriesError::new(path, sheet.lines[self.rows[0]], Problem::EmptyTarget));
            };
            target = table(&columns.targets, &self.rows[..=last])?;
        }
        let mut series = Series::new(self.name, index, names(&columns.targets), target);
        series.dynamic = dynamic;
        Ok(series)
    }
}
