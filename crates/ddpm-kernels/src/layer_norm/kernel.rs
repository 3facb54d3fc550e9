//! Layer normalisation on slices.

use rayon::prelude::*;

use crate::output::written;
use crate::simd::{sum, vectorised};

/// Values that one task takes about: below this, starting a task costs more than its work.
const TASK_VALUES: usize = 16 * 1024;

/// The input is `[groups, rows, channels]`; the rows of a group share a scale and a shift, `[groups, channels]`. None is 0.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) rows: usize,
    pub(super) channels: usize,
}

impl Dims {
    /// Values of a group.
    fn group(&self) -> usize {
        self.rows * self.channels
    }

    /// Values of a task, which are whole rows.
    fn task(&self) -> usize {
        (TASK_VALUES / self.channels).clamp(1, self.rows) * self.channels
    }
}

/// Gradients of the loss with respect to scales and shifts.
pub(super) struct ParameterGradients {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

/// `gamma * (x - mean) / deviation + beta`.
pub(super) fn forward(dims: &Dims, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f64) -> Vec<f32> {
    let (group, task, channels) = (dims.group(), dims.task(), dims.channels);
    written(x.len(), |y| {
        let parameters = gamma.par_chunks(channels).zip(beta.par_chunks(channels));
        y.par_chunks(group).zip(x.par_chunks(group)).zip(parameters).for_each(|((y, x), (gamma, beta))| {
            y.par_chunks(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
                let y = y.cleared();
                vectorised(
                    #[inline(always)]
                    || {
                        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                            let (mean, inverse) = statistics(x, epsilon);
                            for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                                *y = (x - mean) * inverse * gamma + beta;
                            }
                        }
                    },
                );
            });
        });
    })
}

/// Turns `dx`, which holds the gradient with respect to the output of [`forward`], into that of the input, and gives those
/// of the parameters.
pub(super) fn backward(dims: &Dims, x: &[f32], gamma: &[f32], epsilon: f64, dx: &mut [f32]) -> ParameterGradients {
    let (group, task, channels) = (dims.group(), dims.task(), dims.channels);
    let mut gradients = ParameterGradients { gamma: vec![0.0; gamma.len()], beta: vec![0.0; gamma.len()] };
    let outputs = gradients.gamma.par_chunks_mut(channels).zip(gradients.beta.par_chunks_mut(channels));
    let inputs = dx.par_chunks_mut(group).zip(x.par_chunks(group)).zip(gamma.par_chunks(channels));
    inputs.zip(outputs).for_each(|(((dx, x), gamma), (dgamma, dbeta))| {
        // Of each task, summed in their order.
        let mut partial = vec![0.0; 2 * channels * group.div_ceil(task)];
        let tasks = dx.par_chunks_mut(task).zip(x.par_chunks(task)).zip(partial.par_chunks_mut(2 * channels));
        tasks.for_each(|((dx, x), partial)| {
            vectorised(
                #[inline(always)]
                || {
                    let (dgamma, dbeta) = partial.split_at_mut(channels);
                    for (dx, x) in dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                        row_backward(x, gamma, epsilon, dx, dgamma, dbeta);
                    }
                },
            );
        });
        for partial in partial.chunks_exact(2 * channels) {
            let (of_gamma, of_beta) = partial.split_at(channels);
            dgamma.iter_mut().zip(of_gamma).for_each(|(sum, value)| *sum += value);
            dbeta.iter_mut().zip(of_beta).for_each(|(sum, value)| *sum += value);
        }
    });
    gradients
}

/// With `h = (x - mean) / deviation` and `g = gamma * dy`: `dx = (g - mean of g - h * mean of g h) / deviation`.
#[inline(always)]
fn row_backward(x: &[f32], gamma: &[f32], epsilon: f64, dx: &mut [f32], dgamma: &mut [f32], dbeta: &mut [f32]) {
    let (mean, inverse) = statistics(x, epsilon);
    for ((((dx, x), gamma), dgamma), dbeta) in dx.iter_mut().zip(x).zip(gamma).zip(dgamma).zip(dbeta) {
        *dgamma += *dx * (x - mean) * inverse;
        *dbeta += *dx;
        *dx *= gamma;
    }
    let n = x.len() as f32;
    let mean_g = sum(dx, |g| g) / n;
    let mut products = [0.0; 16];
    for (dx, x) in dx.chunks(16).zip(x.chunks(16)) {
        for ((product, dx), x) in products.iter_mut().zip(dx).zip(x) {
            *product += dx * (x - mean);
        }
    }
    let mean_gh = products.iter().sum::<f32>() * inverse / n;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = (*dx - mean_g - (x - mean) * inverse * mean_gh) * inverse;
    }
}

/// The mean of a row, and one over its deviation.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = (f64::from(sum(x, |value| value)) / n) as f32;
    let variance = f64::from(sum(x, |value| (value - mean) * (value - mean))) / n;
    (mean, (1.0 / (variance + epsilon).sqrt()) as f32)
}
