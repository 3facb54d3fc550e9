use std::fs::File;
use std::path::PathBuf;

use super::*;
use crate::config::ImageCaptions;
use crate::known_good::{WORTH_KEEPING, note};
use crate::pixels::value_of_byte;
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

fn config(path: &Path) -> ImagesConfig {
    ImagesConfig {
        path: path.into(),
        size: 8,
        channels: ImageChannels::Rgb,
        labels: ImageLabels::None,
        captions: ImageCaptions::None,
        resize: ImageResize::CoverAndCentreCrop,
        horizontal_flip: true,
        on_bad_file: OnBadFile::Stop,
        binarize: None,
    }
}

fn open(config: &ImagesConfig, split: Split) -> Result<OpenData, DataError> {
    super::open(config, split, &|_, _| {})
}

fn message(config: &ImagesConfig) -> String {
    open(config, Split::Train).err().unwrap().to_string()
}

fn save(path: PathBuf, colour: [u8; 3], width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb(colour)).save(path).unwrap();
}

fn both_splits(config: &ImagesConfig) -> (OpenData, OpenData) {
    (open(config, Split::Train).unwrap(), open(config, Split::Test).unwrap())
}

fn all(data: &OpenData) -> Vec<Example> {
    (0..data.items.len()).map(|item| data.items.get(item).unwrap()).collect()
}

#[test]
fn every_format_is_read_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    for extension in ["png", "jpg", "webp", "bmp", "tiff"] {
        save(folder.path().join(format!("a.{extension}")), [200, 100, 50], 9, 12);
        // The same under a name that says nothing.
        let from = folder.path().join(format!("a.{extension}"));
        fs::copy(from, folder.path().join(format!("{extension}.dat"))).unwrap();
    }
    let (train, test) = both_splits(&config(folder.path()));
    assert_eq!((train.items.len(), test.items.len()), (9, 1));
    assert_eq!(train.info.shape, [3, 8, 8]);
    for example in all(&train).into_iter().chain(all(&test)) {
        assert_eq!(example.label, None);
        assert_eq!(example.values.len(), 3 * 64);
        for (channel, byte) in [200.0, 100.0, 50.0].into_iter().enumerate() {
            for value in &example.values[64 * channel..64 * (channel + 1)] {
                // jpeg is lossy.
                assert!((value - (byte / 127.5 - 1.0)).abs() < 0.03, "{value}");
            }
        }
    }
}

#[test]
fn foreign_and_corrupt_files_are_found_when_opened_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    for k in 0..4 {
        save(folder.path().join(format!("good{k}.png")), [k, 0, 0], 8, 8);
    }
    let good = fs::read(folder.path().join("good0.png")).unwrap();
    fs::write(folder.path().join("text.png"), "I am a text").unwrap();
    fs::write(folder.path().join("empty.jpg"), "").unwrap();
    fs::write(folder.path().join("head.png"), &good[..12]).unwrap();
    fs::write(folder.path().join("a.gif"), b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").unwrap();
    fs::write(folder.path().join(".DS_Store"), "hidden files are nobody's business").unwrap();

    let text = message(&config);
    assert!(text.contains("4 files are not readable images"), "{text}");
    for name in ["text.png: not an image", "empty.jpg: the file is empty", "head.png", "a.gif: a Gif file"] {
        assert!(text.contains(name), "{text} should contain {name}");
    }
    assert!(!text.contains(".DS_Store") && !text.contains("good"), "{text}");

    config.on_bad_file = OnBadFile::Skip;
    let (train, test) = both_splits(&config);
    assert_eq!(train.items.len() + test.items.len(), 4);
    let skipped: Vec<_> = train.skipped.iter().map(|bad| bad.path.file_name().unwrap()).collect();
    assert_eq!(skipped, ["a.gif", "empty.jpg", "head.png", "text.png"]);

    // Nothing left is an error even then.
    for k in 0..4 {
        fs::remove_file(folder.path().join(format!("good{k}.png"))).unwrap();
    }
    assert!(message(&config).contains("4 files are not readable images"));
}

