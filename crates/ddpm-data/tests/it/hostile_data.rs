//! Data that are damaged or made to do harm: each file is read or refused in words, in little time and memory.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ddpm_data::{DataConfig, Fit, Split, read_pictures};
use ddpm_testing::hostile;
use flate2::{Compression, write::GzEncoder};
use hostile::{Random, damage, within_bounds};

/// What a picture may take however short its file: 32 MiB of pixels, and the copies that an animation, colours and
/// scaling take of them.
const PICTURE_AT_LEAST: usize = 8 * (32 << 20);
/// Other files: buffers.
const AT_LEAST: usize = 1 << 20;
/// Pixels become f32, texts numbers; a compressed byte can be a thousand.
const PER_BYTE: usize = 256;
const PER_COMPRESSED_BYTE: usize = 8 * 1032;

fn read_picture(path: &Path) -> Result<usize, String> {
    let size = fs::metadata(path).unwrap().len() as usize;
    let read = || read_pictures(path, &[3, 8, 8], Fit::Converted).map_err(|error| error.to_string());
    let values = within_bounds(size, PICTURE_AT_LEAST, PER_COMPRESSED_BYTE, read)?;
    Ok(values.iter().map(Vec::len).sum())
}

/// Opens both splits and reads all their items.
fn open(config: &DataConfig, size: usize, per_byte: usize) -> Result<usize, String> {
    let read = || {
        let mut count = 0;
        for split in [Split::Train, Split::Test] {
            let data = ddpm_data::open(config, split, 0).map_err(|error| error.to_string())?;
            for item in 0..data.items.len() {
                data.items.get(item).map_err(|error| error.to_string())?;
            }
            count += data.items.len();
        }
        Ok(count)
    };
    within_bounds(size, AT_LEAST, per_byte, read)
}

fn config(kind: &str, path: &Path, more: &str) -> DataConfig {
    toml::from_str(&format!("kind = '{kind}'\npath = '{}'\n{more}", path.display())).unwrap()
}

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn damaged_pictures_of_every_kind_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    for file in corpus() {
        let path = dir.path().join(file.file_name().unwrap());
        let whole = fs::read(&file).unwrap();
        fs::write(&path, &whole).unwrap();
        let moves = path.file_stem().is_some_and(|name| name == "moving");
        assert_eq!(read_picture(&path).is_err(), moves, "{}", path.display());
        damage(&path, 400, || read_picture(&path));
    }
}

