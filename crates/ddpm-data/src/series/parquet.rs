//! Tables in Parquet files, as the text of a CSV file: from there on they are read and written as one.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{LogicalType, TimeUnit};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::Timestamp;
use super::error::{Problem, SeriesError};
use super::write::CSV;

const EXPECTED: &str = "a Parquet file";

/// Cells that a byte of a file may stand for, and cells that it always may.
const MOST_PER_BYTE: u64 = 1000;
const ALWAYS_READ: u64 = 1 << 20;

const DAY: i64 = 86_400;

/// The columns of a file as the text of a CSV file with a header: numbers as short as they read the same, times as
/// 2020-01-31T23:00:00, nothing where there is no value. Lists and other nested columns become the word `nested`.
pub(super) fn read_as_text(path: &Path) -> Result<String, SeriesError> {
    let file = File::open(path).map_err(|error| SeriesError::io(path, EXPECTED, error))?;
    let bytes = file.metadata().map_err(|error| SeriesError::io(path, EXPECTED, error))?.len();
    // The library panics at some damaged files.
    let read = catch_unwind(AssertUnwindSafe(|| text(file, bytes)));
    let damaged = || Err(Problem::DamagedParquet { reason: "the file is damaged".into() });
    read.unwrap_or_else(|_| damaged()).map_err(|problem| SeriesError::new(path, None, problem))
}

fn text(file: File, bytes: u64) -> Result<String, Problem> {
    let damaged = |error: ParquetError| Problem::DamagedParquet { reason: error.to_string() };
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let metadata = reader.metadata().file_metadata();
    let fields = metadata.schema().get_fields();
    let rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
    let most = bytes.saturating_mul(MOST_PER_BYTE).max(ALWAYS_READ);
    if rows.saturating_mul(fields.len() as u64) > most {
        let reason = format!("{rows} rows of {} columns in {bytes} bytes", fields.len());
        return Err(Problem::DamagedParquet { reason });
    }
    let is_nanoseconds = |logical: Option<&LogicalType>| matches!(logical, Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS);
    let nanoseconds: Vec<bool> =
        fields.iter().map(|field| is_nanoseconds(field.get_basic_info().logical_type_ref())).collect();
    let mut text = CSV.line(fields.iter().map(|field| CSV.word(&one_line(field.name()))));
    for row in reader.get_row_iter(None).map_err(damaged)? {
        let row = row.map_err(damaged)?;
        let cells = row.get_column_iter().zip(&nanoseconds);
        text.push_str(&CSV.line(cells.map(|((_, field), nanoseconds)| cell(field, *nanoseconds))));
    }
    Ok(text)
}

fn cell(field: &Field, nanoseconds: bool) -> String {
    match field {
        Field::Null => String::new(),
        Field::Bool(value) => u8::from(*value).to_string(),
        Field::Long(value) if nanoseconds => time(*value, 1_000_000_000),
        Field::TimestampMicros(value) => time(*value, 1_000_000),
        Field::TimestampMillis(value) => time(*value, 1000),
        Field::Date(days) => {
            let time = Timestamp::from_seconds(i64::from(*days) * DAY).to_string();
            time.split('T').next().unwrap_or_default().into()
        }
        Field::Float16(value) => number(f32::from(*value)),
        Field::Float(value) => number(*value),
        Field::Double(value) => number(*value),
        Field::Str(text) => CSV.word(&one_line(text)),
        Field::Bytes(_) | Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => "nested".into(),
        // Whole numbers, decimal numbers and times of day.
        other => CSV.word(&other.to_string()),
    }
}

/// A time, with its fraction of a second where it has one.
fn time(value: i64, per_second: i64) -> String {
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let text = Timestamp::from_seconds(seconds).to_string();
    let width = per_second.ilog10() as usize;
    if fraction == 0 { text } else { format!("{text}.{fraction:0width$}") }
}

fn number<N: Copy + Into<f64> + std::fmt::Display + std::fmt::LowerExp>(value: N) -> String {
    // Infinite values are refused later, with their place.
    if value.into().is_infinite() { "inf".into() } else { CSV.number(value) }
}

/// A row is a line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
