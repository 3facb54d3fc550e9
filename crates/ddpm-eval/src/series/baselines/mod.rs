//! Classical baselines of forecasting and of filling in missing values, one file each.
//!
//! [`ForecastBaseline::forecast`] and [`ImputationBaseline::impute`] are the fronts. What cannot be fitted is an error
//! that says why.

mod climatology;
mod gaussian_conditional;
mod least_squares;
mod linear;
mod locf;
mod mean;
mod mean_of_observed;
mod naive;
mod period_copy;
mod season;
mod seasonal_naive;
mod train_mean;
mod var;

use std::fmt;
use std::ops::RangeInclusive;

use ddpm_data::random::{ChaCha8Rng, Stream, mix, rng};

use super::period;
use super::rows::{Predictions, Rows, WindowArray, means};
use crate::EvaluationError;
pub use season::Season;
pub use var::{Innovations, Var};

/// Forecasts that are to be made.
#[derive(Clone, Debug)]
pub struct ForecastTask<'a> {
    /// What is fitted to; of several series one behind the other, with so many rows of NaN between them that places in a
    /// season agree.
    pub train: Rows<'a>,
    /// What is known before each horizon, which begins right after it: numbered as the training rows are, so that places
    /// in a season agree.
    pub histories: Vec<Rows<'a>>,
    /// Steps of a forecast, H.
    pub horizon: usize,
    /// Paths of each forecast, N, by methods that draw them.
    pub paths: usize,
    /// Seed of the paths: those of a window are a function of it and of the window's number.
    pub seed: u64,
}

/// A baseline of forecasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ForecastBaseline {
    /// The last value.
    Naive,
    /// The value one period before.
    SeasonalNaive {
        /// Its steps.
        period: usize,
    },
    /// The mean of the training rows.
    Mean,
    /// The season with residuals drawn from the training rows.
    Climatology {
        /// The season.
        season: Season,
    },
    /// A vector autoregression.
    Var(Var),
}

impl fmt::Display for ForecastBaseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Naive => write!(f, "last value"),
            Self::SeasonalNaive { period } => write!(f, "seasonal naive, period {period}"),
            Self::Mean => write!(f, "mean"),
            Self::Climatology { season } => write!(f, "{season} + residuals"),
            Self::Var(var) => write!(f, "{var}"),
        }
    }
}

impl ForecastBaseline {
    /// Those that suit a series with this period, or with none.
    pub fn usual(period: Option<usize>) -> Vec<Self> {
        let var = |lags, season, innovations| Self::Var(Var { lags, season, innovations });
        let season = period.map_or(Season::None, Season::of_period);
        let seasonal = period.map(|period| Self::SeasonalNaive { period });
        let vars = [(1, Innovations::Normal), (2, Innovations::Normal), (2, Innovations::Drawn)];
        let mut all = vec![Self::Naive, Self::Mean];
        all.extend(seasonal);
        all.push(Self::Climatology { season });
        all.push(var(3, Season::None, Innovations::Normal));
        all.extend(vars.map(|(lags, innovations)| var(lags, season, innovations)));
        all
    }

    /// Forecasts [W, N, H, K]; methods that draw no paths make one.
    pub fn forecast(self, task: &ForecastTask<'_>) -> Result<Predictions, EvaluationError> {
        task.check()?;
        match self {
            Self::Naive => naive::forecast(task),
            Self::SeasonalNaive { period } => seasonal_naive::forecast(task, period),
            Self::Mean => mean::forecast(task),
            Self::Climatology { season } => climatology::forecast(task, season),
            Self::Var(var) => var::forecast(task, var),
        }
    }
}

