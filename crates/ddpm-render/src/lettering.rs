//! The letters of plots, as strokes of a round pen.

use super::canvas::{Canvas, Color};

use super::glyphs::{Stroke, TRACKING, glyph};

/// Where `x` lies in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

/// Writes on the baseline `y`; `size` is the height of a digit in pixels.
pub(super) fn write(canvas: &mut Canvas, text: &str, at: [f32; 2], size: f32, align: Align, color: Color) {
    for [from, to] in segments(text, at, size, align) {
        canvas.line(from, to, weight(size), color);
    }
}

/// Width of the pen.
pub(super) fn weight(size: f32) -> f32 {
    (size * 0.12).max(1.1)
}

/// What the pen draws, piece by piece.
pub(super) fn segments(text: &str, [x, y]: [f32; 2], size: f32, align: Align) -> Vec<[[f32; 2]; 2]> {
    let mut pen = match align {
        Align::Left => x,
        Align::Center => x - width(text) * size / 2.0,
        Align::Right => x - width(text) * size,
    };
    let mut segments = Vec::new();
    for character in text.chars() {
        let (width, strokes) = glyph(character);
        let place = |[px, py]: [f32; 2]| [pen + px * size, y - py * size];
        for stroke in strokes {
            match stroke {
                Stroke::Line([x0, y0, x1, y1]) => segments.push([place([x0, y0]), place([x1, y1])]),
                Stroke::Arc([cx, cy, rx, ry], [from, to]) => {
                    let pieces = 24;
                    let point = |i: u16| {
                        let angle = (from + (to - from) * f32::from(i) / f32::from(pieces)).to_radians();
                        place([cx + rx * angle.cos(), cy + ry * angle.sin()])
                    };
                    segments.extend((0..pieces).map(|i| [point(i), point(i + 1)]));
                }
            }
        }
        pen += (width + TRACKING) * size;
    }
    segments
}

/// Width of a text in units of its size.
pub(super) fn width(text: &str) -> f32 {
    text.chars().map(|character| glyph(character).0 + TRACKING).sum::<f32>() - TRACKING
}

/// The text, cut short with an ellipsis where it is wider than `room`, in units of its size.
pub(super) fn shortened(text: &str, room: f32) -> String {
    // What is far too long need not be measured.
    let start: String = text.chars().take(1000).collect();
    if start.len() == text.len() && width(text) <= room {
        return start;
    }
    let mut used = width("\u{2026}");
    let fits = |character: &char| {
        used += glyph(*character).0 + TRACKING;
        used <= room
    };
    let kept: String = start.chars().take_while(fits).collect();
    kept.trim_end().to_string() + "\u{2026}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_end_in_an_ellipsis_and_fit() {
        assert_eq!(shortened("short", 20.0), "short");
        let cut = shortened(&"wide name ".repeat(10_000), 20.0);
        assert!(cut.ends_with('\u{2026}') && width(&cut) <= 20.0 && width(&cut) > 18.0, "{cut}");
        assert_eq!(shortened("anything", 0.0), "\u{2026}");
    }
}
