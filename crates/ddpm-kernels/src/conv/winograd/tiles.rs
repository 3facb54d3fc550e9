//! From pictures, gradients and weights to their transforms and back.

use std::array::from_fn;
use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::super::frame::{LANES, Lanes, Pictures, transposed};
use super::super::kernel::Dims;
use super::transforms::{
    HALF_POINTS, Maps, POINTS, from_3x3_to_6x6, from_4x4_to_6x6, from_6x4_to_3x3, from_6x4_to_4x2, from_6x6_to_3x3,
    from_6x6_to_4x4, from_6x6_to_6x6,
};
use crate::output::Unset;
use crate::product::{Operands, PANEL, ROWS, Row};

/// Width of a tile of the output.
pub(super) const TILE: usize = 4;

/// Tiles of a task, at most: so many have room in the second cache. Fewer only where a row of tiles is longer.
const TASK_TILES: usize = 32;

/// Tasks that there should be at least.
const TASKS: usize = 8;

/// Where the tiles of a batch lie, and how they are divided into tasks of whole rows of tiles; depends on shapes only.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    across: usize,
    down: usize,
    images: usize,
    rows_per_task: usize,
}

impl Tiles {
    pub(super) fn new(dims: &Dims) -> Self {
        let (down, across) = (dims.height.div_ceil(TILE), dims.width.div_ceil(TILE));
        let images = dims.batch;
        let tiles = (images * down * across).div_ceil(TASKS).next_multiple_of(ROWS).min(TASK_TILES);
        Self { across, down, images, rows_per_task: (tiles / across).max(1) }
    }

    pub(super) fn tasks(&self) -> usize {
        (self.images * self.down).div_ceil(self.rows_per_task)
    }

    /// The images of a task, where these are whole ones.
    pub(super) fn images_of_task(&self) -> Option<usize> {
        self.rows_per_task.is_multiple_of(self.down).then(|| self.rows_per_task / self.down)
    }

    /// The tiles of a task.
    pub(super) fn of_task(&self, task: usize) -> Range<usize> {
        let first = task * self.rows_per_task;
        let last = (first + self.rows_per_task).min(self.images * self.down);
        first * self.across..last * self.across
    }

    /// Room for the tiles of a task, in whole blocks of the product.
    pub(super) fn room(&self) -> usize {
        (self.rows_per_task * self.across).next_multiple_of(ROWS)
    }

    /// Image, row and column of a tile, the latter two in tiles.
    pub(super) fn place(&self, tile: usize) -> (usize, usize, usize) {
        let row = tile / self.across;
        (row / self.down, row % self.down, tile % self.across)
    }

    /// The rows of tiles of a task, image by image.
    fn parts(&self, task: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let down = self.down;
        let first = task * self.rows_per_task;
        let last = (first + self.rows_per_task).min(self.images * down);
        (first / down..last.div_ceil(down)).map(move |image| {
            let of_image = image * down;
            (image, first.max(of_image) - of_image..last.min(of_image + down) - of_image)
        })
    }

    /// Pixels of a line of a frame: a row of tiles with their neighbours.
    pub(super) fn frame_columns(&self) -> usize {
        TILE * self.across + 2
    }

    /// Pixels of the frame of a task, at most.
    pub(super) fn frame_len(&self) -> usize {
        let images = (self.rows_per_task - 1).div_ceil(self.down) + 1;
        (TILE * self.rows_per_task + 2 * images) * self.frame_columns()
    }

    /// Writes the pixels of the tiles of a task and their neighbours, of a block of channels.
    #[inline(always)]
    pub(super) fn lay_out(&self, x: &Pictures, task: usize, block: usize, mut frame: &mut [Lanes]) {
        let columns = self.frame_columns();
        for (image, rows) in self.parts(task) {
            let (part, rest) = frame.split_at_mut((TILE * rows.len() + 2) * columns);
            x.lay_out(image, block, TILE * rows.start..TILE * rows.end, columns, part);
            frame = rest;
        }
    }

    /// Where each tile of a task begins in its frame, with its neighbours.
    pub(super) fn corners(&self, task: usize) -> impl Iterator<Item = usize> {
        let columns = self.frame_columns();
        // Lines before the rows of an image: those of the rows before, and two for each image.
        let rows = self.parts(task).scan(0, |lines, (_, rows)| {
            let first = *lines;
            *lines += TILE * rows.len() + 2;
            Some((first..first + TILE * rows.len()).step_by(TILE))
        });
        rows.flatten().flat_map(move |line| (0..self.across).map(move |tile| line * columns + TILE * tile))
    }

