//! The layout of series plots.

use std::ops::Range;

use super::axis::{Tick, ValueAxis, is_drawn, step_ticks, time_ticks, without_common_zeros};
use super::{Panel, SeriesPlot};
use crate::canvas::Color;
use crate::drawing::{Drawing, Pen, Shape, Text};
use crate::glyphs::has_glyph;
use crate::lettering::{Align, shortened, width};

const PAPER: Color = [255, 255, 255];
const PANEL: Color = [249, 249, 247];
const GRID: Color = [226, 227, 224];
const INK: Color = [52, 56, 62];
const FAINT_INK: Color = [98, 103, 110];
/// Blue and vermilion of Okabe and Ito, which the color-blind can tell apart; in gray one is the darker.
const ESTIMATE: Color = [0, 114, 178];
const TRUTH: Color = [213, 94, 0];

const HISTORY_PEN: Pen = Pen { color: INK, width: 1.3, is_dashed: false };
const OBSERVED_PEN: Pen = Pen { color: [170, 174, 180], width: 1.0, is_dashed: false };
const MEDIAN_PEN: Pen = Pen { color: ESTIMATE, width: 1.9, is_dashed: false };
const TRUTH_PEN: Pen = Pen { color: TRUTH, width: 1.6, is_dashed: true };
const CIRCLE_PEN: Pen = Pen { color: TRUTH, width: 1.4, is_dashed: false };
const START_PEN: Pen = Pen { color: FAINT_INK, width: 1.1, is_dashed: true };
/// Bands lie on each other, so that the inner ones are the darker ones.
const BAND_OPACITY: f32 = 0.22;

const WIDTH: f32 = 900.0;
const RIGHT: f32 = 24.0;
const TOP: f32 = 18.0;
const TITLE: f32 = 13.5;
const NAME: f32 = 10.5;
const LABEL: f32 = 9.0;
/// Room above a panel for its name.
const HEAD: f32 = 30.0;
/// Room below the last panel for the labels of the steps.
const FOOT: f32 = 36.0;
const LEGEND_ROW: f32 = 22.0;
const SWATCH: f32 = 26.0;
/// Width of a label of a value at most, in units of its size.
const LABEL_ROOM: f32 = 12.0;
/// Width of a label of a step at most, in units of its size.
const TIME_ROOM: f32 = 24.0;
/// Between the first step and the edge of a panel.
const INSET: f32 = 8.0;

/// All shapes of a plot.
pub(super) fn drawing(plot: &SeriesPlot) -> Drawing {
    let panels = plot.shown();
    let height = panel_height(panels.len());
    let most_ticks = (height / 34.0) as usize;
    let axes: Vec<Option<ValueAxis>> = panels.iter().map(|panel| value_axis(panel, most_ticks)).collect();
    let labels = axes.iter().flatten().flat_map(|axis| &axis.ticks).map(|tick| width(&tick.label) * LABEL);
    let left = labels.fold(24.0, f32::max).min(LABEL_ROOM * LABEL) + 24.0;
    let mut sheet = Sheet { shapes: Vec::new(), times: Times::new(plot, left), bottom: TOP };
    sheet.title(&plot.title);
    sheet.legend(&legend(panels, plot.forecast_start), left);
    for (number, (panel, axis)) in panels.iter().zip(&axes).enumerate() {
        let frame = Frame { top: sheet.bottom + HEAD, height, axis: axis.as_ref() };
        sheet.name(number, panel, axis.as_ref());
        sheet.panel(&frame, panel);
        sheet.bottom = frame.top + height;
    }
    sheet.foot(plot);
    Drawing { size: [WIDTH as u32, sheet.bottom.ceil() as u32], background: PAPER, shapes: sheet.shapes }
}

/// Few panels are high.
fn panel_height(panels: usize) -> f32 {
    match panels {
        0 | 1 => 320.0,
        2 => 210.0,
        3 => 160.0,
        4 => 132.0,
        _ => 104.0,
    }
}

