//! Verdicts as people and programs read them: a table, CSV and a plot.

use std::fmt::Write;

use super::judge::Verdict;
use super::record::How;

/// Beyond this many sets, a set is a row of the table and not a column.
const COLUMNS: usize = 3;

/// All numbers of all sets, the first of which were drawn as `hows` say.
pub fn table(verdicts: &[Verdict], hows: &[&How]) -> String {
    let mut metrics: Vec<&str> = Vec::new();
    for metric in verdicts.iter().flat_map(|verdict| &verdict.measured).map(|measured| measured.metric.as_str()) {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let cell = |verdict: &Verdict, metric: &str| {
        let Some(measured) = verdict.measured.iter().find(|measured| measured.metric == metric) else {
            return "-".to_string();
        };
        match measured.deviation {
            Some(deviation) => format!("{} +- {}", rounded(measured.value), rounded(deviation)),
            None => rounded(measured.value),
        }
    };
    let rows: Vec<Vec<String>> = if verdicts.len() <= COLUMNS {
        let titles = verdicts.iter().map(|verdict| format!("{} ({})", verdict.of, verdict.count));
        let against = verdicts.iter().map(|verdict| format!("vs {}", verdict.against));
        let mut rows = vec![
            std::iter::once(String::new()).chain(titles).collect(),
            std::iter::once(String::new()).chain(against).collect(),
        ];
        rows.extend(metrics.iter().map(|metric| {
            std::iter::once(metric.to_string()).chain(verdicts.iter().map(|verdict| cell(verdict, metric))).collect()
        }));
        rows
    } else {
        let has_widths = hows.iter().any(|how| how.width.is_some());
        let width = has_widths.then_some("width".to_string()).into_iter();
        let titles = metrics.iter().map(|metric| metric.to_string());
        let title = std::iter::once("set (count) vs reference".into());
        let mut rows: Vec<Vec<String>> = vec![title.chain(width).chain(titles).collect()];
        rows.extend(verdicts.iter().enumerate().map(|(place, verdict)| {
            let title = format!("{} ({}) vs {}", verdict.of, verdict.count, verdict.against);
            let width = has_widths.then(|| match hows.get(place) {
                Some(how) => how.width.map_or("usual".into(), |width| width.to_string()),
                None => "-".into(),
            });
            let numbers = metrics.iter().map(|metric| cell(verdict, metric));
            std::iter::once(title).chain(width).chain(numbers).collect()
        }));
        rows
    };
    aligned(&rows)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Four significant digits, whatever the size.
pub fn rounded(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (3 - value.abs().log10().floor() as i64).clamp(0, 9) as usize;
    format!("{value:.decimals$}")
}

/// One line for each number of the sets, the first of which were drawn as `hows` say.
pub fn csv(verdicts: &[Verdict], hows: &[&How]) -> Result<Vec<u8>, csv::Error> {
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
    ])?;
    for (place, verdict) in verdicts.iter().enumerate() {
        let how: [String; 5] = hows.get(place).map_or_else(Default::default, |how| {
            let width = how.width.map_or("usual".into(), |width| width.to_string());
            [how.step.to_string(), width, how.sampler.clone(), how.sampler_steps.to_string(), how.seed.to_string()]
        });
        for measured in &verdict.measured {
            let deviation = measured.deviation.map(|deviation| deviation.to_string()).unwrap_or_default();
            let value = measured.value.to_string();
            let first = [&verdict.of, &verdict.against, &measured.name, &value, &deviation];
            table.write_record(first.into_iter().chain(&how))?;
        }
    }
    table.into_inner().map_err(|error| error.into_error().into())
}

/// A line of a plot: its name and its points.
pub type Line = (String, Vec<[f64; 2]>);

/// Colours that differ for the colour-blind too.
const COLOURS: [&str; 6] = ["#c05a3e", "#4e698c", "#5a8f5a", "#a07a2e", "#7d5a8c", "#4a4e54"];

