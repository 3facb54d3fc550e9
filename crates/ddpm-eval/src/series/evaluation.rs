//! The evaluation of a model of series: its scores, and always those of the classical baselines on the same windows.
//!
//! Scores are over held-out values only, in the units of the data, over all variables and for each. The model and every
//! baseline is an [`Evaluation`], as records store them (the baselines as its floors); what could not be fitted is listed
//! with its reason.

use serde::{Deserialize, Serialize};

use super::baselines::{ForecastBaseline, ForecastTask, ImputationBaseline, ImputationTask};
use super::metrics::{Pairs, Point, Quantile, ScoredSamples, seasonal_errors, usual_levels};
use super::period;
use super::rows::{Predictions, deviations};
use crate::EvaluationError;
use crate::metrics::{Evaluation, Measurement};

/// With more variables than this there are no scores for each.
const MOST_VARIABLES: usize = 40;
/// Samples of baselines where the model makes point forecasts.
const USUAL_SAMPLES: usize = 100;

/// What a model predicts of the windows.
#[derive(Clone, Copy, Debug)]
pub struct ModelSamples<'a> {
    /// The model's name in tables.
    pub name: &'a str,
    /// Its samples.
    pub predictions: &'a Predictions,
}

/// The scores of a model and of its baselines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesEvaluation {
    /// Those of the model; its warnings name the baselines that were left out.
    pub model: Evaluation,
    /// Those of the baselines.
    pub baselines: Vec<Evaluation>,
    /// Baselines that could not be fitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A baseline that could not be fitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Values that methods are scored on.
#[derive(Clone, Debug)]
pub struct Scoring<'a> {
    /// Windows, steps and variables of the values: [W, L, K].
    pub shape: [usize; 3],
    /// The true values in this shape; those that are not scored may be NaN.
    pub truth: &'a [f64],
    /// Which of them are scored.
    pub scored: Vec<bool>,
    /// Names of the variables.
    pub names: &'a [String],
    /// Standard deviation of every variable in the training data.
    pub deviations: Vec<f64>,
    /// The season of MASE in steps, and the mean absolute difference over it in the history of every window, for every
    /// variable: [W, K]. Not of filled-in values.
    pub seasonal: Option<(usize, Vec<f64>)>,
    /// Least and greatest value of every variable, such as 0 and infinity of rain, that baselines keep as a model does; may
    /// be empty.
    pub bounds: &'a [[f64; 2]],
}

