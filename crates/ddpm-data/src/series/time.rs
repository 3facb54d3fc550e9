//! Local times without a zone, in seconds, and the frequencies of series.

use std::fmt;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;

/// A local time without a zone: seconds since 1970-01-01T00:00:00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Days since 1970-01-01 of a date of the Gregorian calendar (Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    // The year begins in March, so that the leap day is its last.
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day (Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> [i64; 3] {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    [year, month, day_of_year - (153 * shifted + 2) / 5 + 1]
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1)
}

impl Timestamp {
    /// What [`Timestamp::parse`] reads, for messages.
    pub const EXPECTED: &'static str = "a date such as 2020-01-31 or 2020-01-31 23:00:00, without a zone";

    /// From seconds since 1970-01-01T00:00:00.
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970-01-01T00:00:00.
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// Reads `2020-01-31`, `2020/01/31 23:00`, `2020-01-31T23:00:00`, `2020-01-31 23-00-00` and the like. Fractions of
    /// a second must be zero.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (date, time) = match text.find([' ', 'T']) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let separator = if date.contains('/') { '/' } else { '-' };
        let [year, month, day] = numbers(date, separator, [4, 2, 2])?;
        if year == 0 || !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
            return None;
        }
        let seconds = time.map_or(Some(0), time_of_day)?;
        Some(Self(days_from_civil(year, month, day) * DAY + seconds))
    }

    /// Days since Monday.
    fn weekday(self) -> i64 {
        (self.0.div_euclid(DAY) + 3).rem_euclid(7)
    }

    /// Year, month and day.
    pub(super) fn date(self) -> [i64; 3] {
        civil_from_days(self.0.div_euclid(DAY))
    }

    /// Hour, minute and second.
    pub(super) fn time_of_day(self) -> [i64; 3] {
        let seconds = self.0.rem_euclid(DAY);
        [seconds / HOUR, seconds % HOUR / MINUTE, seconds % MINUTE]
    }

    /// Months since the year 0.
    fn month(self) -> i64 {
        let [year, month, _] = self.date();
        year * 12 + month - 1
    }
}

/// Seconds since midnight of `23`, `23:00`, `23:00:00`, `23:00:00.000` or `23-00-00`.
fn time_of_day(text: &str) -> Option<i64> {
    let (text, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let separator = if text.contains(':') { ':' } else { '-' };
    let padded = match text.matches(separator).count() {
        0 => format!("{text}{separator}00{separator}00"),
        1 => format!("{text}{separator}00"),
        _ => text.to_string(),
    };
    let [hour, minute, second] = numbers(&padded, separator, [2, 2, 2])?;
    (hour < 24 && minute < 60 && second < 60).then_some(hour * HOUR + minute * MINUTE + second)
}

/// Three numbers of at most so many digits; the first has all of them.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        let all_digits = part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits || part.len() > digits || (digits == 4 && part.len() < 4) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day] = self.date();
        let [hour, minute, second] = self.time_of_day();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// The distance of two neighbouring steps of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frequency {
    /// Always as many seconds: up to weeks.
    Seconds(u32),
    /// Monday to Friday.
    BusinessDays,
    /// As many months: up to years.
    Months(u32),
}

/// Units as pandas names them, old and new.
const UNITS: [(&str, Frequency); 17] = [
    ("s", Frequency::Seconds(1)),
    ("sec", Frequency::Seconds(1)),
    ("t", Frequency::Seconds(MINUTE as u32)),
    ("min", Frequency::Seconds(MINUTE as u32)),
    ("h", Frequency::Seconds(HOUR as u32)),
    ("d", Frequency::Seconds(DAY as u32)),
    ("b", Frequency::BusinessDays),
    ("w", Frequency::Seconds(WEEK as u32)),
    ("me", Frequency::Months(1)),
    ("ms", Frequency::Months(1)),
    ("q", Frequency::Months(3)),
    ("qe", Frequency::Months(3)),
    ("qs", Frequency::Months(3)),
    ("a", Frequency::Months(12)),
    ("y", Frequency::Months(12)),
    ("ye", Frequency::Months(12)),
    ("ys", Frequency::Months(12)),
];

/// Names of the Monash archive.
const MONASH: [(&str, Frequency); 7] = [
    ("minutely", Frequency::Seconds(MINUTE as u32)),
    ("hourly", Frequency::Seconds(HOUR as u32)),
    ("daily", Frequency::Seconds(DAY as u32)),
    ("weekly", Frequency::Seconds(WEEK as u32)),
    ("monthly", Frequency::Months(1)),
    ("quarterly", Frequency::Months(3)),
    ("yearly", Frequency::Months(12)),
];