impl ForecastTask<'_> {
    fn check(&self) -> Result<(), EvaluationError> {
        let variables = self.train.variables();
        let other = self.histories.iter().find(|history| history.variables() != variables);
        match other {
            Some(other) => {
                let reason = format!("a history of {} variables after training rows of {variables}", other.variables());
                Err(EvaluationError::Argument { what: "a forecast", reason })
            }
            None if self.train.is_empty() => Err(EvaluationError::TooFew { what: "a forecast", least: 1, found: 0 }),
            None => Ok(()),
        }
    }

    /// One value for each window, step of the horizon, and variable.
    fn points(&self, value: impl Fn(Rows<'_>, usize, usize) -> f64) -> Predictions {
        let variables = self.train.variables();
        let mut values = Vec::with_capacity(self.histories.len() * self.horizon * variables);
        for history in &self.histories {
            let places = (0..self.horizon).flat_map(|step| (0..variables).map(move |variable| (step, variable)));
            values.extend(places.map(|(step, variable)| value(*history, step, variable)));
        }
        Predictions::points(values)
    }

    /// Paths [H, K], each written by `path` from what `prepare` makes of the window's history.
    fn paths<T>(&self, prepare: impl Fn(Rows<'_>) -> T, path: impl Fn(&T, &mut ChaCha8Rng, &mut [f64])) -> Predictions {
        let size = self.horizon * self.train.variables();
        let mut values = Vec::with_capacity(self.histories.len() * self.paths * size);
        for (window, history) in self.histories.iter().enumerate() {
            let mut numbers = numbers(self.seed, window);
            let prepared = prepare(*history);
            for _ in 0..self.paths {
                let mut own = vec![0.0; size];
                path(&prepared, &mut numbers, &mut own);
                values.append(&mut own);
            }
        }
        Predictions { samples: self.paths, values }
    }
}

/// Random numbers of a window, others than those of a model with the same seed.
fn numbers(seed: u64, window: usize) -> ChaCha8Rng {
    rng(mix(seed, Stream::SeriesRow, u64::MAX), Stream::SeriesRow, window as u64)
}

/// Windows whose missing values are to be filled in.
#[derive(Clone, Copy, Debug)]
pub struct ImputationTask<'a> {
    /// What is fitted to, NaN where there is no value.
    pub train: WindowArray<'a>,
    /// The windows; values that are not given are not looked at.
    pub test: WindowArray<'a>,
    /// Which of their values are given, in the shape of the windows; NaN is not given in any case.
    pub given: &'a [bool],
    /// Samples of each window, N, by methods that draw them.
    pub samples: usize,
    /// Seed of the samples: those of a window are a function of it and of the window's number.
    pub seed: u64,
}

/// A baseline that fills in missing values.
#[derive(Clone, Debug, PartialEq)]
pub enum ImputationBaseline {
    /// The mean of the training windows.
    Mean,
    /// The mean of what the window has of the variable.
    MeanOfObserved,
    /// The last observation carried forward.
    Locf,
    /// Linear interpolation.
    Linear,
    /// The value one period before or after.
    PeriodCopy {
        /// The lags among which each window's period is.
        lags: RangeInclusive<usize>,
    },
    /// The conditional normal law.
    GaussianConditional {
        /// What is added to every variance; unless given what makes held-out training windows the likeliest.
        ridge: Option<f64>,
    },
}

impl fmt::Display for ImputationBaseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => write!(f, "mean"),
            Self::MeanOfObserved => write!(f, "mean of observed"),
            Self::Locf => write!(f, "last observation"),
            Self::Linear => write!(f, "linear interpolation"),
            Self::PeriodCopy { lags } => write!(f, "period copy, lags {} to {}", lags.start(), lags.end()),
            Self::GaussianConditional { ridge: None } => write!(f, "Gaussian conditional"),
            Self::GaussianConditional { ridge: Some(ridge) } => write!(f, "Gaussian conditional, ridge {ridge}"),
        }
    }
}

impl ImputationBaseline {
    /// Those that suit these training windows.
    pub fn usual(train: WindowArray<'_>) -> Vec<Self> {
        let copy = period::range_of_windows(train).map(|lags| Self::PeriodCopy { lags });
        let all = [Self::Mean, Self::MeanOfObserved, Self::Locf, Self::Linear];
        all.into_iter().chain(copy).chain([Self::GaussianConditional { ridge: None }]).collect()
    }

    /// Windows [M, N, L, K] with every value: the given ones as they are. Methods that draw no samples make one.
    pub fn impute(&self, task: &ImputationTask<'_>) -> Result<Predictions, EvaluationError> {
        task.check()?;
        match self {
            Self::Mean => train_mean::impute(task),
            Self::MeanOfObserved => mean_of_observed::impute(task),
            Self::Locf => locf::impute(task),
            Self::Linear => linear::impute(task),
            Self::PeriodCopy { lags } => period_copy::impute(task, lags.clone()),
            Self::GaussianConditional { ridge } => gaussian_conditional::impute(task, *ridge),
        }
    }
}

