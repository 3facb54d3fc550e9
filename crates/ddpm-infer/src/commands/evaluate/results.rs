//! The results of an evaluation: the table, and what is written of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use ddpm_console::say;
use ddpm_eval::metrics::Evaluation;
use ddpm_eval::record::{Record, SamplingSettings, append};
use ddpm_eval::report::{self, Scale};
use ddpm_files::atomic;
use ddpm_files::runs::RunFolder;

use super::EvalArgs;
use super::series::SeriesResults;

/// Evaluations of samples, or of reconstructions.
#[derive(Default)]
pub(super) struct Results {
    /// Those of snapshots, then what these are compared with.
    pub(super) evaluations: Vec<Evaluation>,
    /// How what was evaluated of snapshots was made, in the same order.
    pub(super) made: Vec<Made>,
}

/// How samples or reconstructions were made.
pub(super) struct Made {
    /// The snapshot.
    pub(super) path: PathBuf,
    pub(super) settings: SamplingSettings,
}

impl Results {
    /// What snapshots are compared with.
    fn floors(&self) -> &[Evaluation] {
        &self.evaluations[self.made.len()..]
    }

    /// Appends the evaluations of snapshots to those of the run that the weights belong to.
    pub(super) fn append_to_runs(&self) {
        let mut runs: BTreeMap<PathBuf, Vec<Record>> = BTreeMap::new();
        for (made, evaluation) in self.made.iter().zip(&self.evaluations) {
            let Some(run) = RunFolder::around(&made.path) else { continue };
            let record = Record::now(made.settings.clone(), evaluation.clone(), self.floors());
            runs.entry(run.evaluations()).or_default().push(record);
        }
        for (path, records) in runs {
            match append(&path, &records) {
                Ok(()) => say!("recorded in {}, for `ddpm-train report`", path.display()),
                Err(error) => say!("warning: not recorded in the run: {}: {error}", path.display()),
            }
        }
    }

    /// The evaluations as JSON, each with how it was made. (These keys are read by other programs.)
    fn to_json(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        let one = |(place, evaluation): (usize, &Evaluation)| {
            let mut json = serde_json::to_value(evaluation)?;
            if let Some(made) = self.made.get(place) {
                json["how"] = serde_json::to_value(&made.settings)?;
            }
            Ok(json)
        };
        self.evaluations.iter().enumerate().map(one).collect()
    }

    fn csv(&self) -> anyhow::Result<Vec<u8>> {
        let settings: Vec<&SamplingSettings> = self.made.iter().map(|made| &made.settings).collect();
        Ok(report::csv(&self.evaluations, &settings)?)
    }
}

/// Writes what --json and --out ask for.
pub(super) fn write(args: &EvalArgs, samples: &Results, reconstructions: &Results) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let mut json = serde_json::json!({ "verdicts": samples.to_json()? });
        if !reconstructions.evaluations.is_empty() {
            json["reconstructions"] = reconstructions.to_json()?.into();
        }
        atomic::write(path, serde_json::to_vec_pretty(&json)?)?;
    }
    let Some(out) = &args.out else { return Ok(()) };
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    if !samples.evaluations.is_empty() {
        atomic::write(&out.join(TABLE), samples.csv()?)?;
    }
    if !reconstructions.evaluations.is_empty() {
        atomic::write(&out.join(TABLE_OF_RECONSTRUCTIONS), reconstructions.csv()?)?;
    }
    // What is only reconstructed is plotted by that.
    let plotted = if samples.made.is_empty() { reconstructions } else { samples };
    match plotted.made.len() {
        0 | 1 => Ok(()),
        _ => Ok(atomic::write(&out.join("plot.svg"), args.plot(plotted))?),
    }
}

/// Writes what --json and --out ask for of models of series.
pub(super) fn write_series(args: &EvalArgs, found: &[SeriesResults]) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let one = |found: &SeriesResults| -> serde_json::Result<serde_json::Value> {
            Ok(serde_json::json!({ "task": found.task, "verdicts": found.results.to_json()? }))
        };
        let all = found.iter().map(one).collect::<serde_json::Result<Vec<_>>>()?;
        atomic::write(path, serde_json::to_vec_pretty(&serde_json::json!({ "series": all }))?)?;
    }
    let Some(out) = &args.out else { return Ok(()) };
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    for (number, found) in found.iter().enumerate() {
        let suffix = if number == 0 { String::new() } else { format!("-{}", number + 1) };
        atomic::write(&out.join(format!("table{suffix}.csv")), found.results.csv()?)?;
        if found.results.made.len() > 1 {
            atomic::write(&out.join(format!("plot{suffix}.svg")), args.plot(&found.results))?;
        }
    }
    Ok(())
}

