//! The operations on slices.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::fft::{Roots, Signal, transform_length};
use crate::gelu::flex::{normal_cdf, slope};
use crate::output::{Unset, written};
use crate::rows::{
    TASK_ROWS, add_bias_gradient, add_input_gradient, add_product, add_weight_gradient, fill_rows, rows_of_part, total,
};
use crate::scratch::Scratch;
use crate::simd::{sum, sum_of_products, vectorised};

/// Each row of `v` times its number of `g`, over its norm.
pub(super) fn weight_norm(v: &[f32], g: &[f32]) -> Vec<f32> {
    let width = v.len() / g.len();
    let mut weight = v.to_vec();
    vectorised(
        #[inline(always)]
        || {
            for (row, g) in weight.chunks_exact_mut(width).zip(g) {
                let factor = g / sum(row, |value| value * value).sqrt();
                row.iter_mut().for_each(|value| *value *= factor);
            }
        },
    );
    weight
}

/// The gradients of `v` and `g`.
pub(super) fn weight_norm_backward(v: &[f32], g: &[f32], dw: &[f32]) -> [Vec<f32>; 2] {
    let width = v.len() / g.len();
    let (mut dv, mut dg) = (dw.to_vec(), vec![0.0; g.len()]);
    vectorised(
        #[inline(always)]
        || {
            let rows = dv.chunks_exact_mut(width).zip(v.chunks_exact(width)).zip(g.iter().zip(&mut dg));
            for ((dv, v), (g, dg)) in rows {
                let inverse = 1.0 / sum(v, |value| value * value).sqrt();
                *dg = sum_of_products(dv, v) * inverse;
                let along = *dg * inverse;
                for (dv, v) in dv.iter_mut().zip(v) {
                    *dv = g * inverse * (*dv - along * v);
                }
            }
        },
    );
    [dv, dg]
}

/// A convolution of odd width that keeps the length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    pub(super) batch: usize,
    pub(super) places: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) taps: usize,
}

impl Short {
    /// Of the tasks of `[batch, places]` as rows the part of each sequence.
    fn tasks_of_sequence(&self) -> usize {
        self.places.div_ceil(TASK_ROWS)
    }

    /// Rows with the neighbours of each place, `[places, taps, channels]`, with zeros outside of the sequence.
    fn columns(&self, sequence: &[f32], channels: usize, first: usize, rows: usize) -> Scratch {
        let mut columns = Scratch::new(rows * self.taps * channels);
        for (row, columns) in columns.chunks_exact_mut(self.taps * channels).enumerate() {
            for (tap, column) in columns.chunks_exact_mut(channels).enumerate() {
                match (first + row + tap).checked_sub(self.taps / 2) {
                    Some(place) if place < self.places => {
                        column.copy_from_slice(&sequence[place * channels..][..channels]);
                    }
                    _ => column.fill(0.0),
                }
            }
        }
        columns
    }

    /// The convolution with a weight `[outputs, taps, inputs]`.
    fn apply(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let Self { batch, places, inputs, outputs, taps } = *self;
        written(batch * places * outputs, |y| {
            let sequences: Vec<Unset> = y.chunks(places * outputs).collect();
            let tasks: Vec<_> =
                sequences.into_iter().flat_map(|sequence| sequence.chunks(TASK_ROWS * outputs)).collect();
            tasks.into_par_iter().enumerate().for_each(|(task, y)| {
                let (sequence, part) = (task / self.tasks_of_sequence(), task % self.tasks_of_sequence());
                let x = &x[sequence * places * inputs..][..places * inputs];
                let columns = self.columns(x, inputs, part * TASK_ROWS, y.len() / outputs);
                let y = y.cleared();
                if let Some(bias) = bias {
                    fill_rows(y, bias);
                }
                add_product(y, &columns, weight, [taps * inputs, outputs]);
            });
        })
    }

    /// From `[outputs, inputs, taps]` to `[outputs, taps, inputs]`.
    fn by_taps(&self, weight: &[f32]) -> Vec<f32> {
        let at = |i: usize| {
            let (output, tap, input) = (i / (self.taps * self.inputs), i / self.inputs % self.taps, i % self.inputs);
            weight[(output * self.inputs + input) * self.taps + tap]
        };
        (0..weight.len()).map(at).collect()
    }

