//! Mean and covariance of features, accumulated in f64.

use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use super::arrays::{Array, read_npz, write_npz};
use super::{EvaluationError, Features};

/// Mean and scatter of the items so far.
#[derive(Clone, Debug)]
pub struct Moments {
    count: u64,
    mean: Vec<f64>,
    /// Sum over the items of (x - mean) (x - mean)^T.
    scatter: Mat<f64>,
}

impl Moments {
    /// Of no items.
    pub fn empty(width: usize) -> Self {
        Self { count: 0, mean: vec![0.0; width], scatter: Mat::zeros(width, width) }
    }

    /// Of some items, in two passes: first their mean, then what is left without it.
    pub fn of(features: &Features) -> Self {
        let mut matrix = features.matrix();
        let count = features.len();
        let mut moments = Self::empty(features.width());
        for (column, mean) in moments.mean.iter_mut().enumerate() {
            let column = matrix.col_mut(column);
            *mean = column.as_ref().iter().sum::<f64>() / count.max(1) as f64;
            column.iter_mut().for_each(|value| *value -= *mean);
        }
        moments.count = count as u64;
        matmul(&mut moments.scatter, Accum::Replace, matrix.transpose(), &matrix, 1.0, Par::rayon(0));
        moments
    }

    /// Number of items.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds the items of `other`, exact but for rounding (Chan, Golub & LeVeque 1979).
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        if self.mean.len() != other.mean.len() {
            return Err(EvaluationError::Width { left: self.mean.len(), right: other.mean.len() });
        }
        if other.count == 0 {
            return Ok(());
        }
        let (n, m) = (self.count as f64, other.count as f64);
        let delta: Vec<f64> = self.mean.iter().zip(&other.mean).map(|(own, other)| other - own).collect();
        let weight = n * m / (n + m);
        for column in 0..delta.len() {
            let own = self.scatter.col_mut(column).iter_mut();
            for ((own, other), delta_row) in own.zip(other.scatter.col(column).iter()).zip(&delta) {
                *own += other + delta_row * delta[column] * weight;
            }
        }
        for (mean, delta) in self.mean.iter_mut().zip(&delta) {
            *mean += delta * m / (n + m);
        }
        self.count += other.count;
        Ok(())
    }

    /// Mean and unbiased covariance.
    pub fn statistics(&self) -> Result<Statistics, EvaluationError> {
        if self.count < 2 {
            return Err(EvaluationError::TooFew { what: "a covariance", least: 2, found: self.count as usize });
        }
        let covariance = faer::Scale(1.0 / (self.count - 1) as f64) * &self.scatter;
        Ok(Statistics { count: Some(self.count), mean: self.mean.clone(), covariance })
    }
}

/// Mean and covariance of a set, for the Frechet distance.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Number of items, if known: files of other tools do not contain it.
    pub count: Option<u64>,
    /// The mean.
    pub mean: Vec<f64>,
    /// The covariance, divided by the count less one.
    pub covariance: Mat<f64>,
}

impl Statistics {
    /// Reads an npz with `mu` and `sigma`, as pytorch-fid and clean-fid write them.
    pub fn read(path: &Path) -> Result<Self, EvaluationError> {
        let arrays = read_npz(path)?;
        let find = |name: &str| {
            arrays.iter().find(|(key, _)| key == name).map(|(_, array)| array).ok_or_else(|| {
                let keys: Vec<&str> = arrays.iter().map(|(key, _)| key.as_str()).collect();
                let keys = keys.join(", ");
                EvaluationError::format(path, format!("there is no array `{name}` in it, only {keys}"))
            })
        };
        let (mu, sigma) = (find("mu")?, find("sigma")?);
        let width = mu.values.len();
        if mu.shape.len() != 1 || sigma.shape != [width, width] {
            let reason =
                format!("mu has shape {:?} and sigma {:?}; expected [d] and [d, d] with one d", mu.shape, sigma.shape);
            return Err(EvaluationError::format(path, reason));
        }
        Ok(Self {
            count: find("count").ok().and_then(|count| count.values.first().map(|count| *count as u64)),
            mean: mu.values.clone(),
            covariance: Mat::from_fn(width, width, |row, column| sigma.values[row * width + column]),
        })
    }

    /// Writes such a file, with the `count`, which other tools ignore.
    pub fn write(&self, path: &Path) -> Result<(), EvaluationError> {
        let width = self.mean.len();
        let sigma = (0..width * width).map(|i| self.covariance[(i / width, i % width)]).collect();
        let mut arrays = vec![
            ("mu".to_string(), Array { shape: vec![width], values: self.mean.clone() }),
            ("sigma".to_string(), Array { shape: vec![width, width], values: sigma }),
        ];
        if let Some(count) = self.count {
            arrays.push(("count".to_string(), Array { shape: vec![1], values: vec![count as f64] }));
        }
        write_npz(path, &arrays)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::{Stream, normals, rng};

    fn features(count: usize, width: usize, shift: f32) -> Features {
        let values = normals(&mut rng(1, Stream::Probe, 0), count * width);
        Features::new(width, values.into_iter().map(|value| value + shift).collect())
    }

    #[test]
    fn parts_make_the_whole() {
        // Far from zero, where sums of squares would have lost their digits.
        let all = features(101, 7, 1000.0);
        let whole = Moments::of(&all).statistics().unwrap();
        for cuts in [[10, 50], [1, 2], [0, 100]] {
            let mut merged = Moments::empty(7);
            for part in [0..cuts[0], cuts[0]..cuts[1], cuts[1]..101] {
                merged.merge(&Moments::of(&all.select(part))).unwrap();
            }
            let merged = merged.statistics().unwrap();
            assert_eq!(merged.count, Some(101));
            for i in 0..7 {
                assert!((merged.mean[i] - whole.mean[i]).abs() < 1e-10);
                assert!((0..7).all(|j| (merged.covariance[(i, j)] - whole.covariance[(i, j)]).abs() < 1e-12));
            }
        }
    }

    #[test]
    fn three_constant_images_have_mean_one_half_and_variance_one_quarter() {
        let statistics = Moments::of(&Features::new(2, vec![0.0, 0.0, 0.5, 0.5, 1.0, 1.0])).statistics().unwrap();
        assert_eq!(statistics.mean, [0.5, 0.5]);
        assert!((0..4).all(|i| statistics.covariance[(i / 2, i % 2)] == 0.25));
        assert!(Moments::of(&Features::new(2, vec![0.0, 0.0])).statistics().is_err());
    }

    #[test]
    fn statistics_survive_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.npz");
        let statistics = Moments::of(&features(9, 3, 0.0)).statistics().unwrap();
        statistics.write(&path).unwrap();
        let read = Statistics::read(&path).unwrap();
        assert_eq!((read.count, &read.mean), (Some(9), &statistics.mean));
        assert_eq!(read.covariance, statistics.covariance);
        write_npz(&path, &[("mu".into(), Array { shape: vec![2], values: vec![0.0; 2] })]).unwrap();
        let message = Statistics::read(&path).unwrap_err().to_string();
        assert!(message.contains("s.npz") && message.contains("`sigma`") && message.contains("mu"), "{message}");
    }
}
