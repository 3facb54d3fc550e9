//! Convolution of any kernel, stride and padding, with a rectifier, as matrix products; forward only.
//!
//! As in `kernel.rs` and `columns.rs`, but a tile is a run of *output* pixels that may go over the end of an image into
//! the next one, so that small images fill their tiles too. Its columns are gathered row by row: a stretch of an output
//! row sees, through one tap of the kernel, a stretch of an input row, and zeros beyond the border.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Matrix, Previous, multiply};
use crate::simd::vectorised;

/// Output pixels of a tile. The weights are packed anew for every tile, so these are more than in `columns.rs`.
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
    /// Height and width of the output, unless the kernel is larger than the padded picture.
    pub(super) fn output(&self) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let padded = self.before[axis] + self.size[axis] + self.after[axis];
            Some(padded.checked_sub(self.kernel[axis])? / self.stride[axis] + 1)
        };
        Some([along(0)?, along(1)?])
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
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let geometry = geometry.flattened();
    let Some([height, width]) = geometry.output() else { return Vec::new() };
    let (channels, plane) = (geometry.channels_out, height * width);
    let taps = geometry.kernel[0] * geometry.kernel[1];
    let weight_row = geometry.channels_in * taps;
    let block = (TILE_ROWS / taps).clamp(1, geometry.channels_in);

    let mut y = vec![0.0; geometry.batch * channels * plane];
    let scratch = || (vec![0.0; block * taps * TILE_PIXELS], vec![0.0; channels * TILE_PIXELS]);
    tiles(&mut y, channels, plane).into_par_iter().enumerate().for_each_init(
        scratch,
        |(columns, product), (index, outputs)| {
            let first = index * TILE_PIXELS;
            let pixels = TILE_PIXELS.min(geometry.batch * plane - first);
            let stretches = stretches(first..first + pixels, [height, width]);
            let product = &mut product[..channels * pixels];
            for start in (0..geometry.channels_in).step_by(block) {
                let inputs = start..geometry.channels_in.min(start + block);
                let rows = inputs.len() * taps;
                let columns = &mut columns[..rows * pixels];
                vectorised(|| gather(&geometry, columns, x, inputs, &stretches, pixels));
                multiply(
                    product,
                    if start == 0 { Previous::Discard } else { Previous::Keep },
                    Matrix::row_major(&weight[start * taps..], channels, rows, weight_row),
                    Matrix::row_major(columns, rows, pixels, pixels),
                );
            }
            vectorised(|| scatter(product, pixels, channels, bias, outputs));
        },
    );
    y
}

/// Divides `[batch, channels, plane]` into what belongs to each tile: the pixels of every channel of its first image, then
/// those of the next.
fn tiles(y: &mut [f32], channels: usize, plane: usize) -> Vec<Vec<&mut [f32]>> {
    let pixels = y.len() / channels;
    let mut tiles: Vec<Vec<&mut [f32]>> = (0..pixels.div_ceil(TILE_PIXELS)).map(|_| Vec::new()).collect();
    for (i, mut rest) in y.chunks_mut(plane).enumerate() {
        let mut first = i / channels * plane;
        while !rest.is_empty() {
            let tile = first / TILE_PIXELS;
            let (run, more) = rest.split_at_mut(rest.len().min((tile + 1) * TILE_PIXELS - first));
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
                // The output columns whose neighbour through this tap is in the picture.
                let [step, before] = [geometry.stride[1], geometry.before[1]];
                let inside = before.saturating_sub(tap_column).div_ceil(step)
                    ..(width + before).saturating_sub(tap_column).div_ceil(step);
                for stretch in stretches {
                    let Range { start, end } = stretch.columns;
                    let target = &mut line[stretch.at..stretch.at + (end - start)];
                    let row = (stretch.row * geometry.stride[0] + tap_row).checked_sub(geometry.before[0]);
                    let Some(row) = row.filter(|row| *row < height) else {
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

/// Distributes `product`, `[channels, pixels]`, over the output, with the bias and the rectifier.
#[inline(always)]
fn scatter(product: &[f32], pixels: usize, channels: usize, bias: &[f32], outputs: Vec<&mut [f32]>) {
    let mut first = 0;
    for (i, output) in outputs.into_iter().enumerate() {
        let channel = i % channels;
        let values = &product[channel * pixels + first..][..output.len()];
        let bias = bias[channel];
        output.iter_mut().zip(values).for_each(|(y, value)| {
            let sum = value + bias;
            // A NaN must not become 0.
            *y = if sum < 0.0 { 0.0 } else { sum };
        });
        if channel + 1 == channels {
            first += output.len();
        }
    }
}
