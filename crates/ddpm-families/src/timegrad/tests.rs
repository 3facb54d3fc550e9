#![allow(clippy::unwrap_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::series::{Cell, Covariates, Frequency, Index, Series, SeriesInfo, Table as Values, Timestamp, Window};
use ddpm_data::{DataInfo, Example, StreamItem, Units};
use ddpm_model::pass::Pass;
use ddpm_model::timegrad::calendar::Moment;
use ddpm_model::timegrad::features::{Frequency as Periods, Periods as Counted};
use ddpm_sampling::samplers::{Sampler, SamplerOptions};
use ddpm_testing::support::{Safetensors, fixture, read_json};
use ddpm_weights::Weights;
use toml::Table;

use super::TimeGradFamily;
use super::features::{FeatureSet, TimeFeatures, frequency_of};
use super::foreign::{pytorch_ts_keys, read_pytorch_ts};
use super::tables::TimeGradTables;
use super::trained::TrainedTimeGrad;
use crate::family::stored::ModelCard;
use crate::family::trained::{Forecast, SeriesDraw, Stretch};
use crate::family::{Family, Origin};
use crate::parameters::settle;

const SMALL: &str = "[model]\nlayers = 1\ncells = 4\nconditioning_length = 4\n\
                     denoiser = { kind = 'mlp', width = 8, blocks = 1 }\n\
                     [timegrad]\ncontext = 3\nhorizon = 2\nlags = [1, 2]\nnoises_per_step = 2\n[diffusion]\nsteps = 6\n";

fn tables(text: &str) -> TimeGradTables {
    TimeGradFamily::read(text.parse::<Table>().unwrap()).unwrap()
}

/// Days from a Sunday on.
fn days() -> Index {
    let start = Timestamp::parse("2012-01-01").unwrap();
    Index::Times { start, frequency: Frequency::parse("D").unwrap() }
}

fn info(variables: usize, index: Index, covariates: &[&str]) -> DataInfo {
    let frequency = match index {
        Index::Times { frequency, .. } => Some(frequency.to_string()),
        Index::Counted => None,
    };
    let series = SeriesInfo {
        variables: (0..variables).map(|k| k.to_string()).collect(),
        frequency,
        covariates: covariates.iter().map(ToString::to_string).collect(),
        covariate_units: Units::identity(covariates.len()),
        lowest: vec![None; variables],
        highest: vec![None; variables],
    };
    let units = Units { shift: vec![3.0; variables], scale: vec![2.0; variables] };
    DataInfo {
        name: "any".into(),
        shape: vec![variables, 1],
        classes: Vec::new(),
        units,
        series: Some(series),
        latent: false,
        has_captions: false,
    }
}

fn family_of(text: &str, data: DataInfo) -> TimeGradFamily {
    TimeGradFamily::new(tables(text), Origin { experiment: "test".into(), data, source: None }).unwrap()
}

/// Waves, of which no two steps are the same.
fn series(steps: usize, variables: usize, index: Index) -> Series {
    let value = |t: usize, k: usize| 3.0 + 2.0 * ((t * 7 + k) as f64 * 0.37).sin();
    let values = (0..steps).flat_map(|t| (0..variables).map(move |k| Some(value(t, k))));
    let names = (0..variables).map(|k| k.to_string()).collect();
    Series::new(None, index, names, Values::from_rows(variables, values))
}

fn trained(family: TimeGradFamily) -> TrainedTimeGrad {
    let device = Device::default();
    device.seed(7);
    let model = settle(family.init(&device)).map(&mut Fill);
    let card = ModelCard::in_training(&family);
    TrainedTimeGrad::new(family, model, card)
}

/// Fills all parameters, of which those of the last layer are zeros before training, with values that look like noise.
struct Fill;

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let dims = old.dims();
        let count: usize = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (0.7 * (78.233 * (i + 7 * count) as f64).sin()) as f32).collect();
        Param::from_mapped_value(id, Tensor::from_data(TensorData::new(values, dims), &old.device()), mapper)
    }
}

fn stretch(series: &Series, end: usize, number: u64) -> Stretch<'_> {
    Stretch { series, start: 0, end, number }
}

fn draw(samples: usize, at_once: usize) -> SeriesDraw {
    SeriesDraw { at_once, ..SeriesDraw::new(5, samples) }
}

