//! The `.tsf` files of the Monash archive (Godahewa et al., 2021).

use std::path::Path;

use super::error::{Problem, SeriesError};
use super::text::{fields, finite, number, read};
use super::wide::timestamp;
use super::{Frequency, Index, Series, Table};

/// What the files are, for messages.
const EXPECTED: &str = "a .tsf file of the Monash archive";
const EXPECTED_LINE: &str = "@relation, @attribute, @frequency, @horizon, @missing, @equallength or @data";

/// The time of a series without one, as it may be given.
const START: &str = "start_timestamp";
/// The name of a series.
const NAME: &str = "series_name";

/// A file of the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Tsf {
    /// The frequency, where the file states one.
    pub frequency: Option<Frequency>,
    /// Steps to forecast, where the file states them.
    pub horizon: Option<usize>,
    /// Whether the file says that values are missing.
    pub missing: Option<bool>,
    /// Whether the file says that all series are of one length.
    pub equal_length: Option<bool>,
    /// The names of the numeric attributes, which are the static numbers of a series.
    pub numeric: Vec<String>,
    /// The series, of one variable each.
    pub series: Vec<Series>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Numeric,
    Date,
}

/// What the header says.
#[derive(Default)]
struct Header {
    attributes: Vec<(String, Kind)>,
    frequency: Option<Frequency>,
    horizon: Option<usize>,
    missing: Option<bool>,
    equal_length: Option<bool>,
    data: bool,
}

/// Reads a `.tsf` file, plain or gzip.
pub fn read_tsf(path: &Path) -> Result<Tsf, SeriesError> {
    let text = read(path, EXPECTED)?;
    let (mut header, mut series, mut last) = (Header::default(), Vec::new(), 0);
    let lines = super::text::lines(&text).map(|(line, text)| (line, text.trim()));
    for (line, text) in lines.filter(|(_, text)| !text.starts_with('#')) {
        let read = match text.starts_with('@') && !header.data {
            true => header.read(text),
            false => header.series(text).map(|found| series.push(found)),
        };
        read.map_err(|problem| SeriesError::new(path, line, problem))?;
        last = line;
    }
    if series.is_empty() {
        let problem = Problem::NoRows { expected: "a row for each series below the line `@data`".into() };
        return Err(SeriesError::new(path, Some(last).filter(|last| *last > 0), problem));
    }
    let Header { attributes, frequency, horizon, missing, equal_length, .. } = header;
    let numeric = attributes.into_iter().filter(|(_, kind)| *kind == Kind::Numeric).map(|(name, _)| name).collect();
    Ok(Tsf { frequency, horizon, missing, equal_length, numeric, series })
}

impl Header {
    fn read(&mut self, line: &str) -> Result<(), Problem> {
        let wrong = || Problem::BadHeaderLine { text: line.into(), expected: EXPECTED_LINE };
        let mut words = line.split_whitespace();
        let (tag, value, more) = (words.next().unwrap_or_default(), words.next(), words.next());
        match (tag.to_ascii_lowercase().as_str(), value, more) {
            ("@relation", _, _) => {}
            ("@attribute", Some(name), Some(kind)) => self.attributes.push((name.into(), Kind::parse(kind)?)),
            ("@frequency", Some(text), None) => {
                let expected = Frequency::EXPECTED_MONASH;
                let bad = || Problem::BadFrequency { text: text.into(), expected };
                self.frequency = Some(Frequency::parse_monash(text).ok_or_else(bad)?);
            }
            ("@horizon", Some(text), None) => self.horizon = Some(text.parse().map_err(|_| wrong())?),
            ("@missing", Some(text), None) => self.missing = Some(text.parse().map_err(|_| wrong())?),
            ("@equallength", Some(text), None) => self.equal_length = Some(text.parse().map_err(|_| wrong())?),
            ("@data", None, None) => self.data = true,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// A row: the attributes and, behind the last colon, the values.
    fn series(&self, line: &str) -> Result<Series, Problem> {
        if !self.data {
            return Err(Problem::MissingDataTag);
        }
        let mut parts = fields(line, ':');
        let expected = self.attributes.len() + 1;
        if parts.len() != expected {
            return Err(Problem::FieldCount { expected, got: parts.len() });
        }
        let values = parts.pop().unwrap_or_default();
        let (mut name, mut start, mut reals) = (None, None, Vec::new());
        for ((attribute, kind), text) in self.attributes.iter().zip(parts) {
            match kind {
                Kind::Date if attribute == START || start.is_none() => start = Some(timestamp(text)?),
                Kind::Text if attribute == NAME || name.is_none() => name = Some(text),
                Kind::Numeric => reals.push(numeric(&text, attribute)?),
                _ => {}
            }
        }
        let index = match (start, self.frequency) {
            (Some(start), Some(frequency)) => Index::Times { start, frequency },
            _ => Index::Counted,
        };
        let mut series = Series::new(name, index, vec!["target".into()], table(&values)?);
        series.static_reals = reals;
        Ok(series)
    }
}

impl Kind {
    fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "string" => Ok(Self::Text),
            "numeric" => Ok(Self::Numeric),
            "date" => Ok(Self::Date),
            _ => Err(Problem::BadAttributeType { text: text.into() }),
        }
    }
}

fn numeric(text: &str, attribute: &str) -> Result<f64, Problem> {
    let place = || format!("attribute {attribute}");
    number(text, '.', place)?.ok_or_else(|| Problem::NotANumber { place: place(), text: text.into() })
}

/// Values between commas; `?` is a missing one.
fn table(text: &str) -> Result<Table, Problem> {
    if text.trim().is_empty() {
        return Err(Problem::EmptyTarget);
    }
    let mut table = Table::new(1);
    for (step, text) in text.split(',').map(str::trim).enumerate() {
        let place = || format!("value {step}");
        table.push(match text {
            "?" => None,
            text => match text.parse::<f64>() {
                Ok(value) if !value.is_nan() => Some(finite(value, text, place)?),
                _ => return Err(Problem::NotANumber { place: place(), text: text.into() }),
            },
        });
    }
    Ok(table)
}
