//! Evaluations as a table, as CSV and as a plot.

use std::fmt::Write;

use super::metrics::{Evaluation, Measurement};
use super::record::SamplingSettings;

/// Beyond this many sets, a set is a row of the table and not a column.
const COLUMNS: usize = 3;
/// No line of a table is longer.
const WIDTH: usize = 100;
/// Between two columns.
const GAP: usize = 2;
/// Least and greatest width that the title of a set is broken into lines of.
const TITLE: (usize, usize) = (13, 24);

/// The metrics that a row has room for: how their names begin, and the titles of their columns.
const SHORT: [(&str, &str); 10] = [
    ("FID", "FID"),
    ("FD", "FD"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("novelty", "novelty"),
    ("chamfer distance, squared", "chamfer"),
    ("sliced Wasserstein-2", "sliced W2"),
    ("energy distance", "energy"),
    ("bits/dim (bound)", "bpd bound"),
    ("bits/dim (ode)", "bpd ode"),
];

/// Whether the table has only some of the numbers.
pub fn is_short(evaluations: &[Evaluation]) -> bool {
    evaluations.len() > COLUMNS
}

/// A table of at most `WIDTH` columns: of few sets all numbers, of many the most important ones. The first `drawn`
/// sets were drawn from snapshots.
pub fn table(evaluations: &[Evaluation], drawn: usize) -> String {
    let mut head = Vec::new();
    let one_reference = evaluations.windows(2).all(|pair| pair[0].against == pair[1].against);
    if let (true, Some(first)) = (one_reference, evaluations.first()) {
        head.push(format!("reference: {}", first.against));
    }
    let mut names: Vec<String> = evaluations.iter().map(|evaluation| evaluation.of.clone()).collect();
    if is_short(evaluations) {
        head.splice(0..0, take_common(&mut names[..drawn]));
    }
    for (name, evaluation) in names.iter_mut().zip(evaluations) {
        *name += &format!(" ({})", evaluation.count);
        if !one_reference {
            *name += &format!(" vs {}", evaluation.against);
        }
    }
    let rows = match is_short(evaluations) {
        true => rows_of_sets(evaluations, names, "set (count)", &SHORT),
        false => columns_of_sets(evaluations, &names),
    };
    let head: String = head.iter().map(|line| shortened(line, WIDTH) + "\n").collect();
    head + &aligned(&rows)
}

/// Takes out of the names what all have in common, and gives it as a line.
fn take_common(names: &mut [String]) -> Option<String> {
    let all: Vec<Vec<String>> = names.iter().map(|name| name.split(", ").map(String::from).collect()).collect();
    let is_common = |part: &&String| all.len() > 1 && all.iter().all(|parts| parts.contains(part));
    let common: Vec<&str> = all.first()?.iter().filter(is_common).map(String::as_str).collect();
    let own = |parts: &Vec<String>| {
        parts.iter().filter(|part| !is_common(part)).map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let own: Vec<String> = all.iter().map(own).collect();
    // Sets of one name stay what they are called.
    if common.is_empty() || own.iter().any(String::is_empty) {
        return None;
    }
    names.clone_from_slice(&own);
    Some(format!("samples: {}", common.join(", ")))
}

/// The same for reconstructions and what they are compared with.
const OF_RECONSTRUCTIONS: [(&str, &str); 9] = [
    ("MSE", "MSE"),
    ("PSNR", "PSNR"),
    ("rFID", "rFID"),
    ("rFD", "rFD"),
    ("-ELBO", "-ELBO"),
    ("-ln p(x)", "-ln p(x)"),
    ("bits/dim", "bits/dim"),
    ("MIG", "MIG"),
    ("FactorVAE", "FactorVAE"),
];

/// A table of reconstructions of some items and of what they are compared with, a row for each.
pub fn table_of_reconstructions(evaluations: &[Evaluation]) -> String {
    let Some(first) = evaluations.first() else { return String::new() };
    let names = evaluations.iter().map(|evaluation| evaluation.of.clone()).collect();
    let head = shortened(&format!("reconstructions of {} {}", first.count, first.against), WIDTH);
    format!("{head}\n{}", aligned(&rows_of_sets(evaluations, names, "model", &OF_RECONSTRUCTIONS)))
}

/// The same for models of series and their baselines; of all estimators of the CRPS the one of CSDI.
const OF_SERIES: [(&str, &str); 7] = [
    ("CRPS, linear quantiles", "CRPS"),
    ("CRPS-sum, linear quantiles", "CRPS-sum"),
    ("MAE of the median", "MAE"),
    ("RMSE of the median", "RMSE"),
    ("MASE", "MASE"),
    ("coverage of 50 %", "50 %"),
    ("coverage of 90 %", "90 %"),
];
/// Of these there is a table for each variable.
const OF_VARIABLES: &str = "CRPS, linear quantiles";
/// A table has no room for more variables.
const MOST_VARIABLES: usize = 7;

/// Tables of a model of series and of its baselines, a row for each: of all variables, and of each where there are few.
/// What was left out is below.
pub fn table_of_series(evaluations: &[Evaluation]) -> String {
    let Some(first) = evaluations.first() else { return String::new() };
    let names: Vec<String> = evaluations.iter().map(|evaluation| evaluation.of.clone()).collect();
    let head = shortened(&first.against, WIDTH);
    let all = aligned(&rows_of_sets(evaluations, names.clone(), "CRPS by linear quantiles", &OF_SERIES));
    let of_variables = first.measured.iter().filter_map(|measured| {
        let name = measured.metric.strip_prefix(OF_VARIABLES)?.strip_prefix("; ")?;
        Some((measured.metric.as_str(), name))
    });
    let columns: Vec<(&str, &str)> = of_variables.collect();
    let each = match columns.len() {
        1..=MOST_VARIABLES => "\n".to_string() + &aligned(&rows_of_sets(evaluations, names, "CRPS of", &columns)),
        _ => String::new(),
    };
    let warnings: String = first.warnings.iter().map(|warning| format!("{warning}\n")).collect();
    format!("{head}\n{all}{each}{warnings}")
}

/// A row for each set, with those of the metrics that there are.
fn rows_of_sets(
    evaluations: &[Evaluation],
    names: Vec<String>,
    title: &str,
    metrics: &[(&str, &str)],
) -> Vec<Vec<String>> {
    let columns: Vec<(&str, &str)> = metrics
        .iter()
        .copied()
        .filter(|(metric, _)| evaluations.iter().any(|evaluation| evaluation.value(metric).is_some()))
        .collect();
    let numbers =
        |evaluation: &Evaluation| columns.iter().map(|(metric, _)| cell(evaluation.value(metric))).collect::<Vec<_>>();
    let mut rows = vec![columns.iter().map(|(_, title)| title.to_string()).collect::<Vec<_>>()];
    rows.extend(evaluations.iter().map(numbers));
    let taken: usize = widths(&rows).iter().map(|width| width + GAP).sum();
    let names = std::iter::once(title.to_string()).chain(names);
    let names = names.map(|name| shortened(&name, WIDTH.saturating_sub(taken)));
    names.zip(rows).map(|(name, row)| std::iter::once(name).chain(row).collect()).collect()
}

/// A row for each metric, with a column for each set.
fn columns_of_sets(evaluations: &[Evaluation], names: &[String]) -> Vec<Vec<String>> {
    let mut metrics: Vec<&str> = Vec::new();
    for metric in
        evaluations.iter().flat_map(|evaluation| &evaluation.measured).map(|measured| measured.metric.as_str())
    {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let number = |evaluation: &Evaluation, metric: &str| {
        cell(evaluation.measured.iter().find(|measured| measured.metric == metric))
    };
    let longest = metrics.iter().map(|metric| metric.chars().count()).max().unwrap_or_default();
    let room = (WIDTH.saturating_sub(longest) / evaluations.len().max(1)).saturating_sub(GAP);
    let word = names.iter().flat_map(|name| name.split(' ')).map(|word| word.chars().count()).max();
    let width = word.unwrap_or_default().clamp(TITLE.0, TITLE.1).min(room);
    let titles: Vec<Vec<String>> = names.iter().map(|name| broken(name, width)).collect();
    let height = titles.iter().map(Vec::len).max().unwrap_or_default();
    let title = |line: usize| {
        // The last lines of all titles stand right above the numbers.
        let of_set = |title: &Vec<String>| (line + title.len()).checked_sub(height).map(|k| title[k].clone());
        let cells = titles.iter().map(|title| of_set(title).unwrap_or_default());
        std::iter::once(String::new()).chain(cells).collect()
    };
    let mut rows: Vec<Vec<String>> = (0..height).map(title).collect();
    rows.extend(metrics.iter().map(|metric| {
        std::iter::once(metric.to_string())
            .chain(evaluations.iter().map(|evaluation| number(evaluation, metric)))
            .collect()
    }));
    rows
}

fn cell(measured: Option<&Measurement>) -> String {
    match measured {
        None => "-".into(),
        Some(Measurement { value, deviation: Some(deviation), .. }) => {
            format!("{} +- {}", rounded(*value), with_digits(*deviation, 2))
        }
        Some(Measurement { value, .. }) => rounded(*value),
    }
}

/// The end of a text that is too long, where names differ.
fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_string();
    }
    let end = text.chars().skip(length + 1 - width.max(1));
    std::iter::once('…').chain(end).collect()
}

/// A text in lines of at most this width.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').map(|word| shortened(word, width)) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    (0..columns).map(|column| width(column).unwrap_or_default()).collect()
}