#[test]
fn pictures_of_every_format_that_break_off_are_found_when_opened() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    for k in 0..9 {
        save(folder.path().join(format!("{k}.png")), [k, 0, 0], 8, 8);
    }
    let mut cut = Vec::new();
    for file in fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_string();
        if !name.starts_with("moving") {
            let bytes = fs::read(&file).unwrap();
            fs::write(folder.path().join(&name), &bytes[..bytes.len() * 6 / 10]).unwrap();
            cut.push(name);
        }
    }
    cut.sort();

    let DataError::BadFiles { files, .. } = open(&config, Split::Train).err().unwrap() else { panic!() };
    let named: Vec<_> = files.iter().map(|bad| bad.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(named, cut);

    config.on_bad_file = OnBadFile::Skip;
    let (train, test) = both_splits(&config);
    assert_eq!(all(&train).len() + all(&test).len(), 9);
    assert_eq!(train.skipped.len(), cut.len());
}

#[test]
fn a_picture_that_breaks_off_after_the_start_is_named_with_the_ways_out() {
    let folder = tempfile::tempdir().unwrap();
    for k in 0..9 {
        save(folder.path().join(format!("{k}.png")), [k, 0, 0], 8, 8);
    }
    let (train, _) = both_splits(&config(folder.path()));
    for k in 0..9 {
        fs::write(folder.path().join(format!("{k}.png")), &png(1)[..50]).unwrap();
    }
    let text = train.items.get(0).unwrap_err().to_string();
    for part in [".png: ", "--resume", "--set data.on_bad_file=skip", "cargo xtask data"] {
        assert!(text.contains(part), "{text} should contain {part}");
    }
}

#[test]
fn every_file_is_checked_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    for k in 0..9 {
        save(folder.path().join(format!("{k}.png")), [k, 0, 0], 8, 8);
    }
    let told = std::sync::Mutex::new(Vec::new());
    super::open(&config(folder.path()), Split::Train, &|done, all| told.lock().unwrap().push((done, all))).unwrap();
    let mut told = told.into_inner().unwrap();
    told.sort_unstable();
    assert!(told.into_iter().eq((1..=9).map(|done| (done, 9))));
}

#[test]
fn files_that_are_no_pictures_are_left_out_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.labels = ImageLabels::Folders;
    for class in ["animals", "faces"] {
        for k in 0..5 {
            save(folder.path().join(format!("{class}/{k}.png")), [k, 0, 0], 8, 8);
        }
    }
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    // By their names, one of them of the first letters of a bitmap; by their content; beside the classes; hidden.
    let others =
        ["LICENSE", "animals/0.txt", "animals/Thumbs.db", "faces/0.JSON", "faces/SHA256SUMS", "notes/a.md", "x.csv"];
    for name in others {
        write(name, b"BMW and other cars");
    }
    write(".DS_Store", b"");
    // A picture whose name says nothing is one.
    write("faces/picture", &png(1));
    let (train, test) = both_splits(&config);
    assert_eq!(train.items.len() + test.items.len(), 11);
    assert_eq!(train.info.classes, ["animals", "faces"]);
    assert_eq!(train.ignored.count, others.len());
    assert_eq!(train.ignored.first, others.map(PathBuf::from)[..3]);
    assert!(train.skipped.is_empty());

    // Both splits number the classes alike, whatever else lies beside them.
    for (split, class) in [("train", "a"), ("test", "b")] {
        save(folder.path().join(format!("own/{split}/{class}/0.png")), [1; 3], 8, 8);
        write(&format!("own/{split}/checksums/MD5SUMS"), b"0a1b  0.png");
    }
    let own = ImagesConfig { path: folder.path().join("own"), ..config.clone() };
    let (train, test) = both_splits(&own);
    assert_eq!(
        (&train.info.classes[..], &test.info.classes[..]),
        (&["a", "b"].map(String::from)[..], &["a", "b"].map(String::from)[..])
    );

    // What should be a picture and is none stops all the same, and nothing but other files is no set.
    write("faces/bad.png", b"I am a text");
    let text = message(&config);
    assert!(text.contains("bad.png: not an image") && text.contains("1 file is"), "{text}");
    config.path = folder.path().join("notes");
    let text = message(&config);
    assert!(text.contains("1 file is not an image and is ignored: a.md; expected a folder with png"), "{text}");
}

