//! Group normalisation and SiLU on slices.
//!
//! One group of one sample fits into the processor's first cache at the sizes of a U-Net, so the two
//! passes for mean and variance and a third for the result cost one reading of memory.

use rayon::prelude::*;

use super::Activation;
use crate::conv::frame::LANES;
use crate::output::written;
use crate::simd::{map_and_lanes, sigmoid, sum, totals, vectorised};

/// Values that one task takes at least: below this, starting a task costs more than its work.
const TASK_VALUES: usize = 16 * 1024;

/// Values that are added up in `f32`, before `f64` takes over: in large pictures, one long `f32` sum
/// would lose digits.
const SUM_VALUES: usize = 4096;

/// Channels whose two sums for the gradients of the parameters are added up together.
const TOTALS: usize = LANES / 2;

/// The input is `[batch, channels, plane]`; `groups` divides `channels`. None of them is 0.
pub(super) struct Dims {
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) plane: usize,
    pub(super) groups: usize,
}

impl Dims {
    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    fn group_values(&self) -> usize {
        self.group_channels() * self.plane
    }

    fn groups_per_task(&self) -> usize {
        (TASK_VALUES / self.group_values()).max(1)
    }
}

/// Of one group of one sample.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statistics {
    mean: f32,
    /// `1 / sqrt(variance + epsilon)`
    inverse_deviation: f32,
}

/// Gradients of the loss with respect to the parameters.
pub(super) struct ParameterGradients {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

/// `activation(gamma * (x - mean) / deviation + beta)`, and the statistics for the backward pass.
pub(super) fn forward(
    dims: &Dims,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f64,
    activation: Activation,
) -> (Vec<f32>, Vec<Statistics>) {
    let mut statistics = vec![Statistics::default(); dims.batch * dims.groups];
    let (n, step) = (dims.group_values(), dims.groups_per_task());
    let channels = Channels { dims, gamma, beta };
    let y = written(x.len(), |y| {
        let tasks = y.par_chunks(step * n).zip(x.par_chunks(step * n)).zip(statistics.par_chunks_mut(step));
        tasks.enumerate().for_each(|(task, ((y, x), statistics))| {
            let y = y.cleared();
            vectorised(
                #[inline(always)]
                || {
                    let groups = y.chunks_mut(n).zip(x.chunks(n)).zip(statistics);
                    for (i, ((y, x), statistics)) in groups.enumerate() {
                        *statistics = group_statistics(x, epsilon);
                        let (gamma, beta) = channels.of_group(task * step + i);
                        group_forward(dims.plane, x, gamma, beta, *statistics, activation, y);
                    }
                },
            );
        });
    });
    (y, statistics)
}

/// Turns `dx`, which holds the gradient with respect to the output of [`forward`], into that of the input, and gives those
/// of the parameters.
pub(super) fn backward(
    dims: &Dims,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    statistics: &[Statistics],
    dx: &mut [f32],
    activation: Activation,
) -> ParameterGradients {
    // Per sample and channel; summed over the samples at the end, in their order.
    let mut dgamma = vec![0.0; dims.batch * dims.channels];
    let mut dbeta = vec![0.0; dims.batch * dims.channels];
    let (n, width, step) = (dims.group_values(), dims.group_channels(), dims.groups_per_task());
    let channels = Channels { dims, gamma, beta };
    dx.par_chunks_mut(step * n)
        .zip(x.par_chunks(step * n))
        .zip(dgamma.par_chunks_mut(step * width))
        .zip(dbeta.par_chunks_mut(step * width))
        .enumerate()
        .for_each(|(task, (((dx, x), dgamma), dbeta))| {
            vectorised(
                #[inline(always)]
                || {
                    let outputs = dgamma.chunks_mut(width).zip(dbeta.chunks_mut(width));
                    let groups = dx.chunks_mut(n).zip(x.chunks(n)).zip(outputs);
                    for (i, ((dx, x), (dgamma, dbeta))) in groups.enumerate() {
                        let group = task * step + i;
                        let (gamma, beta) = channels.of_group(group);
                        let statistics = statistics[group];
                        let plane = dims.plane;
                        group_backward(plane, x, gamma, beta, statistics, activation, dx, dgamma, dbeta);
                    }
                },
            );
        });
    ParameterGradients {
        gamma: sum_over_samples(&dgamma, dims.channels),
        beta: sum_over_samples(&dbeta, dims.channels),
    }
}

struct Channels<'a> {
    dims: &'a Dims,
    gamma: &'a [f32],
    beta: &'a [f32],
}

