//! Models of series of other projects, what `data` and `inspect` say of series, and samples of windows.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::{Family, Origin};
use ddpm_families::masked::MaskedFamily;
use ddpm_families::masked::network::MaskedNetwork;
use ddpm_families::timegrad::TimeGradFamily;
use ddpm_model::pass::Pass;
use ddpm_model::sssd::Observations;
use ddpm_model::timegrad::Denoiser;
use ddpm_testing::support::*;
use serde_json::Value;

use crate::series::{array, csdi, done, refused, timegrad};

/// What the other project computed with a network.
struct Golden {
    meta: Value,
    io: Safetensors,
}

impl Golden {
    fn open(folder: &Path) -> Self {
        Self { meta: read_json(folder.join("meta.json")), io: Safetensors::open(folder.join("io.safetensors")) }
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.io.tensor(name, &Device::default(), DType::F32)
    }

    fn steps(&self, name: &str) -> Vec<f64> {
        self.io.i64(name).into_iter().map(|step| step as f64).collect()
    }

    /// Every case with its number, and how far off f32 may be.
    fn cases(&self) -> Vec<(usize, f64)> {
        cases(&self.meta, "io").iter().enumerate().map(|(i, case)| (i, number(case, "tol_abs_f32"))).collect()
    }
}

/// The model of a snapshot, as it is opened for use.
fn opened<F: Family>(folder: &Path) -> (ModelCard, F::Model) {
    let card = ModelCard::find(folder).unwrap().unwrap();
    assert_eq!(card.family, F::NAME);
    let (experiment, data, source) = (card.experiment.clone(), card.data.clone(), card.source.clone());
    let family = F::restored(F::read(card.tables.clone()).unwrap(), Origin { experiment, data, source }).unwrap();
    let model = family.load(folder, &Device::default()).unwrap();
    (card, model)
}

/// Hours of series of so many variables, as a table without names of the network.
fn hours(path: &Path, variables: usize, rows: usize, hole: Option<usize>) {
    let names: Vec<String> = (0..variables).map(|k| k.to_string()).collect();
    let mut text = format!("date,{}\n", names.join(","));
    for row in 0..rows {
        let _ = write!(text, "2020-01-{:02} {:02}:00", 1 + row / 24, row % 24);
        for variable in 0..variables {
            let value = ((row + variable) as f64 / 3.0).sin();
            let _ = if hole == Some(row) { write!(text, ",") } else { write!(text, ",{value:.4}") };
        }
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_model_of_pytorch_ts_answers_the_same_and_forecasts() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), fixture("series_timegrad").join("gru_hourly"));
    let file = folder.join("model_state.pt").display().to_string();
    let horizon = ["--set", "timegrad.prediction_length=3", "--set", "timegrad.context_length=4"];
    let words = [&["import", &file, "--kind", "timegrad", "--freq", "H", "--out", "model"][..], &horizon].concat();
    let (_, said) = done(dir.path(), &words);
    assert!(said.contains("TimeGrad of pytorch-ts") && said.contains("schedule = \"linear\""), "{said}");
    let (card, model) = opened::<TimeGradFamily>(&dir.path().join("model"));
    assert_eq!(card.data.series.unwrap().frequency.as_deref(), Some("h"));
    let golden = Golden::open(&folder);
    let Denoiser::Convolution(denoiser) = model.denoiser() else { panic!() };
    for (i, tolerance) in golden.cases() {
        let (x, condition) = (golden.tensor(&format!("x{i}")), golden.tensor(&format!("cond{i}")));
        let found = denoiser.forward(x, &golden.steps(&format!("t{i}")), condition);
        assert_close(&values(found), &golden.io.f64(&format!("out{i}_tab64")), tolerance, "denoiser");
    }
    hours(&dir.path().join("hours.csv"), 5, 200, None);
    let forecast = ["forecast", "model", "--data", "hours.csv", "--horizon", "3", "--paths", "2", "--out", "next"];
    done(dir.path(), &forecast);
    assert_eq!(array(&dir.path().join("next/paths.npy")).0, [2, 3, 5]);
    // The frequency says what the recurrent network reads.
    refused(dir.path(), &["import", &file, "--out", "other"], "timegrad.horizon=H");
    let words = [&["import", &file, "--freq", "d", "--out", "other"][..], &horizon].concat();
    refused(dir.path(), &words, "is the frequency another one?");
    assert!(!dir.path().join("other").exists());
}