fn aligned(rows: &[Vec<String>]) -> String {
    let widths = widths(rows);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Four significant digits, whatever the size.
pub fn rounded(value: f64) -> String {
    with_digits(value, 4)
}

fn with_digits(value: f64, digits: i64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (digits - 1 - value.abs().log10().floor() as i64).clamp(0, 9) as usize;
    format!("{value:.decimals$}")
}

/// One line for each metric of each set. The first sets were sampled with these settings, in the same order.
pub fn csv(evaluations: &[Evaluation], sampled: &[&SamplingSettings]) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "set",
        "against",
        "metric",
        "value",
        "deviation",
        "step",
        "width",
        "sampler",
        "sampler_steps",
        "seed",
        "guidance",
        "options",
    ])?;
    for (place, evaluation) in evaluations.iter().enumerate() {
        let settings: [String; 7] = sampled.get(place).map_or_else(Default::default, |settings| {
            let width = settings.width.map_or("usual".into(), |width| width.to_string());
            let [step, steps, seed] =
                [settings.step, settings.sampler_steps as u64, settings.seed].map(|number| number.to_string());
            let options = settings.options.iter().map(|(name, value)| format!("{name}={value}"));
            let options = options.collect::<Vec<_>>().join(" ");
            [step, width, settings.sampler.clone(), steps, seed, settings.guidance.to_string(), options]
        });
        for measured in &evaluation.measured {
            let deviation = measured.deviation.map(|deviation| deviation.to_string()).unwrap_or_default();
            let value = measured.value.to_string();
            let first = [&evaluation.of, &evaluation.against, &measured.name, &value, &deviation];
            table.write_record(first.into_iter().chain(&settings))?;
        }
    }
    table.into_inner().map_err(|error| error.into_error().into())
}

