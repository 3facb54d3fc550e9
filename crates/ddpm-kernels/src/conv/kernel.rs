//! Convolution on slices: by Winograd's algorithm where it is the faster one, else as matrix products.
//!
//! With the columns of `columns.rs`, `y = weight * columns`, `d_weight = dy * columns^T`, and `dx` is
//! the convolution of `dy` with the weight turned by 180 degrees, its channels swapped.

use rayon::prelude::*;

use super::columns::{Tile, Tiling};
use super::frame::{LANES, transposed};
use super::gemm::{Matrix, Operands, Previous, multiply};
use super::general::{self, Geometry};
use super::winograd;
use crate::clock::{Operation, time};
use crate::output::{Uncounted, Unset, written};
use crate::scratch::Scratch;
use crate::simd::{lanes, totals, vectorised};

/// Tasks that the sum over pixels for the weight gradient is divided into. More would use more cores,
/// but each has a copy of the gradient to be added up.
const GRADIENT_TASKS: usize = 16;

/// Stride 1, and as much padding as keeps the size of the picture. None of the numbers is 0.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    pub(crate) batch: usize,
    pub(crate) channels_in: usize,
    pub(crate) channels_out: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// 1 or 3.
    pub(crate) kernel_width: usize,
}

impl Dims {
    /// Neighbours, the pixel itself included, that make one output pixel.
    pub(super) fn taps(&self) -> usize {
        self.kernel_width * self.kernel_width
    }

    fn plane(&self) -> usize {
        self.height * self.width
    }

    /// The weight `[channels_out, channels_in, taps]`.
    fn weight<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        let row = self.channels_in * self.taps();
        Matrix::row_major(values, self.channels_out, row, row)
    }

    /// With input and output in each other's place.
    pub(crate) fn swapped(self) -> Self {
        Self { channels_in: self.channels_out, channels_out: self.channels_in, ..self }
    }
}

