//! Models of time series: forecasts of held-out windows and imputations of held-out values, always next to the classical
//! baselines on the same windows.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, bail};
use ddpm_data::series::{Frequency, Index, Series, SeriesSet, WindowShape};
use ddpm_data::{DataInfo, OpenData, Split};
use ddpm_eval::metrics::Evaluation;
use ddpm_eval::record::SamplingSettings;
use ddpm_eval::series::baselines::{ForecastTask, ImputationTask};
use ddpm_eval::series::masks::HeldOut;
use ddpm_eval::series::{
    ForecastEvaluation, ImputationEvaluation, ModelSamples, Predictions, Rows, SeriesEvaluation, WindowArray, period,
};
use ddpm_families::family::trained::{Forecast, Impute, SeriesDraw, Stretch};
use ddpm_sampling::samplers::{Sampler, SamplerOptions};

use super::EvalArgs;
use super::models::{FamilyModel, Model};
use super::results::{Made, Results};
use crate::commands::series_file::values;

/// Samples of each window unless --count says otherwise.
const USUAL_SAMPLES: usize = 100;
/// Windows that are imputed unless --windows says otherwise.
const USUAL_WINDOWS: usize = 64;
/// Training windows that baselines are fitted to, at most.
const MOST_TRAINING_WINDOWS: usize = 2000;

/// The evaluations of one task, such as the forecast of 12 steps.
pub(super) struct SeriesResults {
    pub(super) task: String,
    pub(super) results: Results,
}

/// Evaluates the models that forecast or impute; none if there is no such model.
pub(super) fn evaluate(args: &EvalArgs, models: &[Model]) -> anyhow::Result<Vec<SeriesResults>> {
    let models: Vec<&Rc<FamilyModel>> = models.iter().filter_map(of_series).collect();
    let Some(newest) = models.last() else { return Ok(Vec::new()) };
    let data = Splits::open(newest)?;
    let runs = models.iter().map(|model| sampled_models(args, model)).collect::<anyhow::Result<Vec<_>>>()?.concat();
    match newest.trained.impute() {
        Some(imputer) if args.horizon.is_none() => {
            let windows = data.test_windows(imputer.window(), args.windows.unwrap_or(USUAL_WINDOWS))?;
            tasks(imputer.window()).into_iter().map(|task| data.impute(args, &runs, &windows, task)).collect()
        }
        _ => Ok(vec![data.forecast(args, &runs)?]),
    }
}

/// The model, if it is one of series.
fn of_series(model: &Model) -> Option<&Rc<FamilyModel>> {
    match model {
        Model::OfFamily(model) => {
            (model.trained.forecast().is_some() || model.trained.impute().is_some()).then_some(model)
        }
        Model::Denoiser(_) => None,
    }
}

/// A model with a sampler and its steps.
#[derive(Clone)]
struct Sampled {
    model: Rc<FamilyModel>,
    draw: SeriesDraw,
    settings: SamplingSettings,
}

/// A model with every sampler and number of steps that was asked for.
fn sampled_models(args: &EvalArgs, model: &Rc<FamilyModel>) -> anyhow::Result<Vec<Sampled>> {
    let (names, steps) = args.sweep.samplers_and_steps();
    let usual = model.trained.usual_sampler();
    let mut found = Vec::new();
    for name in names {
        for steps in &steps {
            let sampler = name.as_ref().map(|name| Sampler::new(name, SamplerOptions::default())).transpose()?;
            let usual_name = usual.as_ref().map_or("as usual", |(name, _)| name);
            let usual_steps = match (&name, &usual) {
                (None, Some((_, steps))) => *steps,
                _ => 0,
            };
            let settings = SamplingSettings {
                step: model.trained.card().step,
                width: model.weights.width,
                sampler: name.clone().unwrap_or_else(|| usual_name.to_string()),
                sampler_steps: steps.unwrap_or(usual_steps),
                levels: "usual".into(),
                guidance: 1.0,
                seed: args.sweep.seed,
                options: Default::default(),
            };
            let samples = args.count.unwrap_or(USUAL_SAMPLES);
            let draw = SeriesDraw { sampler, steps: *steps, ..SeriesDraw::new(args.sweep.seed, samples) };
            found.push(Sampled { model: model.clone(), draw, settings });
        }
    }
    Ok(found)
}

