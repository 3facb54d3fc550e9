//! Normal distributions with independent values, by mean and LOG SCALE (the logarithm of the standard deviation, not of
//! the variance).

use std::f64::consts::{LN_2, PI};

use burn::tensor::Tensor;

/// A normal distribution of every value.
#[derive(Clone, Debug)]
pub struct DiagonalNormal {
    /// The means.
    pub mean: Tensor<4>,
    /// The logarithms of the standard deviations.
    pub log_scale: Tensor<4>,
}

impl DiagonalNormal {
    /// The draw that is made of standard normal `noise`, its standard deviation multiplied by the temperature.
    pub fn sample(&self, noise: Tensor<4>, temperature: f64) -> Tensor<4> {
        self.mean.clone() + self.log_scale.clone().exp() * noise * temperature
    }

    /// The divergence `KL(self || other)` of every item, `[B]`.
    pub fn kl(&self, other: &Self) -> Tensor<1> {
        let log_ratio = self.log_scale.clone() - other.log_scale.clone();
        let distance = (self.mean.clone() - other.mean.clone()) * other.log_scale.clone().neg().exp();
        let squares = (log_ratio.clone() * 2.0).exp() + distance.square();
        sum_per_item(squares * 0.5 - log_ratio - 0.5)
    }

    /// The logarithm of the density at `z` of every item, `[B]`.
    pub fn log_density(&self, z: Tensor<4>) -> Tensor<1> {
        let standard = (z - self.mean.clone()) * self.log_scale.clone().neg().exp();
        sum_per_item(standard.square() * -0.5 - self.log_scale.clone() - 0.5 * (LN_2 + PI.ln()))
    }

    /// This one moved by `offset` in mean and log scale.
    pub(super) fn moved_by(&self, offset: Self) -> Self {
        Self { mean: self.mean.clone() + offset.mean, log_scale: self.log_scale.clone() + offset.log_scale }
    }
}

fn sum_per_item(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1)
}
