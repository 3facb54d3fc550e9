//! Windows of a series: the past that the recurrent network reads, and the steps to forecast.

use burn::tensor::{DType, Device, Tensor, TensorData};
use thiserror::Error;

use super::config::TimeGradConfig;

/// The smallest scale of a variable.
const SMALLEST_SCALE: f64 = 1e-10;

/// Why there is no such window.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WindowError {
    /// The number of values does not fit.
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        /// What was given.
        what: &'static str,
        /// Values in it.
        found: usize,
        /// Values that there should be.
        expected: usize,
    },
    /// The past would end after the series, or the future would.
    #[error("a window whose past ends at step {end} of {steps} needs {future} steps after it")]
    End {
        /// Where the past ends.
        end: usize,
        /// Steps of the series.
        steps: usize,
        /// Steps needed after the past.
        future: usize,
    },
}

/// A series of several variables.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// Variable by variable: `[D, T]`.
    pub values: &'a [f32],
    /// Which of them were observed; the others count as 0.
    pub observed: &'a [bool],
    /// The time features, each a row of at least `T` values, of which a forecast needs `prediction_length` more.
    pub time_features: &'a [Vec<f64>],
}

/// Some steps of a series: `steps` times the variables, and `steps` times the time features.
#[derive(Clone, Debug, Default, PartialEq)]
struct Steps {
    values: Vec<f32>,
    observed: Vec<f32>,
    time_features: Vec<f32>,
}

/// A window on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    past: Steps,
    future: Steps,
}

impl Window {
    /// The past before the step `end`, and the `prediction_length` steps from there on with their values.
    pub fn with_future(series: &Series<'_>, end: usize, config: &TimeGradConfig) -> Result<Self, WindowError> {
        Self::cut(series, end, config, true)
    }

    /// The past before the step `end`, and the time features of the `prediction_length` steps from there on.
    pub fn before_forecast(series: &Series<'_>, end: usize, config: &TimeGradConfig) -> Result<Self, WindowError> {
        Self::cut(series, end, config, false)
    }

    fn cut(series: &Series<'_>, end: usize, config: &TimeGradConfig, with_future: bool) -> Result<Self, WindowError> {
        let steps = series.values.len() / config.variables.max(1);
        let future = config.prediction_length;
        let last = if with_future { end + future } else { end };
        if last > steps {
            return Err(WindowError::End { end, steps, future: last - end });
        }
        series.check(steps, end + future, config)?;
        // What would lie before the series is 0, and was not observed.
        let history = config.history_length();
        let padding = history.saturating_sub(end);
        let past = series.steps(end - (history - padding), end, padding, true, config);
        Ok(Self { past, future: series.steps(end, end + future, 0, with_future, config) })
    }
}

impl Series<'_> {
    fn check(&self, steps: usize, features: usize, config: &TimeGradConfig) -> Result<(), WindowError> {
        let fit = |what, found, expected| match found == expected {
            true => Ok(()),
            false => Err(WindowError::Length { what, found, expected }),
        };
        fit("the series", self.values.len(), steps * config.variables)?;
        fit("the list of what was observed", self.observed.len(), self.values.len())?;
        fit("the list of time features", self.time_features.len(), config.time_features)?;
        match self.time_features.iter().find(|row| row.len() < features) {
            Some(row) => fit("a time feature", row.len(), features),
            None => Ok(()),
        }
    }

    /// The steps from `start` to `end` after `padding` steps of zeros.
    fn steps(&self, start: usize, end: usize, padding: usize, with_values: bool, config: &TimeGradConfig) -> Steps {
        let length = self.values.len() / config.variables.max(1);
        let mut steps = Steps { time_features: vec![0.0; padding * config.time_features], ..Steps::default() };
        for step in start..end {
            steps.time_features.extend(self.time_features.iter().map(|row| row[step] as f32));
        }
        if with_values {
            steps.values = vec![0.0; padding * config.variables];
            steps.observed = steps.values.clone();
            for step in start..end {
                for index in (0..config.variables).map(|variable| variable * length + step) {
                    steps.values.push(if self.observed[index] { self.values[index] } else { 0.0 });
                    steps.observed.push(f32::from(u8::from(self.observed[index])));
                }
            }
        }
        steps
    }
}

