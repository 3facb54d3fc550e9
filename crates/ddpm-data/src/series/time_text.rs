//! How times are written, so that times to come can be written as those of a file.

use std::borrow::Cow;
use std::fmt::Write;

use super::{Frequency, Index, Timestamp};

/// How times are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeText {
    date_separator: char,
    /// Whether months and days have two digits.
    padded: bool,
    /// Between date and time.
    join: char,
    time_separator: char,
    /// Whether hours have two digits.
    padded_hour: bool,
    /// Hours, minutes and seconds, as far as they are written.
    parts: usize,
    /// Digits of the fraction of a second.
    digits: usize,
}

const DAY: u32 = 86_400;
/// Texts that show how times are written.
const SHOWN: usize = 5000;

impl TimeText {
    /// Such as 2020-01-31, with the time where steps need it.
    pub(super) fn of_index(index: &Index) -> Self {
        let has_time = match index {
            Index::Counted => false,
            Index::Times { start, frequency } => {
                start.time_of_day() != [0; 3] || matches!(frequency, Frequency::Seconds(step) if step % DAY != 0)
            }
        };
        let parts = if has_time { 3 } else { 0 };
        let (date_separator, join, time_separator) = ('-', ' ', ':');
        Self { date_separator, padded: true, join, time_separator, padded_hour: true, parts, digits: 0 }
    }

    /// As texts that are read are written, if all of them are written in one way.
    pub(super) fn of_texts<'a>(texts: impl Iterator<Item = Cow<'a, str>>) -> Option<Self> {
        let texts: Vec<Cow<str>> = texts.take(SHOWN).collect();
        let styles = [(true, true), (false, true), (true, false), (false, false)];
        let first = texts.first()?;
        let fits = |style: &Self| {
            texts.iter().all(|text| Timestamp::parse(text).is_some_and(|time| style.text(time) == text.trim()))
        };
        styles.into_iter().map(|(padded, hour)| Self::of_text(first.trim(), padded, hour)).find(fits)
    }

    fn of_text(text: &str, padded: bool, padded_hour: bool) -> Self {
        let (date, join, time) = match text.find([' ', 'T']) {
            Some(at) => (&text[..at], text[at..].chars().next(), &text[at + 1..]),
            None => (text, None, ""),
        };
        let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
        let time_separator = if clock.contains('-') { '-' } else { ':' };
        Self {
            date_separator: if date.contains('/') { '/' } else { '-' },
            padded,
            join: join.unwrap_or(' '),
            time_separator,
            padded_hour,
            parts: if clock.is_empty() { 0 } else { clock.split(time_separator).count().min(3) },
            digits: fraction.len(),
        }
    }

    /// A time, with all of its parts.
    pub(super) fn text(&self, time: Timestamp) -> String {
        let ([year, month, day], clock) = (time.date(), time.time_of_day());
        let digits = |padded| if padded { 2 } else { 1 };
        let (separator, width) = (self.date_separator, digits(self.padded));
        let mut text = format!("{year:04}{separator}{month:0width$}{separator}{day:0width$}");
        let needed = 3 - clock.iter().rev().take_while(|part| **part == 0).count();
        for (place, part) in clock.iter().take(self.parts.max(needed)).enumerate() {
            let before = if place == 0 { self.join } else { self.time_separator };
            let width = digits(place > 0 || self.padded_hour);
            // Writing to a text cannot fail.
            let _ = write!(text, "{before}{part:0width$}");
        }
        if self.digits > 0 {
            text.push('.');
            text.push_str(&"0".repeat(self.digits));
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_are_written_as_those_before() {
        for (texts, next) in [
            (&["2012/01/01", "2012/01/02"][..], "2012/03/01"),
            (&["2012-1-9", "2012-1-10"], "2012-3-1"),
            (&["2012-01-01 00:00", "2012-01-01 01:00"], "2012-03-01 00:00"),
            (&["2012-01-01T00:00:00", "2012-01-01T01:00:00"], "2012-03-01T00:00:00"),
            (&["2012-01-01 00-00-00"], "2012-03-01 00-00-00"),
            (&["2012/01/01 9:00", "2012/01/01 10:00"], "2012/03/01 0:00"),
            (&["2012-01-01 00:00:00.000"], "2012-03-01 00:00:00.000"),
        ] {
            let style = TimeText::of_texts(texts.iter().map(|text| Cow::Borrowed(*text))).unwrap();
            assert_eq!(style.text(Timestamp::parse("2012-03-01").unwrap()), next);
        }
        assert_eq!(TimeText::of_texts(["2012-01-01", "2012/01/02"].into_iter().map(Cow::Borrowed)), None);
        let hours = Index::Times { start: Timestamp::from_seconds(0), frequency: Frequency::Seconds(3600) };
        assert_eq!(TimeText::of_index(&hours).text(Timestamp::from_seconds(0)), "1970-01-01 00:00:00");
    }
}