#[cfg(unix)]
#[test]
fn pipes_and_sockets_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    for k in 0..3 {
        save(folder.path().join(format!("{k}.png")), [k, 0, 0], 8, 8);
    }
    // A socket, because the standard library makes no pipes; the system refuses to read it as a file, too.
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s.png")).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let text = message(&config(folder.path()));
    assert!(text.contains("s.png: no file but") && text.contains("1 file is"), "{text}");
}

#[test]
fn missing_and_empty_folders_are_clear() {
    let folder = tempfile::tempdir().unwrap();
    assert!(message(&config(&folder.path().join("nowhere"))).contains("nowhere: not found"));
    assert!(message(&config(folder.path())).contains("the folder is empty; expected a folder with png"));
    fs::create_dir(folder.path().join("sub")).unwrap();
    assert!(message(&config(folder.path())).contains("the folder is empty"));
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(message(&config(&file)).contains("not a folder"));
}

#[test]
fn one_picture_alone_has_no_test_split() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path().join("a.png"), [0; 3], 8, 8);
    let open = |split| {
        let config = crate::DataConfig::Images(config(folder.path()));
        crate::open(&config, split, 0)
    };
    assert_eq!(open(Split::Train).unwrap().items.len(), 1);
    let error = open(Split::Test).err().unwrap().to_string();
    assert!(error.contains("the test split has no items"), "{error}");
}

#[test]
fn classes_are_the_sub_folders_in_both_splits() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.labels = ImageLabels::Folders;
    for (class, colour) in [("dog", 20), ("ant", 0), ("cat", 10)] {
        for k in 0..10 {
            save(folder.path().join(class).join(format!("deep/{k}.png")), [colour; 3], 8, 8);
        }
    }
    let (train, test) = both_splits(&config);
    assert_eq!(train.info.classes, ["ant", "cat", "dog"]);
    assert_eq!(test.info, train.info);
    assert_eq!((train.items.len(), test.items.len()), (27, 3));
    for example in all(&train).into_iter().chain(all(&test)) {
        let colour = ((example.values[0] + 1.0) * 127.5).round() as usize;
        assert_eq!(example.label, Some(colour / 10));
    }
    save(folder.path().join("stray.png"), [0; 3], 8, 8);
    assert!(message(&config).contains("stray.png: lies in no class folder"));
}

#[test]
fn train_and_test_folders_are_the_split() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.labels = ImageLabels::Folders;
    for k in 0..5 {
        save(folder.path().join(format!("train/b/{k}.png")), [k; 3], 8, 8);
    }
    save(folder.path().join("test/b/0.png"), [100; 3], 8, 8);
    save(folder.path().join("test/a/0.png"), [101; 3], 8, 8);
    let (train, test) = both_splits(&config);
    assert_eq!((train.items.len(), test.items.len()), (5, 2));
    assert_eq!(train.info.classes, ["a", "b"]);
    assert!(all(&train).iter().all(|example| example.label == Some(1)));
    let labels: Vec<_> = all(&test).iter().map(|example| example.label).collect();
    assert_eq!(labels, [Some(0), Some(1)]);
}

#[test]
fn the_split_is_the_same_wherever_the_folder_lies() {
    let values = |folder: &Path| {
        for k in 0..30 {
            save(folder.join(format!("{k}.png")), [k; 3], 8, 8);
        }
        let (train, test) = both_splits(&config(folder));
        let firsts = |data| all(data).iter().map(|example| example.values[0]).collect::<Vec<_>>();
        (firsts(&train), firsts(&test))
    };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (train, test) = values(here.path());
    assert_eq!((train.clone(), test.clone()), values(&there.path().join("deeper")));
    assert_eq!(test.len(), 3);
    let mut bytes: Vec<usize> =
        train.into_iter().chain(test).map(|value| ((value + 1.0) * 127.5).round() as usize).collect();
    bytes.sort_unstable();
    assert!(bytes.into_iter().eq(0..30));
}

#[test]
fn pictures_cover_the_square_and_are_cut_to_the_centre() {
    let folder = tempfile::tempdir().unwrap();
    // Three fields side by side; the square is the middle one.
    let wide = RgbImage::from_fn(48, 16, |x, _| match x / 16 {
        0 => Rgb([255, 0, 0]),
        1 => Rgb([0, 255, 0]),
        _ => Rgb([0, 0, 255]),
    });
    wide.save(folder.path().join("a.png")).unwrap();
    wide.save(folder.path().join("b.png")).unwrap();
    let (train, _) = both_splits(&config(folder.path()));
    let values = train.items.get(0).unwrap().values;
    // Columns away from the borders of the fields, which the filter mixes a little.
    for y in 0..8 {
        for x in 1..7 {
            assert!(values[8 * y + x] < -0.9, "red at {x}, {y}");
            assert!(values[64 + 8 * y + x] > 0.9, "green at {x}, {y}");
        }
    }
}

