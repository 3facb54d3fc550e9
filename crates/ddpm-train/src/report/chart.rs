//! Curves as SVG: no script, colours from the page's style sheet.

use std::fmt::Write;

/// One curve.
pub struct Series {
    /// What the legend calls it.
    pub label: String,
    /// Which of the page's colours it has.
    pub color: usize,
    /// Points, by rising x.
    pub points: Vec<(f64, f64)>,
    /// Drawn faintly and left out of the legend: what another curve smooths.
    pub faint: bool,
}

/// A titled set of curves over steps.
pub struct Chart {
    /// What is drawn.
    pub title: String,
    /// Whether the axis may be logarithmic, if the curves span that much.
    pub may_be_logarithmic: bool,
    /// The curves.
    pub series: Vec<Series>,
    /// Dashed lines to compare the curves with, and their names.
    pub marks: Vec<(String, f64)>,
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// Width of a digit, or more.
const DIGIT: f64 = 7.0;

/// Colours of the style sheet.
pub const COLORS: usize = 6;

/// Points that a curve is drawn with: more could not be told apart.
const DETAIL: usize = 400;

/// A curve that spans more than this factor has a logarithmic axis.
pub const LOGARITHMIC_FROM: f64 = 20.0;

impl Chart {
    /// The figure, or nothing if there are no two points to join.
    pub fn svg(&self) -> Option<String> {
        let series: Vec<&Series> = self.series.iter().filter(|series| series.points.len() > 1).collect();
        let xs = Axis::over(series.iter().flat_map(|series| series.points.iter().map(|point| point.0)), false)?;
        let marks = self.marks.iter().map(|mark| mark.1);
        let ys = Axis::over(
            series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).chain(marks),
            self.may_be_logarithmic,
        )?;
        let place = |(x, y): (f64, f64)| {
            let x = LEFT + xs.share(x) * (WIDTH - LEFT - RIGHT);
            let y = HEIGHT - BOTTOM - ys.share(y) * (HEIGHT - TOP - BOTTOM);
            (x, y)
        };
        let mut svg = format!(
            "<figure><figcaption>{}{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title),
            if ys.logarithmic { " <small>(logarithmic)</small>" } else { "" },
            escape(&self.title),
        );
        for tick in ys.ticks() {
            let (_, y) = place((xs.from, tick));
            let right = WIDTH - RIGHT;
            let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(tick)
            );
        }
        for tick in xs.ticks() {
            let (x, _) = place((tick, ys.from));
            let (label, y) = (short(tick), HEIGHT - 8.0);
            // What would reach beyond the picture ends at its tick.
            let is_cut = x + label.len() as f64 * DIGIT / 2.0 > WIDTH;
            let anchor = if is_cut { "end" } else { "middle" };
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{label}</text>");
        }
        for series in &series {
            let points: Vec<String> =
                thinned(&series.points).into_iter().map(&place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let class = if series.faint { "curve faint" } else { "curve" };
            let color = color_class(series.color);
            let _ = write!(svg, "<polyline class=\"{class} {color}\" points=\"{}\"/>", points.join(" "));
        }
        for (name, height) in &self.marks {
            let (right, y) = (WIDTH - RIGHT, place((xs.from, *height)).1);
            let _ = write!(svg, "<path class=\"mark\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            // Beneath the line where there is no room above.
            let beside = if y < TOP + 14.0 { y + 13.0 } else { y - 4.0 };
            let _ = write!(
                svg,
                "<text class=\"name\" x=\"{right}\" y=\"{beside:.1}\" text-anchor=\"end\">{}</text>",
                escape(name)
            );
        }
        svg.push_str("</svg><p class=\"legend\">");
        for series in series.iter().filter(|series| !series.faint) {
            let last = series.points.last().map_or(f64::NAN, |point| point.1);
            let (label, color) = (escape(&series.label), color_class(series.color));
            let _ = write!(svg, "<span><i class=\"{color}\"></i>{label} <b>{}</b></span> ", short(last));
        }
        svg.push_str("</p></figure>");
        Some(svg)
    }
}

/// The classes of a colour; where all have been used, the curves are dashed.
fn color_class(color: usize) -> String {
    let again = if color < COLORS { "" } else { " again" };
    format!("c{}{again}", color % COLORS)
}

/// A stretch of numbers.
struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// The axis that holds all of them; logarithmic if it may be and they differ that much.
    fn over(values: impl Iterator<Item = f64>, may_be_logarithmic: bool) -> Option<Self> {
        let (from, to) = values.fold(None, |range: Option<(f64, f64)>, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        })?;
        let logarithmic = may_be_logarithmic && from > 0.0 && to / from > LOGARITHMIC_FROM;
        // A curve that stands still lies in the middle.
        let margin = if from == to { if from == 0.0 { 1.0 } else { from.abs() * 0.1 } } else { 0.0 };
        Some(Self { from: from - margin, to: to + margin, logarithmic })
    }

    /// Where on the axis a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.ln() } else { value };
        (scale(value) - scale(self.from)) / (scale(self.to) - scale(self.from))
    }

    /// Round numbers on the axis.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let [first, last] = [self.from, self.to].map(|value| value.log10().floor() as i32);
            let mantissas: &[f64] = if last - first > 2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let every = ((last - first) / 8 + 1) as usize;
            return (first..=last)
                .step_by(every)
                .flat_map(|power| mantissas.iter().map(move |mantissa| mantissa * 10_f64.powi(power)))
                .filter(|tick| (self.from..=self.to).contains(tick))
                .collect();
        }
        let rough = (self.to - self.from) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|mantissa| mantissa * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.from / step - 1e-9).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|k| k as f64 * step).collect()
    }
}