#[test]
fn sizes_that_a_file_cannot_hold_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let said = within_bounds(bytes.len(), AT_LEAST, PER_BYTE, || {
            read_pictures(&path, &[3, 8, 8], Fit::Converted).unwrap_err().to_string()
        });
        assert!(said.contains(name), "{said}");
        said
    };
    // A PNG that is little more than its header, of 60,000 x 60,000 and of 6,000 x 6,000 pixels.
    for side in [60_000_u32, 6_000] {
        let mut chunk = b"IHDR".to_vec();
        chunk.extend([side, side].map(u32::to_be_bytes).as_flattened());
        chunk.extend([8, 2, 0, 0, 0]);
        let crc = crc32(&chunk);
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        png.extend(chunk);
        png.extend(crc.to_be_bytes());
        png.extend(b"\0\0\0\x01IDAT\0");
        png.extend(crc32(b"IDAT\0").to_be_bytes());
        refused("huge.png", &png);
    }
    // A TIFF whose one strip would lie beyond the end of the world.
    let entry = |tag: u16, value: u32| {
        [&tag.to_le_bytes()[..], &4u16.to_le_bytes(), &1u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let tags = [(256, 40_000), (257, 40_000), (258, 8), (259, 1), (262, 1), (273, u32::MAX), (278, 40_000)];
    let mut tiff = b"II*\0\x08\0\0\0\x08\0".to_vec();
    tiff.extend(tags.into_iter().flat_map(|(tag, value)| entry(tag, value)));
    tiff.extend(entry(279, u32::MAX));
    tiff.extend([0; 4]);
    refused("huge.tiff", &tiff);
}

/// The checksum of PNG, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn damaged_idx_files_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let idx = |magic: u32, dims: &[u32], body: Vec<u8>| {
        [&magic.to_be_bytes()[..], dims.iter().flat_map(|dim| dim.to_be_bytes()).collect::<Vec<_>>().as_slice(), &body]
            .concat()
    };
    let pictures = idx(0x0803, &[4, 28, 28], (0..4 * 784).map(|k| (k % 251) as u8).collect());
    let labels = idx(0x0801, &[4], vec![3, 1, 4, 1]);
    for gzipped in [false, true] {
        let pack = |bytes: &[u8]| if gzipped { gz(bytes) } else { bytes.to_vec() };
        let folder = dir.path().join(if gzipped { "gz" } else { "plain" });
        fs::create_dir(&folder).unwrap();
        let ending = if gzipped { ".gz" } else { "" };
        let files: Vec<(PathBuf, Vec<u8>)> = ["train", "t10k"]
            .into_iter()
            .flat_map(|split| [(split, "images-idx3-ubyte", &pictures), (split, "labels-idx1-ubyte", &labels)])
            .map(|(split, kind, bytes)| (folder.join(format!("{split}-{kind}{ending}")), pack(bytes)))
            .collect();
        files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        let config = config("mnist", &folder, "");
        let size = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let per_byte = if gzipped { PER_COMPRESSED_BYTE } else { PER_BYTE };
        let read = || open(&config, size, per_byte);
        assert_eq!(read(), Ok(8));
        for (path, _) in &files[..2] {
            // The header of the pictures; damage to most of the rest would only change pixels.
            damage(path, 600, read);
        }
        let path = &files[0].0;
        let start: &[u8] = if gzipped { &files[0].1 } else { &pictures[..16] };
        let mut random = Random(7);
        for _ in 0..600 {
            let mut head = start[..start.len().min(64)].to_vec();
            random.damage(&mut head);
            head.extend(&files[0].1[start.len().min(64)..]);
            fs::write(path, &head).unwrap();
            let _ = read();
        }
    }
    // A gz of a hundred million zeros under the header of as many pictures as that: read in proportion, or refused.
    let folder = dir.path().join("bomb");
    fs::create_dir(&folder).unwrap();
    let bomb = gz(&[&idx(0x0803, &[u32::MAX, 28, 28], Vec::new())[..], &vec![0; 20_000_000]].concat());
    fs::write(folder.join("train-images-idx3-ubyte.gz"), &bomb).unwrap();
    fs::write(folder.join("train-labels-idx1-ubyte.gz"), gz(&labels)).unwrap();
    let said = open(&config("mnist", &folder, ""), bomb.len(), PER_BYTE).unwrap_err();
    assert!(said.contains("4294967295 items"), "{said}");
}

#[test]
fn damaged_cifar_batches_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let record = |label: u8| [vec![label], (0..3072).map(|k| (k % 253) as u8).collect()].concat();
    let whole: Vec<u8> = (0..2).flat_map(record).collect();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        fs::write(dir.path().join(format!("{name}.bin")), &whole).unwrap();
    }
    let config = config("cifar10", dir.path(), "");
    let read = || open(&config, 6 * whole.len(), PER_BYTE);
    assert_eq!(read(), Ok(12));
    damage(&dir.path().join("data_batch_4.bin"), 400, read);
}

