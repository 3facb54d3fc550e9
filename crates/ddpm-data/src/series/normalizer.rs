//! Values as models see them: each variable with mean 0 and standard deviation 1.

use std::ops::Range;

use super::Table;

/// Mean and standard deviation of each variable over the observed cells of the training steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    mean: Vec<f64>,
    /// 1 where a variable is constant or never observed.
    std: Vec<f64>,
}

impl Normalizer {
    /// Fits the training steps of tables of one number of variables. What is held out or never observed is not used.
    ///
    /// A constant variable becomes 0 everywhere, and one that is never observed keeps its values.
    pub fn fit<'a>(tables: impl IntoIterator<Item = (&'a Table, Range<usize>)>) -> Self {
        let mut sums: Vec<Moments> = Vec::new();
        for (table, steps) in tables {
            sums.resize_with(table.variables().max(sums.len()), Moments::default);
            for step in steps.start..steps.end.min(table.steps()) {
                for (variable, moments) in sums.iter_mut().enumerate().take(table.variables()) {
                    table.given(step, variable).into_iter().for_each(|value| moments.add(value));
                }
            }
        }
        Self { mean: sums.iter().map(|moments| moments.mean).collect(), std: sums.iter().map(Moments::scale).collect() }
    }

    /// The mean of each variable.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// What each variable is divided by.
    pub fn std(&self) -> &[f64] {
        &self.std
    }

    /// A value as models see it.
    pub fn normalize(&self, variable: usize, value: f64) -> f64 {
        (value - self.mean[variable]) / self.std[variable]
    }
}

/// Count, mean and squared distances from it (Welford, 1962).
#[derive(Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let distance = value - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (value - self.mean);
    }

    /// The standard deviation, or 1 where it is nothing but rounding.
    fn scale(&self) -> f64 {
        let std = (self.squares / self.count.max(1.0)).sqrt();
        if std > 1e-12 * self.mean.abs() { std } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_observed_cells_of_the_training_steps_count() {
        let rows = [
            [Some(1.0), Some(0.1), None],
            [Some(3.0), Some(0.1), None],
            [Some(500.0), Some(0.1), None],
            [None, Some(0.1), None],
            [Some(-900.0), Some(7.0), Some(5.0)],
        ];
        let mut table = Table::from_rows(3, rows.into_iter().flatten());
        table.hide(2, 0);
        let normalizer = Normalizer::fit([(&table, 0..4)]);
        assert_eq!(normalizer.mean()[0], 2.0);
        assert_eq!(normalizer.std(), [1.0, 1.0, 1.0]);
        assert_eq!(normalizer.normalize(1, 0.1), 0.0);
        assert_eq!(normalizer.normalize(2, 5.0), 5.0);
        let both = Normalizer::fit([(&table, 0..2), (&table, 4..9)]);
        assert!((both.mean()[0] + 896.0 / 3.0).abs() < 1e-9 && both.std()[0] > 400.0);
    }
}
