//! The parts of the network on slices, a group at a time: all of its values fit into the cache of a core.

use std::borrow::Cow;
use std::f32::consts::FRAC_1_SQRT_2;
use std::iter::repeat_n;

use rayon::prelude::*;

use crate::conv::gemm::{Matrix, Operands, Previous, multiply};
use crate::output::{Unset, written};
use crate::rows::total;
use crate::scratch::Scratch;
use crate::simd::{sigmoid, sum, sum_of_products, tanh, vectorised};

/// Parts of the groups in which the gradients of the weights are summed up.
const PARTS: usize = 16;

fn groups_of_part(groups: usize) -> usize {
    groups.div_ceil(PARTS)
}

#[inline(always)]
fn leaky(value: f32, slope: f32) -> f32 {
    if value >= 0.0 { value } else { slope * value }
}

/// `y = weight x + bias` for `x` of some columns.
fn product(weight: &[f32], x: &[f32], bias: &[f32], columns: usize) -> Scratch {
    let (inputs, outputs) = (x.len() / columns, bias.len());
    let mut y = Scratch::new(outputs * columns);
    for (y, bias) in y.chunks_exact_mut(columns).zip(bias) {
        y.fill(*bias);
    }
    let weight = Matrix::row_major(weight, outputs, inputs, inputs);
    multiply(Operands::Full, &mut y, Previous::Keep, weight, Matrix::row_major(x, inputs, columns, columns));
    y
}

/// `weight^T dy`
fn transposed_product(weight: &[f32], dy: &[f32], columns: usize) -> Scratch {
    let outputs = dy.len() / columns;
    let inputs = weight.len() / outputs;
    let mut dx = Scratch::new(inputs * columns);
    let weight = Matrix::row_major(weight, outputs, inputs, inputs).transposed();
    multiply(Operands::Full, &mut dx, Previous::Discard, weight, Matrix::row_major(dy, outputs, columns, columns));
    dx
}

/// Adds `dy x^T` to the gradient of a weight, and the rows of `dy` to that of a bias.
fn add_gradients(weight: &mut [f32], bias: &mut [f32], dy: &[f32], x: &[f32], columns: usize) {
    let [dy_rows, x_rows] = [dy, x].map(|x| Matrix::row_major(x, x.len() / columns, columns, columns));
    multiply(Operands::Full, weight, Previous::Keep, dy_rows, x_rows.transposed());
    vectorised(
        #[inline(always)]
        || {
            for (total, row) in bias.iter_mut().zip(dy.chunks_exact(columns)) {
                *total += sum(row, |value| value);
            }
        },
    );
}

/// The first convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) groups: usize,
    pub(super) columns: usize,
    pub(super) channels: usize,
    pub(super) slope: f32,
}

pub(super) fn start(start: &Start, inputs: &[&[f32]]) -> Vec<f32> {
    let Start { groups, columns, channels, slope } = *start;
    let [x, weight, bias] = *inputs else { return Vec::new() };
    written(groups * 2 * channels * columns, |y| {
        y.par_chunks(2 * channels * columns).zip(x.par_chunks(columns)).for_each(|(y, x)| {
            let y = y.cleared();
            vectorised(
                #[inline(always)]
                || {
                    for (y, (weight, bias)) in y.chunks_exact_mut(columns).zip(weight.iter().zip(bias)) {
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = leaky(weight * x + bias, slope));
                    }
                },
            );
        });
    })
}

/// The gradients of input, weight and bias.
pub(super) fn start_backward(start: &Start, inputs: &[&[f32]], dy: &[f32]) -> Vec<Vec<f32>> {
    let Start { groups, columns, channels, slope } = *start;
    let [x, weight, bias] = *inputs else { return Vec::new() };
    let of_part = groups_of_part(groups);
    let mut parts = Vec::new();
    let dx = written(groups * columns, |dx| {
        let part = |((dx, x), dy): ((Unset, &[f32]), &[f32])| {
            let mut sums = vec![vec![0.0; channels]; 2];
            let rows = dx.cleared().chunks_exact_mut(columns).zip(x.chunks_exact(columns));
            for ((dx, x), dy) in rows.zip(dy.chunks_exact(2 * channels * columns)) {
                for (channel, dy) in dy.chunks_exact(columns).take(channels).enumerate() {
                    let (weight, bias) = (weight[channel], bias[channel]);
                    let [mut of_weight, mut of_bias] = [0.0, 0.0];
                    vectorised(
                        #[inline(always)]
                        || {
                            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                                let dy = if weight * x + bias >= 0.0 { *dy } else { slope * dy };
                                *dx += weight * dy;
                                of_weight += dy * x;
                                of_bias += dy;
                            }
                        },
                    );
                    sums[0][channel] += of_weight;
                    sums[1][channel] += of_bias;
                }
            }
            sums
        };
        let dy = dy.par_chunks(of_part * 2 * channels * columns);
        parts = dx.par_chunks(of_part * columns).zip(x.par_chunks(of_part * columns)).zip(dy).map(part).collect();
    });
    let mut gradients = vec![dx];
    gradients.extend(total(parts));
    gradients
}

