//! The parts of a layer on slices.

use std::f32::consts::FRAC_1_SQRT_2;

use rayon::prelude::*;

use super::Gate;
use crate::output::{Unset, written};
use crate::rows::{
    TASK_ROWS, add_bias_gradient, add_input_gradient, add_product, add_weight_gradient, fill_rows, rows_of_part, total,
};
use crate::scratch::Scratch;
use crate::simd::{sigmoid, tanh, vectorised};

/// The sum of dense layers of as many inputs as there are widths of them.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    pub(super) rows: usize,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: usize,
}

/// `inputs` are pairs of values and weights, and then the bias.
pub(super) fn dense_sum(sum: &Sum, inputs: &[&[f32]]) -> Vec<f32> {
    let outputs = sum.outputs;
    written(sum.rows * outputs, |y| {
        y.par_chunks(TASK_ROWS * outputs).enumerate().for_each(|(task, y)| {
            let y = y.cleared();
            fill_rows(y, inputs[inputs.len() - 1]);
            for (term, &width) in inputs.chunks_exact(2).zip(&sum.inputs) {
                let x = &term[0][task * TASK_ROWS * width..][..y.len() / outputs * width];
                add_product(y, x, term[1], [width, outputs]);
            }
        });
    })
}

pub(super) fn dense_sum_backward(sum: &Sum, inputs: &[&[f32]], dy: &[f32], asked: &[bool]) -> Vec<Option<Vec<f32>>> {
    let outputs = sum.outputs;
    let mut gradients = vec![None; inputs.len()];
    for (term, &width) in sum.inputs.iter().enumerate() {
        if asked[2 * term] {
            let weight = inputs[2 * term + 1];
            gradients[2 * term] = Some(written(sum.rows * width, |dx| {
                dx.par_chunks(TASK_ROWS * width).zip(dy.par_chunks(TASK_ROWS * outputs)).for_each(|(dx, dy)| {
                    add_input_gradient(dx.cleared(), dy, weight, [width, outputs]);
                });
            }));
        }
    }
    let of_part = rows_of_part(sum.rows);
    let part = |(part, dy): (usize, &[f32])| {
        let mut sums: Vec<Vec<f32>> = sum.inputs.iter().map(|width| vec![0.0; width * outputs]).collect();
        for ((sums, &width), term) in sums.iter_mut().zip(&sum.inputs).zip(inputs.chunks_exact(2)) {
            let x = &term[0][part * of_part * width..][..dy.len() / outputs * width];
            add_weight_gradient(sums, dy, x, [width, outputs]);
        }
        let mut bias = vec![0.0; outputs];
        add_bias_gradient(&mut bias, dy);
        sums.push(bias);
        sums
    };
    let parts: Vec<_> = dy.par_chunks(of_part * outputs).enumerate().map(part).collect();
    for (index, gradient) in total(parts).into_iter().enumerate() {
        gradients[(2 * index + 1).min(inputs.len() - 1)] = Some(gradient);
    }
    gradients
}

/// Of `[batch, places, carried]` the first `state` values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shifted {
    pub(super) batch: usize,
    pub(super) places: usize,
    pub(super) state: usize,
    pub(super) carried: usize,
}

pub(super) fn shifted_state(of: &Shifted, carried: &[f32], shift: &[f32]) -> Vec<f32> {
    let Shifted { batch, places, state, carried: width } = *of;
    written(batch * places * state, |y| {
        y.par_chunks(TASK_ROWS * state).enumerate().for_each(|(task, y)| {
            let y = y.cleared();
            vectorised(
                #[inline(always)]
                || {
                    for (row, y) in y.chunks_exact_mut(state).enumerate() {
                        let row = task * TASK_ROWS + row;
                        let shift = &shift[row / places * state..][..state];
                        for ((y, x), shift) in y.iter_mut().zip(&carried[row * width..][..state]).zip(shift) {
                            *y = x + shift;
                        }
                    }
                },
            );
        });
    })
}

/// The gradients of what is carried and of the shift.
pub(super) fn shifted_state_backward(of: &Shifted, dy: &[f32]) -> [Vec<f32>; 2] {
    let Shifted { batch, places, state, carried } = *of;
    let of_carried = written(batch * places * carried, |gradient| {
        let tasks = gradient.par_chunks(TASK_ROWS * carried).zip(dy.par_chunks(TASK_ROWS * state));
        tasks.for_each(|(gradient, dy)| {
            for (gradient, dy) in gradient.cleared().chunks_exact_mut(carried).zip(dy.chunks_exact(state)) {
                gradient[..state].copy_from_slice(dy);
            }
        });
    });
    let of_shift = written(batch * state, |gradient| {
        let rows = gradient.par_chunks(state).zip(dy.par_chunks(places * state));
        rows.for_each(|(gradient, dy)| add_bias_gradient(gradient.cleared(), dy));
    });
    [of_carried, of_shift]
}

/// `carried` is the width of state and sum together, `width` that of a half before the gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gated {
    pub(super) rows: usize,
    pub(super) state: usize,
    pub(super) carried: usize,
    pub(super) width: usize,
    pub(super) gate: Gate,
}

