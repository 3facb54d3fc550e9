//! Feature vectors of a set, of which every metric is a function.

use faer::Mat;

use super::EvaluationError;

/// Features of items, one row for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    width: usize,
    values: Vec<f32>,
}

impl Features {
    /// Rows of `width` values, row-major. The last row is dropped if it is not whole.
    pub fn new(width: usize, mut values: Vec<f32>) -> Self {
        values.truncate(values.len() / width.max(1) * width);
        Self { width, values }
    }

    /// No rows.
    pub fn empty(width: usize) -> Self {
        Self { width, values: Vec::new() }
    }

    /// Number of values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// One of the rows.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rows of these indices.
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        Self { width: self.width, values: rows.into_iter().flat_map(|row| self.row(row)).copied().collect() }
    }

    /// Appends the first rows of `more` until there are `limit`.
    pub fn extend(&mut self, more: &Self, limit: usize) {
        let room = limit.saturating_sub(self.len()).min(more.len());
        self.values.extend(&more.values[..room * self.width]);
    }

    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    /// As a matrix of f64, a row for each item.
    pub(super) fn matrix(&self) -> Mat<f64> {
        Mat::from_fn(self.len(), self.width, |row, column| f64::from(self.values[row * self.width + column]))
    }

    /// An error unless `other` has the same width.
    pub(super) fn same_width(&self, other: &Self) -> Result<(), EvaluationError> {
        match self.width == other.width {
            true => Ok(()),
            false => Err(EvaluationError::Width { left: self.width, right: other.width }),
        }
    }
}

/// The squared Euclidean distance, in f64 by differences: exactly 0 for equal rows, and symmetric.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            sums[lane] += difference * difference;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    sums.iter().sum::<f64>() + rest
}
