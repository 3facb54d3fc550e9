#![allow(clippy::unwrap_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::series::{Cell, Covariates, Frequency, Index, Series, SeriesInfo, Table as Values, Timestamp, Window};
use ddpm_data::{DataInfo, Example, StreamItem, Units};
use ddpm_model::pass::Pass;
use ddpm_model::timegrad::TimeGrad;
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
use crate::family::trained::{BoundDraw, Forecast, ScoredPart, SeriesBound, SeriesBoundTerms, SeriesDraw, Stretch};
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
        static_categories: Vec::new(),
        static_units: Units::default(),
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

/// A series whose history was never observed, and whose next two steps have a level by its category.
fn leveled(category: usize, number: usize) -> Series {
    let noise = |t: usize| 0.1 * ((number * 31 + t * 17) as f64).sin();
    let level = if category == 4 { 5.0 } else { 1.0 };
    let values = (0..7).map(|t| (t >= 5).then(|| level + noise(t)));
    let one = Series::new(None, Index::Counted, vec!["0".into()], Values::from_rows(1, values));
    Series { static_categories: vec![category], static_reals: vec![number as f64], ..one }
}

/// Training of a few steps on these items.
fn fitted(family: &TimeGradFamily, items: &[StreamItem], steps: u64) -> TimeGrad {
    let device = Device::default().autodiff();
    device.seed(7);
    let mut model = settle(family.init(&device));
    let mut optimizer = AdamConfig::new().init();
    for step in 0..steps {
        let losses = family.losses(&model, &family.batch(items.to_vec(), step, &device), &Pass::default());
        let gradients = GradientsParams::from_grads(losses.loss.backward(), &model);
        model = optimizer.step(1e-2, model, gradients);
    }
    model.valid()
}

#[test]
fn a_level_that_follows_from_the_category_alone_is_learned() {
    let mut data = info(1, Index::Counted, &[]);
    let series_info = data.series.as_mut().unwrap();
    series_info.static_categories = vec![vec![1, 4]];
    series_info.static_units = Units { shift: vec![8.0], scale: vec![4.0] };
    for (static_covariates, wanted) in [(true, 4.0), (false, 0.0)] {
        let keys = format!("static_covariates = {static_covariates}\nlags");
        let family = family_of(&SMALL.replace("lags", &keys), data.clone());
        assert_eq!(family.reader.network.input_size(), if static_covariates { 5 } else { 3 });
        let item = |place: usize| {
            let example = family.origin().data.window(&leveled([1, 4][place % 2], place), 0, 7);
            StreamItem { example, place: place as u64, augment_labels: None }
        };
        let model = fitted(&family, &(0..16).map(item).collect::<Vec<_>>(), 200);
        let model = TrainedTimeGrad::new(family.clone(), model, ModelCard::in_training(&family));
        let mean = |category| {
            let found = model.forecast(&[stretch(&leveled(category, 9), 5, 0)], 1, &draw(40, 99)).unwrap();
            found.iter().sum::<f32>() / 40.0
        };
        let distance = mean(4) - mean(1);
        assert!((distance - wanted).abs() < 1.0, "{static_covariates}: {distance}");
        let error = model.forecast(&[stretch(&leveled(3, 9), 5, 0)], 1, &draw(1, 9));
        assert_eq!(error.is_err(), static_covariates);
    }
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

/// The terms of windows that follow one another, each of `horizon` steps.
fn bounds(model: &TrainedTimeGrad, series: &Series, horizon: usize, at_once: usize) -> Vec<SeriesBoundTerms> {
    let ends = (20 + horizon..=series.target.steps()).step_by(horizon).enumerate();
    let stretches: Vec<Stretch<'_>> = ends.map(|(number, end)| stretch(series, end, number as u64)).collect();
    model.series_bound(&stretches, ScoredPart::Horizon(horizon), &BoundDraw { seed: 3, at_once }).unwrap()
}

/// The mean over the values with small and with large variances, in the units of the data.
fn nats(terms: &[SeriesBoundTerms]) -> [f64; 2] {
    let values: usize = terms.iter().map(|terms| terms.values).sum();
    [0, 1].map(|k| terms.iter().map(|terms| terms.bounds[k].total() + terms.log_scale).sum::<f64>() / values as f64)
}

#[test]
fn the_bound_is_the_density_of_a_gaussian_where_the_denoiser_is_exact() {
    // Before training v is predicted as 0, which is exact for standard normal values.
    let text = SMALL.replace("steps = 6", "steps = 20\nprediction = 'v'");
    let family = family_of(&text, info(2, days(), &[]));
    let device = Device::default();
    device.seed(7);
    let (model, card) = (settle(family.init(&device)), ModelCard::in_training(&family));
    let model = TrainedTimeGrad::new(family, model, card);
    let one = series(2020, 2, days());
    let terms = bounds(&model, &one, 20, 64);
    assert_eq!((terms.len(), terms.iter().map(|terms| terms.values).sum::<usize>()), (100, 4000));
    let density = |step: usize, variable: usize| {
        let z = (one.target.given(step, variable).unwrap() - 3.0) / 2.0;
        0.5 * (std::f64::consts::TAU.ln() + z * z) + 2f64.ln()
    };
    let exact = (20..2020).flat_map(|step| [density(step, 0), density(step, 1)]).sum::<f64>() / 4000.0;
    let [small, large] = nats(&terms);
    assert!((large - exact).abs() < 0.06, "{large} {exact}");
    assert!(small > exact + 0.3, "{small} {exact}");
}

#[test]
fn the_bound_is_in_the_units_of_the_data_and_the_same_at_any_batch_size() {
    for scaling in ["standard", "mean"] {
        let text = SMALL.replace("lags", &format!("scaling = '{scaling}'\nlags"));
        let data = info(2, days(), &[]);
        let mut larger = data.clone();
        larger.units.shift.iter_mut().chain(&mut larger.units.scale).for_each(|unit| *unit *= 8.0);
        let mut one = series(60, 2, days());
        one.target.set(33, 1, 4.5);
        let mut scaled = one.clone();
        for (step, variable) in (0..60).flat_map(|step| [(step, 0), (step, 1)]) {
            scaled.target.set(step, variable, 8.0 * one.target.given(step, variable).unwrap());
        }
        let (model, other) = (trained(family_of(&text, data)), trained(family_of(&text, larger)));
        let terms = bounds(&model, &one, 4, 100);
        let (before, after) = (nats(&terms), nats(&bounds(&other, &scaled, 4, 100)));
        for (before, after) in before.iter().zip(after) {
            assert!((after - before - 8f64.ln()).abs() < 1e-5, "{scaling}: {before} {after}");
        }
        for (terms, wanted) in bounds(&model, &one, 4, 3).iter().zip(&terms) {
            let [found, wanted] = [terms, wanted].map(|terms| terms.bounds[1].total());
            assert!((found - wanted).abs() < 1e-4 * wanted.abs(), "{scaling}: {found} {wanted}");
        }
        // A step of which a variable was not observed has no density, and changes what comes after it.
        one.target.hide(30, 1);
        let holey = bounds(&model, &one, 4, 100);
        let left_out: Vec<usize> = holey.iter().map(|terms| terms.left_out).collect();
        assert_eq!((left_out[2], left_out.iter().sum::<usize>(), holey[2].values), (1, 1, 6));
        assert!(holey[1] == terms[1] && holey[3].bounds != terms[3].bounds);
    }
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
