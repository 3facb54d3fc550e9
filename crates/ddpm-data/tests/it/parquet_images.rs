//! Images and captions in Parquet files, as pyarrow writes them for the Hugging Face Hub.
#![cfg_attr(not(feature = "parquet"), allow(dead_code, unused_imports))]

use std::fs;
use std::path::{Path, PathBuf};

use ddpm_data::{DataConfig, Example, OpenData, Split};
use ddpm_testing::hostile::{damage, within_bounds};

fn table(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(name)
}

fn open(path: &Path, more: &str, split: Split) -> Result<OpenData, String> {
    let text = format!("kind = 'image-table'\npath = '{}'\nsize = 4\n{more}", path.display());
    let config: DataConfig = toml::from_str(&text).unwrap();
    ddpm_data::open(&config, split, 0).map_err(|error| error.to_string())
}

fn items(data: &OpenData) -> Vec<Example> {
    (0..data.items.len()).map(|item| data.items.get(item).unwrap()).collect()
}

/// The number of an image, from its shade of red.
fn number(item: &Example) -> usize {
    ((item.values[0] + 1.0) * 127.5 / 10.0).round() as usize
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_tables_of_the_hub_are_images_with_captions() {
    let path = table("images.parquet");
    let [train, test] = [Split::Train, Split::Test].map(|split| open(&path, "captions = 'auto'", split).unwrap());
    assert!(train.info.has_captions && train.info.shape == [3, 4, 4]);
    let all: Vec<Example> = [items(&train), items(&test)].concat();
    assert_eq!((train.items.len(), test.items.len()), (11, 1));
    let mut numbers: Vec<usize> = all.iter().map(number).collect();
    for item in &all {
        assert_eq!(item.caption.as_deref(), Some(&*format!("a shade of number {}", number(item))));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..12).collect::<Vec<_>>());
    let several = open(&path, "captions = 'several'", Split::Train).unwrap();
    assert!(items(&several)[0].caption.as_deref().unwrap().starts_with("first "));
    let none = open(&path, "", Split::Train).unwrap();
    assert!(!none.info.has_captions && items(&none)[0].caption.is_none());
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_files_of_a_folder_are_the_splits_that_they_are_named_after() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let copy = |name: &str| fs::copy(table("images.parquet"), dir.path().join("data").join(name)).unwrap();
    copy("train-00000-of-00002.parquet");
    copy("train-00001-of-00002.parquet");
    let len = |split| open(dir.path(), "captions = 'text'", split).unwrap().items.len();
    assert_eq!(len(Split::Train) + len(Split::Test), 24);
    copy("validation-00000-of-00001.parquet");
    assert_eq!([len(Split::Train), len(Split::Test)], [24, 12]);
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_tables_that_are_not_as_said_are_refused_by_column_and_row() {
    let refuse = |name: &str, more: &str, parts: &[&str]| {
        let error = open(&table(name), more, Split::Train).err().unwrap();
        assert!(parts.iter().chain(&[name]).all(|part| error.contains(part)), "{error}");
    };
    refuse("images.parquet", "captions = 'words'", &["\"words\"", "data.captions", "image, text, several, number"]);
    refuse("images.parquet", "captions = 'number'", &["row 0", "\"number\"", "no caption"]);
    refuse("images.parquet", "image = 'text'", &["row 0", "\"text\"", "no bytes of an image"]);
    refuse("plain_bytes.parquet", "", &["\"image\"", "data.image", "picture, caption"]);
    refuse("plain_bytes.parquet", "image = 'picture'\ncaptions = 'auto'", &["row 1", "no caption"]);
    refuse("plain_bytes.parquet", "image = 'picture'", &["row 2", "not an image", "on_bad_file=skip"]);
    refuse("zstd.parquet", "", &["zstd.parquet"]);
    let skipped = open(&table("plain_bytes.parquet"), "image = 'picture'\non_bad_file = 'skip'", Split::Train).unwrap();
    assert_eq!((skipped.skipped.len(), skipped.items.len()), (1, 2));
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path(), "", Split::Train).err().unwrap().contains("no file *.parquet"));
}

#[cfg(feature = "parquet")]
#[test]
fn damaged_parquet_tables_of_images_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.parquet");
    fs::copy(table("images.parquet"), &path).unwrap();
    let read = || {
        let read = || open(&path, "captions = 'auto'", Split::Train).map(|data| items(&data).len());
        within_bounds(0, 1 << 30, 0, read)
    };
    read().unwrap();
    damage(&path, 200, read);
}

#[cfg(not(feature = "parquet"))]
#[test]
fn without_parquet_the_feature_is_named() {
    assert!(open(&table("images.parquet"), "", Split::Train).err().unwrap().contains("--features parquet"));
}
