//! `ddpm-infer impute`: what is missing in series, as samples and their median.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_data::series::{Series, Timestamp, write_imputed};
use ddpm_eval::series::{Point, Quantile, ScoredSamples, usual_levels};
use ddpm_families::family::trained::{Impute, SeriesDraw, Stretch};
use ddpm_files::npy::RowReader;
use ddpm_files::{atomic, npy};
use ddpm_render::series::{ImputationPlot, quantile};

use crate::commands::output_folder::OutputArgs;
use crate::commands::series_file::{SeriesFile, SeriesModelArgs, SeriesSamplingArgs, time, timestamps, values};

/// Impute what is missing in series.
#[derive(Args, Debug)]
pub struct ImputeArgs {
    #[command(flatten)]
    model: SeriesModelArgs,
    /// The series: CSV, JSON lines, .tsf, .npy (steps, variables; or windows, steps, variables) and others. Empty cells and
    /// NaN are missing.
    #[arg(long, value_name = "FILE", help_heading = "Series")]
    data: PathBuf,
    /// The time of the first row, for a file without times.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Series")]
    start: Option<Timestamp>,
    /// A mask of the shape of the series: 1 where a value is observed, 0 where it is to be imputed.
    #[arg(long, value_name = "FILE", help_heading = "Series")]
    mask: Option<PathBuf>,
    /// Samples of each missing value.
    #[arg(long, value_name = "M", default_value_t = 100, value_parser = at_least::<1, usize>, help_heading = "Series")]
    samples: usize,
    #[command(flatten)]
    sampling: SeriesSamplingArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the command writes; one of the two forms of the imputed series.
const FILES: [&str; 5] = ["samples.npy", "imputed.csv", "imputed.npy", "imputation.png", "imputation.svg"];

/// Imputes, and gives the folder with the result.
pub fn run(args: &ImputeArgs) -> anyhow::Result<PathBuf> {
    let open = args.model.open()?;
    let card = open.model.card();
    let Some(model) = open.model.impute() else { return Err(open.cannot("impute")) };
    let mut file = SeriesFile::read(&args.data, args.start, card)?;
    if let Some(mask) = &args.mask {
        file.hide(mask)?;
    }
    let (cells, missing) = count(&file.series);
    let draw = args.sampling.checked_draw("--samples", args.samples, cells)?;
    let out = args.output.make(open.run.as_ref(), "imputations", &open.path, &FILES)?;
    say!(
        "{}: {missing} of {cells} values of {} are missing, {}",
        open.path.display(),
        args.data.display(),
        card.origin()
    );
    if missing == 0 {
        say!("note: nothing is missing; give --mask to hide values");
    }
    // An empty folder would only be in the way.
    let found = Imputed::of(model, &file.series, &draw).inspect_err(|_| drop(std::fs::remove_dir(&out)))?;
    found.write(&out, &args.data, &file)?;
    if let Some(line) = found.scores(&file.series)? {
        say!("{line}");
    }
    Ok(out)
}

/// All values, and those that are not given.
fn count(series: &[Series]) -> (usize, usize) {
    let all = series.iter().flat_map(|one| values(one, 0..one.target.steps(), false));
    all.fold((0, 0), |(cells, missing), value| (cells + 1, missing + usize::from(value.is_nan())))
}

/// Samples of series, and their medians.
struct Imputed {
    /// Samples of each.
    samples: usize,
    /// For each group of series of one length: which, and samples `[samples, series, L, K]`.
    groups: Vec<(Range<usize>, Vec<f32>)>,
    /// Of each series the medians `[L, K]`; given values as they were.
    medians: Vec<Vec<f32>>,
}

impl Imputed {
    fn of(model: &dyn Impute, series: &[Series], draw: &SeriesDraw) -> anyhow::Result<Self> {
        let (mut groups, mut medians) = (Vec::new(), Vec::new());
        let mut start = 0;
        while start < series.len() {
            let length = series[start].target.steps();
            let same = series[start..].iter().take_while(|one| one.target.steps() == length).count();
            let group = start..start + same;
            let stretch =
                |number: usize| Stretch { series: &series[number], start: 0, end: length, number: number as u64 };
            let stretches: Vec<Stretch<'_>> = group.clone().map(stretch).collect();
            let samples = model.impute(&stretches, draw).map_err(anyhow::Error::from_boxed)?;
            let size = length * series[start].target.variables();
            let own = |number| (0..draw.samples).map(move |sample| (sample * same + number) * size);
            for number in 0..same {
                let starts: Vec<usize> = own(number).collect();
                medians.push(median(&samples, &starts, size));
            }
            groups.push((group.clone(), samples));
            start = group.end;
        }
        Ok(Self { samples: draw.samples, groups, medians })
    }

