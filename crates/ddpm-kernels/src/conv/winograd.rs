//! The 3x3 convolution by Winograd's algorithm: a quarter of the multiplications.
//!
//! The picture is cut into tiles of 4x4 output pixels. Each tile, with its neighbours, becomes 36 values per
//! channel (`transforms.rs`), and for each of the 36 the convolution is one matrix product over the channels
//! (`product.rs`). Channels lie innermost, so that no product needs its operands rearranged.

mod product;
mod transforms;

use std::ops::Range;

use rayon::prelude::*;

use super::frame::{Frame, LANES, Lanes, transposed};
use super::kernel::Dims;
use crate::simd::vectorised;
use product::{PANEL, ROWS, Row, accumulate, multiply};
use transforms::{POINTS, data_tile, kernel_square, kernel_square_gradient, output_tile, output_tile_gradient, square};

/// Width of a tile of the output.
const TILE: usize = 4;

/// Fewer tiles than this are not worth the transformed weights.
const FEWEST_TILES: usize = 32;

/// Fewer channels than this are not worth the transformed tiles.
const FEWEST_CHANNELS: usize = 16;

/// Tiles of a task, at most: so many have room in the second cache.
const TASK_TILES: usize = 32;

/// Tasks that there should be at least, while they keep enough tiles.
const TASKS: usize = 8;

/// Transformed values that are kept at a time for the gradient of the weight.
const KEPT_VALUES: usize = 1 << 21;

/// Whether this way is the faster one for a convolution.
pub(super) fn is_worthwhile(dims: &Dims) -> bool {
    let tiles = Tiles::new(dims);
    let covered = tiles.count * TILE * TILE;
    dims.kernel_width == 3
        && tiles.count >= FEWEST_TILES
        && dims.channels_in.min(dims.channels_out) >= FEWEST_CHANNELS
        // At the right and lower border tiles may be mostly empty.
        && covered <= 2 * dims.batch * dims.height * dims.width
}

/// Where the tiles of a batch lie.
#[derive(Clone, Copy)]
struct Tiles {
    across: usize,
    per_image: usize,
    count: usize,
}

impl Tiles {
    fn new(dims: &Dims) -> Self {
        let (down, across) = (dims.height.div_ceil(TILE), dims.width.div_ceil(TILE));
        Self { across, per_image: down * across, count: dims.batch * down * across }
    }

    /// Tiles of a task; depends on shapes only.
    fn per_task(self) -> usize {
        self.count.div_ceil(TASKS).next_multiple_of(ROWS).min(TASK_TILES)
    }

    /// Image, row and column of a tile, the latter two in tiles.
    fn place(self, tile: usize) -> (usize, usize, usize) {
        let within = tile % self.per_image;
        (tile / self.per_image, within / self.across, within % self.across)
    }
}

/// The weight of an output and an input channel at a tap.
type WeightAt<'a> = dyn Fn(usize, usize, usize) -> f32 + Sync + 'a;

/// The output `[batch, channels_out, height, width]`.
pub(super) fn forward(dims: &Dims, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let at = |channel_out, channel_in, tap| weight[(channel_out * dims.channels_in + channel_in) * 9 + tap];
    convolve(dims, &input_frame(dims, x), &at, Some(bias))
}

/// What both gradients need of `dy`, the gradient of the output.
pub(super) fn output_frame(dims: &Dims, dy: &[f32]) -> Frame {
    Frame::new(dy, dims.batch, dims.channels_out, dims.height, dims.width)
}

fn input_frame(dims: &Dims, x: &[f32]) -> Frame {
    Frame::new(x, dims.batch, dims.channels_in, dims.height, dims.width)
}

/// The gradient `[batch, channels_in, height, width]`: the convolution with the weight turned by 180 degrees, its
/// channels swapped.
pub(super) fn input_gradient(dims: &Dims, weight: &[f32], dy: &Frame) -> Vec<f32> {
    let at = |channel_in, channel_out, tap| weight[(channel_out * dims.channels_in + channel_in) * 9 + 8 - tap];
    let swapped = Dims { channels_in: dims.channels_out, channels_out: dims.channels_in, ..*dims };
    convolve(&swapped, dy, &at, None)
}

