//! Principal component analysis: the reconstruction that an autoencoder with as many latent dimensions must beat.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};

use super::{EvaluationError, Features, Moments};

/// Mean and principal components of a set.
#[derive(Clone, Debug)]
pub struct Pca {
    mean: Vec<f64>,
    /// A component in every column.
    components: Mat<f64>,
    variances: Vec<f64>,
}

impl Pca {
    /// Of the items of the train split, all components. Of every component the entry of the largest size is positive.
    pub fn fit(train: &Features) -> Result<Self, EvaluationError> {
        if !train.is_finite() {
            return Err(EvaluationError::NotFinite { what: "the items of a principal component analysis".into() });
        }
        let moments = Moments::of(train);
        let statistics = moments.statistics()?;
        let (width, count) = (train.width(), moments.count() as f64);
        let eigen = statistics.covariance.self_adjoint_eigen(Side::Lower);
        let eigen = eigen.map_err(|_| EvaluationError::Eigen { width })?;
        // They come by increasing eigenvalue.
        let (vectors, values) = (eigen.U(), eigen.S());
        let sign = |column: usize| {
            let entries = vectors.col(width - 1 - column).iter();
            entries.fold(0.0_f64, |largest, &entry| if entry.abs() > largest.abs() { entry } else { largest }).signum()
        };
        let signs: Vec<f64> = (0..width).map(sign).collect();
        Ok(Self {
            mean: statistics.mean,
            components: Mat::from_fn(width, width, |row, column| vectors[(row, width - 1 - column)] * signs[column]),
            variances: (0..width).map(|k| values[width - 1 - k].max(0.0) * (count - 1.0) / count).collect(),
        })
    }

    /// The mean.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// A component, a vector of length 1.
    pub fn component(&self, index: usize) -> Vec<f64> {
        self.components.col(index).iter().copied().collect()
    }

    /// The variance along every component, from the largest, divided by the number of items.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// Every item less the mean.
    fn centered(&self, items: &Features) -> Result<Mat<f64>, EvaluationError> {
        let width = self.mean.len();
        if items.width() != width {
            return Err(EvaluationError::Width { left: items.width(), right: width });
        }
        if items.is_empty() {
            return Err(EvaluationError::TooFew { what: "a reconstruction error", least: 1, found: 0 });
        }
        let mut centered = items.matrix();
        for (column, mean) in self.mean.iter().enumerate() {
            centered.col_mut(column).iter_mut().for_each(|value| *value -= mean);
        }
        Ok(centered)
    }

    /// The items' reconstructions by the mean and the first components.
    pub fn reconstruct(&self, items: &Features, components: usize) -> Result<Features, EvaluationError> {
        let width = self.mean.len();
        if components > width {
            let reason = format!("{components} components of items of {width} values; expected at most as many");
            return Err(EvaluationError::Argument { what: "principal component analysis", reason });
        }
        let first = self.components.subcols(0, components);
        let mut coordinates = Mat::zeros(items.len(), components);
        matmul(&mut coordinates, Accum::Replace, &self.centered(items)?, first, 1.0, Par::rayon(0));
        let mut found = Mat::from_fn(items.len(), width, |_, column| self.mean[column]);
        matmul(&mut found, Accum::Add, &coordinates, first.transpose(), 1.0, Par::rayon(0));
        let value = |k: usize| found[(k / width, k % width)] as f32;
        Ok(Features::new(width, (0..items.len() * width).map(value).collect()))
    }

    /// The mean squared error per value of the items' reconstructions by the first d components, for every d from 0 (the
    /// mean) to the width.
    pub fn reconstruction_errors(&self, items: &Features) -> Result<Vec<f64>, EvaluationError> {
        let (width, centered) = (self.mean.len(), self.centered(items)?);
        let mut coordinates = Mat::zeros(items.len(), width);
        matmul(&mut coordinates, Accum::Replace, &centered, &self.components, 1.0, Par::rayon(0));
        // What d components leave out: the squares along all others.
        let mut errors = vec![0.0; width + 1];
        for d in (0..width).rev() {
            let squares: f64 = coordinates.col(d).iter().map(|coordinate| coordinate * coordinate).sum();
            errors[d] = errors[d + 1] + squares / (items.len() * width) as f64;
        }
        Ok(errors)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn points_on_a_line_need_one_component() {
        let train = Features::new(2, vec![0.0, 1.0, 3.0, 5.0, 6.0, 9.0]);
        let pca = Pca::fit(&train).unwrap();
        let errors = pca.reconstruction_errors(&train).unwrap();
        // The variances are 6 and 32/3; two values an item.
        assert!((errors[0] - (6.0 + 32.0 / 3.0) / 2.0).abs() < 1e-12, "{errors:?}");
        assert!(errors[1].abs() < 1e-12 && errors[2] == 0.0, "{errors:?}");
        assert!(pca.component(0).iter().zip([0.6, 0.8]).all(|(found, wanted)| (found - wanted).abs() < 1e-12));
        // (4, -3) is across the line.
        let off = pca.reconstruction_errors(&Features::new(2, vec![7.0, 2.0])).unwrap();
        assert!((off[0] - 12.5).abs() < 1e-12 && (off[1] - 12.5).abs() < 1e-12, "{off:?}");
    }

    #[test]
    fn reconstructions_have_the_errors() {
        let train = Features::new(3, vec![0.0, 1.0, 2.0, 3.0, 5.0, 1.0, 6.0, 9.0, 4.0, 2.0, 2.0, 8.0]);
        let items = Features::new(3, vec![1.0, -2.0, 0.5, 4.0, 4.0, 4.0]);
        let pca = Pca::fit(&train).unwrap();
        for (components, wanted) in pca.reconstruction_errors(&items).unwrap().into_iter().enumerate() {
            let found = pca.reconstruct(&items, components).unwrap();
            let errors = crate::reconstruction::mean_squared_errors(&items, &found).unwrap();
            assert!((errors.iter().sum::<f64>() / 2.0 - wanted).abs() < 1e-6, "{components}: {errors:?} {wanted}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let pca = Pca::fit(&Features::new(2, vec![0.0, 1.0, 3.0, 5.0])).unwrap();
        assert!(pca.reconstruct(&Features::new(2, vec![0.0; 2]), 3).is_err());
        assert!(pca.reconstruction_errors(&Features::new(3, vec![0.0; 3])).is_err());
        assert!(pca.reconstruction_errors(&Features::empty(2)).is_err());
        assert!(Pca::fit(&Features::new(2, vec![0.0, 1.0])).is_err());
        assert!(Pca::fit(&Features::new(1, vec![0.0, f32::NAN])).is_err());
    }
}