fn value_axis(panel: &Panel, most_ticks: usize) -> Option<ValueAxis> {
    ValueAxis::around(panel.values().flatten().copied(), most_ticks)
}

/// The axis of steps, which all panels share.
struct Times {
    left: f32,
    steps: usize,
    ticks: Vec<Tick<usize>>,
    /// In front of the forecast.
    start: Option<f32>,
}

impl Times {
    fn new(plot: &SeriesPlot, left: f32) -> Self {
        let steps = plot.steps();
        let room = WIDTH - RIGHT - left;
        let ticks = if plot.times.is_empty() {
            let widest = width(&(plot.first_step + steps).to_string()) * LABEL;
            step_ticks(plot.first_step, steps, ((room / (widest + 30.0)) as usize).min(10))
        } else {
            let labels = without_common_zeros(&plot.times);
            let labels: Vec<String> = labels.iter().map(|label| shortened(label, TIME_ROOM)).collect();
            let widest = labels.iter().map(|label| width(label) * LABEL).fold(0.0, f32::max);
            time_ticks(&labels, (room / (widest + 24.0)) as usize)
        };
        let mut times = Self { left, steps, ticks, start: None };
        let start = plot.forecast_start.filter(|start| (1..steps).contains(start));
        times.start = start.map(|start| (times.x(start - 1) + times.x(start)) / 2.0);
        times
    }

    fn x(&self, step: usize) -> f32 {
        let (from, to) = (self.left + INSET, WIDTH - RIGHT - INSET);
        // A single step lies in the middle.
        let share = if self.steps > 1 { step as f32 / (self.steps - 1) as f32 } else { 0.5 };
        from + (to - from) * share
    }
}

/// The place of one panel.
struct Frame<'a> {
    top: f32,
    height: f32,
    axis: Option<&'a ValueAxis>,
}

impl Frame<'_> {
    fn y(&self, value: f64) -> f32 {
        let share = self.axis.map_or(0.5, |axis| axis.share(value));
        self.top + self.height * (1.0 - share as f32)
    }
}

/// What a legend explains.
#[derive(Clone, Debug, PartialEq)]
enum Key {
    History,
    Observed,
    Median,
    /// The percentage, and the number of bands that lie on each other.
    Band(String, usize),
    TruthLine,
    TruthCircles,
    Start,
}

impl Key {
    fn text(&self) -> String {
        match self {
            Self::History => "history".into(),
            Self::Observed => "observed".into(),
            Self::Median => "median".into(),
            Self::Band(percent, _) => format!("{percent} % interval"),
            Self::TruthLine | Self::TruthCircles => "truth".into(),
            Self::Start => "start of forecast".into(),
        }
    }

    /// A sample at a place, one swatch wide.
    fn swatch(&self, [x, y]: [f32; 2]) -> Vec<Shape> {
        let line = |pen| Shape::Line(vec![[x, y], [x + SWATCH, y]], pen);
        let middle = [x + SWATCH / 2.0, y];
        match self {
            Self::History => vec![line(HISTORY_PEN)],
            Self::Observed => vec![line(OBSERVED_PEN), Shape::Disc(middle, 2.4, INK)],
            Self::Median => vec![line(MEDIAN_PEN)],
            Self::Band(_, layers) => {
                let (top, bottom) = (y - 6.0, y + 6.0);
                let outline = vec![[x, top], [x + SWATCH, top], [x + SWATCH, bottom], [x, bottom]];
                vec![Shape::Area(outline, ESTIMATE, BAND_OPACITY); *layers]
            }
            Self::TruthLine => vec![line(TRUTH_PEN)],
            Self::TruthCircles => vec![Shape::Circle(middle, 3.2, CIRCLE_PEN)],
            Self::Start => vec![Shape::Line(vec![[middle[0], y - 7.0], [middle[0], y + 7.0]], START_PEN)],
        }
    }
}