/// Means of neighbours, so that at most [`DETAIL`] points are left.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
    };
    points.chunks(points.len().div_ceil(DETAIL).max(1)).map(mean).collect()
}

/// The mean around each point, over about a twentieth of the curve.
pub fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 40;
    let around = |k: usize| {
        // As far to one side as to the other, so that the curve is not shifted.
        let reach = reach.min(k).min(points.len() - 1 - k);
        let near = &points[k - reach..=k + reach];
        (points[k].0, near.iter().map(|point| point.1).sum::<f64>() / near.len() as f64)
    };
    (0..points.len()).map(around).collect()
}

/// A number in few characters.
pub fn short(value: f64) -> String {
    let trimmed = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    };
    match value.abs() {
        0.0 => "0".into(),
        size if !size.is_finite() => "–".into(),
        size if !(1e-3..1e7).contains(&size) => {
            let power = size.log10().floor() as i32;
            format!("{}e{power}", trimmed(format!("{:.2}", value / 10_f64.powi(power))))
        }
        size if size >= 1e4 => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        size => trimmed(format!("{value:.*}", (3 - size.log10().floor() as i32).clamp(0, 6) as usize)),
    }
}

/// Text as it may stand in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ticks(from: f64, to: f64) -> Vec<f64> {
        Axis::over([from, to].into_iter(), true).unwrap().ticks()
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(-0.9, 1.1), [-0.5, 0.0, 0.5, 1.0]);
        assert_eq!(ticks(0.03, 0.9), [0.05, 0.1, 0.2, 0.5]);
        assert_eq!(ticks(7.0, 7.0), [6.5, 7.0, 7.5], "a curve that stands still has an axis too");
    }

    #[test]
    fn curves_are_drawn_from_edge_to_edge() {
        let points = vec![(0.0, 2.0), (50.0, 3.0), (100.0, 1.0)];
        let chart = |points| Chart {
            title: "a < b".into(),
            may_be_logarithmic: false,
            series: vec![Series { label: "one".into(), color: 7, points, faint: false }],
            marks: vec![("floor".into(), 2.0)],
        };
        let svg = chart(points).svg().unwrap();
        assert!(svg.contains("a &lt; b") && svg.contains("class=\"curve c1 again\""), "{svg}");
        assert!(svg.contains("points=\"58.0,117.0 263.0,10.0 468.0,224.0\""), "{svg}");
        assert!(svg.contains("class=\"mark\" d=\"M58 117.0H468\"") && svg.contains(">floor</text>"), "{svg}");
        assert!(chart(vec![(0.0, 1.0)]).svg().is_none());
        // The last number of the axis is not cut by the edge of the picture.
        let svg = chart(vec![(0.0, 1.0), (2000.0, 2.0)]).svg().unwrap();
        assert!(svg.contains("<text x=\"468.0\" y=\"242.0\" text-anchor=\"end\">2000</text>"), "{svg}");
        assert!(svg.contains("<text x=\"58.0\" y=\"242.0\" text-anchor=\"middle\">0</text>"), "{svg}");
    }

    #[test]
    fn smoothing_keeps_a_line_and_thinning_the_mean() {
        let line: Vec<(f64, f64)> = (0..1000).map(|x| (f64::from(x), 3.0 * f64::from(x))).collect();
        assert!(smoothed(&line).iter().all(|(x, y)| (y - 3.0 * x).abs() < 1e-9));
        let zigzag: Vec<(f64, f64)> = (0..1000).map(|x| (f64::from(x), f64::from(x % 2))).collect();
        assert!(smoothed(&zigzag)[100..900].iter().all(|(_, y)| (y - 0.5).abs() < 0.02));
        let thin = thinned(&line);
        assert!(thin.len() <= DETAIL);
        assert_eq!(thin[0], (1.0, 3.0));
    }

    #[test]
    fn numbers_are_short() {
        let found = [0.0, 0.03125, 1234.0, 20_000.0, 1e-5, 2.5e8, 0.5].map(short);
        assert_eq!(found, ["0", "0.03125", "1234", "20k", "1e-5", "2.5e8", "0.5"]);
    }
}
