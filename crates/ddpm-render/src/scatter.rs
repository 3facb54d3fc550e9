//! Scatter plots.

use image::RgbImage;

use super::canvas::{Canvas, Color};
use super::lettering::{Align, write};

const PAPER: Color = [255, 255, 255];
const PANEL: Color = [248, 248, 246];
const GRID: Color = [230, 230, 226];
const INK: Color = [70, 74, 80];
const FAINT_INK: Color = [120, 124, 130];
const DATA: Color = [78, 105, 140];
const SAMPLES: Color = [192, 90, 62];
const SHADOW: Color = [186, 194, 204];

const MARGIN: u32 = 72;
const GAP: u32 = 84;
const FOOT: u32 = 64;
const LABEL: f32 = 13.0;
const TITLE: f32 = 19.0;

/// A square part of the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// The corner with the smallest coordinates.
    low: [f32; 2],
    /// Length of a side.
    side: f32,
}

impl Window {
    /// A window that holds all points, with some room around them.
    pub(super) fn around(points: &[[f32; 2]]) -> Self {
        let mut low = [f32::INFINITY; 2];
        let mut high = [f32::NEG_INFINITY; 2];
        for point in points {
            for axis in 0..2 {
                low[axis] = low[axis].min(point[axis]);
                high[axis] = high[axis].max(point[axis]);
            }
        }
        let extent = (high[0] - low[0]).max(high[1] - low[1]);
        let side = if extent > 0.0 && extent.is_finite() { extent * 1.16 } else { 1.0 };
        let center = [0, 1].map(|axis| if extent.is_finite() { (low[axis] + high[axis]) / 2.0 } else { 0.0 });
        Self { low: center.map(|c| c - side / 2.0), side }
    }

    fn contains(&self, point: &[f32; 2]) -> bool {
        (0..2).all(|axis| (self.low[axis]..=self.low[axis] + self.side).contains(&point[axis]))
    }
}

/// The points that are among the inner 96 % on both axes.
pub(super) fn without_tails(points: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let bounds = [0, 1].map(|axis| {
        let mut sorted: Vec<f32> = points.iter().map(|point| point[axis]).collect();
        sorted.sort_by(f32::total_cmp);
        let tail = sorted.len() / 50;
        sorted.get(tail).copied().zip(sorted.iter().rev().nth(tail).copied())
    });
    let inside = |point: &&[f32; 2]| {
        bounds
            .iter()
            .zip(**point)
            .all(|(bounds, value)| bounds.is_some_and(|(low, high)| low <= value && value <= high))
    };
    points.iter().filter(inside).copied().collect()
}

/// The data and the samples side by side in the same axes.
///
/// The axes are those of the data, so that a stray sample does not shrink everything else; the number of samples
/// outside is written above their panel.
pub(super) fn side_by_side(data: &[[f32; 2]], samples: &[[f32; 2]]) -> RgbImage {
    let side = 560;
    let window = Window::around(data);
    let mut canvas = Canvas::new(2 * (MARGIN + side) + GAP - MARGIN / 2, MARGIN + side + FOOT, PAPER);
    panel(&mut canvas, [MARGIN, MARGIN], side, window, "data", &[(data, DATA)]);
    panel(&mut canvas, [MARGIN + side + GAP, MARGIN], side, window, "samples", &[(samples, SAMPLES)]);
    canvas.into_image()
}

/// The samples alone.
pub(super) fn alone(samples: &[[f32; 2]]) -> RgbImage {
    single(Window::around(samples), "samples", &[(samples, SAMPLES)])
}

/// Samples while they are generated, over a shadow of the data.
pub(super) fn frame(samples: &[[f32; 2]], data: &[[f32; 2]], window: Window) -> RgbImage {
    single(window, "", &[(data, SHADOW), (samples, SAMPLES)])
}

fn single(window: Window, title: &str, layers: &[(&[[f32; 2]], Color)]) -> RgbImage {
    let side = 420;
    // Room for a title only where there is one.
    let top = if title.is_empty() { MARGIN / 2 } else { MARGIN };
    let mut canvas = Canvas::new(MARGIN + side + MARGIN / 2, top + side + FOOT, PAPER);
    panel(&mut canvas, [MARGIN, top], side, window, title, layers);
    canvas.into_image()
}