impl ImputationTask<'_> {
    fn check(&self) -> Result<(), EvaluationError> {
        let ([_, l, k], test) = (self.train.shape(), self.test.shape());
        if [l, k] == test[1..] && self.given.len() == self.test.values().len() {
            return Ok(());
        }
        let reason =
            format!("training windows of {l} steps and {k} variables, others {test:?}, {} given", self.given.len());
        Err(EvaluationError::Argument { what: "filling in", reason })
    }

    /// The values of a window, NaN where none is given.
    fn given_window(&self, window: usize) -> Vec<f64> {
        let size = self.test.size();
        let places = window * size..(window + 1) * size;
        places.map(|place| if self.given[place] { self.test.values()[place] } else { f64::NAN }).collect()
    }

    fn rng(&self, window: usize) -> ChaCha8Rng {
        numbers(self.seed, window)
    }

    /// The columns of every window, made of what is given of all and of the variables' means in the training windows.
    fn by_window(
        &self,
        what: &'static str,
        columns: impl Fn(Rows<'_>, &[f64]) -> Vec<Vec<f64>>,
    ) -> Result<Predictions, EvaluationError> {
        let means = means(self.train.rows(), what)?;
        let [windows, length, variables] = self.test.shape();
        let mut values = Vec::with_capacity(windows * self.test.size());
        for window in 0..windows {
            let columns = columns(Rows::new(&self.given_window(window), variables, 0)?, &means);
            values.extend((0..length).flat_map(|step| columns.iter().map(move |column| column[step])));
        }
        Ok(Predictions::points(values))
    }

    /// The same for every variable alone.
    fn by_variable(
        &self,
        what: &'static str,
        column: impl Fn(&[f64], f64) -> Vec<f64>,
    ) -> Result<Predictions, EvaluationError> {
        self.by_window(what, |given, means| {
            let of_variable =
                |(variable, mean): (usize, &f64)| column(&given.column(variable).collect::<Vec<f64>>(), *mean);
            means.iter().enumerate().map(of_variable).collect()
        })
    }
}

/// A column with a value in place of each that is missing.
fn fill(given: &[f64], value: impl Fn(usize) -> f64) -> Vec<f64> {
    given.iter().enumerate().map(|(step, own)| if own.is_finite() { *own } else { value(step) }).collect()
}

