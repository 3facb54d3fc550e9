//! Pixels with their channels innermost and zeros around them, which is how the Winograd kernel reads pictures.

use std::array::from_fn;
use std::ops::Range;

/// Channels that lie side by side.
pub(crate) const LANES: usize = 16;

/// The same pixel of [`LANES`] channels.
pub(crate) type Lanes = [f32; LANES];

/// A tensor `[batch, channels, height, width]`.
#[derive(Clone, Copy)]
pub(super) struct Pictures<'a> {
    pub(super) values: &'a [f32],
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Pictures<'_> {
    /// Blocks of [`LANES`] channels, of which the last may have fewer.
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Writes some rows of a block of channels to `frame`, whose lines have `columns` pixels: with one line before and one
    /// behind them, one zero at the beginning of each line, and zeros up to its end. What lies outside of the picture is zero,
    /// and so are channels that do not exist.
    #[inline(always)]
    pub(super) fn lay_out(&self, image: usize, block: usize, rows: Range<usize>, columns: usize, frame: &mut [Lanes]) {
        let Self { values, channels, height, width } = *self;
        let (first, plane) = (block * LANES, height * width);
        let present = LANES.min(channels - first);
        let x = &values[(image * channels + first) * plane..][..present * plane];
        // The frame begins with the row before these.
        let above = usize::from(rows.start == 0);
        let inside = (rows.start + above - 1)..height.min(rows.end + 1);
        let (zeros, frame) = frame.split_at_mut(above * columns);
        let (lines, below) = frame.split_at_mut(inside.len() * columns);
        zeros.fill([0.0; LANES]);
        below.fill([0.0; LANES]);
        for line in lines.chunks_exact_mut(columns) {
            line[0] = [0.0; LANES];
            line[width + 1..].fill([0.0; LANES]);
        }
        interleave(x, plane, inside.start * width..inside.end * width, width, lines, columns);
    }
}

/// Writes some pixels of the channels `x`, at most [`LANES`] of `plane` pixels each, to their places in `lines`, which are
/// `columns` wide with one pixel in front of each. Rows of an image lie one after the other, so that [`LANES`] pixels may be
/// of several.
#[inline(always)]
fn interleave(x: &[f32], plane: usize, pixels: Range<usize>, width: usize, lines: &mut [Lanes], columns: usize) {
    let mut inner = Inner { lines, columns, width, place: 1, column: 0 };
    let is_whole = x.len() == LANES * plane;
    for first in pixels.clone().step_by(LANES) {
        let count = LANES.min(pixels.end - first);
        if is_whole && count == LANES {
            // Without gaps, a square need not lie in memory.
            let line = |lane: usize| *x[lane * plane + first..].first_chunk().unwrap_or(&[0.0; LANES]);
            inner.write(&transposed(from_fn(line)));
            continue;
        }
        let mut square = [[0.0; LANES]; LANES];
        for (line, channel) in square.iter_mut().zip(x.chunks_exact(plane)) {
            line[..count].copy_from_slice(&channel[first..first + count]);
        }
        inner.write(&transposed(square)[..count]);
    }
}

/// The lines of a frame without what lies between the rows of the picture.
struct Inner<'a> {
    lines: &'a mut [Lanes],
    columns: usize,
    width: usize,
    /// Where the next pixel comes.
    place: usize,
    /// Its column in the picture.
    column: usize,
}

impl Inner<'_> {
    #[inline(always)]
    fn write(&mut self, mut pixels: &[Lanes]) {
        while !pixels.is_empty() {
            let (run, rest) = pixels.split_at(pixels.len().min(self.width - self.column));
            let line = &mut self.lines[self.place..][..run.len()];
            // Of the usual lengths without a call.
            match run.len() {
                LANES => line.as_chunks_mut::<LANES>().0.copy_from_slice(run.as_chunks().0),
                8 => line.as_chunks_mut::<8>().0.copy_from_slice(run.as_chunks().0),
                _ => line.copy_from_slice(run),
            }
            (self.place, self.column) = (self.place + run.len(), self.column + run.len());
            if self.column == self.width {
                (self.place, self.column) = (self.place + self.columns - self.width, 0);
            }
            pixels = rest;
        }
    }
}

/// Rows as columns.
#[inline(always)]
pub(crate) fn transposed(rows: [Lanes; LANES]) -> [Lanes; LANES] {
    #[cfg(target_arch = "x86_64")]
    if pulp::x86::V4::is_available() {
        return avx512::transposed(rows);
    }
    transposed_portably(rows)
}