/// Axes, title and one or more layers of dots.
fn panel(
    canvas: &mut Canvas,
    [left, top]: [u32; 2],
    side: u32,
    window: Window,
    title: &str,
    layers: &[(&[[f32; 2]], Color)],
) {
    let bottom = top + side;
    canvas.rectangle([left, top], [side, side], PANEL);
    let pixels = side as f32 / window.side;
    let x_of = |x: f32| left as f32 + (x - window.low[0]) * pixels;
    let y_of = |y: f32| bottom as f32 - (y - window.low[1]) * pixels;

    for tick in ticks(window.low[0], window.side) {
        let x = x_of(tick.position);
        canvas.rectangle([x.round() as u32, top], [1, side], GRID);
        write(canvas, &tick.label, [x, bottom as f32 + 2.0 * LABEL], LABEL, Align::Center, FAINT_INK);
    }
    for tick in ticks(window.low[1], window.side) {
        let y = y_of(tick.position);
        canvas.rectangle([left, y.round() as u32], [side, 1], GRID);
        write(canvas, &tick.label, [left as f32 - LABEL, y + LABEL / 2.0], LABEL, Align::Right, FAINT_INK);
    }
    write(canvas, title, [left as f32, top as f32 - TITLE], TITLE, Align::Left, INK);

    let mut outside = 0;
    for (points, color) in layers {
        // Many dots are small, so that the shape of a dense cloud stays visible.
        let radius = (100.0 / (points.len().max(1) as f32).sqrt()).clamp(1.5, 4.0) * side as f32 / 560.0;
        for point in *points {
            if !window.contains(point) {
                outside += 1;
                continue;
            }
            canvas.disc([x_of(point[0]), y_of(point[1])], radius, *color, 0.7);
        }
    }
    if outside > 0 && !title.is_empty() {
        let note = format!("{outside} outside");
        let right = (left + side) as f32;
        write(canvas, &note, [right, top as f32 - TITLE], LABEL, Align::Right, FAINT_INK);
    }
}

struct Tick {
    position: f32,
    label: String,
}

/// Round numbers inside an interval, three to seven of them.
fn ticks(low: f32, length: f32) -> Vec<Tick> {
    let (low, length) = (f64::from(low), f64::from(length));
    let decade = 10f64.powf((length / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade).into_iter().find(|step| length / step <= 7.0);
    let step = step.unwrap_or(decade);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    // Ticks at the edge would stick out of the panel.
    let (first, last) = (low + 0.01 * length, low + 0.99 * length);
    ((first / step).ceil() as i64..=(last / step).floor() as i64)
        .map(|i| {
            let position = i as f64 * step;
            Tick { position: position as f32, label: format!("{position:.decimals$}") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |low, length| ticks(low, length).into_iter().map(|tick| tick.label).collect::<Vec<_>>();
        assert_eq!(labels(-1.3, 2.6), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(3.0, 50.0), ["10", "20", "30", "40", "50"]);
        assert_eq!(labels(0.0, 0.1), ["0.02", "0.04", "0.06", "0.08"]);
    }

    #[test]
    fn windows_are_square_and_exist_without_points() {
        let window = Window::around(&[[0.0, 0.0], [10.0, 2.0]]);
        assert!(window.side > 10.0 && window.contains(&[0.0, 0.0]) && window.contains(&[10.0, 2.0]));
        assert!((window.low[1] + window.side / 2.0 - 1.0).abs() < 1e-5);
        assert_eq!(Window::around(&[]).side, 1.0);
        assert_eq!(Window::around(&[[3.0, 3.0]]).side, 1.0);
    }

    #[test]
    fn both_panels_are_drawn_in_their_colors() {
        let plot = side_by_side(&[[0.0, 0.0], [1.0, 1.0]], &[[0.5, 0.5], [9.0, 9.0]]);
        let has = |color: Color, half: u32| {
            // A dot is drawn at 0.7 opacity on the panel.
            let seen = [0, 1, 2].map(|c| (f32::from(PANEL[c]) * 0.3 + f32::from(color[c]) * 0.7).round() as u8);
            let middle = plot.width() / 2;
            plot.enumerate_pixels().any(|(x, _, pixel)| (x / middle).min(1) == half && pixel.0 == seen)
        };
        assert!(has(DATA, 0) && has(SAMPLES, 1));
        assert!(!has(DATA, 1) && !has(SAMPLES, 0));
    }
}
