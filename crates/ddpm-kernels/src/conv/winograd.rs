//! The 3x3 convolution by Winograd's algorithm: a quarter of the multiplications.
//!
//! The picture is cut into tiles of 4x4 output pixels. Each tile, with its neighbours, becomes 36 values per
//! channel (`transforms.rs`), and for each of the 36 the convolution is one matrix product over the channels
//! (`product.rs`). Channels lie innermost, so that no product needs its operands rearranged.

mod product;
mod tiles;
mod transforms;

use pulp::Arch;
use rayon::prelude::*;

use super::frame::{Frame, LANES};
use super::kernel::Dims;
use crate::output::{Unset, written};
use crate::scratch::Scratch;
use product::{PANEL, Previous, Row, accumulate, multiply};
use tiles::{Inverse, InverseWeights, Kernels, TILE, Tiles, TransformGradient, TransformInput, TransformWeights};
use transforms::POINTS;

/// Pictures of fewer tiles than this are not worth the transformed weights.
const FEWEST_TILES: usize = 4;

/// Fewer channels than this are not worth the transformed tiles.
const FEWEST_CHANNELS: usize = 16;

/// Transformed values that are kept at a time for the gradient of the weight.
const KEPT_VALUES: usize = 1 << 21;

/// Rows of transformed weights that a task makes.
const WEIGHT_ROWS: usize = 16;

/// Whether this way is the faster one for a convolution. The batch has no say: a picture must come out the same, to the
/// last bit, whatever else is in its batch.
pub(super) fn is_worthwhile(dims: &Dims) -> bool {
    let tiles = dims.height.div_ceil(TILE) * dims.width.div_ceil(TILE);
    dims.kernel_width == 3
        && tiles >= FEWEST_TILES
        && dims.channels_in.min(dims.channels_out) >= FEWEST_CHANNELS
        // At the right and lower border tiles may be mostly empty.
        && tiles * TILE * TILE <= 2 * dims.height * dims.width
}

/// The output `[batch, channels_out, height, width]`.
pub(super) fn forward(dims: &Dims, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let kernels = Kernels { weight, channels_in: dims.channels_in, turned: false };
    convolve(dims, &input_frame(dims, x), kernels, Some(bias))
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
    let kernels = Kernels { weight, channels_in: dims.channels_in, turned: true };
    convolve(&dims.swapped(), dy, kernels, None)
}

fn convolve(dims: &Dims, x: &Frame, kernels: Kernels, bias: Option<&[f32]>) -> Vec<f32> {
    let tiles = Tiles::new(dims);
    let (depth, room, panels) = (x.blocks * LANES, tiles.room(), dims.channels_out.div_ceil(PANEL));
    let weights = weights(dims, depth, kernels);
    let (weights, _) = weights.as_chunks::<PANEL>();

    let convolve = |(task, lines): (usize, Vec<Unset>)| {
        let mut lines: Vec<_> = lines.into_iter().map(Unset::cleared).collect();
        let mut data = Scratch::new(POINTS * room * depth);
        let mut products = Scratch::new(POINTS * room * PANEL);
        let (products, _) = products.as_chunks_mut::<PANEL>();
        let arch = Arch::new();
        let (lanes, _) = data.as_chunks_mut::<LANES>();
        arch.dispatch(TransformInput { tiles: &tiles, x, task, data: lanes });
        for panel in 0..panels {
            let points = data.chunks_exact(room * depth).zip(products.chunks_exact_mut(room)).enumerate();
            for (point, (data, products)) in points {
                multiply(data, &weights[(point * panels + panel) * depth..][..depth], products);
            }
            arch.dispatch(Inverse { tiles: &tiles, dims, task, panel, products, bias, lines: &mut lines });
        }
    };
    written(dims.batch * dims.channels_out * dims.height * dims.width, |y| {
        tiles.split(dims, y).into_par_iter().enumerate().for_each(convolve);
    })
}