#[test]
fn grey_pictures_and_colours_become_each_other() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        GrayImage::from_fn(8, 8, |x, y| Luma([(8 * y + x) as u8])).save(folder.path().join(name)).unwrap();
    }
    let mut config = config(folder.path());
    let rgb = all(&open(&config, Split::Train).unwrap())[0].clone();
    config.channels = ImageChannels::Grayscale;
    let data = open(&config, Split::Train).unwrap();
    assert_eq!(data.info.shape, [1, 8, 8]);
    let grey = all(&data)[0].clone();
    let expected: Vec<f32> = (0..64).map(|k| k as f32 / 127.5 - 1.0).collect();
    assert_eq!(grey.values, expected);
    assert_eq!(rgb.values, [&expected[..], &expected, &expected].concat());
}

#[test]
fn transparent_parts_become_white() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        RgbaImage::from_fn(8, 8, |x, _| match x {
            0 => Rgba([10, 20, 30, 255]),
            1 => Rgba([0, 0, 0, 128]),
            _ => Rgba([0, 0, 0, 0]),
        })
        .save(folder.path().join(name))
        .unwrap();
    }
    let values = all(&open(&config(folder.path()), Split::Train).unwrap())[0].values.clone();
    assert_eq!(values[0], value_of_byte(10));
    assert_eq!(values[1], value_of_byte(127));
    assert!(values[2..8].iter().all(|&value| value == 1.0));
}

#[cfg(unix)]
#[test]
fn odd_names_and_links_are_no_obstacle() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.labels = ImageLabels::Folders;
    config.on_bad_file = OnBadFile::Skip;
    let odd = folder.path().join(OsStr::from_bytes(b"odd \xff\xfe"));
    let pixel = folder.path().join("plain/p\u{e4}\u{1f600} x.png");
    save(pixel.clone(), [7; 3], 8, 8);
    fs::create_dir(&odd).unwrap();
    for k in 0..3 {
        let name = [b"\xf0\x28\n".as_slice(), &[b'0' + k], b".png"].concat();
        fs::copy(&pixel, odd.join(OsStr::from_bytes(&name))).unwrap();
    }
    // A link in a circle, and one that leads nowhere.
    symlink(folder.path(), folder.path().join("plain/circle")).unwrap();
    symlink("nothing", folder.path().join("plain/nowhere.png")).unwrap();

    let (train, test) = both_splits(&config);
    assert_eq!(train.items.len() + test.items.len(), 4);
    assert_eq!(train.info.classes, ["odd \u{fffd}\u{fffd}", "plain"]);
    assert_eq!(train.skipped.len(), 1);
    assert!(train.skipped[0].path.ends_with("plain/nowhere.png"));
    let mut labels: Vec<_> = all(&train).iter().chain(&all(&test)).map(|example| example.label).collect();
    labels.sort_unstable();
    assert_eq!(labels, [Some(0), Some(0), Some(0), Some(1)]);
}

#[test]
fn headers_that_claim_too_much_are_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    // A BMP header of 30,000 x 30,000 pixels with nothing behind it.
    let mut bytes = b"BM".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(54_u32.to_le_bytes());
    bytes.extend(40_u32.to_le_bytes());
    bytes.extend(30_000_u32.to_le_bytes());
    bytes.extend(30_000_u32.to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    fs::write(folder.path().join("huge.bmp"), bytes).unwrap();
    let text = message(&config(folder.path()));
    assert!(text.contains("huge.bmp: 30000x30000 pixels"), "{text}");
}

