//! Series of every format against `fixtures/series_formats`: the values of the loaders that are usual, and one error for
//! each broken file.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ddpm_data::series::arrays::{Layout, Mask, MaskMeaning, read_npy, read_npz};
use ddpm_data::series::gluonts::read_gluonts;
use ddpm_data::series::grouped::{group_test, group_train};
use ddpm_data::series::physionet::read_physionet;
use ddpm_data::series::tsf::read_tsf;
use ddpm_data::series::wide::{TimesFrom, read_wide, read_with_held_out};
use ddpm_data::series::{Cell, Frequency, Index, Normalizer, Series, SeriesError, Table, long, wide};
use ddpm_testing::hostile::{damage, within_bounds};
use ddpm_testing::support::{Safetensors, cases, fixture, number, read_json, text, whole, whole_numbers};
use serde_json::Value;

/// GluonTS rounds targets to f32.
const TOLERANCE: f64 = 1e-7;

/// What a reader may take: buffers; numbers with the state of their cells and the names of columns; and for each
/// compressed byte as many of them as a text may unpack to.
const AT_LEAST: usize = 1 << 20;
const PER_BYTE: usize = 256;
const PER_COMPRESSED_BYTE: usize = 8 * 1032;

struct Fixture {
    folder: PathBuf,
    index: Value,
    expected: Safetensors,
}

impl Fixture {
    fn open() -> Self {
        let folder = fixture("series_formats");
        let (index, expected) =
            (read_json(folder.join("index.json")), Safetensors::open(folder.join("expected.safetensors")));
        Self { folder, index, expected }
    }

    /// The cases whose names begin so.
    fn cases(&self, prefix: &str) -> Vec<&Value> {
        let found: Vec<_> =
            cases(&self.index, "cases").iter().filter(|it| text(it, "id").starts_with(prefix)).collect();
        assert!(!found.is_empty(), "{prefix}");
        found
    }

    fn path(&self, case: &Value) -> PathBuf {
        self.folder.join(text(case, "file"))
    }

    /// Compares a table with the expected one, which has a row for each step or for each variable.
    fn compare(&self, table: &Table, name: &str, by_variable: bool) {
        let (values, observed) = (self.expected.f64(name), self.expected.i64(&format!("{name}.observed")));
        let [steps, variables] = [table.steps(), table.variables()];
        assert_eq!(values.len(), steps * variables, "{name}");
        let shape = self.expected.shape(name);
        if shape.len() == 2 {
            assert_eq!(shape, if by_variable { [variables, steps] } else { [steps, variables] }, "{name}");
        }
        for (step, variable) in (0..steps).flat_map(|step| (0..variables).map(move |variable| (step, variable))) {
            let at = if by_variable { variable * steps + step } else { step * variables + variable };
            let expected = (observed[at] == 1).then_some(values[at]);
            assert_value(table.value(step, variable), expected, &format!("{name} at {step}, {variable}"));
        }
    }
}

