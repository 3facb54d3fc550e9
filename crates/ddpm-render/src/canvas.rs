//! A small anti-aliased drawing surface.

use image::{Rgb, RgbImage};

/// A color, 0 to 255 a channel.
pub(super) type Color = [u8; 3];

/// Pixels that shapes are blended into. Coordinates are in pixels, from the top left corner.
pub(super) struct Canvas {
    image: RgbImage,
}

impl Canvas {
    pub(super) fn new(width: u32, height: u32, color: Color) -> Self {
        Self { image: RgbImage::from_pixel(width, height, Rgb(color)) }
    }

    pub(super) fn into_image(self) -> RgbImage {
        self.image
    }

    /// A filled rectangle with sharp edges.
    pub(super) fn rectangle(&mut self, [x, y]: [u32; 2], [width, height]: [u32; 2], color: Color) {
        for py in y..(y + height).min(self.image.height()) {
            for px in x..(x + width).min(self.image.width()) {
                self.image.put_pixel(px, py, Rgb(color));
            }
        }
    }

    /// A disc, `opacity` from 0 to 1.
    pub(super) fn disc(&mut self, center: [f32; 2], radius: f32, color: Color, opacity: f32) {
        self.capsule(center, center, radius, color, opacity);
    }

    /// A line with round ends.
    pub(super) fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, color: Color) {
        self.capsule(from, to, width / 2.0, color, 1.0);
    }

    /// All that is within `radius` of a segment; the pixel at the rim is covered by what it lies inside.
    fn capsule(&mut self, a: [f32; 2], b: [f32; 2], radius: f32, color: Color, opacity: f32) {
        let pixels = |a: f32, b: f32, size: u32| {
            let low = (a.min(b) - radius - 1.0).floor().max(0.0) as u32;
            let high = (a.max(b) + radius + 1.0).ceil().clamp(0.0, size as f32) as u32;
            low..high
        };
        for y in pixels(a[1], b[1], self.image.height()) {
            for x in pixels(a[0], b[0], self.image.width()) {
                let distance = distance_to_segment([x as f32 + 0.5, y as f32 + 0.5], a, b);
                let coverage = (radius + 0.5 - distance).clamp(0.0, 1.0);
                self.blend(x, y, color, coverage * opacity);
            }
        }
    }

    /// Segments with round ends as one shape: where they overlap, they cover no more than one of them does.
    pub(super) fn path(&mut self, segments: &[[[f32; 2]; 2]], width: f32, color: Color) {
        let radius = width / 2.0;
        let (columns, rows) = self.image.dimensions();
        let span = |axis: usize, size: u32| {
            let places = || segments.iter().flatten().map(|point| point[axis]);
            let low = (places().fold(f32::INFINITY, f32::min) - radius - 1.0).floor().max(0.0) as u32;
            let high =
                (places().fold(f32::NEG_INFINITY, f32::max) + radius + 1.0).ceil().clamp(0.0, size as f32) as u32;
            (low, high)
        };
        let ((left, right), (top, bottom)) = (span(0, columns), span(1, rows));
        if left >= right || top >= bottom {
            return;
        }
        let stride = (right - left) as usize;
        let mut coverage = vec![0.0_f32; stride * (bottom - top) as usize];
        for [a, b] in segments {
            let pixels = |axis: usize, low: u32, high: u32| {
                let from = (a[axis].min(b[axis]) - radius - 1.0).floor().max(low as f32) as u32;
                let to = (a[axis].max(b[axis]) + radius + 1.0).ceil().clamp(low as f32, high as f32) as u32;
                from..to
            };
            for y in pixels(1, top, bottom) {
                for x in pixels(0, left, right) {
                    let distance = distance_to_segment([x as f32 + 0.5, y as f32 + 0.5], *a, *b);
                    let cell = &mut coverage[(y - top) as usize * stride + (x - left) as usize];
                    *cell = cell.max((radius + 0.5 - distance).clamp(0.0, 1.0));
                }
            }
        }
        for (i, coverage) in coverage.into_iter().enumerate().filter(|(_, coverage)| *coverage > 0.0) {
            self.blend(left + (i % stride) as u32, top + (i / stride) as u32, color, coverage);
        }
    }

    /// A filled polygon, `opacity` from 0 to 1; the even-odd rule where it crosses itself.
    pub(super) fn polygon(&mut self, points: &[[f32; 2]], color: Color, opacity: f32) {
        /// Lines that a row of pixels is sampled at.
        const LINES: u16 = 4;
        let (columns, rows) = self.image.dimensions();
        let top = points.iter().map(|point| point[1]).fold(f32::INFINITY, f32::min).floor().max(0.0) as u32;
        let bottom = points.iter().map(|point| point[1]).fold(0.0, f32::max).ceil().clamp(0.0, rows as f32) as u32;
        let mut coverage = vec![0.0_f32; columns as usize];
        for row in top..bottom {
            coverage.fill(0.0);
            for line in 0..LINES {
                let y = row as f32 + (f32::from(line) + 0.5) / f32::from(LINES);
                let crossings = crossings(points, y);
                for pair in crossings.chunks_exact(2) {
                    let [from, to] = [pair[0], pair[1]].map(|x| x.clamp(0.0, columns as f32));
                    for x in from.floor() as usize..(to.ceil() as usize).min(coverage.len()) {
                        let inside = to.min(x as f32 + 1.0) - from.max(x as f32);
                        coverage[x] += inside / f32::from(LINES);
                    }
                }
            }
            for (x, coverage) in coverage.iter().enumerate().filter(|(_, coverage)| **coverage > 0.0) {
                self.blend(x as u32, row, color, coverage.min(1.0) * opacity);
            }
        }
    }

    fn blend(&mut self, x: u32, y: u32, color: Color, opacity: f32) {
        let pixel = self.image.get_pixel_mut(x, y);
        for (below, above) in pixel.0.iter_mut().zip(color) {
            *below = (f32::from(*below) * (1.0 - opacity) + f32::from(above) * opacity).round() as u8;
        }
    }
}

