//! `ddpm-infer forecast`: what comes after a series, as paths and their quantiles.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_data::series::{self, Series, Timestamp, write_quantiles};
use ddpm_eval::series::{Point, Quantile, ScoredSamples, usual_levels};
use ddpm_families::family::trained::Stretch;
use ddpm_files::{atomic, npy};
use ddpm_render::series::{ForecastPlot, quantile};

use crate::commands::output_folder::OutputArgs;
use crate::commands::series_file::{
    SeriesFile, SeriesModelArgs, SeriesSamplingArgs, counted, time, timestamps, values,
};

/// Forecast what comes after a series.
#[derive(Args, Debug)]
pub struct ForecastArgs {
    #[command(flatten)]
    model: SeriesModelArgs,
    /// The series: CSV, JSON lines, .tsf, .npy (steps, variables) and others; all of it is history.
    #[arg(long, value_name = "FILE", help_heading = "Series")]
    data: PathBuf,
    /// The time of the first row, for a file without times.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Series")]
    start: Option<Timestamp>,
    /// Steps to forecast.
    #[arg(long, value_name = "H", value_parser = at_least::<1, usize>, help_heading = "Series")]
    horizon: usize,
    /// Sampled paths.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least::<1, usize>, help_heading = "Series")]
    paths: usize,
    /// Forecast window after window from this row on (counted from 0), each with all rows before it as history.
    #[arg(long, value_name = "ROW", value_parser = at_least::<1, usize>, help_heading = "Series")]
    rolling: Option<usize>,
    /// Rows from one of these windows to the next; default: the horizon.
    #[arg(long, value_name = "ROWS", requires = "rolling", value_parser = at_least::<1, usize>, help_heading = "Series")]
    step: Option<usize>,
    #[command(flatten)]
    sampling: SeriesSamplingArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the command writes.
const FILES: [&str; 4] = ["paths.npy", "quantiles.csv", "forecast.png", "forecast.svg"];

/// Levels of the table of quantiles.
const LEVELS: [f64; 7] = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95];

/// A window that is forecast: which series, and the first row of the time to come.
struct Window<'a> {
    number: usize,
    series: &'a Series,
    start: usize,
}

impl<'a> Window<'a> {
    /// All rows before it, as window `number` of a forecast.
    fn past(&self, number: usize) -> Stretch<'a> {
        Stretch { series: self.series, start: 0, end: self.start, number: number as u64 }
    }
}

/// Forecasts, and gives the folder with the result.
pub fn run(args: &ForecastArgs) -> anyhow::Result<PathBuf> {
    let open = args.model.open()?;
    let card = open.model.card();
    let Some(model) = open.model.forecast() else { return Err(open.cannot("forecast")) };
    if let Some(longest) = model.longest_horizon().filter(|longest| args.horizon > *longest) {
        bail!("--horizon {}: the model forecasts {longest} steps at most", args.horizon);
    }
    let file = SeriesFile::read(&args.data, args.start, card)?;
    let windows = args.windows(&file.series)?;
    let shape = [windows.len(), args.paths, args.horizon, card.data.shape[0]];
    let of_path = shape[0].saturating_mul(shape[2]).saturating_mul(shape[3]);
    let draw = args.sampling.checked_draw("--paths", args.paths, of_path)?;
    let out = args.output.make(open.run.as_ref(), "forecasts", &open.path, &FILES)?;
    let count = counted(windows.len(), "window");
    say!("{}: {count} of {}, {}", open.path.display(), args.data.display(), card.origin());
    let pasts: Vec<Stretch<'_>> = windows.iter().enumerate().map(|(number, window)| window.past(number)).collect();
    // An empty folder would only be in the way.
    let paths = model.forecast(&pasts, args.horizon, &draw).inspect_err(|_| drop(std::fs::remove_dir(&out)));
    let paths = paths.map_err(anyhow::Error::from_boxed)?;
    args.write(&out, &file, &windows, &paths, shape)?;
    if let Some(line) = scores(&windows, &paths, shape)? {
        say!("{line}");
    }
    Ok(out)
}

impl ForecastArgs {
    fn windows<'a>(&self, series: &'a [Series]) -> anyhow::Result<Vec<Window<'a>>> {
        let mut windows = Vec::new();
        for (number, series) in series.iter().enumerate() {
            let rows = series.target.steps();
            match self.rolling {
                None => windows.push(Window { number, series, start: rows }),
                Some(from) => {
                    let last = rows.checked_sub(self.horizon).filter(|last| *last >= from);
                    let Some(last) = last else {
                        bail!(
                            "--rolling {from}: {} has {rows} rows, and a window of {} rows from there on does not fit",
                            self.data.display(),
                            self.horizon
                        );
                    };
                    let starts = (from..=last).step_by(self.step.unwrap_or(self.horizon));
                    windows.extend(starts.map(|start| Window { number, series, start }));
                }
            }
        }
        Ok(windows)
    }

    fn write(
        &self,
        out: &Path,
        file: &SeriesFile,
        windows: &[Window<'_>],
        paths: &[f32],
        shape: [usize; 4],
    ) -> anyhow::Result<()> {
        // One window of one series has no axis of its own.
        let has_windows = self.rolling.is_some() || windows.len() > 1;
        let axes = if has_windows { &shape[..] } else { &shape[1..] };
        atomic::write(&out.join("paths.npy"), npy::encode(axes, paths))?;
        let of_window = shape[1..].iter().product();
        let forecasts: Vec<series::ForecastQuantiles> = windows
            .iter()
            .zip(paths.chunks(of_window))
            .map(|(window, paths)| series::ForecastQuantiles {
                series: window.number,
                first_step: window.start,
                levels: LEVELS.to_vec(),
                values: quantiles(paths, [shape[1], shape[2], shape[3]]),
            })
            .collect();
        write_quantiles(&out.join("quantiles.csv"), &file.layout, &file.series, &forecasts)?;
        let plot = Drawing::new(windows, paths, shape, self.step.is_none() || self.step == Some(self.horizon));
        plot.write(out)
    }
}

