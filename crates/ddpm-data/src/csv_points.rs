//! Points from two columns of a CSV file, standardised to mean 0 and standard deviation 1 per coordinate.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn_dataset::InMemDataset;
use csv::{ByteRecord, ReaderBuilder, Trim};

use crate::config::{Column, CsvConfig};
use crate::error::DataError;
use crate::example::{DataInfo, Example, Flip, Units};
use crate::hold_out::held_out;
use crate::open::{OpenData, Split};

/// Opens a split: a tenth of the lines is held out.
pub(crate) fn open(config: &CsvConfig, split: Split) -> Result<OpenData, DataError> {
    let path = &config.path;
    let text = fs::read(path).map_err(|source| DataError::io(path, "a CSV file", source))?;
    let points = read_points(&text, path, &config.columns)?;
    let keys: Vec<u64> = (0..points.len() as u64).collect();
    let (train, test): (Vec<_>, Vec<_>) = points.into_iter().zip(held_out(&keys)).partition(|(_, held_out)| !held_out);
    // From the train split alone: what is held out must not be known.
    let units = standardise(&train, path)?;
    let items = match split {
        Split::Train => train,
        Split::Test => test,
    };
    let items = items
        .into_iter()
        .map(|(point, _)| Example {
            values: (0..2).map(|k| units.value(k, point[k]) as f32).collect(),
            label: None,
            window: None,
            caption: None,
        })
        .collect();
    Ok(OpenData {
        info: DataInfo {
            name: "csv".into(),
            shape: vec![2],
            classes: Vec::new(),
            units,
            series: None,
            latent: false,
            has_captions: false,
        },
        items: Arc::new(InMemDataset::new(items)),
        skipped: Vec::new(),
        series: None,
        ignored: Default::default(),
        labels: None,
        flip: Flip::Never,
    })
}

/// Names and letters of a name that a message shows at most.
const NAMES_SHOWN: usize = 20;
const LONGEST_SHOWN: usize = 60;

/// A column that was found.
struct Found {
    index: usize,
    /// Number and, where there is a header, name, for messages.
    label: String,
}

fn read_points(text: &[u8], path: &Path, columns: &[Column; 2]) -> Result<Vec<[f64; 2]>, DataError> {
    // Bytes, because a column that nobody asked for may be in any encoding; flexible, because the csv
    // crate's message about rows of different length names no column.
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(text);
    let mut record = ByteRecord::new();
    let mut points = Vec::new();
    let mut found: Option<[Found; 2]> = None;
    while reader.read_byte_record(&mut record).map_err(|error| DataError::format(path, error.to_string()))? {
        let columns = match &found {
            Some(columns) => columns,
            None => {
                let columns_found = find_columns(&record, path, columns)?;
                let is_header = columns.iter().any(|column| matches!(column, Column::Name(_)))
                    || columns_found
                        .iter()
                        .all(|column| record.get(column.index).is_some_and(|cell| parse(cell).is_none()));
                let columns = found.insert(columns_found);
                if is_header {
                    continue;
                }
                columns
            }
        };
        let number = |column| {
            number(&record, column).map_err(|reason| DataError::Cell {
                path: path.to_path_buf(),
                line: line_of(&record, text),
                column: column.label.clone(),
                reason,
            })
        };
        points.push([number(&columns[0])?, number(&columns[1])?]);
    }
    if points.is_empty() {
        return Err(DataError::format(path, "no points; expected a line of numbers for each"));
    }
    Ok(points)
}

/// Looks the columns up in the first line.
fn find_columns(first: &ByteRecord, path: &Path, columns: &[Column; 2]) -> Result<[Found; 2], DataError> {
    let names: Vec<_> = first.iter().map(String::from_utf8_lossy).collect();
    let find = |column: &Column| match column {
        Column::Index(index) => {
            let label = match first.get(*index) {
                Some(cell) if parse(cell).is_none() => format!("{index} ({})", quoted(cell).trim_matches('"')),
                _ => index.to_string(),
            };
            Ok(Found { index: *index, label })
        }
        Column::Name(wanted) => {
            let mut matching = (0..names.len()).filter(|&index| names[index] == *wanted);
            match (matching.next(), matching.next()) {
                (Some(index), None) => Ok(Found { index, label: format!("{index} ({wanted})") }),
                (Some(a), Some(b)) => {
                    let reason = format!("columns {a} and {b} are both named {wanted:?}; give a number");
                    Err(DataError::format(path, reason))
                }
                (None, _) => {
                    let shown: Vec<_> = first.iter().take(NAMES_SHOWN).map(quoted).collect();
                    let (shown, more) = (shown.join(", "), if names.len() > NAMES_SHOWN { ", ..." } else { "" });
                    let reason = format!(
                        "no column is named {wanted:?}; the first line has: {shown}{more} (comma-separated names are \
                         expected)"
                    );
                    Err(DataError::format(path, reason))
                }
            }
        }
    };
    let found = [find(&columns[0])?, find(&columns[1])?];
    if found[0].index == found[1].index {
        let reason = format!("both coordinates are column {}; expected two", found[0].label);
        return Err(DataError::format(path, reason));
    }
    Ok(found)
}

