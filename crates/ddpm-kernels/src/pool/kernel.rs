//! Pooling on slices: first down the columns of a window, for a whole row at a time, then along the row.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::vectorised;

/// What is said of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The largest value; NaN if there is one.
    Max,
    /// The mean of the values that are in the picture.
    Mean,
}

/// A window and its steps: rows first, then columns. The padding is on both sides, and smaller than the window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(super) size: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
}

impl Window {
    /// Height and width of the output, unless the window is larger than the padded picture.
    pub(super) fn output(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let padded = size[axis] + 2 * self.padding[axis];
            Some(padded.checked_sub(self.size[axis])? / self.stride[axis] + 1)
        };
        Some([along(0)?, along(1)?])
    }

    /// What an output row or column sees of the input.
    fn seen(&self, axis: usize, place: usize, size: usize) -> Range<usize> {
        let first = place * self.stride[axis];
        let end = (first + self.size[axis]).saturating_sub(self.padding[axis]).min(size);
        first.saturating_sub(self.padding[axis]).min(end)..end
    }

    /// The output columns whose window is wholly in the picture, of `width`.
    fn inside(&self, size: usize, width: usize) -> Range<usize> {
        let ([_, window], [_, stride], [_, padding]) = (self.size, self.stride, self.padding);
        let end = (size + padding).checked_sub(window).map_or(0, |last| last / stride + 1).min(width);
        padding.div_ceil(stride).min(end)..end
    }
}

/// Every plane of `x`, pooled.
pub(super) fn pool(x: &[f32], size: [usize; 2], window: Window, kind: Kind) -> Vec<f32> {
    let Some([height, width]) = window.output(size) else { return Vec::new() };
    let (plane_in, plane_out) = (size[0] * size[1], height * width);
    let mut y = vec![0.0; x.len() / plane_in * plane_out];
    y.par_chunks_mut(plane_out).zip(x.par_chunks(plane_in)).for_each_init(
        || vec![0.0; size[1]],
        |line, (y, x)| {
            vectorised(
                #[inline(always)]
                || plane(x, y, line, size, width, window, kind),
            )
        },
    );
    y
}

#[inline(always)]
fn plane(x: &[f32], y: &mut [f32], line: &mut [f32], size: [usize; 2], width: usize, window: Window, kind: Kind) {
    for (row, y) in y.chunks_exact_mut(width).enumerate() {
        let rows = window.seen(0, row, size[0]);
        let mut lines = x.chunks_exact(size[1]).skip(rows.start).take(rows.len());
        let Some(first) = lines.next() else { continue };
        line.copy_from_slice(first);
        for other in lines {
            match kind {
                Kind::Max => line.iter_mut().zip(other).for_each(|(value, other)| *value = larger(*value, *other)),
                Kind::Mean => line.iter_mut().zip(other).for_each(|(value, other)| *value += other),
            }
        }
        let inside = window.inside(size[1], width);
        for column in (0..inside.start).chain(inside.end..width) {
            let seen = &line[window.seen(1, column, size[1])];
            y[column] = match kind {
                Kind::Max => seen.iter().fold(f32::NEG_INFINITY, |a, b| larger(a, *b)),
                Kind::Mean => seen.iter().sum::<f32>() / (rows.len() * seen.len()) as f32,
            };
        }
        let first = (inside.start * window.stride[1]).saturating_sub(window.padding[1]);
        let y = &mut y[inside];
        for tap in 0..window.size[1] {
            let values = &line[(first + tap).min(line.len())..];
            match window.stride[1] {
                // A constant step is turned into vector code.
                1 => along(y, values.iter(), tap == 0, kind),
                step => along(y, values.iter().step_by(step), tap == 0, kind),
            }
        }
        if kind == Kind::Mean {
            let count = (rows.len() * window.size[1]) as f32;
            y.iter_mut().for_each(|value| *value /= count);
        }
    }
}

/// Joins one tap of the windows with those before it.
#[inline(always)]
fn along<'a>(y: &mut [f32], values: impl Iterator<Item = &'a f32>, is_first: bool, kind: Kind) {
    let pairs = y.iter_mut().zip(values);
    match kind {
        _ if is_first => pairs.for_each(|(y, value)| *y = *value),
        Kind::Max => pairs.for_each(|(y, value)| *y = larger(*y, *value)),
        Kind::Mean => pairs.for_each(|(y, value)| *y += value),
    }
}

/// The larger of two, or NaN if one of them is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}