    /// The first of each so many tiles of a row, which begins with `first`.
    fn groups(&self, first: usize, of: usize) -> impl Iterator<Item = usize> {
        (first..first + self.across).step_by(of)
    }

    /// Divides a tensor `[batch, channels, height, width]` into what belongs to each task: for each of its images, and
    /// for each channel, some lines.
    pub(super) fn split<'a>(&self, dims: &Dims, y: Unset<'a>) -> Vec<Vec<Unset<'a>>> {
        let (channels, plane) = (dims.channels_out, dims.height * dims.width);
        let images = self.rows_per_task.div_ceil(self.down) + 1;
        let mut tasks: Vec<_> = (0..self.tasks()).map(|_| Vec::with_capacity(images * channels)).collect();
        for (image, y) in y.chunks(channels * plane).enumerate() {
            let before = image * self.down;
            for mut rest in y.chunks(plane) {
                let mut row = 0;
                while row < self.down {
                    let task = (before + row) / self.rows_per_task;
                    let end = ((task + 1) * self.rows_per_task - before).min(self.down);
                    let lines = dims.height.min(end * TILE) - row * TILE;
                    let (part, others) = rest.split_at(lines * dims.width);
                    tasks[task].push(part);
                    rest = others;
                    row = end;
                }
            }
        }
        tasks
    }
}

/// How transformed tiles become pixels and weights again.
pub(super) trait Form {
    /// Values of a transformed part of a tile.
    const POINTS: usize;
    /// Parts of a tile, side by side.
    const PARTS: usize;

    /// Reads `load(part, point)`, writes the 4x4 pixels of a tile.
    fn output<S: Simd>(maps: Maps<S>, load: impl Fn(usize, usize) -> S::f32s + Copy, store: impl FnMut(usize, S::f32s));

    /// From the gradient of a transformed weight, `load(point)`, to that of the weight.
    fn kernel_gradient<S: Simd>(maps: Maps<S>, load: impl Fn(usize) -> S::f32s, store: impl FnMut(usize, S::f32s));
}

/// A job on tiles of a form.
pub(super) struct In<F, J> {
    form: PhantomData<F>,
    job: J,
}

/// Does a job on tiles of the form that these operands need.
pub(super) fn dispatch<J>(arch: Arch, operands: Operands, job: J)
where
    In<Whole, J>: WithSimd<Output = ()>,
    In<Halved, J>: WithSimd<Output = ()>,
{
    match operands {
        Operands::Full => arch.dispatch(In::<Whole, J> { form: PhantomData, job }),
        Operands::Halves => arch.dispatch(In::<Halved, J> { form: PhantomData, job }),
    }
}

/// F(4x4, 3x3)
pub(super) struct Whole;

impl Form for Whole {
    const POINTS: usize = POINTS;
    const PARTS: usize = 1;

    #[inline(always)]
    fn output<S: Simd>(
        maps: Maps<S>,
        load: impl Fn(usize, usize) -> S::f32s + Copy,
        store: impl FnMut(usize, S::f32s),
    ) {
        from_6x6_to_4x4(
            #[inline(always)]
            |m| maps.output(m),
            #[inline(always)]
            |m| maps.output(m),
            #[inline(always)]
            |row, column| load(0, row * 6 + column),
            store,
        );
    }

    #[inline(always)]
    fn kernel_gradient<S: Simd>(maps: Maps<S>, load: impl Fn(usize) -> S::f32s, store: impl FnMut(usize, S::f32s)) {
        from_6x6_to_3x3(
            #[inline(always)]
            |u| maps.kernel_gradient(u),
            #[inline(always)]
            |u| maps.kernel_gradient(u),
            #[inline(always)]
            |row, column| load(row * 6 + column),
            store,
        );
    }
}

/// F(4x2, 3x3), a tile being two of these
pub(super) struct Halved;

impl Form for Halved {
    const POINTS: usize = HALF_POINTS;
    const PARTS: usize = 2;