/// A table for each task, and the first metric.
pub(super) fn summary_of_series(args: &EvalArgs, found: &[SeriesResults]) -> String {
    let mut text = String::new();
    for found in found {
        text += &format!("{}\n{}\n", found.task, report::table_of_series(&found.results.evaluations));
    }
    if args.out.is_none() && args.json.is_none() {
        text += "all numbers: --out DIR (table.csv), --json FILE\n\n";
    }
    let first = found.first().and_then(|found| found.results.evaluations.first()?.measured.first());
    text + &first.map(|first| format!("{} {}", first.name, report::rounded(first.value))).unwrap_or_default()
}

/// All numbers of samples.
const TABLE: &str = "table.csv";
/// All numbers of reconstructions.
const TABLE_OF_RECONSTRUCTIONS: &str = "reconstructions.csv";

/// The tables, a hint if the first is abridged, and the first metric.
pub(super) fn summary(args: &EvalArgs, samples: &Results, reconstructions: &Results) -> String {
    let mut text = String::new();
    if !samples.evaluations.is_empty() {
        text += &report::table(&samples.evaluations, samples.made.len());
    }
    if report::is_short(&samples.evaluations) {
        text += &match &args.out {
            Some(out) => format!("all numbers: {}\n", out.join(TABLE).display()),
            None => "all numbers: --out DIR (table.csv, plot.svg), --json FILE\n".into(),
        };
    }
    if !reconstructions.evaluations.is_empty() {
        let gap = if text.is_empty() { "" } else { "\n" };
        text += &format!("{gap}{}", report::table_of_reconstructions(&reconstructions.evaluations));
    }
    let first = samples.evaluations.first().or(reconstructions.evaluations.first());
    let first = first.and_then(|evaluation| evaluation.measured.first());
    let last = first.map(|first| format!("{} {}", first.name, report::rounded(first.value))).unwrap_or_default();
    text + "\n" + &last
}

impl EvalArgs {
    /// The first metric of all sets.
    fn plot(&self, results: &Results) -> String {
        let Results { evaluations, made } = results;
        let mut lines: Vec<report::Line> = Vec::new();
        let mut marks: Vec<(String, f64)> = Vec::new();
        for (set, evaluation) in made.iter().zip(evaluations) {
            let Some(first) = evaluation.measured.first() else { continue };
            let (name, x) = self.place(&set.settings);
            let Some(x) = x else {
                marks.push((name, first.value));
                continue;
            };
            match lines.iter_mut().find(|line| line.0 == name) {
                Some((_, points)) => points.push([x, first.value]),
                None => lines.push((name, vec![[x, first.value]])),
            }
        }
        let first = evaluations.first().and_then(|evaluation| evaluation.measured.first());
        marks.extend(results.floors().iter().filter_map(|evaluation| {
            let own =
                evaluation.measured.first().filter(|own| first.is_some_and(|first| own.metric == first.metric))?;
            Some((evaluation.of.clone(), own.value))
        }));
        let title = first.map(|first| first.name.clone()).unwrap_or_default();
        let (x_name, scale) = match (self.every_snapshot, self.every_width, self.sweep.has_scales()) {
            (true, ..) => ("training step", Scale::Logarithmic),
            (false, true, _) => ("width of the average", Scale::Logarithmic),
            (false, false, true) => ("guidance scale", Scale::Linear),
            (false, false, false) => ("steps of the sampler", Scale::Logarithmic),
        };
        report::plot(&title, (x_name, scale), &lines, &marks)
    }

    /// The line of the plot that samples belong to, and their place on its axis; a set without a place is a mark.
    fn place(&self, settings: &SamplingSettings) -> (String, Option<f64>) {
        let width = |name: String| match (settings.width, self.every_width) {
            (Some(width), _) => format!("{name}, width {width}"),
            (None, true) => format!("{name}, usual"),
            (None, false) => name,
        };
        let steps = settings.sampler_and_steps();
        let guided = match self.sweep.has_scales() {
            true => format!("{steps}, guidance {}", settings.guidance),
            false => steps.clone(),
        };
        match (self.every_snapshot, self.every_width, self.sweep.has_scales()) {
            (true, ..) => (width(guided), Some(settings.step as f64)),
            (false, true, _) if settings.width.is_none() => (width(guided), None),
            (false, true, _) => (guided, settings.width),
            (false, false, true) => (steps, Some(settings.guidance)),
            (false, false, false) => (settings.sampler.clone(), Some(settings.sampler_steps as f64)),
        }
    }
}
