//! Series of any format without a word about them, and results in the form of the data.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use ddpm_data::series::arrays::{Layout, Mask, MaskMeaning, read_npy, read_npz};
use ddpm_data::series::physionet::read_physionet;
use ddpm_data::series::tsf::read_tsf;
use ddpm_data::series::{
    Cell, ForecastQuantiles, Frequency, Index, Opened, ReadHints, Series, long, read_any, seattle_weather, wide,
    write_imputed, write_quantiles,
};
use ddpm_testing::hostile::{damage, within_bounds};
use ddpm_testing::support::fixture;

fn open(name: &str, text: &str, hints: &ReadHints) -> Result<Opened, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    read_any(&path, hints).map_err(|error| error.to_string().replace(&path.display().to_string(), name))
}

fn found(text: &str) -> Opened {
    open("a.csv", text, &ReadHints::default()).unwrap()
}

fn words(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn column(series: &Series, variable: usize) -> Vec<Option<f64>> {
    (0..series.target.steps()).map(|step| series.target.given(step, variable)).collect()
}

const HOLES: &str = "Date;Temp;Wind;Weather;Rain\r\n2020/01/01;1,50;;sun;\r\n2020/01/02;\"\";2,0;\"a;b\";NaN\r\n\r\n2020/01/03;-3,25;NA;;0,0\r\n";

#[test]
fn a_table_with_holes_needs_no_hints() {
    let opened = found(HOLES);
    let [series] = opened.series.as_slice() else { panic!() };
    assert_eq!(series.variables, ["Temp", "Wind", "Rain"]);
    assert_eq!(column(series, 0), [Some(1.5), None, Some(-3.25)]);
    assert_eq!(column(series, 1), [None, Some(2.0), None]);
    assert_eq!(column(series, 2), [None, None, Some(0.0)]);
    assert_eq!(series.target.cell(1, 0), Cell::NeverObserved);
    assert_eq!(series.index.timestamp(2).unwrap().to_string(), "2020-01-03T00:00:00");
    assert_eq!(opened.notes, ["column `Weather` has words and is left out"]);
}

#[test]
fn the_bundled_weather_is_found_in_its_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/seattle-weather/seattle-weather.csv");
    let opened = read_any(&path, &ReadHints::default()).unwrap();
    assert_eq!(opened.series, [seattle_weather().unwrap()]);
    assert_eq!(opened.notes, ["column `weather` has words and is left out"]);
}

#[test]
fn columns_are_what_they_look_like() {
    for (text, variables, times, notes) in [
        // What pandas writes: numbers of the rows, without a name.
        (",a,b\n0,1,2\n1,3,4\n", &["a", "b"][..], false, 2),
        ("a,when\n1,2020-01-01 00:00\n2,2020-01-01 01:00\n", &["a"], true, 0),
        ("date,a,until\n2020-01-01,1,2020-01-02\n2020-01-02,2,2020-01-03\n", &["a"], true, 1),
        ("a,empty\n1,\n5,\n", &["a"], false, 2),
        ("time,a\n0.0,1\n0.5,2\n", &["time", "a"], false, 1),
        ("step,a\n0,1\n1,2\n", &["a"], false, 2),
        ("1,5\n2,6\n", &["0", "1"], false, 1),
        ("2020-01-01,5\n2020-01-02,6\n", &["1"], true, 0),
    ] {
        let opened = found(text);
        assert_eq!(opened.series.len(), 1, "{text}");
        assert_eq!(opened.series[0].variables, variables, "{text}");
        assert_eq!(opened.series[0].index != Index::Counted, times, "{text}");
        assert_eq!(opened.notes.len(), notes, "{text}: {:?}", opened.notes);
    }
}

