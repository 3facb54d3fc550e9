use super::*;
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

fn config(path: &Path) -> ImagesConfig {
    ImagesConfig {
        path: path.into(),
        size: 8,
        channels: ImageChannels::Rgb,
        labels: ImageLabels::None,
        resize: ImageResize::CoverAndCentreCrop,
        horizontal_flip: true,
        on_bad_file: OnBadFile::Stop,
    }
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
    assert!(text.contains("4 files are not readable pictures"), "{text}");
    for name in ["text.png: not a picture", "empty.jpg: the file is empty", "head.png", "a.gif: a Gif file"] {
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
    assert!(message(&config).contains("4 files are not readable pictures"));
}

#[test]
fn a_picture_that_breaks_off_is_left_out_or_named_when_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    for k in 0..9 {
        save(folder.path().join(format!("{k}.png")), [k, 0, 0], 8, 8);
    }
    let noise = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * y * 7) as u8, (x * 31 + y) as u8, y as u8]));
    let cut = folder.path().join("cut.png");
    noise.save(&cut).unwrap();
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();

    let (train, test) = both_splits(&config);
    let errors: Vec<String> = [&train, &test]
        .into_iter()
        .flat_map(|data| (0..data.items.len()).filter_map(|item| data.items.get(item).err()))
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("cut.png") && errors[0].contains("on_bad_file"), "{}", errors[0]);

    config.on_bad_file = OnBadFile::Skip;
    let (train, test) = both_splits(&config);
    assert_eq!(all(&train).len() + all(&test).len(), 9);
    assert_eq!(train.skipped.len(), 1);
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