/// A line of a plot: its name and its points.
pub type Line = (String, Vec<[f64; 2]>);

/// Colors that differ for the color-blind too.
const COLORS: [&str; 6] = ["#c05a3e", "#4e698c", "#5a8f5a", "#a07a2e", "#7d5a8c", "#4a4e54"];

/// How an axis of a plot counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// In decades, of numbers above 0.
    Logarithmic,
}

impl Scale {
    /// A range with some room around the values.
    fn range(self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let values = values.filter(|value| self == Self::Linear || *value > 0.0);
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        match (self, low < high) {
            (Self::Linear, true) => (low - 0.04 * (high - low), high + 0.04 * (high - low)),
            (Self::Linear, false) => (low.min(1e300) - 1.0, high.max(-1e300) + 1.0),
            (Self::Logarithmic, true) => (low / 1.08, high * 1.08),
            // A decade for what has no extent.
            (Self::Logarithmic, false) => (low.min(1e300) / 3.0, high.max(1e-300) * 3.0),
        }
    }

    /// Where a value lies in a range, from 0 to 1.
    fn share(self, value: f64, (low, high): (f64, f64)) -> f64 {
        match self {
            Self::Linear => (value - low) / (high - low),
            Self::Logarithmic => (value.max(low) / low).ln() / (high / low).ln(),
        }
    }
}