#[test]
fn rows_for_each_series_and_time_are_found() {
    let named =
        "item_id,timestamp,target,price\nB,2020-01-02,4,1\nA,2020-01-01,1,1\nB,2020-01-01,3,1\nA,2020-01-02,,1\n";
    let unnamed = "city,day,rain\nB,2020-01-02,4\nA,2020-01-01,1\nB,2020-01-01,3\nA,2020-01-02,\n";
    for (text, notes) in [(named, 1), (unnamed, 0)] {
        let opened = found(text);
        let names: Vec<_> = opened.series.iter().map(|series| series.name.clone().unwrap()).collect();
        assert_eq!((names, opened.notes.len()), (words(&["A", "B"]), notes), "{:?}", opened.notes);
        assert_eq!(column(&opened.series[0], 0), [Some(1.0), None]);
        assert_eq!(column(&opened.series[1], 0), [Some(3.0), Some(4.0)]);
    }
    let hints = ReadHints { covariates: words(&["price"]), ..ReadHints::default() };
    let opened = open("a.csv", named, &hints).unwrap();
    assert_eq!(opened.series[0].dynamic.as_ref().unwrap().names, ["price"]);
}

#[test]
fn hints_choose_columns() {
    let text = "a,when,b,c\n1,2020-01-01,2,3\n4,2020-01-02,5,6\n";
    let hints = ReadHints { targets: words(&["c", "a"]), time: Some("when".into()), ..ReadHints::default() };
    let opened = open("a.csv", text, &hints).unwrap();
    assert_eq!(opened.series[0].variables, ["c", "a"]);
    assert_eq!(column(&opened.series[0], 0), [Some(3.0), Some(6.0)]);
    let hints = ReadHints { targets: words(&["d"]), ..ReadHints::default() };
    assert!(open("a.csv", text, &hints).unwrap_err().contains("no column `d`"));
    let one = "a\n2020\n2021\n";
    let hints = ReadHints { header: Some(false), ..ReadHints::default() };
    assert!(open("a.csv", one, &hints).unwrap_err().contains("line 1"), "the name is a word among numbers");
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    for (text, said) in [
        (
            "date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-04,3\n2020-01-05,4\n",
            "line 4: 2020-01-04T00:00:00 does not follow",
        ),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-04,3\n2020-01-05,4\n", "add the rows that are missing"),
        ("date,a\n01/02/2020,1\n02/02/2020,2\n", "line 2: `01/02/2020` is not a time"),
        ("when,a\n2020-01-01,1\n2020-01-02,2\n2020-01-,3\n", "line 4: `2020-01-` is not a time"),
        ("date,a\n2020-01-01,1\n2020-01-02,x\n2020-01-03,2\n", "line 3: column a: `x` is not a number"),
        ("date,a\n2020-01-01,x\n2020-01-02,y\n", "no rows; expected a column of numbers"),
        ("date,a\n2020-01-01,1\n2020-01-01,2\n", "line 3: 2020-01-01T00:00:00 is there twice"),
        ("date,a\n2020-01-02,1\n2020-01-01,2\n", "ascending order"),
        ("date,a\n2020-01-01,1\n2020-01-02,1e999\n", "line 3: column a: `1e999` is not finite"),
        ("a,a\n1,2\n", "two columns are named `a`"),
        ("a,b\n1,2\n3\n", "line 3: 1 fields; expected 2"),
        ("a,b\n", "no rows"),
        ("", "empty"),
    ] {
        let error = open("a.csv", text, &ReadHints::default()).unwrap_err();
        assert!(error.starts_with("a.csv") && error.contains(said), "{text}: {error}");
    }
    assert!(open("a.xlsx", "PK", &ReadHints::default()).unwrap_err().contains("expected a .csv"));
    assert!(read_any(Path::new("/no/such.csv"), &ReadHints::default()).is_err());
    assert!(open("a.json", "{}", &ReadHints::default()).unwrap_err().contains("stated frequency"));
    #[cfg(not(feature = "parquet"))]
    assert!(open("a.parquet", "PAR1", &ReadHints::default()).unwrap_err().contains("--features parquet"));
}

