//! The 3x3 convolution by Winograd's algorithm: a quarter of the multiplications.
//!
//! The picture is cut into tiles of 4x4 output pixels. Each tile, with its neighbours, becomes 36 values per
//! channel (`transforms.rs`), and for each of the 36 the convolution is one matrix product over the channels
//! (`../../product.rs`). Channels lie innermost, so that no product needs its operands rearranged. Where operands are bf16,
//! tiles are halved (`halves.rs`), and their transforms are written as pairs.

mod halves;
mod tiles;
mod transforms;

use pulp::Arch;
use rayon::prelude::*;

use super::frame::{LANES, Pictures};
use super::kernel::Dims;
use crate::output::{Uncounted, written};
use crate::product::{Operands, PANEL, Previous, Row, accumulate, make_pairs, multiply};
use crate::scratch::Scratch;
use halves::{PairGradient, PairInput, PairWeights, Pairing};
use tiles::{
    Form, Halved, Inverse, InverseWeights, Kernels, TILE, Tiles, TransformGradient, TransformInput, TransformWeights,
    Whole, dispatch,
};

/// Pictures of fewer tiles than this are worth the transformed weights only if these are few, too.
const FEWEST_TILES: usize = 4;

/// Kernels, one from each channel to each, whose transforms have room in the second cache.
const FEW_KERNELS: usize = 64 * 128;

/// Fewer channels than this are not worth the transformed weights of pictures of few tiles.
const FEWEST_CHANNELS_OF_FEW_TILES: usize = 32;

/// Fewer channels than this are not worth the transformed tiles.
const FEWEST_CHANNELS: usize = 16;

/// Transformed values that are kept at a time for the gradient of the weight.
const KEPT_VALUES: usize = 1 << 21;

/// Rows between the values of one point and those of the next. What belongs together is written to all points and read from
/// all; at distances that are powers of two it would fall in the same few places of the caches, and drive itself out.
const GAP: usize = 1;

/// Rows of transformed weights that a task makes.
const WEIGHT_ROWS: usize = 16;

/// Whether this way is the faster one for a convolution. The batch has no say: a picture must come out the same, to the
/// last bit, whatever else is in its batch.
pub(super) fn is_worthwhile(dims: &Dims) -> bool {
    let tiles = dims.height.div_ceil(TILE) * dims.width.div_ceil(TILE);
    let channels = dims.channels_in.min(dims.channels_out);
    let enough = match tiles {
        FEWEST_TILES.. => channels >= FEWEST_CHANNELS,
        _ => channels >= FEWEST_CHANNELS_OF_FEW_TILES && dims.channels_in * dims.channels_out <= FEW_KERNELS,
    };
    // At the right and lower border tiles may be mostly empty.
    dims.kernel_width == 3 && enough && tiles * TILE * TILE <= 2 * dims.height * dims.width
}

/// Sizes of the transforms.
struct Sizes {
    operands: Operands,
    tiles: Tiles,
    points: usize,
    /// Rows that the tiles of a task are in a product over channels.
    rows: usize,
    /// Numbers, or pairs of them, that the input channels are.
    depth: usize,
    /// Panels of output channels.
    panels: usize,
}

impl Sizes {
    fn new(operands: Operands, dims: &Dims) -> Self {
        let (tiles, panels) = (Tiles::new(dims), dims.channels_out.div_ceil(PANEL));
        let (points, parts, numbers) = match operands {
            Operands::Full => (Whole::POINTS, Whole::PARTS, 1),
            Operands::Halves => (Halved::POINTS, Halved::PARTS, 2),
        };
        let depth = dims.channels_in.div_ceil(numbers * LANES) * LANES;
        Self { operands, tiles, points, rows: tiles.room() * parts, depth, panels }
    }
}

/// The output `[batch, channels_out, height, width]`.
pub(super) fn forward(operands: Operands, dims: &Dims, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let kernels = Kernels { weight, channels_in: dims.channels_in, turned: false };
    convolve(operands, dims, x, kernels, Some(bias))
}