impl Scoring<'_> {
    fn check(&self) -> Result<(), EvaluationError> {
        let [_, _, k] = self.shape;
        let values = self.shape.iter().product::<usize>();
        let refuse = |reason: String| Err(EvaluationError::Argument { what: "the evaluation of series", reason });
        if ![0, k].contains(&self.bounds.len()) || self.deviations.len() != k {
            return refuse(format!(
                "{} bounds and {} deviations of {k} variables",
                self.bounds.len(),
                self.deviations.len()
            ));
        }
        if self.truth.len() != values || self.scored.len() != values || self.names.len() != k {
            let found = [self.truth.len(), self.scored.len(), self.names.len()];
            return refuse(format!("values, mask and names of {found:?} items; expected [W, L, K] {:?}", self.shape));
        }
        let missing = self.truth.iter().zip(&self.scored).filter(|(value, scored)| **scored && !value.is_finite());
        match missing.count() {
            0 if self.scored.contains(&true) => Ok(()),
            0 => refuse("no value is scored".into()),
            count => refuse(format!("{count} of the scored values are not there")),
        }
    }

    /// The scores of a method.
    pub fn evaluate(&self, name: &str, predictions: &Predictions) -> Result<Evaluation, EvaluationError> {
        self.check()?;
        let [w, l, k] = self.shape;
        let shape = [w, predictions.samples, l, k];
        self.check_predictions(predictions)?;
        let mask: Vec<f64> = self.scored.iter().map(|scored| f64::from(u8::from(*scored))).collect();
        let forecast = ScoredSamples::new(shape, &predictions.values, self.truth, Some(&mask))?;
        let sum = match k {
            1 => None,
            _ => ScoredSamples::complete_sum_over_variables(shape, &predictions.values, self.truth, &mask)?,
        };
        let mut scores = Scores { samples: predictions.samples, windows: w, all: Vec::new() };
        scores.of_all(&forecast, sum.as_ref());
        scores.add("CRPS in deviations, energy form", "", &forecast, |forecast| {
            forecast.scaled_energy_crps(Pairs::All, &self.deviations)
        });
        if let Some((season, errors)) = &self.seasonal {
            let metric = format!("MASE of the median, season {season}");
            scores.add(&metric, "", &forecast, |forecast| forecast.scaled_mae(errors, Quantile::Linear));
        }
        if (2..=MOST_VARIABLES).contains(&k) {
            for (variable, name) in self.names.iter().enumerate() {
                scores.of_variable(&forecast.variable(variable), name, self.deviations[variable]);
            }
        }
        let measured = scores.all;
        let against = format!("{w} windows of {l} steps, {k} variables, {} values", forecast.scored());
        let (class_shares, warnings) = (Vec::new(), Vec::new());
        Ok(Evaluation { of: name.to_string(), count: w, against, measured, class_shares, warnings })
    }

    fn check_predictions(&self, predictions: &Predictions) -> Result<(), EvaluationError> {
        let [w, l, k] = self.shape;
        let (found, samples) = (predictions.values.len(), predictions.samples);
        let refuse = |reason: String| Err(EvaluationError::Argument { what: "predictions of series", reason });
        if samples == 0 || found != samples * w * l * k {
            return refuse(format!("{found} values; expected those of [{w}, {samples}, {l}, {k}]"));
        }
        let is_scored = |place: usize| self.scored[place / (samples * l * k) * l * k + place % (l * k)];
        let broken = |(place, value): &(usize, &f64)| !value.is_finite() && is_scored(*place);
        match predictions.values.iter().enumerate().filter(broken).count() {
            0 => Ok(()),
            count => refuse(format!("{count} of {found} values are not finite")),
        }
    }

    /// The model, and all baselines that can be fitted.
    fn compare(
        &self,
        model: &ModelSamples<'_>,
        baselines: impl Iterator<Item = (String, Result<Predictions, EvaluationError>)>,
    ) -> Result<SeriesEvaluation, EvaluationError> {
        let mut found = SeriesEvaluation {
            model: self.evaluate(model.name, model.predictions)?,
            baselines: Vec::new(),
            left_out: Vec::new(),
        };
        for (name, predictions) in baselines {
            match predictions.and_then(|predictions| self.evaluate(&name, &predictions.within(self.bounds))) {
                Ok(evaluation) => found.baselines.push(evaluation),
                Err(error) => found.left_out.push(LeftOut { name, reason: error.to_string() }),
            }
        }
        let left_out = found.left_out.iter().map(|left_out| format!("{} left out: {}", left_out.name, left_out.reason));
        found.model.warnings = left_out.collect();
        Ok(found)
    }
}

/// Scores with their names.
struct Scores {
    samples: usize,
    windows: usize,
    all: Vec<Measurement>,
}

impl Scores {
    fn add(&mut self, metric: &str, of: &str, forecast: &ScoredSamples, score: impl Fn(&ScoredSamples) -> f64) {
        let value = score(forecast);
        // Such as a share of nothing but zeros.
        if value.is_finite() {
            let metric = if of.is_empty() { metric.to_string() } else { format!("{metric}; {of}") };
            let (windows, values) = (self.windows, forecast.scored());
            let samples = if self.samples == 1 { "points".into() } else { format!("{} samples", self.samples) };
            let name = format!("{metric} ({samples}; {values} values of {windows} windows)");
            self.all.push(Measurement { metric, name, value, deviation: None });
        }
    }

