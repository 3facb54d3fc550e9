//! The kernel inception distance (KID): unbiased, so that equal distributions give 0 on average, and sometimes less.

use ddpm_data::permutation;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use super::{EvaluationError, Features};

/// A kernel distance over subsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kid {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets, divided by their number.
    pub deviation: f64,
    /// Number of subsets.
    pub subsets: usize,
    /// Items of either set in a subset.
    pub size: usize,
}

/// The mean of [`mmd2_unbiased`] over random subsets without replacement (Binkowski et al. 2018). The subsets depend
/// on the seed, and have as many items as the smaller set if that has less than `size`.
pub fn kid(x: &Features, y: &Features, subsets: usize, size: usize, seed: u64) -> Result<Kid, EvaluationError> {
    let size = size.min(x.len()).min(y.len());
    // The only subset of all.
    let subsets = if size == x.len() && size == y.len() { 1 } else { subsets };
    let pick = |features: &Features, place: u64| {
        features.select(permutation(seed, place, features.len()).into_iter().take(size))
    };
    let values = (0..subsets as u64)
        .map(|subset| mmd2_unbiased(&pick(x, 2 * subset), &pick(y, 2 * subset + 1)))
        .collect::<Result<Vec<_>, _>>()?;
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    Ok(Kid { mean, deviation, subsets, size })
}

/// The squared maximum mean discrepancy with the kernel (a.b / d + 1)^3, its unbiased estimator: pairs of an item with
/// itself are left out.
pub fn mmd2_unbiased(x: &Features, y: &Features) -> Result<f64, EvaluationError> {
    x.same_width(y)?;
    let (n, m) = (x.len(), y.len());
    if n.min(m) < 2 {
        return Err(EvaluationError::TooFew { what: "the kernel distance", least: 2, found: n.min(m) });
    }
    let (x, y) = (x.matrix(), y.matrix());
    let pairs = |n: usize| (n * (n - 1)) as f64;
    let within_x = sum_of_kernel(&x, &x, true) / pairs(n);
    let within_y = sum_of_kernel(&y, &y, true) / pairs(m);
    Ok(within_x + within_y - 2.0 * sum_of_kernel(&x, &y, false) / (n * m) as f64)
}

fn sum_of_kernel(a: &Mat<f64>, b: &Mat<f64>, without_diagonal: bool) -> f64 {
    let width = a.ncols() as f64;
    let mut products = Mat::zeros(a.nrows(), b.nrows());
    matmul(&mut products, Accum::Replace, a, b.transpose(), 1.0, Par::rayon(0));
    let kernel = |product: f64| (product / width + 1.0).powi(3);
    let column = |j: usize| -> f64 {
        let of_all: f64 = products.col(j).iter().map(|product| kernel(*product)).sum();
        if without_diagonal { of_all - kernel(products[(j, j)]) } else { of_all }
    };
    (0..b.nrows()).map(column).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::{Stream, normals, rng};

    fn normal(index: u64, count: usize) -> Features {
        Features::new(4, normals(&mut rng(4, Stream::Probe, index), count * 4))
    }

    #[test]
    fn equal_distributions_average_to_zero_and_are_at_times_negative() {
        let values: Vec<f64> =
            (0..200).map(|k| mmd2_unbiased(&normal(2 * k, 40), &normal(2 * k + 1, 40)).unwrap()).collect();
        let mean = values.iter().sum::<f64>() / 200.0;
        let error = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 200.0 / 200.0).sqrt();
        assert!(mean.abs() < 3.0 * error, "{mean} with an error of {error}");
        assert!(values.iter().any(|value| *value < 0.0) && values.iter().any(|value| *value > 0.0));
    }

    #[test]
    fn subsets_depend_on_the_seed_and_never_outgrow_the_smaller_set() {
        let (x, y) = (normal(0, 60), normal(1, 30));
        let found = kid(&x, &y, 5, 1000, 7).unwrap();
        assert_eq!((found.size, found), (30, kid(&x, &y, 5, 1000, 7).unwrap()));
        assert_ne!(found, kid(&x, &y, 5, 1000, 8).unwrap());
        assert!(kid(&x, &normal(1, 1), 5, 1000, 7).is_err());
    }
}
