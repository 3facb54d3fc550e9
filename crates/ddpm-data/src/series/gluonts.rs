//! Folders of GluonTS: `metadata.json`, and `train` and `test` with a series in each line of JSON.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{Problem, SeriesError};
use super::text::{finite, lines, read};
use super::{Covariates, Frequency, Index, Series, Table, Timestamp, numbered};

const EXPECTED_METADATA: &str = "the metadata.json of a GluonTS dataset";
const EXPECTED_FOLDER: &str = "a folder of series in lines of JSON";
const EXPECTED_FILE: &str = "series in lines of JSON: .json or .jsonl, also with .gz";

/// Folders in folders that are read.
const DEEPEST: usize = 8;

/// What `metadata.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The frequency of all series.
    pub frequency: Frequency,
    /// Steps to forecast, where they are stated.
    pub prediction_length: Option<usize>,
    /// Number of classes of each static category.
    pub cardinalities: Vec<usize>,
    /// Names of the covariates that change with time, where they are stated.
    pub dynamic_names: Vec<String>,
}

/// A dataset of GluonTS.
#[derive(Clone, Debug, PartialEq)]
pub struct GluonTs {
    /// What holds for all series.
    pub metadata: Metadata,
    /// The series to train on.
    pub train: Vec<Series>,
    /// History and horizon: the forecast of a series begins `prediction_length` steps before its end.
    pub test: Vec<Series>,
}

/// Reads a dataset. A folder `test` may be missing.
pub fn read_gluonts(folder: &Path) -> Result<GluonTs, SeriesError> {
    let metadata = read_metadata(&folder.join("metadata.json"))?;
    let test = folder.join("test");
    Ok(GluonTs {
        train: read_folder(&folder.join("train"), &metadata)?,
        test: if test.exists() { read_folder(&test, &metadata)? } else { Vec::new() },
        metadata,
    })
}

pub(super) fn read_metadata(path: &Path) -> Result<Metadata, SeriesError> {
    let text = read(path, EXPECTED_METADATA)?;
    let fail = |problem| SeriesError::new(path, None, problem);
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        SeriesError::new(path, error.line() as u64, Problem::JsonSyntax { reason: error.to_string() })
    })?;
    let text = value["freq"].as_str().ok_or_else(|| fail(Problem::MissingField { field: "freq" }))?;
    let bad = || fail(Problem::BadFrequency { text: text.into(), expected: Frequency::EXPECTED });
    let frequency = Frequency::parse(text).ok_or_else(bad)?;
    let wrong = |field, expected: &str| fail(Problem::WrongField { field, expected: expected.into() });
    let prediction_length = match &value["prediction_length"] {
        Value::Null => None,
        length => Some(whole(length).ok_or_else(|| wrong("prediction_length", "a whole number"))?),
    };
    let features = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let cardinality = |feature: Value| {
        whole(&feature["cardinality"]).ok_or_else(|| wrong("feat_static_cat", "a cardinality for each category"))
    };
    let name = |feature: Value| feature["name"].as_str().map(String::from);
    Ok(Metadata {
        frequency,
        prediction_length,
        cardinalities: features("feat_static_cat").into_iter().map(cardinality).collect::<Result<_, _>>()?,
        dynamic_names: features("feat_dynamic_real").into_iter().filter_map(name).collect(),
    })
}

/// A whole number, which GluonTS also writes as a text.
fn whole(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64().and_then(|number| usize::try_from(number).ok()),
    }
}

