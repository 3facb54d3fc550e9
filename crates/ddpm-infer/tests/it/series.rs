//! `ddpm-infer forecast`, `impute` and `eval` of models of time series: networks of random weights.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use ddpm_data::{DataConfig, Split};
use ddpm_families::family::{Family, Origin, Progress, Subject};
use ddpm_families::masked::MaskedFamily;
use ddpm_families::timegrad::TimeGradFamily;
use ddpm_files::npy;
use serde_json::{Value, json};

fn infer(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap()
}

/// Runs a command that must work, and gives the last line of its stdout and its stderr.
pub(crate) fn done(dir: &Path, words: &[&str]) -> (String, String) {
    let output = infer(dir, words);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{words:?}: {stderr}");
    (stdout.lines().last().unwrap().to_string(), stderr)
}

pub(crate) fn refused(dir: &Path, words: &[&str], expected: &str) {
    let output = infer(dir, words);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.status.code() == Some(1), "{words:?}: {stderr}");
    assert!(stderr.contains(expected) && !stderr.contains("panicked"), "{words:?}: {stderr}");
}

/// A snapshot of a family that was never trained.
fn snapshot<F: Family>(folder: &Path, data: Value, tables: &str) -> PathBuf {
    let config: DataConfig = serde_json::from_value(data).unwrap();
    let data = ddpm_data::open(&config, Split::Train, 0).unwrap();
    let tables = F::read(toml::from_str(tables).unwrap()).unwrap();
    let subject =
        Subject { experiment: "tiny", config: &config, data: &data, balanced: false, device: &Device::default() };
    let family = F::resolve(tables, &subject).unwrap();
    let _: Origin = family.origin().clone();
    let device = Device::default();
    device.seed(1);
    let model = family.init(&device);
    family.save(&model, Progress { step: 1, images_seen: 0 }, folder).unwrap();
    folder.to_path_buf()
}

/// Forecasts 3 steps of the weather.
pub(crate) fn timegrad(dir: &Path) -> PathBuf {
    let tables = "[model]\nlayers = 1\ncells = 4\nconditioning_length = 4\ndenoiser = { kind = 'mlp', width = 8, blocks = 1 }\n\
                  [timegrad]\ncontext = 4\nhorizon = 3\n[diffusion]\nsteps = 4";
    snapshot::<TimeGradFamily>(&dir.join("timegrad"), json!({"kind": "seattle-weather"}), tables)
}

/// Imputes windows of 12 days of the weather.
pub(crate) fn csdi(dir: &Path) -> PathBuf {
    let tables = "[model]\nkind = 'csdi'\nlayers = 1\nchannels = 4\nheads = 1\nstep_embedding = 4\ntime_embedding = 4\n\
                  feature_embedding = 2\n[masked]\nwindow = 12\nsteps = 2";
    snapshot::<MaskedFamily>(&dir.join("csdi"), json!({"kind": "seattle-weather"}), tables)
}

/// A table of the weather with a column that no model knows, and a hole.
const TABLE: &str = "day;wind;note;precipitation;temp_max;temp_min\n2015-12-28;2,5;a;0;5,5;1\n2015-12-29;3;b;;6;2\n\
                     2015-12-30;1,25;c;4;7;3\n2015-12-31;2;d;1;8;4\n";

