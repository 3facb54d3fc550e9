//! The layer on slices.
//!
//! A task takes some sequences together, with the channels first: `[channels, places, lanes]`, a lane for each sequence. So
//! all arithmetic is on vectors of lanes, however short the sequences are, and stays in the cache of a core.

use rayon::prelude::*;

use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::gelu::flex::{normal_cdf, slope};
use crate::output::written;
use crate::scratch::Scratch;
use crate::simd::{LANES, vectorised};

mod attention;

use attention::{attention, attention_backward};

/// Columns, places times lanes, that a task has at least: enough for an efficient product.
const TASK_COLUMNS: usize = 256;

/// Tasks that the gradients of the weights are summed up in.
const TASKS: usize = 16;

/// `x` is `[batch, places, items, channels]`; its sequences are counted in the order of batch and items.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub(super) sequences: usize,
    pub(super) places: usize,
    pub(super) items: usize,
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) hidden: usize,
    pub(super) epsilon: f32,
}

impl Layer {
    /// Sequences of a task.
    fn lanes(&self) -> usize {
        let wanted = TASK_COLUMNS.div_ceil(LANES * self.places).min(self.sequences.div_ceil(LANES * TASKS));
        LANES * wanted.max(1)
    }

    fn columns(&self) -> usize {
        self.places * self.lanes()
    }

    fn tasks(&self) -> usize {
        self.sequences.div_ceil(self.lanes())
    }

    /// Where in `x` the channels of a place of a sequence start.
    fn offset(&self, sequence: usize, place: usize) -> usize {
        let (batch, item) = (sequence / self.items, sequence % self.items);
        ((batch * self.places + place) * self.items + item) * self.channels
    }

    /// The sequences of a task, with zeros in lanes that have none.
    fn load(&self, x: &[f32], task: usize) -> Scratch {
        let (lanes, columns) = (self.lanes(), self.columns());
        let mut loaded = Scratch::new(self.channels * columns);
        let first = task * lanes;
        for place in 0..self.places {
            for lane in 0..lanes {
                let column = &mut loaded[place * lanes + lane..];
                if first + lane < self.sequences {
                    let row = &x[self.offset(first + lane, place)..][..self.channels];
                    column.iter_mut().step_by(columns).zip(row).for_each(|(to, from)| *to = *from);
                } else {
                    column.iter_mut().step_by(columns).take(self.channels).for_each(|to| *to = 0.0);
                }
            }
        }
        loaded
    }

    /// The rows of a task, `[lanes, places, channels]`, from its columns.
    fn rows(&self, values: &[f32]) -> Scratch {
        let (lanes, columns, channels) = (self.lanes(), self.columns(), self.channels);
        let mut rows = Scratch::new(columns * channels);
        for (channel, values) in values.chunks_exact(columns).enumerate() {
            for (place, values) in values.chunks_exact(lanes).enumerate() {
                let rows = rows[place * channels + channel..].iter_mut().step_by(self.places * channels);
                rows.zip(values).for_each(|(to, from)| *to = *from);
            }
        }
        rows
    }

    /// The tensor from the rows of all tasks.
    fn store(&self, rows: &[Scratch]) -> Vec<f32> {
        let lanes = self.lanes();
        written(self.sequences * self.places * self.channels, |y| {
            y.par_chunks(self.items * self.channels).enumerate().for_each(|(index, y)| {
                let (batch, place) = (index / self.places, index % self.places);
                for (item, y) in y.chunks(self.channels).enumerate() {
                    let sequence = batch * self.items + item;
                    let start = (sequence % lanes * self.places + place) * self.channels;
                    y.copied(&rows[sequence / lanes][start..][..self.channels]);
                }
            });
        })
    }
}

