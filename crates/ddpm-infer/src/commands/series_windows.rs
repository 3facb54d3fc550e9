//! Windows of a split of series that do not overlap, each as the number of its series and a step.

use ddpm_data::series::SeriesSet;

/// Where forecasts of `horizon` steps begin, each right behind the one before: at least one step lies before.
pub(crate) fn rolling(set: &SeriesSet, horizon: usize) -> Vec<(usize, usize)> {
    windows(set, horizon, 1)
}

/// Where windows of `length` steps begin.
pub(crate) fn in_a_row(set: &SeriesSet, length: usize) -> Vec<(usize, usize)> {
    windows(set, length, 0)
}

fn windows(set: &SeriesSet, length: usize, earliest: usize) -> Vec<(usize, usize)> {
    let of_series = |number: usize| {
        let steps = set.steps(number);
        let first = steps.start.max(earliest);
        let last = steps.end.checked_sub(length).filter(|last| *last >= first);
        last.into_iter().flat_map(move |last| (first..=last).step_by(length)).map(move |start| (number, start))
    };
    (0..set.series().len()).flat_map(of_series).collect()
}

/// At most so many of these, evenly spread.
pub(crate) fn spread<T: Copy>(places: &mut Vec<T>, most: usize) {
    let count = places.len();
    if count > most {
        *places = (0..most).map(|k| places[k * count / most]).collect();
    }
}