    /// From `[outputs, inputs, taps]` to `[inputs, taps, outputs]`, with the taps the other way round.
    fn flipped(&self, weight: &[f32]) -> Vec<f32> {
        let at = |i: usize| {
            let (input, tap, output) = (i / (self.taps * self.outputs), i / self.outputs % self.taps, i % self.outputs);
            weight[(output * self.inputs + input) * self.taps + self.taps - 1 - tap]
        };
        (0..weight.len()).map(at).collect()
    }
}

pub(super) fn short_convolution(short: &Short, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    short.apply(x, &short.by_taps(weight), Some(bias))
}

/// The gradients of input, weight and bias.
pub(super) fn short_convolution_backward(short: &Short, x: &[f32], weight: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
    let Short { places, inputs, outputs, taps, .. } = *short;
    let back = Short { inputs: outputs, outputs: inputs, ..*short };
    let dx = back.apply(dy, &short.flipped(weight), None);
    let part = |(x, dy): (&[f32], &[f32])| {
        let mut sums = vec![vec![0.0; weight.len()], vec![0.0; outputs]];
        for (task, dy) in dy.chunks(TASK_ROWS * outputs).enumerate() {
            let columns = short.columns(x, inputs, task * TASK_ROWS, dy.len() / outputs);
            add_weight_gradient(&mut sums[0], dy, &columns, [taps * inputs, outputs]);
            add_bias_gradient(&mut sums[1], dy);
        }
        sums
    };
    let parts = x.par_chunks(places * inputs).zip(dy.par_chunks(places * outputs)).map(part).collect();
    let mut sums = total(parts).into_iter();
    let by_taps = sums.next().unwrap_or_default();
    let at = |i: usize| {
        let (output, input, tap) = (i / (inputs * taps), i / taps % inputs, i % taps);
        by_taps[(output * taps + tap) * inputs + input]
    };
    [dx, (0..weight.len()).map(at).collect(), sums.next().unwrap_or_default()]
}

/// Kernels as products of coefficients with the basis of each feature.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) directions: usize,
    pub(super) features: usize,
    /// Rows of the basis.
    pub(super) rows: usize,
    pub(super) length: usize,
}

pub(super) fn kernels_of_basis(of: &Product, coefficients: &[f32], basis: &[f32]) -> Vec<f32> {
    let Product { directions, features, rows, length } = *of;
    written(features * directions * length, |kernels| {
        let tasks = kernels.par_chunks(directions * length).zip(basis.par_chunks(rows * length));
        tasks.enumerate().for_each(|(feature, (kernels, basis))| {
            let kernels = kernels.cleared();
            vectorised(
                #[inline(always)]
                || {
                    for (direction, kernel) in kernels.chunks_exact_mut(length).enumerate() {
                        let coefficients = &coefficients[(direction * features + feature) * rows..][..rows];
                        for (pair, basis) in coefficients.chunks(4).zip(basis.chunks(4 * length)) {
                            match pair {
                                [a, b, c, d] => {
                                    let (first, rest) = basis.split_at(length);
                                    let (second, rest) = rest.split_at(length);
                                    let (third, fourth) = rest.split_at(length);
                                    let rows = first.iter().zip(second).zip(third.iter().zip(fourth));
                                    for (to, ((first, second), (third, fourth))) in kernel.iter_mut().zip(rows) {
                                        *to += a * first + b * second + (c * third + d * fourth);
                                    }
                                }
                                some => {
                                    for (factor, basis) in some.iter().zip(basis.chunks_exact(length)) {
                                        kernel.iter_mut().zip(basis).for_each(|(to, from)| *to += factor * from);
                                    }
                                }
                            }
                        }
                    }
                },
            );
        });
    })
}

/// The gradient of the coefficients.
pub(super) fn kernels_of_basis_backward(of: &Product, basis: &[f32], dk: &[f32]) -> Vec<f32> {
    let Product { directions, features, rows, length } = *of;
    // Feature by feature, and then in the order of the coefficients.
    let by_features = written(features * directions * rows, |gradient| {
        let tasks = gradient.par_chunks(directions * rows).zip(basis.par_chunks(rows * length));
        tasks.zip(dk.par_chunks(directions * length)).for_each(|((gradient, basis), dk)| {
            let gradient = gradient.cleared();
            vectorised(
                #[inline(always)]
                || {
                    for (row, basis) in basis.chunks_exact(length).enumerate() {
                        for (direction, dk) in dk.chunks_exact(length).enumerate() {
                            gradient[direction * rows + row] = sum_of_products(dk, basis);
                        }
                    }
                },
            );
        });
    });
    let order =
        (0..directions).flat_map(|direction| (0..features).map(move |feature| feature * directions + direction));
    order.flat_map(|row| by_features[row * rows..(row + 1) * rows].iter().copied()).collect()
}

