//! Axes: which numbers and which points in time are labelled.

use std::cmp::Reverse;

/// A label on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick<T> {
    pub(super) position: T,
    pub(super) label: String,
}

/// Larger values are drawn as missing: differences between them could not be computed.
const LARGEST: f64 = 1e300;
/// A range that is smaller than this share of its values is no range.
const SMALLEST_SHARE: f64 = 1e-11;
/// More digits than these in labels are replaced by differences from a common number.
const MOST_DIGITS: i32 = 6;

/// Whether a value has a place on an axis.
pub(super) fn is_drawn(value: f64) -> bool {
    value.abs() <= LARGEST
}

/// The axis of values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ValueAxis {
    low: f64,
    high: f64,
    pub(super) ticks: Vec<Tick<f64>>,
    /// What is added to all labels, where they are differences.
    pub(super) base: Option<String>,
}

impl ValueAxis {
    /// The axis of all values that can be drawn, with some room around them; none without such values.
    pub(super) fn around(values: impl Iterator<Item = f64>, most_ticks: usize) -> Option<Self> {
        let range = values.filter(|value| is_drawn(*value)).fold(None, |range: Option<(f64, f64)>, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
        let (low, high) = range?;
        let size = low.abs().max(high.abs());
        let margin = if high - low > (size * SMALLEST_SHARE).max(1e-290) {
            0.06 * (high - low)
        } else if size > 1e-290 {
            0.06 * size
        } else {
            1.0
        };
        let (low, high) = (low - margin, high + margin);
        let (ticks, base) = value_ticks(low, high, most_ticks.max(2));
        Some(Self { low, high, ticks, base })
    }

    /// Where a value lies, from 0 at the bottom to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// Round numbers, and what all labels are relative to.
fn value_ticks(low: f64, high: f64, most: usize) -> (Vec<Tick<f64>>, Option<String>) {
    let range = high - low;
    let mut power = (range / most as f64).log10().floor() as i32;
    let mut mantissa = 1.0;
    let count = |step: f64| (high / step).floor() - (low / step).ceil() + 1.0;
    let number = |mantissa: f64, power: i32| format!("{mantissa}e{power}").parse::<f64>().unwrap_or(range);
    while count(number(mantissa, power)) > most as f64 {
        (mantissa, power) = match mantissa {
            1.0 => (2.0, power),
            2.0 => (5.0, power),
            _ => (1.0, power + 1),
        };
    }
    let step = number(mantissa, power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    // Where the labels would be long, they count from here.
    let size = low.abs().max(high.abs()).log10().floor() as i32;
    let base = if size - power >= MOST_DIGITS { first.div_euclid(100) * 100 } else { 0 };
    let largest = (first.abs_diff(base).max(last.abs_diff(base))) as f64 * step;
    let label = |i: i64| number_label((i - base) as f64 * step, largest, power);
    let ticks = (first..=last).map(|i| Tick { position: i as f64 * step, label: label(i) }).collect();
    let base = (base != 0).then(|| whole_label(base as f64 * step));
    (ticks, base)
}

/// A number with all its digits.
fn whole_label(value: f64) -> String {
    if (1e-4..1e15).contains(&value.abs()) { value.to_string() } else { format!("{value:e}") }
}

/// A multiple of a power of ten, in the notation that fits the largest number of its axis.
fn number_label(value: f64, largest: f64, power: i32) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let size = largest.abs().log10();
    if (-3.0..6.0).contains(&size) {
        return format!("{value:.*}", (-power).max(0) as usize);
    }
    // All in units of the same power, so that the labels can be compared.
    let exponent = (size + 1e-9).floor() as i32;
    let scaled = format!("{value:e}").split_once('e').and_then(|(mantissa, own)| {
        let own: i32 = own.parse().ok()?;
        format!("{mantissa}e{}", own - exponent).parse::<f64>().ok()
    });
    format!("{:.*}e{exponent}", (exponent - power).max(0) as usize, scaled.unwrap_or(value))
}

/// Steps between labels that days, weeks and years are made of.
const STRIDES: [usize; 34] = [
    1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 20, 21, 24, 28, 30, 36, 48, 52, 60, 72, 96, 120, 144, 168, 240, 288, 336, 365,
    672, 720, 1440, 4320, 8760,
];

/// Points in time that are labelled: as many as fit with `most` of them, at the roundest ones.
pub(super) fn time_ticks(labels: &[String], most: usize) -> Vec<Tick<usize>> {
    let steps = labels.len();
    let least = steps.div_ceil(most.max(1)).max(1);
    let roundness: Vec<u32> = labels.iter().map(|label| roundness(label)).collect();
    let mean = |offset: usize, stride: usize| {
        let chosen = roundness.iter().skip(offset).step_by(stride);
        let count = chosen.len();
        // In thousandths, so that it can be compared.
        (chosen.sum::<u32>() as usize * 1000).checked_div(count).unwrap_or(0)
    };
    let strides =
        [least].into_iter().chain(STRIDES.into_iter().filter(|stride| (least + 1..=2 * least).contains(stride)));
    let starts = strides.flat_map(|stride| (0..stride.min(steps)).map(move |offset| (offset, stride)));
    // Of equals the one with the most labels, from the start.
    let best = starts.max_by_key(|(offset, stride)| (mean(*offset, *stride), Reverse(*stride), Reverse(*offset)));
    let Some((offset, stride)) = best else { return Vec::new() };
    let tick = |(position, label): (usize, &String)| Tick { position, label: label.clone() };
    labels.iter().enumerate().skip(offset).step_by(stride).map(tick).collect()
}

/// Numbers of steps from `first`: multiples of 1, 2 or 5 times a power of ten, `most` of them at most.
pub(super) fn step_ticks(first: usize, steps: usize, most: usize) -> Vec<Tick<usize>> {
    let powers = (0..18).map(|power| 10_usize.pow(power));
    let mut strides = powers.flat_map(|power| [power, 2 * power, 5 * power]);
    let stride = strides.find(|stride| steps / stride < most.max(1)).unwrap_or(usize::MAX);
    let start = first.next_multiple_of(stride) - first;
    (start..steps).step_by(stride).map(|position| Tick { position, label: (first + position).to_string() }).collect()
}

/// How round a time is: twice the number of its last parts that are at their start, and 1 if the part before is round.
fn roundness(label: &str) -> u32 {
    let time = label.trim_end_matches('Z').trim_end_matches("+00:00");
    let parts: Vec<&str> = time.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
    let starts = |place: usize| match parts[place].parse::<u64>() {
        Ok(0) => true,
        // Months and days start at 1.
        Ok(1) => parts[place].len() == 2 && (1..=2).contains(&place),
        _ => false,
    };
    let at_start = (0..parts.len()).rev().take_while(|place| starts(*place)).count();
    let before = parts.len().checked_sub(at_start + 1).and_then(|place| parts[place].parse::<u64>().ok());
    let is_round = before.is_some_and(|value| value % 10 == 0 || value % 6 == 0);
    2 * at_start as u32 + u32::from(is_round)
}

/// The labels without what all of them end with: seconds, and times of the day, that are 0.
pub(super) fn without_common_zeros(labels: &[String]) -> Vec<String> {
    let mut short: Vec<&str> = labels.iter().map(String::as_str).collect();
    for zone in ["Z", "+00:00"] {
        drop_common(&mut short, zone);
    }
    drop_common(&mut short, ".000");
    if short.iter().all(|label| label.matches(':').count() == 2) {
        drop_common(&mut short, ":00");
    }
    for midnight in ["T00:00", " 00:00"] {
        drop_common(&mut short, midnight);
    }
    short.into_iter().map(|label| label.replacen('T', " ", usize::from(is_time(label)))).collect()
}

fn drop_common(labels: &mut [&str], end: &str) {
    if labels.iter().all(|label| label.len() > end.len() && label.ends_with(end)) {
        for label in labels {
            *label = &label[..label.len() - end.len()];
        }
    }
}

/// Whether the T of a label stands between a date and a time.
fn is_time(label: &str) -> bool {
    let between = |(date, time): (&str, &str)| {
        date.ends_with(|c: char| c.is_ascii_digit()) && time.starts_with(|c: char| c.is_ascii_digit())
    };
    label.split_once('T').is_some_and(between)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> (Vec<String>, Option<String>) {
        let axis = ValueAxis::around([low, high].into_iter(), 5).unwrap();
        let shares: Vec<f64> = axis.ticks.iter().map(|tick| axis.share(tick.position)).collect();
        assert!((2..=5).contains(&shares.len()), "{axis:?}");
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{axis:?}");
        (axis.ticks.into_iter().map(|tick| tick.label).collect(), axis.base)
    }

    #[test]
    fn values_have_round_labels_at_every_scale() {
        assert_eq!(labels(0.0, 10.0), (["0", "5", "10"].map(String::from).to_vec(), None));
        assert_eq!(labels(-1.3, 1.3).0, ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 4e9).0, ["0", "1e9", "2e9", "3e9", "4e9"]);
        assert_eq!(labels(1e-9, 3e-9).0, ["1.0e-9", "1.5e-9", "2.0e-9", "2.5e-9", "3.0e-9"]);
        assert_eq!(labels(3.0, 3.0).0, ["2.9", "3.0", "3.1"], "a constant lies in the middle");
        let (differences, base) = labels(1e9, 1e9 + 4.0);
        assert_eq!(
            (differences, base),
            (["0", "1", "2", "3", "4"].map(String::from).to_vec(), Some("1000000000".into()))
        );
    }

    #[test]
    fn extreme_values_have_axes_too() {
        for (low, high) in
            [(0.0, 0.0), (-1e300, 1e300), (0.0, 1e-320), (5e-324, 5e-324), (1e15, 1e15 + 0.25), (-7.0, -7.0 + 1e-14)]
        {
            labels(low, high);
        }
        assert_eq!(ValueAxis::around([f64::NAN, f64::INFINITY, 1e301].into_iter(), 5), None);
        assert_eq!(ValueAxis::around(std::iter::empty(), 5), None);
    }

    fn hours(from: usize, count: usize) -> Vec<String> {
        (from..from + count).map(|hour| format!("2024-05-{:02} {:02}:00:00", 1 + hour / 24, hour % 24)).collect()
    }

    #[test]
    fn times_are_labelled_where_they_are_round() {
        let chosen =
            |labels: &[String], most| time_ticks(labels, most).into_iter().map(|tick| tick.label).collect::<Vec<_>>();
        let short = without_common_zeros(&hours(7, 96));
        assert_eq!(short[0], "2024-05-01 07:00");
        assert_eq!(chosen(&short, 5), ["02", "03", "04", "05"].map(|day| format!("2024-05-{day} 00:00")));
        let months: Vec<String> =
            (2..50).map(|month| format!("{}-{:02}-01", 2000 + month / 12, 1 + month % 12)).collect();
        assert_eq!(chosen(&months, 6), ["2001-01-01", "2002-01-01", "2003-01-01", "2004-01-01"]);
        assert!(chosen(&[], 5).is_empty());
        assert_eq!(chosen(&short[..1], 5).len(), 1);
    }

    #[test]
    fn steps_are_labelled_with_round_numbers() {
        let chosen = |first, steps, most| {
            step_ticks(first, steps, most).into_iter().map(|tick| (tick.position, tick.label)).collect::<Vec<_>>()
        };
        let at = |position: usize, label: &str| (position, label.to_string());
        assert_eq!(chosen(0, 2000, 5), [at(0, "0"), at(500, "500"), at(1000, "1000"), at(1500, "1500")]);
        assert_eq!(chosen(97, 30, 4), [at(3, "100"), at(13, "110"), at(23, "120")]);
        assert_eq!(chosen(0, 1, 4), [at(0, "0")]);
        assert!(chosen(5, 0, 0).is_empty());
    }

    #[test]
    fn what_all_times_end_with_is_left_out() {
        let short =
            |labels: &[&str]| without_common_zeros(&labels.iter().map(|label| label.to_string()).collect::<Vec<_>>());
        assert_eq!(short(&["2024-05-01T00:00:00Z", "2024-05-02T00:00:00Z"]), ["2024-05-01", "2024-05-02"]);
        assert_eq!(
            short(&["2024-05-01T00:00:00", "2024-05-01T00:00:30"]),
            ["2024-05-01 00:00:00", "2024-05-01 00:00:30"]
        );
        assert_eq!(short(&["Tuesday", "Total"]), ["Tuesday", "Total"]);
    }
}