/// Transformed weights `[POINTS, panels, depth, PANEL]`.
fn weights(dims: &Dims, depth: usize, kernels: Kernels) -> Scratch {
    let rows = dims.channels_out.div_ceil(PANEL) * depth;
    let mut weights = Scratch::new(POINTS * rows * PANEL);
    let mut tasks: Vec<Vec<_>> = (0..rows.div_ceil(WEIGHT_ROWS)).map(|_| Vec::with_capacity(POINTS)).collect();
    for point in weights.as_chunks_mut::<PANEL>().0.chunks_mut(rows) {
        for (task, rows) in tasks.iter_mut().zip(point.chunks_mut(WEIGHT_ROWS)) {
            task.push(rows);
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(task, points)| {
        Arch::new().dispatch(TransformWeights { kernels, dims, depth, first: task * WEIGHT_ROWS, points });
    });
    weights
}

/// The gradient `[channels_out, channels_in, 3, 3]`.
pub(super) fn weight_gradient(dims: &Dims, x: &[f32], dy: &Frame) -> Vec<f32> {
    let x = &input_frame(dims, x);
    let tiles = Tiles::new(dims);
    let (depth, room, panels) = (x.blocks * LANES, tiles.room(), dims.channels_out.div_ceil(PANEL));
    let (data_size, outputs_size) = (POINTS * room * depth, POINTS * panels * room * PANEL);
    let tasks = tiles.tasks();
    let tasks_at_a_time = (KEPT_VALUES / (data_size + outputs_size)).clamp(1, tasks);

    let mut gradients = Scratch::new(POINTS * panels * depth * PANEL);
    let mut data = Scratch::new(tasks_at_a_time * data_size);
    let mut outputs = Scratch::new(tasks_at_a_time * outputs_size);
    for first in (0..tasks).step_by(tasks_at_a_time) {
        let present = tasks_at_a_time.min(tasks - first);
        let (data, outputs) = (&mut data[..present * data_size], &mut outputs[..present * outputs_size]);
        data.par_chunks_mut(data_size).zip(outputs.par_chunks_mut(outputs_size)).enumerate().for_each(
            |(task, (data, outputs))| {
                let (arch, task) = (Arch::new(), first + task);
                let (data, outputs) = (data.as_chunks_mut::<LANES>().0, outputs.as_chunks_mut::<PANEL>().0);
                arch.dispatch(TransformInput { tiles: &tiles, x, task, data });
                arch.dispatch(TransformGradient { tiles: &tiles, dy, task, outputs });
            },
        );
        let previous = if first == 0 { Previous::Discard } else { Previous::Keep };
        // Each point is the sum over all tiles of one task.
        gradients.par_chunks_mut(panels * depth * PANEL).enumerate().for_each(|(point, gradients)| {
            let data: Vec<&[f32]> =
                data.chunks_exact(data_size).map(|data| &data[point * room * depth..][..room * depth]).collect();
            let gradients = gradients.as_chunks_mut::<PANEL>().0;
            for (panel, gradients) in gradients.chunks_exact_mut(depth).enumerate() {
                let first = (point * panels + panel) * room;
                let outputs: Vec<&[Row]> = outputs
                    .chunks_exact(outputs_size)
                    .map(|outputs| &outputs.as_chunks::<PANEL>().0[first..first + room])
                    .collect();
                accumulate(&data, &outputs, gradients, previous);
            }
        });
    }

    let (gradients, _) = gradients.as_chunks::<PANEL>();
    let channels_in = dims.channels_in;
    written(dims.channels_out * channels_in * 9, |weight| {
        weight.par_chunks(PANEL * channels_in * 9).enumerate().for_each(|(panel, weight)| {
            let weight = weight.cleared();
            Arch::new().dispatch(InverseWeights { gradients, panels, panel, depth, channels_in, weight });
        });
    })
}
