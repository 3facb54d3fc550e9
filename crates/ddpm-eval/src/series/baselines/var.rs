//! Vector autoregression: the residuals of a season as a linear function of those of the last p steps.

use std::fmt;

use ddpm_data::random::{ChaCha8Rng, RngExt, normals};
use faer::Mat;
use faer::linalg::matmul::matmul;
use faer::{Accum, Par};

use super::ForecastTask;
use super::least_squares::least_squares;
use super::season::{FittedSeason, Season};
use crate::series::rows::{Predictions, Rows, mean_of_finite};
use crate::{EvaluationError, symmetric_root};

/// A fit of more regressors than this takes longer than models do.
const MOST_REGRESSORS: usize = 600;

/// A variable that differs from its season by less than this share of it does so by rounding.
const CONSTANT: f64 = 1e-9;

/// A vector autoregression with a season.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Var {
    /// p, the number of steps that a step depends on.
    pub lags: usize,
    /// What is subtracted first.
    pub season: Season,
    /// What is added to every step of a path.
    pub innovations: Innovations,
}

/// The random part of every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Innovations {
    /// Normal, with the covariance of the residuals of the fit.
    Normal,
    /// Residuals of the fit, drawn with replacement.
    Drawn,
}

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.season != Season::None {
            write!(f, "{} + ", self.season)?;
        }
        let innovations = if self.innovations == Innovations::Drawn { ", residuals drawn" } else { "" };
        write!(f, "VAR({}){innovations}", self.lags)
    }
}

pub(super) fn forecast(task: &ForecastTask<'_>, var: Var) -> Result<Predictions, EvaluationError> {
    let fitted = Fitted::new(task.train, var)?;
    let prepare = |history: Rows<'_>| Start {
        state: fitted.state(history.last(var.lags + REACH)),
        means: fitted.season.ahead(history, task.horizon),
    };
    Ok(task.paths(prepare, |start, numbers, path| fitted.path(start, numbers, path)))
}

/// What a path starts from.
struct Start {
    /// Residuals of the season, of the last steps before the horizon, from the last back.
    state: Vec<f64>,
    /// Those of the season, of every step of the horizon.
    means: Vec<Vec<f64>>,
}

struct Fitted {
    lags: usize,
    variables: usize,
    season: FittedSeason,
    /// For every target: of the constant, and of the variables of every lag from the last step back.
    coefficients: Vec<Vec<f64>>,
    residuals: Residuals,
}

enum Residuals {
    /// The symmetric root of their covariance.
    Normal(Mat<f64>),
    /// A row for each.
    Drawn(Mat<f64>),
}

impl Fitted {
    fn new(train: Rows<'_>, var: Var) -> Result<Self, EvaluationError> {
        const WHAT: &str = "a vector autoregression";
        let (lags, variables) = (var.lags, train.variables());
        let width = lags * variables + 1;
        if lags == 0 || width > MOST_REGRESSORS {
            let reason = format!("{lags} lags of {variables} variables; expected 1 to {MOST_REGRESSORS} regressors");
            return Err(EvaluationError::Argument { what: WHAT, reason });
        }
        let season = var.season.fit(train)?;
        let values = season.residuals(train);
        let values = Rows::new(&values, variables, 0)?;
        let rms = |rows: Rows<'_>, variable| mean_of_finite(rows.column(variable).map(|value| value * value)).sqrt();
        let is_constant = |variable: &usize| rms(values, *variable) <= CONSTANT * rms(train, *variable);
        if let Some(variable) = (0..variables).find(is_constant) {
            let reason = format!("variable {variable} is its season in all training rows: the fit is singular");
            return Err(EvaluationError::Argument { what: WHAT, reason });
        }
        let is_complete = |end: &usize| (end - lags..=*end).all(|row| values.row(row).iter().all(|v| v.is_finite()));
        let ends: Vec<usize> = (lags..values.len()).filter(is_complete).collect();
        let design = Mat::from_fn(ends.len(), width, |row, column| match column.checked_sub(1) {
            None => 1.0,
            Some(column) => values.at(ends[row] - 1 - column / variables, column % variables),
        });
        let mut rest = Mat::from_fn(ends.len(), variables, |row, column| values.at(ends[row], column));
        let found = least_squares(WHAT, &design, &rest)?;
        matmul(&mut rest, Accum::Add, &design, &found, -1.0, Par::rayon(0));
        let residuals = match var.innovations {
            Innovations::Drawn => Residuals::Drawn(rest),
            Innovations::Normal => Residuals::Normal(root_of_covariance(&rest, width)?),
        };
        let coefficients = (0..variables).map(|target| found.col(target).iter().copied().collect()).collect();
        Ok(Self { lags, variables, season, coefficients, residuals })
    }

    /// What is missing is as one step before, or as the season where nothing is before.
    fn state(&self, history: Rows<'_>) -> Vec<f64> {
        let residuals = self.season.residuals(history);
        let present = |back: usize, variable: usize| {
            let rows = residuals.chunks_exact(self.variables).rev().skip(back);
            rows.map(|row| row[variable]).find(|value| value.is_finite()).unwrap_or(0.0)
        };
        (0..self.lags)
            .flat_map(|back| (0..self.variables).map(move |variable| (back, variable)))
            .map(|(back, variable)| present(back, variable))
            .collect()
    }

    fn path(&self, start: &Start, numbers: &mut ChaCha8Rng, path: &mut [f64]) {
        let mut state = start.state.clone();
        for (row, mean) in path.chunks_exact_mut(self.variables).zip(&start.means) {
            let innovation = self.innovation(numbers);
            let next = |(own, innovation): (&Vec<f64>, f64)| {
                own[0] + innovation + own[1..].iter().zip(&state).map(|(a, b)| a * b).sum::<f64>()
            };
            let next: Vec<f64> = self.coefficients.iter().zip(innovation).map(next).collect();
            row.iter_mut().zip(&next).zip(mean).for_each(|((value, next), mean)| *value = mean + next);
            state.rotate_right(self.variables);
            state[..self.variables].copy_from_slice(&next);
        }
    }

    fn innovation(&self, numbers: &mut ChaCha8Rng) -> Vec<f64> {
        match &self.residuals {
            Residuals::Drawn(rows) => rows.row(numbers.random_range(0..rows.nrows())).iter().copied().collect(),
            Residuals::Normal(root) => {
                let normal = normals(numbers, self.variables);
                let of_row = |row: usize| normal.iter().enumerate().map(|(k, z)| root[(row, k)] * f64::from(*z)).sum();
                (0..self.variables).map(of_row).collect()
            }
        }
    }
}

/// Rows that are searched for a value in place of a missing one.
const REACH: usize = 100;

fn root_of_covariance(residuals: &Mat<f64>, regressors: usize) -> Result<Mat<f64>, EvaluationError> {
    let (rows, variables) = (residuals.nrows(), residuals.ncols());
    let mut covariance = Mat::zeros(variables, variables);
    let scale = 1.0 / (rows - regressors) as f64;
    matmul(&mut covariance, Accum::Replace, residuals.transpose(), residuals, scale, Par::rayon(0));
    symmetric_root(&covariance)
}
