//! A file of time series for a model: its variables by name, and results in the units and the form of the file.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_data::DataConfig;
use ddpm_data::series::{
    Cell, Frequency, Index, Opened, ReadHints, Series, SeriesInfo, SourceLayout, Table, Timestamp, grouped, read_any,
};
use ddpm_device::memory;
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::SeriesDraw;
use ddpm_files::runs::RunFolder;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};

use crate::commands::choose::{OpenModel, SnapshotArgs};

/// The model of a command about series.
#[derive(Args, Debug)]
pub(crate) struct SeriesModelArgs {
    /// A snapshot; without it, that of --run or --from, or of the newest run.
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["run", "from"])]
    path: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Model and device")]
    snapshot: SnapshotArgs,
}

impl SeriesModelArgs {
    /// Opens it.
    pub(crate) fn open(&self) -> anyhow::Result<OpenModel> {
        let Some(path) = &self.path else { return self.snapshot.open_model() };
        let device = self.snapshot.open()?;
        let model = self.snapshot.open_at(path, &device.device)?;
        Ok(OpenModel { path: path.clone(), run: None::<RunFolder>, device, model })
    }
}

/// Bytes for each value of the samples: those of the model, of the array, and the numbers that are scored and drawn.
const BYTES_PER_VALUE: usize = 24;

/// How samples of series are drawn.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SeriesSamplingArgs {
    /// Seed of all noise: sample k depends on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>)]
    seed: u64,
    /// The sampler, with its options as in heun:churn=40; default: what is usual for the model.
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Steps of the sampler.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>)]
    steps: Option<usize>,
    /// Samples that are computed at once; the result is the same for any number.
    #[arg(long, value_name = "B", value_parser = at_least::<1, usize>)]
    batch_size: Option<usize>,
}

impl SeriesSamplingArgs {
    /// So many samples of each stretch, of which one of all stretches has so many values; none if they do not fit into memory.
    pub(crate) fn checked_draw(&self, option: &str, samples: usize, values: usize) -> anyhow::Result<SeriesDraw> {
        memory::check(samples, values.saturating_mul(BYTES_PER_VALUE))
            .map_err(|reason| anyhow::anyhow!("{option} {samples}: too many, with {values} values each: {reason}"))?;
        self.draw(samples)
    }

    /// So many samples of each stretch.
    fn draw(&self, samples: usize) -> anyhow::Result<SeriesDraw> {
        let sampler = |name: &String| Sampler::new(name, SamplerOptions::default());
        let sampler = self.sampler.as_ref().map(sampler).transpose()?;
        let usual = SeriesDraw::new(self.seed, samples);
        let at_once = self.batch_size.unwrap_or(usual.at_once);
        Ok(SeriesDraw { sampler, steps: self.steps, at_once, ..usual })
    }
}

/// Series of a file with the variables of a model.
pub(crate) struct SeriesFile {
    /// With the variables of the model, in its order.
    pub(crate) series: Vec<Series>,
    /// As the file has them.
    read: Vec<Series>,
    /// The column of the file of each variable of the model.
    columns: Vec<usize>,
    /// How results are written in the form of the file.
    pub(crate) layout: SourceLayout,
}