impl Sampled {
    fn name(&self) -> String {
        match self.settings.sampler_steps {
            0 => format!("{}, {}", self.model.name(), self.settings.sampler),
            steps => format!("{}, {} {steps}", self.model.name(), self.settings.sampler),
        }
    }

    fn made(&self) -> Made {
        Made { path: self.model.weights.path.clone(), settings: self.settings.clone() }
    }
}

/// Which values of windows of so many steps are held out: those of the papers on imputation.
fn tasks(window: usize) -> Vec<HeldOut> {
    let steps = (window / 5).max(1);
    let segments = [HeldOut::Segments { steps }, HeldOut::Blackout { steps }, HeldOut::Forecast { steps }];
    HeldOut::USUAL.into_iter().chain(segments.into_iter().filter(|_| window > 1)).collect()
}

/// Both splits of the data of a model.
struct Splits {
    info: DataInfo,
    train: Arc<SeriesSet>,
    test: Arc<SeriesSet>,
}

impl Splits {
    fn open(model: &FamilyModel) -> anyhow::Result<Self> {
        let (card, path) = (model.trained.card(), model.weights.path.display());
        let source = card.source.as_ref();
        let source = source.with_context(|| format!("{path}: the snapshot does not record its training data"))?;
        let set = |split| {
            let OpenData { series, info, .. } = ddpm_data::open(source, split, 0)?;
            series.with_context(|| format!("{}: its data are not series", info.name))
        };
        let (train, test) = (set(Split::Train)?, set(Split::Test)?);
        Ok(Self { info: card.data.clone(), train, test })
    }

    fn variables(&self) -> usize {
        self.info.shape[0]
    }

    fn names(&self) -> &[String] {
        self.info.series.as_ref().map_or(&[], |info| &info.variables)
    }

