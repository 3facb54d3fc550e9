//! Data whose best denoiser, and whose probability flow, are known in closed form.

use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData, activation::softmax};
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

/// A tensor in `f64`.
pub fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex(), DType::F64))
}

/// A tensor in `f64` where another one is, with autodiff if that has it.
fn beside<const D: usize>(other: &Tensor<D>, values: &[f64], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&other.device(), DType::F64))
}

/// The values of a tensor.
pub fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Data from N(mean, covariance) in the plane; the covariance by its axes.
pub struct Gaussian {
    pub mean: [f64; 2],
    /// Angle of the first axis.
    pub angle: f64,
    /// Variance along both axes.
    pub spread: [f64; 2],
}

pub const GAUSSIAN: Gaussian = Gaussian { mean: [0.7, -0.4], angle: 0.5, spread: [0.8, 0.05] };

impl Gaussian {
    /// The symmetric matrix with the axes of the covariance and these values along them.
    pub fn along_axes(&self, [a, b]: [f64; 2]) -> [f64; 4] {
        let (sin, cos) = self.angle.sin_cos();
        let off = (a - b) * sin * cos;
        [a * cos * cos + b * sin * sin, off, off, a * sin * sin + b * cos * cos]
    }

    /// The logarithm of the density of the data.
    pub fn log_density(&self, [x, y]: [f64; 2]) -> f64 {
        let (sin, cos) = self.angle.sin_cos();
        let (x, y) = (x - self.mean[0], y - self.mean[1]);
        let along = [x * cos + y * sin, y * cos - x * sin];
        let axis = |i: usize| -0.5 * (along[i].powi(2) / self.spread[i] + (TAU * self.spread[i]).ln());
        axis(0) + axis(1)
    }

    /// Where the probability-flow ODE takes x: every axis keeps its distance from the mean in deviations.
    pub fn flow(&self, x: &Tensor<2>, from: NoiseLevel, to: NoiseLevel) -> Tensor<2> {
        let variance = |level: NoiseLevel, s: f64| level.alpha.powi(2) * s + level.sigma.powi(2);
        let stretch = self.spread.map(|s| (variance(to, s) / variance(from, s)).sqrt());
        let mean = tensor(&self.mean, [1, 2]);
        let apart = x.clone() - mean.clone() * from.alpha;
        apart.matmul(tensor(&self.along_axes(stretch), [2, 2])) + mean * to.alpha
    }
}

impl Denoiser<2> for Gaussian {
    fn denoise(&self, x_t: &Tensor<2>, level: NoiseLevel) -> Denoised<2> {
        let NoiseLevel { alpha, sigma } = level;
        let gain = self.spread.map(|s| alpha * s / (alpha.powi(2) * s + sigma.powi(2)));
        let mean = beside(x_t, &self.mean, [1, 2]);
        let x_0 = (x_t.clone() - mean.clone() * alpha).matmul(beside(x_t, &self.along_axes(gain), [2, 2])) + mean;
        Denoised { x_0, variance_logit: None }
    }
}

/// Data from two round Gaussians in the plane.
pub struct Mixture {
    pub weights: [f64; 2],
    pub means: [[f64; 2]; 2],
    pub variance: f64,
}

pub const MIXTURE: Mixture = Mixture { weights: [0.8, 0.2], means: [[1.0, 0.5], [-1.0, -0.5]], variance: 0.01 };

impl Mixture {
    /// The logarithm of the density of the data.
    pub fn log_density(&self, [x, y]: [f64; 2]) -> f64 {
        let part = |i: usize| {
            let square = (x - self.means[i][0]).powi(2) + (y - self.means[i][1]).powi(2);
            self.weights[i] / (TAU * self.variance) * (-0.5 * square / self.variance).exp()
        };
        (part(0) + part(1)).ln()
    }

    /// Where the probability-flow ODE takes x. Across the line through the means the data are one Gaussian, and
    /// along it points keep their order, so that the share of the data below a point stays what it is.
    pub fn flow(&self, x: &Tensor<2>, from: NoiseLevel, to: NoiseLevel) -> Tensor<2> {
        let [a, b] = self.means;
        let length = (a[0] - b[0]).hypot(a[1] - b[1]);
        let (u, v) = ((a[0] - b[0]) / length, (a[1] - b[1]) / length);
        let deviation = |level: NoiseLevel| (level.alpha.powi(2) * self.variance + level.sigma.powi(2)).sqrt();
        let along = self.means.map(|mean| u * mean[0] + v * mean[1]);
        let across = u * a[1] - v * a[0];
        let below = |p: f64, level: NoiseLevel| -> f64 {
            let share = |i: usize| self.weights[i] * normal_below((p - level.alpha * along[i]) / deviation(level));
            share(0) + share(1)
        };
        let points = values(x.clone());
        let moved = points.chunks_exact(2).flat_map(|point| {
            let (p, q) = (u * point[0] + v * point[1], u * point[1] - v * point[0]);
            let share = below(p, from);
            let p = where_rising_reaches(share, |p| below(p, to));
            let q = (q - from.alpha * across) / deviation(from) * deviation(to) + to.alpha * across;
            [u * p - v * q, v * p + u * q]
        });
        tensor(&moved.collect::<Vec<_>>(), x.dims())
    }
}

impl Denoiser<2> for Mixture {
    fn denoise(&self, x_t: &Tensor<2>, NoiseLevel { alpha, sigma }: NoiseLevel) -> Denoised<2> {
        let total = alpha.powi(2) * self.variance + sigma.powi(2);
        let residuals = self.means.map(|mean| x_t.clone() - beside(x_t, &mean, [1, 2]) * alpha);
        let logits = [0, 1].map(|i| residuals[i].clone().square().sum_dim(1) * (-0.5 / total) + self.weights[i].ln());
        let shares = softmax(Tensor::cat(logits.to_vec(), 1), 1);
        let component = |i: usize| {
            let x_0 = residuals[i].clone() * (alpha * self.variance / total) + beside(x_t, &self.means[i], [1, 2]);
            x_0 * shares.clone().narrow(1, i, 1)
        };
        Denoised { x_0: component(0) + component(1), variance_logit: None }
    }
}

/// The share of the standard normal distribution below x, by the series x + x^3/3 + x^5/15 + ...
fn normal_below(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / TAU.sqrt()
}

/// Where a rising function has this value, between -20 and 20.
fn where_rising_reaches(value: f64, function: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-20.0, 20.0);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        match function(middle) < value {
            true => low = middle,
            false => high = middle,
        }
    }
    (low + high) / 2.0
}