fn number(record: &ByteRecord, column: &Found) -> Result<f64, String> {
    let cell = record.get(column.index).ok_or_else(|| {
        let count = record.len();
        format!("the line has {count} column(s), counted from 0; expected comma-separated columns")
    })?;
    match parse(cell) {
        // Beyond this, squares overflow.
        Some(number) if number.abs() < 1e150 => Ok(number),
        _ => Err(format!("{} is not a finite number; expected comma-separated numbers", quoted(cell))),
    }
}

/// A cell as messages show it, which may be a whole file without a comma.
fn quoted(cell: &[u8]) -> String {
    let text = String::from_utf8_lossy(cell);
    match text.char_indices().nth(LONGEST_SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// The line of a record, counted from 1. The csv crate counts the empty lines before a record as its own.
fn line_of(record: &ByteRecord, text: &[u8]) -> u64 {
    let Some(position) = record.position() else {
        return 0;
    };
    let before = text[position.byte() as usize..]
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .filter(|&&byte| byte == b'\n');
    position.line() + before.count() as u64
}

/// A number, which may still be NaN or infinite.
fn parse(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

/// Mean and standard deviation of each coordinate.
fn standardise(train: &[([f64; 2], bool)], path: &Path) -> Result<Units, DataError> {
    let n = train.len() as f64;
    let mut units = Units::identity(2);
    for k in 0..2 {
        let mean = train.iter().map(|(point, _)| point[k] / n).sum::<f64>();
        let variance = train.iter().map(|(point, _)| (point[k] - mean).powi(2) / n).sum::<f64>();
        let std = variance.sqrt();
        // Rounding leaves a little of nothing.
        if std <= 1e-12 * mean.abs() || std == 0.0 {
            let value = train[0].0[k];
            let reason = format!("coordinate {k} is {value} in all lines; expected numbers that differ");
            return Err(DataError::format(path, reason));
        }
        (units.shift[k], units.scale[k]) = (mean, std);
    }
    Ok(units)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> Column {
        Column::Name(text.into())
    }

    fn read_columns(text: &[u8], columns: [Column; 2]) -> Result<Vec<[f64; 2]>, String> {
        read_points(text, Path::new("t.csv"), &columns).map_err(|error| error.to_string())
    }

    fn read(text: &str) -> Result<Vec<[f64; 2]>, String> {
        read_columns(text.as_bytes(), [Column::Index(0), Column::Index(1)])
    }

    #[test]
    fn the_header_is_optional() {
        let expected = Ok(vec![[1.0, 2.5], [-3e2, 4.0]]);
        assert_eq!(read("1,2.5\n-3e2,4\n"), expected);
        assert_eq!(read("x,y\n1,2.5\n-3e2,4"), expected);
        assert_eq!(read("\u{feff}x, y ,z\r\n1 , 2.5,a\r\n\r\n-300,4,b\r\n"), expected);
        assert_eq!(read("\u{feff}1,2.5\n-300,4"), expected);
    }

    #[test]
    fn columns_are_chosen_by_name_or_number() {
        let text = b"id,x,\xff\xfe,y\n7,1,\xff,2\n8,3,\xff,4\n";
        let expected = Ok(vec![[2.0, 1.0], [4.0, 3.0]]);
        assert_eq!(read_columns(text, [name("y"), Column::Index(1)]), expected);
        assert_eq!(read_columns(text, [Column::Index(3), name("x")]), expected);
        let message = read_columns(text, [name("X"), name("y")]).unwrap_err();
        assert!(message.contains("no column is named \"X\"") && message.contains("\"id\", \"x\","), "{message}");
        let message = read_columns(text, [name("x"), Column::Index(1)]).unwrap_err();
        assert!(message.contains("both coordinates are column 1 (x)"), "{message}");
        let message = read_columns(b"a,a\n1,2", [name("a"), Column::Index(1)]).unwrap_err();
        assert!(message.contains("columns 0 and 1 are both named \"a\""), "{message}");
    }

    #[test]
    fn faults_name_file_line_and_column() {
        for (text, expected) in [
            ("1,2\n3,x\n", "t.csv, line 2, column 1: \"x\" is not a finite number"),
            ("x,y\n1,2\n\n3,\n", "t.csv, line 4, column 1 (y): \"\""),
            ("1,2\nnan,2\n", "line 2, column 0: \"nan\""),
            ("1,2\n1,-inf\n", "line 2, column 1: \"-inf\""),
            ("1,2\n1e200,2\n", "line 2, column 0: \"1e200\""),
            ("1.o,2\n3,4\n", "line 1, column 0 (1.o): \"1.o\""),
            ("1,2\n3\n", "line 2, column 1: the line has 1 column(s)"),
            ("1;2\n3;4\n", "line 1, column 0 (1;2): \"1;2\" is not a finite number; expected comma-separated"),
            ("a;b\n1;2\n", "line 1, column 0 (a;b): \"a;b\" is not a finite number; expected comma-separated"),
            ("", "t.csv: no points"),
            ("x,y\n", "t.csv: no points"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected), "{message} should contain {expected}");
        }
    }

    #[test]
    fn both_splits_are_standardised_by_the_train_split_and_lead_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        let lines: Vec<String> = (0..200).map(|k| format!("{},{}", k, 1000.0 - f64::from(k * k))).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let config = CsvConfig { path, columns: [Column::Index(0), Column::Index(1)] };
        let train = open(&config, Split::Train).unwrap();
        let test = open(&config, Split::Test).unwrap();
        assert_eq!((train.items.len(), test.items.len()), (180, 20));
        assert_eq!(train.info, test.info);

        let mut firsts = Vec::new();
        for (data, expect_standard) in [(&train, true), (&test, false)] {
            let n = data.items.len() as f64;
            let (mut mean, mut square) = ([0.0; 2], [0.0; 2]);
            for item in 0..data.items.len() {
                let values = data.items.get(item).unwrap().values;
                for k in 0..2 {
                    mean[k] += f64::from(values[k]) / n;
                    square[k] += f64::from(values[k]).powi(2) / n;
                }
                firsts.push(data.info.units.data_unit(0, values[0].into()).round() as i32);
            }
            if expect_standard {
                assert!(mean.iter().all(|mean| mean.abs() < 1e-6), "{mean:?}");
                assert!(square.iter().all(|square| (square - 1.0).abs() < 1e-6), "{square:?}");
            }
        }
        firsts.sort_unstable();
        assert!(firsts.into_iter().eq(0..200));
    }

    #[test]
    fn missing_files_and_constant_columns_are_clear() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        let config = CsvConfig { path: path.clone(), columns: [Column::Index(0), Column::Index(1)] };
        let message = || open(&config, Split::Train).err().unwrap().to_string();
        assert!(message().contains("p.csv: not found"), "{}", message());
        std::fs::write(&path, "0.1,1\n0.1,2\n0.1,3\n").unwrap();
        assert!(message().contains("coordinate 0 is 0.1 in all lines"), "{}", message());
        // A sum of many shares of one is not one.
        std::fs::write(&path, (0..200).map(|k| format!("{k},1\n")).collect::<String>()).unwrap();
        assert!(message().contains("coordinate 1 is 1 in all lines"), "{}", message());
        // A word that is very long, and very many names.
        std::fs::write(&path, format!("{},2\n", "long ".repeat(100_000))).unwrap();
        assert!(message().contains("long") && message().len() < 500, "{} bytes", message().len());
        std::fs::write(&path, "name,".repeat(100_000)).unwrap();
        let config = CsvConfig { path: path.clone(), columns: [name("x"), name("y")] };
        let said = open(&config, Split::Train).err().unwrap().to_string();
        assert!(said.contains("no column is named \"x\"") && said.len() < 1000, "{} bytes", said.len());
    }
}
