//! Numbers on the command line: what is not in an option's range is refused with the range.

use std::num::IntErrorKind;

/// A whole number of at least `LEAST`.
pub fn at_least<const LEAST: u64, T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let expected = || format!("expected a whole number from {LEAST} up");
    let number = match text.parse::<u64>() {
        Ok(number) if number >= LEAST => number,
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
            return Err(format!("{}, at most {}", expected(), u64::MAX));
        }
        _ => return Err(expected()),
    };
    T::try_from(number).map_err(|_| expected())
}

/// A number from 0 up; infinity is one.
pub fn from_zero(text: &str) -> Result<f64, String> {
    number(text, "expected a number from 0 up", |number| number >= 0.0)
}

/// A number above 0.
pub fn above_zero(text: &str) -> Result<f64, String> {
    number(text, "expected a number above 0", |number| number > 0.0)
}

/// A number from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    number(text, "expected a number from 0 to 1", |number| (0.0..=1.0).contains(&number))
}

fn number(text: &str, expected: &str, is_in_range: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse().ok().filter(|number| is_in_range(*number)).ok_or_else(|| expected.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept_and_named() {
        assert_eq!(at_least::<1, usize>("1"), Ok(1));
        assert_eq!(at_least::<0, u64>("18446744073709551615"), Ok(u64::MAX));
        for text in ["0", "-3", "1.5", "", "three"] {
            assert_eq!(at_least::<1, usize>(text).unwrap_err(), "expected a whole number from 1 up", "{text}");
        }
        assert!(at_least::<0, u64>("18446744073709551616").unwrap_err().contains("at most 18446744073709551615"));
        assert_eq!([from_zero("0"), from_zero("inf"), share("1")], [Ok(0.0), Ok(f64::INFINITY), Ok(1.0)]);
        for text in ["-1", "nan", "much"] {
            assert!(from_zero(text).is_err() && share(text).is_err() && above_zero(text).is_err(), "{text}");
        }
        assert!(above_zero("0").is_err() && share("1.01").unwrap_err().contains("from 0 to 1"));
    }
}