impl SeriesFile {
    /// Reads a file for a model, and says what was left out or taken for granted. `start` is the time of the first row, for
    /// a file without times.
    pub(crate) fn read(path: &Path, start: Option<Timestamp>, card: &ModelCard) -> anyhow::Result<Self> {
        let Some(info) = &card.data.series else {
            bail!("the model was trained on items of shape {:?}, not on time series", card.data.shape);
        };
        let opened = opened(path, card, info)?;
        opened.notes.iter().for_each(|note| say!("note: {note}"));
        let Some(first) = opened.series.first() else { bail!("{}: there are no series in it", path.display()) };
        let columns = columns(&first.variables, &info.variables, path)?;
        let left_out: Vec<&str> =
            (0..first.variables.len()).filter(|k| !columns.contains(k)).map(|k| &*first.variables[k]).collect();
        if !left_out.is_empty() {
            say!("note: columns that the model does not know are not read: {}", left_out.join(", "));
        }
        let mut series = Vec::with_capacity(opened.series.len());
        for one in &opened.series {
            if one.variables.len() != first.variables.len() {
                bail!("{}: its series have different numbers of variables", path.display());
            }
            series.push(with_columns(one, &columns, info));
        }
        if let Some(index) = stated_index(&series[0], start, card, path)? {
            series.iter_mut().for_each(|one| one.index = index);
        }
        check_frequency(&series[0], info, path)?;
        Ok(Self { series, read: opened.series, columns, layout: opened.layout })
    }

    /// Hides what a mask says is to be imputed: 1 where a value is observed, 0 where it is not.
    pub(crate) fn hide(&mut self, mask: &Path) -> anyhow::Result<()> {
        let masks = read_any(mask, &ReadHints::default())?.series;
        let (found, expected) = (shapes(&masks), shapes(&self.read));
        if found != expected {
            let (found, expected) = (in_words(&found), in_words(&expected));
            bail!("{}: the mask has {found}; expected {expected}, as the data have", mask.display());
        }
        for (number, (series, mask_of)) in self.series.iter_mut().zip(&masks).enumerate() {
            for step in 0..series.target.steps() {
                for (variable, column) in self.columns.iter().enumerate() {
                    match mask_of.target.given(step, *column) {
                        Some(1.0) => {}
                        Some(0.0) => series.target.hide(step, variable),
                        other => bail!(
                            "{}: series {number}, step {step}, variable {variable}: {}; expected 1 (observed) or 0",
                            mask.display(),
                            other.map_or("no value".into(), |value| value.to_string())
                        ),
                    }
                }
            }
        }
        Ok(())
    }

    /// The series as they were read.
    pub(crate) fn as_read(&self) -> &[Series] {
        &self.read
    }

    /// The variable of the model that a column of the file is.
    pub(crate) fn variable_of(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|own| *own == column)
    }
}

/// Steps and variables of each series.
fn shapes(series: &[Series]) -> Vec<[usize; 2]> {
    series.iter().map(|one| [one.target.steps(), one.target.variables()]).collect()
}

fn in_words(shapes: &[[usize; 2]]) -> String {
    let count = shapes.len();
    match shapes.first() {
        Some(first) if shapes.iter().all(|shape| shape == first) => format!("{count} series of shape {first:?}"),
        _ => format!("{count} series of the shapes {:?}", &shapes[..count.min(SHAPES_SHOWN)]),
    }
}

/// Shapes that a message lists at most.
const SHAPES_SHOWN: usize = 8;

/// So many things, for a message.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The times of series of a file that has none: from the time that is stated on, or as the training data were said to begin.
fn stated_index(
    series: &Series,
    start: Option<Timestamp>,
    card: &ModelCard,
    path: &Path,
) -> anyhow::Result<Option<Index>> {
    let frequency = card.data.series.as_ref().and_then(|info| Frequency::parse(info.frequency.as_deref()?));
    let of_training = match &card.source {
        Some(DataConfig::SeriesArray(array)) => array.start.as_deref().and_then(Timestamp::parse),
        _ => None,
    };
    match (series.index, start, frequency) {
        (Index::Times { .. }, Some(_), _) => bail!("--start: {} has times of its own", path.display()),
        (Index::Counted, Some(_), None) => bail!("--start: the model was trained on series without times"),
        (Index::Counted, Some(start), Some(frequency)) => Ok(Some(Index::Times { start, frequency })),
        (Index::Counted, None, Some(frequency)) => Ok(of_training.map(|start| {
            let path = path.display();
            say!("note: {path} has no times: it begins at {start}, as the training data did; or else --start TIME");
            Index::Times { start, frequency }
        })),
        _ => Ok(None),
    }
}