fn assert_value(found: Option<f64>, expected: Option<f64>, what: &str) {
    match (found, expected) {
        (None, None) => {}
        (Some(found), Some(expected)) => {
            assert!((found - expected).abs() <= TOLERANCE * expected.abs(), "{what}: {found} instead of {expected}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

fn timestamps(series: &Series) -> Vec<String> {
    (0..series.target.steps()).map(|step| series.index.timestamp(step).unwrap().to_string()).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

#[test]
fn folders_of_gluonts_are_read() {
    let fixture = Fixture::open();
    for case in fixture.cases("gluonts_").into_iter().filter(|case| case.get("train").is_some()) {
        let data = read_gluonts(&fixture.path(case)).unwrap();
        assert_eq!(Some(data.metadata.frequency), Frequency::parse(text(&case["metadata"], "freq")));
        assert_eq!(data.metadata.prediction_length.map(|it| it as u64), case["metadata"]["prediction_length"].as_u64());
        for (split, found) in [("train", &data.train), ("test", &data.test)] {
            let expected = cases(case, split);
            assert_eq!(found.len(), expected.len());
            for (series, expected) in found.iter().zip(expected) {
                compare_gluonts(&fixture, series, expected);
            }
        }
    }
}

fn compare_gluonts(fixture: &Fixture, series: &Series, expected: &Value) {
    fixture.compare(&series.target, text(expected, "target"), true);
    assert_eq!(timestamps(series), texts(&expected["timestamps"]));
    assert_eq!(series.name.as_deref(), expected["item_id"].as_str());
    assert_eq!(series.static_categories, whole_numbers(&expected["feat_static_cat"]));
    let reals: Vec<f64> =
        expected["feat_static_real"].as_array().into_iter().flatten().flat_map(Value::as_f64).collect();
    assert_eq!(series.static_reals, reals);
    let dynamic = ["feat_dynamic_real", "dynamic_feat"].into_iter().find_map(|name| expected[name].as_str());
    assert_eq!(series.dynamic.is_some(), dynamic.is_some());
    if let (Some(covariates), Some(name)) = (&series.dynamic, dynamic) {
        fixture.compare(&covariates.values, name, true);
        assert_eq!(covariates.names.len(), covariates.values.variables());
    }
}

#[test]
fn series_of_gluonts_are_joined_as_its_grouper_does() {
    let fixture = Fixture::open();
    let case = fixture.cases("gluonts_grouped")[0];
    let data = read_gluonts(&fixture.path(case)).unwrap();
    let mut blocks = Vec::new();
    for (k, expected) in cases(case, "series").iter().enumerate() {
        let arguments = &expected["arguments"];
        let most = arguments["max_target_dim"].as_u64().map(|most| most as usize);
        let joined = match arguments["num_test_dates"].as_u64() {
            None => group_train(&data.train, most).unwrap(),
            Some(dates) => {
                if blocks.is_empty() {
                    blocks = group_test(&data.test, dates as usize, most).unwrap();
                }
                blocks.remove(0)
            }
        };
        fixture.compare(&joined.target, text(expected, "target"), true);
        assert_eq!(timestamps(&joined)[0], text(expected, "start"), "{k}");
    }
    assert!(blocks.is_empty());
    assert_eq!(group_test(&data.test, 4, None), None);
}

#[test]
fn files_of_the_monash_archive_are_read() {
    let fixture = Fixture::open();
    for case in fixture.cases("tsf_") {
        let data = read_tsf(&fixture.path(case)).unwrap();
        assert_eq!(data.frequency, Frequency::parse_monash(text(case, "frequency")));
        assert_eq!(data.frequency, Frequency::parse(text(case, "pandas_frequency")));
        assert_eq!(data.horizon.map(|horizon| horizon as u64), case["horizon"].as_u64());
        assert_eq!((data.missing, data.equal_length), (case["missing"].as_bool(), case["equal_length"].as_bool()));
        assert_eq!(data.numeric, ["group"]);
        let expected = cases(case, "series");
        assert_eq!(data.series.len(), expected.len());
        for (series, expected) in data.series.iter().zip(expected) {
            fixture.compare(&series.target, text(expected, "target"), true);
            assert_eq!(series.name.as_deref(), Some(text(expected, "series_name")));
            assert_eq!(series.target.steps(), whole(expected, "length"));
            assert_eq!(timestamps(series)[0], text(expected, "start"));
            assert_eq!(series.static_reals, [number(expected, "group")]);
        }
    }
}

#[test]
fn wide_tables_are_read() {
    let fixture = Fixture::open();
    for case in fixture.cases("csv_wide").into_iter().chain(fixture.cases("csv_lstnet")) {
        let letter = |key: &str, usual| case[key].as_str().map_or(usual, |text| text.chars().next().unwrap());
        let mut options = wide::Options { separator: letter("separator", ','), ..wide::Options::default() };
        options.decimal = letter("decimal", '.');
        if case["timestamps"].is_null() {
            (options.header, options.times) = (false, TimesFrom::Stated(Index::Counted));
        }
        let series = read_wide(&fixture.path(case), &options).unwrap();
        fixture.compare(&series.target, text(case, "target"), true);
        if let Index::Times { frequency, .. } = series.index {
            assert_eq!(timestamps(&series), texts(&case["timestamps"]));
            assert_eq!(series.variables, texts(&case["names"]));
            assert_eq!(frequency, Frequency::Seconds(whole(case, "freq_seconds") as u32));
            // Another frequency than that of the file is not believed.
            options.times = TimesFrom::FirstColumn { frequency: Some(Frequency::Seconds(60)) };
            let error = read_wide(&fixture.path(case), &options).unwrap_err();
            assert_eq!((error.problem.kind(), error.line), ("irregular_index", Some(3)));
        } else {
            assert!(case["timestamps"].is_null());
            assert_eq!(
                [series.target.steps(), series.target.variables()],
                [whole(case, "rows"), whole(case, "columns")]
            );
        }
    }
}

#[test]
fn what_a_second_table_leaves_out_is_held_out() {
    let fixture = Fixture::open();
    let case = fixture.cases("pm25")[0];
    let [all, given] = ["pm25_ground.txt", "pm25_missing.txt"].map(|name| fixture.path(case).join(name));
    let options = wide::Options::default();
    let series = read_with_held_out(&all, &given, &options).unwrap();
    fixture.compare(&series.target, text(case, "target"), false);
    assert_eq!((timestamps(&series), &series.variables), (texts(&case["timestamps"]), &texts(&case["names"])));
    let (held_out, shown) = (fixture.expected.i64(text(case, "held_out")), fixture.expected.f64(text(case, "given")));
    let width = series.variables.len();
    assert!(held_out.contains(&1));
    for (at, held_out) in held_out.iter().enumerate() {
        let (step, variable) = (at / width, at % width);
        assert_eq!(series.target.cell(step, variable) == Cell::HeldOut, *held_out == 1, "{at}");
        series.target.given(step, variable).into_iter().for_each(|value| assert_eq!(value, shown[at]));
    }
    // The other way round: the second has values that the first has not.
    let error = read_with_held_out(&given, &all, &options).unwrap_err();
    assert_eq!((error.problem.kind(), error.path), ("files_differ", all));
}

#[test]
fn long_tables_in_any_order_are_read() {
    let fixture = Fixture::open();
    let case = fixture.cases("csv_long")[0];
    let options = long::Options { covariates: vec!["price".into()], ..long::Options::default() };
    let found = long::read_long(&fixture.path(case), &options).unwrap();
    let expected = cases(case, "series");
    assert_eq!(found.len(), expected.len());
    for (series, expected) in found.iter().zip(expected) {
        assert_eq!(series.name.as_deref(), Some(text(expected, "item_id")));
        assert_eq!(timestamps(series), texts(&expected["timestamps"]));
        fixture.compare(&series.target, text(expected, "target"), true);
        let covariates = series.dynamic.as_ref().unwrap();
        fixture.compare(&covariates.values, text(&expected["covariates"], "price"), true);
    }
}

#[test]
fn stays_of_physionet_are_read_and_normalized() {
    let fixture = Fixture::open();
    let case = fixture.cases("physio")[0];
    let stays = read_physionet(&fixture.path(case)).unwrap();
    let expected = cases(case, "patients");
    assert_eq!(stays.len(), expected.len());
    for (stay, expected) in stays.iter().zip(expected) {
        let id = text(expected, "id");
        assert_eq!((stay.name.as_deref(), &stay.variables), (Some(id), &texts(&case["variables"])));
        let [values, observed] = [
            fixture.expected.f64(&format!("physio.{id}.values")),
            fixture.expected.i64(&format!("physio.{id}.observed")).into_iter().map(|it| it as f64).collect(),
        ];
        assert_eq!(observed.iter().sum::<f64>(), number(expected, "observed"));
        for at in 0..values.len() {
            let found = stay.target.value(at / stay.variables.len(), at % stay.variables.len());
            assert_value(found, (observed[at] == 1.0).then_some(values[at]), &format!("{id} at {at}"));
        }
    }
    let normalizer = Normalizer::fit(stays.iter().map(|stay| (&stay.target, 0..stay.target.steps())));
    let [mean, std, normalized] =
        ["mean", "std", "normalised"].map(|name| fixture.expected.f64(&format!("physio.{name}")));
    let width = mean.len();
    for (at, expected) in normalized.iter().enumerate() {
        let (stay, step, variable) = (at / width / whole(case, "hours"), at / width % whole(case, "hours"), at % width);
        let value = stays[stay].target.value(step, variable);
        let found = value.map_or(0.0, |value| normalizer.normalize(variable, value));
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected} at {at}");
    }
    for variable in 0..width {
        assert!((normalizer.mean()[variable] - mean[variable]).abs() < 1e-9);
        let expected = if std[variable] == 0.0 { 1.0 } else { std[variable] };
        assert!((normalizer.std()[variable] - expected).abs() < 1e-9);
    }
}

#[test]
fn arrays_of_numpy_are_read() {
    let fixture = Fixture::open();
    for case in fixture.cases("np") {
        let (path, name) = (fixture.path(case), text(case, "target"));
        let mask = case["mask"].as_str().map(|mask| fixture.expected.i64(mask));
        let read = |meaning| {
            let mask = Mask { name: "mask".into(), meaning };
            match path.extension().unwrap().to_str() {
                Some("npz") => read_npz(&path, "values", Some(&mask), Layout::NLK).unwrap(),
                _ => read_npy(&path, Layout::NLK).unwrap(),
            }
        };
        let shape = whole_numbers(&case["shape"]);
        assert_eq!(fixture.expected.shape(name), shape);
        let values: Vec<f64> = match name {
            "npy_i64" => fixture.expected.i64(name).into_iter().map(|value| value as f64).collect(),
            _ => fixture.expected.f64(name),
        };
        let observed = match name {
            "npy_nan" => fixture.expected.i64("npy_nan.observed"),
            _ => mask.clone().unwrap_or(vec![1; values.len()]),
        };
        for meaning in [MaskMeaning::OneIsObserved, MaskMeaning::OneIsMissing, MaskMeaning::OneIsHeldOut] {
            let all = read(meaning);
            assert_eq!(all.len(), shape[0]);
            for (at, value) in values.iter().enumerate() {
                let (step, variable) = (at / shape[2] % shape[1], at % shape[2]);
                let table = &all[at / shape[1] / shape[2]].target;
                let cell = match (mask.is_some(), observed[at] == 1, meaning) {
                    (false, true, _) => Cell::Observed,
                    (true, one, MaskMeaning::OneIsHeldOut) => {
                        if one {
                            Cell::HeldOut
                        } else {
                            Cell::Observed
                        }
                    }
                    (true, true, MaskMeaning::OneIsObserved) | (true, false, MaskMeaning::OneIsMissing) => {
                        Cell::Observed
                    }
                    _ => Cell::NeverObserved,
                };
                assert_eq!(table.cell(step, variable), cell, "{path:?} at {at}");
                assert_eq!(table.value(step, variable), (cell != Cell::NeverObserved).then_some(*value));
            }
        }
    }
}

/// Reads a file or folder as its name says.
fn read_any(path: &Path) -> Result<(), SeriesError> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let headerless =
        wide::Options { header: false, times: TimesFrom::Stated(Index::Counted), ..wide::Options::default() };
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("tsf") => read_tsf(path).map(drop),
        Some("npy") => read_npy(path, Layout::NLK).map(drop),
        Some("npz") => {
            let mask = Mask { name: "mask".into(), meaning: MaskMeaning::OneIsObserved };
            read_npz(path, "values", Some(&mask), Layout::NLK).map(drop)
        }
        _ if name.starts_with("long") => long::read_long(path, &long::Options::default()).map(drop),
        Some("csv") => read_wide(path, &wide::Options::default()).map(drop),
        Some("txt" | "gz") => read_wide(path, &headerless).map(drop),
        _ if name.starts_with("physio") => read_physionet(path).map(drop),
        _ => read_gluonts(path).map(drop),
    }
}

#[test]
fn every_broken_file_is_refused_with_its_place() {
    let fixture = Fixture::open();
    let mut kinds = BTreeSet::new();
    for case in cases(&fixture.index, "errors") {
        let path = fixture.path(case);
        let error = read_any(&path).expect_err(text(case, "file"));
        let said = error.to_string();
        assert_eq!(error.problem.kind(), text(case, "kind"), "{said}");
        assert_eq!(error.line, case["line"].as_u64(), "{said}");
        let file = case["inner_file"].as_str().map_or(path.clone(), |inner| path.join(inner));
        assert_eq!(error.path, file, "{said}");
        assert!(said.starts_with(&file.display().to_string()) && said.contains("expected"), "{said}");
        // The rest is not named by the file's own name.
        let said = error.problem.to_string();
        for key in ["text", "column", "field", "record", "item_id"] {
            let named = case[key].as_str().unwrap_or_default();
            assert!(said.contains(named), "{said} should name {named}");
        }
        for key in ["expected", "got"] {
            let count = case[key].as_u64().map(|count| count.to_string()).unwrap_or_default();
            assert!(said.contains(&count), "{said} should name {count}");
        }
        kinds.insert(error.problem.kind());
    }
    assert!(kinds.len() > 20, "{kinds:?}");
}

#[test]
fn damaged_series_are_survived() {
    let fixture = Fixture::open();
    let dir = tempfile::tempdir().unwrap();
    let whole = [
        "csv/wide_ett.csv",
        "csv/lstnet.txt.gz",
        "tsf/ragged_half_hourly.tsf",
        "npy/nlc_f64_fortran.npy",
        "npy/values_mask_compressed.npz",
    ];
    for name in whole {
        let path = dir.path().join(Path::new(name).file_name().unwrap());
        fs::copy(fixture.folder.join(name), &path).unwrap();
        survives(&path, &path);
    }
    let long = dir.path().join("long.csv");
    fs::copy(fixture.folder.join("csv/long_unsorted.csv"), &long).unwrap();
    survives(&long, &long);
    let folder = dir.path().join("gluonts");
    for (from, to) in [("metadata.json", "metadata.json"), ("train/data.json", "train/data.json")] {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(fixture.folder.join("gluonts_uni").join(from), to).unwrap();
    }
    survives(&folder.join("train/data.json"), &folder);
    survives(&folder.join("metadata.json"), &folder);
    let folder = dir.path().join("physio");
    fs::create_dir(&folder).unwrap();
    fs::copy(fixture.folder.join("physio/set-a/132540.txt"), folder.join("132540.txt")).unwrap();
    survives(&folder.join("132540.txt"), &folder);
}

/// Damages a file, and reads what it belongs to.
fn survives(damaged: &Path, read: &Path) {
    let bytes = || fs::metadata(damaged).unwrap().len() as usize;
    let open =
        || within_bounds(bytes(), AT_LEAST, PER_COMPRESSED_BYTE, || read_any(read)).map_err(|error| error.to_string());
    fs::set_permissions(damaged, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    open().unwrap();
    damage(damaged, 500, open);
}

#[test]
fn claims_that_no_file_can_hold_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], per_byte: usize| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let at_least = 4 * (16 << 20);
        let error = within_bounds(bytes.len(), at_least, per_byte, || read_any(&path)).unwrap_err();
        assert!(error.to_string().contains(name) && error.to_string().len() < 2000, "{error:.300}");
        error.problem.kind()
    };
    for (shape, kind) in [
        ("(18446744073709551615, 18446744073709551615, 8)", "truncated"),
        ("(4294967296, 4294967296, 4294967296)", "truncated"),
        ("(99999999999999999999, 1, 1)", "bad_array"),
        ("(0, 18446744073709551615, 18446744073709551615)", "empty_target"),
    ] {
        for fortran in ["True", "False"] {
            let header = format!("{{'descr': '<f8', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.as_bytes());
            assert_eq!(refused("huge.npy", &bytes, PER_BYTE), kind, "{shape}");
        }
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, &vec![b'0'; 40 << 20]).unwrap();
    assert_eq!(refused("bomb.txt.gz", &gzip.finish().unwrap(), PER_COMPRESSED_BYTE), "unpacks_too_far");
    let many = "a,".repeat(200_000);
    assert_eq!(refused("columns.csv", many.as_bytes(), PER_BYTE), "duplicate_column");
    let nested = "[".repeat(500_000);
    fs::create_dir_all(dir.path().join("nested/train")).unwrap();
    fs::write(dir.path().join("nested/metadata.json"), "{\"freq\":\"H\"}").unwrap();
    fs::write(dir.path().join("nested/train/data.json"), nested).unwrap();
    assert_eq!(read_any(&dir.path().join("nested")).unwrap_err().problem.kind(), "json_syntax");
}