/// The convolution with kernels as long as the sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Long {
    pub(super) batch: usize,
    pub(super) places: usize,
    pub(super) features: usize,
    pub(super) directions: usize,
}

/// `inputs`: the sequences, the kernels and the skips.
pub(super) fn long_convolution(long: &Long, inputs: &[&[f32]]) -> Vec<f32> {
    let roots = Roots::new(transform_length(long.places));
    let [x, kernels, skip] = *inputs else { return Vec::new() };
    Arch::new().dispatch(LongForward { long, roots: &roots, x, kernels, skip })
}

/// The gradients of all inputs.
pub(super) fn long_convolution_backward(long: &Long, inputs: &[&[f32]], dy: &[f32]) -> [Vec<f32>; 3] {
    let roots = Roots::new(transform_length(long.places));
    let [x, kernels, skip] = *inputs else { return Default::default() };
    Arch::new().dispatch(LongBackward { long, roots: &roots, x, kernels, skip, dy })
}

struct LongForward<'a> {
    long: &'a Long,
    roots: &'a Roots,
    x: &'a [f32],
    kernels: &'a [f32],
    skip: &'a [f32],
}

impl WithSimd for LongForward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { long, roots, x, kernels, skip } = self;
        let blocks = long.features.div_ceil(S::F32_LANES);
        let block = |block: usize| {
            let mut result = Scratch::new(long.batch * long.places * S::F32_LANES);
            Arch::new().dispatch(ForwardBlock { long, roots, x, kernels, skip, block, result: &mut result });
            result
        };
        let _ = simd;
        let parts: Vec<Scratch> = (0..blocks).into_par_iter().map(block).collect();
        long.joined(&parts, S::F32_LANES)
    }
}

struct ForwardBlock<'a> {
    long: &'a Long,
    roots: &'a Roots,
    x: &'a [f32],
    kernels: &'a [f32],
    skip: &'a [f32],
    block: usize,
    result: &'a mut [f32],
}

impl WithSimd for ForwardBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { long, roots, x, kernels, skip, block, result } = self;
        let mut spectrum = Buffer::new::<S>(long);
        long.load_kernels::<S>(kernels, skip, block, &mut spectrum);
        spectrum.signal::<S>().forward(simd, roots);
        let spectrum = spectrum.signal::<S>();
        let mut buffer = Buffer::new::<S>(long);
        for pair in 0..long.batch.div_ceil(2) {
            long.load::<S>(x, block, pair, &mut buffer);
            let mut signal = buffer.signal::<S>();
            signal.forward(simd, roots);
            for k in 0..signal.re.len() {
                signal.set(k, signal.get(k).mul(simd, spectrum.get(k)));
            }
            signal.inverse(simd, roots);
            long.store::<S>(&buffer, pair, result);
        }
    }
}

struct LongBackward<'a> {
    long: &'a Long,
    roots: &'a Roots,
    x: &'a [f32],
    kernels: &'a [f32],
    skip: &'a [f32],
    dy: &'a [f32],
}

impl WithSimd for LongBackward<'_> {
    type Output = [Vec<f32>; 3];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f32>; 3] {
        let Self { long, roots, x, kernels, skip, dy } = self;
        let _ = simd;
        let blocks = long.features.div_ceil(S::F32_LANES);
        let block = |block: usize| {
            let mut dx = Scratch::new(long.batch * long.places * S::F32_LANES);
            let mut gradient = Buffer::new::<S>(long);
            let (dx_ref, gradient_ref) = (&mut dx, &mut gradient);
            Arch::new().dispatch(BackwardBlock {
                long,
                roots,
                x,
                kernels,
                skip,
                dy,
                block,
                dx: dx_ref,
                gradient: gradient_ref,
            });
            (dx, gradient.re)
        };
        let parts: Vec<_> = (0..blocks).into_par_iter().map(block).collect();
        let (dx, gradients): (Vec<Scratch>, Vec<Scratch>) = parts.into_iter().unzip();
        let [dk, d_skip] = long.kernel_gradients(&gradients, S::F32_LANES);
        [long.joined(&dx, S::F32_LANES), dk, d_skip]
    }
}