/// A time of the command line.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "expected a time such as 2020-01-31 or 2020-01-31T23:00".into())
}

/// Opens the file as the data of the model were opened.
fn opened(path: &Path, card: &ModelCard, info: &SeriesInfo) -> anyhow::Result<Opened> {
    let source = card.source.as_ref();
    let mut hints = source.map(|source| source.read_hints()).transpose()?.unwrap_or_default();
    hints.covariates.clone_from(&info.covariates);
    let mut opened = read_any(path, &hints)?;
    if source.is_some_and(|source| source.is_grouped()) {
        let joined = grouped::group_train(&opened.series, None);
        let joined = joined.with_context(|| format!("{}: expected series of one variable each", path.display()))?;
        opened = Opened { series: vec![joined], notes: opened.notes, ..Opened::default() };
    }
    Ok(opened)
}

/// The column of each variable: by name, or by place where one side has no names and the numbers are the same.
fn columns(found: &[String], expected: &[String], path: &Path) -> anyhow::Result<Vec<usize>> {
    let place = |name: &String| found.iter().position(|other| other == name);
    if let Some(columns) = expected.iter().map(place).collect() {
        return Ok(columns);
    }
    let numbered = |names: &[String]| names.iter().enumerate().all(|(k, name)| *name == k.to_string());
    if found.len() == expected.len() && (numbered(found) || numbered(expected)) {
        return Ok((0..found.len()).collect());
    }
    let missing: Vec<&str> = expected.iter().filter(|name| place(name).is_none()).map(|name| &**name).collect();
    bail!(
        "{}: has no column {}; found {}; the model was trained on {}",
        path.display(),
        missing.join(", "),
        found.join(", "),
        expected.join(", ")
    )
}

/// A series with the variables of a model.
fn with_columns(series: &Series, columns: &[usize], info: &SeriesInfo) -> Series {
    let places = (0..series.target.steps()).flat_map(|step| columns.iter().map(move |column| (step, *column)));
    let mut target = Table::from_rows(columns.len(), places.clone().map(|(step, k)| series.target.value(step, k)));
    for (at, (step, column)) in places.enumerate() {
        if series.target.cell(step, column) == Cell::HeldOut {
            target.hide(step, at % columns.len());
        }
    }
    Series { target, variables: info.variables.clone(), ..series.clone() }
}

/// Steps of another distance are another kind of series.
fn check_frequency(series: &Series, info: &SeriesInfo, path: &Path) -> anyhow::Result<()> {
    let found = match series.index {
        Index::Times { frequency, .. } => Some(frequency.to_string()),
        Index::Counted => None,
    };
    match (&found, &info.frequency) {
        (Some(found), Some(expected)) if found != expected => {
            bail!("{}: its steps are {found} apart; the model was trained on steps of {expected}", path.display())
        }
        (None, Some(expected)) => say!(
            "note: {} has no times; the model was trained on steps of {expected}: --start TIME says when its first row is",
            path.display()
        ),
        _ => {}
    }
    Ok(())
}

/// The timestamps of steps of a series; none where it has no times.
pub(crate) fn timestamps(series: &Series, steps: std::ops::Range<usize>) -> Vec<String> {
    steps.filter_map(|step| series.index.timestamp(step)).map(|time| time.to_string()).collect()
}

/// Given values of steps `[L, K]`, NaN where there is none; those that are hidden, too, with `hidden`.
pub(crate) fn values(series: &Series, steps: std::ops::Range<usize>, hidden: bool) -> Vec<f64> {
    let table = &series.target;
    let value = |step, variable| match hidden {
        true => table.value(step, variable),
        false => table.given(step, variable),
    };
    let cells = steps.flat_map(|step| (0..table.variables()).map(move |variable| (step, variable)));
    cells.map(|(step, variable)| value(step, variable).unwrap_or(f64::NAN)).collect()
}
