//! MNIST and Fashion-MNIST: idx files, with or without gz.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::config::{MnistConfig, MnistSize};
use crate::error::DataError;
use crate::example::{DataInfo, Flip, Units};
use crate::open::{OpenData, Split};
use crate::pixels::{ByteImage, byte_images};

/// Classes of MNIST.
pub(crate) const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// Classes of Fashion-MNIST.
pub(crate) const CLOTHES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

const SIDE: usize = 28;

/// Unsigned bytes in three dimensions: pictures.
const IMAGES_MAGIC: u32 = 0x0803;
/// Unsigned bytes in one dimension: labels.
const LABELS_MAGIC: u32 = 0x0801;

/// Deflate cannot pack more than this many bytes into one, so no honest header claims more.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Opens a split of a dataset in MNIST's format.
pub(crate) fn open(
    config: &MnistConfig,
    name: &str,
    classes: &[&str; 10],
    split: Split,
) -> Result<OpenData, DataError> {
    let prefix = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let images_path = find_file(&config.path, &format!("{prefix}-images"), "idx3-ubyte")?;
    let labels_path = find_file(&config.path, &format!("{prefix}-labels"), "idx1-ubyte")?;
    let pictures = read_idx(&images_path, IMAGES_MAGIC, &[SIDE, SIDE])?;
    let labels = read_idx(&labels_path, LABELS_MAGIC, &[])?;
    let count = pictures.len() / (SIDE * SIDE);
    if count != labels.len() {
        let reason =
            format!("{} labels; expected {count}, one for each image of {}", labels.len(), images_path.display());
        return Err(DataError::format(&labels_path, reason));
    }
    let images = pictures
        .chunks_exact(SIDE * SIDE)
        .zip(&labels)
        .enumerate()
        .map(|(item, (picture, &label))| {
            if usize::from(label) >= classes.len() {
                let reason = format!("item {item} has the label {label}; expected 0 to 9");
                return Err(DataError::format(&labels_path, reason));
            }
            Ok(ByteImage { pixels: pad(picture, config.size), label: label.into() })
        })
        .collect::<Result<_, _>>()?;
    let side = config.size.pixels();
    Ok(OpenData {
        info: DataInfo {
            name: name.into(),
            shape: vec![1, side, side],
            classes: classes.map(String::from).into(),
            units: Units::identity(1),
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

/// Both spellings that are in circulation (`-idx3-ubyte` and `.idx3-ubyte`), with or without `.gz`.
fn find_file(folder: &Path, stem: &str, kind: &str) -> Result<PathBuf, DataError> {
    let expected = format!("a folder with {stem}-{kind} or {stem}-{kind}.gz");
    let metadata = fs::metadata(folder).map_err(|source| DataError::io(folder, &expected, source))?;
    if !metadata.is_dir() {
        return Err(DataError::format(folder, format!("not a folder; expected {expected}")));
    }
    ["-", "."]
        .into_iter()
        .flat_map(|dash| ["", ".gz"].map(|gz| folder.join(format!("{stem}{dash}{kind}{gz}"))))
        .find(|path| path.is_file())
        .ok_or_else(|| DataError::NotFound {
            path: folder.join(format!("{stem}-{kind}")),
            expected: "this file, or the same with .gz".into(),
        })
}

/// The bytes of an idx file after its header: items of the given dimensions.
fn read_idx(path: &Path, magic: u32, item_dims: &[usize]) -> Result<Vec<u8>, DataError> {
    let on_io = |source: io::Error| match source.kind() {
        io::ErrorKind::UnexpectedEof => DataError::format(path, "the file is cut off"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            DataError::format(path, format!("damaged gz: {source}"))
        }
        _ => DataError::io(path, "an idx file", source),
    };
    let file = File::open(path).map_err(on_io)?;
    let file_len = file.metadata().map_err(on_io)?.len();
    let (mut reader, most_bytes) = decoder(file, file_len).map_err(on_io)?;

    let found = read_u32(&mut reader).map_err(on_io)?;
    if found != magic {
        let reason = format!("begins with {found:#010x}; expected {magic:#010x}, the mark of this kind of idx file");
        return Err(DataError::format(path, reason));
    }
    let count = read_u32(&mut reader).map_err(on_io)?;
    for &expected in item_dims {
        let found = read_u32(&mut reader).map_err(on_io)?;
        if found as usize != expected {
            let reason = format!("images with a side of {found}; expected {expected}");
            return Err(DataError::format(path, reason));
        }
    }

    let item_bytes = item_dims.iter().product::<usize>() as u64;
    let header_bytes = 4 * (2 + item_dims.len() as u64);
    // u32 times 784 cannot overflow a u64. What the header claims is compared with the length of the file
    // before memory is taken for it.
    let claimed = u64::from(count) * item_bytes;
    if claimed + header_bytes > most_bytes {
        let reason = format!("the header claims {count} items, more than a file of {file_len} bytes can hold");
        return Err(DataError::format(path, reason));
    }
    let mut bytes = Vec::new();
    // One more than claimed, to notice a file that goes on.
    reader.take(claimed + 1).read_to_end(&mut bytes).map_err(on_io)?;
    if bytes.len() as u64 != claimed {
        let side = if (bytes.len() as u64) < claimed { "fewer" } else { "more" };
        let reason = format!("{side} bytes than the {count} items that the header claims");
        return Err(DataError::format(path, reason));
    }
    Ok(bytes)
}

/// Plain or gz, told apart by content, and how many bytes can come out at most.
fn decoder(file: File, file_len: u64) -> io::Result<(Box<dyn Read>, u64)> {
    let mut file = BufReader::new(file);
    let start = io::BufRead::fill_buf(&mut file)?;
    Ok(if start.starts_with(&[0x1F, 0x8B]) {
        (Box::new(MultiGzDecoder::new(file)), file_len.saturating_mul(MAX_DEFLATE_RATIO))
    } else {
        (Box::new(file), file_len)
    })
}

fn read_u32(reader: &mut dyn Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

/// The picture in the middle of background (0).
fn pad(picture: &[u8], size: MnistSize) -> Vec<u8> {
    let side = size.pixels();
    let border = (side - SIDE) / 2;
    let mut padded = vec![0; side * side];
    for (y, row) in picture.chunks_exact(SIDE).enumerate() {
        let start = (y + border) * side + border;
        padded[start..start + SIDE].copy_from_slice(row);
    }
    padded
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn idx(magic: u32, dims: &[u32], body: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
        bytes.extend(body);
        bytes
    }

    fn images(count: u32) -> Vec<u8> {
        let body: Vec<u8> = (0..count * 784).map(|k| (k / 784 + k % 28) as u8).collect();
        idx(IMAGES_MAGIC, &[count, 28, 28], &body)
    }

    fn labels(count: u32) -> Vec<u8> {
        let body: Vec<u8> = (0..count).map(|k| (k % 10) as u8).collect();
        idx(LABELS_MAGIC, &[count], &body)
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn open_at(path: &Path, size: MnistSize) -> Result<OpenData, DataError> {
        let config = MnistConfig { path: path.into(), size, horizontal_flip: false, binarize: None };
        open(&config, "mnist", &DIGITS, Split::Train)
    }

    fn message(folder: &Path) -> String {
        open_at(folder, MnistSize::As28).err().unwrap().to_string()
    }

    #[test]
    fn plain_and_gz_files_of_either_spelling_are_the_same() {
        for (pictures, names) in [
            ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
            ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut a, mut b) = (images(12), labels(12));
            if pictures.ends_with(".gz") {
                (a, b) = (gz(&a), gz(&b));
            }
            fs::write(folder.path().join(pictures), a).unwrap();
            fs::write(folder.path().join(names), b).unwrap();
            let data = open_at(folder.path(), MnistSize::As28).unwrap();
            assert_eq!(data.items.len(), 12);
            assert_eq!(data.info.shape, [1, 28, 28]);
            let item = data.items.get(11).unwrap();
            assert_eq!(item.label, Some(1));
            assert_eq!(item.values[3], 14.0 / 127.5 - 1.0);
        }
    }

    #[test]
    fn padding_puts_the_picture_in_the_middle_of_background() {
        let folder = tempfile::tempdir().unwrap();
        let picture = idx(IMAGES_MAGIC, &[1, 28, 28], &[255; 784]);
        fs::write(folder.path().join("train-images-idx3-ubyte"), picture).unwrap();
        fs::write(folder.path().join("train-labels-idx1-ubyte"), labels(1)).unwrap();
        let data = open_at(folder.path(), MnistSize::PaddedTo32).unwrap();
        assert_eq!(data.info.shape, [1, 32, 32]);
        let values = data.items.get(0).unwrap().values;
        for (k, &value) in values.iter().enumerate() {
            let inside = (2..30).contains(&(k / 32)) && (2..30).contains(&(k % 32));
            assert_eq!(value, if inside { 1.0 } else { -1.0 });
        }
    }

    #[test]
    fn faults_name_the_file_and_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let pictures = folder.path().join("train-images-idx3-ubyte");
        let names = folder.path().join("train-labels-idx1-ubyte");
        assert!(message(folder.path()).contains("train-images-idx3-ubyte: not found"));
        fs::write(&pictures, images(5)).unwrap();
        assert!(message(folder.path()).contains("train-labels-idx1-ubyte: not found"));
        fs::write(&names, labels(4)).unwrap();
        assert!(message(folder.path()).contains("4 labels; expected 5"));
        fs::write(&names, idx(LABELS_MAGIC, &[5], &[0, 1, 10, 3, 4])).unwrap();
        assert!(message(folder.path()).contains("item 2 has the label 10"));
        fs::write(&names, labels(5)).unwrap();

        let whole = images(5);
        for (bytes, expected) in [
            (whole[..7].to_vec(), "cut off"),
            (Vec::new(), "cut off"),
            (whole[..2000].to_vec(), "header claims 5 items, more than"),
            ([&whole[..], &[0]].concat(), "more bytes than the 5 items"),
            (labels(5), "expected 0x00000803"),
            (b"<html>not found</html>".to_vec(), "expected 0x00000803"),
            (idx(IMAGES_MAGIC, &[5, 14, 28], &[]), "side of 14; expected 28"),
            (idx(IMAGES_MAGIC, &[u32::MAX, 28, 28], &[]), "header claims 4294967295 items"),
            (gz(&idx(IMAGES_MAGIC, &[u32::MAX, 28, 28], &[])), "header claims 4294967295 items"),
            (gz(&whole[..2000]), "fewer bytes than the 5 items"),
            (gz(&whole)[..40].to_vec(), "cut off"),
        ] {
            fs::write(&pictures, bytes).unwrap();
            let message = message(folder.path());
            assert!(message.contains("train-images-idx3-ubyte"), "{message}");
            assert!(message.contains(expected), "{message} should contain {expected}");
        }
        assert!(message(&folder.path().join("nowhere")).contains("nowhere: not found"));
        assert!(message(&pictures).contains("not a folder"));
    }
}