pub(crate) fn array(path: &Path) -> (Vec<usize>, Vec<f32>) {
    npy::decode(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_table_is_forecast_by_the_names_of_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    timegrad(dir);
    std::fs::write(dir.join("weather.csv"), TABLE).unwrap();
    let words = ["forecast", "timegrad", "--data", "weather.csv", "--horizon", "5", "--paths", "6", "--seed", "3"];
    let (last, stderr) = done(dir, &[&words[..], &["--out", "a"]].concat());
    assert_eq!(last, "a");
    assert!(stderr.contains("note"), "{stderr}");
    let (shape, paths) = array(&dir.join("a/paths.npy"));
    assert_eq!(shape, [6, 5, 4]);
    // Rain is never negative.
    assert!(paths.iter().all(|value| value.is_finite()) && paths.iter().step_by(4).all(|rain| *rain >= 0.0));
    let table = std::fs::read_to_string(dir.join("a/quantiles.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("day;precipitation_0"), "{}", lines[0]);
    assert_eq!(lines.len(), 6);
    assert!(lines[1].starts_with("2016-01-01;") && lines[5].starts_with("2016-01-05;"), "{table}");
    assert!(["forecast.png", "forecast.svg"].iter().all(|name| dir.join("a").join(name).is_file()));
    // The same at any batch size, by any number of steps of any sampler.
    done(dir, &[&words[..], &["--out", "b", "--batch-size", "4"]].concat());
    assert_eq!(array(&dir.join("b/paths.npy")).1, paths);
    done(dir, &[&words[..], &["--out", "c", "--sampler", "dpmpp-2m", "--steps", "2"]].concat());
    assert_ne!(array(&dir.join("c/paths.npy")).1, paths);
    refused(dir, &[&words[..], &["--out", "a"]].concat(), "holds paths.npy");
    refused(dir, &[&words[..], &["--out", "d", "--steps", "9"]].concat(), "--steps 9: expected 1 to 4");
}

#[test]
fn windows_follow_each_other_where_the_truth_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    timegrad(dir);
    let mut table = "day,precipitation,temp_max,temp_min,wind\n".to_string();
    for day in 1..=20 {
        table += &format!("2015-11-{day:02},{},{day},{day}.5,2\n", day % 3);
    }
    std::fs::write(dir.join("w.csv"), table).unwrap();
    let words = ["forecast", "--from", "timegrad", "--data", "w.csv", "--horizon", "3", "--paths", "4"];
    let (_, stderr) = done(dir, &[&words[..], &["--rolling", "10", "--step", "2", "--out", "r"]].concat());
    assert_eq!(array(&dir.join("r/paths.npy")).0, [4, 4, 3, 4]);
    assert!(stderr.contains("48 values: CRPS"), "{stderr}");
    // A window is what a forecast of the rows before it is, but for its number.
    let rows: String = std::fs::read_to_string(dir.join("w.csv")).unwrap().split_inclusive('\n').take(11).collect();
    std::fs::write(dir.join("first.csv"), rows).unwrap();
    let first = ["forecast", "--from", "timegrad", "--data", "first.csv", "--horizon", "3", "--paths", "4"];
    done(dir, &[&first[..], &["--out", "f"]].concat());
    assert_eq!(array(&dir.join("f/paths.npy")).1, array(&dir.join("r/paths.npy")).1[..48]);
    refused(dir, &[&words[..], &["--rolling", "19"]].concat(), "a window of 3 rows from there on does not fit");
}

#[test]
fn holes_are_imputed_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    csdi(dir);
    std::fs::write(dir.join("weather.csv"), TABLE).unwrap();
    let words = ["impute", "csdi", "--data", "weather.csv", "--samples", "5", "--seed", "3"];
    let (_, stderr) = done(dir, &[&words[..], &["--out", "a"]].concat());
    assert!(stderr.contains("1 of 16 values"), "{stderr}");
    let imputed = std::fs::read_to_string(dir.join("a/imputed.csv")).unwrap();
    let (before, after) = TABLE.split_once("b;;").unwrap();
    let filled =
        imputed.strip_prefix(&format!("{before}b;")).unwrap().strip_suffix(&after.replacen("", ";", 1)).unwrap();
    assert!(filled.replace(',', ".").parse::<f32>().unwrap() >= 0.0, "{imputed}");
    let (shape, samples) = array(&dir.join("a/samples.npy"));
    assert_eq!(shape, [5, 1, 4, 4]);
    for sample in samples.chunks(16) {
        assert_eq!((sample[1], sample[8], sample[11]), (5.5, 4.0, 1.25));
    }
    assert!(["imputation.png", "imputation.svg"].iter().all(|name| dir.join("a").join(name).is_file()));
    done(dir, &[&words[..], &["--out", "b", "--batch-size", "2"]].concat());
    assert_eq!(array(&dir.join("b/samples.npy")).1, samples);
}

#[test]
fn a_mask_hides_values_of_an_array() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    csdi(dir);
    let values: Vec<f32> = (0..96).map(|k| k as f32 / 7.0).collect();
    let mask: Vec<f32> = (0..96).map(|k| f32::from(u8::from(k % 5 != 0))).collect();
    std::fs::write(dir.join("x.npy"), npy::encode(&[2, 12, 4], &values)).unwrap();
    std::fs::write(dir.join("m.npy"), npy::encode(&[2, 12, 4], &mask)).unwrap();
    let words = ["impute", "--from", "csdi", "--data", "x.npy", "--mask", "m.npy", "--samples", "3"];
    let (_, stderr) = done(dir, &[&words[..], &["--out", "a"]].concat());
    assert!(stderr.contains("20 of 96 values") && stderr.contains("20 hidden values: MAE"), "{stderr}");
    assert_eq!(array(&dir.join("a/samples.npy")).0, [3, 2, 12, 4]);
    let (shape, imputed) = array(&dir.join("a/imputed.npy"));
    assert_eq!(shape, [2, 12, 4]);
    for (place, (found, given)) in imputed.iter().zip(&values).enumerate() {
        assert_eq!(found.to_bits() == given.to_bits(), place % 5 != 0, "{place}");
    }
    std::fs::write(dir.join("m.npy"), npy::encode(&[2, 8, 6], &mask)).unwrap();
    refused(
        dir,
        &[&words[..], &["--out", "b"]].concat(),
        "the mask has 2 series of shape [8, 6]; expected 2 series of shape [12, 4]",
    );
    std::fs::write(dir.join("m.npy"), npy::encode(&[2, 12, 4], &values)).unwrap();
    refused(dir, &[&words[..], &["--out", "b"]].concat(), "expected 1 (observed) or 0");
}

