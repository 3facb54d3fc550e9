//! Novelty: whether samples are copies of the training data.

use rayon::prelude::*;

use super::features::squared_distance;
use super::{EvaluationError, Features};

/// The median over `items` of the distance to the nearest of `others`.
pub fn median_nearest(items: &Features, others: &Features) -> Result<f64, EvaluationError> {
    items.same_width(others)?;
    let found = items.len().min(others.len());
    if found == 0 {
        return Err(EvaluationError::TooFew { what: "the nearest neighbor", least: 1, found });
    }
    let nearest = |item: usize| {
        others.rows().map(|other| squared_distance(items.row(item), other)).fold(f64::INFINITY, f64::min).sqrt()
    };
    let mut all: Vec<f64> = (0..items.len()).into_par_iter().map(nearest).collect();
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

/// The median distance of samples to the nearest training item, over that of items that were held out: near 1 for
/// samples that are as new as new data, near 0 for copies.
pub fn novelty(samples: &Features, train: &Features, held_out: &Features) -> Result<f64, EvaluationError> {
    Ok(median_nearest(samples, train)? / median_nearest(held_out, train)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::{Stream, normals, rng};

    #[test]
    fn copies_are_found_out() {
        let draw = |index| Features::new(3, normals(&mut rng(6, Stream::Probe, index), 300 * 3));
        let (train, held_out, new) = (draw(0), draw(1), draw(2));
        assert_eq!(novelty(&train, &train, &held_out).unwrap(), 0.0);
        let fair = novelty(&new, &train, &held_out).unwrap();
        assert!((0.8..1.25).contains(&fair), "{fair}");
        assert!(novelty(&Features::empty(3), &train, &held_out).is_err());
    }
}