    fn bounds(&self) -> Vec<[f64; 2]> {
        let of_info = |info: &ddpm_data::series::SeriesInfo| {
            let pairs = info.lowest.iter().zip(&info.highest);
            pairs.map(|(low, high)| [low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY)]).collect()
        };
        self.info.series.as_ref().map(of_info).unwrap_or_default()
    }

    /// Rolling windows of the test split, each right behind the one before.
    fn rolling(&self, horizon: usize) -> Vec<(usize, usize)> {
        let of_series = |number: usize| {
            let steps = self.test.steps(number);
            let last = steps.end.checked_sub(horizon).filter(|last| *last >= steps.start.max(1));
            let starts = last.map(|last| (steps.start.max(1)..=last).step_by(horizon));
            starts.into_iter().flatten().map(move |start| (number, start))
        };
        (0..self.test.series().len()).flat_map(of_series).collect()
    }

    fn forecast(&self, args: &EvalArgs, runs: &[Sampled]) -> anyhow::Result<SeriesResults> {
        let newest = runs.last().and_then(|run| run.model.trained.forecast());
        let Some(newest) = newest else { bail!("--horizon: the model does not forecast") };
        let horizon = args.horizon.unwrap_or_else(|| newest.usual_horizon());
        let mut windows = self.rolling(horizon);
        if windows.is_empty() {
            bail!("{}: its test split has no {horizon} steps that follow others", self.info.name);
        }
        spread(&mut windows, args.windows.unwrap_or(usize::MAX));
        let series = self.test.series();
        let whole: Vec<Vec<f64>> = series.iter().map(|one| values(one, 0..one.target.steps(), false)).collect();
        let history = |&(number, start): &(usize, usize)| {
            Rows::new(&whole[number][..start * self.variables()], self.variables(), 0)
        };
        let histories = windows.iter().map(history).collect::<Result<Vec<_>, _>>()?;
        let truth_of = |&(number, start): &(usize, usize)| values(&series[number], start..start + horizon, true);
        let truth: Vec<f64> = windows.iter().flat_map(truth_of).collect();
        let training = |number: usize| values(&self.train.series()[number], self.train.steps(number), false);
        let train: Vec<f64> = (0..self.train.series().len()).flat_map(training).collect();
        let (seed, paths) = (args.sweep.seed, args.count.unwrap_or(USUAL_SAMPLES));
        let task = ForecastTask { train: Rows::new(&train, self.variables(), 0)?, histories, horizon, paths, seed };
        let frequency = series.first().and_then(frequency_of);
        let usual_periods = frequency.map(period::candidates).unwrap_or_default();
        let bounds = self.bounds();
        let evaluation = ForecastEvaluation {
            task,
            truth: &truth,
            names: self.names(),
            usual_periods: &usual_periods,
            bounds: &bounds,
        };
        let season = period::find(evaluation.task.train, &usual_periods);
        let stretch = |(number, (of, start)): (usize, &(usize, usize))| Stretch {
            series: &series[*of],
            start: 0,
            end: *start,
            number: number as u64,
        };
        let pasts: Vec<Stretch<'_>> = windows.iter().enumerate().map(stretch).collect();
        let predict = |run: &Sampled| {
            let model: &dyn Forecast = run.model.trained.forecast().context("a snapshot does not forecast")?;
            let paths = model.forecast(&pasts, horizon, &run.draw).map_err(anyhow::Error::from_boxed)?;
            Ok(Predictions { samples: run.draw.samples, values: paths.into_iter().map(f64::from).collect() })
        };
        let results = evaluate_all(runs, predict, |samples, is_first| match is_first {
            true => Ok(evaluation.evaluate(samples)?),
            false => Ok(evaluation.evaluate_with(samples, season, &[])?),
        })?;
        Ok(SeriesResults { task: format!("forecast of {horizon} steps"), results })
    }

    /// Windows of the test split that do not overlap.
    fn test_windows(&self, length: usize, most: usize) -> anyhow::Result<Vec<Series>> {
        let mut places: Vec<(usize, usize)> = Vec::new();
        for number in 0..self.test.series().len() {
            let steps = self.test.steps(number);
            let last = steps.end.checked_sub(length).filter(|last| *last >= steps.start);
            places
                .extend(last.into_iter().flat_map(|last| (steps.start..=last).step_by(length)).map(|at| (number, at)));
        }
        if places.is_empty() {
            bail!("{}: its test split has no window of {length} steps", self.info.name);
        }
        spread(&mut places, most);
        Ok(places.into_iter().map(|(number, start)| self.test.series()[number].cut(start..start + length)).collect())
    }

    /// Windows of the training split, `[N, L, K]` and N.
    fn training_windows(&self, length: usize) -> anyhow::Result<(Vec<f64>, usize)> {
        let data = self.train.windows(WindowShape::of_length(length));
        let mut places: Vec<usize> = (0..data.items.len()).collect();
        spread(&mut places, MOST_TRAINING_WINDOWS);
        let mut all = Vec::new();
        for place in &places {
            let item = data.items.get(*place)?;
            let Some(window) = item.window else { bail!("{}: its items are no windows", self.info.name) };
            for step in 0..length {
                for variable in 0..self.variables() {
                    let at = variable * length + step;
                    let is_given = window.cells[at] == ddpm_data::series::Cell::Observed;
                    let value = self.train.info().units.data_unit(variable, f64::from(item.values[at]));
                    all.push(if is_given { value } else { f64::NAN });
                }
            }
        }
        Ok((all, places.len()))
    }

    fn impute(
        &self,
        args: &EvalArgs,
        runs: &[Sampled],
        windows: &[Series],
        task: HeldOut,
    ) -> anyhow::Result<SeriesResults> {
        let (length, seed) = (windows[0].target.steps(), args.sweep.seed);
        let shape = [windows.len(), length, self.variables()];
        let truth: Vec<f64> = windows.iter().flat_map(|window| values(window, 0..length, true)).collect();
        let (mut held_out, mut hidden) = (Vec::new(), windows.to_vec());
        for (number, window) in hidden.iter_mut().enumerate() {
            let observed: Vec<bool> = values(window, 0..length, false).iter().map(|value| value.is_finite()).collect();
            let mask = task.of_window(&observed, [length, self.variables()], seed, number as u64)?;
            for at in (0..mask.len()).filter(|at| mask[*at]) {
                window.target.hide(at / self.variables(), at % self.variables());
            }
            held_out.extend(mask);
        }
        let given: Vec<bool> = truth.iter().zip(&held_out).map(|(value, held)| value.is_finite() && !held).collect();
        let (train, count) = self.training_windows(length)?;
        let bounds = self.bounds();
        let evaluation = ImputationEvaluation {
            task: ImputationTask {
                train: WindowArray::new(&train, [count, length, self.variables()])?,
                test: WindowArray::new(&truth, shape)?,
                given: &given,
                samples: args.count.unwrap_or(USUAL_SAMPLES),
                seed,
            },
            scored: &held_out,
            names: self.names(),
            bounds: &bounds,
        };
        let stretch = |(number, series)| Stretch { series, start: 0, end: length, number: number as u64 };
        let stretches: Vec<Stretch<'_>> = hidden.iter().enumerate().map(stretch).collect();
        let predict = |run: &Sampled| {
            let model: &dyn Impute = run.model.trained.impute().context("a snapshot does not impute")?;
            let samples = model.impute(&stretches, &run.draw).map_err(anyhow::Error::from_boxed)?;
            Ok(by_window(&samples, run.draw.samples, shape))
        };
        let mut results = evaluate_all(runs, predict, |samples, is_first| match is_first {
            true => Ok(evaluation.evaluate(samples)?),
            false => Ok(evaluation.evaluate_with(samples, &[])?),
        })?;
        for evaluation in &mut results.evaluations {
            evaluation.against = format!("{task}: {}", evaluation.against);
        }
        Ok(SeriesResults { task: task.to_string(), results })
    }
}

