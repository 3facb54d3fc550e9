#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::data::dataset::InMemDataset;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::random::{Stream, rng};
use ddpm_data::series::{Cell, Index, Series, SeriesInfo, Table};
use ddpm_data::{DataInfo, StreamItem, Units};
use ddpm_model::pass::Pass;

use super::network::MaskedNetwork;
use super::trained::TrainedMasked;
use super::{MaskedBatch, MaskedFamily, Patterns};
use crate::family::stored::ModelCard;
use crate::family::trained::{
    BoundDraw, Draw, Forecast, Generate, Impute, ScoredPart, SeriesBound, SeriesBoundTerms, SeriesDraw, Stretch,
};
use crate::family::{Family, Origin};
use crate::parameters::settle;

const CSDI: &str = "kind = 'csdi'\nlayers = 1\nchannels = 8\nheads = 2\nstep_embedding = 8\ntime_embedding = 8\n\
                    feature_embedding = 4\n";
const SSSD: &str = "kind = 'sssd'\nresidual_channels = 4\nskip_channels = 4\nlayers = 2\nstep_sinusoids = 8\nstep_hidden = 8\n\
                    step_features = 8\nstates = 4\n";
const FEW_STEPS: &str = "[masked]\nsteps = 4\n";

const VARIABLES: usize = 3;
const WINDOW: usize = 8;

fn family(model: &str, more: &str) -> MaskedFamily {
    let units = Units { shift: vec![1.0, 0.1, -2.0], scale: vec![0.3, 1.7, 5.0] };
    let series = SeriesInfo {
        variables: ["a", "b", "c"].map(String::from).to_vec(),
        frequency: None,
        covariates: Vec::new(),
        covariate_units: Units::identity(0),
        lowest: vec![Some(1.0), None, None],
        highest: vec![None, None, Some(-2.0)],
        static_categories: Vec::new(),
        static_units: Units::default(),
    };
    let shape = vec![VARIABLES, WINDOW];
    let data = DataInfo {
        name: "any".into(),
        shape,
        classes: Vec::new(),
        units,
        series: Some(series),
        latent: false,
        has_captions: false,
    };
    let origin = Origin { experiment: "test".into(), data, source: None };
    let tables = MaskedFamily::read(format!("[model]\n{model}{more}").parse().unwrap()).unwrap();
    assert_eq!(MaskedFamily::problems(&tables), []);
    MaskedFamily::new(tables, origin).unwrap()
}

/// A network whose weights are the same in every test, and none of them 0.
fn network(family: &MaskedFamily) -> MaskedNetwork {
    let device = Device::default();
    device.seed(3);
    settle(family.init(&device)).map(&mut NotZero)
}

/// Weights that begin as 0 get other values.
struct NotZero;

impl ModuleMapper for NotZero {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let dims = old.dims();
        let values: Vec<f32> = old.to_data().iter::<f32>().collect();
        if values.iter().any(|value| *value != 0.0) {
            return Param::from_mapped_value(id, old, mapper);
        }
        let values: Vec<f32> = (0..values.len()).map(|i| 0.3 * (78.233 * (i + 1) as f32).sin()).collect();
        Param::from_mapped_value(id, Tensor::from_data(TensorData::new(values, dims), &old.device()), mapper)
    }
}

fn trained(model: &str, more: &str) -> TrainedMasked {
    let family = family(model, more);
    let (network, card) = (network(&family), ModelCard::in_training(&family));
    TrainedMasked::new(family, network, card)
}

/// A series of waves, of which every fifth cell has no value and every seventh is held out.
fn series(steps: usize) -> Series {
    let value = |at: usize| (!at.is_multiple_of(5)).then(|| 1.5 + (at as f64 * 0.7).sin());
    let mut table = Table::from_rows(VARIABLES, (0..steps * VARIABLES).map(value));
    (0..steps * VARIABLES).filter(|at| at % 7 == 0).for_each(|at| table.hide(at / VARIABLES, at % VARIABLES));
    Series::new(None, Index::Counted, ["a", "b", "c"].map(String::from).to_vec(), table)
}

fn items(family: &MaskedFamily, hidden: f32) -> Vec<StreamItem> {
    let item = |place: u64| {
        let mut example = family.origin.data.window(&series(40), 3 * place as i64, WINDOW);
        let window = example.window.clone().unwrap();
        for (value, cell) in example.values.iter_mut().zip(&window.cells) {
            if *cell != Cell::Observed {
                *value = hidden;
            }
        }
        StreamItem { example, place, augment_labels: None }
    };
    (0..6).map(item).collect()
}

