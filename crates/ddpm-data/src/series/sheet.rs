//! Tables of text: how a file is written, and its rows of fields.

use std::borrow::Cow;
use std::path::Path;

use super::error::{Problem, SeriesError};
use super::text::{fields, for_each_field, is_missing, lines, number};
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
    /// The line of the names, or of the first row.
    pub(super) first_line: u64,
    /// The line of each row, counted from 1.
    pub(super) lines: Vec<u64>,
    text: String,
    /// Where each field begins and ends in the text, row by row: a large table has very many.
    fields: Vec<(usize, u32)>,
}

/// Separators that are tried, the rarest in texts first.
const SEPARATORS: [char; 4] = ['\t', ';', '|', ','];

/// Lines that show how a file is written.
const SHOWN: usize = 50;

impl Sheet {
    /// Reads the text of a file. All rows have as many fields as the first.
    pub(super) fn parse(path: &Path, text: String, given: Given) -> Result<Self, SeriesError> {
        let shown: Vec<&str> = lines(&text).take(SHOWN).map(|(_, line)| line).collect();
        let separator = given.separator.unwrap_or_else(|| find_separator(&shown));
        let Some((first_line, first)) = lines(&text).next() else {
            return Err(SeriesError::new(path, None, Problem::EmptyFile));
        };
        let first = fields(first, separator);
        let (lines, places) = cut(path, &text, separator, first.len())?;
        let mut sheet =
            Self { separator, decimal: '.', header: false, names: first, first_line, lines, text, fields: places };
        sheet.decimal = given.decimal.unwrap_or_else(|| sheet.find_decimal());
        sheet.header = given.header.unwrap_or_else(|| is_header(&sheet.names, sheet.decimal));
        if sheet.header {
            sheet.lines.remove(0);
            sheet.fields.drain(..sheet.names.len());
        } else {
            sheet.names = numbered(sheet.names.len());
        }
        if sheet.lines.is_empty() {
            let problem = Problem::NoRows { expected: "a row for each time below the header".into() };
            return Err(SeriesError::new(path, first_line, problem));
        }
        let named: Vec<String> = sheet.names.iter().filter(|name| !name.is_empty()).cloned().collect();
        super::wide::unique(path, first_line, &named)?;
        Ok(sheet)
    }

    /// The text that was read.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.lines.len()
    }

    /// A field, without its quotes.
    pub(super) fn field(&self, row: usize, column: usize) -> Cow<'_, str> {
        let (start, len) = self.fields[row * self.names.len() + column];
        field(&self.text[start..start + len as usize], self.separator)
    }

    /// The fields of a column.
    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = Cow<'_, str>> {
        (0..self.rows()).map(move |row| self.field(row, column))
    }

    /// A comma where numbers are written with one, and none with a point.
    fn find_decimal(&self) -> char {
        if self.separator == ',' {
            return '.';
        }
        let is_number = |field: &str, decimal: char| {
            field.contains(decimal) && number(field, decimal, String::new).is_ok_and(|value| value.is_some())
        };
        let has = |decimal| {
            let mut fields = self.fields.iter().map(|(start, len)| &self.text[*start..*start + *len as usize]);
            fields.any(|raw| is_number(&field(raw, self.separator), decimal))
        };
        if has(',') && !has('.') { ',' } else { '.' }
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
        number(&self.field(row, column), self.decimal, || format!("column {}", self.names[column]))
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

/// The field of its text in the file.
fn field(raw: &str, separator: char) -> Cow<'_, str> {
    match raw.trim_start_matches(' ').starts_with('"') {
        true => Cow::Owned(fields(raw, separator).swap_remove(0)),
        false => Cow::Borrowed(raw.trim()),
    }
}

/// The lines of a text, and where each field begins and how long it is.
type Places = (Vec<u64>, Vec<(usize, u32)>);

fn cut(path: &Path, text: &str, separator: char, width: usize) -> Result<Places, SeriesError> {
    let (mut numbers, mut places) = (Vec::new(), Vec::new());
    for (line, content) in lines(text) {
        let (before, mut start) = (places.len(), content.as_ptr() as usize - text.as_ptr() as usize);
        let mut is_short = true;
        for_each_field(content, separator, |_, raw| {
            let len = u32::try_from(raw.len());
            is_short &= len.is_ok();
            places.push((start, len.unwrap_or(0)));
            start += raw.len() + separator.len_utf8();
        });
        let got = places.len() - before;
        if got != width || !is_short {
            let problem = Problem::FieldCount { expected: width, got };
            return Err(SeriesError::new(path, line, problem));
        }
        numbers.push(line);
    }
    Ok((numbers, places))
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
            let sheet = Sheet::parse(Path::new("a.csv"), text.to_string(), Given::default()).unwrap();
            let found = (sheet.separator, sheet.decimal, sheet.header, sheet.names.len());
            assert_eq!(found, (separator, decimal, header, width), "{text}");
        }
        let ragged = Sheet::parse(Path::new("a.csv"), "a,b\n1,2\n1,2,3\n".into(), Given::default()).err().unwrap();
        assert_eq!((ragged.problem.kind(), ragged.line), ("wrong_number_of_fields", Some(3)));
    }
}
