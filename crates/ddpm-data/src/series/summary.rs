//! What there is in series, for whoever looks at a file before training on it.

use std::fmt;

use super::{Frequency, Index, Series, Timestamp};

/// What series are.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub series: usize,
    /// Steps of the shortest and of the longest.
    pub steps: [usize; 2],
    /// Steps of all together.
    pub rows: usize,
    /// Names of the variables.
    pub variables: Vec<String>,
    /// Names of the covariates.
    pub covariates: Vec<String>,
    /// The distance of the steps, where they have times.
    pub frequency: Option<Frequency>,
    /// The first and the last time of any.
    pub span: Option<[Timestamp; 2]>,
    /// Cells of each variable that have no value.
    pub missing: Vec<usize>,
    /// The most steps in a row at which a variable has no value between two that it has.
    pub longest_gap: usize,
}

impl Summary {
    /// Of series of the same variables; none where there are no series.
    pub fn of(series: &[Series]) -> Option<Self> {
        let first = series.first()?;
        let steps = || series.iter().map(|one| one.target.steps());
        let variables = 0..first.target.variables();
        Some(Self {
            series: series.len(),
            steps: [steps().min()?, steps().max()?],
            rows: steps().sum(),
            variables: first.variables.clone(),
            covariates: first.dynamic.as_ref().map(|covariates| covariates.names.clone()).unwrap_or_default(),
            frequency: match first.index {
                Index::Times { frequency, .. } => Some(frequency),
                Index::Counted => None,
            },
            span: span(series),
            missing: variables.map(|variable| series.iter().map(|one| missing(one, variable)).sum()).collect(),
            longest_gap: series.iter().map(longest_gap).max()?,
        })
    }

    /// Cells of all variables that have no value.
    pub fn all_missing(&self) -> usize {
        self.missing.iter().sum()
    }

    /// The share of the cells that have no value.
    pub fn share_missing(&self) -> f64 {
        self.all_missing() as f64 / (self.rows * self.variables.len()).max(1) as f64
    }
}

/// How many series of how many rows and variables there are, and when.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, most] = self.steps;
        match (self.series, least == most) {
            (1, _) => write!(f, "{most} rows")?,
            (series, true) => write!(f, "{series} series of {most} rows")?,
            (series, false) => write!(f, "{series} series of {least} to {most} rows")?,
        }
        let count = self.variables.len();
        write!(f, " of {count} variable{}", if count == 1 { "" } else { "s" })?;
        match (self.frequency, self.span) {
            (Some(frequency), Some([first, last])) => write!(f, ", every {frequency} from {first} to {last}"),
            _ => write!(f, ", without times"),
        }
    }
}

fn span(series: &[Series]) -> Option<[Timestamp; 2]> {
    let ends = series.iter().filter_map(|one| {
        let last = one.target.steps().checked_sub(1)?;
        Some((one.index.timestamp(0)?, one.index.timestamp(last)?))
    });
    let (first, last): (Vec<Timestamp>, Vec<Timestamp>) = ends.unzip();
    Some([first.into_iter().min()?, last.into_iter().max()?])
}

fn missing(series: &Series, variable: usize) -> usize {
    (0..series.target.steps()).filter(|step| series.target.given(*step, variable).is_none()).count()
}

fn longest_gap(series: &Series) -> usize {
    let of_one = |variable: usize| {
        let known: Vec<usize> =
            (0..series.target.steps()).filter(|step| series.target.given(*step, variable).is_some()).collect();
        known.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0)
    };
    (0..series.target.variables()).map(of_one).max().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::series::Table;

    #[test]
    fn rows_times_and_holes_are_counted() {
        let series = |start: &str, holes: &[usize], steps: usize| {
            let values = (0..2 * steps).map(|at| (!holes.contains(&at)).then_some(at as f64));
            let index =
                Index::Times { start: Timestamp::parse(start).unwrap(), frequency: Frequency::parse("2h").unwrap() };
            Series::new(None, index, vec!["a".into(), "b".into()], Table::from_rows(2, values))
        };
        let both = [series("2020-01-02", &[3, 5, 10], 6), series("2020-01-01", &[0], 3)];
        let summary = Summary::of(&both).unwrap();
        assert_eq!((summary.missing.clone(), summary.longest_gap, summary.all_missing()), (vec![2, 2], 2, 4));
        assert_eq!(
            summary.to_string(),
            "2 series of 3 to 6 rows of 2 variables, every 2h from 2020-01-01T00:00:00 to 2020-01-02T10:00:00"
        );
        assert_eq!(Summary::of(&[]), None);
        assert!((summary.share_missing() - 4.0 / 18.0).abs() < 1e-12);
    }
}