#[test]
fn what_cannot_be_done_is_said_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    timegrad(dir);
    csdi(dir);
    std::fs::write(dir.join("weather.csv"), TABLE).unwrap();
    std::fs::write(dir.join("other.csv"), "day,rain,temp_max\n2015-12-28,1,2\n2015-12-29,1,3\n").unwrap();
    let forecast = |data: &'static str| ["forecast", "timegrad", "--data", data, "--horizon", "3"];
    refused(dir, &forecast("nothing.csv"), "nothing.csv: not found");
    refused(dir, &forecast("other.csv"), "has no column precipitation, temp_min, wind; found rain, temp_max");
    refused(
        dir,
        &["impute", "timegrad", "--data", "weather.csv"],
        "this snapshot is a timegrad: it can forecast and measure its likelihood, not impute",
    );
    let beyond = ["forecast", "csdi", "--data", "weather.csv", "--horizon", "12"];
    refused(dir, &beyond, "--horizon 12: the model forecasts 11 steps at most");
    refused(dir, &["forecast", "nowhere", "--data", "weather.csv", "--horizon", "1"], "nowhere");
}

#[test]
fn an_array_without_times_can_be_given_some() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let values: Vec<f32> = (0..80).map(|k| ((k * k) % 13) as f32).collect();
    std::fs::write(dir.join("x.npy"), npy::encode(&[40, 2], &values)).unwrap();
    let tables = "[model]\nlayers = 1\ncells = 4\nconditioning_length = 4\ndenoiser = { kind = 'mlp', width = 8, blocks = 1 }\n\
                  [timegrad]\ncontext = 4\nhorizon = 3\n[diffusion]\nsteps = 4";
    let data = json!({"kind": "series-array", "path": dir.join("x.npy"), "layout": "TK"});
    snapshot::<TimeGradFamily>(&dir.join("counted"), data.clone(), tables);
    let mut dated = data;
    dated["start"] = "2020-01-01".into();
    dated["frequency"] = "d".into();
    snapshot::<TimeGradFamily>(&dir.join("dated"), dated, tables);
    let forecast = |model: &'static str| ["forecast", model, "--data", "x.npy", "--horizon", "2", "--paths", "3"];
    // As the training data were said to begin; or as it is said here.
    let (_, stderr) = done(dir, &[&forecast("dated")[..], &["--out", "a"]].concat());
    assert!(stderr.contains("x.npy has no times: it begins at 2020-01-01T00:00:00"), "{stderr}");
    done(dir, &[&forecast("dated")[..], &["--start", "2020-01-01", "--out", "b"]].concat());
    done(dir, &[&forecast("dated")[..], &["--start", "2020-07-02", "--out", "c"]].concat());
    let [a, b] = ["a", "b"].map(|name| array(&dir.join(name).join("paths.npy")).1);
    assert_eq!(a, b);
    let table = std::fs::read_to_string(dir.join("c/quantiles.csv")).unwrap();
    assert!(table.lines().nth(1).unwrap().starts_with("2020-08-11"), "{table}");
    refused(dir, &[&forecast("counted")[..], &["--start", "2020-01-01"]].concat(), "trained on series without times");
    timegrad(dir);
    std::fs::write(dir.join("weather.csv"), TABLE).unwrap();
    let words = ["forecast", "timegrad", "--data", "weather.csv", "--horizon", "2", "--start", "2020-01-01"];
    refused(dir, &words, "--start: weather.csv has times of its own");
}

