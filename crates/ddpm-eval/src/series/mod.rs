//! Time series: metrics of forecasts and of filled-in values, classical baselines, and their evaluation.
//!
//! All of it is on plain arrays in the units of the data, time before variables, NaN where there is no value. A model is
//! a set of samples here: its forecasts [W, N, H, K] or its filled-in windows [M, N, L, K].

pub mod baselines;
mod evaluation;
pub mod masks;
mod metrics;
pub mod period;
mod rows;

pub use evaluation::{ForecastEvaluation, ImputationEvaluation, LeftOut, ModelSamples, Scoring, SeriesEvaluation};
pub use metrics::{Pairs, Point, Quantile, ScoredSamples, energy_score, seasonal_errors, usual_levels};
pub use rows::{Predictions, Rows, WindowArray};