/// A batch of windows.
#[derive(Clone, Debug)]
pub struct Windows {
    /// `[B, history, D]`
    pub past_values: Tensor<3>,
    /// 1 where observed, else 0: `[B, history, D]`
    pub past_observed: Tensor<3>,
    /// `[B, history, F]`
    pub past_features: Tensor<3>,
    /// `[B, prediction_length, D]`
    pub future_values: Option<Tensor<3>>,
    /// `[B, prediction_length, D]`
    pub future_observed: Option<Tensor<3>>,
    /// `[B, prediction_length, F]`
    pub future_features: Tensor<3>,
}

impl Windows {
    /// The same on another device.
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            past_values: self.past_values.to_device(device),
            past_observed: self.past_observed.to_device(device),
            past_features: self.past_features.to_device(device),
            future_values: self.future_values.map(|values| values.to_device(device)),
            future_observed: self.future_observed.map(|observed| observed.to_device(device)),
            future_features: self.future_features.to_device(device),
        }
    }

    /// Windows of the same config as one batch. Only if all have a future the batch has one.
    pub fn batch(windows: &[Window], config: &TimeGradConfig, device: &Device, dtype: DType) -> Self {
        let stack = |width: usize, part: &dyn Fn(&Window) -> &[f32]| {
            let values: Vec<f32> = windows.iter().flat_map(part).copied().collect();
            let steps = values.len() / (windows.len() * width).max(1);
            Tensor::from_data(TensorData::new(values, [windows.len(), steps, width]), (device, dtype))
        };
        let (variables, features) = (config.variables, config.time_features);
        let has_future = windows.iter().all(|window| !window.future.values.is_empty());
        Self {
            past_values: stack(variables, &|window| &window.past.values),
            past_observed: stack(variables, &|window| &window.past.observed),
            past_features: stack(features, &|window| &window.past.time_features),
            future_values: has_future.then(|| stack(variables, &|window| &window.future.values)),
            future_observed: has_future.then(|| stack(variables, &|window| &window.future.observed)),
            future_features: stack(features, &|window| &window.future.time_features),
        }
    }
}

/// The scale of each variable of each row, `[B, 1, D]`: the mean absolute value over the observed steps of `[B, S, D]`.
///
/// Where nothing was observed or all of it is 0, the mean over all rows stands in.
pub fn mean_scale(values: Tensor<3>, observed: Tensor<3>) -> Tensor<3> {
    let sum = (values.clone().abs() * observed.clone()).sum_dim(1).sum_dim(0);
    let of_all = sum / observed.clone().sum_dim(1).sum_dim(0).clamp_min(1.0);
    mean_scale_or(values, observed, of_all)
}

/// The same, where `otherwise`, `[1, 1, D]`, stands in.
pub fn mean_scale_or(values: Tensor<3>, observed: Tensor<3>, otherwise: Tensor<3>) -> Tensor<3> {
    let count = observed.clone().sum_dim(1);
    let sum = (values.abs() * observed).sum_dim(1);
    let scale = sum.clone() / count.clamp_min(1.0);
    let otherwise = otherwise.expand(scale.dims());
    scale.mask_where(sum.lower_equal_elem(0.0), otherwise).clamp_min(SMALLEST_SCALE)
}

/// The values `lag` steps before each of the last `steps` of a sequence `[B, L, D]`, for all lags: `[B, steps, D, lags]`.
pub fn lagged(sequence: &Tensor<3>, lags: &[usize], steps: usize) -> Tensor<4> {
    let length = sequence.dims()[1];
    let before = |&lag: &usize| sequence.clone().narrow(1, length - steps - lag, steps);
    Tensor::stack(lags.iter().map(before).collect(), 3)
}

/// The share of rows with a step at which all variables were observed, of `[B, S, D]`: the factor that pytorch-ts puts on
/// the loss.
pub fn observed_share(observed: Tensor<3>) -> Tensor<1> {
    let (rows, dtype) = (observed.dims()[0], observed.dtype());
    let whole_steps = observed.min_dim(2).max_dim(1).reshape([rows]);
    whole_steps.greater_elem(0.0).float().cast(dtype).sum() * (1.0 / rows as f64)
}
