//! The conditional normal law of missing values given the others of a window, with mean and full covariance of the training
//! windows: in closed form the best linear filling-in.

use ddpm_data::random::normals;
use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Llt;
use faer::prelude::Solve;
use faer::{Accum, Mat, Par, Side};
use rayon::prelude::*;

use super::ImputationTask;
use crate::EvaluationError;
use crate::series::rows::{Predictions, Rows, WindowArray, means};

const WHAT: &str = "the Gaussian conditional";
/// Values of a window: the covariance has their square.
const MOST_VALUES: usize = 2500;
/// Ridges that are compared, as shares of the mean variance.
const RIDGES: [f64; 9] = [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3];
/// The one that is taken without a comparison, where windows are incomplete.
const USUAL_RIDGE: f64 = 0.1;
/// Every so many windows one is held out for the comparison.
const HELD_OUT: usize = 5;
/// A variance in any direction below this share of the mean variance is none.
const SINGULAR: f64 = 1e-12;

pub(super) fn impute(task: &ImputationTask<'_>, ridge: Option<f64>) -> Result<Predictions, EvaluationError> {
    let fitted = Fitted::new(task.train, ridge)?;
    let windows = task.test.shape()[0];
    let drawn: Result<Vec<Vec<f64>>, EvaluationError> =
        (0..windows).into_par_iter().map(|window| fitted.draw(task, window)).collect();
    Ok(Predictions { samples: task.samples, values: drawn?.concat() })
}

struct Fitted {
    mean: Vec<f64>,
    /// The inverse of the covariance.
    precision: Mat<f64>,
}

impl Fitted {
    fn new(train: WindowArray<'_>, ridge: Option<f64>) -> Result<Self, EvaluationError> {
        let ([windows, ..], size) = (train.shape(), train.size());
        if size > MOST_VALUES {
            let reason = format!("windows of {size} values; expected at most {MOST_VALUES}");
            return Err(EvaluationError::Argument { what: WHAT, reason });
        }
        if windows < 2 {
            return Err(EvaluationError::TooFew { what: WHAT, least: 2, found: windows });
        }
        let rows = Rows::new(train.values(), size, 0)?;
        let moments = Moments::of(rows, |_| true)?;
        let ridge = match ridge {
            Some(ridge) => ridge,
            None => likeliest_ridge(rows, moments.mean_variance())?,
        };
        let least = moments.variances.iter().fold(f64::INFINITY, |least, value| least.min(value + ridge));
        if least.is_nan() || least <= SINGULAR * moments.mean_variance() {
            let reason =
                format!("the covariance of {windows} windows of {size} values is singular with a ridge of {ridge}");
            return Err(EvaluationError::Argument { what: WHAT, reason });
        }
        let (vectors, variances) = (&moments.vectors, &moments.variances);
        let scaled = Mat::from_fn(size, size, |row, column| vectors[(row, column)] / (variances[column] + ridge));
        let mut precision = Mat::zeros(size, size);
        matmul(&mut precision, Accum::Replace, &scaled, vectors.transpose(), 1.0, Par::rayon(0));
        Ok(Self { mean: moments.mean, precision })
    }

    /// Samples [N, L, K] of a window, which have the given values where these are.
    fn draw(&self, task: &ImputationTask<'_>, window: usize) -> Result<Vec<f64>, EvaluationError> {
        let given = task.given_window(window);
        let (missing, observed): (Vec<usize>, Vec<usize>) = (0..given.len()).partition(|k| given[*k].is_nan());
        if missing.is_empty() {
            return Ok(given.repeat(task.samples));
        }
        // With the precision P of all values: precision P_mm, mean mu_m - P_mm^-1 P_mo (x_o - mu_o).
        let own = Mat::from_fn(missing.len(), missing.len(), |i, j| self.precision[(missing[i], missing[j])]);
        let factor = own.llt(Side::Lower).map_err(|_| EvaluationError::Argument {
            what: WHAT,
            reason: format!("the covariance of the {} missing values of window {window} is singular", missing.len()),
        })?;
        let pull =
            |i: usize| observed.iter().map(|k| self.precision[(missing[i], *k)] * (given[*k] - self.mean[*k])).sum();
        let shift = factor.solve(Mat::from_fn(missing.len(), 1, |i, _| pull(i)));
        let mut values = given.repeat(task.samples);
        let mut numbers = task.rng(window);
        let mut deviation = Vec::new();
        for (number, sample) in values.chunks_exact_mut(given.len()).enumerate() {
            // Samples in pairs around the mean, so that their median is the mean; a single one is the mean.
            deviation = match (number + 1 == task.samples, number % 2) {
                (true, 0) => vec![0.0; missing.len()],
                (_, 1) => deviation.iter().map(|value: &f64| -value).collect(),
                _ => noise(&factor, &normals(&mut numbers, missing.len())),
            };
            for (i, place) in missing.iter().enumerate() {
                sample[*place] = self.mean[*place] - shift[(i, 0)] + deviation[i];
            }
        }
        Ok(values)
    }
}

