//! Texts of series: plain or gzip, bounded; lines, fields and numbers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::error::{Problem, SeriesError};

/// Bytes that a byte of a .gz may stand for, as tables of numbers have it at most, and bytes that it always may.
const MOST_PER_BYTE: u64 = 100;
const ALWAYS_READ: u64 = 16 << 20;

/// A number whose square is not finite is of no use.
const TOO_LARGE: f64 = 1e150;

/// The text of a file, unpacked where it is a .gz. What is not UTF-8 is read as Latin-1.
pub(super) fn read(path: &Path, expected: &'static str) -> Result<String, SeriesError> {
    let on_io = |error| SeriesError::io(path, expected, error);
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(on_io)?;
    if bytes.starts_with(&[0x1F, 0x8B]) {
        bytes = unpack(&bytes).map_err(|problem| SeriesError::new(path, None, problem))?;
    }
    if bytes.is_empty() {
        return Err(SeriesError::new(path, None, Problem::EmptyFile));
    }
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| error.as_bytes().iter().map(|byte| char::from(*byte)).collect());
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    })
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, Problem> {
    let most = (packed.len() as u64).saturating_mul(MOST_PER_BYTE).max(ALWAYS_READ);
    let mut bytes = Vec::new();
    MultiGzDecoder::new(packed)
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::DamagedGzip { reason: error.to_string() })?;
    if bytes.len() as u64 > most {
        return Err(Problem::UnpacksTooFar { most });
    }
    Ok(bytes)
}

/// The lines of a text with their numbers, from 1; empty ones are left out.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// The fields of a line. In quotes, a separator is a letter and `""` is a quote; a quote that does not end is one.
pub(super) fn fields(line: &str, separator: char) -> Vec<String> {
    let mut fields = Vec::new();
    for_each_field(line, separator, |field, _| fields.push(field));
    fields
}

/// Calls `visit` with each field of a line and with its text as it stands there.
pub(super) fn for_each_field(line: &str, separator: char, mut visit: impl FnMut(String, &str)) {
    let mut rest = line;
    loop {
        let quoted = rest.trim_start_matches(' ').strip_prefix('"').and_then(quoted_field);
        let (mut field, after) = quoted.unwrap_or((String::new(), rest));
        let end = after.find(separator).unwrap_or(after.len());
        field.push_str(after[..end].trim());
        let after = &after[end..];
        visit(field, &rest[..rest.len() - after.len()]);
        match after.strip_prefix(separator) {
            Some(next) => rest = next,
            None => return,
        }
    }
}

/// A field whose opening quote was read, and what comes after the closing one.
fn quoted_field(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, after)),
        }
    }
}

/// A number, or `None` where a text says that it is missing.
pub(super) fn number(text: &str, decimal: char, place: impl FnOnce() -> String) -> Result<Option<f64>, Problem> {
    let text = text.trim();
    if is_missing(text) {
        return Ok(None);
    }
    // With a decimal comma, a point might separate thousands: nobody can know.
    let is_number = decimal == '.' || !text.contains('.');
    match text.replace(decimal, ".").parse() {
        Ok(value) if is_number => finite(value, text, place).map(Some),
        _ => Err(Problem::NotANumber { place: place(), text: text.into() }),
    }
}

/// How a missing value is written, in any case.
const MISSING: [&str; 7] = ["nan", "na", "null", "n/a", "none", "<na>", "#n/a"];

pub(super) fn is_missing(text: &str) -> bool {
    text.is_empty() || MISSING.iter().any(|missing| text.eq_ignore_ascii_case(missing))
}

/// A number that can be squared.
pub(super) fn finite(value: f64, text: &str, place: impl FnOnce() -> String) -> Result<f64, Problem> {
    if value.abs() < TOO_LARGE {
        return Ok(value);
    }
    Err(Problem::InfiniteValue { place: place(), text: text.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_where_no_quotes_are() {
        for (line, expected) in [
            ("a,b,,c", vec!["a", "b", "", "c"]),
            ("\"a,b\",\"c \"\"d\"\"\"", vec!["a,b", "c \"d\""]),
            (" \"a\" ,b ", vec!["a", "b"]),
            ("\"a\"b,c", vec!["ab", "c"]),
            ("\"a,b", vec!["\"a", "b"]),
            ("", vec![""]),
            (",", vec!["", ""]),
        ] {
            assert_eq!(fields(line, ','), expected, "{line}");
        }
    }

    #[test]
    fn numbers_are_finite_or_missing() {
        let read = |text: &str, decimal| number(text, decimal, || "a".into()).map_err(|problem| problem.kind());
        assert_eq!(read(" 1.5e1", '.'), Ok(Some(15.0)));
        assert_eq!(read("-1,5", ','), Ok(Some(-1.5)));
        assert_eq!(read("1.234,5", ','), Err("not_a_number"));
        assert_eq!(read("1,5", '.'), Err("not_a_number"));
        for missing in ["", " ", "NaN", "nan", "NA", "null", "N/A", "None", "<NA>"] {
            assert_eq!(read(missing, '.'), Ok(None));
        }
        for infinite in ["inf", "-Infinity", "1e999", "1e200"] {
            assert_eq!(read(infinite, '.'), Err("infinite_value"));
        }
    }
}
