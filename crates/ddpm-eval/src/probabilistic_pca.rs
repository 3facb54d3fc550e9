//! Probabilistic PCA (Tipping & Bishop 1999): the likelihood that a linear Gaussian VAE approaches and cannot exceed.

use std::f64::consts::TAU;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};

use super::pca::Pca;
use super::{EvaluationError, Features};

/// The model x = W z + mean + noise with z ~ N(0, I) and noise ~ N(0, variance I).
#[derive(Clone, Debug)]
pub struct ProbabilisticPca {
    /// W: a row for each value of an item, a column for each latent dimension.
    pub weight: Mat<f64>,
    /// The mean of the items.
    pub mean: Vec<f64>,
    /// The variance of the noise.
    pub variance: f64,
}

impl ProbabilisticPca {
    /// The maximum-likelihood model with this number of latent dimensions, below the width; 0 is the isotropic Gaussian.
    pub fn fit(train: &Features, latent: usize) -> Result<Self, EvaluationError> {
        check_latent(latent, train.width())?;
        Self::of_components(&Pca::fit(train)?, latent)
    }

    /// The same for the items that principal components were found of.
    pub fn of_components(pca: &Pca, latent: usize) -> Result<Self, EvaluationError> {
        let width = pca.mean().len();
        check_latent(latent, width)?;
        let variances = pca.variances();
        let variance = variances[latent..].iter().sum::<f64>() / (width - latent) as f64;
        if variance <= 0.0 {
            let reason = format!("{latent} latent dimensions leave no noise: the density has no bound; expected fewer");
            return Err(EvaluationError::Argument { what: "probabilistic PCA", reason });
        }
        let scaled = |column: usize| {
            let length = (variances[column] - variance).sqrt();
            pca.component(column).into_iter().map(move |entry| entry * length).collect::<Vec<_>>()
        };
        let columns: Vec<Vec<f64>> = (0..latent).map(scaled).collect();
        let weight = Mat::from_fn(width, latent, |row, column| columns[column][row]);
        Ok(Self { weight, mean: pca.mean().to_vec(), variance })
    }

    /// The logarithm of the density of every item, in nats.
    pub fn log_likelihoods(&self, items: &Features) -> Result<Vec<f64>, EvaluationError> {
        let (width, latent) = (self.weight.nrows(), self.weight.ncols());
        if items.width() != width || self.mean.len() != width {
            return Err(EvaluationError::Width { left: items.width(), right: width });
        }
        let mut gram = Mat::zeros(latent, latent);
        matmul(&mut gram, Accum::Replace, self.weight.transpose(), &self.weight, 1.0, Par::Seq);
        let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| EvaluationError::Eigen { width: latent })?;
        let mut along = Mat::zeros(width, latent);
        matmul(&mut along, Accum::Replace, &self.weight, eigen.U(), 1.0, Par::Seq);
        let mut centered = items.matrix();
        for (column, mean) in self.mean.iter().enumerate() {
            centered.col_mut(column).iter_mut().for_each(|value| *value -= mean);
        }
        let mut coordinates = Mat::zeros(items.len(), latent);
        matmul(&mut coordinates, Accum::Replace, &centered, &along, 1.0, Par::rayon(0));

        // The covariance W W^T + s I has the eigenvalues of W^T W plus s, and s. Its inverse by Woodbury's identity.
        let own: Vec<f64> = (0..latent).map(|k| eigen.S()[k].max(0.0) + self.variance).collect();
        let log_determinant =
            own.iter().map(|value| value.ln()).sum::<f64>() + (width - latent) as f64 * self.variance.ln();
        let log_likelihood = |item: usize| {
            let square: f64 = centered.row(item).iter().map(|value| value * value).sum();
            let explained: f64 = (0..latent).map(|k| coordinates[(item, k)].powi(2) / own[k]).sum();
            -0.5 * (width as f64 * TAU.ln() + log_determinant + (square - explained) / self.variance)
        };
        Ok((0..items.len()).map(log_likelihood).collect())
    }
}

fn check_latent(latent: usize, width: usize) -> Result<(), EvaluationError> {
    if latent < width {
        return Ok(());
    }
    let reason = format!("{latent} latent dimensions for items of {width} values; expected fewer");
    Err(EvaluationError::Argument { what: "probabilistic PCA", reason })
}
