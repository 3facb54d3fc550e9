//! Distances between two clouds of points, and the weights of their modes.

use std::f64::consts::PI;

use super::features::squared_distance;
use super::{EvaluationError, Features};

/// Directions of [`sliced_wasserstein_2`].
pub const DIRECTIONS: usize = 256;

/// Chamfer distances of two clouds x and y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chamfer {
    /// Squared distances to the nearest point of the other cloud, both ways, added up. It grows with the number of
    /// points, so it is quoted with it.
    pub sum_squared: f64,
    /// Mean squared distance from x to y and from y to x, added.
    pub mean_squared: f64,
    /// The same, of distances that are not squared.
    pub mean_distance: f64,
    /// The largest of all those distances.
    pub hausdorff: f64,
}

/// The chamfer distance. It is insensitive to the weights of modes.
pub fn chamfer(x: &Features, y: &Features) -> Result<Chamfer, EvaluationError> {
    check("the chamfer distance", x, y)?;
    let nearest = |from: &Features, to: &Features| -> Vec<f64> {
        let nearest = |p: &[f32]| to.rows().map(|q| squared_distance(p, q)).fold(f64::INFINITY, f64::min);
        from.rows().map(nearest).collect()
    };
    let mean = |values: &[f64], f: fn(f64) -> f64| values.iter().map(|v| f(*v)).sum::<f64>() / values.len() as f64;
    let ways = [nearest(x, y), nearest(y, x)];
    let both = |f: fn(f64) -> f64| ways.iter().map(|way| mean(way, f)).sum();
    Ok(Chamfer {
        sum_squared: ways.iter().flatten().sum(),
        mean_squared: both(|squared| squared),
        mean_distance: both(f64::sqrt),
        hausdorff: ways.iter().flatten().fold(0.0, |max: f64, squared| max.max(*squared)).sqrt(),
    })
}

/// The root of the mean over [`DIRECTIONS`] directions, evenly around the half circle, of the squared Wasserstein-2
/// distance between the projections of the two clouds onto the direction.
pub fn sliced_wasserstein_2(x: &Features, y: &Features) -> Result<f64, EvaluationError> {
    check("the sliced Wasserstein distance", x, y)?;
    let along = |points: &Features, [cos, sin]: [f64; 2]| {
        let mut values: Vec<f64> = points.rows().map(|p| f64::from(p[0]) * cos + f64::from(p[1]) * sin).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let of_direction = |k: usize| {
        let (sin, cos) = (PI * (k as f64 + 0.5) / DIRECTIONS as f64).sin_cos();
        transport(&along(x, [cos, sin]), &along(y, [cos, sin]))
    };
    Ok(((0..DIRECTIONS).map(of_direction).sum::<f64>() / DIRECTIONS as f64).sqrt())
}

/// The squared Wasserstein-2 distance of two sorted samples: quantile onto quantile.
fn transport(x: &[f64], y: &[f64]) -> f64 {
    let (n, m) = (x.len(), y.len());
    let (mut i, mut j, mut at, mut cost) = (0, 0, 0, 0.0);
    // In units of 1 / (n m): item i of x ends at (i + 1) m, item j of y at (j + 1) n.
    while i < n && j < m {
        let end = ((i + 1) * m).min((j + 1) * n);
        cost += (x[i] - y[j]).powi(2) * (end - at) as f64;
        at = end;
        i += usize::from(end == (i + 1) * m);
        j += usize::from(end == (j + 1) * n);
    }
    cost / (n * m) as f64
}

/// 2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs (Szekely & Rizzo 2013): 0 only for equal clouds, and
/// sensitive to the weights of modes.
pub fn energy_distance(x: &Features, y: &Features) -> Result<f64, EvaluationError> {
    check("the energy distance", x, y)?;
    let mean = |a: &Features, b: &Features| {
        let sum: f64 = a.rows().map(|p| b.rows().map(|q| squared_distance(p, q).sqrt()).sum::<f64>()).sum();
        sum / (a.len() * b.len()) as f64
    };
    Ok(2.0 * mean(x, y) - mean(x, x) - mean(y, y))
}

/// The share of the points that are nearest to each center.
pub fn mode_weights(points: &Features, centers: &[[f32; 2]]) -> Vec<f64> {
    let mut weights = vec![0.0; centers.len()];
    for point in points.rows() {
        let distance = |center: usize| squared_distance(point, &centers[center]);
        let nearest = (0..centers.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        if let Some(nearest) = nearest {
            weights[nearest] += 1.0 / points.len() as f64;
        }
    }
    weights
}

fn check(what: &'static str, x: &Features, y: &Features) -> Result<(), EvaluationError> {
    x.same_width(y)?;
    match x.len().min(y.len()) {
        0 => Err(EvaluationError::TooFew { what, least: 1, found: 0 }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::{Stream, normals, rng};

    fn cloud(index: u64, count: usize, shift: [f32; 2]) -> Features {
        let mut values = normals(&mut rng(7, Stream::Probe, index), count * 2);
        values.iter_mut().enumerate().for_each(|(i, value)| *value += shift[i % 2]);
        Features::new(2, values)
    }

    #[test]
    fn moving_a_cloud_by_a_vector_is_seen_as_far_as_it_is() {
        let (x, y) = (cloud(0, 150, [0.0; 2]), cloud(0, 150, [3.0, 4.0]));
        // Half of a squared length, because a direction sees its share of it.
        assert!((sliced_wasserstein_2(&x, &y).unwrap() - (25.0_f64 / 2.0).sqrt()).abs() < 1e-6);
        assert!(sliced_wasserstein_2(&x, &x).unwrap() == 0.0);
        assert!(energy_distance(&x, &x).unwrap().abs() < 1e-12);
        assert!(energy_distance(&x, &y).unwrap() > 1.0);
    }

    #[test]
    fn samples_of_other_sizes_are_transported_by_quantiles() {
        assert_eq!(transport(&[0.0, 1.0], &[0.0, 0.0, 1.0, 1.0]), 0.0);
        // A third of the mass of the middle goes each way by 0.5.
        let cost = transport(&[0.0, 1.0], &[0.0, 0.5, 1.0]);
        assert!((cost - 0.25 / 3.0).abs() < 1e-12, "{cost}");
    }

    #[test]
    fn weights_of_modes_are_seen_by_energy_and_not_by_chamfer() {
        let modes = |first: usize| {
            let near = cloud(1, first, [0.0; 2]);
            let far = cloud(2, 400 - first, [40.0, 0.0]);
            Features::new(2, [near.values(), far.values()].concat())
        };
        let (even, odd) = (modes(200), modes(320));
        assert_eq!(
            mode_weights(&odd, &[[0.0, 0.0], [40.0, 0.0]]),
            [0.8, 0.2].map(|w: f64| {
                // Summed one by one.
                (0..(w * 400.0).round() as usize).map(|_| 1.0 / 400.0).sum::<f64>()
            })
        );
        assert!(energy_distance(&even, &odd).unwrap() > 1.0);
        assert!(chamfer(&even, &odd).unwrap().mean_distance < 1.0);
        assert!(chamfer(&even, &Features::empty(2)).is_err());
    }
}