#[test]
fn a_model_of_csdi_answers_the_same_and_imputes() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), fixture("series_csdi").join("cond"));
    let file = folder.join("weights.safetensors").display().to_string();
    refused(dir.path(), &["import", &file, "--out", "model"], "model.heads=8");
    let schedule = ["steps=6", "kind=quadratic", "beta_start=0.0001", "beta_end=0.5"];
    let schedule = schedule.map(|key| format!("diffusion.schedule.{key}"));
    let mut words = vec!["import", &file, "--out", "model", "--length", "10", "--set", "model.nheads=2"];
    words.extend(schedule.iter().flat_map(|set| ["--set", set.as_str()]));
    done(dir.path(), &words);
    let (card, model) = opened::<MaskedFamily>(&dir.path().join("model"));
    assert_eq!(card.data.shape, [4, 10]);
    assert_eq!(card.tables["masked"]["sampler"].as_str(), Some("ddpm"));
    let MaskedNetwork::Csdi(network) = model else { panic!() };
    let golden = Golden::open(&folder);
    let side = network.side_information(golden.tensor("timepoints"), None, golden.tensor("cond_mask"));
    for (i, tolerance) in golden.cases() {
        let steps = golden.io.i64(&format!("t{i}"));
        let steps = Tensor::<1, Int>::from_data(TensorData::from(steps.as_slice()), &Device::default());
        let found = network.forward(golden.tensor(&format!("x{i}")), side.clone(), steps, &Pass::default());
        assert_close(&values(found), &golden.io.f64(&format!("out{i}_tab64")), tolerance, "network");
    }
    hours(&dir.path().join("hours.csv"), 4, 30, Some(7));
    done(dir.path(), &["impute", "model", "--data", "hours.csv", "--samples", "2", "--out", "filled"]);
    assert!(
        std::fs::read_to_string(dir.path().join("filled/imputed.csv"))
            .unwrap()
            .lines()
            .all(|line| !line.contains(",,"))
    );
    // Units of a file of the training data.
    let data = ["--data", "hours.csv"];
    done(
        dir.path(),
        &[&words.iter().map(|word| if *word == "model" { "of-data" } else { word }).collect::<Vec<_>>()[..], &data]
            .concat(),
    );
    let card = ModelCard::find(&dir.path().join("of-data")).unwrap().unwrap();
    assert!((card.data.units.scale[0] - 0.7).abs() < 0.1, "{:?}", card.data.units);
}

#[test]
fn every_network_of_csdi_is_found_from_its_weights() {
    for name in ["uncond", "one_feature", "forecast_linear", "wide"] {
        let (dir, folder) = (tempfile::tempdir().unwrap(), fixture("series_csdi").join(name));
        let file = folder.join("weights.safetensors").display().to_string();
        let heads = whole(&read_json(folder.join("config.json"))["diffusion"], "nheads");
        let heads = format!("model.heads={heads}");
        let more = ["--set", &heads, "--set", "diffusion.schedule.kind=linear"];
        done(dir.path(), &[&["import", &file, "--out", "model", "--length", "9"][..], &more].concat());
        opened::<MaskedFamily>(&dir.path().join("model"));
    }
}

#[test]
fn a_checkpoint_of_sssd_answers_the_same_and_imputes() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), fixture("series_sssd").join("full"));
    let file = folder.join("100.pkl").display().to_string();
    let schedule = ["steps=8", "beta_start=0.0001", "beta_end=0.3"].map(|key| format!("diffusion.schedule.{key}"));
    let golden = Golden::open(&folder);
    for (out, sum, suffix) in [("model", None, ""), ("half", Some("model.kernel_sum=half"), "_half")] {
        let mut words =
            vec!["import", &file, "--kind", "sssd", "--out", out, "--set", "diffusion.schedule.kind=linear"];
        words.extend(schedule.iter().map(String::as_str).chain(sum).flat_map(|set| ["--set", set]));
        let (_, said) = done(dir.path(), &words);
        assert_eq!(said.contains("kernel_sum=half"), sum.is_none(), "{said}");
        let (card, model) = opened::<MaskedFamily>(&dir.path().join(out));
        assert_eq!(card.data.shape, [3, 20]);
        let MaskedNetwork::Sssd(network) = model else { panic!() };
        for (i, tolerance) in golden.cases() {
            let x: Tensor<3> = golden.tensor(&format!("x{i}"));
            let known =
                Observations { values: golden.tensor(&format!("cond{i}")), mask: golden.tensor(&format!("mask{i}")) };
            let steps = golden.steps(&format!("t{i}"));
            let steps = Tensor::<1>::from_floats(steps.as_slice(), &Device::default());
            let bases = network.bases(x.dims()[2]).unwrap();
            let found = network.forward(x, &known, steps, &bases, &Pass::default());
            assert_close(&values(found), &golden.io.f64(&format!("out{i}{suffix}_f64")), tolerance, "network");
        }
    }
    hours(&dir.path().join("hours.csv"), 3, 30, Some(7));
    done(dir.path(), &["impute", "model", "--data", "hours.csv", "--samples", "2", "--out", "filled"]);
    let (_, said) = done(dir.path(), &["inspect", &folder.join("weights.safetensors").display().to_string()]);
    assert_eq!(said, "");
    refused(dir.path(), &["import", &file, "--kind", "csdi", "--out", "x"], "expected the names of CSDI");
}