/// Of every step the nearest step at or before it that has a value, and the nearest at or after it.
fn neighbors(given: &[f64]) -> Vec<[Option<usize>; 2]> {
    let nearest = |steps: &mut dyn Iterator<Item = usize>| {
        let mut last = None;
        let found = steps.map(|step| {
            last = if given[step].is_finite() { Some(step) } else { last };
            last
        });
        found.collect::<Vec<_>>()
    };
    let before = nearest(&mut (0..given.len()));
    let after = nearest(&mut (0..given.len()).rev());
    before.into_iter().zip(after.into_iter().rev()).map(|(before, after)| [before, after]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::normals;

    const NAN: f64 = f64::NAN;

    fn noise(count: usize) -> Vec<f64> {
        normals(&mut rng(2, Stream::Probe, 0), count).into_iter().map(f64::from).collect()
    }

    fn forecast<'a>(train: &'a [f64], history: &'a [f64], horizon: usize) -> ForecastTask<'a> {
        let history = Rows::new(history, 1, train.len()).unwrap();
        ForecastTask { train: Rows::new(train, 1, 0).unwrap(), histories: vec![history], horizon, paths: 400, seed: 0 }
    }

    #[test]
    fn naive_forecasts_go_back_to_what_is_there() {
        let (train, history) = ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0, NAN]);
        let task = forecast(&train, &history, 5);
        assert_eq!(ForecastBaseline::Naive.forecast(&task).unwrap().values, [7.0; 5]);
        assert_eq!(ForecastBaseline::Mean.forecast(&task).unwrap().values, [2.0; 5]);
        // Of a period of two steps, beyond which the horizon goes.
        let seasonal = ForecastBaseline::SeasonalNaive { period: 2 }.forecast(&task).unwrap();
        assert_eq!(seasonal.values, [7.0, 6.0, 7.0, 6.0, 7.0]);
        let long = ForecastBaseline::SeasonalNaive { period: 5 }.forecast(&task).unwrap_err();
        assert!(long.to_string().contains("at least 5 items, but there are 4"), "{long}");
    }

    #[test]
    fn an_autoregression_is_found_in_a_series_with_gaps() {
        let mut values = vec![0.0];
        noise(6000).iter().for_each(|noise| values.push(0.5 * values[values.len() - 1] + noise));
        let mut gaps: Vec<f64> = values.iter().map(|value| 20.0 + 2.0 * value).collect();
        gaps.iter_mut().step_by(11).for_each(|value| *value = NAN);
        let task = forecast(&gaps, &[26.0], 2);
        for innovations in [Innovations::Normal, Innovations::Drawn] {
            let var = Var { lags: 1, season: Season::None, innovations };
            let found = ForecastBaseline::Var(var).forecast(&task).unwrap();
            for (step, mean, deviation) in [(0, 23.0, 2.0), (1, 21.5, 5.0_f64.sqrt())] {
                let own: Vec<f64> = found.values.iter().skip(step).step_by(2).copied().collect();
                let found = own.iter().sum::<f64>() / 400.0;
                let spread = (own.iter().map(|value| (value - found).powi(2)).sum::<f64>() / 400.0).sqrt();
                assert!((found - mean).abs() < 0.4, "{var} {step}: {found}");
                assert!((spread / deviation - 1.0).abs() < 0.15, "{var} {step}: {spread}");
            }
        }
    }

    #[test]
    fn seasons_are_at_their_place() {
        let value = |step: usize| [1.0, 4.0, 2.0][step % 3];
        let values: Vec<f64> = (0..31).map(value).collect();
        let task = forecast(&values, &[2.0, 1.0], 4);
        // The history ends at step 32.
        let wanted: Vec<f64> = (33..37).map(value).collect();
        for season in [Season::Dummies { period: 3 }, Season::Harmonics { period: 3.0, count: 1 }] {
            let found = ForecastBaseline::Climatology { season }.forecast(&task).unwrap();
            for (found, wanted) in found.values.iter().zip(wanted.iter().cycle()) {
                assert!((found - wanted).abs() < 1e-9, "{season}: {found} {wanted}");
            }
        }
        let none = ForecastBaseline::Climatology { season: Season::Dummies { period: 0 } };
        assert!(none.forecast(&task).is_err());
    }

    /// Two variables of one step: the second is half of the first, and noise of deviation one half.
    fn pairs(windows: usize) -> Vec<f64> {
        noise(2 * windows).chunks_exact(2).flat_map(|z| [z[0] + 3.0, 0.5 * z[0] + 0.5 * z[1]]).collect()
    }

    #[test]
    fn a_gaussian_is_conditioned_on_what_is_given() {
        let mut train = pairs(4000);
        for is_complete in [true, false] {
            if !is_complete {
                train.iter_mut().step_by(13).for_each(|value| *value = NAN);
            }
            let train = WindowArray::new(&train, [4000, 1, 2]).unwrap();
            let test = WindowArray::new(&[5.0, 100.0], [1, 1, 2]).unwrap();
            let task = ImputationTask { train, test, given: &[true, false], samples: 2000, seed: 0 };
            let found = ImputationBaseline::GaussianConditional { ridge: Some(0.0) }.impute(&task).unwrap();
            assert!(found.values.iter().step_by(2).all(|given| *given == 5.0));
            let own: Vec<f64> = found.values.iter().skip(1).step_by(2).copied().collect();
            let mean = own.iter().sum::<f64>() / 2000.0;
            let spread = (own.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 2000.0).sqrt();
            assert!((mean - 1.0).abs() < 0.06 && (spread - 0.5).abs() < 0.04, "{is_complete}: {mean} {spread}");
            // A single sample is the mean.
            let one = ImputationTask { samples: 1, ..task };
            let one = ImputationBaseline::GaussianConditional { ridge: Some(0.0) }.impute(&one).unwrap();
            assert!((one.values[1] - mean).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_singular_is_an_error_without_a_ridge() {
        let train: Vec<f64> = noise(40).iter().flat_map(|z| [*z, 2.0 * z]).collect();
        let task = ImputationTask {
            train: WindowArray::new(&train, [40, 1, 2]).unwrap(),
            test: WindowArray::new(&[1.0, NAN], [1, 1, 2]).unwrap(),
            given: &[true, true],
            samples: 1,
            seed: 0,
        };
        let gaussian = |ridge| ImputationBaseline::GaussianConditional { ridge }.impute(&task);
        assert!(gaussian(Some(0.0)).unwrap_err().to_string().contains("singular"));
        let found = gaussian(None).unwrap().values[1];
        assert!((found - 2.0).abs() < 0.05, "{found}");
        let other = WindowArray::new(&train, [20, 2, 2]).unwrap();
        assert!(ImputationBaseline::Mean.impute(&ImputationTask { train: other, ..task }).is_err());
    }

    #[test]
    fn gaps_are_filled_from_their_neighbors() {
        let given = [NAN, 1.0, NAN, NAN, 4.0, NAN];
        let train = WindowArray::new(&[9.0; 6], [1, 6, 1]).unwrap();
        let test = WindowArray::new(&given, [1, 6, 1]).unwrap();
        let task = ImputationTask { train, test, given: &[true; 6], samples: 1, seed: 0 };
        let filled = |baseline: ImputationBaseline| baseline.impute(&task).unwrap().values;
        assert_eq!(filled(ImputationBaseline::Linear), [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        assert_eq!(filled(ImputationBaseline::Locf), [9.0, 1.0, 1.0, 1.0, 4.0, 4.0]);
        assert_eq!(filled(ImputationBaseline::MeanOfObserved), [2.5, 1.0, 2.5, 2.5, 4.0, 2.5]);
        assert_eq!(filled(ImputationBaseline::Mean), [9.0, 1.0, 9.0, 9.0, 4.0, 9.0]);
        assert_eq!(filled(ImputationBaseline::PeriodCopy { lags: 2..=2 }), [4.0, 1.0, 4.0, 1.0, 4.0, 1.0]);
        assert!(ImputationBaseline::PeriodCopy { lags: 3..=6 }.impute(&task).is_err());
    }
}
