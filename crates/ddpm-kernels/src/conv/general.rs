//! Convolution of any kernel, stride and padding as matrix products.
//!
//! As in `kernel.rs` and `columns.rs`, but a tile is a run of *output* pixels that may go over the end of an image into
//! the next one, so that small images fill their tiles too. Its columns are gathered row by row: a stretch of an output
//! row sees, through one tap of the kernel, a stretch of an input row, and zeros beyond the border.

use std::ops::Range;

use burn::nn::PaddingConfig2d::{Explicit, Same, Valid};
use burn::nn::conv::Conv2d;
use rayon::prelude::*;

use super::gemm::{Matrix, Operands, Previous, multiply};
use super::kernel::Dims;
use crate::output::{Uncounted, Unset, written};
use crate::scratch::Scratch;
use crate::simd::vectorised;

/// Tiles that there should be at least.
const TILES: usize = 8;

/// Output pixels of a tile, at least.
const LEAST_PIXELS: usize = 64;

/// Output pixels of a tile, at most. The weights are packed anew for every tile, so these are more than in `columns.rs`.
const TILE_PIXELS: usize = 512;

/// Rows of the columns that are built, and multiplied, at a time.
const TILE_ROWS: usize = 192;

/// Sizes of a convolution. None of them is 0, and the kernel fits into the padded picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(super) batch: usize,
    pub(super) channels_in: usize,
    pub(super) channels_out: usize,
    /// Height and width of the input.
    pub(super) size: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    /// Rows above and columns to the left that are zeros.
    pub(super) before: [usize; 2],
    /// Rows below and columns to the right.
    pub(super) after: [usize; 2],
}

impl Geometry {
    /// Of a convolution of a tensor of this shape, unless it is one for Burn: dilated, in groups, or with an error that Burn
    /// names.
    pub(super) fn new(conv: &Conv2d, shape: [usize; 4]) -> Option<Self> {
        let [channels_out, channels_in, height, width] = conv.weight.dims();
        let wrong = shape.contains(&0) || shape[1] != channels_in || conv.dilation != [1, 1] || conv.groups != 1;
        if wrong || conv.stride.contains(&0) {
            return None;
        }
        let (before, after) = match conv.padding {
            Valid => ([0, 0], [0, 0]),
            Explicit(top, left, bottom, right) => ([top, left], [bottom, right]),
            Same if conv.stride == [1, 1] && height % 2 == 1 && width % 2 == 1 => {
                ([height / 2, width / 2], [height / 2, width / 2])
            }
            Same => return None,
        };
        let geometry = Self {
            batch: shape[0],
            channels_in,
            channels_out,
            size: [shape[2], shape[3]],
            kernel: [height, width],
            stride: conv.stride,
            before,
            after,
        };
        geometry.output().map(|_| geometry)
    }

    /// Height and width of the output, unless the kernel is larger than the padded picture.
    pub(super) fn output(&self) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let padded = self.before[axis] + self.size[axis] + self.after[axis];
            Some(padded.checked_sub(self.kernel[axis])? / self.stride[axis] + 1)
        };
        Some([along(0)?, along(1)?])
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input channels whose columns are built at a time.
    fn channels_of_columns(&self) -> usize {
        (TILE_ROWS / self.taps()).clamp(1, self.channels_in)
    }

    /// Output pixels of a tile where few are computed: there should be several tasks.
    fn tile_pixels(&self) -> usize {
        let [height, width] = self.output().unwrap_or_default();
        (self.batch * height * width).div_ceil(TILES).next_multiple_of(LEAST_PIXELS).min(TILE_PIXELS)
    }

    /// The columns of the output whose neighbour through this tap is in the picture.
    fn inside(&self, tap_column: usize) -> Range<usize> {
        let ([_, step], [_, before]) = (self.stride, self.before);
        let end = (self.size[1] + before).saturating_sub(tap_column).div_ceil(step);
        before.saturating_sub(tap_column).div_ceil(step)..end
    }

    /// The row of the picture that a row of the output sees through this tap, if there is one.
    fn input_row(&self, row: usize, tap_row: usize) -> Option<usize> {
        (row * self.stride[0] + tap_row).checked_sub(self.before[0]).filter(|row| *row < self.size[0])
    }

    /// The sizes for the kernel that is for convolutions which keep the size of the picture, if this is one.
    pub(super) fn keeps_size(&self) -> Option<Dims> {
        let padding = match self.kernel {
            [3, 3] => [1, 1],
            [1, 1] => [0, 0],
            _ => return None,
        };
        (self.stride == [1, 1] && self.before == padding && self.after == padding).then_some(Dims {
            batch: self.batch,
            channels_in: self.channels_in,
            channels_out: self.channels_out,
            height: self.size[0],
            width: self.size[1],
            kernel_width: self.kernel[0],
        })
    }

    /// A convolution that looks at nothing but the pixel itself is the same on one long row.
    fn flattened(self) -> Self {
        let plain = self.kernel == [1, 1] && self.stride == [1, 1] && self.before == [0, 0] && self.after == [0, 0];
        if plain { Self { size: [1, self.size[0] * self.size[1]], ..self } } else { self }
    }
}