/// The weights, in the order of the inputs of the operation.
#[derive(Clone, Copy)]
struct Weights<'a> {
    projection: Matrix<'a>,
    projection_bias: &'a [f32],
    output: Matrix<'a>,
    output_bias: &'a [f32],
    norm_1: [&'a [f32]; 2],
    first: Matrix<'a>,
    first_bias: &'a [f32],
    second: Matrix<'a>,
    second_bias: &'a [f32],
    norm_2: [&'a [f32]; 2],
}

impl<'a> Weights<'a> {
    /// Matrices with the outputs as rows.
    fn of(layer: &Layer, weights: &[&'a [f32]]) -> Self {
        let (channels, hidden) = (layer.channels, layer.hidden);
        let inputs_first =
            |index: usize, inputs, outputs| Matrix::row_major(weights[index], inputs, outputs, outputs).transposed();
        Self {
            projection: Matrix::row_major(weights[0], 3 * channels, channels, channels),
            projection_bias: weights[1],
            output: inputs_first(2, channels, channels),
            output_bias: weights[3],
            norm_1: [weights[4], weights[5]],
            first: inputs_first(6, channels, hidden),
            first_bias: weights[7],
            second: inputs_first(8, hidden, channels),
            second_bias: weights[9],
            norm_2: [weights[10], weights[11]],
        }
    }
}

/// What the layer computes on the way, all with the channels first.
struct Pass {
    projected: Scratch,
    attended: Scratch,
    /// The output of the first normalization.
    middle: Scratch,
    middle_stats: Normalized,
    /// Of the feed-forward part, before and after GELU.
    hidden: Scratch,
    activated: Scratch,
    output: Scratch,
    output_stats: Normalized,
}

/// A normalization: the values before scale and shift, and for each column the inverse of the standard deviation.
struct Normalized {
    values: Scratch,
    inverse: Scratch,
}

fn pass(layer: &Layer, weights: &Weights, x: &[f32]) -> Pass {
    let columns = layer.columns();
    let projected = product(weights.projection, x, weights.projection_bias, columns);
    let attended = attention(layer, &projected);
    let mut sum = product(weights.output, &attended, weights.output_bias, columns);
    add(&mut sum, x);
    let (middle, middle_stats) = normalize(sum, weights.norm_1, layer.epsilon, columns);
    let hidden = product(weights.first, &middle, weights.first_bias, columns);
    let mut activated = Scratch::new(hidden.len());
    vectorised(
        #[inline(always)]
        || activated.iter_mut().zip(&*hidden).for_each(|(to, &from)| *to = from * normal_cdf(from)),
    );
    let mut sum = product(weights.second, &activated, weights.second_bias, columns);
    add(&mut sum, &middle);
    let (output, output_stats) = normalize(sum, weights.norm_2, layer.epsilon, columns);
    Pass { projected, attended, middle, middle_stats, hidden, activated, output, output_stats }
}

/// `weight x + bias`
fn product(weight: Matrix, x: &[f32], bias: &[f32], columns: usize) -> Scratch {
    let mut y = Scratch::new(weight.rows * columns);
    for (y, bias) in y.chunks_exact_mut(columns).zip(bias) {
        y.fill(*bias);
    }
    multiply(Operands::Full, &mut y, Previous::Keep, weight, Matrix::row_major(x, weight.columns, columns, columns));
    y
}

fn add(to: &mut [f32], from: &[f32]) {
    vectorised(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
    );
}

/// Normalizes every column and returns it with scale and shift.
fn normalize(mut values: Scratch, [scale, shift]: [&[f32]; 2], epsilon: f32, columns: usize) -> (Scratch, Normalized) {
    let mut output = Scratch::new(values.len());
    let mut inverse = Scratch::new(columns);
    let mut mean = Scratch::new(columns);
    let share = 1.0 / scale.len() as f32;
    vectorised(
        #[inline(always)]
        || {
            mean.fill(0.0);
            inverse.fill(0.0);
            for row in values.chunks_exact(columns) {
                mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            mean.iter_mut().for_each(|sum| *sum *= share);
            for row in values.chunks_exact_mut(columns) {
                for ((value, mean), sum) in row.iter_mut().zip(&*mean).zip(&mut *inverse) {
                    *value -= mean;
                    *sum += *value * *value;
                }
            }
            inverse.iter_mut().for_each(|sum| *sum = 1.0 / (*sum * share + epsilon).sqrt());
            let rows = values.chunks_exact_mut(columns).zip(output.chunks_exact_mut(columns));
            for ((values, output), (scale, shift)) in rows.zip(scale.iter().zip(shift)) {
                for ((value, output), inverse) in values.iter_mut().zip(output).zip(&*inverse) {
                    *value *= inverse;
                    *output = *value * scale + shift;
                }
            }
        },
    );
    (output, Normalized { values, inverse })
}

/// Replaces the gradient of the output of a normalization by that of its input, and adds those of scale and shift.
fn normalize_backward(dy: &mut [f32], normalized: &Normalized, scale: &[f32], [d_scale, d_shift]: [&mut [f32]; 2]) {
    let columns = normalized.inverse.len();
    let share = 1.0 / scale.len() as f32;
    let mut sums = Scratch::new(2 * columns);
    vectorised(
        #[inline(always)]
        || {
            sums.fill(0.0);
            let (plain, weighted) = sums.split_at_mut(columns);
            let rows = dy.chunks_exact_mut(columns).zip(normalized.values.chunks_exact(columns));
            for (((dy, values), scale), (d_scale, d_shift)) in rows.zip(scale).zip(d_scale.iter_mut().zip(d_shift)) {
                *d_scale += crate::simd::sum_of_products(dy, values);
                *d_shift += crate::simd::sum(dy, |value| value);
                for (((dy, value), plain), weighted) in dy.iter_mut().zip(values).zip(&mut *plain).zip(&mut *weighted) {
                    *dy *= scale;
                    *plain += *dy;
                    *weighted += *dy * value;
                }
            }
            sums.iter_mut().for_each(|sum| *sum *= share);
            let (plain, weighted) = sums.split_at(columns);
            for (dy, values) in dy.chunks_exact_mut(columns).zip(normalized.values.chunks_exact(columns)) {
                for ((((dy, value), plain), weighted), inverse) in
                    dy.iter_mut().zip(values).zip(plain).zip(weighted).zip(&*normalized.inverse)
                {
                    *dy = (*dy - plain - value * weighted) * inverse;
                }
            }
        },
    );
}

/// The output for `x` and the weights.
pub(super) fn forward(layer: &Layer, x: &[f32], weights: &[&[f32]]) -> Vec<f32> {
    let weights = Weights::of(layer, weights);
    let task = |task: usize| {
        let x = layer.load(x, task);
        layer.rows(&pass(layer, &weights, &x).output)
    };
    let rows: Vec<Scratch> = (0..layer.tasks()).into_par_iter().map(task).collect();
    layer.store(&rows)
}

/// The gradients of `x` and of the weights for `dy`.
pub(super) fn backward(layer: &Layer, x: &[f32], all: &[&[f32]], dy: &[f32]) -> Vec<Vec<f32>> {
    let weights = Weights::of(layer, all);
    let of_part = layer.tasks().div_ceil(TASKS);
    let part = |part: usize| {
        let mut sums: Vec<Vec<f32>> = all.iter().map(|weight| vec![0.0; weight.len()]).collect();
        let tasks = part * of_part..layer.tasks().min((part + 1) * of_part);
        let rows: Vec<Scratch> =
            tasks.map(|task| task_backward(layer, &weights, [x, dy].map(|x| layer.load(x, task)), &mut sums)).collect();
        (rows, sums)
    };
    let parts: Vec<_> = (0..layer.tasks().div_ceil(of_part)).into_par_iter().map(part).collect();
    let (rows, sums): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let rows: Vec<Scratch> = rows.into_iter().flatten().collect();
    let total = sums.into_iter().reduce(|mut total, sums| {
        total.iter_mut().zip(&sums).for_each(|(total, sum)| add(total, sum));
        total
    });
    let mut gradients = vec![layer.store(&rows)];
    gradients.extend(total.unwrap_or_default());
    gradients
}

/// Adds the gradients of the weights, and returns the rows of the gradient of `x`.
fn task_backward(layer: &Layer, weights: &Weights, [x, mut dy]: [Scratch; 2], sums: &mut [Vec<f32>]) -> Scratch {
    let columns = layer.columns();
    let pass = pass(layer, weights, &x);
    let [projection, projection_bias, output, output_bias, rest @ ..] = sums else { return dy };
    let [scale_1, shift_1, first, first_bias, second, second_bias, scale_2, shift_2] = rest else { return dy };

    normalize_backward(&mut dy, &pass.output_stats, weights.norm_2[0], [scale_2, shift_2]);
    add_products(second, &pass.activated, &dy, columns);
    add_rows(second_bias, &dy);
    let mut d_hidden = transposed_product(weights.second, &dy, columns);
    vectorised(
        #[inline(always)]
        || d_hidden.iter_mut().zip(&*pass.hidden).for_each(|(gradient, &value)| *gradient *= slope(value)),
    );
    add_products(first, &pass.middle, &d_hidden, columns);
    add_rows(first_bias, &d_hidden);
    add_transposed_product(&mut dy, weights.first, &d_hidden, columns);

    normalize_backward(&mut dy, &pass.middle_stats, weights.norm_1[0], [scale_1, shift_1]);
    add_products(output, &pass.attended, &dy, columns);
    add_rows(output_bias, &dy);
    let d_attended = transposed_product(weights.output, &dy, columns);
    let d_projected = attention_backward(layer, &pass.projected, &d_attended);
    add_products(projection, &d_projected, &x, columns);
    add_rows(projection_bias, &d_projected);
    add_transposed_product(&mut dy, weights.projection, &d_projected, columns);
    layer.rows(&dy)
}

/// Adds `a b^T`, for rows of columns.
fn add_products(sum: &mut [f32], a: &[f32], b: &[f32], columns: usize) {
    let [a, b] = [a, b].map(|x| Matrix::row_major(x, x.len() / columns, columns, columns));
    multiply(Operands::Full, sum, Previous::Keep, a, b.transposed());
}

/// Adds the sum of each row.
fn add_rows(sums: &mut [f32], x: &[f32]) {
    let columns = x.len() / sums.len();
    vectorised(
        #[inline(always)]
        || {
            for (total, row) in sums.iter_mut().zip(x.chunks_exact(columns)) {
                *total += crate::simd::sum(row, |value| value);
            }
        },
    );
}

/// `weight^T dy`
fn transposed_product(weight: Matrix, dy: &[f32], columns: usize) -> Scratch {
    let mut dx = Scratch::new(weight.columns * columns);
    let dy = Matrix::row_major(dy, weight.rows, columns, columns);
    multiply(Operands::Full, &mut dx, Previous::Discard, weight.transposed(), dy);
    dx
}

fn add_transposed_product(dx: &mut [f32], weight: Matrix, dy: &[f32], columns: usize) {
    let dy = Matrix::row_major(dy, weight.rows, columns, columns);
    multiply(Operands::Full, dx, Previous::Keep, weight.transposed(), dy);
}