#[test]
fn every_format_is_found() {
    let folder = fixture("series_formats");
    let read = |name: &str, hints: &ReadHints| read_any(&folder.join(name), hints).unwrap_or_else(|e| panic!("{e}"));
    let none = ReadHints::default();
    let uni = read("gluonts_uni", &none);
    assert!(uni.horizon.is_some() && !uni.test.is_empty());
    assert_eq!(read("gluonts_uni/train/data.json", &none).series, uni.series);
    let stated = ReadHints { frequency: Frequency::parse("D"), ..ReadHints::default() };
    assert!(!read("gluonts_uni/train", &stated).series.is_empty());
    // As the reader of the format reads it, with everything stated.
    let path = |name: &str| folder.join(name);
    let wide = wide::Options::default();
    let comma = wide::Options { separator: ';', decimal: ',', ..wide.clone() };
    let bare = wide::Options { header: false, times: wide::TimesFrom::Stated(Index::Counted), ..wide.clone() };
    let price = ReadHints { covariates: words(&["price"]), ..ReadHints::default() };
    let long = long::Options { covariates: words(&["price"]), ..long::Options::default() };
    let mask = Mask { name: "mask".into(), meaning: MaskMeaning::OneIsObserved };
    let masked = ReadHints { mask: Some(mask.clone()), ..ReadHints::default() };
    let zipped = "npy/values_mask_compressed.npz";
    for (name, hints, expected) in [
        ("physio", &none, read_physionet(&path("physio")).unwrap()),
        ("csv/wide_ett.csv", &none, vec![wide::read_wide(&path("csv/wide_ett.csv"), &wide).unwrap()]),
        (
            "csv/wide_decimal_comma.txt",
            &none,
            vec![wide::read_wide(&path("csv/wide_decimal_comma.txt"), &comma).unwrap()],
        ),
        ("csv/lstnet.txt.gz", &none, vec![wide::read_wide(&path("csv/lstnet.txt.gz"), &bare).unwrap()]),
        ("csv/long_unsorted.csv", &price, long::read_long(&path("csv/long_unsorted.csv"), &long).unwrap()),
        ("tsf/ragged_half_hourly.tsf", &none, read_tsf(&path("tsf/ragged_half_hourly.tsf")).unwrap().series),
        ("npy/nlc_f64_fortran.npy", &none, read_npy(&path("npy/nlc_f64_fortran.npy"), Layout::NLK).unwrap()),
        (zipped, &masked, read_npz(&path(zipped), "values", Some(&mask), Layout::NLK).unwrap()),
    ] {
        assert_eq!(read(name, hints).series, expected, "{name}");
    }
    let refused = ReadHints { layout: Some(Layout::TK), ..ReadHints::default() };
    assert!(read_any(&folder.join("npy/nlc_f64_fortran.npy"), &refused).is_err());
}

#[test]
fn rows_with_covariates_alone_are_the_future() {
    let text = "date,sales,holiday,price\n2020-01-01,1,0,5\n2020-01-02,,0,5\n2020-01-03,3,1,5\n2020-01-04,,1,6\n2020-01-05,,0,\n";
    let hints = ReadHints { covariates: words(&["price", "holiday"]), ..ReadHints::default() };
    let opened = open("a.csv", text, &hints).unwrap();
    let series = &opened.series[0];
    // The hole inside is one, and what comes after the last value is to be forecast.
    assert_eq!((&series.variables, column(series, 0)), (&words(&["sales"]), vec![Some(1.0), None, Some(3.0)]));
    let dynamic = series.dynamic.as_ref().unwrap();
    assert_eq!((dynamic.values.steps(), &dynamic.names), (5, &words(&["price", "holiday"])));
    let prices: Vec<_> = (0..5).map(|step| dynamic.values.given(step, 0)).collect();
    assert_eq!(prices, [Some(5.0), Some(5.0), Some(5.0), Some(6.0), None]);
    assert!(opened.notes.iter().any(|note| note.contains("2 rows at the end")), "{:?}", opened.notes);
    // Without covariates they are holes.
    let hints = ReadHints { targets: words(&["sales"]), ..ReadHints::default() };
    assert_eq!(open("a.csv", text, &hints).unwrap().series[0].target.steps(), 5);
    // Each series has a future of its own.
    let text =
        "item_id,date,y,x\nA,2020-01-01,1,1\nA,2020-01-02,,2\nB,2020-01-01,1,1\nB,2020-01-02,2,2\nB,2020-01-03,,3\n";
    let hints = ReadHints { covariates: words(&["x"]), ..ReadHints::default() };
    let steps: Vec<_> = open("a.csv", text, &hints).unwrap().series.iter().map(|it| it.target.steps()).collect();
    assert_eq!(steps, [1, 2]);
    let hints = ReadHints { covariates: words(&["x"]), ..ReadHints::default() };
    assert!(open("a.csv", "y,x\n,1\n,2\n", &hints).is_err());
}

