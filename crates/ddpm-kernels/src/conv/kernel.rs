//! Convolution on slices: by Winograd's algorithm where it is the faster one, else as matrix products.
//!
//! With the columns of `columns.rs`, `y = weight * columns`, `d_weight = dy * columns^T`, and `dx` is
//! the convolution of `dy` with the weight turned by 180 degrees, its channels swapped.

use rayon::prelude::*;

use super::columns::{Tile, Tiling};
use super::gemm::{Matrix, Previous, multiply};
use super::winograd;
use crate::clock::{Operation, time};
use crate::simd::{sum, vectorised};

/// Tasks that the sum over pixels for the weight gradient is divided into. More would use more cores,
/// but each has a copy of the gradient to be added up.
const GRADIENT_TASKS: usize = 16;

/// Stride 1, and as much padding as keeps the size of the picture. None of the numbers is 0.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) batch: usize,
    pub(super) channels_in: usize,
    pub(super) channels_out: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// 1 or 3.
    pub(super) kernel_width: usize,
}

impl Dims {
    /// Neighbours, the pixel itself included, that make one output pixel.
    pub(super) fn taps(&self) -> usize {
        self.kernel_width * self.kernel_width
    }

    fn plane(&self) -> usize {
        self.height * self.width
    }
}

/// Gradients of the loss, where they were asked for.
pub(super) struct Gradients {
    pub(super) input: Option<Vec<f32>>,
    pub(super) weight: Option<Vec<f32>>,
    pub(super) bias: Option<Vec<f32>>,
}

/// The output `[batch, channels_out, height, width]`.
pub(super) fn forward(dims: &Dims, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let [operation, _, _] = operations(dims);
    time(operation, || match winograd::is_worthwhile(dims) {
        true => winograd::forward(dims, x, weight, bias),
        false => by_columns(dims, x, weight, Some(bias)),
    })
}

