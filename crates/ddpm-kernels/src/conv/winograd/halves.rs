//! From pictures, gradients and weights to their transforms as pairs of bf16.

use pulp::Simd;

use super::super::frame::{LANES, Lanes, Pictures};
use super::super::kernel::Dims;
use super::tiles::{Kernels, Tiles, put, vector, window};
use super::transforms::{HALF_POINTS, Maps, from_3x3_to_6x4, from_4x2_to_6x4, from_6x4_to_6x4};
use crate::bf16::Pairs;
use crate::product::{PANEL, PairJob, Row};

/// Halves of a tile, side by side.
const PARTS: usize = 2;

/// Both halves of a transformed tile.
type Halves = [[Lanes; HALF_POINTS]; PARTS];

/// Which two values become a pair.
#[derive(Clone, Copy)]
pub(super) enum Pairing {
    /// Of two blocks of channels: a product sums over channels.
    Channels,
    /// Of both halves of a tile: a product sums over tiles.
    Parts,
}

/// Writes the transformed tiles of a task: `[points, room, 2, pairs of channel blocks]`, or `[points, room, channel
/// blocks]`; what is left of the room is zero.
pub(super) struct PairInput<'a> {
    pub(super) tiles: &'a Tiles,
    pub(super) x: Pictures<'a>,
    pub(super) task: usize,
    pub(super) pairing: Pairing,
    /// Of two blocks of channels.
    pub(super) frames: [&'a mut [Lanes]; 2],
    pub(super) data: &'a mut [Lanes],
}

