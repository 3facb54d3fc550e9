//! Drawings as lists of shapes, which become SVG or pixels.

use std::fmt::Write;

use image::RgbImage;

use super::canvas::{Canvas, Color};
use super::lettering::{self, Align};

/// Height of a capital in units of the font size of common sans-serif fonts.
const CAPITAL: f32 = 0.72;
/// A dash and the gap after it, in pixels.
const DASH: [f32; 2] = [4.0, 4.5];

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pen {
    pub(super) color: Color,
    pub(super) width: f32,
    pub(super) is_dashed: bool,
}

/// A shape; coordinates are in pixels, from the top left corner.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// A filled rectangle: corner and size.
    Rectangle([f32; 2], [f32; 2], Color),
    /// From point to point.
    Line(Vec<[f32; 2]>, Pen),
    /// A filled polygon, and its opacity.
    Area(Vec<[f32; 2]>, Color, f32),
    /// A filled circle: center and radius.
    Disc([f32; 2], f32, Color),
    /// An open circle: center and radius.
    Circle([f32; 2], f32, Pen),
    /// Letters.
    Text(Text),
}

/// Letters on a baseline.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text {
    pub(super) text: String,
    /// In the place of `text` in pixels, which have no glyphs for some characters.
    pub(super) in_pixels: Option<String>,
    pub(super) at: [f32; 2],
    /// Height of a digit.
    pub(super) size: f32,
    pub(super) align: Align,
    pub(super) color: Color,
}

/// Shapes on a sheet, the later ones over the earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drawing {
    pub(super) size: [u32; 2],
    pub(super) background: Color,
    pub(super) shapes: Vec<Shape>,
}

impl Drawing {
    /// An SVG document with a title for readers that cannot see it.
    pub(super) fn to_svg(&self, title: &str) -> String {
        let [width, height] = self.size;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"Helvetica, Arial, sans-serif\" stroke-linejoin=\"round\" \
             stroke-linecap=\"round\">\n<title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" \
             fill=\"{}\"/>\n",
            escape(title),
            hex(self.background)
        );
        for shape in &self.shapes {
            svg.push_str(&element(shape));
            svg.push('\n');
        }
        svg + "</svg>\n"
    }

    /// Pixels, `scale` of them to a unit.
    pub(super) fn to_image(&self, scale: u32) -> RgbImage {
        let [width, height] = self.size.map(|size| size * scale);
        let mut canvas = Canvas::new(width, height, self.background);
        for shape in &self.shapes {
            rasterize(&mut canvas, shape, scale as f32);
        }
        canvas.into_image()
    }
}

fn element(shape: &Shape) -> String {
    match shape {
        Shape::Rectangle([x, y], [width, height], color) => {
            format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>", hex(*color))
        }
        Shape::Line(line, pen) => {
            format!("<polyline points=\"{}\" fill=\"none\" {}/>", points(line), stroke(*pen))
        }
        Shape::Area(outline, color, opacity) => {
            format!("<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{opacity}\"/>", points(outline), hex(*color))
        }
        Shape::Disc([x, y], radius, color) => {
            format!("<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"{}\"/>", hex(*color))
        }
        Shape::Circle([x, y], radius, pen) => {
            format!("<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"none\" {}/>", stroke(*pen))
        }
        Shape::Text(Text { text, at: [x, y], size, align, color, .. }) => {
            let anchor = match align {
                Align::Left => "start",
                Align::Center => "middle",
                Align::Right => "end",
            };
            let font = size / CAPITAL;
            format!(
                "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{font:.1}\" text-anchor=\"{anchor}\" fill=\"{}\">{}</text>",
                hex(*color),
                escape(text)
            )
        }
    }
}

