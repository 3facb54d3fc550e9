//! What evaluations found of the runs: tables, and quality over training.

use std::fmt::Write;

use ddpm_eval::metrics::Evaluation;
use ddpm_eval::record::{Record, SamplingSettings, read};
use ddpm_eval::report::rounded;

use super::chart::{Chart, LOGARITHMIC_FROM, Series, escape};
use super::table;
use crate::facts::Facts;

/// A table of more evaluations than this is folded.
const MOST_SHOWN: usize = 12;

/// The mark of the Gaussian is only in the table if it is further away from all else than this many times its span.
const FARTHEST: f64 = 3.0;

/// An evaluation and the run it is of.
struct Entry {
    run: usize,
    record: Record,
}

/// Evaluations whose numbers may be compared: the same extractor, counts and reference.
struct Group {
    /// What their first number is called, and what they were compared with.
    name: String,
    against: String,
    entries: Vec<Entry>,
}

/// The section of the page, if there is anything to show.
pub(super) fn section(runs: &[Facts]) -> String {
    let mut html = String::new();
    for group in groups(runs) {
        let charts: String = group.charts(runs).iter().filter_map(Chart::svg).collect();
        let _ = write!(html, "<h3>{}</h3>", escape(&group.title()));
        for warning in group.newest().iter().flat_map(|record| &record.evaluation.warnings) {
            let _ = write!(html, "<p class=\"warning\">Warning: {}</p>", escape(warning));
        }
        if !charts.is_empty() {
            let _ = write!(html, "<div class=\"charts\">{charts}</div>");
        }
        let (count, table) = (group.entries.len(), group.table(runs));
        // A long table is there for who asks for it.
        let open = if count > MOST_SHOWN { "" } else { " open" };
        let _ = write!(html, "<details class=\"numbers\"{open}><summary>Numbers of {count}</summary>{table}</details>");
    }
    if html.is_empty() { html } else { format!("<h2>Evaluations</h2>{html}") }
}

fn groups(runs: &[Facts]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (run, facts) in runs.iter().enumerate() {
        for record in read(&facts.run.evaluations()) {
            let Some(first) = record.evaluation.measured.first() else { continue };
            let (name, against) = (first.name.clone(), record.evaluation.against.clone());
            let place = groups.iter().position(|group| group.name == name && group.against == against);
            let place = place.unwrap_or_else(|| {
                groups.push(Group { name, against, entries: Vec::new() });
                groups.len() - 1
            });
            let entries = &mut groups[place].entries;
            // What was measured again counts once.
            entries.retain(|known| known.run != run || known.record.sampling != record.sampling);
            entries.push(Entry { run, record });
        }
    }
    for group in &mut groups {
        group.entries.sort_by(|a, b| a.line().cmp(&b.line()).then(a.record.sampling.step.cmp(&b.record.sampling.step)));
    }
    groups
}

impl Entry {
    /// What the entries of one curve have in common.
    fn line(&self) -> (usize, String) {
        let SamplingSettings { width, sampler, sampler_steps, levels, guidance, seed, options, .. } =
            &self.record.sampling;
        let width = width.unwrap_or_default();
        (self.run, format!("{sampler} {sampler_steps:06} {levels:?} {guidance} {options:?} {seed} {width}"))
    }

    fn average(&self) -> String {
        self.record.sampling.width.map_or("usual".into(), |width| format!("width {width}"))
    }
}

impl Group {
    /// The first number's name without the metric, which every column has of its own.
    fn title(&self) -> String {
        let metric = self.metrics().next().unwrap_or_default();
        let rest = self.name.strip_prefix(metric).unwrap_or(&self.name).trim();
        let rest = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(rest);
        format!("Against {}, by {rest}", self.against)
    }

    /// The metrics, as the newest evaluation has them.
    fn metrics(&self) -> impl Iterator<Item = &str> {
        let newest = self.newest();
        newest.into_iter().flat_map(|record| &record.evaluation.measured).map(|measured| measured.metric.as_str())
    }

    fn newest(&self) -> Option<&Record> {
        self.entries.iter().map(|entry| &entry.record).max_by(|a, b| a.at.cmp(&b.at))
    }

