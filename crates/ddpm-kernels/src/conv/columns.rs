//! From pixels to the columns of a matrix product ("im2col"), tile by tile.
//!
//! A tile is a run of pixels of one image, or several whole small images. Its columns are the matrix
//! `[channels * taps, pixels]` whose row `(channel, tap)` holds, for every pixel, the neighbour in that
//! direction, or 0 beyond the border. Rows and images lie in memory one after the other, so a neighbour
//! is the same distance away for all pixels of the tile: a row of the matrix is the tile, shifted, and
//! masked where the shift crosses a border. No width is special.

use std::ops::Range;

use super::gemm::Matrix;
use super::kernel::Dims;
use crate::output::Unset;
use crate::scratch::Scratch;
use crate::simd::{copy, vectorised};

/// Pixels of a tile, at most. Multiples of [`LEAST_PIXELS`] are best; 256 pixels and [`TILE_ROWS`] keep the
/// columns in the second cache.
const TILE_PIXELS: usize = 256;

/// Pixels of a tile, at least, if there are as many: what the gemm crate works on together.
const LEAST_PIXELS: usize = 64;

/// Tiles that there should be at least, a task for each.
const TILES: usize = 8;

/// Rows of the matrix that are built, and multiplied, at a time.
const TILE_ROWS: usize = 288;

/// The division of the input into tiles; depends on shapes only.
pub(super) struct Tiling {
    channels: usize,
    plane: usize,
    kernel_width: usize,
    /// Pixels beyond either end of a tile that its neighbours may lie in.
    margin: usize,
    /// Distance from a pixel to its neighbour plus `margin`, for each tap.
    shifts: Vec<usize>,
    /// All ones where the neighbour exists, for each tap and pixel of an image or a group of images.
    masks: Vec<u32>,
    mask_pixels: usize,
    kind: Kind,
    batch: usize,
    /// Pixels of a tile of which an image is several.
    part: usize,
}

enum Kind {
    /// Each tile holds this many whole images (the last may hold fewer).
    Images(usize),
    /// Each image is this many tiles.
    Parts(usize),
}

/// Some pixels of `images`; all of them where there are several.
pub(super) struct Tile {
    pub(super) images: Range<usize>,
    /// In each image.
    pub(super) pixels: Range<usize>,
}

impl Tile {
    pub(super) fn len(&self) -> usize {
        self.images.len() * self.pixels.len()
    }
}

impl Tiling {
    pub(super) fn new(dims: &Dims) -> Self {
        let Dims { batch, height, width, kernel_width, .. } = *dims;
        let plane = height * width;
        let part = (batch * plane).div_ceil(TILES).next_multiple_of(LEAST_PIXELS).min(TILE_PIXELS);
        let (kind, images) = if plane > part {
            (Kind::Parts(plane.div_ceil(part)), 1)
        } else {
            let images = part / plane;
            (Kind::Images(images), images.min(batch))
        };

        let reach = kernel_width / 2;
        let margin = reach * (width + 1);
        let mask_pixels = images * plane;
        let mut shifts = Vec::new();
        let mut masks = Vec::with_capacity(dims.taps() * mask_pixels);
        for tap_row in 0..kernel_width {
            for tap_column in 0..kernel_width {
                shifts.push(tap_row * width + tap_column);
                let first = masks.len();
                for row in 0..height {
                    let row_inside = (reach..height + reach).contains(&(row + tap_row));
                    masks.extend((0..width).map(|column| {
                        let inside = row_inside && (reach..width + reach).contains(&(column + tap_column));
                        if inside { u32::MAX } else { 0 }
                    }));
                }
                for _ in 1..images {
                    masks.extend_from_within(first..first + plane);
                }
            }
        }
        let channels = dims.channels_in;
        Self { channels, plane, kernel_width, margin, shifts, masks, mask_pixels, kind, batch, part }
    }

    /// The number of tiles.
    pub(super) fn len(&self) -> usize {
        match self.kind {
            Kind::Images(images) => self.batch.div_ceil(images),
            Kind::Parts(parts) => self.batch * parts,
        }
    }

    pub(super) fn tile(&self, index: usize) -> Tile {
        match self.kind {
            Kind::Images(images) => {
                let first = index * images;
                let images = first..self.batch.min(first + images);
                Tile { images, pixels: 0..self.plane }
            }
            Kind::Parts(parts) => {
                let (image, first) = (index / parts, index % parts * self.part);
                let pixels = first..self.plane.min(first + self.part);
                Tile { images: image..image + 1, pixels }
            }
        }
    }

    /// Pixels of the largest tile.
    pub(super) fn tile_pixels(&self) -> usize {
        self.tile(0).len()
    }

    /// The images of a tile, where these are whole ones.
    pub(super) fn images_of_tile(&self) -> Option<usize> {
        match self.kind {
            Kind::Images(images) => Some(images),
            Kind::Parts(_) => None,
        }
    }