impl Channels<'_> {
    /// Scales and shifts of the channels of a group, counted over samples and groups.
    #[inline(always)]
    fn of_group(&self, group: usize) -> (&[f32], &[f32]) {
        let width = self.dims.group_channels();
        let first = (group % self.dims.groups) * width;
        (&self.gamma[first..first + width], &self.beta[first..first + width])
    }
}

#[inline(always)]
fn group_statistics(x: &[f32], epsilon: f64) -> Statistics {
    let n = x.len() as f64;
    let values = x.chunks(SUM_VALUES).map(|x| f64::from(sum(x, |v| v)));
    let mean = (values.sum::<f64>() / n) as f32;
    let squares = x.chunks(SUM_VALUES).map(|x| f64::from(sum(x, |v| (v - mean) * (v - mean))));
    let variance = squares.sum::<f64>() / n;
    Statistics { mean, inverse_deviation: (1.0 / (variance + epsilon).sqrt()) as f32 }
}

#[inline(always)]
fn group_forward(
    plane: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    Statistics { mean, inverse_deviation }: Statistics,
    activation: Activation,
    y: &mut [f32],
) {
    let channels = x.chunks(plane).zip(y.chunks_mut(plane));
    for ((x, y), (gamma, beta)) in channels.zip(gamma.iter().zip(beta)) {
        let scale = gamma * inverse_deviation;
        let z = |x: f32| (x - mean) * scale + beta;
        match activation {
            Activation::Identity => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = z(x);
                }
            }
            Activation::Silu => {
                for (y, &x) in y.iter_mut().zip(x) {
                    let z = z(x);
                    *y = z * sigmoid(z);
                }
            }
        }
    }
}

/// Turns `dx`, which holds `dy`, into the gradient of the input.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three slices in, three out, of one formula")]
fn group_backward(
    plane: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    Statistics { mean, inverse_deviation }: Statistics,
    activation: Activation,
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let normalised = |x: f32| (x - mean) * inverse_deviation;
    let mut sum_dx_hat = 0.0;
    let mut sum_dx_hat_x_hat = 0.0;
    let several = x.chunks(TOTALS * plane).zip(dx.chunks_mut(TOTALS * plane));
    for (first, (x, dx)) in (0..).step_by(TOTALS).zip(several) {
        let mut sets = [[0.0; LANES]; LANES];
        for (i, (x, dx)) in x.chunks(plane).zip(dx.chunks_mut(plane)).enumerate() {
            let (gamma, beta) = (gamma[first + i], beta[first + i]);
            [sets[i], sets[TOTALS + i]] = match activation {
                Activation::Identity => map_and_lanes(x, dx, |x, dz| (dz, dz, dz * normalised(x))),
                Activation::Silu => map_and_lanes(x, dx, |x, dy| {
                    let x_hat = normalised(x);
                    let z = x_hat * gamma + beta;
                    let s = sigmoid(z);
                    let dz = dy * s * (1.0 + z * (1.0 - s));
                    (dz, dz, dz * x_hat)
                }),
            };
        }
        let totals = totals(sets);
        let (of_beta, of_gamma) = totals.split_at(TOTALS);
        let parameters = gamma[first..].iter().zip(&mut dbeta[first..]).zip(&mut dgamma[first..]);
        for (((gamma, dbeta), dgamma), (of_beta, of_gamma)) in parameters.zip(of_beta.iter().zip(of_gamma)) {
            (*dbeta, *dgamma) = (*of_beta, *of_gamma);
            sum_dx_hat += f64::from(*gamma) * f64::from(*dbeta);
            sum_dx_hat_x_hat += f64::from(*gamma) * f64::from(*dgamma);
        }
    }

    // dx = (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)) / deviation, dx_hat = gamma * dz
    let n = x.len() as f64;
    let shift = (sum_dx_hat / n) as f32;
    let slope = (sum_dx_hat_x_hat / n) as f32;
    for ((x, dx), gamma) in x.chunks(plane).zip(dx.chunks_mut(plane)).zip(gamma) {
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = inverse_deviation * (gamma * *dx - shift - normalised(x) * slope);
        }
    }
}

fn sum_over_samples(parts: &[f32], channels: usize) -> Vec<f32> {
    let mut total = vec![0.0_f64; channels];
    for part in parts.chunks(channels) {
        for (total, &part) in total.iter_mut().zip(part) {
            *total += f64::from(part);
        }
    }
    total.into_iter().map(|total| total as f32).collect()
}