/// The output of a command.
fn said(dir: &Path, words: &[&str]) -> String {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_ddpm-infer")).current_dir(dir).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn data_says_what_a_file_of_series_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("day;wind;note;rain;temp_max;temp_min\n");
    for day in 1..=10 {
        let rain = if day == 4 { String::new() } else { (day % 3).to_string() };
        let _ = writeln!(table, "2015-12-{day:02};{day},5;a;{rain};5,5;1");
    }
    std::fs::write(dir.path().join("weather.csv"), table).unwrap();
    let found = said(dir.path(), &["data", "weather.csv", "--out", "look"]);
    for part in [
        "table separated by \";\", decimal commas, times in column `day`",
        "column `note` has words and is left out",
        "10 rows of 4 variables, every d from 2015-12-01T00:00:00 to 2015-12-10T00:00:00",
        "rain              9          1      0.000000      2.000000",
        "1 values are missing (2.5 %)",
        "8 rows are for training, 2 for the test",
    ] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    assert!(dir.path().join("look/data.png").is_file() && dir.path().join("look/data.svg").is_file());
    let found = said(dir.path(), &["data", "sines", "--out", "look"]);
    assert!(found.contains("1200 series of 48 rows of 4 variables, without times"), "{found}");
    assert!(found.contains("1000 series are for training") && found.contains("200 for the test"), "{found}");
    // Two columns of numbers are points, as before.
    std::fs::write(dir.path().join("points.csv"), "0.1,0.2\n0.3,0.4\n0.5,0.1\n0.3,0.3\n0.2,0.7\n").unwrap();
    assert!(said(dir.path(), &["data", "points.csv"]).contains("items of shape [2]"));
}

#[test]
fn inspect_says_what_series_a_model_is_of() {
    let dir = tempfile::tempdir().unwrap();
    timegrad(dir.path());
    csdi(dir.path());
    let found = said(dir.path(), &["inspect", "timegrad"]);
    for part in
        ["4: precipitation, ", "frequency", "3 steps, from up to 18 before", "covariates", "precipitation from 0"]
    {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    let found = said(dir.path(), &["inspect", "csdi"]);
    assert!(found.contains("12 steps") && found.contains("at most 11"), "{found}");
}

#[test]
fn windows_of_series_are_sampled_by_any_sampler() {
    let dir = tempfile::tempdir().unwrap();
    csdi(dir.path());
    let sample = |out: &str, more: &[&str]| -> PathBuf {
        let words = ["sample", "--from", "csdi", "--count", "4", "--seed", "3", "--out", out];
        done(dir.path(), &[&words[..], more].concat());
        dir.path().join(out)
    };
    let one = sample("a", &[]);
    assert!(one.join("samples.png").is_file() && one.join("samples.svg").is_file() && !one.join("grid.png").exists());
    let (shape, values) = array(&one.join("samples.npy"));
    assert_eq!(shape, [4, 12, 4]);
    // In the units of the data: there is no negative rain, and the maximum of a day is not normalized.
    let variable = |k: usize| values.iter().skip(k).step_by(4).copied().collect::<Vec<f32>>();
    assert!(variable(0).iter().all(|rain| *rain >= 0.0) && variable(1).iter().any(|warm| *warm > 4.0), "{values:?}");
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(close(&values, &array(&sample("b", &["--batch-size", "3"]).join("samples.npy")).1));
    assert!(!close(&values, &array(&sample("c", &["--sampler", "heun", "--steps", "3"]).join("samples.npy")).1));
    refused(dir.path(), &["sample", "--from", "csdi", "--guidance", "2"], "--guidance is not for models of series");
}
