//! Linear regression.

use faer::Mat;
use faer::prelude::SolveLstsq;

use crate::EvaluationError;

/// A column whose part that the columns before it do not explain is smaller than this share of it is one of them.
const SINGULAR: f64 = 1e-10;

/// The coefficients [regressors, targets] of the least squares of `design` [rows, regressors] onto `targets` [rows, targets].
pub(super) fn least_squares(
    what: &'static str,
    design: &Mat<f64>,
    targets: &Mat<f64>,
) -> Result<Mat<f64>, EvaluationError> {
    let (rows, columns) = (design.nrows(), design.ncols());
    if rows <= columns {
        return Err(EvaluationError::TooFew { what, least: columns + 1, found: rows });
    }
    let lengths: Vec<f64> = (0..columns).map(|column| design.col(column).norm_l2()).collect();
    let scaled = Mat::from_fn(rows, columns, |row, column| design[(row, column)] / lengths[column]);
    let qr = scaled.qr();
    let is_dependent = |column: &usize| {
        let own = qr.R()[(*column, *column)].abs();
        own.is_nan() || own <= SINGULAR
    };
    let zero = lengths.iter().position(|length| *length == 0.0);
    let dependent = zero.or_else(|| (0..columns).find(is_dependent));
    if let Some(column) = dependent {
        let reason =
            format!("regressor {column} of {columns} is a combination of those before it: the fit is singular");
        return Err(EvaluationError::Argument { what, reason });
    }
    let mut found = qr.solve_lstsq(targets);
    for (row, length) in lengths.iter().enumerate() {
        found.row_mut(row).iter_mut().for_each(|value| *value /= length);
    }
    Ok(found)
}
