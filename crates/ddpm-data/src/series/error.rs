//! What can be wrong with a file of series: which file, which line, and what was expected.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::time::{Frequency, Timestamp};
use crate::error::DataError;
use crate::names::{printable, shown};

/// A file of series that cannot be read.
#[derive(Debug)]
pub struct SeriesError {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1, with the header and comments.
    pub line: Option<u64>,
    /// What is wrong and what was expected.
    pub problem: Problem,
}

impl SeriesError {
    pub(super) fn new(path: &Path, line: impl Into<Option<u64>>, problem: Problem) -> Self {
        Self { path: path.to_path_buf(), line: line.into(), problem }
    }

    pub(super) fn io(path: &Path, expected: &'static str, error: io::Error) -> Self {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => Problem::MissingFile { expected },
            _ => Problem::Unreadable(error),
        };
        Self::new(path, None, problem)
    }
}

impl fmt::Display for SeriesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shown(&self.path))?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for SeriesError {}

impl From<SeriesError> for DataError {
    fn from(SeriesError { path, line, problem }: SeriesError) -> Self {
        let reason = match line {
            Some(line) => format!("line {line}: {problem}"),
            None => problem.to_string(),
        };
        DataError::Format { path, reason }
    }
}

/// Letters of a text from a file that a message shows, and names of columns.
const LETTERS_SHOWN: usize = 60;
const NAMES_SHOWN: usize = 20;

/// A text from a file: short, and on one line.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(LETTERS_SHOWN).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", printable(&short))
}

fn list(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| quoted(name)).collect();
    if names.len() > NAMES_SHOWN {
        shown.push("...".into());
    }
    shown.join(", ")
}