fn items(family: &TimeGradFamily, series: &Series) -> Vec<StreamItem> {
    let length = family.origin().data.shape[1];
    let item = |k: u64| StreamItem {
        place: k,
        example: family.origin().data.window(series, k as i64, length),
        augment_labels: None,
    };
    (0..4).map(item).collect()
}

#[test]
fn cells_that_were_never_observed_do_not_touch_the_loss() {
    for scaling in ["standard", "mean", "none"] {
        let family = family_of(&SMALL.replace("lags", &format!("scaling = '{scaling}'\nlags")), info(2, days(), &[]));
        let holes = |t: usize| if t.is_multiple_of(3) { None } else { Some(3.0 + t as f64) };
        let values = (0..20).flat_map(|t| [holes(t), Some(t as f64)]);
        let one = Series::new(None, days(), vec!["0".into(), "1".into()], Values::from_rows(2, values));
        let device = Device::default();
        device.seed(1);
        let model = settle(family.init(&device));
        let loss = |items: Vec<StreamItem>| {
            let losses = family.losses(&model, &family.batch(items, 3, &device), &Pass::default());
            (losses.loss.into_data(), losses.rows.into_data())
        };
        let mut filled = items(&family, &one);
        let mut count = 0;
        for item in &mut filled {
            let Example { values, window, .. } = &mut item.example;
            let Window { cells, .. } = &**window.as_ref().unwrap();
            for (value, cell) in values.iter_mut().zip(cells) {
                if *cell == Cell::NeverObserved {
                    *value = 1e6;
                    count += 1;
                }
            }
        }
        assert!(count > 8);
        assert_eq!(loss(items(&family, &one)), loss(filled), "{scaling}");
    }
}

#[test]
fn draws_follow_from_the_place_of_an_item_and_are_spread_evenly() {
    let family = family_of(SMALL, info(2, days(), &[]));
    let (steps, noise) = family.draws(3, 17);
    // Two draws at each of five steps, half of the diffusion apart.
    assert_eq!((steps.len(), noise.len()), (10, 20));
    assert!(steps.chunks(2).all(|pair| pair[0].abs_diff(pair[1]) == 3), "{steps:?}");
    assert!(steps.chunks(2).any(|pair| pair[0] != steps[0]));
    let items = items(&family, &series(20, 2, days()));
    let device = Device::default();
    let both = family.batch(items[1..3].to_vec(), 3, &device);
    let one = family.batch(items[2..3].to_vec(), 3, &device);
    assert_eq!(both.steps[10..], one.steps);
    assert_eq!(both.noise.narrow(0, 10, 10).into_data(), one.noise.into_data());
}