fn host(x: &Tensor<3>) -> Vec<f32> {
    x.clone().into_data().iter::<f32>().collect()
}

#[test]
fn cells_that_were_not_observed_do_not_touch_the_loss() {
    for (model, more) in [(CSDI, ""), (SSSD, ""), (SSSD, "layer = 's4d'\n"), (CSDI, "[masked]\nmean = 'windows'\n")] {
        let family = family(model, more);
        let network = network(&family);
        let loss = |hidden| {
            let batch = family.batch(items(&family, hidden), 5, &Device::default());
            let losses = family.losses(&network, &batch, &Pass::default());
            (losses.loss.into_scalar::<f32>(), losses.rows.into_data().iter::<f32>().collect::<Vec<_>>())
        };
        let (all, rows) = loss(0.0);
        assert!(all > 0.0 && rows.len() == 6);
        assert_eq!((all, rows), loss(1e6), "{model} {more}");
    }
}

#[test]
fn a_window_of_a_batch_depends_on_its_place_alone() {
    let family = family(CSDI, "[masked]\nvariables_per_item = 2\nmasks = [{ kind = 'mix' }, { kind = 'segment' }]\n");
    let device = Device::default();
    let all = family.batch(items(&family, 0.0), 5, &device);
    let last = family.batch(items(&family, 0.0).split_off(4), 5, &device);
    let parts = |batch: &MaskedBatch| {
        let variables = batch.variables.clone().unwrap().into_data().iter::<i64>().collect::<Vec<_>>();
        ([&batch.values, &batch.given, &batch.target, &batch.noise].map(host), variables, batch.times.clone())
    };
    let ((all, variables, times), (of_last, last_variables, last_times)) = (parts(&all), parts(&last));
    for (all, last) in all.iter().zip(&of_last) {
        assert_eq!(all[4 * 2 * WINDOW..], last[..]);
    }
    assert_eq!((&variables[8..], &times[4..]), (&last_variables[..], &last_times[..]));
    assert!(variables.chunks(2).all(|two| two[0] != two[1]));
    // The network takes some of the variables, and tells them apart.
    let network = network(&family);
    let batch = family.batch(items(&family, 0.0), 5, &device);
    let loss = |batch: &MaskedBatch| family.losses(&network, batch, &Pass::default()).loss.into_scalar::<f32>();
    let swapped = MaskedBatch { variables: batch.variables.clone().map(|all| all.flip([1])), ..batch.clone() };
    assert!(loss(&batch) != loss(&swapped));
}

#[test]
fn historical_masks_are_those_of_other_training_windows() {
    let mut family = family(CSDI, "[masked]\nmasks = [{ kind = 'historical' }]\n");
    let windows: Vec<_> = items(&family, 0.0).into_iter().map(|item| item.example).collect();
    let observed = |k: usize| windows[k].window.as_ref().unwrap().cells.iter().map(|cell| *cell == Cell::Observed);
    family.patterns = Patterns(Some(Arc::new(InMemDataset::new(windows.clone()))));
    let batch = family.batch(items(&family, 0.0), 5, &Device::default());
    for (row, given) in host(&batch.given).chunks(VARIABLES * WINDOW).enumerate() {
        let given: Vec<bool> = given.iter().map(|given| *given == 1.0).collect();
        let common = |k| observed(row).zip(observed(k)).map(|(a, b)| a && b).collect::<Vec<bool>>();
        assert!((0..6).any(|k| common(k) == given), "{row}");
    }
    // Which one does not depend on the batch.
    let mut place = rng(5, Stream::Mask, 3);
    let _: f64 = ddpm_data::random::RngExt::random(&mut place);
    let uniform: f64 = ddpm_data::random::RngExt::random(&mut place);
    let pattern = observed((uniform * 6.0) as usize).zip(observed(3)).map(|(a, b)| f32::from(u8::from(a && b)));
    assert_eq!(host(&batch.given)[3 * VARIABLES * WINDOW..4 * VARIABLES * WINDOW], pattern.collect::<Vec<_>>());
}