impl Dims {
    /// The input, or its gradient.
    fn input<'a>(&self, values: &'a [f32]) -> Pictures<'a> {
        Pictures { values, channels: self.channels_in, height: self.height, width: self.width }
    }

    /// The output, or its gradient.
    fn output<'a>(&self, values: &'a [f32]) -> Pictures<'a> {
        self.swapped().input(values)
    }
}

/// The gradient `[batch, channels_in, height, width]`: the convolution with the weight turned by 180 degrees, its
/// channels swapped.
pub(super) fn input_gradient(operands: Operands, dims: &Dims, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let kernels = Kernels { weight, channels_in: dims.channels_in, turned: true };
    convolve(operands, &dims.swapped(), dy, kernels, None)
}

fn convolve(operands: Operands, dims: &Dims, x: &[f32], kernels: Kernels, bias: Option<&[f32]>) -> Vec<f32> {
    let (sizes, x) = (Sizes::new(operands, dims), dims.input(x));
    let Sizes { tiles, points, rows, depth, panels, .. } = &sizes;
    let (rows, depth, panels) = (*rows, *depth, *panels);
    let weights = weights(&sizes, dims, kernels);
    let (weights, _) = weights.as_chunks::<PANEL>();

    let task = |task: usize, lines: &mut [&mut [f32]]| {
        let mut frames = Scratch::new(2 * tiles.frame_len() * LANES);
        let (left, right) = frames.as_chunks_mut::<LANES>().0.split_at_mut(tiles.frame_len());
        let mut data = Scratch::new(points * (rows * depth + GAP * PANEL));
        let mut products = Scratch::new(points * (rows + GAP) * PANEL);
        let (products, _) = products.as_chunks_mut::<PANEL>();
        let arch = Arch::new();
        let (lanes, _) = data.as_chunks_mut::<LANES>();
        match operands {
            Operands::Full => arch.dispatch(TransformInput { tiles, x, task, frame: left, data: lanes }),
            Operands::Halves => {
                let (pairing, frames) = (Pairing::Channels, [left, right]);
                make_pairs(PairInput { tiles, x, task, pairing, frames, data: lanes });
            }
        }
        for panel in 0..panels {
            let of_points = data.chunks_exact(rows * depth + GAP * PANEL).zip(products.chunks_exact_mut(rows + GAP));
            for (point, (data, products)) in of_points.enumerate() {
                let weights = &weights[point * (panels * depth + GAP) + panel * depth..][..depth];
                multiply(operands, &data[..rows * depth], weights, &mut products[..rows]);
            }
            let products = &*products;
            dispatch(arch, operands, Inverse { tiles, dims, task, panel, products, bias, lines });
        }
    };
    let plane = dims.height * dims.width;
    written(dims.batch * dims.channels_out * plane, |y| match tiles.images_of_task() {
        Some(images) => {
            y.par_chunks(images * dims.channels_out * plane).enumerate().for_each(|(index, y)| {
                task(index, &mut y.cleared().chunks_exact_mut(plane).collect::<Vec<_>>());
            });
        }
        None => tiles.split(dims, y).into_par_iter().enumerate().for_each(|(index, lines)| {
            let mut uncounted = Uncounted::default();
            let mut lines: Vec<_> = lines.into_iter().map(|lines| uncounted.cleared(lines)).collect();
            task(index, &mut lines);
        }),
    })
}