struct BackwardBlock<'a> {
    long: &'a Long,
    roots: &'a Roots,
    x: &'a [f32],
    kernels: &'a [f32],
    skip: &'a [f32],
    dy: &'a [f32],
    block: usize,
    dx: &'a mut [f32],
    gradient: &'a mut Buffer,
}

impl WithSimd for BackwardBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { long, roots, x, kernels, skip, dy, block, dx, gradient } = self;
        let mut spectrum = Buffer::new::<S>(long);
        long.load_kernels::<S>(kernels, skip, block, &mut spectrum);
        spectrum.signal::<S>().forward(simd, roots);
        let spectrum = spectrum.signal::<S>();
        let [mut of_x, mut of_dy] = [Buffer::new::<S>(long), Buffer::new::<S>(long)];
        gradient.clear();
        for pair in 0..long.batch.div_ceil(2) {
            long.load::<S>(x, block, pair, &mut of_x);
            long.load::<S>(dy, block, pair, &mut of_dy);
            let (mut x, mut dy, sum) = (of_x.signal::<S>(), of_dy.signal::<S>(), gradient.signal::<S>());
            x.forward(simd, roots);
            dy.forward(simd, roots);
            for k in 0..sum.re.len() {
                let (dy_k, product) = (dy.get(k), dy.get(k).mul_conj(simd, x.get(k)));
                sum.re[k] = simd.add_f32s(sum.re[k], product.re);
                sum.im[k] = simd.add_f32s(sum.im[k], product.im);
                dy.set(k, dy_k.mul_conj(simd, spectrum.get(k)));
            }
            dy.inverse(simd, roots);
            long.store::<S>(&of_dy, pair, dx);
        }
        gradient.signal::<S>().inverse(simd, roots);
    }
}

/// Room for a complex signal.
struct Buffer {
    re: Scratch,
    im: Scratch,
}

impl Buffer {
    fn new<S: Simd>(long: &Long) -> Self {
        let size = transform_length(long.places) * S::F32_LANES;
        Self { re: Scratch::new(size), im: Scratch::new(size) }
    }

    fn clear(&mut self) {
        self.re.fill(0.0);
        self.im.fill(0.0);
    }

    #[inline(always)]
    fn signal<S: Simd>(&mut self) -> Signal<'_, S> {
        Signal::of(&mut self.re, &mut self.im)
    }
}

impl Long {
    /// The features of a block.
    fn of_block(&self, block: usize, lanes: usize) -> std::ops::Range<usize> {
        block * lanes..self.features.min((block + 1) * lanes)
    }

    /// The kernels of a block around place 0, with the skips at 0.
    #[inline(always)]
    fn load_kernels<S: Simd>(&self, kernels: &[f32], skip: &[f32], block: usize, buffer: &mut Buffer) {
        let lanes = S::F32_LANES;
        buffer.clear();
        let length = buffer.re.len() / lanes;
        for (lane, feature) in self.of_block(block, lanes).enumerate() {
            let all = &kernels[feature * self.directions * self.places..][..self.directions * self.places];
            let (forward, backward) = all.split_at(self.places);
            for (place, value) in forward.iter().enumerate() {
                buffer.re[place * lanes + lane] = *value;
            }
            for (place, value) in backward.iter().take(self.places - 1).enumerate() {
                buffer.re[(length - 1 - place) * lanes + lane] = *value;
            }
            buffer.re[lane] += skip[feature];
        }
    }

    /// Two sequences of a block, one as real and one as imaginary parts.
    #[inline(always)]
    fn load<S: Simd>(&self, x: &[f32], block: usize, pair: usize, buffer: &mut Buffer) {
        let features = self.of_block(block, S::F32_LANES);
        buffer.clear();
        for (sequence, values) in [&mut buffer.re, &mut buffer.im].into_iter().enumerate() {
            let sequence = 2 * pair + sequence;
            if sequence < self.batch {
                let x = &x[sequence * self.places * self.features..][..self.places * self.features];
                for (values, x) in values.chunks_exact_mut(S::F32_LANES).zip(x.chunks_exact(self.features)) {
                    values[..features.len()].copy_from_slice(&x[features.clone()]);
                }
            }
        }
    }

