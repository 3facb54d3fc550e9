//! What does not change along a series, its categories and numbers, as networks are given it.

use super::{Normalizer, Series, SeriesInfo, Table};
use crate::example::Units;

impl SeriesInfo {
    /// The categories and the units of the numbers of training series; none of one series alone, of which they say nothing,
    /// and of series that do not have equally many.
    pub(super) fn fit_statics(series: &[Series]) -> (Vec<Vec<usize>>, Units) {
        let Some(first) = series.first().filter(|_| series.len() > 1) else { return Default::default() };
        let of = |count: &dyn Fn(&Series) -> usize| {
            if series.iter().all(|one| count(one) == count(first)) { count(first) } else { 0 }
        };
        let kind = |kind: usize| {
            let mut found: Vec<usize> = series.iter().map(|one| one.static_categories[kind]).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let categories = (0..of(&|one| one.static_categories.len())).map(kind).collect();
        let reals = of(&|one| one.static_reals.len());
        let rows = series.iter().flat_map(|one| one.static_reals.iter().take(reals).map(|value| Some(*value)));
        let units = match reals {
            0 => Units::default(),
            _ => {
                let normalizer = Normalizer::fit([(&Table::from_rows(reals, rows), 0..series.len())]);
                Units { shift: normalizer.mean().to_vec(), scale: normalizer.std().to_vec() }
            }
        };
        (categories, units)
    }

    /// What a network is given of a series: for each kind of category as many places as training has categories, with a 1 at
    /// that of the series, then the numbers, normalized. Of what the series does not have there are zeros.
    pub fn statics(&self, series: &Series) -> Vec<f32> {
        let mut given = Vec::new();
        for (kind, known) in self.static_categories.iter().enumerate() {
            let own = series.static_categories.get(kind);
            given.extend(known.iter().map(|category| f32::from(u8::from(own == Some(category)))));
        }
        let real = |k: usize| series.static_reals.get(k).map_or(0.0, |value| self.static_units.value(k, *value) as f32);
        given.extend((0..self.static_units.scale.len()).map(real));
        given
    }

    /// What a series lacks of what a network was trained on, as a message.
    pub fn check_statics(&self, series: &Series) -> Result<(), String> {
        let expected = [self.static_categories.len(), self.static_units.scale.len()];
        let found = [series.static_categories.len(), series.static_reals.len()];
        if expected.iter().zip(found).any(|(expected, found)| *expected > 0 && found != *expected) {
            return Err(format!(
                "the model reads {} categories and {} numbers that do not change along a series, and a series has {} and {}",
                expected[0], expected[1], found[0], found[1]
            ));
        }
        for (kind, (known, own)) in self.static_categories.iter().zip(&series.static_categories).enumerate() {
            if known.binary_search(own).is_err() {
                return Err(format!("category {own} of kind {kind} of a series is none of those of training"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::series::{Index, SeriesSet};

    fn series(categories: &[usize], reals: &[f64]) -> Series {
        let table = Table::from_rows(1, [Some(1.0), Some(2.0)]);
        let one = Series::new(None, Index::Counted, vec!["a".into()], table);
        Series { static_categories: categories.to_vec(), static_reals: reals.to_vec(), ..one }
    }

    fn info(train: &[Series]) -> SeriesInfo {
        let steps = vec![0..2; train.len()];
        let set = SeriesSet::new("any", (train, &steps), train.to_vec(), steps.clone(), Split::Train);
        set.info().series.clone().unwrap()
    }

    #[test]
    fn categories_are_those_of_training_and_numbers_are_normalized() {
        let info = info(&[series(&[7, 0], &[1.0]), series(&[2, 0], &[3.0]), series(&[7, 0], &[2.0])]);
        assert_eq!(info.static_categories, [vec![2, 7], vec![0]]);
        let scale = (2.0f64 / 3.0).sqrt();
        let given = info.statics(&series(&[7, 0], &[4.0]));
        assert_eq!(given[..3], [0.0, 1.0, 1.0]);
        assert!((f64::from(given[3]) - 2.0 / scale).abs() < 1e-6, "{given:?}");
        assert_eq!(info.statics(&series(&[5], &[])), [0.0; 4]);
        let error = |one: &Series| info.check_statics(one).unwrap_err();
        assert!(error(&series(&[5, 0], &[1.0])).contains("category 5 of kind 0"));
        assert!(error(&series(&[2], &[1.0])).contains("2 categories and 1 numbers"));
        assert!(info.check_statics(&series(&[2, 0], &[9.0])).is_ok());
    }

    #[test]
    fn one_series_and_series_without_statics_have_none() {
        for train in [vec![series(&[1], &[2.0])], vec![series(&[], &[]), series(&[], &[])]] {
            let info = info(&train);
            assert!(info.statics(&train[0]).is_empty() && info.check_statics(&train[0]).is_ok());
            assert!(!serde_json::to_string(&info).unwrap().contains("static"), "nothing new in a snapshot");
        }
    }
}