    #[inline(always)]
    fn output<S: Simd>(
        maps: Maps<S>,
        load: impl Fn(usize, usize) -> S::f32s + Copy,
        mut store: impl FnMut(usize, S::f32s),
    ) {
        for part in 0..2 {
            from_6x4_to_4x2(
                #[inline(always)]
                |m| maps.output(m),
                #[inline(always)]
                |m| maps.output_2(m),
                #[inline(always)]
                |row, column| load(part, row * 4 + column),
                #[inline(always)]
                |pixel, value| store(pixel / 2 * TILE + 2 * part + pixel % 2, value),
            );
        }
    }

    #[inline(always)]
    fn kernel_gradient<S: Simd>(maps: Maps<S>, load: impl Fn(usize) -> S::f32s, store: impl FnMut(usize, S::f32s)) {
        from_6x4_to_3x3(
            #[inline(always)]
            |u| maps.kernel_gradient(u),
            #[inline(always)]
            |u| maps.kernel_gradient_2(u),
            #[inline(always)]
            |row, column| load(row * 4 + column),
            store,
        );
    }
}

#[inline(always)]
pub(super) fn vector<S: Simd>(lanes: &[f32], index: usize) -> S::f32s {
    S::as_simd_f32s(lanes).0[index]
}

#[inline(always)]
pub(super) fn put<S: Simd>(lanes: &mut [f32], index: usize, value: S::f32s) {
    S::as_mut_simd_f32s(lanes).0[index] = value;
}

/// `N` lines of `N` pixels from `first` on.
#[inline(always)]
pub(super) fn window<const N: usize>(pixels: &[Lanes], columns: usize, first: usize) -> [&[Lanes]; N] {
    from_fn(|row| &pixels[first + row * columns..][..N])
}

/// Writes the transformed tiles of a task, `[POINTS, room, channel blocks]`; what is left of the room is zero.
pub(super) struct TransformInput<'a> {
    pub(super) tiles: &'a Tiles,
    pub(super) x: Pictures<'a>,
    pub(super) task: usize,
    pub(super) frame: &'a mut [Lanes],
    pub(super) data: &'a mut [Lanes],
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiles, x, task, frame, data } = self;
        let (present, room, columns) = (tiles.of_task(task).len(), tiles.room(), tiles.frame_columns());
        let (maps, blocks, point_size) = (Maps(simd), x.blocks(), data.len() / POINTS);
        for point in data.chunks_exact_mut(point_size) {
            point[present * blocks..room * blocks].fill([0.0; LANES]);
        }
        for block in 0..blocks {
            tiles.lay_out(&x, task, block, frame);
            for (i, corner) in tiles.corners(task).enumerate() {
                let window = window::<6>(frame, columns, corner);
                for v in 0..LANES / S::F32_LANES {
                    from_6x6_to_6x6(
                        #[inline(always)]
                        |d| maps.data(d),
                        #[inline(always)]
                        |d| maps.data(d),
                        #[inline(always)]
                        |row, column| vector::<S>(&window[row][column], v),
                        #[inline(always)]
                        |point, value| put::<S>(&mut data[point * point_size + i * blocks + block], v, value),
                    );
                }
            }
        }
    }
}

/// Writes the transformed gradients of the tiles of a task, `[POINTS, panels, room]`; what is left of the room is zero.
pub(super) struct TransformGradient<'a> {
    pub(super) tiles: &'a Tiles,
    pub(super) dy: Pictures<'a>,
    pub(super) task: usize,
    pub(super) frame: &'a mut [Lanes],
    pub(super) outputs: &'a mut [Row],
}

impl WithSimd for TransformGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiles, dy, task, frame, outputs } = self;
        let (present, room, columns) = (tiles.of_task(task).len(), tiles.room(), tiles.frame_columns());
        let (maps, point_size) = (Maps(simd), outputs.len() / POINTS);
        let panels = point_size / room;
        for panel in outputs.chunks_exact_mut(point_size).flat_map(|point| point.chunks_exact_mut(room)) {
            panel[present..].fill([0.0; PANEL]);
        }
        for block in 0..panels * PANEL / LANES {
            let (panel, place) = (block * LANES / PANEL, block * LANES % PANEL / S::F32_LANES);
            if block >= dy.blocks() {
                // Half of a panel that no channel fills.
                for point in outputs.chunks_exact_mut(point_size) {
                    point[panel * room..][..present].iter_mut().for_each(|row| row[PANEL - LANES..].fill(0.0));
                }
                continue;
            }
            tiles.lay_out(&dy, task, block, frame);
            for (i, corner) in tiles.corners(task).enumerate() {
                let window = window::<4>(frame, columns, corner + columns + 1);
                for v in 0..LANES / S::F32_LANES {
                    from_4x4_to_6x6(
                        #[inline(always)]
                        |y| maps.output_gradient(y),
                        #[inline(always)]
                        |y| maps.output_gradient(y),
                        #[inline(always)]
                        |row, column| vector::<S>(&window[row][column], v),
                        #[inline(always)]
                        |point, value| {
                            put::<S>(&mut outputs[point * point_size + panel * room + i], place + v, value);
                        },
                    );
                }
            }
        }
    }
}