    fn of_all(&mut self, forecast: &ScoredSamples, sum: Option<&ScoredSamples>) {
        self.crps("CRPS", forecast);
        if let Some(sum) = sum {
            self.crps("CRPS-sum", sum);
        }
        self.of_median("", forecast);
        self.add("NRMSE of the mean", "", forecast, ScoredSamples::normalized_rmse);
        self.coverage("", forecast);
        for level in usual_levels().into_iter().skip(1).step_by(2) {
            let loss = |forecast: &ScoredSamples| {
                forecast.quantile_losses(&[level], Quantile::Linear)[0] / forecast.absolute_target_sum()
            };
            self.add(&format!("quantile loss {level}, linear quantiles"), "", forecast, loss);
        }
    }

    fn of_variable(&mut self, forecast: &ScoredSamples, name: &str, deviation: f64) {
        let levels = usual_levels();
        self.add("CRPS, linear quantiles", name, forecast, |f| f.quantile_crps(&levels, Quantile::Linear));
        let scaled = |forecast: &ScoredSamples| forecast.scaled_energy_crps(Pairs::All, &[deviation]);
        self.add("CRPS in deviations, energy form", name, forecast, scaled);
        self.of_median(name, forecast);
        self.coverage(name, forecast);
    }

    fn crps(&mut self, name: &str, forecast: &ScoredSamples) {
        let levels = usual_levels();
        for (estimator, rule) in [("nearest", Quantile::Nearest), ("linear", Quantile::Linear)] {
            let metric = format!("{name}, {estimator} quantiles");
            self.add(&metric, "", forecast, |forecast| forecast.quantile_crps(&levels, rule));
        }
        self.add(&format!("{name}, energy form"), "", forecast, |f| f.normalized_energy_crps(Pairs::All));
    }

    fn of_median(&mut self, of: &str, forecast: &ScoredSamples) {
        self.add("MAE of the median", of, forecast, |forecast| forecast.mae(Quantile::Linear));
        self.add("RMSE of the median", of, forecast, |forecast| forecast.rmse(Point::Median));
        self.add("ND of the median", of, forecast, |forecast| forecast.normalized_deviation(Quantile::Linear));
    }

    /// Of samples: a point forecast has no intervals.
    fn coverage(&mut self, of: &str, forecast: &ScoredSamples) {
        for (name, level) in [("coverage of 50 % intervals", 0.5), ("coverage of 90 % intervals", 0.9)] {
            if self.samples > 1 {
                self.add(name, of, forecast, |forecast| forecast.coverage(level));
            }
        }
    }
}

/// Forecasts to be evaluated.
#[derive(Clone, Debug)]
pub struct ForecastEvaluation<'a> {
    /// The training rows, the histories, the horizon, and the seed of the baselines, which draw as many paths as the model.
    pub task: ForecastTask<'a>,
    /// The true values [W, H, K], NaN where there is none.
    pub truth: &'a [f64],
    /// Names of the variables.
    pub names: &'a [String],
    /// Periods that are usual for the frequency of the series: [`period::candidates`].
    pub usual_periods: &'a [usize],
    /// Bounds that the values of baselines keep: [`Scoring::bounds`].
    pub bounds: &'a [[f64; 2]],
}