/// Samples `[M, W, L, K]` as predictions of windows `[W, M, L, K]`.
fn by_window(samples: &[f32], count: usize, [windows, length, variables]: [usize; 3]) -> Predictions {
    let size = length * variables;
    let places = (0..windows).flat_map(|window| (0..count).map(move |sample| (sample * windows + window) * size));
    let values = places.flat_map(|start| samples[start..start + size].iter().map(|value| f64::from(*value))).collect();
    Predictions { samples: count, values }
}

/// The evaluations of all models, and those of the baselines behind them, which the first brings along.
fn evaluate_all(
    runs: &[Sampled],
    predict: impl Fn(&Sampled) -> anyhow::Result<Predictions>,
    evaluate: impl Fn(&ModelSamples<'_>, bool) -> anyhow::Result<SeriesEvaluation>,
) -> anyhow::Result<Results> {
    let mut results = Results::default();
    let mut baselines: Vec<Evaluation> = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let (name, predictions) = (run.name(), predict(run)?);
        let found = evaluate(&ModelSamples { name: &name, predictions: &predictions }, number == 0)?;
        results.evaluations.push(found.model);
        results.made.push(run.made());
        baselines.extend(found.baselines);
    }
    results.evaluations.extend(baselines);
    Ok(results)
}

/// At most so many of these, evenly spread.
fn spread<T: Copy>(places: &mut Vec<T>, most: usize) {
    let count = places.len();
    if count > most {
        *places = (0..most).map(|k| places[k * count / most]).collect();
    }
}

fn frequency_of(series: &Series) -> Option<Frequency> {
    match series.index {
        Index::Times { frequency, .. } => Some(frequency),
        Index::Counted => None,
    }
}