/// A stretch of a row of the output, and where in its tile it lies.
struct Stretch {
    image: usize,
    row: usize,
    columns: Range<usize>,
    at: usize,
}

/// The output `[batch, channels_out, height, width]`, or 0 where it is negative.
pub(super) fn forward_rectified(geometry: &Geometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    // A NaN must not become 0.
    let rectified = |value: f32| if value < 0.0 { 0.0 } else { value };
    convolve(Operands::Full, geometry, TILE_PIXELS, x, weight, bias, rectified)
}

/// The output `[batch, channels_out, height, width]`.
pub(super) fn forward(operands: Operands, geometry: &Geometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    convolve(operands, geometry, geometry.tile_pixels(), x, weight, bias, |value| value)
}

/// With `then` of every value, in tiles of so many pixels.
fn convolve(
    operands: Operands,
    geometry: &Geometry,
    tile_pixels: usize,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    then: impl Fn(f32) -> f32 + Copy + Sync,
) -> Vec<f32> {
    let geometry = geometry.flattened();
    let Some([height, width]) = geometry.output() else { return Vec::new() };
    let (channels, plane) = (geometry.channels_out, height * width);
    let (taps, block) = (geometry.taps(), geometry.channels_of_columns());
    let row = geometry.channels_in * taps;
    let weight = Matrix::row_major(weight, channels, row, row);

    let task = |(index, outputs): (usize, Vec<Unset>)| {
        let first = index * tile_pixels;
        let pixels = tile_pixels.min(geometry.batch * plane - first);
        let mut columns = Scratch::new(block * taps * pixels);
        let mut product = Scratch::new(channels * pixels);
        let stretches = stretches(first..first + pixels, [height, width]);
        for start in (0..geometry.channels_in).step_by(block) {
            let inputs = start..geometry.channels_in.min(start + block);
            let rows = inputs.len() * taps;
            let columns = &mut columns[..rows * pixels];
            vectorised(
                #[inline(always)]
                || gather(&geometry, columns, x, inputs.clone(), &stretches, pixels),
            );
            multiply(
                operands,
                &mut product,
                if start == 0 { Previous::Discard } else { Previous::Keep },
                weight.columns(start * taps..inputs.end * taps),
                Matrix::row_major(columns, rows, pixels, pixels),
            );
        }
        vectorised(
            #[inline(always)]
            || scatter(&product, pixels, channels, bias, outputs, then),
        );
    };
    written(geometry.batch * channels * plane, |y| {
        tiles(y, channels, plane, tile_pixels).into_par_iter().enumerate().for_each(task);
    })
}