/// What there is to explain.
fn legend(panels: &[Panel], start: Option<usize>) -> Vec<Key> {
    let has = |values: &[f64]| values.iter().any(|value| is_drawn(*value));
    let any = |part: fn(&Panel) -> &[f64]| panels.iter().any(|panel| has(part(panel)));
    let mut keys = Vec::new();
    if any(|panel| &panel.observed) {
        keys.push(Key::Observed);
    }
    if panels.iter().any(|panel| has(&panel.history) && !has(&panel.observed)) {
        keys.push(Key::History);
    }
    if any(|panel| &panel.median) {
        keys.push(Key::Median);
    }
    let bands = panels.iter().map(|panel| &panel.bands[..]).max_by_key(|bands| bands.len()).unwrap_or(&[]);
    for (i, band) in bands.iter().enumerate().rev() {
        let percent = (band.level * 1000.0).round() / 10.0;
        keys.push(Key::Band(percent.to_string(), i + 1));
    }
    if panels.iter().any(|panel| has(&panel.truth) && !has(&panel.observed)) {
        keys.push(Key::TruthLine);
    }
    if panels.iter().any(|panel| has(&panel.truth) && has(&panel.observed)) {
        keys.push(Key::TruthCircles);
    }
    if start.is_some_and(|start| start > 0) && !panels.is_empty() {
        keys.push(Key::Start);
    }
    keys
}

/// The drawing as far as it is made.
struct Sheet {
    shapes: Vec<Shape>,
    times: Times,
    /// Where what comes next begins.
    bottom: f32,
}

impl Sheet {
    fn text(&mut self, text: &str, at: [f32; 2], size: f32, align: Align, color: Color) {
        self.shapes.push(Shape::Text(Text { text: text.into(), in_pixels: None, at, size, align, color }));
    }

    fn title(&mut self, title: &str) {
        if title.trim().is_empty() {
            return;
        }
        let title = shortened(title, (WIDTH - 2.0 * RIGHT) / TITLE);
        self.text(&title, [RIGHT, self.bottom + TITLE + 4.0], TITLE, Align::Left, INK);
        self.bottom += TITLE + 18.0;
    }

    fn legend(&mut self, keys: &[Key], left: f32) {
        if keys.is_empty() {
            return;
        }
        let mut x = left;
        let mut y = self.bottom + LEGEND_ROW / 2.0;
        for key in keys {
            let text = key.text();
            let end = x + SWATCH + 8.0 + width(&text) * LABEL;
            if end > WIDTH - RIGHT && x > left {
                (x, y) = (left, y + LEGEND_ROW);
            }
            self.shapes.extend(key.swatch([x, y]));
            self.text(&text, [x + SWATCH + 8.0, y + LABEL / 2.0], LABEL, Align::Left, INK);
            x += SWATCH + 8.0 + width(&text) * LABEL + 22.0;
        }
        self.bottom = y + LEGEND_ROW / 2.0;
    }

    /// The name of a panel above it, and what its labels are relative to.
    fn name(&mut self, number: usize, panel: &Panel, axis: Option<&ValueAxis>) {
        let baseline = self.bottom + HEAD - 9.0;
        let mut room = WIDTH - RIGHT - self.times.left;
        if let Some(base) = axis.and_then(|axis| axis.base.as_ref()) {
            let note = format!("labels: difference from {base}");
            self.text(&note, [WIDTH - RIGHT, baseline], LABEL, Align::Right, FAINT_INK);
            room -= width(&note) * LABEL + 24.0;
        }
        let text = shortened(&panel.name, room / NAME);
        let in_pixels = text.chars().any(|character| !has_glyph(character)).then(|| {
            let numbered = format!("{}: {}", number + 1, panel.name);
            shortened(&numbered, room / NAME)
        });
        let at = [self.times.left, baseline];
        let text = Text { text, in_pixels, at, size: NAME, align: Align::Left, color: INK };
        self.shapes.push(Shape::Text(text));
    }