/// Writes the pixels of the tiles of a task for a panel of channels.
pub(super) struct Inverse<'a, 'b> {
    pub(super) tiles: &'a Tiles,
    pub(super) dims: &'a Dims,
    pub(super) task: usize,
    pub(super) panel: usize,
    /// `[points, room, parts]`
    pub(super) products: &'a [Row],
    pub(super) bias: Option<&'a [f32]>,
    /// As [`Tiles::split`] has them.
    pub(super) lines: &'a mut [&'b mut [f32]],
}

impl<F: Form> WithSimd for In<F, Inverse<'_, '_>> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Inverse { tiles, dims, task, panel, products, bias, lines } = self.job;
        let (range, point_size) = (tiles.of_task(task), products.len() / F::POINTS);
        let (channels, width) = (dims.channels_out, dims.width);
        let maps = Maps(simd);
        let (first_image, first_row, _) = tiles.place(range.start);
        // As many tiles side by side as make whole lines of the cache: the same line is not written again and again.
        let group = if tiles.across > 2 { 4 } else { tiles.across };
        let mut pixels = [[0.0; LANES]; 4 * TILE * TILE];
        for first_channel in (panel * PANEL..channels.min((panel + 1) * PANEL)).step_by(LANES) {
            let present = LANES.min(channels - first_channel);
            let mut of_lanes: Lanes = [0.0; LANES];
            if let Some(bias) = bias {
                of_lanes[..present].copy_from_slice(&bias[first_channel..first_channel + present]);
            }
            let place = first_channel % PANEL / S::F32_LANES;
            for first in range.clone().step_by(tiles.across).flat_map(|row| tiles.groups(row, group)) {
                let (image, row, column) = tiles.place(first);
                for i in 0..group.min(tiles.across - column) {
                    let start = (first + i - range.start) * F::PARTS;
                    for v in 0..LANES / S::F32_LANES {
                        let bias = vector::<S>(&of_lanes, v);
                        F::output(
                            maps,
                            #[inline(always)]
                            |part, point| vector::<S>(&products[point * point_size + start + part], place + v),
                            #[inline(always)]
                            |pixel, value| {
                                let pixel = pixel / TILE * group * TILE + i * TILE + pixel % TILE;
                                put::<S>(&mut pixels[pixel], v, simd.add_f32s(value, bias));
                            },
                        );
                    }
                }
                let row = TILE * if image == first_image { row - first_row } else { row };
                let lines = &mut lines[(image - first_image) * channels + first_channel..][..present];
                for (i, pixels) in pixels.as_chunks::<LANES>().0.iter().take(group).enumerate() {
                    let row = row + i * TILE / group;
                    for (lines, values) in lines.iter_mut().zip(&transposed(*pixels)) {
                        if let Some(lines) = lines.get_mut(row * width..) {
                            put_lines(lines, width, TILE * column, group * TILE, values);
                        }
                    }
                }
            }
        }
    }
}

/// Writes rows of `columns` pixels, as far as they lie in `lines`, from a column on.
#[inline(always)]
fn put_lines(lines: &mut [f32], width: usize, column: usize, columns: usize, values: &Lanes) {
    let is_one_piece = columns == LANES && column + LANES <= width || columns == width;
    if is_one_piece && let Some(all) = lines.get_mut(column..).and_then(|lines| lines.first_chunk_mut()) {
        *all = *values;
        return;
    }
    let present = columns.min(width - column);
    for (line, values) in lines.chunks_mut(width).zip(values.chunks_exact(columns)) {
        line[column..column + present].copy_from_slice(&values[..present]);
    }
}

