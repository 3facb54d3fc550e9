//! The few letters of plots, as strokes of a round pen.

use super::canvas::{Canvas, Color};

/// A piece of a glyph. The em is one capital high, y points up from the baseline.
enum Stroke {
    /// From a point to a point.
    Line([f32; 4]),
    /// Part of an ellipse: center, radii, from and to in degrees, anticlockwise.
    Arc([f32; 4], [f32; 2]),
}

use Stroke::{Arc, Line};

const ROUND: [f32; 2] = [0.0, 360.0];
/// Between two glyphs.
const TRACKING: f32 = 0.2;

/// Width and strokes. A character that is not here is left blank.
fn glyph(character: char) -> (f32, Vec<Stroke>) {
    match character {
        '0' => (0.56, vec![Arc([0.28, 0.5, 0.27, 0.5], ROUND)]),
        '1' => (0.36, vec![Line([0.06, 0.8, 0.3, 1.0]), Line([0.3, 1.0, 0.3, 0.0])]),
        '2' => (
            0.56,
            vec![
                Arc([0.28, 0.72, 0.25, 0.28], [-35.0, 165.0]),
                Line([0.485, 0.56, 0.03, 0.0]),
                Line([0.03, 0.0, 0.55, 0.0]),
            ],
        ),
        '3' => {
            (0.54, vec![Arc([0.25, 0.76, 0.23, 0.24], [-90.0, 150.0]), Arc([0.25, 0.26, 0.27, 0.26], [-155.0, 90.0])])
        }
        '4' => (0.6, vec![Line([0.43, 0.0, 0.43, 1.0]), Line([0.43, 1.0, 0.02, 0.3]), Line([0.02, 0.3, 0.6, 0.3])]),
        '5' => (
            0.55,
            vec![
                Line([0.5, 1.0, 0.11, 1.0]),
                Line([0.11, 1.0, 0.07, 0.54]),
                Arc([0.27, 0.33, 0.27, 0.33], [-150.0, 140.0]),
            ],
        ),
        '6' => (0.55, vec![Arc([0.28, 0.31, 0.26, 0.31], ROUND), Arc([0.54, 0.31, 0.52, 0.69], [100.0, 180.0])]),
        '7' => (0.52, vec![Line([0.0, 1.0, 0.52, 1.0]), Line([0.52, 1.0, 0.17, 0.0])]),
        '8' => (0.56, vec![Arc([0.28, 0.76, 0.22, 0.24], ROUND), Arc([0.28, 0.26, 0.27, 0.26], ROUND)]),
        '9' => (0.55, vec![Arc([0.27, 0.69, 0.26, 0.31], ROUND), Arc([0.01, 0.69, 0.52, 0.69], [-80.0, 0.0])]),
        '-' => (0.44, vec![Line([0.02, 0.45, 0.42, 0.45])]),
        '.' => (0.14, vec![Line([0.07, 0.02, 0.07, 0.02])]),
        'a' => (0.52, vec![Arc([0.26, 0.34, 0.25, 0.34], ROUND), Line([0.51, 0.68, 0.51, 0.0])]),
        'd' => (0.52, vec![Arc([0.26, 0.34, 0.25, 0.34], ROUND), Line([0.51, 1.05, 0.51, 0.0])]),
        'e' => (0.54, vec![Arc([0.27, 0.34, 0.26, 0.34], [0.0, 315.0]), Line([0.01, 0.34, 0.53, 0.34])]),
        'i' => (0.1, vec![Line([0.05, 0.68, 0.05, 0.0]), Line([0.05, 0.95, 0.05, 0.95])]),
        'l' => (0.08, vec![Line([0.04, 1.05, 0.04, 0.0])]),
        'm' => (
            0.8,
            vec![
                Line([0.02, 0.68, 0.02, 0.0]),
                Arc([0.21, 0.46, 0.19, 0.22], [0.0, 180.0]),
                Line([0.4, 0.46, 0.4, 0.0]),
                Arc([0.59, 0.46, 0.19, 0.22], [0.0, 180.0]),
                Line([0.78, 0.46, 0.78, 0.0]),
            ],
        ),
        'o' => (0.54, vec![Arc([0.27, 0.34, 0.26, 0.34], ROUND)]),
        'p' => (0.52, vec![Line([0.01, 0.68, 0.01, -0.3]), Arc([0.26, 0.34, 0.25, 0.34], ROUND)]),
        's' => {
            (0.44, vec![Arc([0.22, 0.51, 0.18, 0.17], [35.0, 270.0]), Arc([0.22, 0.17, 0.21, 0.17], [-150.0, 90.0])])
        }
        't' => (
            0.36,
            vec![
                Line([0.14, 0.95, 0.14, 0.16]),
                Arc([0.31, 0.16, 0.17, 0.16], [180.0, 275.0]),
                Line([0.0, 0.68, 0.33, 0.68]),
            ],
        ),
        'u' => (
            0.46,
            vec![
                Line([0.02, 0.68, 0.02, 0.22]),
                Arc([0.23, 0.22, 0.21, 0.22], [180.0, 360.0]),
                Line([0.44, 0.68, 0.44, 0.0]),
            ],
        ),
        _ => (0.25, Vec::new()),
    }
}

/// Where `x` lies in the text.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

/// Writes on the baseline `y`; `size` is the height of a digit in pixels.
pub(super) fn write(canvas: &mut Canvas, text: &str, [x, y]: [f32; 2], size: f32, align: Align, color: Color) {
    let mut pen = match align {
        Align::Left => x,
        Align::Center => x - width(text) * size / 2.0,
        Align::Right => x - width(text) * size,
    };
    let weight = (size * 0.12).max(1.1);
    for character in text.chars() {
        let (width, strokes) = glyph(character);
        let place = |[px, py]: [f32; 2]| [pen + px * size, y - py * size];
        for stroke in strokes {
            match stroke {
                Line([x0, y0, x1, y1]) => canvas.line(place([x0, y0]), place([x1, y1]), weight, color),
                Arc([cx, cy, rx, ry], [from, to]) => {
                    let pieces = 24;
                    let point = |i: u16| {
                        let angle = (from + (to - from) * f32::from(i) / f32::from(pieces)).to_radians();
                        place([cx + rx * angle.cos(), cy + ry * angle.sin()])
                    };
                    for i in 0..pieces {
                        canvas.line(point(i), point(i + 1), weight, color);
                    }
                }
            }
        }
        pen += (width + TRACKING) * size;
    }
}

/// Width of a text in units of its size.
fn width(text: &str) -> f32 {
    text.chars().map(|character| glyph(character).0 + TRACKING).sum::<f32>() - TRACKING
}