/// An SVG of lines over an axis with a name, and of horizontal marks; the values are on a logarithmic axis.
pub fn plot(title: &str, (x_name, x_scale): (&str, Scale), lines: &[Line], marks: &[(String, f64)]) -> String {
    let sorted = |(name, points): &Line| {
        let mut points = points.clone();
        points.sort_by(|a, b| a[0].total_cmp(&b[0]));
        (name.clone(), points)
    };
    let lines: Vec<Line> = lines.iter().map(sorted).collect();
    let mut plot = Plot::new(x_scale, &lines, marks);
    plot.text(LEFT, TOP - 24.0, "start", INK, title);
    plot.text((LEFT + PLOT_WIDTH - RIGHT) / 2.0, PLOT_HEIGHT - 12.0, "middle", INK, x_name);
    plot.x_labels(&lines);
    let ticks = ticks(plot.ys.0, plot.ys.1);
    plot.y_labels(&ticks);
    plot.names(&lines, marks);
    plot.grid(&ticks, marks);
    plot.curves(&lines);
    plot.svg + "</svg>\n"
}

const PLOT_WIDTH: f64 = 760.0;
const PLOT_HEIGHT: f64 = 460.0;
/// About the width of a letter.
const GLYPH_WIDTH: f64 = 7.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 56.0;
const INK: &str = "#464a50";
const FAINT_INK: &str = "#787c82";

/// An SVG in the making, with its axes.
struct Plot {
    svg: String,
    x_scale: Scale,
    xs: (f64, f64),
    ys: (f64, f64),
}

impl Plot {
    /// The scale of the values.
    const Y_SCALE: Scale = Scale::Logarithmic;

    fn new(x_scale: Scale, lines: &[Line], marks: &[(String, f64)]) -> Self {
        let points = || lines.iter().flat_map(|(_, points)| points);
        let xs = x_scale.range(points().map(|point| point[0]));
        let ys = Self::Y_SCALE.range(points().map(|point| point[1]).chain(marks.iter().map(|mark| mark.1)));
        // The names at the right have room, however long they are.
        let names = lines.iter().map(|(name, _)| name).chain(marks.iter().map(|(name, _)| name));
        let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let width = f64::max(PLOT_WIDTH, PLOT_WIDTH - RIGHT + 16.0 + GLYPH_WIDTH * longest as f64);
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {PLOT_HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
             <rect width=\"{width}\" height=\"{PLOT_HEIGHT}\" fill=\"#ffffff\"/>\n"
        );
        Self { svg, x_scale, xs, ys }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x_scale.share(value, self.xs) * (PLOT_WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        PLOT_HEIGHT - BOTTOM - Self::Y_SCALE.share(value, self.ys) * (PLOT_HEIGHT - TOP - BOTTOM)
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, color: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>"
        );
    }

    /// Places of the points on the horizontal axis, about eight of them.
    fn x_labels(&mut self, lines: &[Line]) {
        let mut places: Vec<f64> = lines.iter().flat_map(|(_, points)| points).map(|point| point[0]).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let every = places.len().div_ceil(8).max(1);
        for x in places.iter().step_by(every) {
            self.text(self.x(*x), PLOT_HEIGHT - BOTTOM + 20.0, "middle", INK, &x.to_string());
        }
    }

    fn y_labels(&mut self, ticks: &[f64]) {
        for tick in ticks {
            self.text(LEFT - 8.0, self.y(*tick) + 4.0, "end", INK, &tick.to_string());
        }
    }

    /// Names at the right end, moved apart where they would overlap.
    fn names(&mut self, lines: &[Line], marks: &[(String, f64)]) {
        let mut names: Vec<(f64, String, &str)> = Vec::new();
        for (k, (name, points)) in lines.iter().enumerate() {
            let end = points.iter().max_by(|a, b| a[0].total_cmp(&b[0]));
            names.extend(end.map(|end| (self.y(end[1]), name.clone(), COLORS[k % COLORS.len()])));
        }
        names.extend(marks.iter().map(|(name, y)| (self.y(*y), name.clone(), FAINT_INK)));
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = TOP - 10.0;
        for (y, name, color) in names {
            let at = y.max(free);
            self.text(PLOT_WIDTH - RIGHT + 10.0, at + 4.0, "start", color, &name);
            free = at + 16.0;
        }
    }

