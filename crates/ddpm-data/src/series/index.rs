//! When the steps of a series are, and how the frequency is found.

use std::collections::HashMap;
use std::path::Path;

use super::error::{Problem, SeriesError};
use super::time::{Frequency, Timestamp};

/// When the steps of a series are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Steps are counted; nothing is known about their times.
    Counted,
    /// At a frequency from a time on.
    Times {
        /// The first step.
        start: Timestamp,
        /// The frequency.
        frequency: Frequency,
    },
}

impl Index {
    /// The time of a step, also of one beyond the end.
    pub fn timestamp(&self, step: usize) -> Option<Timestamp> {
        match *self {
            Self::Counted => None,
            Self::Times { start, frequency } => Some(frequency.after(start, i64::try_from(step).unwrap_or(i64::MAX))),
        }
    }
}

/// The times of one series as they stand in a file, in ascending order.
pub(super) struct Times<'a> {
    /// The name of the series, where the file has several.
    pub(super) item: Option<&'a str>,
    pub(super) times: &'a [Timestamp],
}

/// The frequency that is stated or that the times show: seconds, business days or months.
///
/// `line` says in which line a time of a series stands.
pub(super) fn find_frequency(
    path: &Path,
    all: &[Times],
    stated: Option<Frequency>,
    line: impl Fn(usize, usize) -> u64,
) -> Result<Frequency, SeriesError> {
    let candidates = match stated {
        Some(frequency) => vec![frequency],
        None => candidates(all),
    };
    let mut furthest: Option<(usize, SeriesError)> = None;
    for frequency in candidates {
        let Err((reached, series, step)) = follows(all, frequency) else { return Ok(frequency) };
        if furthest.as_ref().is_none_or(|(most, _)| reached > *most) {
            let problem = irregular(&all[series], step, frequency);
            furthest = Some((reached, SeriesError::new(path, line(series, step), problem)));
        }
    }
    Err(furthest.map_or_else(|| no_gap(path, all, line), |(_, error)| error))
}

/// Seconds of February.
const SHORTEST_MONTH: i64 = 28 * 86_400;

/// The most usual gap (the first of several) as seconds and as months; and business days.
fn candidates(all: &[Times]) -> Vec<Frequency> {
    let mut counts: HashMap<i64, (usize, usize)> = HashMap::new();
    let pairs = all.iter().flat_map(|series| series.times.windows(2));
    let gaps = pairs.enumerate().map(|(k, pair)| (k, pair[1].seconds() - pair[0].seconds())).filter(|gap| gap.1 > 0);
    for (k, gap) in gaps {
        // How often, and where first.
        counts.entry(gap).or_insert((0, k)).0 += 1;
    }
    let usual = counts.into_iter().max_by_key(|(_, (count, first))| (*count, std::cmp::Reverse(*first)));
    let Some((gap, _)) = usual else { return Vec::new() };
    let seconds = u32::try_from(gap).ok().map(Frequency::Seconds);
    // The mean month of the Gregorian calendar.
    let months = u32::try_from((gap + 1_314_873) / 2_629_746).ok().filter(|months| *months > 0);
    let mut found: Vec<Frequency> = seconds.into_iter().chain([Frequency::BusinessDays]).collect();
    // From January to July, both quarters of a leap year have 91 days: what fits months is months.
    let first = if gap >= SHORTEST_MONTH { 0 } else { found.len() };
    found.splice(first..first, months.map(Frequency::Months));
    found
}

/// The first step that does not follow the one before, with the number of times that were fine.
fn follows(all: &[Times], frequency: Frequency) -> Result<(), (usize, usize, usize)> {
    let mut reached = 0;
    for (series, times) in all.iter().enumerate() {
        let start = times.times.first().copied().unwrap_or(Timestamp::from_seconds(0));
        for (step, time) in times.times.iter().enumerate() {
            if frequency.after(start, step as i64) != *time {
                return Err((reached, series, step));
            }
            reached += 1;
        }
    }
    Ok(())
}

fn irregular(series: &Times, step: usize, frequency: Frequency) -> Problem {
    let (timestamp, item) = (series.times[step], series.item.map(String::from));
    match step.checked_sub(1).map(|before| series.times[before]) {
        Some(before) if before == timestamp => Problem::DuplicateTimestamp { item, timestamp },
        Some(before) if before > timestamp => Problem::DecreasingIndex { timestamp, before },
        _ => {
            let expected = frequency.after(series.times[0], step as i64);
            Problem::IrregularIndex { item, timestamp, expected, frequency }
        }
    }
}

/// No time comes after another.
fn no_gap(path: &Path, all: &[Times], line: impl Fn(usize, usize) -> u64) -> SeriesError {
    let Some(series) = all.iter().position(|series| series.times.len() > 1) else {
        return SeriesError::new(path, None, Problem::UnknownFrequency);
    };
    // With any frequency: the second time is the first again, or before it.
    let problem = irregular(&all[series], 1, Frequency::Seconds(1));
    SeriesError::new(path, line(series, 1), problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn find(times: &[&str]) -> Result<String, String> {
        let times: Vec<Timestamp> = times.iter().map(|text| Timestamp::parse(text).unwrap()).collect();
        let all = [Times { item: None, times: &times }];
        let found = find_frequency(Path::new("a.csv"), &all, None, |_, step| step as u64 + 2);
        found.map(|frequency| frequency.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_frequency_is_found_or_the_place_where_it_breaks() {
        for (times, found) in [
            (&["2020-01-01", "2020-01-02", "2020-01-03"][..], "d"),
            (&["2020-01-31", "2020-02-29", "2020-03-31"], "m"),
            (&["2020-01-01", "2020-04-01", "2020-07-01"], "q"),
            (&["2019-01-01", "2020-01-01", "2021-01-01"], "y"),
            (&["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"], "b"),
            (&["2020-01-01 00:00", "2020-01-01 00:10"], "10min"),
        ] {
            assert_eq!(find(times).as_deref(), Ok(found));
        }
        let said = find(&["2020-01-01", "2020-01-02", "2020-01-04", "2020-01-05"]).unwrap_err();
        assert!(said.starts_with("a.csv, line 4: 2020-01-04T00:00:00 does not follow"), "{said}");
        assert!(said.contains("expected 2020-01-03T00:00:00"), "{said}");
        assert!(
            find(&["2020-01-02", "2020-01-02"]).unwrap_err().contains("line 3: 2020-01-02T00:00:00 is there twice")
        );
        assert!(find(&["2020-01-02", "2020-01-01"]).unwrap_err().contains("ascending order"));
        assert!(find(&["2020-01-02"]).unwrap_err().contains("two rows or more"));
    }
}
