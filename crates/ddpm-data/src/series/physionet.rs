//! Folders of the PhysioNet challenge of 2012: a file of measurements for each stay of 48 hours.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Problem, SeriesError};
use super::text::{fields, lines, number, read};
use super::{Index, Series, Table};

/// The variables, in the order of CSDI (Tashiro et al., 2021).
pub const VARIABLES: [&str; 35] = [
    "DiasABP",
    "HR",
    "Na",
    "Lactate",
    "NIDiasABP",
    "PaO2",
    "WBC",
    "pH",
    "Albumin",
    "ALT",
    "Glucose",
    "SaO2",
    "Temp",
    "AST",
    "Bilirubin",
    "HCO3",
    "BUN",
    "RespRate",
    "Mg",
    "HCT",
    "SysABP",
    "FiO2",
    "K",
    "GCS",
    "Cholesterol",
    "NISysABP",
    "TroponinT",
    "MAP",
    "TroponinI",
    "PaCO2",
    "Platelets",
    "Urine",
    "NIMAP",
    "Creatinine",
    "ALP",
];

/// Hours of a stay, and steps of a series.
pub const HOURS: usize = 48;

const EXPECTED: &str = "a folder with a file RECORD.txt for each stay, or with a folder set-a of them";
const HEADER: [&str; 3] = ["Time", "Parameter", "Value"];
const EXPECTED_TIME: &str = "hours and minutes, such as 07:30";

/// Reads the stays of a folder, sorted by record: a step for each hour, and the last value of an hour.
///
/// What describes the patient, the ventilation and what was measured at 48:00 are left out, as by others. Values are
/// taken as they stand, also -1.
pub fn read_physionet(folder: &Path) -> Result<Vec<Series>, SeriesError> {
    let set = folder.join("set-a");
    let folder = if set.is_dir() { set } else { folder.to_path_buf() };
    let on_io = |error| SeriesError::io(&folder, EXPECTED, error);
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(on_io)? {
        files.push(entry.map_err(on_io)?.path());
    }
    files.retain(|path| is_record(path));
    files.sort();
    if files.is_empty() {
        return Err(SeriesError::new(&folder, None, Problem::NoRows { expected: EXPECTED.into() }));
    }
    files.iter().map(|path| read_record(path)).collect()
}

/// Records are numbers; other texts, such as the outcomes, may lie among them.
fn is_record(path: &Path) -> bool {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    path.extension().is_some_and(|ending| ending == "txt") && stem.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_record(path: &Path) -> Result<Series, SeriesError> {
    let text = read(path, EXPECTED)?;
    let record = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut lines = lines(&text);
    let (line, header) = lines.next().unwrap_or((1, ""));
    let found = fields(header, ',');
    let is_missing = |(place, name): (usize, &&str)| found.get(place).map(String::as_str) != Some(*name);
    if let Some(missing) = HEADER.iter().enumerate().find(|column| is_missing(*column)) {
        let problem = Problem::MissingColumn { column: missing.1.to_string(), found };
        return Err(SeriesError::new(path, line, problem));
    }
    let (mut table, mut measured) = (Table::never_observed(HOURS, VARIABLES.len()), false);
    for (line, text) in lines {
        let row = row(&fields(text, ',')).map_err(|problem| SeriesError::new(path, line, problem))?;
        if let Some((hour, variable, value)) = row {
            table.set(hour, variable, value);
            measured = true;
        }
    }
    if !measured {
        let expected = format!("a measurement of a known variable in record {record}");
        return Err(SeriesError::new(path, None, Problem::NoRows { expected }));
    }
    Ok(Series::new(Some(record), Index::Counted, VARIABLES.map(String::from).to_vec(), table))
}

/// Hour, variable and value of a row, if it is one of those that are read.
fn row(fields: &[String]) -> Result<Option<(usize, usize, f64)>, Problem> {
    let [time, parameter, value] = fields else {
        return Err(Problem::FieldCount { expected: HEADER.len(), got: fields.len() });
    };
    let bad_time = || Problem::BadTimestamp { text: time.clone(), expected: EXPECTED_TIME };
    let hour = hour(time).ok_or_else(bad_time)?;
    let not_a_number = || Problem::NotANumber { place: parameter.clone(), text: value.clone() };
    let value = number(value, '.', || parameter.clone())?.ok_or_else(not_a_number)?;
    let variable = VARIABLES.iter().position(|name| name == parameter);
    Ok(variable.filter(|_| hour < HOURS).map(|variable| (hour, variable, value)))
}

fn hour(time: &str) -> Option<usize> {
    let (hour, minute) = time.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(hour) && digits(minute) && minute < "60").then(|| hour.parse().ok())?
}
