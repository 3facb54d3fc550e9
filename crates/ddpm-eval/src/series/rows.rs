//! Arrays of series as baselines and metrics take them.

use crate::EvaluationError;

/// Rows [T, K] of a series, NaN where there is no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows<'a> {
    values: &'a [f64],
    variables: usize,
    start: usize,
}

impl<'a> Rows<'a> {
    /// From values of so many variables, row by row. `start` is the number of the first row, counted from any fixed step:
    /// it places the rows in the season.
    pub fn new(values: &'a [f64], variables: usize, start: usize) -> Result<Self, EvaluationError> {
        if variables == 0 || !values.len().is_multiple_of(variables) {
            let reason = format!("{} values cannot be rows of {variables} variables", values.len());
            return Err(EvaluationError::Argument { what: "a series", reason });
        }
        Ok(Self { values, variables, start })
    }

    /// Number of rows, T.
    pub fn len(&self) -> usize {
        self.values.len() / self.variables
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of variables, K.
    pub fn variables(&self) -> usize {
        self.variables
    }

    /// The number of the first row.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The number of the row after the last.
    pub fn end(&self) -> usize {
        self.start + self.len()
    }

    /// All values.
    pub fn values(&self) -> &'a [f64] {
        self.values
    }

    /// A row.
    pub fn row(&self, row: usize) -> &'a [f64] {
        &self.values[row * self.variables..][..self.variables]
    }

    /// The value of a variable in a row.
    pub fn at(&self, row: usize, variable: usize) -> f64 {
        self.values[row * self.variables + variable]
    }

    /// The values of a variable.
    pub fn column(&self, variable: usize) -> impl DoubleEndedIterator<Item = f64> + Clone + 'a {
        self.values.chunks_exact(self.variables).map(move |row| row[variable])
    }

    /// The last rows.
    pub fn last(&self, rows: usize) -> Self {
        let skipped = self.len().saturating_sub(rows);
        Self { values: &self.values[skipped * self.variables..], start: self.start + skipped, ..*self }
    }

    /// The first rows.
    pub fn first(&self, rows: usize) -> Self {
        Self { values: &self.values[..rows.min(self.len()) * self.variables], ..*self }
    }
}

/// Windows [N, L, K] of equal length, NaN where there is no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowArray<'a> {
    values: &'a [f64],
    shape: [usize; 3],
}

impl<'a> WindowArray<'a> {
    /// From values of this shape.
    pub fn new(values: &'a [f64], shape: [usize; 3]) -> Result<Self, EvaluationError> {
        if values.len() != shape.iter().product::<usize>() || shape[1..].contains(&0) {
            let reason = format!("{} values cannot be windows [N, L, K] of shape {shape:?}", values.len());
            return Err(EvaluationError::Argument { what: "windows of series", reason });
        }
        Ok(Self { values, shape })
    }

    /// Windows, their length, and variables: [N, L, K].
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Values of a window.
    pub fn size(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// All values.
    pub fn values(&self) -> &'a [f64] {
        self.values
    }

    /// The values of a window, [L, K].
    pub fn window(&self, window: usize) -> Rows<'a> {
        let values = &self.values[window * self.size()..][..self.size()];
        Rows { values, variables: self.shape[2], start: 0 }
    }

    /// All windows.
    pub fn windows(&self) -> impl Iterator<Item = Rows<'a>> {
        let all = *self;
        (0..self.shape[0]).map(move |window| all.window(window))
    }

    /// All rows, of one window after the other.
    pub fn rows(&self) -> Rows<'a> {
        Rows { values: self.values, variables: self.shape[2], start: 0 }
    }
}

/// What a method predicts of every window: samples [W, N, L, K], or one point forecast each, N = 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// N.
    pub samples: usize,
    /// Values in the order of the shape.
    pub values: Vec<f64>,
}

impl Predictions {
    /// One prediction for each window.
    pub fn points(values: Vec<f64>) -> Self {
        Self { samples: 1, values }
    }

    /// Values of every variable not below its first bound nor above its second; all as they are without bounds.
    pub fn within(mut self, bounds: &[[f64; 2]]) -> Self {
        if let Some(last) = bounds.len().checked_sub(1) {
            let bound = |(place, value): (usize, &mut f64)| {
                let [least, most] = bounds[place % (last + 1)];
                *value = value.max(least).min(most);
            };
            self.values.iter_mut().enumerate().for_each(bound);
        }
        self
    }
}

/// The mean of the values that are there; NaN if there is none.
pub(super) fn mean_of_finite(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.filter(|value| value.is_finite()).fold((0.0, 0_usize), |(s, n), v| (s + v, n + 1));
    sum / count as f64
}

/// The mean of every variable; an error names the first without a value.
pub(super) fn means(rows: Rows<'_>, what: &'static str) -> Result<Vec<f64>, EvaluationError> {
    let means: Vec<f64> = (0..rows.variables()).map(|variable| mean_of_finite(rows.column(variable))).collect();
    match means.iter().position(|mean| !mean.is_finite()) {
        None => Ok(means),
        Some(variable) => {
            let reason = format!("variable {variable} has no value in the training data");
            Err(EvaluationError::Argument { what, reason })
        }
    }
}

/// The standard deviation of every variable over the values that are there.
pub(super) fn deviations(rows: Rows<'_>) -> Vec<f64> {
    let deviation = |variable: usize| {
        let mean = mean_of_finite(rows.column(variable));
        mean_of_finite(rows.column(variable).map(|value| (value - mean).powi(2))).sqrt()
    };
    (0..rows.variables()).map(deviation).collect()
}