    /// Divides a tensor `[batch, channels, plane]` into what belongs to each tile: the runs of pixels
    /// of the channels of its images, in that order.
    pub(super) fn split<'a>(&self, y: Unset<'a>, channels: usize) -> Vec<Vec<Unset<'a>>> {
        let mut tiles: Vec<_> =
            (0..self.len()).map(|index| Vec::with_capacity(self.tile(index).images.len() * channels)).collect();
        for (image, y) in y.chunks(channels * self.plane).enumerate() {
            for plane in y.chunks(self.plane) {
                match self.kind {
                    Kind::Images(images) => tiles[image / images].push(plane),
                    Kind::Parts(parts) => {
                        for (part, run) in plane.chunks(self.part).enumerate() {
                            tiles[image * parts + part].push(run);
                        }
                    }
                }
            }
        }
        tiles
    }

    /// Groups of input channels whose columns are built at a time.
    pub(super) fn channel_blocks(&self) -> Vec<Range<usize>> {
        let step = (TILE_ROWS / self.shifts.len()).min(self.channels);
        (0..self.channels).step_by(step).map(|first| first..self.channels.min(first + step)).collect()
    }

    /// The scratch space that [`Self::fill`] needs.
    pub(super) fn scratch(&self) -> Columns {
        let rows = self.channel_blocks()[0].len() * self.shifts.len();
        let pixels = self.tile_pixels();
        Columns { matrix: Scratch::new(rows * pixels), line: Scratch::new(pixels + 2 * self.margin) }
    }

    /// The pixels of a tile of some of the channels of `x`, which has so many, where they lie; unless they are of several
    /// images.
    pub(super) fn view<'a>(&self, x: &'a [f32], of: usize, channels: Range<usize>, tile: &Tile) -> Option<Matrix<'a>> {
        let first = (tile.images.start * of + channels.start) * self.plane + tile.pixels.start;
        let view = || Matrix::row_major(&x[first..], channels.len(), tile.len(), self.plane);
        (tile.images.len() == 1).then(view)
    }

    /// The columns `[channels * taps, pixels]` of a tile of `x`.
    pub(super) fn fill<'a>(
        &self,
        columns: &'a mut Columns,
        x: &'a [f32],
        tile: &Tile,
        channels: Range<usize>,
    ) -> Matrix<'a> {
        if self.kernel_width == 1
            && let Some(view) = self.view(x, self.channels, channels.clone(), tile)
        {
            return view;
        }
        let pixels = tile.len();
        let (taps, channel_count) = (self.shifts.len(), channels.len());
        let matrix = &mut columns.matrix[..channels.len() * taps * pixels];
        let rows = matrix.chunks_mut(taps * pixels);
        if self.kernel_width == 1 {
            for (row, channel) in rows.zip(channels) {
                self.gather(row, x, self.channels, channel, tile, 0);
            }
        } else {
            let line = &mut columns.line[..pixels + 2 * self.margin];
            for (rows, channel) in rows.zip(channels) {
                self.gather(line, x, self.channels, channel, tile, self.margin);
                vectorised(
                    #[inline(always)]
                    || self.shift_and_mask(rows, line, tile),
                );
            }
        }
        Matrix::row_major(matrix, channel_count * taps, pixels, pixels)
    }

    /// The pixels of a tile of one channel of `x`, which has `channels` of them, with what lies
    /// `margin` pixels before and after them in the image. Beyond the image anything may stand.
    pub(super) fn gather(
        &self,
        line: &mut [f32],
        x: &[f32],
        channels: usize,
        channel: usize,
        tile: &Tile,
        margin: usize,
    ) {
        let plane = |image: usize| {
            let first = (image * channels + channel) * self.plane;
            &x[first..first + self.plane]
        };
        let Range { start, end } = tile.pixels;
        if tile.images.len() == 1 {
            let before = margin.min(start);
            let after = margin.min(self.plane - end);
            line[margin - before..margin + (end - start) + after]
                .copy_from_slice(&plane(tile.images.start)[start - before..end + after]);
        } else {
            let runs = line[margin..].chunks_exact_mut(self.plane);
            for (run, image) in runs.zip(tile.images.clone()) {
                copy(run, plane(image));
            }
        }
    }

    #[inline(always)]
    fn shift_and_mask(&self, rows: &mut [f32], line: &[f32], tile: &Tile) {
        let pixels = tile.len();
        let masks = self.masks.chunks_exact(self.mask_pixels);
        for ((row, &shift), mask) in rows.chunks_exact_mut(pixels).zip(&self.shifts).zip(masks) {
            let neighbours = &line[shift..shift + pixels];
            let mask = &mask[tile.pixels.start..tile.pixels.start + pixels];
            for ((value, neighbour), mask) in row.iter_mut().zip(neighbours).zip(mask) {
                *value = f32::from_bits(neighbour.to_bits() & mask);
            }
        }
    }
}

/// Scratch space of one task.
pub(super) struct Columns {
    matrix: Scratch,
    line: Scratch,
}