/// L^-T z, whose covariance is the inverse of L L^T.
fn noise(factor: &Llt<f64>, normal: &[f32]) -> Vec<f64> {
    let lower = factor.L();
    let mut noise: Vec<f64> = normal.iter().map(|z| f64::from(*z)).collect();
    for i in (0..noise.len()).rev() {
        noise[i] /= lower[(i, i)];
        let value = noise[i];
        (0..i).for_each(|k| noise[k] -= lower[(i, k)] * value);
    }
    noise
}

/// Mean and covariance of values of windows; of incomplete windows over the pairs of values that are there.
struct Moments {
    mean: Vec<f64>,
    /// Eigenvectors of the covariance.
    vectors: Mat<f64>,
    /// Its eigenvalues; not below 0, as they can be with missing pairs.
    variances: Vec<f64>,
}

impl Moments {
    /// Of windows as rows, those that are chosen.
    fn of(rows: Rows<'_>, is_chosen: impl Fn(usize) -> bool) -> Result<Self, EvaluationError> {
        let chosen: Vec<usize> = (0..rows.len()).filter(|row| is_chosen(*row)).collect();
        let width = rows.variables();
        let mean = means(rows, WHAT)?;
        let centered = |row: usize, column: usize| rows.at(chosen[row], column) - mean[column];
        let there =
            Mat::from_fn(chosen.len(), width, |row, column| f64::from(u8::from(centered(row, column).is_finite())));
        let values = Mat::from_fn(chosen.len(), width, |row, column| {
            Some(centered(row, column)).filter(|value| value.is_finite()).unwrap_or(0.0)
        });
        let gram = |matrix: &Mat<f64>| {
            let mut product = Mat::zeros(width, width);
            matmul(&mut product, Accum::Replace, matrix.transpose(), matrix, 1.0, Par::rayon(0));
            product
        };
        let (sums, pairs) = (gram(&values), gram(&there));
        let covariance = Mat::from_fn(width, width, |i, j| sums[(i, j)] / f64::max(pairs[(i, j)] - 1.0, 1.0));
        let eigen = covariance.self_adjoint_eigen(Side::Lower).map_err(|_| EvaluationError::Eigen { width })?;
        let variances = eigen.S().column_vector().iter().map(|value| value.max(0.0)).collect();
        Ok(Self { mean, vectors: eigen.U().to_owned(), variances })
    }

    fn mean_variance(&self) -> f64 {
        self.variances.iter().sum::<f64>() / self.variances.len() as f64
    }
}

/// The ridge with which the windows that are not held out make those that are the likeliest.
fn likeliest_ridge(rows: Rows<'_>, mean_variance: f64) -> Result<f64, EvaluationError> {
    let is_held_out = |row: usize| row.is_multiple_of(HELD_OUT);
    let is_complete = rows.values().iter().all(|value| value.is_finite());
    if !is_complete || rows.len() < 2 * HELD_OUT {
        return Ok(USUAL_RIDGE * mean_variance);
    }
    let moments = Moments::of(rows, |row| !is_held_out(row))?;
    let held_out: Vec<usize> = (0..rows.len()).filter(|row| is_held_out(*row)).collect();
    let width = rows.variables();
    let centered =
        Mat::from_fn(held_out.len(), width, |row, column| rows.at(held_out[row], column) - moments.mean[column]);
    let mut along = Mat::zeros(held_out.len(), width);
    matmul(&mut along, Accum::Replace, &centered, &moments.vectors, 1.0, Par::rayon(0));
    let squares: Vec<f64> = (0..width).map(|k| along.col(k).squared_norm_l2() / held_out.len() as f64).collect();
    // Twice the negative log-likelihood of a window, but for a constant.
    let loss = |ridge: f64| {
        let of_direction = |(variance, square): (&f64, &f64)| (variance + ridge).ln() + square / (variance + ridge);
        moments.variances.iter().zip(&squares).map(of_direction).sum::<f64>()
    };
    let ridges = RIDGES.map(|share| share * mean_variance);
    let best = ridges.into_iter().map(|ridge| (ridge, loss(ridge))).min_by(|a, b| a.1.total_cmp(&b.1));
    Ok(best.map_or(USUAL_RIDGE * mean_variance, |(ridge, _)| ridge))
}
