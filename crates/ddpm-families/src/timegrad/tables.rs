//! What an experiment says of a TimeGrad model, and what of it follows from the data.

use ddpm_data::DataInfo;
use ddpm_data::series::SeriesSet;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{ScheduleConfig, ScheduleError};
use ddpm_model::timegrad::{Cell, DenoiserConfig, MlpConfig, NoiseLoss, TimeGradConfig, schedule};
use ddpm_model::variance::Variance;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::features::{FeatureSet, TimeFeatures, frequency_of};
use super::lags::{lags_of_data, lags_of_frequency};
use crate::family::Problem;

/// The sections of a TimeGrad model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeGradTables {
    /// The networks: a recurrent one over the past, and a denoiser of all variables of one step given its state.
    #[serde(default)]
    pub model: ModelKeys,
    /// What the recurrent network reads, and what training minimizes.
    #[serde(default)]
    pub timegrad: ForecastKeys,
    /// The diffusion of the values of one step.
    #[serde(default)]
    pub diffusion: StepKeys,
}

/// The networks of TimeGrad (Rasul et al. 2021). The defaults of the recurrent network are those of its authors' examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelKeys {
    /// The kind of recurrent cell.
    pub cell: Cell,
    /// Layers of recurrent cells.
    pub layers: usize,
    /// Width of each of these layers.
    #[serde(alias = "num_cells")]
    pub cells: usize,
    /// Dropout between these layers while training.
    pub dropout: f64,
    /// Width of what the denoiser is conditioned on.
    pub conditioning_length: usize,
    /// The network that removes noise.
    pub denoiser: DenoiserConfig,
}

impl Default for ModelKeys {
    fn default() -> Self {
        let TimeGradConfig { cell, layers, cells, dropout, conditioning_length, .. } = TimeGradConfig::default();
        let denoiser = DenoiserConfig::Mlp(MlpConfig::default());
        Self { cell, layers, cells, dropout, conditioning_length, denoiser }
    }
}

/// What the recurrent network reads of a series, and what is learned of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForecastKeys {
    /// Steps of the past that the recurrent network reads before a forecast; 0: as many as the horizon.
    #[serde(alias = "context_length")]
    pub context: usize,
    /// Steps of a forecast that are trained behind the context. Forecasts may be longer.
    #[serde(alias = "prediction_length")]
    pub horizon: usize,
    /// How many steps back the values are that the recurrent network reads at each step; empty: by the frequency, or
    /// without one by the season that the training data show.
    pub lags: Vec<usize>,
    /// What the recurrent network reads of the time of a step.
    pub time_features: FeatureSet,
    /// What the values are divided by.
    pub scaling: Scaling,
    /// How the prediction of the denoiser is compared with what it should be.
    pub loss: NoiseLoss,
    /// Diffusion steps, each with its own noise, that are trained at each step of a series: the recurrent network runs once
    /// for all of them.
    pub noises_per_step: usize,
}

impl Default for ForecastKeys {
    fn default() -> Self {
        Self {
            context: 0,
            horizon: 24,
            lags: Vec::new(),
            time_features: FeatureSet::default(),
            scaling: Scaling::default(),
            loss: NoiseLoss::default(),
            noises_per_step: 4,
        }
    }
}

/// What the values of a variable are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Mean and standard deviation of the training data.
    #[default]
    Standard,
    /// The mean absolute value in the context of each window, as in the original: for many series of different size.
    Mean,
    /// Nothing: the units of the data.
    None,
}

/// The diffusion of the values of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StepKeys {
    /// Steps of the diffusion.
    #[serde(alias = "diff_steps")]
    pub steps: usize,
    /// How the noise grows.
    #[serde(alias = "beta_schedule")]
    pub schedule: ScheduleName,
    /// The last beta, for the schedules `"linear"`, `"quad"`, `"sigmoid"` and `"const"`.
    pub beta_end: f64,
    /// What the denoiser predicts.
    pub prediction: Prediction,
}

impl Default for StepKeys {
    fn default() -> Self {
        Self { steps: 100, schedule: ScheduleName::default(), beta_end: 0.1, prediction: Prediction::default() }
    }
}

/// Noise schedules, as pytorch-ts names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// Betas in even steps.
    #[default]
    Linear,
    /// Square roots of the betas in even steps.
    #[serde(alias = "quadratic")]
    Quad,
    /// The same beta at every step.
    #[serde(alias = "constant")]
    Const,
    /// Betas along a logistic curve.
    Sigmoid,
    /// Alpha-bar follows a squared cosine.
    Cosine,
}