/// Lines over a logarithmic axis, and horizontal marks, as an SVG.
pub fn plot(title: &str, x_name: &str, lines: &[Line], marks: &[(String, f64)]) -> String {
    let (width, height) = (760.0, 460.0);
    let (left, right, top, bottom) = (84.0, 190.0, 54.0, 56.0);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let values = || points().map(|point| point[1]).chain(marks.iter().map(|mark| mark.1)).filter(|y| *y > 0.0);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        // A decade for what has no extent.
        if low < high { (low / 1.08, high * 1.08) } else { (low.min(1e300) / 3.0, high.max(1e-300) * 3.0) }
    };
    let (x_low, x_high) = range(&mut points().map(|point| point[0]).filter(|x| *x > 0.0));
    let (y_low, y_high) = range(&mut values());
    let share = |value: f64, low: f64, high: f64| (value.max(low) / low).ln() / (high / low).ln();
    let x_of = |x: f64| left + share(x, x_low, x_high) * (width - left - right);
    let y_of = |y: f64| height - bottom - share(y, y_low, y_high) * (height - top - bottom);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#464a50\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, colour: &str, words: &str| {
        let words = words.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>");
    };
    let ink = "#464a50";
    text(left, top - 24.0, "start", ink, title);
    text((left + width - right) / 2.0, height - 12.0, "middle", ink, x_name);
    let mut xs: Vec<f64> = points().map(|point| point[0]).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let every = xs.len().div_ceil(8).max(1);
    for x in xs.iter().step_by(every) {
        text(x_of(*x), height - bottom + 20.0, "middle", ink, &x.to_string());
    }
    let ticks = ticks(y_low, y_high);
    for tick in &ticks {
        text(left - 8.0, y_of(*tick) + 4.0, "end", ink, &tick.to_string());
    }
    // Names at the right end, moved apart where they would lie on each other.
    let mut names: Vec<(f64, String, &str)> = Vec::new();
    for (k, (name, points)) in lines.iter().enumerate() {
        let end = points.iter().max_by(|a, b| a[0].total_cmp(&b[0]));
        names.extend(end.map(|end| (y_of(end[1]), name.clone(), COLOURS[k % COLOURS.len()])));
    }
    names.extend(marks.iter().map(|(name, y)| (y_of(*y), name.clone(), "#787c82")));
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = top - 10.0;
    for (y, name, colour) in names {
        let at = y.max(free);
        text(width - right + 10.0, at + 4.0, "start", colour, &name);
        free = at + 16.0;
    }
    for tick in ticks {
        let y = y_of(tick);
        let _ = writeln!(svg, "<path d=\"M{left} {y:.1}H{:.1}\" stroke=\"#e6e6e2\"/>", width - right);
    }
    for (_, y) in marks {
        let y = y_of(*y);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{:.1}\" stroke=\"#787c82\" stroke-dasharray=\"5 4\"/>",
            width - right
        );
    }
    for (k, (_, points)) in lines.iter().enumerate() {
        let colour = COLOURS[k % COLOURS.len()];
        let path: Vec<String> = points.iter().map(|[x, y]| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let path = path.join(" ");
        let _ = writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        for [x, y] in points {
            let _ =
                writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>", x_of(*x), y_of(*y));
        }
    }
    svg + "</svg>\n"
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
    use crate::evaluation::judge::Measured;
    use crate::levels::Ladder;

    fn verdict(of: &str, value: f64) -> Verdict {
        let measured = vec![
            Measured { metric: "FD".into(), name: format!("FD (pixels; {of})"), value, deviation: None },
            Measured { metric: "KID".into(), name: "KID (pixels)".into(), value, deviation: Some(0.00012344) },
        ];
        Verdict { of: of.into(), count: 10, against: "test".into(), measured, class_shares: Vec::new() }
    }

    #[test]
    fn few_sets_are_columns_and_many_are_rows() {
        let few = table(&[verdict("samples", 12.3456), verdict("real", 0.0)], &[]);
        let lines: Vec<&str> = few.lines().collect();
        assert!(
            lines[0].contains("samples (10)") && lines[0].contains("real (10)") && lines[2].starts_with("FD"),
            "{few}"
        );
        assert!(lines[2].contains("12.35") && lines[3].contains("12.35 +- 0.0001234"), "{few}");
        let many = [1.0, 2.0, 3.0, 4.0].map(|value| verdict("s", value));
        assert_eq!(table(&many, &[]).lines().count(), 5);
        assert!(!table(&many, &[]).contains("width"));
        let how = |width| How {
            step: 7,
            width,
            sampler: "ddim".into(),
            sampler_steps: 50,
            levels: Ladder::SgmUniform,
            guidance: 1.0,
            seed: 3,
        };
        let hows = [&how(Some(0.05)), &how(None)];
        let many = table(&many, &hows);
        assert!(many.lines().next().unwrap().contains("  width  "), "{many}");
        assert!(many.contains("  0.05  ") && many.contains("  usual  "), "{many}");
        let bytes = csv(&[verdict("samples", 1.5), verdict("real", 1.0)], &hows[..1]).unwrap();
        let lines = String::from_utf8(bytes).unwrap();
        assert!(lines.contains("samples,test,FD (pixels; samples),1.5,,7,0.05,ddim,50,3\n"), "{lines}");
        assert!(lines.contains("real,test,FD (pixels; real),1,,,,,,\n"), "{lines}");
    }

    #[test]
    fn numbers_have_four_digits() {
        let found = [12345.6, 12.3456, 0.00123456, -0.5, 0.0, f64::NAN].map(rounded);
        assert_eq!(found, ["12346", "12.35", "0.001235", "-0.5000", "0", "NaN"]);
    }

    #[test]
    fn plots_are_drawn_with_their_names() {
        let lines = vec![("ddim".to_string(), vec![[5.0, 30.0], [50.0, 3.0]])];
        let svg = plot("FD (a < b)", "steps", &lines, &[("real".into(), 1.0)]);
        for part in ["ddim", "real", "a &lt; b", ">5<", ">50<", "polyline", "</svg>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert_eq!(ticks(0.9, 30.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert!(!plot("one", "steps", &[("a".into(), vec![[1.0, 1.0]])], &[]).contains("NaN"));
    }
}
