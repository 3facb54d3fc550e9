//! One comparison, many of a kind, and what may be off.

use std::time::{Duration, Instant};

use ddpm_device::device::catch_panic;

/// What may be off, in f32, always relative to the largest value that is compared: 25 times or more what flex is off by,
/// and a thousandth, or less, of what a wrong kernel is.
pub mod tolerance {
    /// One operation against the same in f64: the longest sum, of thousands of terms, decides.
    pub const OPERATION: f64 = 5e-5;
    /// A whole network against a peer, or against flex.
    pub const OUTPUT: f64 = 1e-4;
    /// Its gradients, each parameter's by its norm.
    pub const GRADIENT: f64 = 1e-3;
    /// Losses of the first steps: Adam makes as much of a small gradient as of a large one, so errors grow.
    pub const LOSS: f64 = 1e-3;
    /// Samples, whose steps each ask the network.
    pub const SAMPLE: f64 = 1e-3;
    /// What is only written and read.
    pub const STORED: f64 = 0.0;
}

/// One thing that was compared.
#[derive(Clone, Debug)]
pub struct Check {
    /// What.
    pub name: String,
    /// How far it is off, or what went wrong instead.
    pub error: Result<f64, String>,
}

/// Checks of a kind, to which one tolerance applies.
#[derive(Clone, Debug)]
pub struct Group {
    /// Of which kind.
    pub name: &'static str,
    /// What each may be off.
    pub tolerance: f64,
    /// The checks.
    pub checks: Vec<Check>,
    /// How long they took.
    pub time: Duration,
}

impl Group {
    /// No checks yet.
    pub fn new(name: &'static str, tolerance: f64) -> Self {
        Self { name, tolerance, checks: Vec::new(), time: Duration::ZERO }
    }

    /// Does something that makes checks. What breaks in it counts as one that failed.
    pub fn attempt(&mut self, what: &str, work: impl FnOnce() -> anyhow::Result<Vec<(String, f64)>>) {
        let start = Instant::now();
        let done = catch_panic(work).and_then(|made| made.map_err(|error| format!("{error:#}")));
        self.time += start.elapsed();
        let named = |(name, error)| Check { name: format!("{what}: {name}"), error: Ok(error) };
        match done {
            Ok(made) => self.checks.extend(made.into_iter().map(named)),
            Err(reason) => self.checks.push(Check { name: what.into(), error: Err(reason) }),
        }
    }

    /// Whether a check of this group passed. What is not a number did not.
    pub fn passed(&self, check: &Check) -> bool {
        check.error.as_ref().is_ok_and(|error| *error <= self.tolerance)
    }

    /// How many did.
    pub fn passes(&self) -> usize {
        self.checks.iter().filter(|check| self.passed(check)).count()
    }

    /// The largest error; infinite where something broke or is not a number.
    pub fn largest_error(&self) -> f64 {
        let error = |check: &Check| check.error.clone().ok().filter(|error| !error.is_nan()).unwrap_or(f64::INFINITY);
        self.checks.iter().map(error).fold(0.0, f64::max)
    }
}

/// The largest difference, relative to the largest value that was wanted. Infinite where there are more or fewer.
pub fn off_by(found: &[f64], wanted: &[f64]) -> f64 {
    let scale = wanted.iter().fold(0.0_f64, |scale, value| scale.max(value.abs())).max(1e-6);
    difference(found, wanted) / scale
}

/// The largest difference.
pub fn difference(found: &[f64], wanted: &[f64]) -> f64 {
    if found.len() != wanted.len() || wanted.is_empty() {
        return f64::INFINITY;
    }
    let mut largest = 0.0;
    for (found, wanted) in found.iter().zip(wanted) {
        let difference = (found - wanted).abs();
        // `max` would drop what is not a number.
        if !difference.is_finite() {
            return f64::INFINITY;
        }
        largest = f64::max(largest, difference);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_largest_value() {
        assert_eq!(off_by(&[1.0, -4.5], &[1.0, -4.0]), 0.125);
        assert_eq!(off_by(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(off_by(&[], &[]), f64::INFINITY);
        assert_eq!(off_by(&[1.0, f64::NAN], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn what_breaks_and_what_is_not_a_number_fails() {
        let mut group = Group::new("test", 0.5);
        group.attempt("good", || Ok(vec![("a".into(), 0.25), ("b".into(), 0.75)]));
        group.attempt("not a number", || Ok(vec![("c".into(), f64::NAN)]));
        group.attempt("error", || anyhow::bail!("no such file"));
        group.attempt("panic", || panic!("the driver is gone"));
        assert_eq!((group.passes(), group.checks.len()), (1, 5));
        assert_eq!(group.largest_error(), f64::INFINITY);
        let reasons: Vec<String> = group.checks.iter().filter_map(|check| check.error.clone().err()).collect();
        assert_eq!(reasons, ["no such file", "the driver is gone"]);
    }
}