/// A zip archive made by hand: name, bytes and whether they are deflated; wide ones have the fields of zip64.
fn zip(files: &[(&str, &[u8], bool)], wide: bool, flags: u16) -> Vec<u8> {
    use std::io::Write;
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes, deflated) in files {
        let packed = match deflated {
            false => bytes.to_vec(),
            true => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        };
        let start = archive.len();
        let header = |[packed, len]: [u32; 2], extra: usize| {
            let numbers = [crc32fast::hash(bytes), packed, len].map(u32::to_le_bytes);
            let lengths = [name.len() as u16, extra as u16].map(u16::to_le_bytes);
            let method = if *deflated { 8_u16 } else { 0 };
            let start = [20, flags, method].map(u16::to_le_bytes);
            [start.as_flattened(), &[0; 4], numbers.as_flattened(), lengths.as_flattened()].concat()
        };
        let sizes = [packed.len() as u32, bytes.len() as u32];
        archive.extend([b"PK\x03\x04", &header(sizes, 0)[..], name.as_bytes(), &packed].concat());
        let extra = match wide {
            false => Vec::new(),
            true => {
                let numbers = [bytes.len(), packed.len(), start].map(|number| (number as u64).to_le_bytes());
                [&[1, 0, 24, 0], numbers.as_flattened()].concat()
            }
        };
        let short = |number: usize| if wide { [0xff; 4] } else { (number as u32).to_le_bytes() };
        let sizes = if wide { [u32::MAX; 2] } else { sizes };
        directory.extend([b"PK\x01\x02\x14\0", &header(sizes, extra.len())[..], &[0; 10]].concat());
        directory.extend([&short(start)[..], name.as_bytes(), &extra].concat());
    }
    let (start, count, end) = (archive.len(), files.len() as u64, (archive.len() + directory.len()) as u64);
    archive.extend(&directory);
    if wide {
        archive.extend([b"PK\x06\x06", &44_u64.to_le_bytes()[..], &[0; 12]].concat());
        archive.extend([count, count, directory.len() as u64, start as u64].map(u64::to_le_bytes).as_flattened());
        archive.extend([b"PK\x06\x07", &[0; 4][..], &end.to_le_bytes(), &[1, 0, 0, 0]].concat());
    }
    archive.extend(b"PK\x05\x06\0\0\0\0");
    match wide {
        true => archive.extend([0xff; 12]),
        false => {
            archive.extend([count as u16; 2].map(u16::to_le_bytes).as_flattened());
            archive.extend([directory.len() as u32, start as u32].map(u32::to_le_bytes).as_flattened());
        }
    }
    archive.extend([0; 2]);
    archive
}