/// The gradients of input, weight and bias for `dy`, the gradient of the output.
pub(super) fn backward(dims: &Dims, x: &[f32], weight: &[f32], dy: &[f32], asked: [bool; 3]) -> Gradients {
    let [_, input, parameters] = operations(dims);
    let [of_input, of_weight, of_bias] = asked;
    let bias = of_bias.then(|| channel_sums(dims, dy));
    if winograd::is_worthwhile(dims) {
        let dy = winograd::output_frame(dims, dy);
        return Gradients {
            input: of_input.then(|| time(input, || winograd::input_gradient(dims, weight, &dy))),
            weight: of_weight.then(|| time(parameters, || winograd::weight_gradient(dims, x, &dy))),
            bias,
        };
    }
    Gradients {
        input: of_input.then(|| time(input, || input_gradient(dims, weight, dy))),
        weight: of_weight.then(|| time(parameters, || weight_gradient(dims, x, dy))),
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
fn channel_sums(dims: &Dims, dy: &[f32]) -> Vec<f32> {
    let (channels, plane) = (dims.channels_out, dims.plane());
    let of_channel = |channel: usize| {
        let planes = dy.chunks_exact(plane).skip(channel).step_by(channels);
        vectorised(|| planes.map(|plane| sum(plane, |v| v)).sum())
    };
    (0..channels).into_par_iter().with_min_len(8).map(of_channel).collect()
}

fn by_columns(dims: &Dims, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let tiling = Tiling::new(dims);
    let blocks = tiling.channel_blocks();
    let (channels, taps) = (dims.channels_out, dims.taps());
    let weight_row = dims.channels_in * taps;
    let mut y = vec![0.0; dims.batch * channels * dims.plane()];
    let scratch = || (tiling.scratch(), vec![0.0; channels * tiling.tile_pixels()]);
    tiling.split(&mut y, channels).into_par_iter().enumerate().for_each_init(
        scratch,
        |(columns, product), (index, outputs)| {
            let tile = tiling.tile(index);
            let pixels = tile.len();
            let product = &mut product[..channels * pixels];
            for block in &blocks {
                let rows = block.len() * taps;
                let weight = &weight[block.start * taps..];
                let columns = tiling.fill(columns, x, &tile, block.clone());
                multiply(
                    product,
                    if block.start == 0 { Previous::Discard } else { Previous::Keep },
                    Matrix::row_major(weight, channels, rows, weight_row),
                    Matrix::row_major(columns, rows, pixels, pixels),
                );
            }
            write_tile(product, &tile, channels, bias, outputs);
        },
    );
    y
}

/// Distributes `product`, `[channels, images, pixels]`, over the planes of the output.
fn write_tile(product: &[f32], tile: &Tile, channels: usize, bias: Option<&[f32]>, outputs: Vec<&mut [f32]>) {
    let run = tile.pixels.len();
    for (i, output) in outputs.into_iter().enumerate() {
        let (image, channel) = (i / channels, i % channels);
        let first = channel * tile.len() + image * run;
        let values = &product[first..first + run];
        match bias {
            Some(bias) => {
                for (output, value) in output.iter_mut().zip(values) {
                    *output = value + bias[channel];
                }
            }
            None => output.copy_from_slice(values),
        }
    }
}

/// The gradient `[batch, channels_in, height, width]`.
fn input_gradient(dims: &Dims, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let Dims { channels_in, channels_out, .. } = *dims;
    let taps = dims.taps();
    let mut turned = vec![0.0; weight.len()];
    for (channel_in, turned) in turned.chunks_mut(channels_out * taps).enumerate() {
        for (channel_out, turned) in turned.chunks_mut(taps).enumerate() {
            let first = (channel_out * channels_in + channel_in) * taps;
            for (turned, weight) in turned.iter_mut().zip(weight[first..first + taps].iter().rev()) {
                *turned = *weight;
            }
        }
    }
    let transposed = Dims { channels_in: channels_out, channels_out: channels_in, ..*dims };
    by_columns(&transposed, dy, &turned, None)
}

/// The gradient `[channels_out, channels_in, taps]`.
fn weight_gradient(dims: &Dims, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let tiling = Tiling::new(dims);
    let blocks = tiling.channel_blocks();
    let (channels, taps) = (dims.channels_out, dims.taps());

    let runs = GRADIENT_TASKS.div_ceil(blocks.len()).min(tiling.len());
    let tiles_per_run = tiling.len().div_ceil(runs);
    let runs = tiling.len().div_ceil(tiles_per_run);
    let scratch = || (tiling.scratch(), vec![0.0; channels * tiling.tile_pixels()]);
    let parts: Vec<Vec<f32>> = (0..runs * blocks.len())
        .into_par_iter()
        .map_init(scratch, |(columns, gradient), task| {
            let (run, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
            let rows = block.len() * taps;
            let mut part = vec![0.0; rows * channels];
            let first = run * tiles_per_run;
            for index in first..tiling.len().min(first + tiles_per_run) {
                let tile = tiling.tile(index);
                let pixels = tile.len();
                let gradient = &mut gradient[..channels * pixels];
                for (channel, line) in gradient.chunks_exact_mut(pixels).enumerate() {
                    tiling.gather(line, dy, channels, channel, &tile, 0);
                }
                let columns = tiling.fill(columns, x, &tile, block.clone());
                multiply(
                    &mut part,
                    Previous::Keep,
                    Matrix::row_major(columns, rows, pixels, pixels),
                    Matrix::row_major(gradient, channels, pixels, pixels).transposed(),
                );
            }
            part
        })
        .collect();

    // The parts are `[rows, channels]`, which suits the product; the gradient is `[channels, rows]`.
    let mut weight = vec![0.0; channels * dims.channels_in * taps];
    weight.par_chunks_mut(dims.channels_in * taps).enumerate().for_each(|(channel, row)| {
        for (i, part) in parts.iter().enumerate() {
            let block = &blocks[i % blocks.len()];
            let row = &mut row[block.start * taps..block.end * taps];
            for (value, part) in row.iter_mut().zip(part[channel..].iter().step_by(channels)) {
                *value += part;
            }
        }
    });
    weight
}
