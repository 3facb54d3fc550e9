//! Metrics and classical baselines of series on the arrays of the fixtures' `series_baselines` folder, and on the bundled
//! weather.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use ddpm_eval::series::baselines::{
    ForecastBaseline, ForecastTask, ImputationBaseline, ImputationTask, Innovations, Season, Var,
};
use ddpm_eval::series::{Pairs, Point, Predictions, Quantile, Rows, ScoredSamples, WindowArray, period, usual_levels};
use ddpm_files::npy::RowReader;
use ddpm_testing::support::{assert_close_relative, fixture, number, read_json, text, whole, whole_numbers};
use serde_json::Value;

/// Of deterministic baselines, and of metrics of stored samples.
const EXACT: f64 = 1e-12;
/// Of baselines that draw numbers of their own.
const DRAWN: f64 = 0.02;
/// Of the mean of a conditional normal law, which takes the inverse of a large covariance.
const EXACT_POINT: f64 = 1e-9;
/// The ridge of the fixture where it has none written down.
const RIDGE: f64 = 0.001;

struct Golden {
    folder: std::path::PathBuf,
    index: Value,
}

impl Golden {
    fn open(task: &str) -> Self {
        let root = fixture("series_baselines");
        Self { index: read_json(root.join("index.json"))[task].clone(), folder: root.join(task) }
    }

    fn array(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let path = self.folder.join(name);
        let mut file = RowReader::open(&path).unwrap();
        (file.header().shape.clone(), file.all(&path).unwrap())
    }
}

/// A score by the key that the fixture has for it.
fn score(key: &str, forecast: &ScoredSamples, sum: &ScoredSamples) -> Option<f64> {
    let crps = |of: &ScoredSamples, estimator: &str| match estimator {
        "nearest" => of.quantile_crps(&usual_levels(), Quantile::Nearest),
        "linear" => of.quantile_crps(&usual_levels(), Quantile::Linear),
        "energy" => of.normalized_energy_crps(Pairs::All),
        other => panic!("no estimator {other}"),
    };
    Some(match key {
        "MAE" => forecast.mae(Quantile::Linear),
        "RMSE" => forecast.rmse(Point::Median),
        "MSE" => forecast.rmse(Point::Median).powi(2),
        "ND" | "MAE_over_mean_abs" => forecast.normalized_deviation(Quantile::Linear),
        "MAE_over_rms" => forecast.mae(Quantile::Linear) / forecast.target_rms(),
        "coverage_90" => forecast.coverage(0.9),
        "samples" | "ridge" | "valley_mass" => return None,
        key => match key.strip_prefix("CRPS_sum_") {
            Some(estimator) => crps(sum, estimator),
            None => crps(forecast, key.strip_prefix("CRPS_").unwrap()),
        },
    })
}

/// Compares all scores of a row of the fixture.
fn assert_scores(wanted: &Value, forecast: &ScoredSamples, sum: &ScoredSamples, tolerance: f64, what: &str) {
    // The samples of a Gaussian are around its mean, whose errors do not depend on them.
    let exact: &[&str] =
        if what.contains("gaussian") { &["MAE", "RMSE", "MSE", "MAE_over_rms", "MAE_over_mean_abs"] } else { &[] };
    let mut compared = 0;
    for (key, value) in wanted.as_object().unwrap() {
        if let Some(found) = score(key, forecast, sum) {
            let tolerance = if exact.contains(&key.as_str()) { EXACT_POINT } else { tolerance };
            assert_close_relative(&[found], &[value.as_f64().unwrap()], tolerance, &format!("{what}, {key}"));
            compared += 1;
        }
    }
    assert!(compared >= 4, "{what}: {compared} scores");
}

/// Training rows, histories and truth of windows of so many steps.
struct Split<'a> {
    task: ForecastTask<'a>,
    truth: Vec<f64>,
}

fn split(
    values: &[f64],
    variables: usize,
    train: usize,
    starts: Vec<usize>,
    horizon: usize,
    paths: usize,
) -> Split<'_> {
    let rows = Rows::new(values, variables, 0).unwrap();
    let truth = starts.iter().flat_map(|start| &values[start * variables..(start + horizon) * variables]);
    let truth = truth.copied().collect();
    let histories = starts.iter().map(|start| rows.first(*start)).collect();
    Split { task: ForecastTask { train: rows.first(train), histories, horizon, paths, seed: 7 }, truth }
}

impl Split<'_> {
    fn forecasts(&self, predictions: &Predictions) -> [ScoredSamples; 2] {
        let shape = [self.task.histories.len(), predictions.samples, self.task.horizon, self.task.train.variables()];
        let forecast = ScoredSamples::new(shape, &predictions.values, &self.truth, None).unwrap();
        [forecast, ScoredSamples::sum_over_variables(shape, &predictions.values, &self.truth).unwrap()]
    }
}

