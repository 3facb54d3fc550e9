//! CIFAR-10, binary version: records of one label byte and 3 x 32 x 32 pixels, channel by channel.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Cifar10Config;
use crate::error::DataError;
use crate::example::{DataInfo, Flip, Units};
use crate::open::{OpenData, Split};
use crate::pixels::{ByteImage, byte_images};

const SIDE: usize = 32;
const CHANNELS: usize = 3;
const RECORD: usize = 1 + CHANNELS * SIDE * SIDE;

/// The folder inside the official archive.
const SUB_FOLDER: &str = "cifar-10-batches-bin";

const TRAIN_FILES: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST_FILES: [&str; 1] = ["test_batch.bin"];

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Opens a split of CIFAR-10.
pub(crate) fn open(config: &Cifar10Config, split: Split) -> Result<OpenData, DataError> {
    let folder = find_folder(&config.path)?;
    let files: &[&str] = match split {
        Split::Train => &TRAIN_FILES,
        Split::Test => &TEST_FILES,
    };
    let mut images = Vec::new();
    for file in files {
        images.extend(read_batch(&folder.join(file))?);
    }
    Ok(OpenData {
        info: DataInfo {
            name: "cifar10".into(),
            shape: vec![CHANNELS, SIDE, SIDE],
            classes: CLASSES.map(String::from).into(),
            units: Units::identity(CHANNELS),
            series: None,
            latent: false,
            has_captions: false,
        },
        items: byte_images(images),
        skipped: Vec::new(),
        series: None,
        ignored: Default::default(),
        labels: None,
        flip: Flip::half_if(config.horizontal_flip),
    })
}

/// The folder itself, or the one that unpacking the archive made inside it.
fn find_folder(path: &Path) -> Result<PathBuf, DataError> {
    let expected = "the folder of CIFAR-10's binary version (data_batch_1.bin to data_batch_5.bin and test_batch.bin)";
    let metadata = fs::metadata(path).map_err(|source| DataError::io(path, expected, source))?;
    if !metadata.is_dir() {
        return Err(DataError::format(path, format!("not a folder; expected {expected}")));
    }
    let inside = path.join(SUB_FOLDER);
    Ok(if inside.is_dir() { inside } else { path.to_path_buf() })
}

fn read_batch(path: &Path) -> Result<Vec<ByteImage>, DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::io(path, "a file of CIFAR-10's binary version", source))?;
    // The official files have 10,000 records; smaller ones serve for trials.
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        let reason = format!(
            "{} bytes; expected a whole number of records of {RECORD} bytes (the official file has 30,730,000 bytes)",
            bytes.len()
        );
        return Err(DataError::format(path, reason));
    }
    bytes
        .chunks_exact(RECORD)
        .enumerate()
        .map(|(record, bytes)| {
            let label = usize::from(bytes[0]);
            if label >= CLASSES.len() {
                let reason = format!("record {record} has the label {label}; expected 0 to 9");
                return Err(DataError::format(path, reason));
            }
            Ok(ByteImage { pixels: bytes[1..].to_vec(), label })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(label: u8, first_pixel: u8) -> Vec<u8> {
        let mut bytes = vec![0; RECORD];
        bytes[0] = label;
        bytes[1] = first_pixel;
        bytes[RECORD - 1] = 255;
        bytes
    }

    fn write_all(folder: &Path, records_each: u8) {
        for (k, name) in TRAIN_FILES.iter().chain(&TEST_FILES).enumerate() {
            let bytes: Vec<u8> = (0..records_each).flat_map(|r| record(r % 10, k as u8)).collect();
            fs::write(folder.join(name), bytes).unwrap();
        }
    }

    fn config(path: &Path) -> Cifar10Config {
        Cifar10Config { path: path.into(), horizontal_flip: true, binarize: None }
    }

    #[test]
    fn batches_are_read_in_order_from_the_folder_or_the_one_inside() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join(SUB_FOLDER);
        fs::create_dir(&inside).unwrap();
        write_all(&inside, 3);
        for path in [folder.path(), &inside] {
            let train = open(&config(path), Split::Train).unwrap();
            assert_eq!(train.items.len(), 15);
            assert_eq!(train.info.shape, [3, 32, 32]);
            let seventh = train.items.get(7).unwrap();
            assert_eq!(seventh.label, Some(1));
            assert_eq!(seventh.values.len(), 3072);
            assert_eq!(seventh.values[0], 2.0 / 127.5 - 1.0);
            assert_eq!(seventh.values[1], -1.0);
            assert_eq!(seventh.values[3071], 1.0);
            let test = open(&config(path), Split::Test).unwrap();
            assert_eq!(test.items.len(), 3);
            assert_eq!(test.items.get(0).unwrap().values[0], 5.0 / 127.5 - 1.0);
        }
    }

    #[test]
    fn faults_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let message = || open(&config(folder.path()), Split::Train).err().unwrap().to_string();

        assert!(message().contains("data_batch_1.bin: not found"), "{}", message());
        write_all(folder.path(), 2);
        let third = folder.path().join("data_batch_3.bin");
        fs::write(&third, &record(0, 0)[..3000]).unwrap();
        assert!(message().contains("data_batch_3.bin: 3000 bytes"), "{}", message());
        fs::write(&third, record(10, 0)).unwrap();
        assert!(message().contains("data_batch_3.bin: record 0 has the label 10"), "{}", message());
        fs::write(&third, []).unwrap();
        assert!(message().contains("data_batch_3.bin: 0 bytes"), "{}", message());

        let missing = open(&config(&folder.path().join("nowhere")), Split::Train).err().unwrap();
        assert!(missing.to_string().contains("nowhere: not found"), "{missing}");
        let file = open(&config(&third), Split::Train).err().unwrap();
        assert!(file.to_string().contains("not a folder"), "{file}");
    }
}