fn png(byte: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(9, 8, Rgb([byte, 2, 3])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn a_zip_gives_what_its_folder_would() {
    let folder = tempfile::tempdir().unwrap();
    let names =
        ["b/1.png", "a.b/0.png", "b/deep/\u{e4}.png", "a/9.png", "a/10.png", "a/.hidden.png", "__MACOSX/._x.png"];
    let names = names.into_iter().chain(["b/2.png", "b/3.png", "b/4.png", "b/5.png", "b/6.png"]);
    let files: Vec<(&str, Vec<u8>)> = names.enumerate().map(|(k, name)| (name, png(10 * k as u8))).collect();
    for (name, bytes) in files.iter().filter(|(name, _)| !name.starts_with("__MACOSX")) {
        let path = folder.path().join("folder").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let mut config = config(&folder.path().join("folder"));
    config.labels = ImageLabels::Folders;
    let as_folder = both_splits(&config);
    for wide in [false, true] {
        let packed: Vec<_> =
            files.iter().enumerate().map(|(k, (name, bytes))| (*name, &bytes[..], k % 2 == 0)).collect();
        config.path = folder.path().join("pictures.zip");
        fs::write(&config.path, zip(&[&[("b/", &b""[..], false)], &packed[..]].concat(), wide, 0)).unwrap();
        for on_bad_file in [OnBadFile::Stop, OnBadFile::Skip] {
            config.on_bad_file = on_bad_file;
            let as_zip = both_splits(&config);
            assert_eq!(as_zip.0.info, as_folder.0.info);
            assert_eq!(all(&as_zip.0), all(&as_folder.0));
            assert_eq!(all(&as_zip.1), all(&as_folder.1));
        }
    }
    // Its own split.
    let (one, two) = (png(1), png(2));
    let packed = [("train/x/1.png", &one[..], true), ("test/y/1.png", &two, false), ("train/y/2.png", &one, false)];
    fs::write(&config.path, zip(&packed, false, 0)).unwrap();
    let (train, test) = both_splits(&config);
    assert_eq!((train.items.len(), test.items.len()), (2, 1));
    assert_eq!(train.info.classes, ["x", "y"]);
    assert_eq!(all(&train)[0].label, Some(0));
    assert_eq!(all(&test)[0].values[0], value_of_byte(2));
}

#[test]
fn zips_that_are_damaged_or_sly_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join("x.zip"));
    let good = png(7);
    let said = |bytes: Vec<u8>| {
        fs::write(&config.path, bytes).unwrap();
        let said = message(&config);
        assert!(said.contains("x.zip"), "{said}");
        said
    };
    for name in ["../x.png", "/x.png", "a/../../x.png"] {
        assert!(said(zip(&[(name, &good, false)], false, 0)).contains("leads out of the archive"));
    }
    assert!(said(zip(&[("a.png", &good, false)], false, 1)).contains("a.png is encrypted"));
    assert!(
        said(zip(&[("a.png", &good, true), ("a.png", &good, true)], false, 0))
            .contains("a.png is in the archive twice")
    );
    assert!(said(zip(&[], false, 0)).contains("empty"));
    assert!(said(b"no zip".to_vec()).contains("zip directory is missing"));
    assert!(said(zip(&[("a.txt", b"text", true)], false, 0)).contains("ignored: a.txt; expected"));
    assert!(said(zip(&[("a.jpg", b"text", true)], false, 0)).contains("a.jpg: not an image"));
    assert!(said(zip(&[("a\n.jpg", b"text", true)], false, 0)).contains("a\\n.jpg: not an image"));
    let whole = zip(&[("a.png", &good, false), ("b.png", &good, true)], false, 0);
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    assert!(said(flipped).contains("a.png is damaged"));
    let mut method = whole.clone();
    let record = whole.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    method[record + 10] = 12;
    assert!(said(method).contains("method 12"));
    let mut far = whole.clone();
    far[record + 42..record + 46].copy_from_slice(&1_000_000_u32.to_le_bytes());
    assert!(said(far).contains("no header where"));

    // A file that is left out, by name.
    config.on_bad_file = OnBadFile::Skip;
    fs::write(&config.path, zip(&[("a.png", &good, true), ("b.png", b"", false), ("c.png", &good, true)], false, 0))
        .unwrap();
    let (train, test) = both_splits(&config);
    assert_eq!(train.items.len() + test.items.len(), 2);
    assert!(train.skipped[0].path.ends_with("x.zip/b.png"), "{:?}", train.skipped);
}

/// What was found good is not looked at again until it changes; what is found bad is looked at every time.
#[test]
fn known_pictures_are_not_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, root) = (dir.path().join("cache"), dir.path().join("pictures"));
    fs::create_dir(&root).unwrap();
    let one = dir.path().join("one.png");
    fs::write(&one, png(1)).unwrap();
    for k in 0..WORTH_KEEPING {
        fs::hard_link(&one, root.join(format!("{k:04}.png"))).unwrap();
    }
    let config = config(&root);
    let open = || Images::open(&config, Split::Train, Some(&cache), &|_, _| {});
    assert_eq!(open().unwrap().chosen.len(), WORTH_KEEPING * 9 / 10);

    // Of the same size and time, but no picture: nobody looks.
    let changed = fs::metadata(&one).unwrap().modified().unwrap();
    let len = fs::metadata(&one).unwrap().len() as usize;
    fs::write(&one, vec![b'x'; len]).unwrap();
    let time = |time| File::options().write(true).open(&one).unwrap().set_modified(time).unwrap();
    time(changed);
    assert!(open().is_ok());
    // Of another time: every one is looked at.
    time(changed + std::time::Duration::from_millis(1));
    let said = open().err().unwrap().to_string();
    assert!(said.contains(&format!("{WORTH_KEEPING} files are not readable images")), "{said}");
    fs::write(&one, png(1)).unwrap();
    assert!(open().is_ok());

    // One more and one less.
    fs::write(root.join("new.png"), "no picture").unwrap();
    assert!(open().err().unwrap().to_string().contains("new.png: not an image"));
    fs::remove_file(root.join("new.png")).unwrap();
    fs::remove_file(root.join("0007.png")).unwrap();
    assert!(Images::open(&config, Split::Train, None, &|_, _| {}).is_ok());

    // A damaged cache is as good as none, and so is one that cannot be written.
    let file = note(&cache, &root);
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, &bytes).unwrap();
    fs::write(root.join("0007.png"), png(2)).unwrap();
    assert!(open().is_ok());
    assert!(Images::open(&config, Split::Train, Some(&one.join("no folder")), &|_, _| {}).is_ok());
}