/// Quantiles of paths [N, H, K] at all levels: [H, K, levels].
fn quantiles(paths: &[f32], [count, horizon, variables]: [usize; 3]) -> Vec<f32> {
    let cell = |at: usize| {
        let mut values: Vec<f32> = (0..count).map(|path| paths[path * horizon * variables + at]).collect();
        values.sort_by(f32::total_cmp);
        LEVELS.map(|level| quantile(&values, level) as f32)
    };
    (0..horizon * variables).flat_map(cell).collect()
}

/// Steps to come that are drawn at most, and steps of the history at least.
const MOST_STEPS: usize = 400;
const LEAST_HISTORY: usize = 48;

/// What is drawn: the last window, or the last ones where each begins behind the one before.
struct Drawing<'a> {
    series: &'a Series,
    /// The steps to come.
    steps: Range<usize>,
    /// [N, steps, K]
    paths: Vec<f64>,
    count: usize,
    /// Steps of one window.
    horizon: usize,
}

impl<'a> Drawing<'a> {
    fn new(windows: &[Window<'a>], paths: &[f32], [_, count, horizon, variables]: [usize; 4], joined: bool) -> Self {
        let last = windows.len() - 1;
        let most = if joined { (MOST_STEPS / horizon).max(1) } else { 1 };
        let same = windows.iter().rev().take(most).take_while(|window| window.number == windows[last].number);
        let first = windows.len() - same.count();
        let (of_path, of_window) = (horizon * variables, count * horizon * variables);
        let of = |path: usize| {
            (first..windows.len()).flat_map(move |window| {
                let start = window * of_window + path * of_path;
                paths[start..start + of_path].iter().map(|value| f64::from(*value))
            })
        };
        Self {
            series: windows[last].series,
            steps: windows[first].start..windows[last].start + horizon,
            paths: (0..count).flat_map(of).collect(),
            count,
            horizon,
        }
    }

    fn write(&self, out: &Path) -> anyhow::Result<()> {
        let (series, steps) = (self.series, self.steps.clone());
        let history = (3 * self.horizon).max(LEAST_HISTORY).max(steps.len() / 2).min(steps.start);
        let shown = steps.start - history..steps.start;
        let truth = (series.target.steps() >= steps.end).then(|| values(series, steps.clone(), true));
        let plot = ForecastPlot {
            title: "",
            names: &series.variables,
            history: &values(series, shown.clone(), false),
            paths: &self.paths,
            shape: [self.count, steps.len(), series.target.variables()],
            truth: truth.as_deref(),
            times: &timestamps(series, shown.start..steps.end),
        };
        let mut plot = plot.plot()?;
        plot.first_step = shown.start;
        Ok(plot.write(&out.join("forecast.png"), &out.join("forecast.svg"))?)
    }
}

/// How good the forecasts are, where it is known what came.
fn scores(windows: &[Window<'_>], paths: &[f32], shape: [usize; 4]) -> anyhow::Result<Option<String>> {
    let horizon = shape[2];
    if windows.iter().any(|window| window.start + horizon > window.series.target.steps()) {
        return Ok(None);
    }
    let steps = |window: &Window<'_>| values(window.series, window.start..window.start + horizon, true);
    let truth: Vec<f64> = windows.iter().flat_map(steps).collect();
    let mask: Vec<f64> = truth.iter().map(|value| f64::from(u8::from(value.is_finite()))).collect();
    if mask.iter().sum::<f64>() == 0.0 {
        return Ok(None);
    }
    let paths: Vec<f64> = paths.iter().map(|value| f64::from(*value)).collect();
    let scored = ScoredSamples::new(shape, &paths, &truth, Some(&mask))?;
    Ok(Some(format!(
        "{} values: CRPS {:.4} (19 quantiles, nearest rank), MAE {:.4}, RMSE {:.4}; {:.1} % lie in the 90 % interval",
        scored.scored(),
        scored.quantile_crps(&usual_levels(), Quantile::Nearest),
        scored.mae(Quantile::Linear),
        scored.rmse(Point::Median),
        100.0 * scored.coverage(0.9),
    )))
}