/// The baselines of the fixture by its names, and whether they draw.
fn forecast_baselines() -> [(&'static str, ForecastBaseline, f64); 6] {
    let season = Season::Dummies { period: 12 };
    let var = |lags, season| ForecastBaseline::Var(Var { lags, season, innovations: Innovations::Normal });
    [
        ("naive_last", ForecastBaseline::Naive, EXACT),
        ("seasonal_naive", ForecastBaseline::SeasonalNaive { period: 12 }, EXACT),
        ("mean", ForecastBaseline::Mean, EXACT),
        ("climatology_season", ForecastBaseline::Climatology { season }, DRAWN),
        ("var3", var(3, Season::None), DRAWN),
        ("var1_month_dummies", var(1, season), DRAWN),
    ]
}

#[test]
fn metrics_of_stored_samples() {
    let golden = Golden::open("forecast_bimodal");
    let stored = &golden.index["oracle_samples_f32"];
    let (shape, samples) = golden.array("oracle_samples.npy");
    let [n, w, h, k]: [usize; 4] = shape.try_into().unwrap();
    assert_eq!(w, whole(stored, "windows"));
    let (_, series) = golden.array("series.npy");
    let starts = whole_numbers(&golden.index["window_starts"])[..w].to_vec();
    let split = split(&series, k, whole(&golden.index, "train_steps"), starts, h, n);
    // Stored with the samples first.
    let place = |i: usize| (i / (h * k) % n * w + i / (n * h * k)) * h * k + i % (h * k);
    let values = (0..samples.len()).map(|i| samples[place(i)]).collect();
    let [forecast, sum] = split.forecasts(&Predictions { samples: n, values });
    assert_scores(&stored["scores"], &forecast, &sum, EXACT, "oracle");
}

#[test]
fn forecasts_of_many_steps() {
    let golden = Golden::open("forecast_bimodal");
    let (_, series) = golden.array("series.npy");
    let (k, horizon) = (whole(&golden.index, "variables"), whole(&golden.index, "horizon"));
    let starts = whole_numbers(&golden.index["window_starts"]);
    let (train, paths) = (whole(&golden.index, "train_steps"), whole(&golden.index, "samples"));
    let split = split(&series, k, train, starts, horizon, paths);
    assert_eq!(period::find(split.task.train, &[]), Some(12));
    let names = golden.index["multi_step"].as_object().unwrap().keys().filter(|name| !name.starts_with("oracle"));
    let baselines = forecast_baselines();
    let mut known: Vec<&str> = baselines.iter().map(|(name, ..)| *name).collect();
    known.sort_unstable();
    assert_eq!(names.collect::<Vec<_>>(), known);
    for (name, baseline, tolerance) in baselines {
        let [forecast, sum] = split.forecasts(&baseline.forecast(&split.task).unwrap());
        assert_scores(&golden.index["multi_step"][name], &forecast, &sum, tolerance, name);
    }
}

#[test]
fn forecasts_of_one_step() {
    let golden = Golden::open("forecast_bimodal");
    let (_, series) = golden.array("series.npy");
    let (k, train) = (whole(&golden.index, "variables"), whole(&golden.index, "train_steps"));
    let starts: Vec<usize> = (train..whole(&golden.index, "length")).collect();
    let split = split(&series, k, train, starts, 1, whole(&golden.index, "samples"));
    for (name, baseline, _) in forecast_baselines() {
        let wanted = &golden.index["one_step"][name];
        if wanted.is_null() {
            continue;
        }
        let predictions = baseline.forecast(&split.task).unwrap();
        let [forecast, sum] = split.forecasts(&predictions);
        assert_scores(wanted, &forecast, &sum, DRAWN, name);
        let valley = valley_mass(&split, &series, &predictions);
        assert!((valley - number(wanted, "valley_mass")).abs() < 0.01, "{name}: {valley}");
    }
    let truth = Predictions { samples: 1, values: split.truth.clone() };
    assert_eq!(valley_mass(&split, &series, &truth), number(&golden.index["one_step"]["truth"], "valley_mass"));
}

/// The share of samples between the two modes of the next step: less than half of the way to either.
fn valley_mass(split: &Split<'_>, series: &[f64], predictions: &Predictions) -> f64 {
    let k = split.task.train.variables();
    let season = |step: usize, d: usize| 1.5 * ((step + 3 * d) as f64 * std::f64::consts::TAU / 12.0).sin();
    let in_valley = |(place, value): (usize, &f64)| {
        let (window, d) = (place / (predictions.samples * k), place % k);
        let step = split.task.histories[window].end();
        let state = series[(step - 1) * k + d] - season(step - 1, d);
        (value - season(step, d) - 0.8 * state).abs() < 0.5
    };
    predictions.values.iter().enumerate().filter(|entry| in_valley(*entry)).count() as f64
        / predictions.values.len() as f64
}

/// The baselines of the fixture by its names, with the ridge that it was made with.
fn imputation_baseline(name: &str, wanted: &Value) -> (ImputationBaseline, f64) {
    match name {
        "mean" => (ImputationBaseline::Mean, EXACT),
        "mean_of_observed" => (ImputationBaseline::MeanOfObserved, EXACT),
        "locf" => (ImputationBaseline::Locf, EXACT),
        "linear" => (ImputationBaseline::Linear, EXACT),
        "period_copy" => (ImputationBaseline::PeriodCopy { lags: 40..=89 }, EXACT),
        "gaussian_conditional" => {
            (ImputationBaseline::GaussianConditional { ridge: wanted["ridge"].as_f64().or(Some(RIDGE)) }, DRAWN)
        }
        other => panic!("no baseline {other}"),
    }
}

fn imputations(task: &str) {
    let golden = Golden::open(task);
    let [(shape, train), (test_shape, test)] = ["train.npy", "test.npy"].map(|name| golden.array(name));
    let windows = |shape: &[usize]| -> [usize; 3] { shape.try_into().unwrap() };
    let (train_shape, shape) = (windows(&shape), windows(&test_shape));
    let zeros = vec![0.0; train.len()];
    let mut rows = 0;
    for (case, wanted) in golden.index["results"].as_object().unwrap() {
        let (_, given) = golden.array(text(wanted, "mask"));
        let given: Vec<bool> = given.iter().map(|value| *value == 1.0).collect();
        let mask: Vec<f64> = given.iter().map(|given| f64::from(u8::from(!given))).collect();
        // What is not given is not there.
        let seen: Vec<f64> = test.iter().zip(&given).map(|(v, given)| if *given { *v } else { f64::NAN }).collect();
        let imputation = ImputationTask {
            train: WindowArray::new(&train, train_shape).unwrap(),
            test: WindowArray::new(&seen, shape).unwrap(),
            given: &given,
            samples: 50,
            seed: 7,
        };
        for (name, wanted) in wanted["scores"].as_object().unwrap() {
            if name == "noise_floor_clean_signal" {
                continue;
            }
            let (baseline, tolerance) = imputation_baseline(name, wanted);
            // The fixture takes zeros, not the means of the training windows, where nothing of a variable is observed, and
            // products of values, not of their deviations from these means, to find a period.
            let with_zeros = ["linear", "period_copy"].contains(&name.as_str());
            let train = if with_zeros { WindowArray::new(&zeros, train_shape).unwrap() } else { imputation.train };
            let found = baseline.impute(&ImputationTask { train, ..imputation }).unwrap();
            let [w, l, k] = shape;
            let forecast = ScoredSamples::new([w, found.samples, l, k], &found.values, &test, Some(&mask)).unwrap();
            assert_eq!(forecast.scored(), whole(&golden.index["results"][case], "held_out"));
            assert_scores(wanted, &forecast, &forecast, tolerance, &format!("{task} {case} {name}"));
            rows += 1;
        }
    }
    assert!(rows >= 12, "{rows}");
}

#[test]
fn filled_in_sines() {
    imputations("impute_sines");
}

#[test]
fn filled_in_ecgs() {
    imputations("ecg_like");
}

fn weather() -> Vec<f64> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/seattle-weather/seattle-weather.csv");
    let file = std::fs::read_to_string(file).unwrap();
    let row = |line: &str| line.split(',').skip(1).take(4).map(|cell| cell.parse().unwrap()).collect::<Vec<f64>>();
    file.lines().skip(1).flat_map(row).collect()
}