/// A folder of images whose red is their number.
fn numbered(folder: &Path, count: u8) {
    for k in 0..count {
        save(folder.join(format!("sub/{k}.png")), [k, 0, 0], 8, 8);
    }
}

fn assert_captions_fit(config: &ImagesConfig, count: usize) {
    let (train, test) = both_splits(config);
    assert!(train.info.has_captions && test.info.has_captions && !test.items.is_empty());
    let items: Vec<Example> = all(&train).into_iter().chain(all(&test)).collect();
    assert_eq!(items.len(), count);
    for item in items {
        let number = ((item.values[0] + 1.0) * 127.5).round();
        assert_eq!(item.caption.as_deref(), Some(format!("number {number}").as_str()));
    }
}

#[test]
fn captions_are_read_from_a_table_or_from_texts_and_stay_with_their_image() {
    let folder = tempfile::tempdir().unwrap();
    numbered(folder.path(), 20);
    let mut config = ImagesConfig { captions: ImageCaptions::Auto, ..config(folder.path()) };
    assert!(message(&config).contains("20 captions are missing: "), "{}", message(&config));
    for k in 0..20 {
        fs::write(folder.path().join(format!("sub/{k}.txt")), format!("number {k}\n")).unwrap();
    }
    assert_captions_fit(&config, 20);
    assert_eq!(open(&config, Split::Train).unwrap().ignored.count, 0);
    config.captions = ImageCaptions::Metadata;
    assert!(message(&config).contains("no metadata.jsonl"), "{}", message(&config));
    let line = |k: usize| match k % 2 {
        0 => format!("{{\"file_name\": \"sub/{k}.png\", \"text\": \"number {k}\", \"other\": 1}}\n"),
        _ => format!("{{\"caption\": \"number {k}\", \"file_name\": \"sub/{k}.png\"}}\n"),
    };
    let table: String = (0..20).map(line).collect();
    fs::write(folder.path().join("metadata.jsonl"), table).unwrap();
    for captions in [ImageCaptions::Metadata, ImageCaptions::Auto, ImageCaptions::TextFiles] {
        config.captions = captions;
        assert_captions_fit(&config, 20);
    }
    config.captions = ImageCaptions::None;
    let plain = open(&config, Split::Train).unwrap();
    assert!(!plain.info.has_captions && all(&plain)[0].caption.is_none() && plain.ignored.count == 21);
}

#[test]
fn what_is_wrong_with_captions_is_said_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    numbered(folder.path(), 3);
    let config = ImagesConfig { captions: ImageCaptions::Metadata, ..config(folder.path()) };
    let good = "{\"file_name\": \"0.png\", \"text\": \"number 0\"}\n";
    for (second, expected) in [
        ("", "2 captions are missing: sub/1.png, sub/2.png; expected a line in metadata.jsonl"),
        ("{\"file_name\"", "metadata.jsonl: line 2: is not JSON"),
        ("[]", "line 2: has no text \"file_name\""),
        ("{\"file_name\": 3, \"text\": \"x\"}", "line 2: has no text \"file_name\""),
        ("{\"file_name\": \"1.png\"}", "line 2: has neither a text \"text\" nor \"caption\""),
        ("{\"file_name\": \"9.png\", \"text\": \"x\"}", "line 2: there is no file \"9.png\""),
        (good, "line 2: \"0.png\" has a caption already"),
    ] {
        fs::write(folder.path().join("sub/metadata.jsonl"), format!("{good}{second}")).unwrap();
        let text = message(&config);
        assert!(text.contains(expected), "{text} should contain {expected}");
    }
    fs::write(folder.path().join("sub/metadata.jsonl"), [0xff, 0xfe]).unwrap();
    assert!(message(&config).contains("metadata.jsonl: is not a text in UTF-8"), "{}", message(&config));
}