impl Frequency {
    /// What [`Frequency::parse`] reads, for messages.
    pub const EXPECTED: &'static str = "s, min, h, d, b, w, m, q or y, with a number before it or none, such as 15min";
    /// What [`Frequency::parse_monash`] reads, for messages.
    pub const EXPECTED_MONASH: &'static str =
        "minutely, hourly, half_hourly, daily, weekly, monthly, quarterly, yearly or such as 10_minutes";

    /// Reads a frequency of pandas and GluonTS: `H`, `15min`, `0.5h`, `W-SUN`, `QS-JAN`. The end of a week or a year
    /// (behind the hyphen) does not matter, since the times of a series begin at its start.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, anchor) = text.trim().split_once('-').unwrap_or((text.trim(), "sun"));
        if anchor.len() != 3 || !anchor.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return None;
        }
        let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
        let (count, unit) = text.split_at(digits);
        let count = if count.is_empty() { 1.0 } else { count.parse::<f64>().ok()? };
        let unit = match unit {
            // Pandas knows a month by the capital letter alone.
            "M" | "m" => Self::Months(1),
            unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
        };
        unit.times(count)
    }

    /// Reads a frequency of the Monash archive.
    pub fn parse_monash(text: &str) -> Option<Self> {
        if let Some((_, frequency)) = MONASH.iter().find(|(name, _)| *name == text) {
            return Some(*frequency);
        }
        if text == "half_hourly" {
            return Some(Self::Seconds(30 * MINUTE as u32));
        }
        let (count, unit) = text.split_once('_')?;
        let unit = match unit.trim_end_matches('s') {
            "second" => 1,
            "minute" => MINUTE,
            "hour" => HOUR,
            "day" => DAY,
            _ => return None,
        };
        Self::Seconds(unit as u32).times(f64::from(count.parse::<u32>().ok()?))
    }

    fn times(self, count: f64) -> Option<Self> {
        let whole = |unit: u32| {
            let product = f64::from(unit) * count;
            (product >= 1.0 && product.fract() == 0.0 && product <= f64::from(u32::MAX)).then_some(product as u32)
        };
        match self {
            Self::Seconds(unit) => whole(unit).map(Self::Seconds),
            Self::Months(unit) => {
                whole(unit).filter(|months| months % unit == 0 && *months <= 12_000).map(Self::Months)
            }
            Self::BusinessDays => (count == 1.0).then_some(self),
        }
    }

    /// Whether a series of this frequency can begin there: business days have no weekends.
    pub fn can_start_at(self, start: Timestamp) -> bool {
        self != Self::BusinessDays || start.weekday() < 5
    }

    /// The time `steps` steps after `start`, or before it.
    ///
    /// Months keep the day of the start as far as they have it; a start at the end of a month stays at the end.
    pub fn after(self, start: Timestamp, steps: i64) -> Timestamp {
        match self {
            Self::Seconds(seconds) => Timestamp(start.0.saturating_add(steps.saturating_mul(i64::from(seconds)))),
            Self::BusinessDays => {
                let weekday = start.weekday().min(4);
                let to = weekday.saturating_add(steps);
                let days = to.div_euclid(5).saturating_mul(7).saturating_add(to.rem_euclid(5)) - start.weekday();
                Timestamp(start.0.saturating_add(days.saturating_mul(DAY)))
            }
            Self::Months(months) => {
                // Far beyond any calendar, and safe to compute with.
                let steps = steps.clamp(-1 << 32, 1 << 32);
                let [year, month, day] = start.date();
                let to = start.month() + steps * i64::from(months);
                let (to_year, to_month) = (to.div_euclid(12), to.rem_euclid(12) + 1);
                let last = days_in_month(to_year, to_month);
                let to_day = if day == days_in_month(year, month) { last } else { day.min(last) };
                Timestamp(days_from_civil(to_year, to_month, to_day) * DAY + start.0.rem_euclid(DAY))
            }
        }
    }

    /// How many steps lie between two times of one series, if it is a whole number of them.
    pub fn steps_between(self, from: Timestamp, to: Timestamp) -> Option<i64> {
        let about = match self {
            Self::Seconds(seconds) => (to.0 - from.0).div_euclid(i64::from(seconds)),
            Self::BusinessDays => {
                let days = |time: Timestamp| time.0.div_euclid(DAY) - time.weekday();
                (days(to) - days(from)) / 7 * 5 + to.weekday() - from.weekday()
            }
            Self::Months(months) => (to.month() - from.month()).div_euclid(i64::from(months)),
        };
        (self.after(from, about) == to).then_some(about)
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match *self {
            Self::Seconds(n) if i64::from(n) % WEEK == 0 => (n / WEEK as u32, "w"),
            Self::Seconds(n) if i64::from(n) % DAY == 0 => (n / DAY as u32, "d"),
            Self::Seconds(n) if i64::from(n) % HOUR == 0 => (n / HOUR as u32, "h"),
            Self::Seconds(n) if i64::from(n) % MINUTE == 0 => (n / MINUTE as u32, "min"),
            Self::Seconds(n) => (n, "s"),
            Self::BusinessDays => (1, "b"),
            Self::Months(n) if n % 12 == 0 => (n / 12, "y"),
            Self::Months(n) if n % 3 == 0 => (n / 3, "q"),
            Self::Months(n) => (n, "m"),
        };
        match count {
            1 => f.write_str(unit),
            count => write!(f, "{count}{unit}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn dates_are_days_of_the_calendar() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-02-29 12:30:15", 951_827_415),
            ("1969-12-31T23:59:59", -1),
            ("1900/03/01", -2_203_891_200),
        ] {
            assert_eq!(at(text).seconds(), seconds, "{text}");
        }
        // Every day of nine centuries comes back.
        for days in -250_000..80_000 {
            let [year, month, day] = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(at("2012-01-01 00-30-00").to_string(), "2012-01-01T00:30:00");
        assert_eq!(at("2016-07-01T05:00:00.000"), at("2016-07-01 05"));
        for text in ["", "2020-13-02", "2021-02-29", "1900-02-29", "20-01-01", "2020-01-01T24:00", "2020-01-01 10:00Z"]
        {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn frequencies_of_pandas_and_of_monash_are_read() {
        for (text, seconds) in [("H", 3600), ("15min", 900), ("0.5h", 1800), ("1D", 86_400), ("W-SUN", 604_800)] {
            assert_eq!(Frequency::parse(text), Some(Frequency::Seconds(seconds)), "{text}");
        }
        for (text, months) in [("M", 1), ("MS", 1), ("QS-JAN", 3), ("Q-DEC", 3), ("Y", 12), ("2A", 24)] {
            assert_eq!(Frequency::parse(text), Some(Frequency::Months(months)), "{text}");
        }
        for text in ["", "fortnightly", "0H", "0.3s", "2B", "-1H", "H-", "1e9h"] {
            assert_eq!(Frequency::parse(text), None, "{text}");
        }
        for (text, found) in [("10_minutes", "10min"), ("half_hourly", "30min"), ("4_seconds", "4s"), ("yearly", "y")] {
            assert_eq!(Frequency::parse_monash(text).unwrap().to_string(), found);
        }
        assert_eq!(Frequency::parse_monash("sometimes"), None);
    }

    #[test]
    fn steps_go_forth_and_back() {
        for (frequency, start, steps, end) in [
            ("15min", "2020-02-28 23:50", 1, "2020-02-29 00:05"),
            ("B", "2016-02-26", 1, "2016-02-29"),
            ("B", "2016-02-29", -1, "2016-02-26"),
            ("B", "2016-02-24", 7, "2016-03-04"),
            ("M", "2020-01-31", 1, "2020-02-29"),
            ("M", "2020-02-29", 13, "2021-03-31"),
            ("M", "2020-01-30", 1, "2020-02-29"),
            ("Q", "2020-11-15", 1, "2021-02-15"),
            ("Y", "2019-01-01", -20, "1999-01-01"),
        ] {
            let frequency = Frequency::parse(frequency).unwrap();
            assert_eq!(frequency.after(at(start), steps), at(end), "{frequency} after {start}");
            if steps > 0 {
                assert_eq!(frequency.steps_between(at(start), at(end)), Some(steps), "{frequency} after {start}");
            }
        }
        assert_eq!(Frequency::Seconds(3600).steps_between(at("2020-01-01"), at("2020-01-01 01:30")), None);
        assert!(!Frequency::BusinessDays.can_start_at(at("2016-02-27")));
    }
}
