//! `ddpm-train report RUN...`: one HTML page that needs nothing but itself, for one run or to compare several.

mod chart;
mod quality;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use chart::{Chart, Series, escape, short, smoothed};
use ddpm_families::family::registry::families;
use ddpm_files::runs::{RunFolder, steps_in};
use toml::{Table, Value};

use crate::facts::Facts;

/// Pictures of a run that are shown: the first, the last, and some between.
const PICTURES: usize = 6;

/// The arguments of `ddpm-train report`.
#[derive(clap::Args, Debug)]
pub struct ReportArgs {
    /// The runs: their folders, or their names in the runs folder. Several are compared.
    #[arg(value_name = "RUN", required = true)]
    names: Vec<String>,
    /// The page; without it, report.html in the run's folder, or in the runs folder if there are several.
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = ddpm_files::runs::RUNS)]
    runs: PathBuf,
}

/// Writes the page and prints its path.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let runs: Vec<RunFolder> =
        args.names.iter().map(|name| RunFolder::find(&args.runs, name)).collect::<Result<_, _>>()?;
    let out = args.out.clone().unwrap_or_else(|| match &runs[..] {
        [run] => run.0.join(NAME),
        _ => args.runs.join(NAME),
    });
    write(&runs, &out)?;
    ddpm_console::output::print_path(&out)
}

/// What the page is called.
pub const NAME: &str = "report.html";

/// Writes the page of these runs.
pub fn write(runs: &[RunFolder], out: &Path) -> anyhow::Result<()> {
    let runs: Vec<Facts> = runs.iter().map(Facts::read).collect();
    Ok(ddpm_files::atomic::write(out, page(&runs))?)
}

fn page(runs: &[Facts]) -> String {
    let title = match runs {
        [run] => run.name(),
        _ => format!("{} runs", runs.len()),
    };
    let charts: String = charts(runs).iter().filter_map(Chart::svg).collect();
    let charts = if charts.is_empty() { "<p>There are no metrics yet.</p>".into() } else { charts };
    let parts = [
        format!("<h1>{}</h1>{}", escape(&title), table(&SUMMARY, runs.iter().map(summary))),
        format!("<h2>Curves</h2><div class=\"charts\">{charts}</div>"),
        quality::section(runs),
        runs.iter().map(pictures).collect(),
        differences(runs),
        format!("<h2>Environment</h2>{}", table(&STARTS, runs.iter().flat_map(starts))),
        format!("<h2>Settings</h2>{}", runs.iter().map(settings).collect::<String>()),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>\n{}</style></head><body>\n{}\n</body></html>\n",
        escape(&title),
        include_str!("style.css"),
        parts.join("\n")
    )
}

const SUMMARY: [&str; 9] =
    ["run", "state", "step", "images seen", "loss", "parameters", "images/s", "memory", "skipped steps"];

fn summary(run: &Facts) -> [String; 9] {
    let number = |name: &str| run.newest(name).map_or("–".into(), short);
    [
        run.name(),
        run.state().into(),
        format!("{} of {}", run.step(), run.steps().map_or("?".into(), |steps| steps.to_string())),
        number("images_seen"),
        number("loss"),
        run.manifest.as_ref().map_or("–".into(), |manifest| manifest.parameters.to_string()),
        number("images_per_sec"),
        run.newest("memory_mib").map_or("–".into(), |mib| format!("{mib:.0} MiB")),
        number("skipped"),
    ]
}

/// The curves: loss first, by noise level next, then what the optimiser and the machine did.
fn charts(runs: &[Facts]) -> Vec<Chart> {
    let mut loss = Chart { title: "Loss".into(), may_be_logarithmic: true, series: Vec::new(), marks: Vec::new() };
    for (color, run) in runs.iter().enumerate() {
        let points = curve(run, "loss");
        loss.series.push(Series { label: String::new(), color, points: points.clone(), faint: true });
        loss.series.push(Series { label: run.name(), color, points: smoothed(&points), faint: false });
    }
    let of_all = |title: &str, name: &str| {
        let series = runs.iter().enumerate().map(|(color, run)| {
            let points = curve(run, name);
            let points = if name.starts_with("loss") { smoothed(&points) } else { points };
            Series { label: run.name(), color, points, faint: false }
        });
        // These are read off by their height.
        let may_be_logarithmic = !["learning_rate", "ema_decay", "memory_mib"].contains(&name);
        Chart { title: title.into(), may_be_logarithmic, series: series.collect(), marks: Vec::new() }
    };
    let quarters = [
        ("least noise", "loss_q1"),
        ("second quarter", "loss_q2"),
        ("third quarter", "loss_q3"),
        ("most noise", "loss_q4"),
    ];
    let by_noise: Vec<Chart> = match runs {
        [run] => {
            let series = quarters.iter().enumerate().map(|(color, (label, name))| {
                let points = smoothed(&curve(run, name));
                Series { label: (*label).into(), color, points, faint: false }
            });
            vec![Chart {
                title: "Loss by noise level".into(),
                may_be_logarithmic: true,
                series: series.collect(),
                marks: Vec::new(),
            }]
        }
        _ => quarters.iter().map(|(label, name)| of_all(&format!("Loss, {label}"), name)).collect(),
    };
    let of_families = families().into_iter().flat_map(|family| family.titles());
    let of_families: BTreeMap<&str, &str> = of_families.filter(|(name, _)| !name.starts_with("loss_q")).collect();
    let of_families = of_families.iter().map(|(name, title)| of_all(title, name));
    let others = [
        ("Learning rate", "learning_rate"),
        ("Gradient norm", "grad_norm"),
        ("Weight norm", "weight_norm"),
        ("Decay of the average", "ema_decay"),
        ("Images per second", "images_per_sec"),
        ("Memory in MiB", "memory_mib"),
    ];
    let others = others.iter().map(|(title, name)| of_all(title, name));
    std::iter::once(loss).chain(by_noise).chain(of_families).chain(others).collect()
}