/// A block of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) groups: usize,
    pub(super) channels: usize,
    /// Of the embedding.
    pub(super) width: usize,
    pub(super) places: usize,
    pub(super) lanes: usize,
    pub(super) dilation: usize,
    pub(super) slope: f32,
}

/// What a block computes on the way, for one group.
struct Pass {
    /// The three neighbours of each place, `[channels, 3, columns]`.
    neighbours: Scratch,
    /// Before the gate.
    before: Scratch,
    gated: Scratch,
    /// Before the last rectifier.
    output: Scratch,
}

impl Block {
    pub(super) fn columns(&self) -> usize {
        self.places * self.lanes
    }

    fn size(&self) -> usize {
        2 * self.channels * self.columns()
    }

    /// An embedding `[groups, width, lanes]`, or one for all lanes, as the former.
    fn in_all_lanes<'a>(&self, embedding: &'a [f32]) -> Cow<'a, [f32]> {
        if embedding.len() == self.groups * self.width * self.lanes {
            return Cow::Borrowed(embedding);
        }
        let of_group: Vec<f32> = embedding.iter().flat_map(|value| repeat_n(*value, self.lanes)).collect();
        Cow::Owned(of_group.repeat(self.groups))
    }

    /// For each channel the values one dilation before, here, and one dilation after, around the circle.
    fn neighbours(&self, x: &[f32]) -> Scratch {
        let columns = self.columns();
        let distance = self.dilation * self.lanes % columns;
        let mut neighbours = Scratch::new(3 * x.len());
        for (x, to) in x.chunks_exact(columns).zip(neighbours.chunks_exact_mut(3 * columns)) {
            for (tap, to) in to.chunks_exact_mut(columns).enumerate() {
                let start = [columns - distance, 0, distance][tap] % columns;
                to[..columns - start].copy_from_slice(&x[start..]);
                to[columns - start..].copy_from_slice(&x[..start]);
            }
        }
        neighbours
    }

    fn pass(&self, carried: &[f32], embedding: &[f32], condition: &[f32], weights: &[&[f32]]) -> Pass {
        let [dilated, dilated_bias, projection, projection_bias, of_condition, condition_bias, output, output_bias] =
            *weights
        else {
            unreachable!("a block has eight weights");
        };
        let (columns, channels) = (self.columns(), self.channels);
        let mut shift = transposed_product(projection, embedding, self.lanes);
        for (shift, bias) in shift.chunks_exact_mut(self.lanes).zip(projection_bias) {
            shift.iter_mut().for_each(|shift| *shift += bias);
        }
        let mut shifted = Scratch::new(channels * columns);
        for ((to, state), shift) in
            shifted.chunks_exact_mut(columns).zip(carried.chunks_exact(columns)).zip(shift.chunks_exact(self.lanes))
        {
            add_to_places(to, state, shift);
        }
        let neighbours = self.neighbours(&shifted);
        let mut before = product(dilated, &neighbours, dilated_bias, columns);
        let mut gated = Scratch::new(channels * columns);
        vectorised(
            #[inline(always)]
            || {
                for (before, (weight, bias)) in
                    before.chunks_exact_mut(columns).zip(of_condition.iter().zip(condition_bias))
                {
                    before.iter_mut().zip(condition).for_each(|(to, value)| *to += weight * value + bias);
                }
                let (gate, value) = before.split_at(channels * columns);
                for ((to, gate), value) in gated.iter_mut().zip(gate).zip(value) {
                    *to = sigmoid(*gate) * tanh(*value);
                }
            },
        );
        let output = product(output, &gated, output_bias, columns);
        Pass { neighbours, before, gated, output }
    }
}

