//! Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

use rayon::prelude::*;

use super::features::squared_distance;
use super::{EvaluationError, Features};

/// Fidelity and diversity, from the k-NN balls around the items of two sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the samples inside the ball of a real item: how real they look.
    pub precision: f64,
    /// Share of the real items inside the ball of a sample: how much of the data is covered.
    pub recall: f64,
    /// In how many real balls a sample lies, divided by k: 1 on average for equal distributions, not bounded.
    pub density: f64,
    /// Share of the real balls with a sample inside.
    pub coverage: f64,
}

/// The ball of an item reaches to the `k`-th nearest other item of its own set. A point on the boundary is inside for
/// precision and recall, and outside for density and coverage, as in the code of the papers.
///
/// Time is quadratic in the number of items; memory is constant.
pub fn precision_recall(real: &Features, samples: &Features, k: usize) -> Result<PrecisionRecall, EvaluationError> {
    real.same_width(samples)?;
    let (real_radii, sample_radii) = (squared_radii(real, k)?, squared_radii(samples, k)?);
    let (met, hits) = (0..samples.len())
        .into_par_iter()
        .map(|sample| {
            let (mut inside, mut hits) = (0, 0);
            for (item, radius) in real.rows().zip(&real_radii) {
                let distance = squared_distance(item, samples.row(sample));
                inside |= usize::from(distance <= *radius);
                hits += usize::from(distance < *radius);
            }
            (inside, hits)
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let (recalled, covered) = (0..real.len())
        .into_par_iter()
        .map(|item| {
            let (mut recalled, mut covered) = (0, 0);
            for (sample, radius) in samples.rows().zip(&sample_radii) {
                let distance = squared_distance(real.row(item), sample);
                recalled |= usize::from(distance <= *radius);
                covered |= usize::from(distance < real_radii[item]);
            }
            (recalled, covered)
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let share = |count: usize, of: usize| count as f64 / of as f64;
    Ok(PrecisionRecall {
        precision: share(met, samples.len()),
        recall: share(recalled, real.len()),
        density: share(hits, k * samples.len()),
        coverage: share(covered, real.len()),
    })
}

/// Squared distance of every item to its `k`-th nearest other one.
fn squared_radii(features: &Features, k: usize) -> Result<Vec<f64>, EvaluationError> {
    let count = features.len();
    if k == 0 || count <= k {
        return Err(EvaluationError::TooFew { what: "precision and recall", least: k + 1, found: count });
    }
    let radius = |item: usize| {
        // The nearest so far, in order; k is small.
        let mut nearest = vec![f64::INFINITY; k];
        for other in (0..count).filter(|other| *other != item) {
            let distance = squared_distance(features.row(item), features.row(other));
            if distance < nearest[k - 1] {
                let place = nearest.partition_point(|near| *near <= distance);
                nearest.insert(place, distance);
                nearest.truncate(k);
            }
        }
        nearest[k - 1]
    };
    Ok((0..count).into_par_iter().map(radius).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::{Stream, normals, rng};

    fn normal(index: u64, scale: f32) -> Features {
        let values = normals(&mut rng(5, Stream::Probe, index), 200 * 16);
        Features::new(16, values.into_iter().map(|value| value * scale).collect())
    }

    #[test]
    fn a_narrow_generator_is_precise_and_recalls_little() {
        let found = precision_recall(&normal(0, 3.0), &normal(1, 0.1), 3).unwrap();
        assert!(found.precision > 0.8 && found.recall < 0.3, "{found:?}");
        let back = precision_recall(&normal(1, 0.1), &normal(0, 3.0), 3).unwrap();
        assert_eq!((found.precision, found.recall), (back.recall, back.precision));
    }

    #[test]
    fn a_set_covers_itself() {
        let set = normal(0, 1.0);
        let found = precision_recall(&set, &set, 3).unwrap();
        assert_eq!((found.precision, found.recall, found.coverage), (1.0, 1.0, 1.0));
        assert!(precision_recall(&set, &set.select(0..3), 3).is_err());
    }

    #[test]
    fn on_a_line_by_hand() {
        let line = |values: &[f32]| Features::new(1, values.to_vec());
        // Radii with k = 1: of the real ones 1, 1, 7, of the samples 0.5, 0.5.
        let found = precision_recall(&line(&[0.0, 1.0, 8.0]), &line(&[0.5, 1.0]), 1).unwrap();
        assert_eq!((found.precision, found.recall), (1.0, 2.0 / 3.0));
        // 0.5 lies in two balls; 1 lies in its own, and on the rims of the others.
        assert_eq!((found.density, found.coverage), (1.5, 2.0 / 3.0));
    }
}