impl PairJob for PairInput<'_> {
    #[inline(always)]
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
        let Self { tiles, x, task, pairing, frames: [left, right], data } = self;
        let (present, columns, maps) = (tiles.of_task(task).len(), tiles.frame_columns(), Maps(simd));
        let point_size = data.len() / HALF_POINTS;
        let tile_size = point_size / tiles.room();
        for point in data.chunks_exact_mut(point_size) {
            point[present * tile_size..].fill([0.0; LANES]);
        }
        let [mut first, mut second] = [[[[0.0; LANES]; HALF_POINTS]; PARTS]; 2];
        match pairing {
            Pairing::Channels => {
                let blocks = tile_size / PARTS;
                for block in 0..blocks {
                    let is_pair = 2 * block + 1 < x.blocks();
                    tiles.lay_out(&x, task, 2 * block, left);
                    match is_pair {
                        true => tiles.lay_out(&x, task, 2 * block + 1, right),
                        false => second = [[[0.0; LANES]; HALF_POINTS]; PARTS],
                    }
                    for (i, corner) in tiles.corners(task).enumerate() {
                        transform_input(maps, window(left, columns, corner), &mut first);
                        if is_pair {
                            transform_input(maps, window(right, columns, corner), &mut second);
                        }
                        for part in 0..PARTS {
                            for point in 0..HALF_POINTS {
                                let place = point * point_size + (i * PARTS + part) * blocks + block;
                                pairs.write(simd, &first[part][point], &second[part][point], &mut data[place]);
                            }
                        }
                    }
                }
            }
            Pairing::Parts => {
                let blocks = x.blocks();
                for block in 0..blocks {
                    tiles.lay_out(&x, task, block, left);
                    for (i, corner) in tiles.corners(task).enumerate() {
                        transform_input(maps, window(left, columns, corner), &mut first);
                        for (point, (left, right)) in first[0].iter().zip(&first[1]).enumerate() {
                            pairs.write(simd, left, right, &mut data[point * point_size + i * blocks + block]);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn transform_input<S: Simd>(maps: Maps<S>, window: [&[Lanes]; 6], halves: &mut Halves) {
    for (part, half) in halves.iter_mut().enumerate() {
        for v in 0..LANES / S::F32_LANES {
            from_6x4_to_6x4(
                #[inline(always)]
                |d| maps.data(d),
                #[inline(always)]
                |d| maps.data_2(d),
                #[inline(always)]
                |row, column| vector::<S>(&window[row][2 * part + column], v),
                #[inline(always)]
                |point, value| put::<S>(&mut half[point], v, value),
            );
        }
    }
}

/// Writes the transformed gradients of the tiles of a task, `[points, panels, room]`; what is left of the room is zero.
pub(super) struct PairGradient<'a> {
    pub(super) tiles: &'a Tiles,
    pub(super) dy: Pictures<'a>,
    pub(super) task: usize,
    pub(super) frame: &'a mut [Lanes],
    pub(super) outputs: &'a mut [Row],
}

impl PairJob for PairGradient<'_> {
    #[inline(always)]
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
        let Self { tiles, dy, task, frame, outputs } = self;
        let (present, room, columns, maps) =
            (tiles.of_task(task).len(), tiles.room(), tiles.frame_columns(), Maps(simd));
        let point_size = outputs.len() / HALF_POINTS;
        let panels = point_size / room;
        for panel in outputs.chunks_exact_mut(point_size).flat_map(|point| point.chunks_exact_mut(room)) {
            panel[present..].fill([0.0; PANEL]);
        }
        let mut halves: Halves = [[[0.0; LANES]; HALF_POINTS]; PARTS];
        for block in 0..panels * PANEL / LANES {
            let (panel, place) = (block * LANES / PANEL, block * LANES % PANEL);
            let is_there = block < dy.blocks();
            match is_there {
                true => tiles.lay_out(&dy, task, block, frame),
                // Half of a panel that no channel fills.
                false => halves = [[[0.0; LANES]; HALF_POINTS]; PARTS],
            }
            for (i, corner) in tiles.corners(task).enumerate() {
                if is_there {
                    transform_gradient(maps, window(frame, columns, corner + columns + 1), &mut halves);
                }
                for point in 0..HALF_POINTS {
                    let row = &mut outputs[point * point_size + panel * room + i][place..place + LANES];
                    pairs.write(simd, &halves[0][point], &halves[1][point], row);
                }
            }
        }
    }
}

#[inline(always)]
fn transform_gradient<S: Simd>(maps: Maps<S>, window: [&[Lanes]; 4], halves: &mut Halves) {
    for (part, half) in halves.iter_mut().enumerate() {
        for v in 0..LANES / S::F32_LANES {
            from_4x2_to_6x4(
                #[inline(always)]
                |y| maps.output_gradient(y),
                #[inline(always)]
                |y| maps.output_gradient_2(y),
                #[inline(always)]
                |row, column| vector::<S>(&window[row][2 * part + column], v),
                #[inline(always)]
                |point, value| put::<S>(&mut half[point], v, value),
            );
        }
    }
}

/// Writes some rows of the transformed weights of every point, as pairs of the channels that [`Pairing::Channels`] pairs.
pub(super) struct PairWeights<'a, 'b> {
    pub(super) kernels: Kernels<'a>,
    pub(super) dims: &'a Dims,
    /// Pairs of input channels.
    pub(super) depth: usize,
    /// The first row, counted over panels and pairs.
    pub(super) first: usize,
    /// The rows, for every point.
    pub(super) points: Vec<&'b mut [Row]>,
}

impl PairJob for PairWeights<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
        let Self { kernels, dims, depth, first, mut points } = self;
        let maps = Maps(simd);
        for i in 0..points[0].len() {
            let (panel, from) = ((first + i) / depth, (first + i) % depth);
            let from = from / LANES * 2 * LANES + from % LANES;
            for place in (0..PANEL).step_by(LANES) {
                let to = panel * PANEL + place;
                let mut both = [[[0.0; LANES]; HALF_POINTS]; 2];
                for (transformed, from) in both.iter_mut().zip([from, from + LANES]) {
                    let taps = kernels.lanes(dims, to, from);
                    for v in 0..LANES / S::F32_LANES {
                        from_3x3_to_6x4(
                            #[inline(always)]
                            |g| maps.kernel(g),
                            #[inline(always)]
                            |g| maps.kernel_2(g),
                            #[inline(always)]
                            |row, column| vector::<S>(&taps[3 * row + column], v),
                            #[inline(always)]
                            |point, value| put::<S>(&mut transformed[point], v, value),
                        );
                    }
                }
                for (point, rows) in points.iter_mut().enumerate() {
                    pairs.write(simd, &both[0][point], &both[1][point], &mut rows[i][place..place + LANES]);
                }
            }
        }
    }
}