/// `to = values + shift` for each place, whose lanes the shifts are.
fn add_to_places(to: &mut [f32], values: &[f32], shift: &[f32]) {
    vectorised(
        #[inline(always)]
        || match shift {
            [shift] => to.iter_mut().zip(values).for_each(|(to, value)| *to = value + shift),
            _ => {
                for (to, values) in to.chunks_exact_mut(shift.len()).zip(values.chunks_exact(shift.len())) {
                    to.iter_mut().zip(values).zip(shift).for_each(|((to, value), shift)| *to = value + shift);
                }
            }
        },
    );
}

/// `inputs`: what is carried, embedding, condition and weights.
pub(super) fn block(block: &Block, inputs: &[&[f32]]) -> Vec<f32> {
    let Block { groups, channels, width, lanes, slope, .. } = *block;
    let [carried, embedding, condition, weights @ ..] = inputs else { return Vec::new() };
    let embedding = &*block.in_all_lanes(embedding);
    let (size, columns) = (block.size(), block.columns());
    written(groups * size, |y| {
        let all = y.par_chunks(size).zip(carried.par_chunks(size));
        let given = embedding.par_chunks(width * lanes).zip(condition.par_chunks(columns));
        all.zip(given).for_each(|((y, carried), (embedding, condition))| {
            let pass = block.pass(carried, embedding, condition, weights);
            let y = y.copied(carried);
            vectorised(
                #[inline(always)]
                || {
                    y.iter_mut().zip(&*pass.output).for_each(|(y, output)| *y += leaky(*output, slope));
                    y[..channels * columns].iter_mut().for_each(|y| *y *= FRAC_1_SQRT_2);
                },
            );
        });
    })
}

/// The gradients of all inputs.
pub(super) fn block_backward(block: &Block, inputs: &[&[f32]], dy: &[f32]) -> Vec<Vec<f32>> {
    let Block { groups, width, lanes, .. } = *block;
    let [carried, given, condition, weights @ ..] = inputs else { return Vec::new() };
    let embedding = &*block.in_all_lanes(given);
    let (size, columns, of_part) = (block.size(), block.columns(), groups_of_part(groups));
    let (mut parts, mut d_embedding, mut d_condition) = (Vec::new(), Vec::new(), Vec::new());
    let d_carried = written(groups * size, |d_carried| {
        d_embedding = written(groups * width * lanes, |d_embedding| {
            d_condition = written(groups * columns, |d_condition| {
                let part = |(part, ((d_carried, d_embedding), d_condition)): (usize, ((Unset, Unset), Unset))| {
                    let mut sums: Vec<Vec<f32>> = weights.iter().map(|weight| vec![0.0; weight.len()]).collect();
                    let outputs = d_carried.cleared().chunks_mut(size);
                    let outputs = outputs.zip(d_embedding.cleared().chunks_mut(width * lanes));
                    for (group, ((d_carried, d_embedding), d_condition)) in
                        outputs.zip(d_condition.cleared().chunks_mut(columns)).enumerate()
                    {
                        let group = part * of_part + group;
                        let inputs = [
                            &carried[group * size..][..size],
                            &embedding[group * width * lanes..][..width * lanes],
                            &condition[group * columns..][..columns],
                            &dy[group * size..][..size],
                        ];
                        group_backward(block, inputs, weights, [d_carried, d_embedding, d_condition], &mut sums);
                    }
                    sums
                };
                let outputs = d_carried.par_chunks(of_part * size);
                let outputs = outputs.zip(d_embedding.par_chunks(of_part * width * lanes));
                let outputs = outputs.zip(d_condition.par_chunks(of_part * columns));
                parts = outputs.enumerate().map(part).collect();
            });
        });
    });
    if given.len() < d_embedding.len() {
        d_embedding = (0..width)
            .map(|i| {
                d_embedding.chunks_exact(lanes).skip(i).step_by(width).map(|lanes| sum(lanes, |value| value)).sum()
            })
            .collect();
    }
    let mut gradients = vec![d_carried, d_embedding, d_condition];
    gradients.extend(total(parts));
    gradients
}