/// Transformed weights `[points, panels, depth, PANEL]`.
fn weights(sizes: &Sizes, dims: &Dims, kernels: Kernels) -> Scratch {
    let Sizes { operands, points, depth, panels, .. } = *sizes;
    let rows = panels * depth;
    let mut weights = Scratch::new(points * (rows + GAP) * PANEL);
    let mut tasks: Vec<Vec<_>> = (0..rows.div_ceil(WEIGHT_ROWS)).map(|_| Vec::with_capacity(points)).collect();
    for point in weights.as_chunks_mut::<PANEL>().0.chunks_mut(rows + GAP) {
        for (task, rows) in tasks.iter_mut().zip(point[..rows].chunks_mut(WEIGHT_ROWS)) {
            task.push(rows);
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(task, points)| {
        let (arch, first) = (Arch::new(), task * WEIGHT_ROWS);
        match operands {
            Operands::Full => arch.dispatch(TransformWeights { kernels, dims, depth, first, points }),
            Operands::Halves => make_pairs(PairWeights { kernels, dims, depth, first, points }),
        }
    });
    weights
}

/// The gradient `[channels_out, channels_in, 3, 3]`.
pub(super) fn weight_gradient(operands: Operands, dims: &Dims, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (x, dy) = (dims.input(x), dims.output(dy));
    let Sizes { tiles, points, panels, .. } = &Sizes::new(operands, dims);
    let (points, panels) = (*points, *panels);
    // A product over tiles: pairs are of halves of a tile, so channels are numbers.
    let (depth, room) = (x.blocks() * LANES, tiles.room());
    let (data_point, outputs_point) = (room * depth + GAP * PANEL, panels * room + GAP);
    let (data_size, outputs_size) = (points * data_point, points * outputs_point * PANEL);
    let tasks = tiles.tasks();
    // How sums are grouped follows from sizes alone, not from where in memory they lie.
    let tasks_at_a_time = (KEPT_VALUES / (points * room * (depth + panels * PANEL))).clamp(1, tasks);

    let gradients_point = panels * depth + GAP;
    let mut gradients = Scratch::new(points * gradients_point * PANEL);
    let mut data = Scratch::new(tasks_at_a_time * data_size);
    let mut outputs = Scratch::new(tasks_at_a_time * outputs_size);
    for first in (0..tasks).step_by(tasks_at_a_time) {
        let present = tasks_at_a_time.min(tasks - first);
        let (data, outputs) = (&mut data[..present * data_size], &mut outputs[..present * outputs_size]);
        data.par_chunks_mut(data_size).zip(outputs.par_chunks_mut(outputs_size)).enumerate().for_each(
            |(task, (data, outputs))| {
                let (arch, task) = (Arch::new(), first + task);
                let mut frame = Scratch::new(tiles.frame_len() * LANES);
                let frame = frame.as_chunks_mut::<LANES>().0;
                let (data, outputs) = (data.as_chunks_mut::<LANES>().0, outputs.as_chunks_mut::<PANEL>().0);
                match operands {
                    Operands::Full => {
                        arch.dispatch(TransformInput { tiles, x, task, frame, data });
                        arch.dispatch(TransformGradient { tiles, dy, task, frame, outputs });
                    }
                    Operands::Halves => {
                        let (pairing, frames) = (Pairing::Parts, [&mut *frame, &mut []]);
                        make_pairs(PairInput { tiles, x, task, pairing, frames, data });
                        make_pairs(PairGradient { tiles, dy, task, frame, outputs });
                    }
                }
            },
        );
        let previous = if first == 0 { Previous::Discard } else { Previous::Keep };
        // Each point is the sum over all tiles of one task.
        gradients.par_chunks_mut(gradients_point * PANEL).enumerate().for_each(|(point, gradients)| {
            let data: Vec<&[f32]> =
                data.chunks_exact(data_size).map(|data| &data[point * data_point..][..room * depth]).collect();
            let gradients = gradients.as_chunks_mut::<PANEL>().0;
            for (panel, gradients) in gradients[..panels * depth].chunks_exact_mut(depth).enumerate() {
                let first = point * outputs_point + panel * room;
                let outputs: Vec<&[Row]> = outputs
                    .chunks_exact(outputs_size)
                    .map(|outputs| &outputs.as_chunks::<PANEL>().0[first..first + room])
                    .collect();
                accumulate(operands, &data, &outputs, gradients, previous);
            }
        });
    }

    from_points(operands, dims, gradients.as_chunks().0, depth)
}

/// The gradient of the weight, of that of its transforms `[points, panels, depth, PANEL]`.
fn from_points(operands: Operands, dims: &Dims, gradients: &[Row], depth: usize) -> Vec<f32> {
    let channels_in = dims.channels_in;
    written(dims.channels_out * channels_in * 9, |weight| {
        weight.par_chunks(PANEL * channels_in * 9).enumerate().for_each(|(panel, weight)| {
            let (arch, weight) = (Arch::new(), weight.cleared());
            dispatch(arch, operands, InverseWeights { gradients, panel, depth, channels_in, weight });
        });
    })
}