    /// The results for two sequences into those of the block, `[batch, places, lanes]`.
    #[inline(always)]
    fn store<S: Simd>(&self, buffer: &Buffer, pair: usize, result: &mut [f32]) {
        let size = self.places * S::F32_LANES;
        let share = S::F32_LANES as f32 / buffer.re.len() as f32;
        for (sequence, values) in [&buffer.re, &buffer.im].into_iter().enumerate() {
            let sequence = 2 * pair + sequence;
            if sequence < self.batch {
                let result = &mut result[sequence * size..(sequence + 1) * size];
                for (to, from) in result.iter_mut().zip(&**values) {
                    *to = from * share;
                }
            }
        }
    }

    /// The tensor from its blocks of features.
    fn joined(&self, blocks: &[Scratch], lanes: usize) -> Vec<f32> {
        written(self.batch * self.places * self.features, |y| {
            y.par_chunks(TASK_ROWS * self.features).enumerate().for_each(|(task, y)| {
                for (row, y) in y.chunks(self.features).enumerate() {
                    let row = task * TASK_ROWS + row;
                    for (part, block) in y.chunks(lanes).zip(blocks) {
                        let count = part.len();
                        part.copied(&block[row * lanes..][..count]);
                    }
                }
            });
        })
    }

    /// The gradients of kernels and skips from the real parts of their correlations, block by block.
    fn kernel_gradients(&self, blocks: &[Scratch], lanes: usize) -> [Vec<f32>; 2] {
        let Self { places, features, directions, .. } = *self;
        let length = transform_length(places);
        let share = 1.0 / length as f32;
        let at = |feature: usize, place: usize| blocks[feature / lanes][place * lanes + feature % lanes] * share;
        let kernels = written(features * directions * places, |gradient| {
            gradient.par_chunks(directions * places).enumerate().for_each(|(feature, gradient)| {
                for (i, value) in gradient.cleared().iter_mut().enumerate() {
                    *value = match (i < places, i == 2 * places - 1) {
                        (true, _) => at(feature, i),
                        (false, false) => at(feature, length - 1 - (i - places)),
                        // No step is so far ahead.
                        (false, true) => 0.0,
                    };
                }
            });
        });
        [kernels, (0..features).map(|feature| at(feature, 0)).collect()]
    }
}

/// GELU, a dense layer, a residual connection and a normalization, for rows of channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixed {
    pub(super) rows: usize,
    pub(super) channels: usize,
    pub(super) epsilon: f32,
}

impl Mixed {
    /// The activated values, the normalized sums, and for each row the inverse of the standard deviation.
    fn pass(&self, y: &[f32], x: &[f32], weight: &[f32], bias: &[f32]) -> [Scratch; 3] {
        let (channels, share) = (self.channels, 1.0 / self.channels as f32);
        let [mut activated, mut sums, mut inverse] = [y.len(), y.len(), y.len() / channels].map(Scratch::new);
        vectorised(
            #[inline(always)]
            || activated.iter_mut().zip(y).for_each(|(to, &from)| *to = from * normal_cdf(from)),
        );
        fill_rows(&mut sums, bias);
        add_product(&mut sums, &activated, weight, [channels, channels]);
        vectorised(
            #[inline(always)]
            || {
                let rows = sums.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                for ((sums, x), inverse) in rows.zip(&mut *inverse) {
                    sums.iter_mut().zip(x).for_each(|(to, from)| *to += from);
                    let mean = sum(sums, |value| value) * share;
                    sums.iter_mut().for_each(|value| *value -= mean);
                    *inverse = 1.0 / (sum(sums, |value| value * value) * share + self.epsilon).sqrt();
                    sums.iter_mut().for_each(|value| *value *= *inverse);
                }
            },
        );
        [activated, sums, inverse]
    }
}

