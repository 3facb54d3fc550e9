//! A table of values with the state of each cell.

use std::ops::Range;

/// What is known about the value of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The value is there and may be shown to a model.
    Observed,
    /// The value is there and hidden from a model, which is scored on it.
    HeldOut,
    /// There is no value.
    NeverObserved,
}

/// Values `[T, K]`: a row for each step, a column for each variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    variables: usize,
    /// Row-major; 0 where there is no value.
    values: Vec<f64>,
    cells: Vec<Cell>,
}

impl Table {
    /// An empty table of so many variables.
    pub fn new(variables: usize) -> Self {
        Self { variables: variables.max(1), values: Vec::new(), cells: Vec::new() }
    }

    /// A table in which no cell has a value.
    pub fn never_observed(steps: usize, variables: usize) -> Self {
        let variables = variables.max(1);
        let len = steps * variables;
        Self { variables, values: vec![0.0; len], cells: vec![Cell::NeverObserved; len] }
    }

    /// From rows one behind the other, a missing value as `None`. The values must fill whole rows.
    pub fn from_rows(variables: usize, values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let mut table = Self::new(variables);
        values.into_iter().for_each(|value| table.push(value));
        debug_assert_eq!(table.values.len() % table.variables, 0);
        table
    }

    /// From columns of equal length, a missing value as `None`.
    pub fn from_columns(columns: &[Vec<Option<f64>>]) -> Self {
        let steps = columns.first().map_or(0, Vec::len);
        debug_assert!(columns.iter().all(|column| column.len() == steps));
        Self::from_rows(columns.len(), (0..steps).flat_map(|step| columns.iter().map(move |column| column[step])))
    }

    /// The next value, along the rows.
    pub(super) fn push(&mut self, value: Option<f64>) {
        self.values.push(value.unwrap_or(0.0));
        self.cells.push(if value.is_some() { Cell::Observed } else { Cell::NeverObserved });
    }

    /// Number of steps, T.
    pub fn steps(&self) -> usize {
        self.values.len() / self.variables
    }

    /// Number of variables, K.
    pub fn variables(&self) -> usize {
        self.variables
    }

    /// The state of a cell.
    pub fn cell(&self, step: usize, variable: usize) -> Cell {
        self.cells[self.at(step, variable)]
    }

    /// The value that may be shown to a model, if there is one.
    pub fn given(&self, step: usize, variable: usize) -> Option<f64> {
        let at = self.at(step, variable);
        (self.cells[at] == Cell::Observed).then(|| self.values[at])
    }

    /// The value that is hidden from a model and that it is scored on, if there is one.
    pub fn held_out(&self, step: usize, variable: usize) -> Option<f64> {
        let at = self.at(step, variable);
        (self.cells[at] == Cell::HeldOut).then(|| self.values[at])
    }

    /// The value, hidden or not, if there is one.
    pub fn value(&self, step: usize, variable: usize) -> Option<f64> {
        let at = self.at(step, variable);
        (self.cells[at] != Cell::NeverObserved).then(|| self.values[at])
    }

    /// Sets a value that may be shown.
    pub fn set(&mut self, step: usize, variable: usize, value: f64) {
        let at = self.at(step, variable);
        self.values[at] = value;
        self.cells[at] = Cell::Observed;
    }

    /// Hides the value of a cell; a cell without one stays without.
    pub fn hide(&mut self, step: usize, variable: usize) {
        let at = self.at(step, variable);
        if self.cells[at] == Cell::Observed {
            self.cells[at] = Cell::HeldOut;
        }
    }

    /// Some of its rows as a table; rows behind the last one are left out.
    pub fn rows(&self, steps: Range<usize>) -> Self {
        let end = steps.end.min(self.steps());
        let cells = steps.start.min(end) * self.variables..end * self.variables;
        let (values, cells) = (self.values[cells.clone()].to_vec(), self.cells[cells].to_vec());
        Self { variables: self.variables, values, cells }
    }

    fn at(&self, step: usize, variable: usize) -> usize {
        debug_assert!(variable < self.variables);
        step * self.variables + variable
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_value_is_scored_and_never_given() {
        let mut table = Table::from_rows(2, [Some(1.0), None, Some(3.0), Some(4.0)]);
        assert_eq!((table.steps(), table.variables()), (2, 2));
        table.hide(0, 0);
        table.hide(0, 1);
        let cells: Vec<Cell> = (0..4).map(|k| table.cell(k / 2, k % 2)).collect();
        assert_eq!(cells, [Cell::HeldOut, Cell::NeverObserved, Cell::Observed, Cell::Observed]);
        assert_eq!((table.given(0, 0), table.held_out(0, 0), table.value(0, 0)), (None, Some(1.0), Some(1.0)));
        assert_eq!((table.given(0, 1), table.held_out(0, 1), table.value(0, 1)), (None, None, None));
        assert_eq!((table.given(1, 1), table.held_out(1, 1), table.value(1, 1)), (Some(4.0), None, Some(4.0)));
    }
}