#[test]
fn what_no_memory_holds_is_refused_and_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    timegrad(dir);
    csdi(dir);
    std::fs::write(dir.join("weather.csv"), TABLE).unwrap();
    let out = ["--data", "weather.csv", "--out", "o"];
    let forecast = |more: &[&'static str]| [&["forecast", "timegrad"], &out[..], more].concat();
    refused(dir, &forecast(&["--horizon", "3", "--paths", "4000000000000"]), "--paths 4000000000000: too many");
    refused(dir, &forecast(&["--horizon", "500000000000000", "--paths", "4"]), "--paths 4: too many");
    refused(dir, &forecast(&["--horizon", "18446744073709551615"]), "too many");
    let impute = [&["impute", "csdi"], &out[..], &["--samples", "4000000000000"]].concat();
    refused(dir, &impute, "--samples 4000000000000: too many, with 16 values each");
    refused(dir, &[&["impute", "csdi"], &out[..], &["--steps", "99"]].concat(), "--steps 99");
    assert!(!dir.join("o").exists());
}

/// The rows of a task: names, and values of the metric that begins so.
fn scores(json: &Value, task: &str, metric: &str) -> Vec<(String, f64)> {
    let tasks = json["series"].as_array().unwrap();
    let found = tasks.iter().find(|found| found["task"] == task).unwrap_or_else(|| panic!("{task}"));
    let value = |row: &Value| {
        let measured = row["measured"].as_array().unwrap();
        let one = measured.iter().find(|one| one["metric"].as_str().unwrap().starts_with(metric))?;
        Some((row["of"].as_str().unwrap().to_string(), one["value"].as_f64().unwrap()))
    };
    found["verdicts"].as_array().unwrap().iter().filter_map(value).collect()
}

#[test]
fn models_of_series_are_evaluated_next_to_the_baselines() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    timegrad(dir);
    csdi(dir);
    let words = ["eval", "--from", "timegrad", "--count", "4", "--windows", "5", "--json", "j.json", "--out", "o"];
    let samplers = ["--samplers", "ddim,dpmpp-2m", "--steps", "2,3"];
    let output = infer(dir, &[&words[..], &samplers].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.lines().all(|line| line.chars().count() <= 120), "{stdout}");
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("j.json")).unwrap()).unwrap();
    let found = scores(&json, "forecast of 3 steps", "CRPS, nearest quantiles");
    let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    assert!(names[..4].iter().all(|name| name.starts_with("tiny step 1, d")), "{names:?}");
    for baseline in ["naive", "VAR"] {
        assert!(names.iter().any(|name| name.contains(baseline)), "{names:?}");
    }
    assert!(dir.join("o/plot.svg").is_file() && dir.join("o/table.csv").is_file());

    let words = ["eval", "--from", "csdi", "--count", "3", "--windows", "4", "--json", "j.json"];
    let output = infer(dir, &words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("j.json")).unwrap()).unwrap();
    for task in ["random 10 %", "random 50 %", "random 90 %", "segments of 2 steps", "blackout of 2 steps"] {
        let found = scores(&json, task, "MAE of the median");
        assert!(found.len() > 4 && found.iter().all(|(_, value)| value.is_finite()), "{task}: {found:?}");
    }
}

#[test]
fn the_density_of_held_out_values_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    timegrad(dir);
    csdi(dir);
    let report = |words: &[&str]| -> Value {
        let (line, stderr) = done(dir, &[&["likelihood", "--json", "l.json"], words].concat());
        let found: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("l.json")).unwrap()).unwrap();
        let nats: f64 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(line.contains("nats/dim") && (nats - found["nats_per_dim"].as_f64().unwrap()).abs() < 1e-4, "{line}");
        assert!(stderr.contains("standard error") && found["standard_error"].as_f64().unwrap() > 0.0, "{stderr}");
        found
    };
    let forecast = report(&["--from", "timegrad", "--count", "20"]);
    assert_eq!((&forecast["count"], &forecast["values"], &forecast["left_out"]), (&json!(20), &json!(240), &json!(0)));
    let again = report(&["--from", "timegrad", "--count", "20", "--batch-size", "3"]);
    let nats = |report: &Value| report["nats_per_dim"].as_f64().unwrap();
    assert!((nats(&forecast) - nats(&again)).abs() < 1e-4 * nats(&forecast).abs());
    assert_eq!(report(&["--from", "timegrad", "--count", "5", "--horizon", "7"])["values"], json!(140));
    let imputed = report(&["--from", "csdi"]);
    assert!(
        imputed["count"].as_u64().unwrap() > 25 && imputed["scored"].as_str().unwrap().contains("hidden of 12 steps")
    );
    assert_eq!(report(&["--from", "csdi", "--count", "6", "--horizon", "5"])["values"], json!(120));
    refused(dir, &["likelihood", "--from", "csdi", "--horizon", "12"], "expected 1 to 11");
}
