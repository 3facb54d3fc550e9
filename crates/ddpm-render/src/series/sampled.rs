//! Plots of samples: their medians and central intervals.

use super::{Band, Panel, SeriesPlot};
use crate::RenderError;

/// Central intervals that are drawn, from the widest.
const LEVELS: [f64; 2] = [0.9, 0.5];

/// A forecast of K variables: what was known, and sampled paths.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForecastPlot<'a> {
    /// What stands above the plot.
    pub title: &'a str,
    /// Names of the variables, or none: then they are numbered.
    pub names: &'a [String],
    /// Known values before the forecast, `[L, K]`; NaN where never observed.
    pub history: &'a [f64],
    /// Sampled paths, `[N, H, K]`.
    pub paths: &'a [f64],
    /// N, H and K.
    pub shape: [usize; 3],
    /// What happened, `[H, K]`; NaN where it is not known.
    pub truth: Option<&'a [f64]>,
    /// Timestamps of the L + H steps, or none.
    pub times: &'a [String],
}

/// An imputation of K variables: what was observed, and samples of the whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImputationPlot<'a> {
    /// What stands above the plot.
    pub title: &'a str,
    /// Names of the variables, or none: then they are numbered.
    pub names: &'a [String],
    /// Observed values, `[L, K]`; NaN where missing.
    pub observed: &'a [f64],
    /// Samples, `[N, L, K]`, of which only the missing cells are drawn.
    pub samples: &'a [f64],
    /// N, L and K.
    pub shape: [usize; 3],
    /// The truth, `[L, K]`; NaN where it is not known. Only the missing cells are drawn.
    pub truth: Option<&'a [f64]>,
    /// Timestamps of the L steps, or none.
    pub times: &'a [String],
}

impl ForecastPlot<'_> {
    /// The plot: the history, then median and central intervals of the paths.
    pub fn plot(&self) -> Result<SeriesPlot, RenderError> {
        let [count, horizon, variables] = self.shape;
        expect("paths", self.paths, product(&self.shape))?;
        let past = self.history.len().checked_div(variables).unwrap_or(0);
        expect("history", self.history, past.checked_mul(variables))?;
        if let Some(truth) = self.truth {
            expect("truth", truth, horizon.checked_mul(variables))?;
        }
        check_labels(self.names, variables, self.times, past + horizon)?;
        let later = |values: Vec<f64>| vec![f64::NAN; past].into_iter().chain(values).collect::<Vec<f64>>();
        let panel = |variable: usize| {
            let summary = Summary::of(self.paths, [count, horizon, variables], variable);
            Panel {
                name: name(self.names, variable),
                history: column(self.history, variables, variable),
                truth: self.truth.map(|truth| later(column(truth, variables, variable))).unwrap_or_default(),
                ..summary.panel(later)
            }
        };
        Ok(SeriesPlot {
            title: self.title.into(),
            panels: (0..variables).map(panel).collect(),
            times: self.times.to_vec(),
            forecast_start: Some(past),
            ..SeriesPlot::default()
        })
    }
}

impl ImputationPlot<'_> {
    /// The plot: observed cells as dots, and median and central intervals of the samples where cells are missing.
    pub fn plot(&self) -> Result<SeriesPlot, RenderError> {
        let [_, steps, variables] = self.shape;
        expect("samples", self.samples, product(&self.shape))?;
        for (what, values) in [("observed", Some(self.observed)), ("truth", self.truth)] {
            if let Some(values) = values {
                expect(what, values, steps.checked_mul(variables))?;
            }
        }
        check_labels(self.names, variables, self.times, steps)?;
        let panel = |variable: usize| {
            let observed = column(self.observed, variables, variable);
            let at_missing = |values: Vec<f64>| {
                let cells = values.into_iter().zip(&observed);
                cells.map(|(value, seen)| if seen.is_nan() { value } else { f64::NAN }).collect::<Vec<f64>>()
            };
            let truth = self.truth.map(|truth| at_missing(column(truth, variables, variable))).unwrap_or_default();
            let summary = Summary::of(self.samples, self.shape, variable);
            let estimated = summary.panel(at_missing);
            Panel { name: name(self.names, variable), history: observed.clone(), observed, truth, ..estimated }
        };
        Ok(SeriesPlot {
            title: self.title.into(),
            panels: (0..variables).map(panel).collect(),
            times: self.times.to_vec(),
            ..SeriesPlot::default()
        })
    }
}

/// Quantiles of one variable at each step.
struct Summary {
    median: Vec<f64>,
    bands: Vec<Band>,
}

impl Summary {
    /// From samples [N, T, K].
    fn of(samples: &[f64], [count, steps, variables]: [usize; 3], variable: usize) -> Self {
        let mut median = Vec::with_capacity(steps);
        let mut bands: Vec<Band> =
            LEVELS.iter().map(|level| Band { level: *level, low: Vec::new(), high: Vec::new() }).collect();
        for step in 0..steps {
            let at = |sample: usize| samples[(sample * steps + step) * variables + variable];
            let mut sorted: Vec<f64> = (0..count).map(at).filter(|value| value.is_finite()).collect();
            sorted.sort_by(f64::total_cmp);
            median.push(quantile(&sorted, 0.5));
            for band in &mut bands {
                band.low.push(quantile(&sorted, (1.0 - band.level) / 2.0));
                band.high.push(quantile(&sorted, (1.0 + band.level) / 2.0));
            }
        }
        Self { median, bands }
    }