/// Gradients of the loss, where they were asked for.
pub(crate) struct Gradients {
    pub(crate) input: Option<Vec<f32>>,
    pub(crate) weight: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The output `[batch, channels_out, height, width]`.
pub(super) fn forward(operands: Operands, geometry: &Geometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let Some(dims) = &geometry.keeps_size() else {
        return time(Operation::ConvForward, || general::forward(operands, geometry, x, weight, bias));
    };
    let [operation, _, _] = operations(dims);
    time(operation, || match winograd::is_worthwhile(dims) {
        true => winograd::forward(operands, dims, x, weight, bias),
        false => by_columns(operands, dims, x, dims.weight(weight), Some(bias)),
    })
}

/// The gradients of input, weight and bias for `dy`, the gradient of the output.
pub(super) fn backward(
    operands: Operands,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    asked: [bool; 3],
) -> Gradients {
    let [of_input, of_weight, of_bias] = asked;
    let bias = of_bias.then(|| channel_sums(dy, geometry.batch, geometry.channels_out));
    let Some(dims) = &geometry.keeps_size() else {
        let input = || general::input_gradient(operands, geometry, weight, dy);
        let parameters = || general::weight_gradient(operands, geometry, x, dy);
        return Gradients {
            input: of_input.then(|| time(Operation::ConvInput, input)),
            weight: of_weight.then(|| time(Operation::ConvWeight, parameters)),
            bias,
        };
    };
    let [_, input, parameters] = operations(dims);
    if winograd::is_worthwhile(dims) {
        return Gradients {
            input: of_input.then(|| time(input, || winograd::input_gradient(operands, dims, weight, dy))),
            weight: of_weight.then(|| time(parameters, || winograd::weight_gradient(operands, dims, x, dy))),
            bias,
        };
    }
    Gradients {
        input: of_input.then(|| time(input, || input_gradient(operands, dims, weight, dy))),
        weight: of_weight.then(|| time(parameters, || weight_gradient(operands, dims, x, dy, Order::OutputFirst))),
        bias,
    }
}

/// Forward, gradient of the input, gradient of the weight.
fn operations(dims: &Dims) -> [Operation; 3] {
    match dims.kernel_width {
        1 => [Operation::Conv1Forward, Operation::Conv1Input, Operation::Conv1Weight],
        _ => [Operation::Conv3Forward, Operation::Conv3Input, Operation::Conv3Weight],
    }
}

/// The sum over pictures and pixels, the gradient of a bias.
pub(crate) fn channel_sums(dy: &[f32], batch: usize, channels: usize) -> Vec<f32> {
    let plane = dy.len() / (batch * channels);
    let mut sums = vec![0.0; channels];
    sums.par_chunks_mut(LANES).enumerate().for_each(|(group, sums)| {
        vectorised(
            #[inline(always)]
            || {
                for image in dy.chunks_exact(channels * plane) {
                    let planes = image[group * LANES * plane..][..sums.len() * plane].chunks_exact(plane);
                    let mut sets = [[0.0; LANES]; LANES];
                    for (set, plane) in sets.iter_mut().zip(planes) {
                        *set = lanes(plane, |v| v);
                    }
                    for (sum, total) in sums.iter_mut().zip(totals(sets)) {
                        *sum += total;
                    }
                }
            },
        );
    });
    sums
}

/// The output, for a weight `[channels_out, channels_in * taps]` of any layout.
pub(crate) fn by_columns(operands: Operands, dims: &Dims, x: &[f32], weight: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let tiling = Tiling::new(dims);
    let blocks = tiling.channel_blocks();
    let (channels, taps) = (dims.channels_out, dims.taps());
    let tile = |index: usize, outputs: Vec<Unset>| {
        let tile = tiling.tile(index);
        let pixels = tile.len();
        let mut columns = tiling.scratch();
        let mut product = Scratch::new(channels * pixels);
        for block in &blocks {
            let columns = tiling.fill(&mut columns, x, &tile, block.clone());
            multiply(
                operands,
                &mut product,
                if block.start == 0 { Previous::Discard } else { Previous::Keep },
                weight.columns(block.start * taps..block.end * taps),
                columns,
            );
        }
        vectorised(
            #[inline(always)]
            || write_tile(&product, &tile, channels, bias, outputs),
        );
    };
    written(dims.batch * channels * dims.plane(), |y| match tiling.images_of_tile() {
        Some(images) => y.par_chunks(images * channels * dims.plane()).enumerate().for_each(|(index, outputs)| {
            tile(index, outputs.chunks(dims.plane()).collect());
        }),
        None => {
            let tiles = tiling.split(y, channels).into_par_iter().enumerate();
            tiles.for_each(|(index, outputs)| tile(index, outputs));
        }
    })
}

/// Distributes `product`, `[channels, images, pixels]`, over the planes of the output.
#[inline(always)]
fn write_tile(product: &[f32], tile: &Tile, channels: usize, bias: Option<&[f32]>, outputs: Vec<Unset>) {
    let (run, mut uncounted) = (tile.pixels.len(), Uncounted::default());
    for (i, output) in outputs.into_iter().enumerate() {
        let (image, channel) = (i / channels, i % channels);
        let first = channel * tile.len() + image * run;
        let values = &product[first..first + run];
        let output = uncounted.copied(output, values);
        if let Some(bias) = bias {
            output.iter_mut().for_each(|value| *value += bias[channel]);
        }
    }
}

/// The gradient `[batch, channels_in, height, width]`.
fn input_gradient(operands: Operands, dims: &Dims, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let Dims { channels_in, channels_out, .. } = *dims;
    let taps = dims.taps();
    if taps == 1 {
        return by_columns(operands, &dims.swapped(), dy, dims.weight(weight).transposed(), None);
    }
    let mut turned = Scratch::new(weight.len());
    turned.par_chunks_mut(channels_out * taps).enumerate().for_each(|(channel_in, turned)| {
        for (channel_out, turned) in turned.chunks_mut(taps).enumerate() {
            let first = (channel_out * channels_in + channel_in) * taps;
            for (turned, weight) in turned.iter_mut().zip(weight[first..first + taps].iter().rev()) {
                *turned = *weight;
            }
        }
    });
    let swapped = dims.swapped();
    by_columns(operands, &swapped, dy, swapped.weight(&turned), None)
}

/// What the rows of a weight are.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// As in a convolution.
    OutputFirst,
    /// As in a dense layer.
    InputFirst,
}

