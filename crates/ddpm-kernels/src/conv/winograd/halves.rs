//! From pictures, gradients and weights to their transforms as pairs of bf16.

use pulp::Simd;

use super::super::frame::{Frame, LANES, Lanes};
use super::super::kernel::Dims;
use super::tiles::{Kernels, TILE, Tiles, put, vector, window};
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
    pub(super) x: &'a Frame,
    pub(super) task: usize,
    pub(super) pairing: Pairing,
    pub(super) data: &'a mut [Lanes],
}

impl PairJob for PairInput<'_> {
    #[inline(always)]
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
        let Self { tiles, x, task, pairing, data } = self;
        let (range, maps) = (tiles.of_task(task), Maps(simd));
        let point_size = data.len() / HALF_POINTS;
        let tile_size = point_size / tiles.room();
        for point in data.chunks_exact_mut(point_size) {
            point[range.len() * tile_size..].fill([0.0; LANES]);
        }
        let [mut first, mut second] = [[[[0.0; LANES]; HALF_POINTS]; PARTS]; 2];
        for (i, tile) in range.enumerate() {
            let (image, row, column) = tiles.place(tile);
            let corner = TILE * (row * x.columns + column);
            match pairing {
                Pairing::Channels => {
                    let blocks = tile_size / PARTS;
                    for block in 0..blocks {
                        transform_input(maps, window(x.block(image, 2 * block), x.columns, corner), &mut first);
                        match 2 * block + 1 < x.blocks {
                            true => transform_input(
                                maps,
                                window(x.block(image, 2 * block + 1), x.columns, corner),
                                &mut second,
                            ),
                            false => second = [[[0.0; LANES]; HALF_POINTS]; PARTS],
                        }
                        for part in 0..PARTS {
                            for point in 0..HALF_POINTS {
                                let place = point * point_size + (i * PARTS + part) * blocks + block;
                                pairs.write(simd, &first[part][point], &second[part][point], &mut data[place]);
                            }
                        }
                    }
                }
                Pairing::Parts => {
                    for block in 0..x.blocks {
                        transform_input(maps, window(x.block(image, block), x.columns, corner), &mut first);
                        for (point, (left, right)) in first[0].iter().zip(&first[1]).enumerate() {
                            pairs.write(simd, left, right, &mut data[point * point_size + i * x.blocks + block]);
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
    pub(super) dy: &'a Frame,
    pub(super) task: usize,
    pub(super) outputs: &'a mut [Row],
}

impl PairJob for PairGradient<'_> {
    #[inline(always)]
    fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
        let Self { tiles, dy, task, outputs } = self;
        let (range, room, maps) = (tiles.of_task(task), tiles.room(), Maps(simd));
        let panels = outputs.len() / (HALF_POINTS * room);
        for panel in outputs.chunks_exact_mut(room) {
            panel[range.len()..].fill([0.0; PANEL]);
        }
        let mut halves: Halves = [[[0.0; LANES]; HALF_POINTS]; PARTS];
        for (i, tile) in range.enumerate() {
            let (image, row, column) = tiles.place(tile);
            let corner = (TILE * row + 1) * dy.columns + TILE * column + 1;
            for block in 0..panels * PANEL / LANES {
                let (panel, place) = (block * LANES / PANEL, block * LANES % PANEL);
                match block < dy.blocks {
                    true => {
                        let window = window::<4>(dy.block(image, block), dy.columns, corner);
                        transform_gradient(maps, window, &mut halves);
                    }
                    // Half of a panel that no channel fills.
                    false => halves = [[[0.0; LANES]; HALF_POINTS]; PARTS],
                }
                for point in 0..HALF_POINTS {
                    let row = &mut outputs[(point * panels + panel) * room + i][place..place + LANES];
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