fn group_backward(
    block: &Block,
    [carried, embedding, condition, dy]: [&[f32]; 4],
    weights: &[&[f32]],
    [d_carried, d_embedding, d_condition]: [&mut [f32]; 3],
    sums: &mut [Vec<f32>],
) {
    let Block { channels, lanes, slope, width, .. } = *block;
    let columns = block.columns();
    let half = channels * columns;
    let pass = block.pass(carried, embedding, condition, weights);
    let [dilated, dilated_bias, projection, projection_bias, of_condition, condition_bias, output, output_bias] = sums
    else {
        return;
    };
    d_carried.copy_from_slice(dy);
    let mut d_output = Scratch::new(2 * half);
    vectorised(
        #[inline(always)]
        || {
            d_carried[..half].iter_mut().for_each(|value| *value *= FRAC_1_SQRT_2);
            for ((to, dy), output) in d_output.iter_mut().zip(&*d_carried).zip(&*pass.output) {
                *to = if *output >= 0.0 { *dy } else { slope * dy };
            }
        },
    );
    add_gradients(output, output_bias, &d_output, &pass.gated, columns);
    let d_gated = transposed_product(weights[6], &d_output, columns);
    let mut d_before = Scratch::new(2 * half);
    vectorised(
        #[inline(always)]
        || {
            let ((gates, values), (d_gate, d_value)) = (pass.before.split_at(half), d_before.split_at_mut(half));
            for i in 0..half {
                let (gate, value) = (sigmoid(gates[i]), tanh(values[i]));
                d_gate[i] = d_gated[i] * value * gate * (1.0 - gate);
                d_value[i] = d_gated[i] * gate * (1.0 - value * value);
            }
            for (channel, d_before) in d_before.chunks_exact(columns).enumerate() {
                let weight = weights[4][channel];
                d_condition.iter_mut().zip(d_before).for_each(|(to, from)| *to += weight * from);
                of_condition[channel] += sum_of_products(d_before, condition);
                condition_bias[channel] += sum(d_before, |value| value);
            }
        },
    );
    add_gradients(dilated, dilated_bias, &d_before, &pass.neighbours, columns);
    // Back from each place to its neighbours: the taps of `weight^T dy` moved the other way round and added.
    let of_taps = transposed_product(weights[0], &d_before, columns);
    let mut d_shift = Scratch::new(channels * lanes);
    d_shift.fill(0.0);
    let distance = block.dilation * lanes % columns;
    for (channel, taps) in of_taps.chunks_exact(3 * columns).enumerate() {
        let d_state = &mut d_carried[channel * columns..][..columns];
        let d_shift = &mut d_shift[channel * lanes..][..lanes];
        add_shifted(&taps[..columns], distance, d_state, d_shift);
        add_shifted(&taps[columns..2 * columns], 0, d_state, d_shift);
        add_shifted(&taps[2 * columns..], (columns - distance) % columns, d_state, d_shift);
    }
    let shift = Matrix::row_major(&d_shift, channels, lanes, lanes);
    let embedding = Matrix::row_major(embedding, width, lanes, lanes);
    multiply(Operands::Full, projection, Previous::Keep, embedding, shift.transposed());
    for (total, row) in projection_bias.iter_mut().zip(d_shift.chunks_exact(lanes)) {
        *total += row.iter().sum::<f32>();
    }
    let projection = Matrix::row_major(weights[2], width, channels, channels);
    multiply(Operands::Full, d_embedding, Previous::Discard, projection, shift);
}