#[test]
fn damaged_tables_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("points.csv");
    let lines: Vec<String> = (0..40).map(|k| format!("{k},\"{}.5\",name {k}", k * k % 17)).collect();
    let whole = format!("x,y,\"the \"\"name\"\"\"\n{}\n", lines.join("\r\n"));
    fs::write(&path, &whole).unwrap();
    for columns in ["", "columns = ['y', 0]"] {
        let config = config("csv", &path, columns);
        let read = || open(&config, fs::metadata(&path).unwrap().len() as usize, PER_BYTE);
        assert_eq!(read(), Ok(40));
        damage(&path, 1500, read);
    }
    // One quote that never ends, a million columns, a million empty lines, no text at all.
    for text in [format!("1,2\n\"{}", "x,".repeat(500_000)), "1,".repeat(1_000_000), "\n".repeat(1_000_000)] {
        fs::write(&path, &text).unwrap();
        let said = open(&config("csv", &path, "columns = [0, 5]"), text.len(), PER_BYTE).unwrap_err();
        assert!(said.contains("points.csv") && said.len() < 4000, "{} bytes: {said:.200}", said.len());
    }
}

#[test]
fn damaged_zips_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pictures.zip");
    let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/pictures.zip")).unwrap();
    fs::write(&path, &whole).unwrap();
    let config = config("images", &path, "size = 8\nlabels = 'folders'\non_bad_file = 'skip'");
    let read = || {
        let size = fs::metadata(&path).unwrap().len() as usize;
        within_bounds(size, PICTURE_AT_LEAST, PER_COMPRESSED_BYTE, || {
            let data = ddpm_data::open(&config, Split::Train, 0).map_err(|error| error.to_string())?;
            (0..data.items.len()).for_each(|item| _ = data.items.get(item));
            Ok(data.items.len())
        })
    };
    assert_eq!(read(), Ok(4));
    damage(&path, 1500, read);
}

#[test]
fn damaged_packed_pictures_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pictures.ddpm");
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/pictures.zip");
    let DataConfig::Images(source) = config("images", &archive, "size = 4\nlabels = 'folders'") else { panic!() };
    ddpm_data::packed::build(&source, &path, &|_, _| {}, |_, _| {}).unwrap();
    let whole = fs::read(&path).unwrap();
    let config = config("packed", &path, "");
    let read = || open(&config, fs::metadata(&path).unwrap().len() as usize, PER_BYTE);
    assert_eq!(read(), Ok(5));
    damage(&path, 1500, read);
    // What the description claims, under a checksum that is right.
    let start = whole.windows(2).rposition(|window| window == b"{\"").unwrap_or(0);
    let start = whole[..start].windows(7).rposition(|window| window == b"{\"info\"").unwrap();
    let description = String::from_utf8(whole[start..whole.len() - 12].to_vec()).unwrap();
    for (from, to) in [
        ("\"train\":4", "\"train\":18446744073709551615"),
        ("\"train\":4", "\"train\":400000000000"),
        ("\"test\":1", "\"test\":2"),
        ("[3,4,4]", "[3,4294967296,4294967296]"),
        ("[3,4,4]", "[]"),
        ("[\"a\",\"b\"]", "[]"),
        ("\"scale\":[1.0,1.0,1.0]", "\"scale\":[]"),
    ] {
        let text = description.replacen(from, to, 1);
        assert_ne!(text, description);
        let tail = [&(start as u64).to_le_bytes()[..], &crc32(text.as_bytes()).to_le_bytes()].concat();
        fs::write(&path, [&whole[..start], text.as_bytes(), &tail].concat()).unwrap();
        let said = read().unwrap_err();
        assert!(said.contains("pictures.ddpm"), "{said}");
    }
    // Of pictures without a pixel any number would fit.
    let text = description.replacen("[3,4,4]", "[3,0,4]", 1).replacen("[\"a\",\"b\"]", "[]", 1);
    let text = text.replacen("\"train\":4", "\"train\":400000000000", 1);
    let start = "ddpm pictures 1\n".len();
    let tail = [&(start as u64).to_le_bytes()[..], &crc32(text.as_bytes()).to_le_bytes()].concat();
    fs::write(&path, [&whole[..start], text.as_bytes(), &tail].concat()).unwrap();
    let said = ddpm_data::open(&config, Split::Train, 0).err().unwrap().to_string();
    assert!(said.contains("pictures.ddpm") && said.contains("[3, 0, 4]"), "{said}");
}