impl Gated {
    /// Sigmoid times hyperbolic tangent.
    fn apply(&self, before: &[f32]) -> Scratch {
        let width = self.width;
        let mut y = Scratch::new(before.len() / 2);
        vectorised(
            #[inline(always)]
            || {
                for (y, before) in y.chunks_exact_mut(width).zip(before.chunks_exact(2 * width)) {
                    let (gate, value) = self.halves(before);
                    for ((y, gate), value) in y.iter_mut().zip(gate).zip(value) {
                        *y = sigmoid(*gate) * tanh(*value);
                    }
                }
            },
        );
        y
    }

    #[inline(always)]
    fn halves<'a>(&self, before: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        let (first, second) = before.split_at(self.width);
        if self.gate == Gate::First { (first, second) } else { (second, first) }
    }

    /// The gradients of the values before the gate for that of the product.
    fn backward(&self, before: &[f32], dy: &[f32], gradient: &mut [f32]) {
        let width = self.width;
        vectorised(
            #[inline(always)]
            || {
                let rows = before.chunks_exact(2 * width).zip(gradient.chunks_exact_mut(2 * width));
                for ((before, gradient), dy) in rows.zip(dy.chunks_exact(width)) {
                    let (gate, value) = self.halves(before);
                    let (first, second) = gradient.split_at_mut(width);
                    let (d_gate, d_value) = if self.gate == Gate::First { (first, second) } else { (second, first) };
                    for i in 0..width {
                        let (gate, value) = (sigmoid(gate[i]), tanh(value[i]));
                        d_gate[i] = dy[i] * value * gate * (1.0 - gate);
                        d_value[i] = dy[i] * gate * (1.0 - value * value);
                    }
                }
            },
        );
    }
}

/// `inputs`: what is carried, the values before the gate, weight and bias.
pub(super) fn gated_residual(gated: &Gated, inputs: &[&[f32]]) -> Vec<f32> {
    let Gated { rows, state, carried: width, .. } = *gated;
    let [carried, before, weight, bias] = *inputs else { return Vec::new() };
    let task = |((y, carried), before): ((Unset, &[f32]), &[f32])| {
        let y = y.cleared();
        fill_rows(y, bias);
        add_product(y, &gated.apply(before), weight, [gated.width, width]);
        vectorised(
            #[inline(always)]
            || {
                for (y, carried) in y.chunks_exact_mut(width).zip(carried.chunks_exact(width)) {
                    y.iter_mut().zip(carried).for_each(|(y, carried)| *y += carried);
                    y[..state].iter_mut().for_each(|y| *y *= FRAC_1_SQRT_2);
                }
            },
        );
    };
    written(rows * width, |y| {
        let before = before.par_chunks(TASK_ROWS * 2 * gated.width);
        y.par_chunks(TASK_ROWS * width).zip(carried.par_chunks(TASK_ROWS * width)).zip(before).for_each(task);
    })
}

/// The gradients of all inputs.
pub(super) fn gated_residual_backward(gated: &Gated, inputs: &[&[f32]], dy: &[f32]) -> Vec<Vec<f32>> {
    let Gated { rows, state, carried: width, .. } = *gated;
    let [_, before, weight, bias] = *inputs else { return Vec::new() };
    let sizes = [gated.width, width];
    // The gradient of the dense layer's output is that of what is carried.
    let of_carried = written(rows * width, |gradient| {
        gradient.par_chunks(TASK_ROWS * width).zip(dy.par_chunks(TASK_ROWS * width)).for_each(|(gradient, dy)| {
            for row in gradient.copied(dy).chunks_exact_mut(width) {
                row[..state].iter_mut().for_each(|value| *value *= FRAC_1_SQRT_2);
            }
        });
    });
    let twice = 2 * gated.width;
    let of_part = rows_of_part(rows);
    let mut parts = Vec::new();
    let of_before = written(rows * twice, |gradient| {
        let part = |((gradient, dy), before): ((Unset, &[f32]), &[f32])| {
            let mut sums = vec![vec![0.0; weight.len()], vec![0.0; bias.len()]];
            let tasks = gradient.cleared().chunks_mut(TASK_ROWS * twice).zip(dy.chunks(TASK_ROWS * width));
            for ((gradient, dy), before) in tasks.zip(before.chunks(TASK_ROWS * twice)) {
                add_weight_gradient(&mut sums[0], dy, &gated.apply(before), sizes);
                add_bias_gradient(&mut sums[1], dy);
                let mut d_gated = Scratch::new(before.len() / 2);
                d_gated.fill(0.0);
                add_input_gradient(&mut d_gated, dy, weight, sizes);
                gated.backward(before, &d_gated, gradient);
            }
            sums
        };
        let dy = of_carried.par_chunks(of_part * width);
        let all = gradient.par_chunks(of_part * twice).zip(dy).zip(before.par_chunks(of_part * twice));
        parts = all.map(part).collect();
    });
    let mut gradients = vec![of_carried, of_before];
    gradients.extend(total(parts));
    gradients
}