#[test]
fn a_forecast_is_the_same_with_whatever_it_is_computed() {
    let one = series(40, 2, days());
    for denoiser in [
        "{ kind = 'mlp', width = 8, blocks = 1 }",
        "{ kind = 'convolution', residual_layers = 2 }",
        "{ kind = 'attention', width = 8, heads = 2 }",
    ] {
        let text = SMALL.replace("{ kind = 'mlp', width = 8, blocks = 1 }", denoiser);
        let model = trained(family_of(&text, info(2, days(), &[])));
        let pasts = [stretch(&one, 20, 0), stretch(&one, 25, 1)];
        // Beyond the two steps of training.
        let all = model.forecast(&pasts, 5, &draw(3, 100)).unwrap();
        assert_eq!(all.len(), 2 * 3 * 5 * 2);
        let near = |found: &[f32], wanted: &[f32]| {
            let far = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == wanted.len() && far < 1e-4, "{denoiser}: {far}");
        };
        near(&model.forecast(&pasts, 5, &draw(3, 2)).unwrap(), &all);
        near(&model.forecast(&pasts[1..], 5, &draw(3, 100)).unwrap(), &all[30..]);
        near(&model.forecast(&pasts[..1], 5, &draw(1, 100)).unwrap(), &all[..10]);
        near(&model.forecast(&pasts[..1], 2, &draw(1, 100)).unwrap(), &all[..4]);
        assert_ne!(all[..10], all[10..20], "samples differ");
        // Any sampler, at levels between those of training.
        let sampler = Some(Sampler::new("dpmpp-2m", SamplerOptions::default()).unwrap());
        let fast = model.forecast(&pasts, 2, &SeriesDraw { sampler, steps: Some(3), ..draw(1, 9) }).unwrap();
        assert!(fast.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn only_the_history_is_read_and_it_is_read() {
    let model = trained(family_of(SMALL, info(2, days(), &[])));
    let of = |series: &Series| model.forecast(&[stretch(series, 20, 0)], 2, &draw(1, 9)).unwrap();
    let whole = series(40, 2, days());
    let changed = |step: usize| {
        let mut other = whole.clone();
        other.target.set(step, 0, 50.0);
        of(&other)
    };
    let history = model.history();
    assert_eq!(history, 5);
    assert_eq!(of(&whole), changed(20), "the future is not known");
    assert_eq!(of(&whole), changed(20 - history - 1));
    assert_ne!(of(&whole), changed(20 - history));
    let mut hidden = whole.clone();
    hidden.target.hide(19, 0);
    let mut other = hidden.clone();
    other.target = whole.target.clone();
    other.target.set(19, 0, 77.0);
    other.target.hide(19, 0);
    assert_eq!(of(&hidden), of(&other), "what is held out is not shown");
}

#[test]
fn covariates_of_the_steps_to_come_are_read() {
    let model = trained(family_of(SMALL, info(2, days(), &["price"])));
    let with = |last: f64| {
        let mut one = series(20, 2, days());
        let values = (0..22).map(|t| Some(if t == 21 { last } else { 0.0 }));
        one.dynamic = Some(Covariates { names: vec!["price".into()], values: Values::from_rows(1, values) });
        model.forecast(&[stretch(&one, 20, 0)], 2, &draw(1, 9)).unwrap()
    };
    let (low, high) = (with(0.0), with(9.0));
    // Known for the second step to come alone.
    assert_eq!(low[..2], high[..2]);
    assert_ne!(low[2..], high[2..]);
}

#[test]
fn samples_stay_within_the_bounds_of_their_variable() {
    let mut data = info(2, days(), &[]);
    data.series.as_mut().unwrap().lowest[1] = Some(2.5);
    data.series.as_mut().unwrap().highest[1] = Some(3.5);
    let model = trained(family_of(SMALL, data));
    let found = model.forecast(&[stretch(&series(20, 2, days()), 20, 0)], 4, &draw(20, 99)).unwrap();
    let of = |k: usize| found.iter().copied().skip(k).step_by(2).collect::<Vec<f32>>();
    assert!(of(1).iter().all(|value| (2.5..=3.5).contains(value)) && of(1).contains(&2.5) && of(1).contains(&3.5));
    assert!(of(0).iter().any(|value| !(2.5..=3.5).contains(value)));
}

#[test]
fn a_series_of_another_kind_is_refused() {
    let model = trained(family_of(SMALL, info(2, days(), &[])));
    let error = |series: &Series| model.forecast(&[stretch(series, 10, 0)], 2, &draw(1, 9)).unwrap_err().to_string();
    assert!(error(&series(20, 3, days())).contains("3 variables, and the model is of 2"));
    assert!(error(&series(20, 2, Index::Counted)).contains("every d"));
}

#[test]
fn what_is_wrong_with_the_tables_is_said_by_key() {
    let keys = |text: &str, variables: usize| {
        let origin = Origin { experiment: "x".into(), data: info(variables, Index::Counted, &[]), source: None };
        let problems = TimeGradFamily::new(tables(text).with_lags(&origin.data, None), origin).err();
        problems.unwrap_or_default().into_iter().map(|(key, _)| key).collect::<Vec<String>>()
    };
    assert!(keys(SMALL, 1).is_empty() && keys("", 1).is_empty());
    assert_eq!(keys("[model]\ndenoiser = { kind = 'convolution' }", 1), ["model.denoiser.kind"]);
    assert_eq!(keys("[timegrad]\nhorizon = 0", 2)[0], "timegrad.horizon");
    assert_eq!(keys("[timegrad]\nlags = [0]", 2)[0], "timegrad.lags");
    assert_eq!(keys("[diffusion]\nprediction = 'posterior-mean'", 2), ["diffusion.prediction"]);
    assert_eq!(keys("[diffusion]\nschedule = 'const'\nbeta_end = 2.0", 2), ["diffusion"]);
    let named = tables("[diffusion]\nschedule = { kind = 'quad' }");
    assert_eq!(named, tables("[diffusion]\nschedule = 'quadratic'"));
    let error = TimeGradFamily::read("[timegrad]\nlag = 3".parse::<Table>().unwrap()).unwrap_err();
    assert!(error.contains("lag"), "{error}");
}

#[test]
fn lags_follow_from_the_frequency_or_from_the_season_of_the_data() {
    let lags = |data: &DataInfo| tables("").with_lags(data, None).timegrad.lags;
    assert_eq!((lags(&info(1, days(), &[])), lags(&info(1, Index::Counted, &[]))), (vec![1, 7, 14], vec![1]));
    let config = toml::from_str("kind = 'bimodal-series'\ncount = 1500").unwrap();
    let data = ddpm_data::open(&config, ddpm_data::Split::Train, 0).unwrap();
    let mut counted = data.info.clone();
    counted.series.as_mut().unwrap().frequency = None;
    let found = tables("").with_lags(&counted, data.series.as_deref()).timegrad;
    assert_eq!((found.lags, found.context), (vec![1, 2, 12], 24));
}

#[test]
fn time_features_are_places_in_the_cycles_of_the_calendar() {
    let data = info(1, days(), &[]);
    let of = |set, step| TimeFeatures::new(set, &data).of(&days(), step);
    // Three waves of the week and two of the year.
    assert_eq!([FeatureSet::Calendar, FeatureSet::Year, FeatureSet::None].map(|set| of(set, 0).len()), [10, 4, 0]);
    assert_eq!(of(FeatureSet::Year, 0), [1.0, 0.0, 1.0, 0.0]);
    assert_eq!(of(FeatureSet::Calendar, -3)[..6], of(FeatureSet::Calendar, 4)[..6], "a week later");
    assert_eq!(TimeFeatures::new(FeatureSet::Calendar, &info(1, Index::Counted, &[])).count(), 0);
    // pytorch-ts has the day of the week alone.
    let daily: Periods = "D".parse().unwrap();
    let rows = daily.time_features(&daily.moments(Moment::midnight(2012, 1, 1), 9), Counted::Calendar);
    let wanted: Vec<f32> = rows.iter().map(|row| row[8] as f32).collect();
    assert_eq!(of(FeatureSet::PytorchTs, 8), wanted);
    assert!(frequency_of(&data).is_some());
}

#[test]
fn a_state_dict_of_pytorch_ts_becomes_a_model() {
    let folder = fixture("series_timegrad/gru_hourly");
    let keys = read_json(folder.join("config.json"));
    let hours =
        Index::Times { start: Timestamp::parse("2020-01-01").unwrap(), frequency: Frequency::parse("H").unwrap() };
    let data = DataInfo { units: Units::identity(5), ..info(5, hours, &[]) };
    let device = Device::default();
    let read = |horizon| {
        let weights = Weights::open(&folder.join("model_state.pt")).unwrap();
        read_pytorch_ts(weights, data.clone(), pytorch_ts_keys(4, horizon), &device)
    };
    let (family, model) = read(3).unwrap();
    let TimeGradTables { model: sizes, diffusion, timegrad } = family.tables();
    assert_eq!((sizes.cells, sizes.layers, sizes.conditioning_length), (10, 2, 12));
    assert_eq!((diffusion.steps, timegrad.lags.as_slice()), (keys["T"].as_u64().unwrap() as usize, &[1, 24, 168][..]));
    assert!((diffusion.beta_end - 0.1).abs() < 1e-6);
    // The denoiser gives what its fixture has.
    let io = Safetensors::open(folder.join("io.safetensors"));
    let [x, condition] = ["x0", "cond0"].map(|name| io.tensor::<3>(name, &device, burn::tensor::DType::F32));
    let times: Vec<f64> = io.i64("t0").into_iter().map(|step| step as f64).collect();
    let found: Vec<f64> = model.denoiser().forward(x, &times, condition).into_data().iter::<f64>().collect();
    let far = found.iter().zip(io.f64("out0_tab64")).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 1e-5, "{far}");
    let card = ModelCard::in_training(&family);
    let model = TrainedTimeGrad::new(family, model, card);
    let paths = model.forecast(&[stretch(&series(200, 5, hours), 200, 0)], 3, &draw(2, 9)).unwrap();
    assert!(paths.len() == 30 && paths.iter().all(|value| value.is_finite()));
    // With another frequency the lags are others, and so is the size of the input.
    let weights = Weights::open(&folder.join("model_state.pt")).unwrap();
    let daily = DataInfo { units: Units::identity(5), ..info(5, days(), &[]) };
    let error = read_pytorch_ts(weights, daily, pytorch_ts_keys(4, 3), &device).unwrap_err().to_string();
    assert!(error.contains("reads 24 values") && error.contains("frequency"), "{error}");
}
