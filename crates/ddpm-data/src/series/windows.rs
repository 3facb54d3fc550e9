//! Windows: the parts of equal length that models are trained on.

use super::{Cell, Normalizer, Table};

/// The places of windows of equal length in tables; none of them goes over an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    length: usize,
    stride: usize,
    /// Number of windows of the tables up to each.
    ends: Vec<usize>,
}

/// A window of a table, as models see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The table.
    pub table: usize,
    /// Its first step.
    pub start: usize,
    /// Normalized values `[K, L]`; 0 where there is none. Those that are held out are among them.
    pub values: Vec<f32>,
    /// The state of each value.
    pub cells: Vec<Cell>,
}

impl Windows {
    /// Windows of `length` steps, each beginning `stride` steps after the one before. A length and a stride of 0 count
    /// as 1; tables shorter than a window have none.
    pub fn new<'a>(tables: impl IntoIterator<Item = &'a Table>, length: usize, stride: usize) -> Self {
        let (length, stride) = (length.max(1), stride.max(1));
        let mut count = 0;
        let mut end = |table: &Table| {
            count += table.steps().checked_sub(length).map_or(0, |last| last / stride + 1);
            count
        };
        let ends = tables.into_iter().map(&mut end).collect();
        Self { length, stride, ends }
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table of a window, and its first step.
    pub fn place(&self, window: usize) -> Option<(usize, usize)> {
        let table = self.ends.partition_point(|end| *end <= window);
        let before = table.checked_sub(1).map_or(0, |table| self.ends[table]);
        (table < self.ends.len()).then_some((table, (window - before) * self.stride))
    }

    /// A window of the tables that the places were made from.
    pub fn get<'a>(
        &self,
        window: usize,
        table: impl FnOnce(usize) -> &'a Table,
        normalizer: &Normalizer,
    ) -> Option<Window> {
        let (number, start) = self.place(window)?;
        let table = table(number);
        let places =
            (0..table.variables()).flat_map(|variable| (start..start + self.length).map(move |s| (s, variable)));
        let (values, cells) = places
            .map(|(step, variable)| {
                let value = table.value(step, variable).map(|value| normalizer.normalize(variable, value) as f32);
                (value.unwrap_or(0.0), table.cell(step, variable))
            })
            .unzip();
        Some(Window { table: number, start, values, cells })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_inside_of_their_tables() {
        let table = |from: usize, steps: usize| {
            Table::from_rows(2, (0..steps).flat_map(|t| [Some((from + t) as f64), (t != 1).then_some(-(t as f64))]))
        };
        let tables = [table(0, 5), table(100, 2), table(200, 8)];
        let windows = Windows::new(&tables, 3, 2);
        let places: Vec<_> = (0..windows.len()).map(|k| windows.place(k).unwrap()).collect();
        assert_eq!(places, [(0, 0), (0, 2), (2, 0), (2, 2), (2, 4)]);
        assert_eq!(windows.place(5), None);
        // A normalizer of nothing but one value of 0 each changes none.
        let zeros = Table::from_rows(2, [Some(0.0); 2]);
        let same = Normalizer::fit([(&zeros, 0..1)]);
        let window = windows.get(2, |table| &tables[table], &same).unwrap();
        assert_eq!(window.values, [200.0, 201.0, 202.0, 0.0, 0.0, -2.0]);
        let missing: Vec<usize> = (0..6).filter(|k| window.cells[*k] == Cell::NeverObserved).collect();
        assert_eq!(missing, [4]);
        assert!(Windows::new(&tables, 9, 1).is_empty());
    }
}