/// The gradient `[channels_out, channels_in, taps]`, or `[channels_in, taps, channels_out]`.
pub(crate) fn weight_gradient(operands: Operands, dims: &Dims, x: &[f32], dy: &[f32], order: Order) -> Vec<f32> {
    let tiling = Tiling::new(dims);
    let blocks = tiling.channel_blocks();
    let (channels, taps) = (dims.channels_out, dims.taps());

    let runs = GRADIENT_TASKS.div_ceil(blocks.len()).min(tiling.len());
    let tiles_per_run = tiling.len().div_ceil(runs);
    let runs = tiling.len().div_ceil(tiles_per_run);
    let parts: Vec<Scratch> = (0..runs * blocks.len())
        .into_par_iter()
        .map(|task| {
            let (run, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
            let rows = block.len() * taps;
            let (mut columns, mut gradient) = (tiling.scratch(), Scratch::new(channels * tiling.tile_pixels()));
            let mut part = Scratch::new(rows * channels);
            let first = run * tiles_per_run;
            for index in first..tiling.len().min(first + tiles_per_run) {
                let tile = tiling.tile(index);
                let pixels = tile.len();
                let gradient = tiling.view(dy, channels, 0..channels, &tile).unwrap_or_else(|| {
                    let gradient = &mut gradient[..channels * pixels];
                    for (channel, line) in gradient.chunks_exact_mut(pixels).enumerate() {
                        tiling.gather(line, dy, channels, channel, &tile, 0);
                    }
                    Matrix::row_major(gradient, channels, pixels, pixels)
                });
                let columns = tiling.fill(&mut columns, x, &tile, block.clone());
                multiply(
                    operands,
                    &mut part,
                    if index == first { Previous::Discard } else { Previous::Keep },
                    columns,
                    gradient.transposed(),
                );
            }
            part
        })
        .collect();

    // The parts are `[rows, channels]`, which suits the product, and so is the gradient of a dense layer.
    written(channels * dims.channels_in * taps, |weight| match order {
        Order::OutputFirst => {
            let row = dims.channels_in * taps;
            weight.par_chunks(LANES * row).enumerate().for_each(|(group, weight)| {
                let weight = weight.cleared();
                for (block, inputs) in blocks.iter().enumerate() {
                    let parts: Vec<&[f32]> =
                        parts.iter().skip(block).step_by(blocks.len()).map(|part| &**part).collect();
                    vectorised(
                        #[inline(always)]
                        || add_transposed(&parts, channels, group * LANES, weight, row, inputs.start * taps),
                    );
                }
            });
        }
        Order::InputFirst => {
            let of_blocks = weight.par_chunks(blocks[0].len() * taps * channels).enumerate();
            of_blocks.for_each(|(block, rows)| {
                let rows = rows.cleared();
                for part in parts.iter().skip(block).step_by(blocks.len()) {
                    rows.iter_mut().zip(part.iter()).for_each(|(value, part)| *value += part);
                }
            });
        }
    })
}

/// Writes the sum of the parts, `[rows, channels]` each, of at most [`LANES`] channels from `first` on to the rows of a
/// weight, which has as many `row` values apart; from `column` on.
#[inline(always)]
fn add_transposed(parts: &[&[f32]], channels: usize, first: usize, weight: &mut [f32], row: usize, column: usize) {
    let present = weight.len() / row;
    let rows = parts[0].len() / channels;
    for start in (0..rows).step_by(LANES) {
        let count = LANES.min(rows - start);
        let mut sums = [[0.0; LANES]; LANES];
        for part in parts {
            let lines = part[start * channels..(start + count) * channels].chunks_exact(channels);
            for (sums, line) in sums.iter_mut().zip(lines) {
                match line[first..].first_chunk::<LANES>() {
                    Some(line) => sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += value),
                    None => sums.iter_mut().zip(&line[first..]).for_each(|(sum, value)| *sum += value),
                }
            }
        }
        for (weight, sums) in weight.chunks_exact_mut(row).take(present).zip(&transposed(sums)) {
            weight[column + start..][..count].copy_from_slice(&sums[..count]);
        }
    }
}