    /// A panel of the values at their steps.
    fn panel(self, place: impl Fn(Vec<f64>) -> Vec<f64>) -> Panel {
        let band = |band: Band| Band { low: place(band.low), high: place(band.high), ..band };
        Panel { median: place(self.median), bands: self.bands.into_iter().map(band).collect(), ..Panel::default() }
    }
}

/// Linear interpolation between order statistics; NaN without any.
pub fn quantile<T: Copy + Into<f64>>(sorted: &[T], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = level * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let share = place - below as f64;
    let [below, above] = [below, above].map(|place| sorted[place].into());
    below * (1.0 - share) + above * share
}

pub(super) fn column(values: &[f64], variables: usize, variable: usize) -> Vec<f64> {
    values.chunks_exact(variables).map(|row| row[variable]).collect()
}

pub(super) fn name(names: &[String], variable: usize) -> String {
    names.get(variable).cloned().unwrap_or_else(|| format!("variable {}", variable + 1))
}

pub(super) fn product(shape: &[usize; 3]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size))
}

pub(super) fn expect(what: &'static str, values: &[f64], expected: Option<usize>) -> Result<(), RenderError> {
    count(what, values.len(), expected.unwrap_or(usize::MAX))
}

pub(super) fn check_labels(
    names: &[String],
    variables: usize,
    times: &[String],
    steps: usize,
) -> Result<(), RenderError> {
    if !names.is_empty() {
        count("names of variables", names.len(), variables)?;
    }
    if times.is_empty() { Ok(()) } else { count("timestamps", times.len(), steps) }
}

fn count(what: &'static str, found: usize, expected: usize) -> Result<(), RenderError> {
    if found == expected { Ok(()) } else { Err(RenderError::Series { what, expected, found }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_order_statistics() {
        let sorted = [0.0, 1.0, 2.0, 4.0];
        assert_eq!(
            [0.0, 0.5, 0.9, 1.0].map(|level| (quantile(&sorted, level) * 1e9).round() / 1e9),
            [0.0, 1.5, 3.4, 4.0]
        );
        assert_eq!(quantile(&[7.0], 0.05), 7.0);
        assert!(quantile::<f32>(&[], 0.5).is_nan());
    }

    #[test]
    fn a_forecast_follows_its_history() {
        let history = [1.0, 10.0, 2.0, f64::NAN];
        // Three paths of one step.
        let paths = [3.0, 30.0, 4.0, 31.0, 5.0, f64::INFINITY];
        let names = ["a".to_string(), "b".into()];
        let forecast = ForecastPlot {
            names: &names,
            history: &history,
            paths: &paths,
            shape: [3, 1, 2],
            truth: Some(&[4.5, 32.0]),
            ..ForecastPlot::default()
        };
        let plot = forecast.plot().unwrap();
        assert_eq!((plot.steps(), plot.forecast_start), (3, Some(2)));
        let [a, b] = &plot.panels[..] else { panic!() };
        assert_eq!((a.history.clone(), a.median[2], a.truth[2]), (vec![1.0, 2.0], 4.0, 4.5));
        assert!(a.median[0].is_nan() && a.truth[1].is_nan() && b.history[1].is_nan());
        assert_eq!((a.bands[1].level, a.bands[1].low[2], a.bands[1].high[2]), (0.5, 3.5, 4.5));
        assert_eq!(b.median[2], 30.5, "what is not finite does not count");
        let short = plot.last_steps(2);
        assert_eq!((short.first_step, short.forecast_start, short.panels[0].history.clone()), (1, Some(1), vec![2.0]));
    }

    #[test]
    fn an_imputation_has_estimates_only_where_cells_are_missing() {
        let observed = [1.0, f64::NAN, 3.0];
        let samples = [1.0, 2.0, 3.0, 1.0, 4.0, 3.0];
        let imputation = ImputationPlot {
            observed: &observed,
            samples: &samples,
            shape: [2, 3, 1],
            truth: Some(&[1.0, 2.5, 3.0]),
            ..ImputationPlot::default()
        };
        let panel = &imputation.plot().unwrap().panels[0];
        assert_eq!((panel.name.as_str(), panel.median[1], panel.truth[1]), ("variable 1", 3.0, 2.5));
        assert!([panel.median[0], panel.truth[2], panel.bands[0].low[0]].iter().all(|value| value.is_nan()));
    }

    #[test]
    fn arrays_that_do_not_fit_are_named() {
        let message = |forecast: ForecastPlot| forecast.plot().unwrap_err().to_string();
        assert_eq!(
            message(ForecastPlot { paths: &[0.0; 5], shape: [2, 1, 3], ..ForecastPlot::default() }),
            "paths of a series plot: expected 6, found 5"
        );
        assert!(message(ForecastPlot { shape: [usize::MAX, 2, 2], ..ForecastPlot::default() }).starts_with("paths"));
        let paths = [0.0; 6];
        let fits = ForecastPlot { paths: &paths, shape: [2, 1, 3], ..ForecastPlot::default() };
        assert!(message(ForecastPlot { history: &[0.0; 4], ..fits }).starts_with("history"));
        assert!(message(ForecastPlot { names: &[String::new()], ..fits }).starts_with("names"));
        assert!(message(ForecastPlot { times: &vec![String::new(); 2], ..fits }).starts_with("timestamps"));
        assert!(ForecastPlot::default().plot().unwrap().panels.is_empty());
    }
}