/// The series of all files of a folder and of those below, in the order of their names. Hidden files are left out.
pub(super) fn read_folder(folder: &Path, metadata: &Metadata) -> Result<Vec<Series>, SeriesError> {
    let mut files = Vec::new();
    collect(folder, 0, &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for file in &files {
        all.extend(read_json_lines(file, metadata)?);
    }
    match all.is_empty() {
        true => Err(SeriesError::new(folder, None, Problem::NoRows { expected: EXPECTED_FOLDER.into() })),
        false => Ok(all),
    }
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SeriesError> {
    let on_io = |error| SeriesError::io(folder, EXPECTED_FOLDER, error);
    for entry in fs::read_dir(folder).map_err(on_io)? {
        let path = entry.map_err(on_io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(['.', '_']) {
            continue;
        }
        match (path.is_dir(), name.strip_suffix(".gz").unwrap_or(&name)) {
            (true, _) if depth < DEEPEST => collect(&path, depth + 1, files)?,
            (false, name) if name.ends_with(".json") || name.ends_with(".jsonl") => files.push(path),
            _ => return Err(SeriesError::new(&path, None, Problem::UnknownFile { expected: EXPECTED_FILE })),
        }
    }
    Ok(())
}

/// Reads the series of one file, a line for each. Values may be missing: NaN, `"NaN"` or null.
pub fn read_json_lines(path: &Path, metadata: &Metadata) -> Result<Vec<Series>, SeriesError> {
    let text = read(path, EXPECTED_FILE)?;
    let mut all: Vec<Series> = Vec::new();
    let mut first = None;
    for (line, text) in lines(&text) {
        let read =
            read_series(text, metadata).and_then(|(series, dimensions)| match *first.get_or_insert(dimensions) {
                expected if expected != dimensions => Err(Problem::MixedDimensions { expected, got: dimensions }),
                _ => Ok(series),
            });
        all.push(read.map_err(|problem| SeriesError::new(path, line, problem))?);
    }
    Ok(all)
}

/// A series, and the number of its variables where its target is a list for each.
fn read_series(line: &str, metadata: &Metadata) -> Result<(Series, Option<usize>), Problem> {
    let fields: Map<String, Value> = serde_json::from_str(&without_bare_names(line))
        .map_err(|error| Problem::JsonSyntax { reason: error.to_string() })?;
    let start = match fields.get("start") {
        None => return Err(Problem::MissingField { field: "start" }),
        Some(Value::String(text)) => text,
        Some(_) => return Err(Problem::WrongField { field: "start", expected: Timestamp::EXPECTED.into() }),
    };
    let bad_time = |expected| Problem::BadTimestamp { text: start.clone(), expected };
    let start = Timestamp::parse(start).ok_or_else(|| bad_time(Timestamp::EXPECTED))?;
    if !metadata.frequency.can_start_at(start) {
        return Err(bad_time("a day from Monday to Friday, as the frequency says"));
    }
    let (target, dimensions) = target(fields.get("target").ok_or(Problem::MissingField { field: "target" })?)?;
    let variables = if dimensions.is_none() { vec!["target".into()] } else { numbered(target.variables()) };
    let index = Index::Times { start, frequency: metadata.frequency };
    let name = match fields.get("item_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(other) => Some(other.to_string()),
    };
    let mut series = Series::new(name, index, variables, target);
    series.dynamic = dynamic(&fields, series.target.steps(), metadata)?;
    series.static_categories = categories(&fields, metadata)?;
    series.static_reals = reals(&fields)?;
    Ok((series, dimensions))
}

/// GluonTS writes `NaN` and `Infinity`, which JSON does not know: here `null` and `"Infinity"`.
fn without_bare_names(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut in_text, mut escaped, mut rest) = (false, false, line);
    while let Some(letter) = rest.chars().next() {
        let bare = [("NaN", "null"), ("Infinity", "\"Infinity\""), ("-Infinity", "\"-Infinity\"")];
        let bare = bare.into_iter().find(|(name, _)| !in_text && rest.starts_with(name));
        if let Some((name, instead)) = bare {
            out.push_str(instead);
            rest = &rest[name.len()..];
            continue;
        }
        in_text ^= letter == '"' && !escaped;
        escaped = in_text && letter == '\\' && !escaped;
        out.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    out
}

/// A list of values, or one for each variable.
fn target(value: &Value) -> Result<(Table, Option<usize>), Problem> {
    let field = "target";
    let wrong = || Problem::WrongField { field, expected: "a list of numbers, or one for each variable".into() };
    let list = value.as_array().ok_or_else(wrong)?;
    let (rows, dimensions) = match list.first() {
        Some(Value::Array(_)) => (rows(field, value)?, Some(list.len())),
        _ => (vec![values(field, value)?], None),
    };
    if rows[0].is_empty() {
        return Err(Problem::EmptyTarget);
    }
    Ok((Table::from_columns(&rows), dimensions))
}

/// Lists of equal length.
fn rows(field: &'static str, value: &Value) -> Result<Vec<Vec<Option<f64>>>, Problem> {
    let wrong = || Problem::WrongField { field, expected: "a list of numbers for each row".into() };
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(wrong)?;
    let rows: Vec<_> = list.iter().map(|row| values(field, row)).collect::<Result<_, _>>()?;
    let expected = rows[0].len();
    match rows.iter().position(|row| row.len() != expected) {
        Some(row) => Err(Problem::RaggedTarget { field, row, expected, got: rows[row].len() }),
        None => Ok(rows),
    }
}

fn values(field: &'static str, value: &Value) -> Result<Vec<Option<f64>>, Problem> {
    let wrong = || Problem::WrongField { field, expected: "a list of numbers".into() };
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter().enumerate().map(|(step, value)| number(field, step, value)).collect()
}

fn number(field: &'static str, step: usize, value: &Value) -> Result<Option<f64>, Problem> {
    let place = || format!("{field}, value {step}");
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => finite(number.as_f64().unwrap_or(f64::INFINITY), &number.to_string(), place).map(Some),
        Value::String(text) => match text.as_str() {
            "NaN" | "Nan" => Ok(None),
            "Infinity" | "-Infinity" => Err(Problem::InfiniteValue { place: place(), text: text.clone() }),
            _ => Err(Problem::NotANumber { place: place(), text: text.clone() }),
        },
        other => {
            // What it is, not all of what it may hold.
            let text = if other.is_array() { "[..]".into() } else { other.to_string().chars().take(60).collect() };
            Err(Problem::NotANumber { place: place(), text })
        }
    }
}

/// The covariates `feat_dynamic_real`, or `dynamic_feat` as they were called before. They cover the target, or the
/// horizon too.
fn dynamic(fields: &Map<String, Value>, steps: usize, metadata: &Metadata) -> Result<Option<Covariates>, Problem> {
    let names = ["feat_dynamic_real", "dynamic_feat"];
    let found = names.into_iter().find_map(|field| Some((field, fields.get(field).filter(|it| !it.is_null())?)));
    let Some((field, value)) = found else { return Ok(None) };
    let values = Table::from_columns(&rows(field, value)?);
    let horizon = metadata.prediction_length.unwrap_or(0);
    let got = values.steps();
    if got != steps && Some(got) != steps.checked_add(horizon) {
        return Err(Problem::FeatureLength { field, got, target: steps, horizon });
    }
    let count = values.variables();
    let names = Some(&metadata.dynamic_names).filter(|names| names.len() == count);
    Ok(Some(Covariates { names: names.cloned().unwrap_or_else(|| numbered(count)), values }))
}

/// The categories `feat_static_cat`, each below its cardinality.
fn categories(fields: &Map<String, Value>, metadata: &Metadata) -> Result<Vec<usize>, Problem> {
    let field = "feat_static_cat";
    let Some(value) = fields.get(field).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let wrong = |expected| Problem::WrongField { field, expected };
    let list = value.as_array().ok_or_else(|| wrong("a list of categories".into()))?;
    let category = |(k, value): (usize, &Value)| {
        let most = metadata.cardinalities.get(k).copied().unwrap_or(usize::MAX);
        // Some files have them as 3.0.
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0 && *number < 1e15);
        let category = number.map(|number| number as usize).filter(|category| *category < most);
        category.ok_or_else(|| wrong(format!("for category {k} a whole number below its cardinality of {most}")))
    };
    list.iter().enumerate().map(category).collect()
}

fn reals(fields: &Map<String, Value>) -> Result<Vec<f64>, Problem> {
    let field = "feat_static_real";
    let Some(value) = fields.get(field).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let missing = || Problem::WrongField { field, expected: "numbers, none of them missing".into() };
    values(field, value)?.into_iter().map(|value| value.ok_or_else(missing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_numbers_are_replaced_outside_of_texts() {
        let line = r#"{"a\"NaN":[NaN,-Infinity,Infinity,1],"b":"NaN\\","c":NaN}"#;
        let expected = r#"{"a\"NaN":[null,"-Infinity","Infinity",1],"b":"NaN\\","c":null}"#;
        assert_eq!(without_bare_names(line), expected);
    }
}