/// A number of the metrics over the steps.
fn curve(run: &Facts, name: &str) -> Vec<(f64, f64)> {
    run.lines.iter().filter_map(|line| Some((*line.get("step")?, *line.get(name)?))).collect()
}

/// Previews, from the first to the last.
fn pictures(run: &Facts) -> String {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(run.run.previews())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let step = path.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            (path.extension()? == "png").then_some((step, path))
        })
        .collect();
    found.sort();
    let last = found.len().saturating_sub(1);
    let shown: BTreeSet<usize> = (0..PICTURES).map(|k| k * last / (PICTURES - 1)).collect();
    let figures: String = shown
        .into_iter()
        .filter_map(|k| found.get(k))
        .filter_map(|(step, path)| {
            let data = base64(&std::fs::read(path).ok()?);
            Some(format!(
                "<figure><figcaption>Step {step}</figcaption>\
                 <img alt=\"Samples after step {step}\" src=\"data:image/png;base64,{data}\"></figure>"
            ))
        })
        .collect();
    if figures.is_empty() {
        return String::new();
    }
    let snapshots = steps_in(&run.run.snapshots()).len();
    format!(
        "<h2>Samples of {}</h2><p><small>Always from the same noise, of the averaged weights. Snapshots to sample \
         from: {snapshots}.</small></p><div class=\"pictures\">{figures}</div>",
        escape(&run.name())
    )
}

/// The settings that are not the same in all runs.
fn differences(runs: &[Facts]) -> String {
    let flat: Vec<Vec<(String, String)>> = runs.iter().map(|run| flattened("", &run.config)).collect();
    let keys: BTreeSet<&String> = flat.iter().flatten().map(|(key, _)| key).collect();
    let value = |config: &[(String, String)], key: &str| {
        config.iter().find(|(known, _)| known == key).map_or("–".to_string(), |(_, value)| value.clone())
    };
    let rows = keys.into_iter().filter_map(|key| {
        let values: Vec<String> = flat.iter().map(|config| value(config, key)).collect();
        let differ = values.windows(2).any(|pair| pair[0] != pair[1]);
        differ.then(|| std::iter::once(key.clone()).chain(values).collect::<Vec<_>>())
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let names: Vec<String> = std::iter::once("key".into()).chain(runs.iter().map(Facts::name)).collect();
    format!("<h2>Where the settings differ</h2>{}", table(&names, rows))
}

fn flattened(prefix: &str, table: &Table) -> Vec<(String, String)> {
    let pair = |(key, value): (&String, &Value)| {
        let key = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => flattened(&format!("{key}."), inner),
            value => vec![(key, value.to_string())],
        }
    };
    table.iter().flat_map(pair).collect()
}

const STARTS: [&str; 7] = ["run", "started", "from step", "device", "threads", "versions", "commit"];

fn starts(run: &Facts) -> Vec<[String; 7]> {
    let starts = run.manifest.iter().flat_map(|manifest| &manifest.starts);
    let row = |start: &crate::manifest::Start| {
        [
            run.name(),
            start.at.clone(),
            start.from_step.to_string(),
            start.device.clone(),
            start.threads.to_string(),
            start.versions.join(", "),
            start.commit.clone().unwrap_or_else(|| "unknown".into()),
        ]
    };
    starts.map(row).collect()
}

fn settings(run: &Facts) -> String {
    let text = std::fs::read_to_string(run.run.config()).unwrap_or_default();
    format!("<details><summary>{}</summary><pre>{}</pre></details>", escape(&run.name()), escape(&text))
}

/// A table that scrolls sideways where it is too wide.
fn table<R: AsRef<[String]>>(names: &[impl AsRef<str>], rows: impl IntoIterator<Item = R>) -> String {
    let mut html = String::from("<div class=\"wide\"><table><tr>");
    for name in names {
        let _ = write!(html, "<th>{}</th>", escape(name.as_ref()));
    }
    for row in rows {
        html.push_str("</tr><tr>");
        for cell in row.as_ref() {
            let _ = write!(html, "<td>{}</td>", escape(cell));
        }
    }
    html + "</tr></table></div>"
}

/// Bytes as RFC 4648 writes them.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| -> [char; 4] {
        let bits = (0..3).fold(0_u32, |bits, k| bits << 8 | u32::from(*three.get(k).unwrap_or(&0)));
        let digit = |k: usize| char::from(DIGITS[(bits >> (18 - 6 * k)) as usize & 63]);
        std::array::from_fn(|k| if k <= three.len() { digit(k) } else { '=' })
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let coded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(coded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }
}