fn rasterize(canvas: &mut Canvas, shape: &Shape, scale: f32) {
    let place = |[x, y]: [f32; 2]| [x * scale, y * scale];
    match shape {
        Shape::Rectangle(corner, size, color) => {
            let ([x, y], [width, height]) = (place(*corner), place(*size));
            let outline = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]];
            canvas.polygon(&outline, *color, 1.0);
        }
        Shape::Line(line, pen) => {
            let line: Vec<[f32; 2]> = line.iter().map(|point| place(*point)).collect();
            let segments = if pen.is_dashed { dashes(&line, DASH.map(|length| length * scale)) } else { joined(&line) };
            canvas.path(&segments, pen.width * scale, pen.color);
        }
        Shape::Area(outline, color, opacity) => {
            let outline: Vec<[f32; 2]> = outline.iter().map(|point| place(*point)).collect();
            canvas.polygon(&outline, *color, *opacity);
        }
        Shape::Disc(center, radius, color) => canvas.disc(place(*center), radius * scale, *color, 1.0),
        Shape::Circle(center, radius, pen) => {
            let corner = |i: u8| {
                let angle = f32::from(i) / 32.0 * std::f32::consts::TAU;
                place([center[0] + radius * angle.cos(), center[1] + radius * angle.sin()])
            };
            let outline: Vec<[f32; 2]> = (0..=32).map(corner).collect();
            canvas.path(&joined(&outline), pen.width * scale, pen.color);
        }
        Shape::Text(text) => {
            let size = text.size * scale;
            let letters = text.in_pixels.as_ref().unwrap_or(&text.text);
            let segments = lettering::segments(letters, place(text.at), size, text.align);
            canvas.path(&segments, lettering::weight(size), text.color);
        }
    }
}

/// The segments of a line.
fn joined(line: &[[f32; 2]]) -> Vec<[[f32; 2]; 2]> {
    line.windows(2).map(|pair| [pair[0], pair[1]]).collect()
}

/// The segments of a line that are dashed, around all corners.
fn dashes(line: &[[f32; 2]], [dash, gap]: [f32; 2]) -> Vec<[[f32; 2]; 2]> {
    let mut segments = Vec::new();
    let (mut is_drawn, mut left) = (true, dash);
    for [from, to] in joined(line) {
        let length = (to[0] - from[0]).hypot(to[1] - from[1]);
        let at = |distance: f32| [0, 1].map(|axis| from[axis] + (to[axis] - from[axis]) * distance / length);
        let mut done = 0.0;
        while length - done > left {
            if is_drawn {
                segments.push([at(done), at(done + left)]);
            }
            done += left;
            is_drawn = !is_drawn;
            left = if is_drawn { dash } else { gap };
        }
        if is_drawn && length > done {
            segments.push([at(done), to]);
        }
        left -= length - done;
    }
    segments
}

fn points(line: &[[f32; 2]]) -> String {
    let mut text = String::new();
    for [x, y] in line {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}{x:.2},{y:.2}");
    }
    text
}

fn stroke(pen: Pen) -> String {
    let dash = if pen.is_dashed { format!(" stroke-dasharray=\"{} {}\"", DASH[0], DASH[1]) } else { String::new() };
    format!("stroke=\"{}\" stroke-width=\"{}\"{dash}", hex(pen.color), pen.width)
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Text as it may stand in XML; what XML cannot hold becomes a replacement character.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_of_shapes_becomes_both() {
        let pen = Pen { color: [200, 0, 0], width: 2.0, is_dashed: false };
        let shapes = vec![
            Shape::Rectangle([0.0, 0.0], [20.0, 10.0], [0, 0, 200]),
            Shape::Line(vec![[2.0, 15.0], [18.0, 15.0]], pen),
            Shape::Disc([10.0, 5.0], 3.0, [0, 200, 0]),
        ];
        let drawing = Drawing { size: [20, 20], background: [255; 3], shapes };
        let image = drawing.to_image(2);
        assert_eq!(image.dimensions(), (40, 40));
        let at = |x, y| image.get_pixel(x, y).0;
        assert_eq!([at(1, 1), at(20, 30), at(20, 10), at(20, 36)], [[0, 0, 200], [200, 0, 0], [0, 200, 0], [255; 3]]);
        let svg = drawing.to_svg("a \u{1} & b");
        assert!(svg.contains("<title>a \u{fffd} &amp; b</title>"), "{svg}");
        assert!(svg.contains("<polyline points=\"2.00,15.00 18.00,15.00\" fill=\"none\" stroke=\"#c80000\""), "{svg}");
        assert!(svg.contains("<circle cx=\"10.00\" cy=\"5.00\" r=\"3\" fill=\"#00c800\"/>"), "{svg}");
    }

    #[test]
    fn dashes_go_around_corners() {
        let found = dashes(&[[0.0, 0.0], [5.0, 0.0], [5.0, 5.0]], [4.0, 2.0]);
        assert_eq!(found, [[[0.0, 0.0], [4.0, 0.0]], [[5.0, 1.0], [5.0, 5.0]]]);
        assert!(dashes(&[[1.0, 1.0]; 3], [4.0, 2.0]).is_empty());
    }
}