/// Adds values, moved around the circle by `start`, and their sums over the places.
fn add_shifted(values: &[f32], start: usize, to: &mut [f32], sums: &mut [f32]) {
    let lanes = sums.len();
    let (end, begin) = values.split_at(start);
    vectorised(
        #[inline(always)]
        || {
            let (first, last) = to.split_at_mut(begin.len());
            first.iter_mut().zip(begin).for_each(|(to, from)| *to += from);
            last.iter_mut().zip(end).for_each(|(to, from)| *to += from);
            match sums {
                [total] => *total += sum(values, |value| value),
                _ => {
                    for values in values.chunks_exact(lanes) {
                        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        },
    );
}

/// The last two convolutions.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) groups: usize,
    pub(super) channels: usize,
    pub(super) columns: usize,
    pub(super) lanes: usize,
    pub(super) scale: f32,
    pub(super) slope: f32,
}

impl End {
    /// Three places next to each other for each channel, `[channels, 3, columns - 2 lanes]`, times `scale`.
    fn neighbours(&self, x: &[f32], columns: usize, scale: f32) -> Scratch {
        let kept = columns - 2 * self.lanes;
        let mut neighbours = Scratch::new(x.len() / columns * 3 * kept);
        for (x, to) in x.chunks_exact(columns).zip(neighbours.chunks_exact_mut(3 * kept)) {
            for (tap, to) in to.chunks_exact_mut(kept).enumerate() {
                to.iter_mut().zip(&x[tap * self.lanes..]).for_each(|(to, from)| *to = from * scale);
            }
        }
        neighbours
    }

    /// The reverse: adds the gradients of neighbours, times `scale`.
    fn add_back(&self, gradient: &[f32], dx: &mut [f32], columns: usize, scale: f32) {
        let kept = columns - 2 * self.lanes;
        for (dx, gradient) in dx.chunks_exact_mut(columns).zip(gradient.chunks_exact(3 * kept)) {
            for (tap, gradient) in gradient.chunks_exact(kept).enumerate() {
                dx[tap * self.lanes..].iter_mut().zip(gradient).for_each(|(to, from)| *to += from * scale);
            }
        }
    }

    /// The neighbours of both convolutions, and what is before the rectifier.
    fn pass(&self, carried: &[f32], weight: &[f32], bias: &[f32]) -> [Scratch; 3] {
        let middle = self.columns - 2 * self.lanes;
        let first = self.neighbours(&carried[self.channels * self.columns..], self.columns, self.scale);
        let before = product(weight, &first, bias, middle);
        let mut after = Scratch::new(before.len());
        after.iter_mut().zip(&*before).for_each(|(to, from)| *to = leaky(*from, self.slope));
        let second = self.neighbours(&after, middle, 1.0);
        [first, before, second]
    }

    fn kept(&self) -> usize {
        self.columns - 4 * self.lanes
    }

    fn size(&self) -> usize {
        2 * self.channels * self.columns
    }
}

/// `inputs`: what is carried, and weight and bias of both convolutions.
pub(super) fn end(end: &End, inputs: &[&[f32]]) -> Vec<f32> {
    let [carried, first, first_bias, second, second_bias] = *inputs else { return Vec::new() };
    written(end.groups * end.kept(), |y| {
        y.par_chunks(end.kept()).zip(carried.par_chunks(end.size())).for_each(|(y, carried)| {
            let [_, _, neighbours] = end.pass(carried, first, first_bias);
            y.copied(&product(second, &neighbours, second_bias, end.kept()));
        });
    })
}

/// The gradients of all inputs.
pub(super) fn end_backward(end: &End, inputs: &[&[f32]], dy: &[f32]) -> Vec<Vec<f32>> {
    let [carried, first, first_bias, second, second_bias] = *inputs else { return Vec::new() };
    let (middle, of_part) = (end.columns - 2 * end.lanes, groups_of_part(end.groups));
    let mut parts = Vec::new();
    let d_carried = written(end.groups * end.size(), |d_carried| {
        let part = |((d_carried, carried), dy): ((Unset, &[f32]), &[f32])| {
            let mut sums: Vec<Vec<f32>> =
                [first, first_bias, second, second_bias].iter().map(|weight| vec![0.0; weight.len()]).collect();
            let groups = d_carried.cleared().chunks_mut(end.size()).zip(carried.chunks(end.size()));
            for ((d_carried, carried), dy) in groups.zip(dy.chunks(end.kept())) {
                let (of_first, of_second) = sums.split_at_mut(2);
                let [neighbours, before, after_neighbours] = end.pass(carried, first, first_bias);
                let [weight, bias] = of_second else { continue };
                add_gradients(weight, bias, dy, &after_neighbours, end.kept());
                let mut d_before = Scratch::new(before.len());
                d_before.fill(0.0);
                end.add_back(&transposed_product(second, dy, end.kept()), &mut d_before, middle, 1.0);
                for (gradient, before) in d_before.iter_mut().zip(&*before) {
                    *gradient *= if *before >= 0.0 { 1.0 } else { end.slope };
                }
                let [weight, bias] = of_first else { continue };
                add_gradients(weight, bias, &d_before, &neighbours, middle);
                let of_sum = &mut d_carried[end.channels * end.columns..];
                end.add_back(&transposed_product(first, &d_before, middle), of_sum, end.columns, end.scale);
            }
            sums
        };
        let carried = carried.par_chunks(of_part * end.size());
        let dy = dy.par_chunks(of_part * end.kept());
        parts = d_carried.par_chunks(of_part * end.size()).zip(carried).zip(dy).map(part).collect();
    });
    let mut gradients = vec![d_carried];
    gradients.extend(total(parts));
    gradients
}