impl StepKeys {
    fn config(&self) -> ScheduleConfig {
        let name = match self.schedule {
            ScheduleName::Linear => "linear",
            ScheduleName::Quad => "quad",
            ScheduleName::Const => "const",
            ScheduleName::Sigmoid => "sigmoid",
            ScheduleName::Cosine => "cosine",
        };
        // Never refused: these are names that it knows.
        schedule(name, self.steps, self.beta_end).unwrap_or_default()
    }

    /// The betas; none where they make no schedule.
    pub(super) fn betas(&self) -> Vec<f64> {
        self.config().init().map(|schedule| schedule.betas).unwrap_or_default()
    }

    /// The process, with its tables.
    pub(super) fn init(&self) -> Result<Diffusion, ScheduleError> {
        let schedule = self.config().init()?;
        Ok(Diffusion::Discrete(GaussianDiffusion::new(schedule, self.prediction, Variance::FixedSmall)))
    }
}

impl TimeGradTables {
    /// The sections, each with what must be in it; more than once where kinds have keys of their own.
    pub(super) const SECTIONS: &'static [(&'static str, &'static str)] = &[
        ("model", ""),
        ("model", "denoiser = { kind = 'convolution' }"),
        ("model", "denoiser = { kind = 'attention' }"),
        ("timegrad", ""),
        ("diffusion", ""),
    ];

    /// Reads the sections. The name of a schedule may come as a table with nothing else in it, as other families have it.
    pub(super) fn read(mut tables: Table) -> Result<Self, String> {
        if let Some(schedule) = tables.get_mut("diffusion").and_then(|diffusion| diffusion.get_mut("schedule"))
            && let Value::Table(kind) = schedule
            && kind.len() == 1
            && let Some(name) = kind.remove("kind")
        {
            *schedule = name;
        }
        Self::deserialize(Value::Table(tables)).map_err(|error| error.message().to_string())
    }

    /// What is wrong with the values, before the data are known.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let keys = &self.timegrad;
        let mut problems = Vec::new();
        for (key, value) in [("horizon", keys.horizon), ("noises_per_step", keys.noises_per_step)] {
            if value == 0 {
                problems.push((format!("timegrad.{key}"), "must be at least 1, not 0".to_string()));
            }
        }
        if keys.lags.contains(&0) {
            problems.push(("timegrad.lags".into(), "must be at least 1: 0 is the value to forecast".into()));
        }
        if self.diffusion.prediction == Prediction::PosteriorMean {
            let message = "must be \"eps\", \"x0\" or \"v\", not \"posterior-mean\"";
            problems.push(("diffusion.prediction".into(), message.into()));
        }
        if let Err(error) = self.diffusion.init() {
            problems.push(("diffusion".into(), error.to_string()));
        }
        problems
    }

    /// Fills in what follows from the data: the lags, by their frequency or else by the series.
    pub(super) fn with_lags(mut self, data: &DataInfo, series: Option<&SeriesSet>) -> Self {
        let keys = &mut self.timegrad;
        if keys.context == 0 {
            keys.context = keys.horizon;
        }
        if keys.lags.is_empty() {
            keys.lags = match (frequency_of(data), series) {
                (Some(frequency), _) => lags_of_frequency(frequency),
                (None, Some(series)) => lags_of_data(series),
                (None, None) => vec![1],
            };
        }
        self
    }

    /// The description of the networks for these data.
    pub(super) fn network(&self, data: &DataInfo) -> TimeGradConfig {
        let (keys, model) = (&self.timegrad, self.model.clone());
        let features = TimeFeatures::new(keys.time_features, data);
        TimeGradConfig {
            variables: data.shape[0],
            context_length: keys.context,
            prediction_length: keys.horizon,
            lags: keys.lags.clone(),
            time_features: features.count() + data.series.as_ref().map_or(0, |series| series.covariates.len()),
            scaling: keys.scaling == Scaling::Mean,
            cell: model.cell,
            layers: model.layers,
            cells: model.cells,
            dropout: model.dropout,
            conditioning_length: model.conditioning_length,
            denoiser: model.denoiser,
        }
    }

    /// What does not go together with these data.
    pub(super) fn problems_with_data(&self, data: &DataInfo) -> Vec<Problem> {
        if data.series.is_none() {
            let message = format!("forecasts are of time series, the data are {:?}", data.shape);
            return vec![("data.kind".into(), message)];
        }
        let section = |key: &str| match key {
            "lags" | "context_length" | "prediction_length" => "timegrad",
            _ => "model",
        };
        let problems = self.network(data).problems().into_iter();
        problems.map(|problem| (format!("{}.{}", section(&problem.key), problem.key), problem.message)).collect()
    }
}