    /// One variable.
    fn panel(&mut self, frame: &Frame, panel: &Panel) {
        self.grid(frame);
        if frame.axis.is_none() {
            let middle = [(self.times.left + WIDTH - RIGHT) / 2.0, frame.top + frame.height / 2.0 + LABEL / 2.0];
            self.text("no values", middle, LABEL, Align::Center, FAINT_INK);
            return;
        }
        let has_dots = panel.observed.iter().any(|value| is_drawn(*value));
        let known = if has_dots { &panel.observed } else { &panel.history };
        let stretches = stretches(&panel.median, known);
        for band in &panel.bands {
            for stretch in &stretches {
                self.band(frame, stretch, [&band.low, &band.high], known);
            }
        }
        self.values(frame, &panel.history, if has_dots { OBSERVED_PEN } else { HISTORY_PEN });
        if let Some(x) = self.times.start {
            self.shapes.push(Shape::Line(vec![[x, frame.top], [x, frame.top + frame.height]], START_PEN));
        }
        for stretch in &stretches {
            self.stretch(frame, stretch, &panel.median, known, MEDIAN_PEN);
        }
        if has_dots {
            self.dots(frame, &panel.truth, |center, radius| Shape::Circle(center, radius + 0.8, CIRCLE_PEN));
            self.dots(frame, &panel.observed, |center, radius| Shape::Disc(center, radius, INK));
        } else {
            for stretch in self::stretches(&panel.truth, known) {
                self.stretch(frame, &stretch, &panel.truth, known, TRUTH_PEN);
            }
        }
    }

    fn grid(&mut self, frame: &Frame) {
        let (left, right) = (self.times.left, WIDTH - RIGHT);
        self.shapes.push(Shape::Rectangle([left, frame.top], [right - left, frame.height], PANEL));
        let pen = Pen { color: GRID, width: 1.0, is_dashed: false };
        for tick in &self.times.ticks {
            let x = self.times.x(tick.position);
            self.shapes.push(Shape::Line(vec![[x, frame.top], [x, frame.top + frame.height]], pen));
        }
        for tick in frame.axis.map(|axis| &axis.ticks[..]).unwrap_or_default() {
            let y = frame.y(tick.position);
            self.shapes.push(Shape::Line(vec![[left, y], [right, y]], pen));
            let label = shortened(&tick.label, LABEL_ROOM);
            self.text(&label, [left - 8.0, y + LABEL / 2.0], LABEL, Align::Right, FAINT_INK);
        }
    }

    /// Values with gaps where they are missing.
    fn values(&mut self, frame: &Frame, values: &[f64], pen: Pen) {
        for stretch in stretches(values, &[]) {
            self.stretch(frame, &stretch, values, &[], pen);
        }
    }

    fn stretch(&mut self, frame: &Frame, stretch: &Stretch, values: &[f64], known: &[f64], pen: Pen) {
        let places: Vec<[f32; 2]> =
            stretch.all.clone().map(|step| [self.times.x(step), frame.y(stretch.value(values, known, step))]).collect();
        match places[..] {
            [single] => self.shapes.push(Shape::Disc(single, pen.width, pen.color)),
            _ => self.shapes.push(Shape::Line(thinned(&places), pen)),
        }
    }

    fn band(&mut self, frame: &Frame, stretch: &Stretch, sides: [&Vec<f64>; 2], known: &[f64]) {
        let [low, high] = sides.map(|side| {
            let place = |step| [self.times.x(step), frame.y(stretch.value(side, known, step))];
            let is_there = |step: &usize| stretch.value(side, known, *step).abs() <= f64::MAX;
            stretch.all.clone().filter(is_there).map(place).collect::<Vec<[f32; 2]>>()
        });
        if low.is_empty() || high.is_empty() {
            return;
        }
        // A step without neighbors is as wide as its dot.
        let widened = |side: Vec<[f32; 2]>| match side[..] {
            [[x, y]] => vec![[x - 3.0, y], [x + 3.0, y]],
            _ => thinned(&side),
        };
        let outline = widened(high).into_iter().chain(widened(low).into_iter().rev()).collect();
        self.shapes.push(Shape::Area(outline, ESTIMATE, BAND_OPACITY));
    }