fn stretch(series: &Series, start: usize, end: usize, number: u64) -> Stretch<'_> {
    Stretch { series, start, end, number }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn observed_cells_come_back_bit_for_bit_and_the_others_within_their_bounds() {
    let series = series(40);
    let unconditional = format!("{CSDI}unconditional = true\n");
    for (model, length) in [(CSDI, 8), (CSDI, 21), (CSDI, 5), (SSSD, 21), (&unconditional, 8)] {
        let model = trained(model, FEW_STEPS);
        let draw = SeriesDraw { at_once: 3, ..SeriesDraw::new(7, 3) };
        let stretches = [stretch(&series, 4, 4 + length, 0), stretch(&series, 11, 11 + length, 1)];
        let samples = model.impute(&stretches, &draw).unwrap();
        assert_eq!(samples.len(), 3 * 2 * length * VARIABLES);
        let mut sampled = 0;
        for (at, value) in samples.iter().enumerate() {
            let (row, step, variable) = (at / (length * VARIABLES), at / VARIABLES % length, at % VARIABLES);
            match series.target.given(stretches[row % 2].start + step, variable) {
                Some(observed) => assert_eq!(value.to_bits(), (observed as f32).to_bits()),
                None => {
                    sampled += 1;
                    assert!(value.is_finite() && (variable != 0 || *value >= 1.0) && (variable != 2 || *value <= -2.0));
                }
            }
        }
        assert!(sampled > 20);
        // The same for any number at once, and for a stretch alone.
        let alone = model.impute(&stretches[1..], &SeriesDraw { at_once: 100, ..draw.clone() }).unwrap();
        let size = length * VARIABLES;
        let of_second: Vec<f32> = samples.chunks(size).skip(1).step_by(2).flatten().copied().collect();
        assert!(largest_difference(&of_second, &alone) < 1e-4);
        assert!(largest_difference(&alone[..size], &alone[size..2 * size]) > 1e-3, "samples are all the same");
    }
}

#[test]
fn samples_know_what_is_observed_and_nothing_beyond_the_stretch() {
    let unconditional = format!("{CSDI}unconditional = true\n");
    for model in [CSDI, SSSD, &unconditional] {
        let model = trained(model, FEW_STEPS);
        let series = series(40);
        let of = |series: &Series| model.impute(&[stretch(series, 4, 12, 0)], &SeriesDraw::new(7, 1)).unwrap();
        let mut inside = series.clone();
        inside.target.set(6, 1, 3.0);
        let mut outside = series.clone();
        (0..VARIABLES).for_each(|k| {
            outside.target.set(3, k, 50.0);
            outside.target.set(12, k, 50.0);
        });
        assert_eq!(of(&series), of(&outside));
        let differing = of(&series).iter().zip(of(&inside)).filter(|(a, b)| **a != *b).count();
        assert!(differing > 1, "{differing}");
    }
}

#[test]
fn forecasts_go_on_from_the_end_of_what_is_known() {
    let model = trained(CSDI, FEW_STEPS);
    let mut series = series(40);
    let pasts = |series: &Series| {
        let draw = SeriesDraw { at_once: 4, ..SeriesDraw::new(7, 3) };
        model.forecast(&[stretch(series, 2, 20, 0), stretch(series, 2, 23, 1)], 5, &draw).unwrap()
    };
    let before = pasts(&series);
    assert_eq!(before.len(), 2 * 3 * 5 * VARIABLES);
    // What comes later, and what is farther back than a window, is not read; the last step is.
    for step in [23, 24, 39, 16] {
        series.target.set(step, 1, 70.0);
    }
    assert_eq!(before[..15 * VARIABLES].len(), 45);
    let after = pasts(&series);
    assert_eq!(before[45..], after[45..]);
    series.target.set(22, 1, 70.0);
    assert!(pasts(&series)[45..] != before[45..]);
    assert_eq!((model.history(), model.longest_horizon()), (7, Some(7)));
    let error = model.forecast(&[stretch(&series, 2, 20, 0)], 8, &SeriesDraw::new(7, 1)).unwrap_err().to_string();
    assert!(error.contains("1 to 7"), "{error}");
}

/// All weights become 0.
struct Zero;

impl ModuleMapper for Zero {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        Param::from_mapped_value(id, old.zeros_like(), mapper)
    }
}

/// A series without holes.
fn whole_series(steps: usize) -> Series {
    let values = (0..steps * VARIABLES).map(|at| Some(1.5 + (at as f64 * 0.7).sin()));
    Series::new(None, Index::Counted, ["a", "b", "c"].map(String::from).to_vec(), Table::from_rows(VARIABLES, values))
}

fn bounds(model: &TrainedMasked, series: &Series, part: ScoredPart, at_once: usize) -> Vec<SeriesBoundTerms> {
    let ends = (WINDOW..=series.target.steps()).step_by(WINDOW).enumerate();
    let stretches: Vec<_> = ends.map(|(number, end)| stretch(series, end - WINDOW, end, number as u64)).collect();
    model.series_bound(&stretches, part, &BoundDraw { seed: 3, at_once }).unwrap()
}