#[test]
fn imputed_values_are_in_the_cells_that_had_none() {
    let opened = found(HOLES);
    let text = opened.layout.imputed(&opened.series, |series, step, variable| {
        assert_eq!(series, 0);
        (variable < 2).then_some(10.0 * step as f32 + variable as f32 + 0.25)
    });
    let expected = "Date;Temp;Wind;Weather;Rain\r\n2020/01/01;1,50;1,25;sun;\r\n2020/01/02;10,25;2,0;\"a;b\";NaN\r\n\r\n2020/01/03;-3,25;21,25;;0,0\r\n";
    assert_eq!(text, expected);
    // What is whole comes back as it is, with the last line as it ends.
    for text in ["date, a\n2020-01-01, 1.50\n2020-01-02,0002", "1;2\n3;4\n\n"] {
        let opened = found(text);
        assert_eq!(opened.layout.imputed(&opened.series, |_, _, _| Some(9.0)), text);
    }
}

#[test]
fn imputed_rows_stay_where_they_were() {
    let opened = found("id,day,rain\nB,2020-01-02,\nA,2020-01-01,1\nB,2020-01-01,3\nA,2020-01-02,NaN\n");
    let text = opened.layout.imputed(&opened.series, |series, step, _| Some((100 * series + step) as f32));
    assert_eq!(text, "id,day,rain\nB,2020-01-02,101\nA,2020-01-01,1\nB,2020-01-01,3\nA,2020-01-02,1\n");
}

#[test]
fn what_was_no_table_becomes_one() {
    let text = "{\"start\": \"2020-01-01\", \"target\": [1.5, NaN]}\n{\"start\": \"2020-01-05\", \"target\": [NaN, 2], \"item_id\": \"b\"}\n";
    let hints = ReadHints { frequency: Frequency::parse("D"), ..ReadHints::default() };
    let opened = open("a.json", text, &hints).unwrap();
    let imputed = opened.layout.imputed(&opened.series, |series, _, _| (series == 0).then_some(0.1));
    assert_eq!(
        imputed,
        "item_id,timestamp,target\n0,2020-01-01,1.5\n0,2020-01-02,0.1\nb,2020-01-05,\nb,2020-01-06,2\n"
    );
}

#[test]
fn quantiles_have_the_times_to_come() {
    let forecast = |series, first_step, values: &[f32]| {
        let levels = vec![0.05, 0.5];
        ForecastQuantiles { series, first_step, levels, values: values.to_vec() }
    };
    let opened = found("Tag;temp_max;wind\n2020/01/30;1,5;2\n2020/01/31;2,5;2\n");
    let forecasts = [forecast(0, 2, &[0.1, 1e-7, -3.0, 0.0, 1.0, 2.0, f32::NAN, -0.0])];
    let text = opened.layout.quantiles(&opened.series, &forecasts);
    let expected = "Tag;temp_max_0.05;temp_max_0.5;wind_0.05;wind_0.5\n2020/02/01;0,1;1e-7;-3;0\n2020/02/02;1;2;;0\n";
    assert_eq!(text, expected);
    let opened = found("item_id,timestamp,target\nB,2020-01-01 00:00,1\nB,2020-01-01 01:00,2\nA,2020-01-01 00:00,3\n");
    let text = opened.layout.quantiles(&opened.series, &[forecast(0, 1, &[1.0, 2.0]), forecast(1, 2, &[3.0, 4.0])]);
    let expected = "item_id,timestamp,target_0.05,target_0.5\nA,2020-01-01 01:00,1,2\nB,2020-01-01 02:00,3,4\n";
    assert_eq!(text, expected);
    let opened = found("a\n1\n2\n");
    let text = opened.layout.quantiles(&opened.series, &[forecast(0, 2, &[1.0, 2.0])]);
    assert_eq!(text, "step,a_0.05,a_0.5\n2,1,2\n");
}

