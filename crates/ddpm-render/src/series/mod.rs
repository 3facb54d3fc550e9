//! Plots of time series: forecasts and imputations next to what was observed, as PNG and SVG.

mod axis;
mod layout;
mod sampled;
mod windows;

use std::path::Path;

use ddpm_files::atomic;

use super::{RenderError, write_png};
pub use sampled::{ForecastPlot, ImputationPlot, quantile};
pub use windows::Windows;

/// Panels at most, however many are wanted: the image would be too large.
const PANEL_LIMIT: usize = 40;
/// Pixels of the PNG to one of the SVG, so that letters are sharp.
const SCALE: u32 = 2;

/// A plot of some variables over the same time, one below the other.
///
/// All values are by step, from the first step of the plot; NaN, and steps beyond the last value, are missing.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesPlot {
    /// What stands above all panels; may be empty.
    pub title: String,
    /// The variables.
    pub panels: Vec<Panel>,
    /// Timestamps of all steps, or none: then steps are numbered.
    pub times: Vec<String>,
    /// The number of the first step, where there are no timestamps.
    pub first_step: usize,
    /// The first step of the forecast, for a line in front of it.
    pub forecast_start: Option<usize>,
    /// Panels at most: the other variables are left out, with a note.
    pub max_panels: usize,
}

/// One variable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panel {
    /// Name of the variable.
    pub name: String,
    /// What is known, as a line with gaps.
    pub history: Vec<f64>,
    /// What was observed, as dots.
    pub observed: Vec<f64>,
    /// The median of what is estimated, as a line.
    pub median: Vec<f64>,
    /// Central intervals around the median, from the widest to the narrowest.
    pub bands: Vec<Band>,
    /// The truth where it is known: open circles next to observed dots, else a dashed line.
    pub truth: Vec<f64>,
}

/// A central interval of a distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// The probability that lies inside.
    pub level: f64,
    /// The lower end at each step.
    pub low: Vec<f64>,
    /// The upper end at each step.
    pub high: Vec<f64>,
}

impl Default for SeriesPlot {
    fn default() -> Self {
        Self {
            title: String::new(),
            panels: Vec::new(),
            times: Vec::new(),
            first_step: 0,
            forecast_start: None,
            max_panels: 8,
        }
    }
}

impl SeriesPlot {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.panels.iter().map(Panel::steps).max().unwrap_or(0).max(self.times.len())
    }

    /// The plot of the last steps alone.
    #[must_use]
    pub fn last_steps(mut self, steps: usize) -> Self {
        let dropped = self.steps().saturating_sub(steps);
        for values in self.panels.iter_mut().flat_map(Panel::values_mut) {
            values.drain(..dropped.min(values.len()));
        }
        self.times.drain(..dropped.min(self.times.len()));
        self.first_step += dropped;
        self.forecast_start = self.forecast_start.and_then(|start| start.checked_sub(dropped));
        self
    }

    /// Writes the same plot as PNG and as SVG.
    pub fn write(&self, png: &Path, svg: &Path) -> Result<(), RenderError> {
        let drawing = layout::drawing(self);
        write_png(png, &drawing.to_image(SCALE), 3)?;
        Ok(atomic::write_derived(svg, drawing.to_svg(&self.title))?)
    }

    fn shown(&self) -> &[Panel] {
        &self.panels[..self.panels.len().min(self.max_panels).min(PANEL_LIMIT)]
    }
}

impl Panel {
    fn steps(&self) -> usize {
        self.values().map(<[f64]>::len).max().unwrap_or(0)
    }

    fn values(&self) -> impl Iterator<Item = &[f64]> {
        let own = [&self.history, &self.observed, &self.median, &self.truth];
        let bands = self.bands.iter().flat_map(|band| [&band.low, &band.high]);
        own.into_iter().chain(bands).map(Vec::as_slice)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Vec<f64>> {
        let own = [&mut self.history, &mut self.observed, &mut self.median, &mut self.truth];
        own.into_iter().chain(self.bands.iter_mut().flat_map(|band| [&mut band.low, &mut band.high]))
    }
}