/// The mean over the values with small and with large variances, in the units of the data.
fn nats(terms: &[SeriesBoundTerms]) -> [f64; 2] {
    let values: usize = terms.iter().map(|terms| terms.values).sum();
    [0, 1].map(|k| terms.iter().map(|terms| terms.bounds[k].total() + terms.log_scale).sum::<f64>() / values as f64)
}

#[test]
fn the_bound_is_the_density_of_a_gaussian_where_the_denoiser_is_exact() {
    let unconditional = format!("{CSDI}unconditional = true\n");
    let few = "[diffusion]\nprediction = 'v'\nschedule = { kind = 'linear', steps = 20, beta_start = 1e-3, beta_end = 0.2 }\n";
    for (model, part) in
        [(CSDI, ScoredPart::Horizon(6)), (SSSD, ScoredPart::Horizon(6)), (&unconditional, ScoredPart::Window(WINDOW))]
    {
        // A prediction of v as 0 is exact for standard normal values.
        let family = family(model, &format!("{few}{FEW_STEPS}"));
        let device = Device::default();
        device.seed(3);
        let network = settle(family.init(&device));
        // The last layer of SSSD is 0 before training, that of CSDI but for its bias.
        let network = if model == SSSD { network } else { network.map(&mut Zero) };
        let card = ModelCard::in_training(&family);
        let units = family.origin.data.units.clone();
        let trained = TrainedMasked::new(family, network, card);
        let series = whole_series(200 * WINDOW);
        let terms = bounds(&trained, &series, part, 64);
        let first = if part == ScoredPart::Horizon(6) { 2 } else { 0 };
        let density = |step: usize, variable: usize| {
            let z = units.value(variable, series.target.given(step, variable).unwrap());
            0.5 * (std::f64::consts::TAU.ln() + z * z) + units.scale[variable].ln()
        };
        let steps = (0..200 * WINDOW).filter(|step| step % WINDOW >= first);
        let all: Vec<f64> =
            steps.flat_map(|step| (0..VARIABLES).map(move |k| (step, k))).map(|(t, k)| density(t, k)).collect();
        let exact = all.iter().sum::<f64>() / all.len() as f64;
        assert_eq!(terms.iter().map(|terms| terms.values).sum::<usize>(), all.len());
        let [small, large] = nats(&terms);
        assert!((large - exact).abs() < 0.06, "{model}: {large} {exact}");
        assert!(small > exact + 0.3, "{model}: {small} {exact}");
    }
}