    /// The samples of a series `[samples, L, K]`.
    fn of_series(&self, number: usize) -> Vec<f64> {
        let Some((group, values)) = self.groups.iter().find(|(group, _)| group.contains(&number)) else {
            return Vec::new();
        };
        let size = self.medians[number].len();
        let start = |sample: usize| (sample * group.len() + number - group.start) * size;
        let own = (0..self.samples).flat_map(|sample| &values[start(sample)..start(sample) + size]);
        own.map(|value| f64::from(*value)).collect()
    }

    fn write(&self, out: &Path, data: &Path, file: &SeriesFile) -> anyhow::Result<()> {
        let variables = file.series[0].target.variables();
        match &self.groups[..] {
            [(group, values)] => {
                let length = file.series[0].target.steps();
                let shape = [self.samples, group.len(), length, variables];
                atomic::write(&out.join("samples.npy"), npy::encode(&shape, values))?;
            }
            _ => say!("note: the series have different lengths, so that there is no samples.npy"),
        }
        if data.extension().is_some_and(|extension| extension == "npy") && self.groups.len() == 1 {
            let steps = file.series[0].target.steps();
            let shape = [file.series.len(), steps, variables];
            let has_series = RowReader::open(data)?.header().shape.len() == shape.len();
            let axes = if has_series { &shape[..] } else { &shape[1..] };
            atomic::write(&out.join("imputed.npy"), npy::encode(axes, &self.medians.concat()))?;
        } else {
            let filled = |series: usize, step: usize, column: usize| {
                let variable = file.variable_of(column)?;
                Some(self.medians[series][step * variables + variable])
            };
            write_imputed(&out.join("imputed.csv"), &file.layout, file.as_read(), filled)?;
        }
        self.draw(out, &file.series)
    }

    /// Draws the series that misses most.
    fn draw(&self, out: &Path, series: &[Series]) -> anyhow::Result<()> {
        let missing = |number: &usize| count(&series[*number..=*number]).1;
        let number = (0..series.len()).rev().max_by_key(missing).unwrap_or(0);
        let (one, samples) = (&series[number], self.of_series(number));
        let steps = 0..one.target.steps();
        let truth = values(one, steps.clone(), true);
        let plot = ImputationPlot {
            title: "",
            names: &one.variables,
            observed: &values(one, steps.clone(), false),
            samples: &samples,
            shape: [self.samples, steps.len(), one.target.variables()],
            truth: Some(&truth),
            times: &timestamps(one, steps),
        };
        Ok(plot.plot()?.write(&out.join("imputation.png"), &out.join("imputation.svg"))?)
    }

    /// How good the imputed values are, where they are known.
    fn scores(&self, series: &[Series]) -> anyhow::Result<Option<String>> {
        let (mut samples, mut truth, mut count) = (Vec::new(), Vec::new(), 0);
        for (number, one) in series.iter().enumerate() {
            let own = self.of_series(number);
            let (size, table) = (self.medians[number].len(), &one.target);
            for at in 0..size {
                if let Some(value) = table.held_out(at / table.variables(), at % table.variables()) {
                    samples.extend((0..self.samples).map(|sample| own[sample * size + at]));
                    truth.push(value);
                    count += 1;
                }
            }
        }
        if count == 0 {
            return Ok(None);
        }
        let scored = ScoredSamples::new([count, self.samples, 1, 1], &samples, &truth, None)?;
        Ok(Some(format!(
            "{count} hidden values: MAE {:.4}, RMSE {:.4}, CRPS {:.4} (19 quantiles, linear); {:.1} % lie in the 90 % interval",
            scored.mae(Quantile::Linear),
            scored.rmse(Point::Median),
            scored.quantile_crps(&usual_levels(), Quantile::Linear),
            100.0 * scored.coverage(0.9),
        )))
    }
}

/// The medians over samples that begin at these places.
fn median(samples: &[f32], starts: &[usize], size: usize) -> Vec<f32> {
    let cell = |at: usize| {
        let mut values: Vec<f32> = starts.iter().map(|start| samples[start + at]).collect();
        values.sort_by(f32::total_cmp);
        // A value that was given is the same in all samples, and stays as it is bit for bit.
        if values[0].to_bits() == values[values.len() - 1].to_bits() {
            values[0]
        } else {
            quantile(&values, 0.5) as f32
        }
    };
    (0..size).map(cell).collect()
}
