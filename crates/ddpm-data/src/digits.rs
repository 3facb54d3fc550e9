//! The bundled digits: UCI "Optical Recognition of Handwritten Digits" (datasets/optdigits).

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use burn_dataset::InMemDataset;
use flate2::read::GzDecoder;

use crate::config::{DigitsConfig, DigitsSplit};
use crate::error::DataError;
use crate::example::{DataInfo, Example, Flip, Units};
use crate::open::{OpenData, Split};
use crate::random::{Stream, mix};

const FILE: &[u8] = include_bytes!("../../../datasets/optdigits/digits.csv.gz");
const FILE_NAME: &str = "datasets/optdigits/digits.csv.gz (bundled)";

const SIDE: usize = 8;
const CLASSES: usize = 10;

/// One digit in five is for the test: 360 of 1,797.
const TEST_ONE_IN: usize = 5;

/// Opens a split of the bundled digits.
pub(crate) fn open(config: &DigitsConfig, split: Split) -> Result<OpenData, DataError> {
    let digits = parse(&decompress()?)?;
    let is_test = match config.split {
        DigitsSplit::Stratified => test_split(&digits),
        DigitsSplit::LastRows => last_rows(digits.len()),
    };
    let items = digits
        .into_iter()
        .zip(is_test)
        .filter(|(_, is_test)| *is_test == (split == Split::Test))
        .map(|(digit, _)| digit)
        .collect();
    Ok(OpenData {
        info: DataInfo {
            name: "digits".into(),
            shape: vec![1, SIDE, SIDE],
            classes: (0..CLASSES).map(|class| class.to_string()).collect(),
            units: Units::identity(1),
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

/// Every fifth of the digits sorted by class and, inside a class, by the hash of the line: each class is
/// cut in the same proportion, and each writer (whose lines stand together) is on both sides.
fn test_split(digits: &[Example]) -> Vec<bool> {
    let mut sorted: Vec<usize> = (0..digits.len()).collect();
    sorted.sort_by_key(|&line| (digits[line].label, mix(0, Stream::Split, line as u64)));
    let mut is_test = vec![false; digits.len()];
    for line in sorted.into_iter().step_by(TEST_ONE_IN) {
        is_test[line] = true;
    }
    is_test
}

/// The last fifth of the rows, rounded up.
fn last_rows(count: usize) -> Vec<bool> {
    (0..count).map(|row| row >= count - count.div_ceil(TEST_ONE_IN)).collect()
}

fn decompress() -> Result<String, DataError> {
    let mut text = String::new();
    GzDecoder::new(FILE)
        .read_to_string(&mut text)
        .map_err(|source| DataError::io(Path::new(FILE_NAME), "the bundled digits", source))?;
    Ok(text)
}

/// One digit a line: 64 pixels from 0 to 16, then the class.
fn parse(text: &str) -> Result<Vec<Example>, DataError> {
    text.lines()
        .enumerate()
        .map(|(line, text)| {
            let fault = || {
                let reason = format!("line {}: expected 64 pixels from 0 to 16 and a class", line + 1);
                DataError::format(Path::new(FILE_NAME), reason)
            };
            let numbers: Vec<u8> =
                text.split(',').map(|cell| cell.trim().parse().map_err(|_| fault())).collect::<Result<_, _>>()?;
            match numbers.split_last() {
                Some((&class, pixels))
                    if pixels.len() == SIDE * SIDE
                        && pixels.iter().all(|&pixel| pixel <= 16)
                        && usize::from(class) < CLASSES =>
                {
                    Ok(Example {
                        values: pixels.iter().map(|&pixel| f32::from(pixel) / 8.0 - 1.0).collect(),
                        label: Some(class.into()),
                        window: None,
                        caption: None,
                    })
                }
                _ => Err(fault()),
            }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(split: Split) -> Vec<Example> {
        let data = open(&DigitsConfig::default(), split).unwrap();
        (0..data.items.len()).map(|item| data.items.get(item).unwrap()).collect()
    }

    #[test]
    fn the_file_is_the_one_its_readme_describes() {
        let digits = parse(&decompress().unwrap()).unwrap();
        assert_eq!(digits.len(), 1797);
        let mut counts = [0; 10];
        for digit in &digits {
            counts[digit.label.unwrap()] += 1;
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let pixels: Vec<f64> =
            digits.iter().flat_map(|digit| &digit.values).map(|&value| (f64::from(value) + 1.0) * 8.0).collect();
        let mean = pixels.iter().sum::<f64>() / pixels.len() as f64;
        assert!((mean - 4.884_165).abs() < 1e-6, "{mean}");
    }

    #[test]
    fn the_split_is_fixed_and_every_class_is_cut_alike() {
        let (train, test) = (all(Split::Train), all(Split::Test));
        assert_eq!((train.len(), test.len()), (1437, 360));
        for class in 0..10 {
            let count = |digits: &[Example]| digits.iter().filter(|digit| digit.label == Some(class)).count();
            let share = count(&test) as f64 / (count(&test) + count(&train)) as f64;
            assert!((0.19..0.21).contains(&share), "class {class}: {share}");
        }
        // Golden: the split must stay what it is, or measured results cannot be compared.
        let lines = test_split(&parse(&decompress().unwrap()).unwrap());
        let first: Vec<usize> = (0..lines.len()).filter(|&line| lines[line]).take(8).collect();
        assert_eq!(first, [8, 15, 31, 41, 47, 48, 49, 55]);
    }

    #[test]
    fn the_last_rows_are_the_last() {
        let config = DigitsConfig { split: DigitsSplit::LastRows, ..DigitsConfig::default() };
        let lines = parse(&decompress().unwrap()).unwrap();
        let of = |split| {
            let data = open(&config, split).unwrap();
            (0..data.items.len()).map(|item| data.items.get(item).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((of(Split::Train), of(Split::Test)), (lines[..1437].to_vec(), lines[1437..].to_vec()));
    }

    #[test]
    fn values_are_in_range_and_in_rows() {
        let digits = parse(&decompress().unwrap()).unwrap();
        assert!(digits.iter().flat_map(|digit| &digit.values).all(|value| (-1.0..=1.0).contains(value)));
        // The first digit of the file is a zero whose first row is 0 0 5 13 9 1 0 0.
        let row = [-1.0, -1.0, -0.375, 0.625, 0.125, -0.875, -1.0, -1.0];
        assert_eq!(digits[0].values[..8], row);
        assert_eq!(digits[0].label, Some(0));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let good = parse("").unwrap();
        assert!(good.is_empty());
        for line in ["1,2,3", "x", &["17"; 65].join(","), &["1"; 64].join(",")] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("line 1"), "{error}");
        }
    }
}