    /// Real items and a Gaussian, as they were evaluated next to the newest.
    fn floors(&self) -> &[Evaluation] {
        self.newest().map_or(&[], |record| &record.floors)
    }

    fn table(&self, runs: &[Facts]) -> String {
        let several = runs.len() > 1;
        let names = several.then_some("run").into_iter();
        let names = names.chain(["step", "average", "sampler", "seed"]).chain(self.metrics()).chain(["measured"]);
        let names: Vec<&str> = names.collect();
        let numbers = |evaluation: &Evaluation| {
            let cell = |metric: &str| match evaluation.measured.iter().find(|measured| measured.metric == metric) {
                None => "–".to_string(),
                Some(measured) => match measured.deviation {
                    Some(deviation) => format!("{} ± {}", rounded(measured.value), rounded(deviation)),
                    None => rounded(measured.value),
                },
            };
            self.metrics().map(cell).collect::<Vec<_>>()
        };
        let drawn = self.entries.iter().map(|entry| {
            let SamplingSettings { step, seed, .. } = &entry.record.sampling;
            let day = entry.record.at.split('T').next().unwrap_or_default().to_string();
            let about = [step.to_string(), entry.average(), entry.record.sampling.summary(), seed.to_string()];
            let name = several.then(|| runs[entry.run].name()).into_iter();
            name.chain(about).chain(numbers(&entry.record.evaluation)).chain([day]).collect::<Vec<_>>()
        });
        let floors = self.floors().iter().map(|floor| {
            let empty = vec![String::new(); names.len() - self.metrics().count() - 2];
            std::iter::once(floor.of.clone())
                .chain(empty)
                .chain(numbers(floor))
                .chain([String::new()])
                .collect::<Vec<_>>()
        });
        table(&names, drawn.chain(floors))
    }

    /// A chart of every metric over the steps of training, a line for each run, sampler and average.
    fn charts(&self, runs: &[Facts]) -> Vec<Chart> {
        self.metrics().map(|metric| self.chart(metric, runs)).collect()
    }

    fn chart(&self, metric: &str, runs: &[Facts]) -> Chart {
        let value = |evaluation: &Evaluation| {
            let found = evaluation.measured.iter().find(|measured| measured.metric == metric)?;
            found.value.is_finite().then_some(found.value)
        };
        let mut series: Vec<Series> = Vec::new();
        for (color, entries) in self.entries.chunk_by(|a, b| a.line() == b.line()).enumerate() {
            let points = entries
                .iter()
                .filter_map(|entry| Some((entry.record.sampling.step as f64, value(&entry.record.evaluation)?)));
            let SamplingSettings { width, seed, .. } = &entries[0].record.sampling;
            let mut label = entries[0].record.sampling.summary();
            if runs.len() > 1 {
                label = format!("{}, {label}", runs[entries[0].run].name());
            }
            if width.is_some() {
                let _ = write!(label, ", {}", entries[0].average());
            }
            if self.entries.iter().any(|entry| entry.record.sampling.seed != *seed) {
                let _ = write!(label, ", seed {seed}");
            }
            series.push(Series { label, color, points: points.collect(), faint: false });
        }
        let (mut low, mut high) = series
            .iter()
            .filter(|series| series.points.len() > 1)
            .flat_map(|series| &series.points)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let mut marks: Vec<(String, f64)> = Vec::new();
        for (floor, mark) in self.floors().iter().filter_map(|floor| Some((floor, value(floor)?))) {
            let reach = FARTHEST * (high - low);
            let is_logarithmic = low > 0.0 && high / low > LOGARITHMIC_FROM;
            // The first floor is that of real items, which the curves are to be compared with however far they are.
            let is_near = marks.is_empty() || (low - reach..=high + reach).contains(&mark);
            let is_shown = if is_logarithmic { mark > 0.0 } else { is_near };
            if is_shown {
                (low, high) = (low.min(mark), high.max(mark));
                marks.push((floor.of.clone(), mark));
            }
        }
        Chart { title: metric.into(), may_be_logarithmic: true, series, marks }
    }
}