impl ForecastEvaluation<'_> {
    /// Scores the model and the baselines that suit the series.
    pub fn evaluate(&self, model: &ModelSamples<'_>) -> Result<SeriesEvaluation, EvaluationError> {
        let period = period::find(self.task.train, self.usual_periods);
        self.evaluate_with(model, period, &ForecastBaseline::usual(period))
    }

    /// The same with this period, or none, and with these baselines.
    pub fn evaluate_with(
        &self,
        model: &ModelSamples<'_>,
        period: Option<usize>,
        baselines: &[ForecastBaseline],
    ) -> Result<SeriesEvaluation, EvaluationError> {
        let season = period.unwrap_or(1);
        let errors = self.task.histories.iter().flat_map(|history| seasonal_errors(*history, season)).collect();
        let scoring = Scoring {
            shape: [self.task.histories.len(), self.task.horizon, self.task.train.variables()],
            truth: self.truth,
            scored: self.truth.iter().map(|value| value.is_finite()).collect(),
            names: self.names,
            deviations: deviations(self.task.train),
            seasonal: Some((season, errors)),
            bounds: self.bounds,
        };
        let task = ForecastTask { paths: samples_like(model), ..self.task.clone() };
        scoring.compare(model, baselines.iter().map(|baseline| (baseline.to_string(), baseline.forecast(&task))))
    }
}

fn samples_like(model: &ModelSamples<'_>) -> usize {
    match model.predictions.samples {
        0 | 1 => USUAL_SAMPLES,
        samples => samples,
    }
}

/// Filled-in windows to be evaluated.
#[derive(Clone, Debug)]
pub struct ImputationEvaluation<'a> {
    /// The training windows, the windows with their true values, what is given of them, and the seed of the baselines,
    /// which draw as many samples as the model.
    pub task: ImputationTask<'a>,
    /// Which values are scored: they must not be given.
    pub scored: &'a [bool],
    /// Names of the variables.
    pub names: &'a [String],
    /// Bounds that the values of baselines keep: [`Scoring::bounds`].
    pub bounds: &'a [[f64; 2]],
}