/// The gradient `[channels_out, channels_in, taps]` for `dy`, the gradient of the output.
pub(super) fn weight_gradient(operands: Operands, geometry: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let Some([height, width]) = geometry.output() else { return Vec::new() };
    let (channels, plane) = (geometry.channels_out, height * width);
    let (taps, block) = (geometry.taps(), geometry.channels_of_columns());
    let blocks: Vec<_> =
        (0..geometry.channels_in).step_by(block).map(|first| first..geometry.channels_in.min(first + block)).collect();
    // Image by image, so that neither operand is copied but to make columns.
    let parts: Vec<Scratch> = blocks
        .par_iter()
        .map(|inputs| {
            let rows = inputs.len() * taps;
            let mut columns = Scratch::new(rows * plane);
            let mut part = Scratch::new(channels * rows);
            for (image, dy) in dy.chunks_exact(channels * plane).enumerate() {
                let stretches = stretches(image * plane..(image + 1) * plane, [height, width]);
                vectorised(
                    #[inline(always)]
                    || gather(geometry, &mut columns, x, inputs.clone(), &stretches, plane),
                );
                multiply(
                    operands,
                    &mut part,
                    if image == 0 { Previous::Discard } else { Previous::Keep },
                    Matrix::row_major(dy, channels, plane, plane),
                    Matrix::row_major(&columns, rows, plane, plane).transposed(),
                );
            }
            part
        })
        .collect();
    written(channels * geometry.channels_in * taps, |weight| {
        weight.par_chunks(geometry.channels_in * taps).enumerate().for_each(|(channel, row)| {
            let row = row.cleared().chunks_mut(block * taps);
            for (row, part) in row.zip(&parts) {
                row.copy_from_slice(&part[channel * row.len()..][..row.len()]);
            }
        });
    })
}

/// The gradient `[batch, channels_in, height, width]` for `dy`, the gradient of the output.
pub(super) fn input_gradient(operands: Operands, geometry: &Geometry, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let Some([height, width]) = geometry.output() else { return Vec::new() };
    let Geometry { batch, channels_in, channels_out, size, .. } = *geometry;
    let (plane, input_plane) = (height * width, size[0] * size[1]);
    let (taps, block) = (geometry.taps(), geometry.channels_of_columns());
    let row = channels_in * taps;
    let weight = Matrix::row_major(weight, channels_out, row, row);
    let stretches = stretches(0..plane, [height, width]);
    let task = |(image, first, dx): (usize, usize, Unset)| {
        let dx = dx.cleared();
        let inputs = first..first + dx.len() / input_plane;
        let rows = inputs.len() * taps;
        let mut columns = Scratch::new(rows * plane);
        let dy = &dy[image * channels_out * plane..][..channels_out * plane];
        multiply(
            operands,
            &mut columns,
            Previous::Discard,
            weight.columns(first * taps..inputs.end * taps).transposed(),
            Matrix::row_major(dy, channels_out, plane, plane),
        );
        vectorised(
            #[inline(always)]
            || spread(geometry, &columns, dx, &stretches, plane),
        );
    };
    written(batch * channels_in * input_plane, |dx| {
        let mut tasks = Vec::new();
        for (image, dx) in dx.chunks(channels_in * input_plane).enumerate() {
            tasks.extend(dx.chunks(block * input_plane).enumerate().map(|(i, dx)| (image, i * block, dx)));
        }
        tasks.into_par_iter().for_each(task);
    })
}

/// Divides `[batch, channels, plane]` into what belongs to each tile: the pixels of every channel of its first image, then
/// those of the next.
fn tiles(y: Unset, channels: usize, plane: usize, tile_pixels: usize) -> Vec<Vec<Unset>> {
    let pixels = y.len() / channels;
    let mut tiles: Vec<Vec<Unset>> = (0..pixels.div_ceil(tile_pixels)).map(|_| Vec::new()).collect();
    for (i, mut rest) in y.chunks(plane).enumerate() {
        let mut first = i / channels * plane;
        while rest.len() > 0 {
            let tile = first / tile_pixels;
            let middle = rest.len().min((tile + 1) * tile_pixels - first);
            let (run, more) = rest.split_at(middle);
            first += run.len();
            tiles[tile].push(run);
            rest = more;
        }
    }
    tiles
}

