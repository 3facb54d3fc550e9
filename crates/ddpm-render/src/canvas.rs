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

    fn blend(&mut self, x: u32, y: u32, color: Color, opacity: f32) {
        let pixel = self.image.get_pixel_mut(x, y);
        for (below, above) in pixel.0.iter_mut().zip(color) {
            *below = (f32::from(*below) * (1.0 - opacity) + f32::from(above) * opacity).round() as u8;
        }
    }
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