impl ImputationEvaluation<'_> {
    /// Scores the model and the baselines that suit the windows.
    pub fn evaluate(&self, model: &ModelSamples<'_>) -> Result<SeriesEvaluation, EvaluationError> {
        self.evaluate_with(model, &ImputationBaseline::usual(self.task.train))
    }

    /// The same with these baselines.
    pub fn evaluate_with(
        &self,
        model: &ModelSamples<'_>,
        baselines: &[ImputationBaseline],
    ) -> Result<SeriesEvaluation, EvaluationError> {
        let known = self.task.given.iter().zip(self.scored).filter(|(given, scored)| **given && **scored).count();
        if known > 0 {
            let reason = format!("{known} values are given and scored: a model would be scored on what it was shown");
            return Err(EvaluationError::Argument { what: "the evaluation of filled-in values", reason });
        }
        let scoring = Scoring {
            shape: self.task.test.shape(),
            truth: self.task.test.values(),
            scored: self.scored.to_vec(),
            names: self.names,
            deviations: deviations(self.task.train.rows()),
            seasonal: None,
            bounds: self.bounds,
        };
        let task = ImputationTask { samples: samples_like(model), ..self.task };
        scoring.compare(model, baselines.iter().map(|baseline| (baseline.to_string(), baseline.impute(&task))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::{Record, SamplingSettings};
    use crate::report::table_of_series;
    use crate::series::{Rows, WindowArray};
    use ddpm_data::random::{Stream, normals, rng};

    /// The model, and behind it the baselines.
    fn all(found: &SeriesEvaluation) -> Vec<Evaluation> {
        std::iter::once(&found.model).chain(&found.baselines).cloned().collect()
    }

    /// Two variables with a season of 6 steps.
    fn series(steps: usize) -> Vec<f64> {
        let noise = normals(&mut rng(1, Stream::Probe, 0), 2 * steps);
        let value = |(place, noise): (usize, &f32)| {
            10.0 + 4.0 * ((place / 2 + place % 2) as f64 * std::f64::consts::TAU / 6.0).sin() + 0.3 * f64::from(*noise)
        };
        noise.iter().enumerate().map(value).collect()
    }

    fn names() -> [String; 2] {
        ["ab", "a"].map(String::from)
    }

    fn evaluate_forecasts(values: &[f64], train: usize, truth: &[f64]) -> SeriesEvaluation {
        let rows = Rows::new(values, 2, 0).unwrap();
        let histories = vec![rows.first(train), rows.first(train + 3)];
        let task = ForecastTask { train: rows.first(train), histories, horizon: 3, paths: 0, seed: 0 };
        let (names, usual_periods, bounds) = (&names(), &[][..], &[][..]);
        let predictions = Predictions::points(values[2 * train..2 * (train + 6)].to_vec());
        let model = ModelSamples { name: "model", predictions: &predictions };
        ForecastEvaluation { task, truth, names, usual_periods, bounds }.evaluate(&model).unwrap()
    }

    fn value(evaluation: &Evaluation, metric: &str) -> f64 {
        evaluation.value(metric).unwrap().value
    }

    #[test]
    fn baselines_are_next_to_the_model() {
        let values = series(206);
        let truth = &values[2 * 200..];
        let found = evaluate_forecasts(&values, 200, truth);
        assert_eq!((value(&found.model, "CRPS, linear"), found.left_out.len()), (0.0, 0));
        let rows: Vec<&str> = found.baselines.iter().map(|baseline| baseline.of.as_str()).collect();
        let season = "season of 6 means";
        let vars =
            [format!("{season} + VAR(1)"), format!("{season} + VAR(2)"), format!("{season} + VAR(2), residuals drawn")];
        let climatology = format!("{season} + residuals");
        let rest = ["last value", "mean", "seasonal naive, period 6", &climatology, "VAR(3)"];
        assert_eq!(rows, rest.into_iter().chain(vars.iter().map(String::as_str)).collect::<Vec<_>>());
        // The season is most of the series, and noise the rest.
        let crps = |row: usize| value(&found.baselines[row], "CRPS in deviations");
        assert!(crps(3) < 0.1 && crps(3) < crps(2) && crps(2) < crps(1), "{} {} {}", crps(1), crps(2), crps(3));
        assert!((value(&found.baselines[3], "MASE") - 0.7).abs() < 0.3);
        assert!(found.baselines[3].value("coverage of 90 %").is_some() && found.model.value("coverage").is_none());
        let name = &found.baselines[3].value("CRPS-sum, energy form").unwrap().name;
        assert_eq!(name, "CRPS-sum, energy form (100 samples; 6 values of 2 windows)");

        let text = table_of_series(&all(&found));
        assert!(text.starts_with("2 windows of 3 steps, 2 variables, 12 values\nCRPS by linear quantiles "), "{text}");
        assert!(
            text.contains("\nCRPS of ")
                && text.contains(" ab ")
                && text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        let json = serde_json::to_string(&found).unwrap();
        // Numbers come back to all digits but the last.
        let again = serde_json::from_str::<SeriesEvaluation>(&json).unwrap();
        assert_eq!((&again.model, again.baselines.len()), (&found.model, 8));
        let levels = serde_json::Value::Null;
        let sampler = "one pass".to_string();
        let options = Default::default();
        let how = SamplingSettings {
            step: 1,
            width: None,
            sampler,
            sampler_steps: 1,
            levels,
            guidance: 1.0,
            seed: 0,
            options,
        };
        let record = Record::now(how, found.model.clone(), &found.baselines);
        assert_eq!(record.floors.len(), 8);
    }

    #[test]
    fn values_that_are_not_there_are_not_scored() {
        let values = series(206);
        let mut truth = values[2 * 200..].to_vec();
        (1..12).for_each(|place| truth[place] = f64::NAN);
        let found = evaluate_forecasts(&values, 200, &truth);
        assert!(found.model.against.ends_with(" 1 values") && found.model.value("CRPS-sum").is_none());
        let error = value(&found.baselines[0], "MAE of the median");
        assert_eq!(error, (values[2 * 199] - values[2 * 200]).abs());
        // Of a variable without a scored value there is no score, and "a" is not mistaken for "ab".
        assert_eq!(value(&found.baselines[0], "MAE of the median; ab"), error);
        assert!(
            found.baselines[0].value("MAE of the median; a").is_some_and(|measured| measured.metric.ends_with("ab"))
        );
    }

    #[test]
    fn what_cannot_be_fitted_is_left_out_by_name() {
        let mut values = series(40);
        // A variable that never changes, and a gap in the history.
        values.iter_mut().skip(1).step_by(2).for_each(|value| *value = 5.0);
        values[2 * 29] = f64::NAN;
        let truth = values[2 * 30..2 * 36].to_vec();
        let found = evaluate_forecasts(&values, 30, &truth);
        let names: Vec<&str> = found.left_out.iter().map(|left_out| left_out.name.as_str()).collect();
        assert!(names.contains(&"VAR(3)") && found.left_out[0].reason.contains("singular"), "{:?}", found.left_out);
        assert_eq!(found.model.warnings.len(), found.left_out.len());
        assert!(found.baselines.iter().any(|baseline| baseline.of == "last value"));
        assert!(table_of_series(&all(&found)).contains("VAR(3) left out: "));
        // A training set of three rows, the last of them after the second window's history.
        let few = series(9);
        let found = evaluate_forecasts(&few, 3, &few[6..]);
        assert!(found.left_out.iter().all(|left_out| left_out.reason.contains("at least")), "{:?}", found.left_out);
        assert!(!found.left_out.is_empty() && found.baselines.len() >= 2);
    }

    #[test]
    fn filled_in_values() {
        let values = series(60 * 12);
        let train = WindowArray::new(&values[..50 * 24], [50, 12, 2]).unwrap();
        let test = WindowArray::new(&values[50 * 24..], [10, 12, 2]).unwrap();
        let scored: Vec<bool> = (0..240).map(|place| place % 5 == 0).collect();
        let given: Vec<bool> = scored.iter().map(|scored| !scored).collect();
        let task = ImputationTask { train, test, given: &given, samples: 0, seed: 0 };
        let truth = Predictions { samples: 1, values: test.values().to_vec() };
        let model = ModelSamples { name: "model", predictions: &truth };
        let (names, bounds) = (&names(), &[[f64::NEG_INFINITY, f64::INFINITY], [0.0, 10.0]][..]);
        let evaluation = ImputationEvaluation { task, scored: &scored, names, bounds };
        let found = evaluation.evaluate(&model).unwrap();
        assert_eq!((found.left_out.len(), found.baselines.len()), (0, 6), "{:?}", found.left_out);
        assert!(found.model.against.ends_with(" 48 values"));
        let error = |baseline: &str, metric: &str| {
            value(found.baselines.iter().find(|row| row.of.starts_with(baseline)).unwrap(), metric)
        };
        assert!(error("Gaussian", "MAE of the median; ab") < error("linear", "MAE of the median; ab"));
        assert!(error("period copy", "MAE of the median; ab") < error("mean", "MAE of the median; ab"));
        // Values above 10 were cut off.
        assert!(error("Gaussian", "MAE of the median; a") > 0.5);

        let all = vec![true; 240];
        let given = ImputationTask { given: &all, ..task };
        let shown = ImputationEvaluation { task: given, ..evaluation.clone() }.evaluate(&model).unwrap_err();
        assert!(shown.to_string().contains("48 values are given and scored"), "{shown}");
        let broken = Predictions { samples: 1, values: vec![f64::NAN; 240] };
        let broken = evaluation.evaluate(&ModelSamples { name: "model", predictions: &broken }).unwrap_err();
        assert!(broken.to_string().contains("48 of 240 values are not finite"), "{broken}");
        let short = Predictions { samples: 2, values: vec![0.0; 240] };
        assert!(evaluation.evaluate(&ModelSamples { name: "model", predictions: &short }).is_err());
    }
}