/// What is wrong with a file of series. Texts of the file are as they stand there.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// A file or folder is not there.
    #[error("not found; expected {expected}")]
    MissingFile {
        /// What should be there.
        expected: &'static str,
    },
    /// A file of a kind that is not read.
    #[error("a file of this kind is not read; expected {expected}")]
    UnknownFile {
        /// What is read.
        expected: &'static str,
    },
    /// A Parquet file that cannot be read.
    #[error(
        "not a Parquet file that can be read: {reason}; expected a whole one, plain or compressed by snappy, gzip or LZ4"
    )]
    DamagedParquet {
        /// What the library says.
        reason: String,
    },
    /// A file that needs a feature of the build.
    #[error(
        "this program was built without the feature `{feature}`; build it with `--features {feature}` to read such files"
    )]
    WithoutFeature {
        /// The feature.
        feature: &'static str,
    },
    /// A file without a byte.
    #[error("the file is empty; expected series")]
    EmptyFile,
    /// A file with a header and nothing more, or a folder without files.
    #[error("no rows; expected {expected}")]
    NoRows {
        /// What should be there.
        expected: String,
    },
    /// The compressed data end early or are damaged.
    #[error("the gzip data are damaged or end early: {reason}; expected a complete .gz file")]
    DamagedGzip {
        /// What the decoder says.
        reason: String,
    },
    /// The compressed data stand for more than is read.
    #[error("the gzip data unpack to more than {most} bytes; unpack the file to read it all the same")]
    UnpacksTooFar {
        /// As many bytes as are read.
        most: u64,
    },
    /// A column that should be there.
    #[error("no column {}; expected it, and found {}", quoted(column), list(found))]
    MissingColumn {
        /// Its name.
        column: String,
        /// The names of the file.
        found: Vec<String>,
    },
    /// Two columns with one name.
    #[error("two columns are named {}; expected different names", quoted(column))]
    DuplicateColumn {
        /// The name.
        column: String,
    },
    /// A row of another length than the first.
    #[error("{got} fields; expected {expected}")]
    FieldCount {
        /// Fields of the header or of the first row.
        expected: usize,
        /// Fields of this row.
        got: usize,
    },
    /// A text where a number should be.
    #[error("{}: {} is not a number; expected one", printable(place), quoted(text))]
    NotANumber {
        /// The column or field.
        place: String,
        /// The text.
        text: String,
    },
    /// A number that is infinite, or would be when squared.
    #[error("{}: {} is not finite; expected a number of less than 1e150", printable(place), quoted(text))]
    InfiniteValue {
        /// The column or field.
        place: String,
        /// The number.
        text: String,
    },
    /// A text where a time should be.
    #[error("{} is not a time; expected {expected}", quoted(text))]
    BadTimestamp {
        /// The text.
        text: String,
        /// What is read.
        expected: &'static str,
    },
    /// One time twice.
    #[error("{timestamp} is there twice{}; expected each time once", of_item(item))]
    DuplicateTimestamp {
        /// The series, where the file has several.
        item: Option<String>,
        /// The time.
        timestamp: Timestamp,
    },
    /// A time that does not follow the one before.
    #[error(
        "{timestamp} does not follow{}; expected {expected} (frequency {frequency}): add the rows that are missing, with empty cells, or state another frequency",
        of_item(item)
    )]
    IrregularIndex {
        /// The series, where the file has several.
        item: Option<String>,
        /// The time.
        timestamp: Timestamp,
        /// The time that would follow.
        expected: Timestamp,
        /// The frequency that was stated or found.
        frequency: Frequency,
    },
    /// Times go back.
    #[error("{timestamp} comes after {before}; expected times in ascending order")]
    DecreasingIndex {
        /// The time.
        timestamp: Timestamp,
        /// The one of the row before.
        before: Timestamp,
    },
    /// One row does not show a frequency.
    #[error("one row does not show the frequency; expected two rows or more, or a stated frequency")]
    UnknownFrequency,
    /// Series have their first time only.
    #[error("the first times of the series do not show the frequency; expected a metadata.json or a stated frequency")]
    UnstatedFrequency,
    /// A frequency that is not known.
    #[error("unknown frequency {}; expected {expected}", quoted(text))]
    BadFrequency {
        /// The text.
        text: String,
        /// What is read.
        expected: &'static str,
    },
    /// A line that is not JSON.
    #[error("not JSON: {reason}; expected one object")]
    JsonSyntax {
        /// What the parser says.
        reason: String,
    },
    /// A field that should be there.
    #[error("no field {field}; expected it in every series")]
    MissingField {
        /// Its name.
        field: &'static str,
    },
    /// A field of another kind.
    #[error("{field} is not what it should be; expected {expected}")]
    WrongField {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: String,
    },
    /// Variables of different length.
    #[error("{field}: row {row} has {got} values; expected {expected}, as the first")]
    RaggedTarget {
        /// The field.
        field: &'static str,
        /// The row at fault, counted from 0.
        row: usize,
        /// Values of the first row.
        expected: usize,
        /// Values of this one.
        got: usize,
    },
    /// Series of one and of several variables in one file.
    #[error("target has {}; expected {}, as in the first series", dimensions(*got), dimensions(*expected))]
    MixedDimensions {
        /// Variables of the first series; none for a plain list.
        expected: Option<usize>,
        /// Variables of this one.
        got: Option<usize>,
    },
    /// A covariate that does not cover the target.
    #[error("{field} has {got} steps; expected {target}, or {target} + the prediction length of {horizon}")]
    FeatureLength {
        /// The field.
        field: &'static str,
        /// Its steps.
        got: usize,
        /// Steps of the target.
        target: usize,
        /// The prediction length.
        horizon: usize,
    },
    /// A series without values.
    #[error("the series has no values; expected one at least")]
    EmptyTarget,
    /// Data before `@data`.
    #[error("a row of data before the line `@data`; expected that line first")]
    MissingDataTag,
    /// An attribute of another type.
    #[error("unknown attribute type {}; expected string, numeric or date", quoted(text))]
    BadAttributeType {
        /// The type.
        text: String,
    },
    /// A line of a header that is not understood.
    #[error("{} is no line of the header; expected {expected}", quoted(text))]
    BadHeaderLine {
        /// The line.
        text: String,
        /// What is read.
        expected: &'static str,
    },
    /// Not an array of NumPy.
    #[error("not an NPY file; expected one that begins with \\x93NUMPY")]
    BadMagic,
    /// A header of NumPy that is not understood, or an archive.
    #[error("{reason}")]
    BadArray {
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Pickled objects.
    #[error("the array holds Python objects, which are never loaded; expected numbers")]
    ObjectDtype,
    /// Fewer bytes than the shape says.
    #[error("{got} bytes of values; expected {expected} for shape {shape:?}")]
    Truncated {
        /// The shape.
        shape: Vec<usize>,
        /// Bytes that it needs, as far as they can be counted.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// More bytes than the shape says.
    #[error("{got} bytes of values; expected no more than {expected} for shape {shape:?}")]
    TrailingBytes {
        /// The shape.
        shape: Vec<usize>,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// An array with another number of axes than the layout.
    #[error("an array of {} axes, of shape {shape:?}; expected {expected}, [{layout}]", shape.len())]
    WrongRank {
        /// The layout.
        layout: &'static str,
        /// Its axes.
        expected: usize,
        /// The shape.
        shape: Vec<usize>,
    },
    /// A mask of another shape than the values.
    #[error("the mask has shape {mask:?}; expected {values:?}, as the values")]
    MaskShape {
        /// The shape of the values.
        values: Vec<usize>,
        /// The shape of the mask.
        mask: Vec<usize>,
    },
    /// A mask with other values than 0 and 1.
    #[error("the mask has the value {value} at {at:?}; expected 0 or 1")]
    MaskValues {
        /// The value.
        value: f64,
        /// Where, along each axis.
        at: Vec<usize>,
    },
    /// Two files of one table that do not fit.
    #[error("{reason}")]
    FilesDiffer {
        /// What differs and what was expected.
        reason: String,
    },
}

impl Problem {
    /// A short name that does not change.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::MissingFile { .. } => "missing_file",
            Self::UnknownFile { .. } => "unknown_file",
            Self::DamagedParquet { .. } => "damaged_parquet",
            Self::WithoutFeature { .. } => "without_feature",
            Self::EmptyFile => "empty_file",
            Self::NoRows { .. } => "no_rows",
            Self::DamagedGzip { .. } => "truncated_gzip",
            Self::UnpacksTooFar { .. } => "unpacks_too_far",
            Self::MissingColumn { .. } => "missing_column",
            Self::DuplicateColumn { .. } => "duplicate_column",
            Self::FieldCount { .. } => "wrong_number_of_fields",
            Self::NotANumber { .. } => "not_a_number",
            Self::InfiniteValue { .. } => "infinite_value",
            Self::BadTimestamp { .. } => "bad_timestamp",
            Self::DuplicateTimestamp { .. } => "duplicate_timestamp",
            Self::IrregularIndex { .. } | Self::DecreasingIndex { .. } => "irregular_index",
            Self::UnknownFrequency | Self::UnstatedFrequency => "unknown_frequency",
            Self::BadFrequency { .. } => "bad_frequency",
            Self::JsonSyntax { .. } => "json_syntax",
            Self::MissingField { .. } => "missing_field",
            Self::WrongField { .. } => "wrong_field",
            Self::RaggedTarget { .. } => "ragged_target",
            Self::MixedDimensions { .. } => "mixed_dimensions",
            Self::FeatureLength { .. } => "feature_length",
            Self::EmptyTarget => "empty_target",
            Self::MissingDataTag => "missing_data_tag",
            Self::BadAttributeType { .. } => "bad_attribute_type",
            Self::BadHeaderLine { .. } => "bad_header_line",
            Self::BadMagic => "bad_magic",
            Self::BadArray { .. } => "bad_array",
            Self::ObjectDtype => "object_dtype",
            Self::Truncated { .. } => "truncated",
            Self::TrailingBytes { .. } => "trailing_bytes",
            Self::WrongRank { .. } => "wrong_rank",
            Self::MaskShape { .. } => "mask_shape",
            Self::MaskValues { .. } => "mask_values",
            Self::FilesDiffer { .. } => "files_differ",
        }
    }
}

fn of_item(item: &Option<String>) -> String {
    item.as_ref().map(|item| format!(" in series {}", quoted(item))).unwrap_or_default()
}

fn dimensions(variables: Option<usize>) -> String {
    match variables {
        None => "one list of values".into(),
        Some(count) => format!("a list for each of {count} variables"),
    }
}
