//! The mean of a series as a function of the place in its season.

use std::f64::consts::TAU;

use faer::Mat;

use super::least_squares::least_squares;
use crate::EvaluationError;
use crate::series::rows::{Rows, mean_of_finite, means};

/// A season.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Season {
    /// None: the mean.
    None,
    /// A mean for every place of a period (seasonal dummies), such as each of 12 months.
    Dummies {
        /// Steps of the period.
        period: usize,
    },
    /// The mean, and sines and cosines of a period and its fractions.
    Harmonics {
        /// Steps of the period; not necessarily whole.
        period: f64,
        /// Number of sines, and of cosines.
        count: usize,
    },
}

impl std::fmt::Display for Season {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => write!(f, "mean"),
            Self::Dummies { period } => write!(f, "season of {period} means"),
            Self::Harmonics { period, count } => write!(f, "season of {count} harmonics of {period}"),
        }
    }
}

impl Season {
    /// What suits a period: means where there are few, else two harmonics, of the year of 365.25 days where the period is
    /// one of 365.
    pub fn of_period(period: usize) -> Self {
        match period {
            ..=48 => Self::Dummies { period },
            365 => Self::Harmonics { period: 365.25, count: 2 },
            _ => Self::Harmonics { period: period as f64, count: 2 },
        }
    }

    /// Of training rows, for every variable alone.
    pub(super) fn fit(self, train: Rows<'_>) -> Result<FittedSeason, EvaluationError> {
        let means = means(train, "a season")?;
        let coefficients = match self {
            Self::None => means.into_iter().map(|mean| vec![mean]).collect(),
            Self::Dummies { period: 0 } => {
                let reason = "a period of 0 steps; expected at least 1".to_string();
                return Err(EvaluationError::Argument { what: "a season", reason });
            }
            Self::Dummies { period } => means_of_places(train, period)?,
            Self::Harmonics { period, count } => {
                let of_variable = |variable| harmonics(train, variable, period, count);
                (0..train.variables()).map(of_variable).collect::<Result<_, _>>()?
            }
        };
        Ok(FittedSeason { season: self, coefficients })
    }

    /// The numbers that a step's mean is a combination of.
    fn regressors(self, step: usize) -> Vec<f64> {
        match self {
            Self::Harmonics { period, count } => {
                let angle = |k: usize| TAU * k as f64 * step as f64 / period;
                std::iter::once(1.0).chain((1..=count).flat_map(|k| [angle(k).sin(), angle(k).cos()])).collect()
            }
            Self::None | Self::Dummies { .. } => vec![1.0],
        }
    }
}

/// The mean of every variable at every place of the period.
fn means_of_places(train: Rows<'_>, period: usize) -> Result<Vec<Vec<f64>>, EvaluationError> {
    let mean = |variable: usize, place: usize| {
        let first = (place + period - train.start() % period) % period;
        mean_of_finite(train.column(variable).skip(first).step_by(period))
    };
    let means: Vec<Vec<f64>> =
        (0..train.variables()).map(|variable| (0..period).map(|place| mean(variable, place)).collect()).collect();
    match means.iter().flatten().all(|mean| mean.is_finite()) {
        true => Ok(means),
        false => Err(EvaluationError::TooFew {
            what: "a mean for every place of a season",
            least: period,
            found: train.len(),
        }),
    }
}

fn harmonics(train: Rows<'_>, variable: usize, period: f64, count: usize) -> Result<Vec<f64>, EvaluationError> {
    let season = Season::Harmonics { period, count };
    let present: Vec<usize> = (0..train.len()).filter(|row| train.at(*row, variable).is_finite()).collect();
    let regressors: Vec<Vec<f64>> = present.iter().map(|row| season.regressors(train.start() + row)).collect();
    let design = Mat::from_fn(present.len(), 2 * count + 1, |row, column| regressors[row][column]);
    let target = Mat::from_fn(present.len(), 1, |row, _| train.at(present[row], variable));
    Ok(least_squares("a season of harmonics", &design, &target)?.col(0).iter().copied().collect())
}

/// A season that was fitted.
pub(super) struct FittedSeason {
    season: Season,
    /// For every variable.
    coefficients: Vec<Vec<f64>>,
}

impl FittedSeason {
    /// The mean of every variable at a step.
    pub(super) fn at(&self, step: usize) -> Vec<f64> {
        match self.season {
            Season::Dummies { period } => self.coefficients.iter().map(|means| means[step % period]).collect(),
            Season::None | Season::Harmonics { .. } => {
                let regressors = self.season.regressors(step);
                let value = |own: &Vec<f64>| own.iter().zip(&regressors).map(|(a, b)| a * b).sum();
                self.coefficients.iter().map(value).collect()
            }
        }
    }

    /// The means of the steps after a history.
    pub(super) fn ahead(&self, history: Rows<'_>, horizon: usize) -> Vec<Vec<f64>> {
        (0..horizon).map(|step| self.at(history.end() + step)).collect()
    }

    /// Rows less their season, [T, K].
    pub(super) fn residuals(&self, rows: Rows<'_>) -> Vec<f64> {
        let of_row = |row: usize| {
            let mean = self.at(rows.start() + row);
            rows.row(row).iter().zip(mean).map(|(value, mean)| value - mean).collect::<Vec<f64>>()
        };
        (0..rows.len()).flat_map(of_row).collect()
    }
}