/// The rows that some pixels of the batch lie in.
fn stretches(pixels: Range<usize>, [height, width]: [usize; 2]) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut pixel = pixels.start;
    while pixel < pixels.end {
        let (row, column) = (pixel / width, pixel % width);
        let end = width.min(column + pixels.end - pixel);
        let at = pixel - pixels.start;
        stretches.push(Stretch { image: row / height, row: row % height, columns: column..end, at });
        pixel += end - column;
    }
    stretches
}

/// The columns `[channels * taps, pixels]` of a tile.
#[inline(always)]
fn gather(
    geometry: &Geometry,
    columns: &mut [f32],
    x: &[f32],
    channels: Range<usize>,
    stretches: &[Stretch],
    pixels: usize,
) {
    let [height, width] = geometry.size;
    let [kernel_height, kernel_width] = geometry.kernel;
    let mut lines = columns.chunks_exact_mut(pixels);
    for channel in channels {
        for tap_row in 0..kernel_height {
            for tap_column in 0..kernel_width {
                let Some(line) = lines.next() else { return };
                let [step, before] = [geometry.stride[1], geometry.before[1]];
                let inside = geometry.inside(tap_column);
                for stretch in stretches {
                    let Range { start, end } = stretch.columns;
                    let target = &mut line[stretch.at..stretch.at + (end - start)];
                    let Some(row) = geometry.input_row(stretch.row, tap_row) else {
                        target.fill(0.0);
                        continue;
                    };
                    let (from, to) = (inside.start.clamp(start, end), inside.end.clamp(start, end));
                    let to = to.max(from);
                    target[..from - start].fill(0.0);
                    target[to - start..].fill(0.0);
                    if from == to {
                        continue;
                    }
                    let target = &mut target[from - start..to - start];
                    let plane = (stretch.image * geometry.channels_in + channel) * height * width;
                    let source = &x[plane + row * width + from * step + tap_column - before..];
                    if step == 1 {
                        target.copy_from_slice(&source[..target.len()]);
                    } else {
                        target.iter_mut().zip(source.iter().step_by(step)).for_each(|(value, x)| *value = *x);
                    }
                }
            }
        }
    }
}

/// Distributes `product`, `[channels, pixels]`, over the output, with the bias and what comes `then`.
#[inline(always)]
fn scatter(
    product: &[f32],
    pixels: usize,
    channels: usize,
    bias: &[f32],
    outputs: Vec<Unset>,
    then: impl Fn(f32) -> f32,
) {
    let (mut first, mut uncounted) = (0, Uncounted::default());
    for (i, output) in outputs.into_iter().enumerate() {
        let channel = i % channels;
        let values = &product[channel * pixels + first..][..output.len()];
        let output = uncounted.copied(output, values);
        let bias = bias[channel];
        output.iter_mut().for_each(|value| *value = then(*value + bias));
        if channel + 1 == channels {
            first += output.len();
        }
    }
}

/// Adds the columns of an image to the pixels that [`gather`] would take them from.
#[inline(always)]
fn spread(geometry: &Geometry, columns: &[f32], dx: &mut [f32], stretches: &[Stretch], pixels: usize) {
    let [height, width] = geometry.size;
    let [kernel_height, kernel_width] = geometry.kernel;
    let mut lines = columns.chunks_exact(pixels);
    for plane in dx.chunks_exact_mut(height * width) {
        for tap_row in 0..kernel_height {
            for tap_column in 0..kernel_width {
                let Some(line) = lines.next() else { return };
                let inside = geometry.inside(tap_column);
                for stretch in stretches {
                    let Some(row) = geometry.input_row(stretch.row, tap_row) else { continue };
                    let (step, from) = (geometry.stride[1], inside.start.min(inside.end));
                    let to = inside.end.min(stretch.columns.end);
                    if from >= to {
                        continue;
                    }
                    let first = row * width + from * step + tap_column - geometry.before[1];
                    let values = &line[stretch.at + from..stretch.at + to];
                    let target = plane[first..].iter_mut().step_by(step);
                    target.zip(values).for_each(|(pixel, value)| *pixel += value);
                }
            }
        }
    }
}