fn convolve(dims: &Dims, x: &Frame, weight: &WeightAt, bias: Option<&[f32]>) -> Vec<f32> {
    let tiles = Tiles::new(dims);
    let weights = Weights::new(dims, x.blocks * LANES, weight);
    let panels = weights.panels;
    let per_task = tiles.per_task();
    // For each tile, the pixels of each panel of channels.
    let mut pixels = vec![[0.0; PANEL]; tiles.count * panels * TILE * TILE];
    let scratch = || (vec![0.0; POINTS * per_task * weights.depth], vec![[0.0; PANEL]; POINTS * per_task]);
    let size = panels * TILE * TILE;
    pixels.par_chunks_mut(per_task * size).enumerate().for_each_init(scratch, |(data, products), (task, pixels)| {
        let first = task * per_task;
        transform(tiles, x, first..first + pixels.len() / size, per_task, data);
        for panel in 0..panels {
            for point in 0..POINTS {
                multiply(
                    &data[point * per_task * weights.depth..][..per_task * weights.depth],
                    weights.of(point, panel),
                    &mut products[point * per_task..][..per_task],
                );
            }
            let bias: Row = std::array::from_fn(|lane| {
                bias.and_then(|bias| bias.get(panel * PANEL + lane)).copied().unwrap_or(0.0)
            });
            vectorised(|| {
                for (i, pixels) in pixels.chunks_exact_mut(size).enumerate() {
                    let products: [Row; POINTS] = std::array::from_fn(|point| products[point * per_task + i]);
                    let tile = output_tile(&products);
                    for (pixel, value) in pixels[panel * TILE * TILE..].iter_mut().zip(tile) {
                        *pixel = std::array::from_fn(|lane| value[lane] + bias[lane]);
                    }
                }
            });
        }
    });
    planes(dims, tiles, panels, &pixels)
}

/// The transformed tiles `[POINTS, room, channels]` of a range.
fn transform(tiles: Tiles, x: &Frame, range: Range<usize>, room: usize, data: &mut [f32]) {
    let depth = x.blocks * LANES;
    vectorised(|| {
        for (i, tile) in range.enumerate() {
            let (image, row, column) = tiles.place(tile);
            let corner = TILE * (row * x.columns + column);
            for block in 0..x.blocks {
                let transformed = data_tile(&square::<6, 36>(x.block(image, block), x.columns, corner));
                for (point, value) in transformed.iter().enumerate() {
                    data[(point * room + i) * depth + block * LANES..][..LANES].copy_from_slice(value);
                }
            }
        }
    });
}

/// From the pixels of tiles to `[batch, channels, height, width]`.
fn planes(dims: &Dims, tiles: Tiles, panels: usize, pixels: &[Row]) -> Vec<f32> {
    let Dims { batch, channels_out: channels, height, width, .. } = *dims;
    let plane = height * width;
    let mut y = vec![0.0; batch * channels * plane];
    // The channels of an image, LANES at a time.
    let groups: Vec<(usize, &mut [f32])> = y
        .chunks_mut(channels * plane)
        .enumerate()
        .flat_map(|(image, y)| y.chunks_mut(LANES * plane).enumerate().map(move |(i, y)| (image * channels + i * LANES, y)))
        .collect();
    groups.into_par_iter().for_each(|(first, y)| {
        let (image, first) = (first / channels, first % channels);
        let (panel, lane) = (first / PANEL, first % PANEL);
        vectorised(|| {
            for tile in 0..tiles.per_image {
                let (_, row, column) = tiles.place(tile);
                let pixels = &pixels[((image * tiles.per_image + tile) * panels + panel) * TILE * TILE..];
                let by_channel = transposed(std::array::from_fn(|pixel| {
                    let mut lanes: Lanes = [0.0; LANES];
                    lanes.copy_from_slice(&pixels[pixel][lane..lane + LANES]);
                    lanes
                }));
                let (row, column) = (row * TILE, column * TILE);
                let across = TILE.min(width - column);
                for (y, values) in y.chunks_exact_mut(plane).zip(&by_channel) {
                    let lines = y[row * width..].chunks_mut(width).zip(values.chunks_exact(TILE));
                    for (line, values) in lines {
                        if across == TILE {
                            line[column..column + TILE].copy_from_slice(values);
                        } else {
                            line[column..].copy_from_slice(&values[..across]);
                        }
                    }
                }
            }
        });
    });
    y
}

/// Transformed weights `[POINTS, panels, depth, PANEL]`.
struct Weights {
    depth: usize,
    panels: usize,
    values: Vec<Row>,
}

impl Weights {
    fn new(dims: &Dims, depth: usize, weight: &WeightAt) -> Self {
        let panels = dims.channels_out.div_ceil(PANEL);
        let mut values = vec![[0.0; PANEL]; POINTS * panels * depth];
        let rows = panels * depth;
        // Each task takes some rows of every point.
        let mut tasks: Vec<Vec<&mut [Row]>> = (0..rows.div_ceil(LANES)).map(|_| Vec::with_capacity(POINTS)).collect();
        for point in values.chunks_mut(rows) {
            for (task, rows) in tasks.iter_mut().zip(point.chunks_mut(LANES)) {
                task.push(rows);
            }
        }
        tasks.into_par_iter().enumerate().for_each(|(task, mut points)| {
            vectorised(|| {
                for i in 0..points[0].len() {
                    let row = task * LANES + i;
                    let (panel, channel_in) = (row / depth, row % depth);
                    if channel_in >= dims.channels_in {
                        continue;
                    }
                    let mut kernels = [[0.0; PANEL]; 9];
                    let present = PANEL.min(dims.channels_out - panel * PANEL);
                    for lane in 0..present {
                        for (tap, kernel) in kernels.iter_mut().enumerate() {
                            kernel[lane] = weight(panel * PANEL + lane, channel_in, tap);
                        }
                    }
                    for (rows, value) in points.iter_mut().zip(kernel_square(&kernels)) {
                        rows[i] = value;
                    }
                }
            });
        });
        Self { depth, panels, values }
    }