/// In four rounds of exchanging ever larger squares off the diagonal.
#[inline(always)]
fn transposed_portably(mut rows: [Lanes; LANES]) -> [Lanes; LANES] {
    exchange::<1>(&mut rows);
    exchange::<2>(&mut rows);
    exchange::<4>(&mut rows);
    exchange::<8>(&mut rows);
    rows
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "rows and columns change places")]
fn exchange<const D: usize>(rows: &mut [Lanes; LANES]) {
    for pair in 0..LANES / 2 {
        let i = pair / D * 2 * D + pair % D;
        let (a, b) = (rows[i], rows[i + D]);
        for j in 0..LANES {
            rows[i][j] = if j & D == 0 { a[j] } else { b[j - D] };
            rows[i + D][j] = if j & D == 0 { a[j + D] } else { b[j] };
        }
    }
}

/// The compiler makes single moves of the above; these are a quarter of the instructions.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    #![allow(unsafe_code, reason = "vector instructions that pulp does not have")]

    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };
    use std::mem::transmute;

    use super::{LANES, Lanes};

    /// Only for processors with the instructions of [`pulp::x86::V4`].
    #[inline(always)]
    pub(super) fn transposed(rows: [Lanes; LANES]) -> [Lanes; LANES] {
        // SAFETY: the only caller has asked for the instructions. An array of 16 numbers is as large as a vector of them,
        // and every pattern of bits is a value of both.
        unsafe { transmute(shuffled(transmute::<[Lanes; LANES], [__m512; LANES]>(rows))) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn shuffled(rows: [__m512; LANES]) -> [__m512; LANES] {
        let low = |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
        let high = |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
        let mut columns = rows;
        // Squares of four rows and four columns, in each quarter of a vector one.
        for four in (0..LANES).step_by(4) {
            let [a, b, c, d] = [rows[four], rows[four + 1], rows[four + 2], rows[four + 3]];
            let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            columns[four] = low(ab_low, cd_low);
            columns[four + 1] = high(ab_low, cd_low);
            columns[four + 2] = low(ab_high, cd_high);
            columns[four + 3] = high(ab_high, cd_high);
        }
        // The same quarter of the four squares side by side.
        let squares = columns;
        for i in 0..4 {
            let [a, b, c, d] = [squares[i], squares[4 + i], squares[8 + i], squares[12 + i]];
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            columns[i] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
            columns[4 + i] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
            columns[8 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
            columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let rows: [Lanes; LANES] = std::array::from_fn(|i| std::array::from_fn(|j| (i * LANES + j) as f32));
        for columns in [transposed(rows), transposed_portably(rows)] {
            assert!((0..LANES).all(|i| (0..LANES).all(|j| columns[i][j] == rows[j][i])));
        }
    }

    #[test]
    fn pixels_find_their_place_among_zeros() {
        // Rows that are wider than the lanes, fill them in twos, and do not fill them evenly.
        for (height, width) in [(5, 17), (8, 8), (3, 5), (2, 32)] {
            pixels_are_in_place(height, width);
        }
    }

    fn pixels_are_in_place(height: usize, width: usize) {
        let (batch, channels, columns) = (2, 19, width + 3);
        let values: Vec<f32> = (0..batch * channels * height * width).map(|i| i as f32 + 1.0).collect();
        let pictures = Pictures { values: &values, channels, height, width };
        assert_eq!(pictures.blocks(), 2);
        for (image, block) in (0..batch).flat_map(|image| [(image, 0), (image, 1)]) {
            // All rows with what fills whole tiles, the first, the last, and some between.
            for rows in [0..4 * height.div_ceil(4), 0..1, height - 1..height, 1..height.min(3)] {
                let mut frame = vec![[f32::NAN; LANES]; (rows.len() + 2) * columns];
                pictures.lay_out(image, block, rows.clone(), columns, &mut frame);
                for (place, pixel) in frame.iter().enumerate() {
                    // One more than the row and the column of the picture.
                    let (row, column) = (rows.start + place / columns, place % columns);
                    for (channel, value) in (block * LANES..).zip(pixel) {
                        let inside = channel < channels && (1..=height).contains(&row) && (1..=width).contains(&column);
                        let plane = (image * channels + channel) * height * width;
                        let expected = if inside { values[plane + (row - 1) * width + column - 1] } else { 0.0 };
                        assert_eq!(*value, expected, "{rows:?}, {place}, {channel}");
                    }
                }
            }
        }
    }
}
