//! Tables of text: how a file is written, and its rows of fields.

use std::path::Path;

use super::error::{Problem, SeriesError};
use super::text::{fields, is_missing, lines, number};
use super::{Timestamp, numbered};

/// How a table of text is written; what is not given is found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) separator: Option<char>,
    pub(super) decimal: Option<char>,
    pub(super) header: Option<bool>,
}

/// A table of text.
pub(super) struct Sheet {
    /// Between fields.
    pub(super) separator: char,
    /// In numbers: a point or a comma.
    pub(super) decimal: char,
    /// Whether the first line has the names.
    pub(super) header: bool,
    /// Names of the columns, by number where there is no header.
    pub(super) names: Vec<String>,
    /// The line of each row, counted from 1.
    pub(super) lines: Vec<u64>,
    pub(super) rows: Vec<Vec<String>>,
}

/// Separators that are tried, the rarest in texts first.
const SEPARATORS: [char; 4] = ['\t', ';', '|', ','];

/// Lines that show how a file is written.
const SHOWN: usize = 50;

impl Sheet {
    /// Reads the text of a file. All rows have as many fields as the first.
    pub(super) fn parse(path: &Path, text: &str, given: Given) -> Result<Self, SeriesError> {
        let shown: Vec<&str> = lines(text).take(SHOWN).map(|(_, line)| line).collect();
        let separator = given.separator.unwrap_or_else(|| find_separator(&shown));
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut numbers = Vec::new();
        for (line, text) in lines(text) {
            let row = fields(text, separator);
            let expected = rows.first().map_or(row.len(), Vec::len);
            if row.len() != expected {
                let problem = Problem::FieldCount { expected, got: row.len() };
                return Err(SeriesError::new(path, line, problem));
            }
            rows.push(row);
            numbers.push(line);
        }
        if rows.is_empty() {
            return Err(SeriesError::new(path, None, Problem::EmptyFile));
        }
        let decimal = given.decimal.unwrap_or_else(|| find_decimal(&rows, separator));
        let header = given.header.unwrap_or_else(|| is_header(&rows[0], decimal));
        let names = if header { rows.remove(0) } else { numbered(rows[0].len()) };
        let first_line = if header { numbers.remove(0) } else { numbers[0] };
        if rows.is_empty() {
            let problem = Problem::NoRows { expected: "a row for each time below the header".into() };
            return Err(SeriesError::new(path, first_line, problem));
        }
        let named: Vec<String> = names.iter().filter(|name| !name.is_empty()).cloned().collect();
        super::wide::unique(path, first_line, &named)?;
        Ok(Self { separator, decimal, header, names, lines: numbers, rows })
    }

    /// The fields of a column.
    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().map(move |row| row[column].as_str())
    }

    /// A name for messages: also where the header has none.
    pub(super) fn name(&self, column: usize) -> String {
        match self.names[column].as_str() {
            "" => format!("column {} (without a name)", column + 1),
            name => format!("column {}", super::error::quoted(name)),
        }
    }

    /// The number in a cell, or none where the value is missing.
    pub(super) fn number(&self, row: usize, column: usize) -> Result<Option<f64>, Problem> {
        number(&self.rows[row][column], self.decimal, || format!("column {}", self.names[column]))
    }

    /// The column of a name.
    pub(super) fn find(&self, name: &str) -> Result<usize, Problem> {
        let missing = || Problem::MissingColumn { column: name.into(), found: self.names.clone() };
        self.names.iter().position(|found| found == name).ok_or_else(missing)
    }
}

/// The separator that cuts all lines that are shown into equally many fields, or the one that cuts the first line most.
fn find_separator(shown: &[&str]) -> char {
    let count = |line: &str, separator| fields(line, separator).len();
    let width = |separator| shown.first().map_or(1, |line| count(line, separator));
    let cuts_all = |separator: &char| {
        let width = width(*separator);
        width > 1 && shown.iter().all(|line| count(line, *separator) == width)
    };
    if let Some(separator) = SEPARATORS.into_iter().find(cuts_all) {
        return separator;
    }
    match SEPARATORS.into_iter().max_by_key(|separator| width(*separator)) {
        Some(separator) if width(separator) > 1 => separator,
        // One column, in which a comma is a decimal comma.
        _ if shown.iter().any(|line| line.contains(',')) => ';',
        _ => ',',
    }
}

/// A comma where numbers are written with one, and none with a point.
fn find_decimal(rows: &[Vec<String>], separator: char) -> char {
    if separator == ',' {
        return '.';
    }
    let is_number = |field: &str, decimal: char| {
        field.contains(decimal) && number(field, decimal, String::new).is_ok_and(|value| value.is_some())
    };
    let has = |decimal| rows.iter().flatten().any(|field| is_number(field, decimal));
    if has(',') && !has('.') { ',' } else { '.' }
}

/// Whether the first line has names: a word, and neither a date nor a number with a fraction.
fn is_header(first: &[String], decimal: char) -> bool {
    let is_number = |field: &str| number(field, decimal, String::new).is_ok();
    let is_value = |field: &String| {
        Timestamp::parse(field).is_some() || (field.contains(decimal) && !is_missing(field) && is_number(field))
    };
    first.iter().any(|field| !is_number(field)) && !first.iter().any(is_value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn how_a_table_is_written_is_found() {
        for (text, separator, decimal, header, width) in [
            ("date,a,b\n2020-01-01,1,2.5\n", ',', '.', true, 3),
            ("date;a;b\n2020-01-01;1,5;2,5\n2020-01-02;;3\n", ';', ',', true, 3),
            ("date\ta\n2020-01-01\t1.5\n", '\t', '.', true, 2),
            ("1.5,2\n3,4\n", ',', '.', false, 2),
            ("value\n1\n2\n", ',', '.', true, 1),
            ("value\n1,5\n2,5\n", ';', ',', true, 1),
            ("A,2020-01-01,1\nA,2020-01-02,2\n", ',', '.', false, 3),
            ("country,2019,2020\na,1,2\n", ',', '.', true, 3),
            ("\"a;b\",c\n1,2\n", ',', '.', true, 2),
        ] {
            let sheet = Sheet::parse(Path::new("a.csv"), text, Given::default()).unwrap();
            let found = (sheet.separator, sheet.decimal, sheet.header, sheet.names.len());
            assert_eq!(found, (separator, decimal, header, width), "{text}");
        }
        let ragged = Sheet::parse(Path::new("a.csv"), "a,b\n1,2\n1,2,3\n", Given::default()).err().unwrap();
        assert_eq!((ragged.problem.kind(), ragged.line), ("wrong_number_of_fields", Some(3)));
    }
}