/// Where the outline of a polygon crosses a horizontal line, from left to right.
fn crossings(points: &[[f32; 2]], y: f32) -> Vec<f32> {
    let edges = points.iter().zip(points.iter().cycle().skip(1));
    let crossed = edges.filter(|(a, b)| (a[1] <= y) != (b[1] <= y));
    let mut crossings: Vec<f32> = crossed.map(|(a, b)| a[0] + (b[0] - a[0]) * ((y - a[1]) / (b[1] - a[1]))).collect();
    crossings.sort_by(f32::total_cmp);
    crossings
}

fn distance_to_segment(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let length_squared = along[0] * along[0] + along[1] * along[1];
    let share = if length_squared == 0.0 {
        0.0
    } else {
        (((p[0] - a[0]) * along[0] + (p[1] - a[1]) * along[1]) / length_squared).clamp(0.0, 1.0)
    };
    (p[0] - a[0] - share * along[0]).hypot(p[1] - a[1] - share * along[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polygons_cover_what_they_enclose() {
        let mut canvas = Canvas::new(10, 10, [255; 3]);
        canvas.polygon(&[[2.0, 2.0], [8.0, 2.0], [8.0, 6.5], [2.0, 6.5]], [0; 3], 1.0);
        let image = canvas.into_image();
        let gray = |x, y| image.get_pixel(x, y).0[0];
        assert_eq!(
            [gray(1, 3), gray(2, 2), gray(7, 5), gray(8, 3), gray(4, 1), gray(4, 7)],
            [255, 0, 0, 255, 255, 255]
        );
        assert_eq!(gray(4, 6), 128, "half of the pixel is covered");
    }

    #[test]
    fn the_joints_of_a_path_are_no_darker_than_its_pieces() {
        let draw = |places: &[f32]| {
            let mut canvas = Canvas::new(40, 12, [255; 3]);
            let segments: Vec<_> = places.windows(2).map(|pair| [[pair[0], 6.0], [pair[1], 6.0]]).collect();
            canvas.path(&segments, 2.5, [0; 3]);
            canvas.into_image()
        };
        let pieces: Vec<f32> = (0..=60).map(|i| 5.0 + i as f32 / 2.0).collect();
        assert_eq!(draw(&pieces), draw(&[5.0, 35.0]));
        // Outside of the canvas nothing is drawn.
        Canvas::new(4, 4, [0; 3]).path(&[[[-90.0, -9.0], [-50.0, -9.0]]], 1.0, [9; 3]);
    }
}