/// The weight `[channels_out, channels_in, 3, 3]` of a convolution, seen from the front or, for the gradient of its
/// input, turned by 180 degrees with its channels swapped.
#[derive(Clone, Copy)]
pub(super) struct Kernels<'a> {
    pub(super) weight: &'a [f32],
    pub(super) channels_in: usize,
    pub(super) turned: bool,
}

impl Kernels<'_> {
    /// The weight, beginning with the taps that lead from one channel to another.
    #[inline(always)]
    fn taps_on(&self, to: usize, from: usize) -> &[f32] {
        let (out, into) = if self.turned { (from, to) } else { (to, from) };
        &self.weight[9 * (out * self.channels_in + into)..]
    }

    /// The taps from one channel to [`LANES`] others from `first` on; zeros where there is none.
    #[inline(always)]
    pub(super) fn lanes(&self, dims: &Dims, first: usize, from: usize) -> [Lanes; 9] {
        let mut kernels = [[0.0; LANES]; LANES];
        if from < dims.channels_in {
            let present = LANES.min(dims.channels_out.saturating_sub(first));
            for (lane, kernel) in kernels.iter_mut().take(present).enumerate() {
                let taps = self.taps_on(first + lane, from);
                match taps.first_chunk::<LANES>() {
                    // With some of the next kernel, which is dropped below.
                    Some(taps) => *kernel = *taps,
                    None => kernel[..9].copy_from_slice(&taps[..9]),
                }
            }
        }
        let by_tap = transposed(kernels);
        let mut taps: [Lanes; 9] = from_fn(
            #[inline(always)]
            |tap| by_tap[tap],
        );
        if self.turned {
            taps.reverse();
        }
        taps
    }
}

/// Writes some rows of the transformed weights of every point.
pub(super) struct TransformWeights<'a, 'b> {
    pub(super) kernels: Kernels<'a>,
    pub(super) dims: &'a Dims,
    /// Input channels with those that fill the last block.
    pub(super) depth: usize,
    /// The first row, counted over panels and input channels.
    pub(super) first: usize,
    /// The rows, for every point.
    pub(super) points: Vec<&'b mut [Row]>,
}

impl WithSimd for TransformWeights<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kernels, dims, depth, first, mut points } = self;
        let maps = Maps(simd);
        for i in 0..points[0].len() {
            let (panel, from) = ((first + i) / depth, (first + i) % depth);
            for block in 0..PANEL / LANES {
                let first = panel * PANEL + block * LANES;
                let taps = kernels.lanes(dims, first, from);
                for v in 0..LANES / S::F32_LANES {
                    from_3x3_to_6x6(
                        #[inline(always)]
                        |g| maps.kernel(g),
                        #[inline(always)]
                        |g| maps.kernel(g),
                        #[inline(always)]
                        |row, column| vector::<S>(&taps[3 * row + column], v),
                        #[inline(always)]
                        |point, value| put::<S>(&mut points[point][i], block * LANES / S::F32_LANES + v, value),
                    );
                }
            }
        }
    }
}

/// From transformed gradients `[points, panels, depth]` to the lines of the weight of a panel of output channels,
/// `[channels_in, 3, 3]` each.
pub(super) struct InverseWeights<'a> {
    pub(super) gradients: &'a [Row],
    pub(super) panel: usize,
    pub(super) depth: usize,
    pub(super) channels_in: usize,
    pub(super) weight: &'a mut [f32],
}

impl<F: Form> WithSimd for In<F, InverseWeights<'_>> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let InverseWeights { gradients, panel, depth, channels_in, weight } = self.job;
        let (maps, point_size) = (Maps(simd), gradients.len() / F::POINTS);
        let mut taps = [[0.0; PANEL]; 9];
        for from in 0..channels_in {
            for v in 0..PANEL / S::F32_LANES {
                F::kernel_gradient(
                    maps,
                    #[inline(always)]
                    |point| vector::<S>(&gradients[point * point_size + panel * depth + from], v),
                    #[inline(always)]
                    |tap, value| put::<S>(&mut taps[tap], v, value),
                );
            }
            for (lane, weight) in weight.chunks_exact_mut(channels_in * 9).enumerate() {
                for (weight, tap) in weight[from * 9..][..9].iter_mut().zip(&taps) {
                    *weight = tap[lane];
                }
            }
        }
    }
}