    /// Dots, the smaller the closer they are; of those at one place one.
    fn dots(&mut self, frame: &Frame, values: &[f64], shape: impl Fn([f32; 2], f32) -> Shape) {
        let distance = (WIDTH - RIGHT - self.times.left) / self.times.steps.max(1) as f32;
        let radius = (distance * 0.35).clamp(1.2, 2.6);
        let mut drawn = std::collections::HashSet::new();
        for (step, value) in values.iter().enumerate().filter(|(_, value)| is_drawn(**value)) {
            let center = [self.times.x(step), frame.y(*value)];
            if drawn.insert(center.map(|place| (place * 2.0).round() as i32)) {
                self.shapes.push(shape(center, radius));
            }
        }
    }

    /// Labels of the steps, and what is left out.
    fn foot(&mut self, plot: &SeriesPlot) {
        let baseline = self.bottom + LABEL + 9.0;
        let mut free = 4.0;
        for tick in self.times.ticks.clone() {
            let half = width(&tick.label) * LABEL / 2.0;
            // What would stick out of the sheet is moved.
            let x = self.times.x(tick.position).max(half + 4.0).min(WIDTH - half - 4.0);
            if x - half < free {
                continue;
            }
            self.text(&tick.label, [x, baseline], LABEL, Align::Center, FAINT_INK);
            free = x + half + 8.0;
        }
        self.bottom += FOOT;
        if plot.times.is_empty() && !self.times.ticks.is_empty() {
            let middle = (self.times.left + WIDTH - RIGHT) / 2.0;
            self.text("step", [middle, baseline + 18.0], LABEL, Align::Center, FAINT_INK);
            self.bottom += 8.0;
        }
        let left_out = plot.panels.len() - plot.shown().len();
        let note = match left_out {
            0 if plot.panels.is_empty() => "no variables".to_string(),
            0 => return,
            1 => "1 more variable is not drawn".into(),
            more => format!("{more} more variables are not drawn"),
        };
        self.text(&note, [self.times.left, self.bottom + LABEL], LABEL, Align::Left, FAINT_INK);
        self.bottom += LABEL + 14.0;
    }
}

/// Steps without a gap, and the known ones next to them, which lines and bands are tied to.
#[derive(Clone, Debug, PartialEq)]
struct Stretch {
    own: Range<usize>,
    all: Range<usize>,
}

impl Stretch {
    fn value(&self, values: &[f64], known: &[f64], step: usize) -> f64 {
        let source = if self.own.contains(&step) { values } else { known };
        source.get(step).copied().filter(|value| is_drawn(*value)).unwrap_or(f64::NAN)
    }
}

/// The stretches of values that can be drawn.
fn stretches(values: &[f64], known: &[f64]) -> Vec<Stretch> {
    let is_known = |step: usize| known.get(step).is_some_and(|value| is_drawn(*value));
    let mut found = Vec::new();
    let mut step = 0;
    for part in values.chunk_by(|a, b| is_drawn(*a) == is_drawn(*b)) {
        let own = step..step + part.len();
        step = own.end;
        if is_drawn(part[0]) {
            let from = if own.start > 0 && is_known(own.start - 1) { own.start - 1 } else { own.start };
            let to = if is_known(own.end) { own.end + 1 } else { own.end };
            found.push(Stretch { own, all: from..to });
        }
    }
    found
}

/// Of the points of a line that share half a pixel's width the first, the lowest, the highest and the last: a line
/// through them looks the same.
fn thinned(points: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let mut thin = Vec::with_capacity(points.len());
    for column in points.chunk_by(|a, b| (a[0] * 2.0).floor() == (b[0] * 2.0).floor()) {
        let by_height = |i: &usize, j: &usize| column[*i][1].total_cmp(&column[*j][1]);
        let lowest = (0..column.len()).min_by(by_height).unwrap_or(0);
        let highest = (0..column.len()).max_by(by_height).unwrap_or(0);
        let mut kept = vec![0, lowest, highest, column.len() - 1];
        kept.sort_unstable();
        kept.dedup();
        thin.extend(kept.into_iter().map(|i| column[i]));
    }
    thin
}
