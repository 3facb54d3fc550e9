//! A plot of whole windows, such as samples of a model of series.

use super::sampled::{check_labels, column, expect, name, product};
use super::{Panel, SeriesPlot};
use crate::RenderError;

/// Some windows of K variables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Windows<'a> {
    /// Names of the variables, or none: then they are numbered.
    pub names: &'a [String],
    /// The windows, `[N, L, K]`.
    pub samples: &'a [f64],
    /// N, L and K.
    pub shape: [usize; 3],
}

impl Windows<'_> {
    /// The plot: the windows one after the other, with a gap of one step between them.
    pub fn plot(&self) -> Result<SeriesPlot, RenderError> {
        let [count, steps, variables] = self.shape;
        expect("windows", self.samples, product(&self.shape))?;
        check_labels(self.names, variables, &[], steps)?;
        let panel = |variable: usize| {
            let all = column(self.samples, variables, variable);
            let windows: Vec<&[f64]> = all.chunks(steps.max(1)).collect();
            Panel { name: name(self.names, variable), history: windows.join(&f64::NAN), ..Panel::default() }
        };
        let title = match count {
            0 | 1 => String::new(),
            count => format!("{count} windows, one after the other"),
        };
        Ok(SeriesPlot { title, panels: (0..variables).map(panel).collect(), ..SeriesPlot::default() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_with_a_gap() {
        let samples = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0];
        let plot = Windows { samples: &samples, shape: [2, 2, 2], ..Windows::default() }.plot().unwrap();
        let history = &plot.panels[1].history;
        assert_eq!([&history[..2], &history[3..]], [[10.0, 20.0], [30.0, 40.0]]);
        assert!(history[2].is_nan() && history.len() == 5);
        let error = Windows { samples: &samples, shape: [2, 3, 2], ..Windows::default() }.plot().unwrap_err();
        assert_eq!(error.to_string(), "windows of a series plot: expected 12, found 8");
    }
}