#[test]
fn the_bound_is_in_the_units_of_the_data_and_the_same_at_any_batch_size() {
    let part = ScoredPart::Window(WINDOW);
    let model = trained(CSDI, FEW_STEPS);
    let mut larger = family(CSDI, FEW_STEPS);
    let units = &mut larger.origin.data.units;
    units.shift.iter_mut().chain(&mut units.scale).for_each(|unit| *unit *= 8.0);
    let (network, card) = (network(&larger), ModelCard::in_training(&larger));
    let other = TrainedMasked::new(larger, network, card);
    let mut series = whole_series(12 * WINDOW);
    let mut scaled = series.clone();
    for (step, variable) in (0..12 * WINDOW).flat_map(|step| (0..VARIABLES).map(move |k| (step, k))) {
        scaled.target.set(step, variable, 8.0 * series.target.given(step, variable).unwrap());
    }
    let terms = bounds(&model, &series, part, 100);
    let hidden: Vec<usize> = terms.iter().map(|terms| terms.values).collect();
    assert!(hidden.iter().any(|count| *count > 0) && hidden.iter().any(|count| *count != hidden[0]), "{hidden:?}");
    for (before, after) in nats(&terms).iter().zip(nats(&bounds(&other, &scaled, part, 100))) {
        assert!((after - before - 8f64.ln()).abs() < 1e-5, "{before} {after}");
    }
    for (found, wanted) in bounds(&model, &series, part, 5).iter().zip(&terms) {
        assert_eq!(found.values, wanted.values);
        let [found, wanted] = [found, wanted].map(|terms| terms.bounds[1].total());
        assert!((found - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{found} {wanted}");
    }
    // The network predicts all cells of a window together.
    series.target.hide(2 * WINDOW + 1, 0);
    let holey = bounds(&model, &series, part, 100);
    assert!(holey[2].values == 0 && holey[2].left_out > 0 && holey[3] == terms[3], "{:?}", holey[2]);
    let refused = |part| {
        let stretches = [stretch(&series, 0, WINDOW, 0)];
        model.series_bound(&stretches, part, &BoundDraw { seed: 3, at_once: 1 }).unwrap_err().to_string()
    };
    assert!(refused(ScoredPart::Horizon(WINDOW)).contains("expected 1 to 7"));
    assert!(refused(ScoredPart::Window(3)).contains("expected 8"));
}

#[test]
fn what_does_not_change_along_a_series_is_read_by_csdi() {
    for (model, is_read) in [(CSDI, true), (SSSD, false)] {
        let mut data = family(model, FEW_STEPS).origin.data;
        let info = data.series.as_mut().unwrap();
        info.static_categories = vec![vec![2, 5, 6]];
        info.static_units = Units { shift: vec![1.0], scale: vec![2.0] };
        let of = |keys: &str, data: &DataInfo| {
            let tables =
                MaskedFamily::read(format!("[model]\n{model}[masked]\nsteps = 4\n{keys}").parse().unwrap()).unwrap();
            let origin = Origin { experiment: "test".into(), data: data.clone(), source: None };
            let family = MaskedFamily::new(tables, origin).unwrap();
            let (network, card) = (network(&family), ModelCard::in_training(&family));
            (TrainedMasked::new(family.clone(), network, card), family)
        };
        let (model, family) = of("", &data);
        assert_eq!(family.tables.model.statics(), if is_read { 4 } else { 0 });
        let with =
            |category, real| Series { static_categories: vec![category], static_reals: vec![real], ..series(40) };
        let impute = |series: &Series| model.impute(&[stretch(series, 4, 12, 0)], &SeriesDraw::new(7, 1)).unwrap();
        let one = impute(&with(2, 1.0));
        assert_eq!(one == impute(&with(5, 1.0)), !is_read);
        assert_eq!(one == impute(&with(2, 3.0)), !is_read);
        let item = |category| {
            let example = family.origin.data.window(&with(category, 1.0), 3, WINDOW);
            vec![StreamItem { example, place: 1, augment_labels: None }]
        };
        let loss = |category| {
            let batch = family.batch(item(category), 5, &Device::default());
            family.losses(&model.model, &batch, &Pass::default()).loss.into_scalar::<f32>()
        };
        assert_eq!(loss(2) == loss(5), !is_read);
        let refused = model.impute(&[stretch(&series(40), 4, 12, 0)], &SeriesDraw::new(7, 1)).is_err();
        assert_eq!(refused, is_read);
        assert_eq!(model.generate(&Draw::of_seed(5), 0, 2).unwrap().values.len(), 2 * VARIABLES * WINDOW);
        // Without it the network is what it was.
        assert_eq!(of("static_covariates = false\n", &data).1.tables.model.statics(), 0);
    }
}

#[test]
fn windows_of_which_nothing_is_known_are_samples() {
    for model in [CSDI, SSSD] {
        let model = trained(model, FEW_STEPS);
        let draw = |first, count| model.generate(&Draw::of_seed(5), first, count).unwrap().values;
        let all = draw(0, 5);
        let size = VARIABLES * WINDOW;
        assert!(largest_difference(&all[3 * size..], &draw(3, 2)) < 1e-4);
        assert!(largest_difference(&all[..size], &all[size..2 * size]) > 1e-3);
    }
}

#[test]
fn what_does_not_go_together_is_said_by_key() {
    let of = |text: &str| MaskedFamily::read(text.parse().unwrap()).unwrap();
    let keys = |text: &str| MaskedFamily::problems(&of(text)).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let text = "[model]\nkind = 'csdi'\n[diffusion]\nvariance = 'learned'\noffset_noise = 0.1\n[masked]\nwindow = 0\nsteps = 51\n\
                masks = [{ kind = 'random', share = [0.5, 2.0] }]\nsampler = 'none'\n";
    let found = keys(text);
    for key in ["diffusion.variance", "masked.window", "masked.steps", "masked.masks.0.share", "masked.sampler"] {
        assert!(found.contains(&key.to_string()), "{key}: {found:?}");
    }
    // The schedules of the papers.
    assert_eq!(of("[model]\nkind = 'csdi'\n").diffusion.schedule.steps(), 50);
    assert_eq!(of("[model]\nkind = 'sssd'\n").diffusion.schedule.steps(), 200);
    let known = family(CSDI, "").origin;
    let with_data = |text: &str| MaskedFamily::new(of(text), known.clone()).unwrap_err();
    for (text, key) in [
        ("[model]\nkind = 'csdi'\nvariables = 4\n", "model.variables"),
        ("[model]\nkind = 'sssd'\nin_channels = 2\n", "model.in_channels"),
        ("[model]\nkind = 'csdi'\n[masked]\nvariables_per_item = 4\n", "masked.variables_per_item"),
        ("[model]\nkind = 'sssd'\n[masked]\nvariables_per_item = 2\n", "masked.variables_per_item"),
    ] {
        assert_eq!(with_data(text)[0].0, key);
    }
}
