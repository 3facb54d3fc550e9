//! What series are, for `data` and `inspect`: their format, their variables, what is missing, splits and windows.

use std::path::Path;

use anyhow::Context;
use ddpm_data::series::{Opened, SeriesInfo, SeriesSet, Summary, read_any};
use ddpm_data::{DataConfig, OpenData, printable};
use ddpm_families::family::trained::Trained;
use ddpm_render::series::{Panel, SeriesPlot, Windows};

use crate::commands::series_file::values;

/// Steps of a long series, and windows, that are drawn.
const STEPS_SHOWN: usize = 400;
pub(crate) const WINDOWS_SHOWN: usize = 5;

/// What there is in the data of both splits.
pub(crate) fn report(config: &DataConfig, train: &OpenData, test: &OpenData) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    if let Some(Opened { format, notes, horizon, .. }) = opened(config)? {
        lines.push(format!("{}: {format}", train.info.name));
        lines.extend(notes.iter().map(|note| format!("note: {note}")));
        lines.extend(horizon.map(|horizon| format!("the dataset is for forecasts of {horizon} steps")));
    }
    let set = train.series.as_ref().context("the data are no series")?;
    let summary = Summary::of(set.series()).context("there are no series")?;
    lines.push(summary.to_string());
    lines.extend(table(set, &summary));
    lines.push(format!("{} values are missing ({:.1} %)", summary.all_missing(), 100.0 * summary.share_missing()));
    if !summary.covariates.is_empty() {
        lines.push(format!("covariates: {}", names(&summary.covariates)));
    }
    lines.push(splits(set, test.series.as_deref().unwrap_or(set)));
    let length = train.info.shape.get(1).copied().unwrap_or(0);
    let (train, test) = (train.items.len(), test.items.len());
    lines.push(format!("{train} windows of {length} steps to train on, {test} held out"));
    Ok(lines.join("\n") + "\n")
}

/// The file again, with what was found of it; none for series that are not in a file of text.
fn opened(config: &DataConfig) -> anyhow::Result<Option<Opened>> {
    match config {
        DataConfig::Series(file) => Ok(Some(read_any(&file.path, &config.read_hints()?)?)),
        _ => Ok(None),
    }
}

/// A line for each variable: values, holes, and the range.
fn table(set: &SeriesSet, summary: &Summary) -> Vec<String> {
    let shown: Vec<String> = summary.variables.iter().map(|name| printable(name)).collect();
    let width = shown.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("variable".len());
    let row = |(variable, name): (usize, &String)| {
        let given = set
            .series()
            .iter()
            .flat_map(|series| (0..series.target.steps()).filter_map(move |step| series.target.given(step, variable)));
        let (mut lowest, mut highest) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in given {
            (lowest, highest) = (lowest.min(value), highest.max(value));
        }
        let missing = summary.missing[variable];
        let range = match summary.rows == missing {
            true => format!("{:>12}  {:>12}", "-", "-"),
            false => format!("{lowest:>12.6}  {highest:>12.6}"),
        };
        format!("{name:width$}  {:>9}  {missing:>9}  {range}", summary.rows - missing)
    };
    let title =
        format!("{:width$}  {:>9}  {:>9}  {:>12}  {:>12}", "variable", "values", "missing", "lowest", "highest");
    [title].into_iter().chain(shown.iter().enumerate().map(row)).collect()
}

/// Which steps or series are for training.
fn splits(train: &SeriesSet, test: &SeriesSet) -> String {
    let used = |set: &SeriesSet| (0..set.series().len()).filter(|one| !set.steps(*one).is_empty()).count();
    let steps = |set: &SeriesSet| (0..set.series().len()).map(|one| set.steps(one).len()).max().unwrap_or(0);
    match train.series().len() {
        1 => format!("{} rows are for training, {} for the test", steps(train), steps(test)),
        _ => format!(
            "{} series are for training, with up to {} rows each; {} for the test, with up to {}",
            used(train),
            steps(train),
            used(test),
            steps(test)
        ),
    }
}

/// Draws the end of a long series, or the first windows of a set of these.
pub(crate) fn draw(data: &OpenData, png: &Path) -> anyhow::Result<()> {
    let set = data.series.as_ref().context("the data are no series")?;
    let of = |number: usize| {
        let series = &set.series()[number];
        (series, values(series, set.steps(number), false))
    };
    let first = (0..set.series().len()).filter(|number| !set.steps(*number).is_empty());
    let (series, shown) = first.clone().next().map(of).context("there are no series")?;
    let variables = series.target.variables();
    let windows: Vec<Vec<f64>> = first.take(WINDOWS_SHOWN).map(|number| of(number).1).collect();
    let same_length = windows.iter().all(|window| window.len() == shown.len());
    let plot = match windows.len() > 1 && same_length {
        true => Windows {
            names: &series.variables,
            samples: &windows.concat(),
            shape: [windows.len(), shown.len() / variables, variables],
        }
        .plot()?,
        false => {
            let panel = |variable: usize| Panel {
                name: series.variables[variable].clone(),
                history: shown.iter().skip(variable).step_by(variables).copied().collect(),
                ..Panel::default()
            };
            let panels = (0..variables).map(panel).collect();
            SeriesPlot { panels, ..SeriesPlot::default() }.last_steps(STEPS_SHOWN)
        }
    };
    Ok(plot.write(png, &png.with_extension("svg"))?)
}

/// What a model of series is of, as pairs of name and value.
pub(crate) fn of_model(info: &SeriesInfo, model: Option<&dyn Trained>) -> Vec<(&'static str, String)> {
    let mut lines = vec![("variables", format!("{}: {}", info.variables.len(), names(&info.variables)))];
    lines.push(("frequency", info.frequency.clone().unwrap_or_else(|| "none: steps are counted".into())));
    if let Some(impute) = model.and_then(|model| model.impute()) {
        lines.push(("window", format!("{} steps", impute.window())));
    }
    if let Some(forecast) = model.and_then(|model| model.forecast()) {
        let longest = forecast.longest_horizon().map(|longest| format!(", at most {longest}")).unwrap_or_default();
        let history = forecast.history();
        lines.push(("horizon", format!("{} steps{longest}, from up to {history} before", forecast.usual_horizon())));
    }
    lines.push(("covariates", if info.covariates.is_empty() { "none".into() } else { names(&info.covariates) }));
    let (categories, numbers) = (info.static_categories.len(), info.static_units.scale.len());
    if categories + numbers > 0 {
        lines.push(("static covariates", format!("categories: {categories}, numbers: {numbers}")));
    }
    lines.push(("bounds", bounds(info)));
    lines
}

/// The variables that have a bound.
fn bounds(info: &SeriesInfo) -> String {
    let of_one = |(variable, name): (usize, &String)| {
        let name = printable(name);
        match info.bounds(variable) {
            [Some(lowest), Some(highest)] => Some(format!("{name} from {lowest} to {highest}")),
            [Some(lowest), None] => Some(format!("{name} from {lowest}")),
            [None, Some(highest)] => Some(format!("{name} up to {highest}")),
            [None, None] => None,
        }
    };
    let all: Vec<String> = info.variables.iter().enumerate().filter_map(of_one).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

fn names(names: &[String]) -> String {
    names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
}
