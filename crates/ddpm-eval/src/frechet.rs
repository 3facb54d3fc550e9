//! The Frechet distance between the Gaussians with the moments of two sets.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};

use super::{EvaluationError, Statistics};

/// |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2) (Dowson & Landau 1982 (4)).
///
/// By two symmetric eigendecompositions, so that there are no complex numbers and no covariance needs to have full rank:
/// with fewer items than dimensions the distance is finite, if far from that of many items.
pub fn frechet(a: &Statistics, b: &Statistics) -> Result<f64, EvaluationError> {
    let width = a.mean.len();
    if width != b.mean.len() {
        return Err(EvaluationError::Width { left: width, right: b.mean.len() });
    }
    let half = root(&a.covariance)?;
    let mut right = Mat::zeros(width, width);
    matmul(&mut right, Accum::Replace, &b.covariance, &half, 1.0, Par::rayon(0));
    let mut product = Mat::zeros(width, width);
    matmul(&mut product, Accum::Replace, &half, &right, 1.0, Par::rayon(0));
    let eigenvalues =
        symmetric(&product).self_adjoint_eigenvalues(Side::Lower).map_err(|_| EvaluationError::Eigen { width })?;
    let cross: f64 = eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum();
    let mean: f64 = a.mean.iter().zip(&b.mean).map(|(a, b)| (a - b).powi(2)).sum();
    let trace = |matrix: &Mat<f64>| (0..width).map(|i| matrix[(i, i)]).sum::<f64>();
    Ok(mean + trace(&a.covariance) + trace(&b.covariance) - 2.0 * cross)
}

/// The square root of a symmetric matrix without negative eigenvalues, except for rounding.
pub fn root(matrix: &Mat<f64>) -> Result<Mat<f64>, EvaluationError> {
    let width = matrix.nrows();
    let eigen = symmetric(matrix).self_adjoint_eigen(Side::Lower).map_err(|_| EvaluationError::Eigen { width })?;
    let (vectors, values) = (eigen.U(), eigen.S());
    let scaled = Mat::from_fn(width, width, |row, column| vectors[(row, column)] * values[column].max(0.0).sqrt());
    let mut root = Mat::zeros(width, width);
    matmul(&mut root, Accum::Replace, &scaled, vectors.transpose(), 1.0, Par::rayon(0));
    Ok(root)
}

fn symmetric(matrix: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| (matrix[(i, j)] + matrix[(j, i)]) / 2.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Features, Moments};
    use ddpm_data::random::{Stream, normals, rng};

    fn diagonal(means: Vec<f64>, deviations: &[f64]) -> Statistics {
        let width = means.len();
        let covariance = Mat::from_fn(width, width, |i, j| if i == j { deviations[i].powi(2) } else { 0.0 });
        Statistics { count: None, mean: means, covariance }
    }

    #[test]
    fn closed_forms() {
        let ones = vec![1.0; 2048];
        let apart = frechet(&diagonal(vec![0.0; 2048], &ones), &diagonal(ones.clone(), &ones)).unwrap();
        assert!((apart - 2048.0).abs() < 1e-8, "{apart}");
        // Of independent coordinates: the sum of (m_1 - m_2)^2 + (s_1 - s_2)^2.
        let a = diagonal(vec![0.0, 1.0, -2.0], &[1.0, 2.0, 0.5]);
        let b = diagonal(vec![0.5, 1.0, 1.0], &[3.0, 0.0, 0.25]);
        assert!((frechet(&a, &b).unwrap() - (0.25 + 4.0 + 4.0 + 9.0 + 0.0625)).abs() < 1e-9);
    }

    #[test]
    fn a_set_has_no_distance_to_itself_even_with_few_items() {
        let sets = [(400, 20), (10, 64)].map(|(count, width)| {
            let values = normals(&mut rng(2, Stream::Probe, 0), count * width);
            Moments::of(&Features::new(width, values)).statistics().unwrap()
        });
        // Every eigenvalue that should be 0 is the root of a rounding error: half of the digits.
        for (statistics, tolerance) in sets.iter().zip([1e-9, 1e-5]) {
            let own = frechet(statistics, statistics).unwrap();
            assert!(own.abs() < tolerance, "{own}");
        }
        let message = frechet(&sets[0], &sets[1]).unwrap_err().to_string();
        assert!(message.contains("20") && message.contains("64"), "{message}");
    }

    #[test]
    fn it_grows_with_noise() {
        let draw = |index, scale: f32| {
            let mut values = normals(&mut rng(3, Stream::Probe, 0), 2000 * 5);
            let noise = normals(&mut rng(3, Stream::Probe, index), 2000 * 5);
            values.iter_mut().zip(noise).for_each(|(value, noise)| *value += scale * noise);
            Moments::of(&Features::new(5, values)).statistics().unwrap()
        };
        let clean = draw(1, 0.0);
        let distances = [0.0, 0.2, 0.5, 1.0].map(|scale| frechet(&clean, &draw(1, scale)).unwrap());
        assert!(distances.windows(2).all(|pair| pair[0] + 1e-6 < pair[1]), "{distances:?}");
    }
}
