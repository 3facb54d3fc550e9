//! Batch normalization (Ioffe & Szegedy 2015), with the numbers of PyTorch.
//!
//! A [training pass](Pass::training) normalizes by mean and variance of its batch. Any other pass normalizes by their
//! running averages, so that what becomes of an item does not depend on the other items. No pass changes the layer: a
//! training pass records the statistics of its batch, and whoever takes the step moves the running averages by
//! [`with_statistics`]. A step that is not taken leaves no trace in them.
//!
//! The running averages are parameters without a gradient: records and snapshots have them, and an average of weights
//! averages them as well. To first order in the weights the mean of the statistics is the statistics of the mean, so they
//! fit the averaged weights, where those of the last step would fit the last weights only.

use std::cell::RefCell;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::module::{batch_norm, batch_norm_train};
use burn::tensor::{Device, Tensor};

use crate::pass::Pass;

/// Added to the variance.
const EPSILON: f64 = 1e-5;

/// Share of the latest batch in the running averages.
const MOMENTUM: f64 = 0.1;

/// Normalizes each channel, and scales and shifts it.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale of each channel.
    pub gamma: Param<Tensor<1>>,
    /// Shift of each channel.
    pub beta: Param<Tensor<1>>,
    /// Running average of the mean.
    pub running_mean: Param<Tensor<1>>,
    /// Running average of the variance.
    pub running_var: Param<Tensor<1>>,
}

impl BatchNorm {
    /// The layer before training.
    pub fn new(channels: usize, device: &Device) -> Self {
        let [zeros, ones] = [Tensor::zeros([channels], device), Tensor::ones([channels], device)];
        Self {
            gamma: Param::from_tensor(ones.clone()),
            beta: Param::from_tensor(zeros.clone()),
            running_mean: Param::from_tensor(zeros).set_require_grad(false),
            running_var: Param::from_tensor(ones).set_require_grad(false),
        }
    }

    /// Images `[B, C, H, W]`, normalized. A layer that is frozen normalizes by its running averages in training too.
    pub fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        match pass.statistics().filter(|_| gamma.is_require_grad()) {
            Some(statistics) => {
                let [rows, _, height, width] = x.dims();
                let values = (rows * height * width) as f64;
                let found = batch_norm_train(x, gamma, beta, EPSILON);
                // The sum of squares is divided by the number of values for the output, and by one less for the average.
                let unbiased = found.variance.mul_scalar(values / (values - 1.0).max(1.0));
                statistics.record(&self.running_mean, found.mean);
                statistics.record(&self.running_var, unbiased);
                found.output
            }
            None => batch_norm(x, gamma, beta, self.running_mean.val(), self.running_var.val(), EPSILON),
        }
    }
}

/// The statistics of the batch of a training pass, in the order of the layers.
#[derive(Debug, Default)]
pub struct BatchStatistics(RefCell<Vec<BatchStatistic>>);

/// A statistic of a batch, and the running average of it.
#[derive(Clone, Debug)]
pub struct BatchStatistic {
    /// The parameter that is the running average.
    average: ParamId,
    value: Tensor<1>,
}

impl BatchStatistics {
    fn record(&self, average: &Param<Tensor<1>>, value: Tensor<1>) {
        self.0.borrow_mut().push(BatchStatistic { average: average.id, value: value.detach() });
    }

    /// All of them.
    pub fn into_values(self) -> Vec<BatchStatistic> {
        self.0.into_inner()
    }
}

/// The module with its running averages moved towards the statistics of batches, one batch after the other.
pub fn with_statistics<M: Module>(module: M, statistics: &[BatchStatistic]) -> M {
    if statistics.is_empty() { module } else { module.map(&mut MoveAverages(statistics)) }
}

struct MoveAverages<'a>(&'a [BatchStatistic]);

impl ModuleMapper for MoveAverages<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let of_batches: Vec<&BatchStatistic> = self.0.iter().filter(|found| found.average == param.id).collect();
        if of_batches.is_empty() {
            return param;
        }
        param.map(|average| {
            let (shape, device) = (average.dims(), average.device());
            of_batches.into_iter().fold(average, |average, found| {
                let found = found.value.clone().to_device(&device).reshape(shape);
                (average.mul_scalar(1.0 - MOMENTUM) + found.mul_scalar(MOMENTUM)).detach()
            })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;

    fn images(device: &Device) -> Tensor<4> {
        Tensor::<1>::from_floats([1.0, 3.0, 0.0, 2.0, 5.0, 7.0, 4.0, 2.0], device).reshape([2, 2, 1, 2])
    }

    fn close<const D: usize>(found: Tensor<D>, wanted: &[f32]) {
        let found: Vec<f32> = found.into_data().try_to_vec().unwrap();
        let wanted = burn::tensor::TensorData::from(wanted);
        burn::tensor::TensorData::from(&found[..]).assert_approx_eq::<f32>(&wanted, Tolerance::absolute(1e-5));
    }

    #[test]
    fn training_normalizes_by_the_batch_and_anything_else_by_the_running_averages() {
        let device = Device::default().autodiff();
        let layer = BatchNorm::new(2, &device);
        let statistics = BatchStatistics::default();
        // Means 4 and 2, biased variances 5 and 2.
        let trained = layer.forward(images(&device), &Pass::default().training(&statistics));
        let [five, two] = [5f32, 2.0].map(|variance| (variance + 1e-5).sqrt());
        close(trained, &[-3.0 / five, -1.0 / five, -2.0 / two, 0.0, 1.0 / five, 3.0 / five, 2.0 / two, 0.0]);
        let as_it_was = layer.forward(images(&device), &Pass::default());
        close(as_it_was, &[1.0, 3.0, 0.0, 2.0, 5.0, 7.0, 4.0, 2.0].map(|x: f32| x / 1.00001f32.sqrt()));

        let statistics = statistics.into_values();
        let layer = with_statistics(layer, &statistics);
        close(layer.running_mean.val(), &[0.4, 0.2]);
        close(layer.running_var.val(), &[0.9 + 0.1 * 20.0 / 3.0, 0.9 + 0.1 * 8.0 / 3.0]);
        // Of two batches the later counts for more.
        let twice = with_statistics(layer.clone(), &[statistics, layer_of_zeros(&layer)].concat());
        close(twice.running_mean.val(), &[0.9 * (0.9 * 0.4 + 0.4), 0.9 * (0.9 * 0.2 + 0.2)]);
        assert!(!twice.running_var.val().is_require_grad() && twice.gamma.val().is_require_grad());
    }

    /// The statistics of a batch of zeros.
    fn layer_of_zeros(layer: &BatchNorm) -> Vec<BatchStatistic> {
        let statistics = BatchStatistics::default();
        let zeros = Tensor::zeros([2, 2, 1, 2], &Device::default().autodiff());
        layer.forward(zeros, &Pass::default().training(&statistics));
        statistics.into_values()
    }

    #[test]
    fn a_frozen_layer_is_the_same_in_training() {
        let device = Device::default().autodiff();
        let layer = BatchNorm::new(2, &device).set_require_grad(false);
        let statistics = BatchStatistics::default();
        let trained = layer.forward(images(&device), &Pass::default().training(&statistics));
        trained.into_data().assert_eq(&layer.forward(images(&device), &Pass::default()).into_data(), true);
        assert!(statistics.into_values().is_empty());
    }
}
