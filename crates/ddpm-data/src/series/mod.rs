//! Time series: what they are, the formats they are read from, normalization and windows.
//!
//! [`read_any`] opens a path of any format and finds how it is written; a reader of one format is stated what it needs.
//! Every reader returns [`Series`]. A table `[T, K]` has a [`Cell`] for each value, so that what may be shown to a model
//! ([`Table::given`]) and what it is scored on ([`Table::held_out`]) cannot be mistaken for each other. Errors name the
//! file, the line and what was expected ([`SeriesError`]); nothing is repaired in silence.

mod any;
pub mod arrays;
mod columns;
mod error;
pub mod generated;
pub mod gluonts;
pub mod grouped;
mod index;
pub mod long;
mod normalizer;
pub(crate) mod open;
#[cfg(feature = "parquet")]
mod parquet;
pub mod physionet;
mod sheet;
mod statics;
mod summary;
mod table;
mod text;
mod time;
mod time_text;
pub mod tsf;
mod weather;
pub mod wide;
mod windows;
mod write;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::example::Units;
pub use any::{Opened, ReadHints, read_any};
pub use error::{Problem, SeriesError};
pub use index::Index;
pub use normalizer::Normalizer;
pub use summary::Summary;
pub use table::{Cell, Table};
pub use time::{Frequency, Timestamp};
pub use weather::seattle_weather;
pub use windows::{SeriesSet, Window, WindowShape};
pub use write::{ForecastQuantiles, SourceLayout, write_imputed, write_quantiles};

/// A series: a table of the variables, when its steps are, and what else is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name, where the file has one.
    pub name: Option<String>,
    /// When its steps are.
    pub index: Index,
    /// Names of the variables, in the order of the table's columns.
    pub variables: Vec<String>,
    /// The values, `[T, K]`.
    pub target: Table,
    /// What changes with time and is known beforehand, if there is any. Its first step is that of the target; steps
    /// beyond the target are the future that a forecast may use: step `target.steps()` of it is the first to forecast.
    pub dynamic: Option<Covariates>,
    /// Categories that do not change, counted from 0.
    pub static_categories: Vec<usize>,
    /// Numbers that do not change.
    pub static_reals: Vec<f64>,
}

/// What all series of a dataset have in common; a snapshot carries it along.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesInfo {
    /// Names of the variables.
    pub variables: Vec<String>,
    /// The frequency, where it is known: `h`, `d`, `10min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency: Option<String>,
    /// Names of the covariates.
    #[serde(default)]
    pub covariates: Vec<String>,
    /// The way back from normalized covariates.
    pub covariate_units: Units,
    /// The lowest value of each variable, where it is a bound: many cells have it.
    pub lowest: Vec<Option<f64>>,
    /// The highest value of each variable, likewise.
    pub highest: Vec<Option<f64>>,
    /// Of each kind of category that does not change along a series those that training has, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_categories: Vec<Vec<usize>>,
    /// The way back from normalized numbers that do not change along a series.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub static_units: Units,
}

impl SeriesInfo {
    /// The lowest and the highest value of a variable, where these are bounds.
    pub fn bounds(&self, variable: usize) -> [Option<f64>; 2] {
        [&self.lowest, &self.highest].map(|bounds| bounds.get(variable).copied().flatten())
    }
}

/// Covariates that change with time.
#[derive(Clone, Debug, PartialEq)]
pub struct Covariates {
    /// Their names, in the order of the table's columns.
    pub names: Vec<String>,
    /// Their values, from the first step of the target on.
    pub values: Table,
}

impl Series {
    /// A series without covariates.
    pub fn new(name: Option<String>, index: Index, variables: Vec<String>, target: Table) -> Self {
        debug_assert_eq!(variables.len(), target.variables());
        let (static_categories, static_reals) = (Vec::new(), Vec::new());
        Self { name, index, variables, target, dynamic: None, static_categories, static_reals }
    }

    /// Some of its steps as a series, with what is known of the time behind them.
    pub fn cut(&self, steps: Range<usize>) -> Self {
        let index = match self.index {
            Index::Counted => Index::Counted,
            Index::Times { start, frequency } => {
                Index::Times { start: frequency.after(start, steps.start as i64), frequency }
            }
        };
        let covariates = |covariates: &Covariates| {
            let values = covariates.values.rows(steps.start..covariates.values.steps());
            Covariates { names: covariates.names.clone(), values }
        };
        Self {
            index,
            target: self.target.rows(steps.clone()),
            dynamic: self.dynamic.as_ref().map(covariates),
            name: self.name.clone(),
            variables: self.variables.clone(),
            static_categories: self.static_categories.clone(),
            static_reals: self.static_reals.clone(),
        }
    }
}

/// Names for variables that have none.
fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|k| k.to_string()).collect()
}