    fn grid(&mut self, ticks: &[f64], marks: &[(String, f64)]) {
        let end = PLOT_WIDTH - RIGHT;
        for tick in ticks {
            let y = self.y(*tick);
            let _ = writeln!(self.svg, "<path d=\"M{LEFT} {y:.1}H{end:.1}\" stroke=\"#e6e6e2\"/>");
        }
        for (_, y) in marks {
            let y = self.y(*y);
            let _ = writeln!(
                self.svg,
                "<path d=\"M{LEFT} {y:.1}H{end:.1}\" stroke=\"{FAINT_INK}\" stroke-dasharray=\"5 4\"/>"
            );
        }
    }

    fn curves(&mut self, lines: &[Line]) {
        for (k, (_, points)) in lines.iter().enumerate() {
            let color = COLORS[k % COLORS.len()];
            let places: Vec<[f64; 2]> = points.iter().map(|[x, y]| [self.x(*x), self.y(*y)]).collect();
            let path: Vec<String> = places.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
            let path = path.join(" ");
            let _ =
                writeln!(self.svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>");
            for [x, y] in places {
                let _ = writeln!(self.svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"/>");
            }
        }
    }
}

/// 1, 2 and 5 times powers of ten; of many decades only the powers.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let steps: &[f64] = if high / low > 1000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = decades.flat_map(|decade| steps.iter().map(move |step| (decade, *step)));
    // Parsed, because 10^-3 in binary would be printed with all its digits.
    let value = |(decade, step): (i32, f64)| format!("{step}e{decade}").parse::<f64>().unwrap_or(step);
    all.map(value).filter(|tick| (low..=high).contains(tick)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Measurement;

    fn evaluation(of: &str, value: f64) -> Evaluation {
        let one = |metric: &str, deviation| Measurement {
            metric: metric.into(),
            name: format!("{metric} (pixels; {of})"),
            value,
            deviation,
        };
        let metrics = ["FD", "precision, k = 3", "recall, k = 3", "density, k = 3", "coverage, k = 3", "novelty"];
        let shares = ["least share of 10 classes as seen", "largest share of 10 classes as seen"];
        let mut measured: Vec<Measurement> =
            metrics.into_iter().chain(shares).map(|metric| one(metric, None)).collect();
        measured.push(one("KID, 100 subsets of 1000", Some(0.123_44)));
        let against = "digits test".into();
        Evaluation { of: of.into(), count: 1000, against, measured, class_shares: Vec::new(), warnings: Vec::new() }
    }

    fn widest(table: &str) -> usize {
        table.lines().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn a_set_with_its_floors_has_all_numbers_in_a_narrow_table() {
        let real = Evaluation { against: "digits test".into(), ..evaluation("real: digits train", 0.0) };
        let gaussian = evaluation("Gaussian of the pixels", 4321.0);
        let sets = [evaluation("digits step 2000, ddim 50", -12.3456), real.clone(), gaussian.clone()];
        let few = table(&sets, 1);
        assert!(few.starts_with("reference: digits test\n"), "{few}");
        for part in ["Gaussian of", "(1000)", "\nFD", " -12.35 ", "-12.35 +- 0.12", "\ndensity, k = 3"] {
            assert!(few.contains(part), "{part}: {few}");
        }
        assert!(widest(&few) <= 82, "{few}");

        // Long names, each with another reference.
        let long = "/a/long/path/to/a/folder/with/many/images/which/are/all/on/a/large/disk";
        let points = "chamfer distance, squared and summed both ways";
        let mut sets = [long, "real: one half", "Gaussian of the pixels"].map(|of| evaluation(of, -1234.5));
        sets[1].against = format!("the other half of {long}");
        sets[0].measured[0].metric = points.into();
        let few = table(&sets, 0);
        assert!(widest(&few) <= WIDTH && few.contains("/large/disk") && few.contains(points), "{few}");
        assert!(!is_short(&sets) && few.contains("vs digits"), "{few}");
    }

    #[test]
    fn many_sets_are_rows_that_say_how_they_differ() {
        let name = |k: usize| format!("digits step 2000, unipc {}, guidance {}, eta 0.5", 5 * (k / 3 + 1), k % 3);
        let mut sets: Vec<Evaluation> = (0..9).map(|k| evaluation(&name(k), 1234.5 * k as f64)).collect();
        sets.push(evaluation("real: digits train", 5.0));
        let many = table(&sets, 9);
        assert!(many.starts_with("samples: digits step 2000, eta 0.5\nreference: digits test\nset (count)"), "{many}");
        assert!(many.contains("\nunipc 10, guidance 2 (1000) "), "{many}");
        for title in ["FD", "precision", "recall", "novelty"] {
            assert!(many.lines().nth(2).unwrap().contains(title), "{many}");
        }
        assert!(widest(&many) <= 80 && is_short(&sets), "{many}");

        // A name that is too long keeps its end, where sets differ.
        sets[0].of = format!("{} step 1000, ddim 50", "experiment".repeat(20));
        let many = table(&sets, 9);
        assert!(widest(&many) <= WIDTH && many.contains("step 1000, ddim 50 (1000) "), "{many}");
    }

    #[test]
    fn every_number_is_a_line_of_csv_with_how_it_was_drawn() {
        let settings = SamplingSettings {
            step: 7,
            width: Some(0.05),
            sampler: "ddim".into(),
            sampler_steps: 50,
            levels: "sgm-uniform".into(),
            guidance: 1.5,
            seed: 3,
            options: [("eta".to_string(), "0.5".to_string()), ("class".into(), "3".into())].into(),
        };
        let bytes = csv(&[evaluation("samples", 1.5), evaluation("real", 1.0)], &[&settings]).unwrap();
        let lines = String::from_utf8(bytes).unwrap();
        let samples = "samples,digits test,FD (pixels; samples),1.5,,7,0.05,ddim,50,3,1.5,class=3 eta=0.5\n";
        assert!(lines.contains(samples), "{lines}");
        assert!(lines.contains("real,digits test,FD (pixels; real),1,,,,,,,,\n"), "{lines}");
    }

    #[test]
    fn reconstructions_have_a_row_each_and_the_columns_that_are_measured() {
        let measured =
            |metric: &str, value| Measurement { metric: metric.into(), name: metric.into(), value, deviation: None };
        let evaluation = |of: &str, measured| Evaluation {
            of: of.into(),
            count: 360,
            against: "digits test items".into(),
            measured,
            class_shares: Vec::new(),
            warnings: Vec::new(),
        };
        let vae = evaluation("vae step 7", vec![measured("MSE", 0.0125), measured("-ELBO, nats", 17.5)]);
        let table =
            table_of_reconstructions(&[vae, evaluation("independent pixels", vec![measured("-ln p(x), nats", 24.0)])]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "reconstructions of 360 digits test items");
        let cells = |line: &str| {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(cells(lines[1]), ["model", "MSE", "-ELBO", "-ln p(x)"]);
        assert_eq!(cells(lines[2]), ["vae step 7", "0.01250", "17.50", "-"]);
        assert_eq!(cells(lines[3]), ["independent pixels", "-", "-", "24.00"]);
        assert_eq!(table_of_reconstructions(&[]), "");
    }

    #[test]
    fn numbers_have_four_digits() {
        let found = [12345.6, 12.3456, 0.00123456, -0.5, 0.0, f64::NAN].map(rounded);
        assert_eq!(found, ["12346", "12.35", "0.001235", "-0.5000", "0", "NaN"]);
    }

    #[test]
    fn plots_are_drawn_with_their_names() {
        let lines = vec![("ddim".to_string(), vec![[5.0, 30.0], [50.0, 3.0]])];
        let svg = plot("FD (a < b)", ("steps", Scale::Logarithmic), &lines, &[("real".into(), 1.0)]);
        for part in ["ddim", "real", "a &lt; b", ">5<", ">50<", "polyline", "</svg>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert_eq!(ticks(0.9, 30.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
        for scale in [Scale::Linear, Scale::Logarithmic] {
            assert!(!plot("one", ("steps", scale), &[("a".into(), vec![[1.0, 1.0]])], &[]).contains("NaN"));
        }
        // Zero has a place on a linear axis, and lines go from left to right in whatever order they were given.
        let lines = vec![("ddim 50".to_string(), vec![[2.0, 10.0], [0.0, 10.0], [1.0, 10.0]])];
        let svg = plot("FD", ("guidance scale", Scale::Linear), &lines, &[]);
        let line = svg.split("<polyline points=\"").nth(1).unwrap().split('"').next().unwrap();
        let xs: Vec<f64> = line.split(' ').map(|point| point.split(',').next().unwrap().parse().unwrap()).collect();
        assert!((xs[1] - xs[0] - (xs[2] - xs[1])).abs() < 0.2 && xs[0] < xs[1] && svg.contains(">0<"), "{svg}");
    }
}
