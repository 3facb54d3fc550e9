//! The rows of a Parquet file: of its columns, only the two that are wanted are read.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::{Type, TypePtr};

use super::{AUTO, CAPTIONS, EXPECTED, Row};
use crate::config::ImageTableConfig;
use crate::error::DataError;

/// Rows that a byte of a file may stand for.
const MOST_PER_BYTE: u64 = 1000;
/// The column in a group that has the bytes of an image.
const BYTES: &str = "bytes";
/// The largest caption.
const LARGEST_TEXT: usize = 1 << 20;

/// The rows of a file, in their order.
pub(super) fn read(path: &Path, config: &ImageTableConfig) -> Result<Vec<Row>, DataError> {
    let on_io = |error| DataError::io(path, EXPECTED, error);
    let file = File::open(path).map_err(on_io)?;
    let bytes = file.metadata().map_err(on_io)?.len();
    // The library panics at some damaged files.
    let read = catch_unwind(AssertUnwindSafe(|| rows(file, bytes, config)));
    read.unwrap_or_else(|_| Err("the file is damaged".into())).map_err(|reason| DataError::format(path, reason))
}

fn rows(file: File, bytes: u64, config: &ImageTableConfig) -> Result<Vec<Row>, String> {
    let damaged = |error: ParquetError| format!("cannot be read as Parquet: {error}");
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let metadata = reader.metadata().file_metadata();
    let count = u64::try_from(metadata.num_rows()).unwrap_or(0);
    if count > bytes.saturating_mul(MOST_PER_BYTE) {
        return Err(format!("claims {count} rows in {bytes} bytes"));
    }
    let schema = metadata.schema();
    let mut wanted = vec![column(schema, &config.image, "data.image")?];
    if config.has_captions() {
        wanted.push(caption_column(schema, &config.captions)?);
    }
    let names: Vec<String> = wanted.iter().map(|field| field.name().to_string()).collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(damaged)?;
    let mut rows = Vec::new();
    for (number, row) in reader.get_row_iter(Some(projection)).map_err(damaged)?.enumerate() {
        let row = row.map_err(damaged)?;
        let field = |name: &str| row.get_column_iter().find(|(found, _)| *found == name).map(|(_, field)| field);
        let image = field(&names[0]).and_then(image_of);
        let image = image.ok_or_else(|| format!("row {number}: column {:?} has no bytes of an image", names[0]))?;
        let caption = names.get(1).map(|name| {
            let text = field(name).and_then(text_of);
            text.ok_or_else(|| format!("row {number}: column {name:?} has no caption"))
        });
        rows.push(Row { image, caption: caption.transpose()? });
    }
    Ok(rows)
}

/// A column by its name.
fn column(schema: &Type, name: &str, key: &str) -> Result<TypePtr, String> {
    let found = schema.get_fields().iter().find(|field| field.name() == name);
    found.cloned().ok_or_else(|| format!("has no column {name:?}, which {key} names; {}", columns(schema)))
}

/// The column of the captions, by its name or by the names that it usually has.
fn caption_column(schema: &Type, name: &str) -> Result<TypePtr, String> {
    if name != AUTO {
        return column(schema, name, "data.captions");
    }
    let found = CAPTIONS.iter().find_map(|name| column(schema, name, "").ok());
    found.ok_or_else(|| {
        let usual = CAPTIONS.join(", ");
        format!("has no column of captions ({usual}); name it in data.captions; {}", columns(schema))
    })
}

fn columns(schema: &Type) -> String {
    let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    format!("there are: {}", names.join(", "))
}

/// The bytes of an image, which may be in a group with its path.
fn image_of(field: &Field) -> Option<Arc<[u8]>> {
    match field {
        Field::Bytes(bytes) => Some(bytes.data().into()),
        Field::Group(group) => {
            group.get_column_iter().find(|(name, _)| *name == BYTES).and_then(|(_, field)| match field {
                Field::Bytes(bytes) => Some(bytes.data().into()),
                _ => None,
            })
        }
        _ => None,
    }
}

/// A caption: a text, or the first of a list of them.
fn text_of(field: &Field) -> Option<Box<str>> {
    match field {
        Field::Str(text) if text.len() <= LARGEST_TEXT => Some(text.trim().into()),
        Field::ListInternal(list) => list.elements().first().and_then(text_of),
        _ => None,
    }
}