/// `inputs`: the values to activate, the residual ones, weight, bias, scale and shift.
pub(super) fn mixed_norm(mixed: &Mixed, inputs: &[&[f32]]) -> Vec<f32> {
    let [y, x, weight, bias, scale, shift] = *inputs else { return Vec::new() };
    let size = TASK_ROWS * mixed.channels;
    written(mixed.rows * mixed.channels, |out| {
        out.par_chunks(size).zip(y.par_chunks(size)).zip(x.par_chunks(size)).for_each(|((out, y), x)| {
            let [_, normalized, _] = mixed.pass(y, x, weight, bias);
            let out = out.copied(&normalized);
            vectorised(
                #[inline(always)]
                || {
                    for row in out.chunks_exact_mut(mixed.channels) {
                        for ((value, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
                            *value = *value * scale + shift;
                        }
                    }
                },
            );
        });
    })
}

/// The gradients of all inputs.
pub(super) fn mixed_norm_backward(mixed: &Mixed, inputs: &[&[f32]], dz: &[f32]) -> Vec<Vec<f32>> {
    let [y, x, weight, bias, scale, _] = *inputs else { return Vec::new() };
    let size = mixed.rows * mixed.channels;
    let (of_part, of_task) = (rows_of_part(mixed.rows) * mixed.channels, TASK_ROWS * mixed.channels);
    let mut parts = Vec::new();
    let mut dx = Vec::new();
    let dy = written(size, |dy| {
        dx = written(size, |dx| {
            let outputs = dy.par_chunks(of_part).zip(dx.par_chunks(of_part));
            let inputs = y.par_chunks(of_part).zip(x.par_chunks(of_part)).zip(dz.par_chunks(of_part));
            let part = |((dy, dx), ((y, x), dz)): (Outputs, Rows)| {
                let mut sums: Vec<Vec<f32>> =
                    [weight, bias, scale, scale].iter().map(|like| vec![0.0; like.len()]).collect();
                let outputs = dy.cleared().chunks_mut(of_task).zip(dx.copied(dz).chunks_mut(of_task));
                for ((dy, dx), (y, x)) in outputs.zip(y.chunks(of_task).zip(x.chunks(of_task))) {
                    mixed_task_backward(mixed, [y, x, weight, bias, scale], [dy, dx], &mut sums);
                }
                sums
            };
            parts = outputs.zip(inputs).map(part).collect();
        });
    });
    let mut gradients = vec![dy, dx];
    gradients.extend(total(parts));
    gradients
}

/// A part of the gradients of both of the inputs that have rows.
type Outputs<'a> = (Unset<'a>, Unset<'a>);

/// A part of these inputs, and of the gradients of the output.
type Rows<'a> = ((&'a [f32], &'a [f32]), &'a [f32]);

/// `dx` has the gradients of the output at first; those of weight, bias, scale and shift are added to their sums.
fn mixed_task_backward(mixed: &Mixed, inputs: [&[f32]; 5], [dy, dx]: [&mut [f32]; 2], sums: &mut [Vec<f32>]) {
    let [y, x, weight, bias, scale] = inputs;
    let (channels, share) = (mixed.channels, 1.0 / mixed.channels as f32);
    let [activated, normalized, inverse] = mixed.pass(y, x, weight, bias);
    let [d_weight, d_bias, d_scale, d_shift] = sums else { return };
    vectorised(
        #[inline(always)]
        || {
            let rows = dx.chunks_exact_mut(channels).zip(normalized.chunks_exact(channels));
            for ((dx, normalized), inverse) in rows.zip(&*inverse) {
                for ((((dx, value), scale), d_scale), d_shift) in
                    dx.iter_mut().zip(normalized).zip(scale).zip(&mut **d_scale).zip(&mut **d_shift)
                {
                    *d_scale += *dx * value;
                    *d_shift += *dx;
                    *dx *= scale;
                }
                let plain = sum(dx, |value| value) * share;
                let weighted = sum_of_products(dx, normalized) * share;
                for (dx, value) in dx.iter_mut().zip(normalized) {
                    *dx = (*dx - plain - value * weighted) * inverse;
                }
            }
        },
    );
    add_weight_gradient(d_weight, dx, &activated, [channels, channels]);
    add_bias_gradient(d_bias, dx);
    add_input_gradient(dy, dx, weight, [channels, channels]);
    vectorised(
        #[inline(always)]
        || dy.iter_mut().zip(y).for_each(|(gradient, &value)| *gradient *= slope(value)),
    );
}