    fn of(&self, point: usize, panel: usize) -> &[Row] {
        &self.values[(point * self.panels + panel) * self.depth..][..self.depth]
    }
}

/// The gradient `[channels_out, channels_in, 3, 3]`.
pub(super) fn weight_gradient(dims: &Dims, x: &[f32], dy: &Frame) -> Vec<f32> {
    let x = &input_frame(dims, x);
    let tiles = Tiles::new(dims);
    let depth = x.blocks * LANES;
    let panels = dims.channels_out.div_ceil(PANEL);
    let per_task = tiles.per_task();
    let tasks = tiles.count.div_ceil(per_task);
    let tasks_at_a_time = (KEPT_VALUES / (POINTS * per_task * (depth + panels * PANEL))).clamp(1, tasks);

    let mut gradients = vec![[0.0; PANEL]; POINTS * panels * depth];
    let data_size = POINTS * per_task * depth;
    let gradient_size = POINTS * panels * per_task;
    let mut data = vec![0.0; tasks_at_a_time * data_size];
    let mut outputs = vec![[0.0; PANEL]; tasks_at_a_time * gradient_size];
    for first in (0..tasks).step_by(tasks_at_a_time) {
        let present = tasks_at_a_time.min(tasks - first);
        let (data, outputs) = (&mut data[..present * data_size], &mut outputs[..present * gradient_size]);
        data.par_chunks_mut(data_size).zip(outputs.par_chunks_mut(gradient_size)).enumerate().for_each(
            |(task, (data, outputs))| {
                let start = (first + task) * per_task;
                let range = start..tiles.count.min(start + per_task);
                if range.len() < per_task {
                    // What an earlier task has left behind the last tile must not count.
                    data.fill(0.0);
                    outputs.fill([0.0; PANEL]);
                }
                transform(tiles, x, range.clone(), per_task, data);
                transform_gradient(tiles, dy, range, per_task, outputs);
            },
        );
        gradients.par_chunks_mut(panels * depth).enumerate().for_each(|(point, gradients)| {
            for (data, outputs) in data.chunks(data_size).zip(outputs.chunks(gradient_size)) {
                let data = &data[point * per_task * depth..][..per_task * depth];
                let outputs = &outputs[point * panels * per_task..][..panels * per_task];
                for (gradients, outputs) in gradients.chunks_mut(depth).zip(outputs.chunks(per_task)) {
                    accumulate(data, outputs, gradients);
                }
            }
        });
    }
    kernels(dims, depth, panels, &gradients)
}

/// The transformed gradients of tiles of the output, `[POINTS, panels, room]`.
fn transform_gradient(tiles: Tiles, dy: &Frame, range: Range<usize>, room: usize, outputs: &mut [Row]) {
    let panels = outputs.len() / (POINTS * room);
    vectorised(|| {
        for (i, tile) in range.enumerate() {
            let (image, row, column) = tiles.place(tile);
            let corner = (TILE * row + 1) * dy.columns + TILE * column + 1;
            for block in 0..dy.blocks {
                let transformed = output_tile_gradient(&square::<4, 16>(dy.block(image, block), dy.columns, corner));
                let (panel, lane) = (block * LANES / PANEL, block * LANES % PANEL);
                for (point, value) in transformed.iter().enumerate() {
                    outputs[(point * panels + panel) * room + i][lane..lane + LANES].copy_from_slice(value);
                }
            }
        }
    });
}

/// From transformed gradients `[POINTS, panels, depth, PANEL]` to `[channels_out, channels_in, 3, 3]`.
fn kernels(dims: &Dims, depth: usize, panels: usize, gradients: &[Row]) -> Vec<f32> {
    let row = dims.channels_in * 9;
    let mut weight = vec![0.0; dims.channels_out * row];
    weight.par_chunks_mut(PANEL * row).enumerate().for_each(|(panel, weight)| {
        vectorised(|| {
            for channel_in in 0..dims.channels_in {
                let square: [Row; POINTS] =
                    std::array::from_fn(|point| gradients[(point * panels + panel) * depth + channel_in]);
                let kernels = kernel_square_gradient(&square);
                for (lane, weight) in weight.chunks_exact_mut(row).enumerate() {
                    for (tap, weight) in weight[channel_in * 9..][..9].iter_mut().enumerate() {
                        *weight = kernels[tap][lane];
                    }
                }
            }
        });
    });
    weight
}