#[test]
fn results_are_written_to_files() {
    let dir = tempfile::tempdir().unwrap();
    let [imputed, quantiles] = ["imputed.csv", "quantiles.csv"].map(|name| dir.path().join(name));
    let opened = found("a\n1\n\"\"\n");
    write_imputed(&imputed, &opened.layout, &opened.series, |_, _, _| Some(0.5)).unwrap();
    assert_eq!(fs::read_to_string(&imputed).unwrap(), "a\n1\n0.5\n");
    // What was written is read again, without a hole.
    assert_eq!(column(&read_any(&imputed, &ReadHints::default()).unwrap().series[0], 0), [Some(1.0), Some(0.5)]);
    let forecast = ForecastQuantiles { series: 0, first_step: 2, levels: vec![0.5], values: vec![7.0] };
    write_quantiles(&quantiles, &opened.layout, &opened.series, &[forecast]).unwrap();
    assert_eq!(fs::read_to_string(&quantiles).unwrap(), "step,a_0.5\n2,7\n");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// Files of pandas and pyarrow: times in nanoseconds in the index, missing values of every kind.
#[cfg(feature = "parquet")]
#[test]
fn tables_in_parquet_are_read_as_those_of_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet");
    let opened = read_any(&folder.join("pandas.parquet"), &ReadHints::default()).unwrap();
    let series = &opened.series[0];
    assert_eq!((&series.variables, opened.notes.len()), (&words(&["temp", "count", "half"]), 1), "{:?}", opened.notes);
    assert_eq!(column(series, 0), [Some(1.5), None, Some(-3.25), Some(0.1)]);
    assert_eq!(column(series, 1), [Some(1.0), Some(2.0), None, Some(-4.0)]);
    assert_eq!(series.index.timestamp(3).unwrap().to_string(), "2020-01-01T03:00:00");
    let imputed = opened.layout.imputed(&opened.series, |_, _, _| Some(7.5));
    let expected = "temp,count,word,half,__index_level_0__\n1.5,1,\"a,\"\"b\",1,2020-01-01T00:00:00\n7.5,2,,2,2020-01-01T01:00:00\n\
                    -3.25,7.5,c,3,2020-01-01T02:00:00\n0.1,-4,d,0.5,2020-01-01T03:00:00\n";
    assert_eq!(imputed, expected);
    let long = read_any(&folder.join("long_gzip.parquet"), &ReadHints::default()).unwrap().series;
    assert_eq!(
        (long.len(), column(&long[0], 0), column(&long[1], 0)),
        (2, vec![Some(2.0), None], vec![Some(1.0), Some(3.0)])
    );
    let refused = read_any(&folder.join("zstd.parquet"), &ReadHints::default()).unwrap_err();
    assert!(refused.problem.kind() == "damaged_parquet" && refused.to_string().contains("zstd"), "{refused}");
    let dir = tempfile::tempdir().unwrap();
    for name in ["pandas.parquet", "long_gzip.parquet"] {
        let path = dir.path().join(name);
        fs::write(&path, fs::read(folder.join(name)).unwrap()).unwrap();
        let open = || {
            // Pages say how large they are.
            let read = || read_any(&path, &ReadHints::default()).map(|it| it.series.len());
            within_bounds(0, 1 << 30, 0, read).map_err(|error| error.to_string())
        };
        open().unwrap();
        damage(&path, 300, open);
    }
}

#[test]
fn damaged_tables_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["csv/long_unsorted.csv", "csv/wide_ett.csv", "csv/lstnet.txt.gz"] {
        let path = dir.path().join(Path::new(name).file_name().unwrap());
        fs::write(&path, fs::read(fixture("series_formats").join(name)).unwrap()).unwrap();
        let open = || {
            let bytes = fs::metadata(&path).unwrap().len() as usize;
            let read = || {
                let opened = read_any(&path, &ReadHints::default())?;
                Ok(opened.layout.imputed(&opened.series, |_, _, _| Some(1.0)).len())
            };
            within_bounds(bytes, 1 << 20, 8 * 1032, read)
                .map_err(|error: ddpm_data::series::SeriesError| error.to_string())
        };
        open().unwrap();
        damage(&path, 300, open);
    }
}