#[test]
fn forecasts_of_the_weather() {
    let values = weather();
    let starts = (0..26).map(|window| 1096 + 14 * window).collect();
    let split = split(&values, 4, 1096, starts, 14, 200);
    assert_eq!(period::find(split.task.train, &[7, 365]), Some(365));
    let season = Season::of_period(365);
    let var = Var { lags: 2, season, innovations: Innovations::Drawn };
    let deviations: Vec<f64> = (0..4)
        .map(|k| {
            let column = || split.task.train.column(k);
            let mean = column().sum::<f64>() / 1096.0;
            (column().map(|value| (value - mean).powi(2)).sum::<f64>() / 1096.0).sqrt()
        })
        .collect();
    for (baseline, wanted, mean) in [
        (ForecastBaseline::Var(var), [0.461, 0.279, 0.280, 0.520], 0.385),
        (ForecastBaseline::Climatology { season }, [0.454, 0.297, 0.298, 0.524], 0.393),
        (ForecastBaseline::Naive, [0.595, 0.454, 0.489, 0.861], 0.600),
    ] {
        let [forecast, _] = split.forecasts(&baseline.forecast(&split.task).unwrap());
        let tolerance = if baseline == ForecastBaseline::Naive { 0.0015 } else { DRAWN };
        let found = forecast.scaled_energy_crps(Pairs::All, &deviations);
        assert_close_relative(&[found], &[mean], tolerance, &baseline.to_string());
        let of = |k: usize| forecast.variable(k).scaled_energy_crps(Pairs::All, &deviations[k..=k]);
        let found: Vec<f64> = (0..4).map(of).collect();
        assert_close_relative(&found, &wanted, tolerance, &format!("{baseline}, for each"));
    }
}
