//! What a sampler's file declares about it.

use std::collections::BTreeMap;

use ddpm_model::variance::Variance;

use super::{Sampler, SamplerError};

/// Noise levels that suit a sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Even in time, both ends included: for samplers that keep x_0 and eps as they are within a step.
    Times,
    /// Even in the logarithm of sigma: for samplers that extrapolate along it, which the huge steps between the first
    /// sigmas of a cosine schedule lead astray.
    Sigmas,
    /// Multiples of one whole stride of steps, the noisiest of which are left out: for linear multistep methods, which
    /// were made for it. Without steps to count, as `Sigmas`.
    Strides,
}

/// Whether a sampler draws noise after the noise that x starts from.
#[derive(Clone, Copy, Debug)]
pub enum Noise {
    /// It is deterministic.
    Never,
    /// It draws noise in every step that does not end in clean data.
    Always,
    /// It runs a Markov chain at every level, which forgets where x started.
    Chain,
    /// It depends on the sampler's options.
    If(fn(&Sampler) -> bool),
}

/// What a sampler's file declares about it.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is and what it is good for, in one line for people.
    pub description: &'static str,
    /// The sampler with its usual options.
    pub usual: Sampler,
    /// Steps by default; all of the trained ones if `None`.
    pub default_steps: Option<usize>,
    /// The levels that it visits by default.
    pub grid: Grid,
    /// With the usual options, its order of convergence to the solution of the probability-flow ODE; `None` if it
    /// draws noise, or chooses its own steps.
    pub order: Option<u32>,
    /// Whether it draws noise in its steps.
    pub noise: Noise,
    /// Whether it cannot start from pure noise, `alpha` = 0, where a schedule has zero terminal SNR.
    pub needs_signal: bool,
    /// The options that it takes.
    pub options: Options,
}

/// Makes a sampler with options.
pub type Make = fn(&SamplerOptions) -> Result<Sampler, SamplerError>;

/// The options of a sampler, and how it is made of them.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// One command-line option each.
    pub specs: &'static [OptionSpec],
    /// The sampler with these options, each of which is in its range; none if there is nothing to set.
    pub make: Option<Make>,
}

impl Options {
    /// No options.
    pub const NONE: Self = Self { specs: &[], make: None };
}

/// An option of a sampler: a number with a name and a range.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its name on the command line, without dashes.
    pub name: &'static str,
    /// What the help calls its value.
    pub value_name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// The values that it takes.
    pub range: Range,
    /// Its value by default.
    pub usual: f64,
    /// The option that it refines, without which it means nothing.
    pub refines: Option<&'static str>,
}

/// A range of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Whether a number is in it. NaN is in no range.
    pub contains: fn(f64) -> bool,
    /// What is expected, for messages.
    pub expected: &'static str,
}

impl Range {
    /// From 0 to 1.
    pub const SHARE: Self = Self { contains: |number| (0.0..=1.0).contains(&number), expected: "a number from 0 to 1" };
    /// From 0 up; infinity is in it.
    pub const FROM_ZERO: Self = Self { contains: |number| number >= 0.0, expected: "a number from 0 up" };
    /// Above 0.
    pub const ABOVE_ZERO: Self = Self { contains: |number| number > 0.0, expected: "a number above 0" };
    /// A whole number from 1 up.
    pub const COUNT: Self = Self {
        contains: |number| number >= 1.0 && number.fract() == 0.0 && number <= u32::MAX as f64,
        expected: "a whole number from 1 up",
    };
}

/// The settings that a sampler is made with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplerOptions {
    /// Variance of a step of ancestral sampling: the one that the network was trained with. Other samplers ignore it.
    pub variance: Variance,
    /// Options by name; those that are not here have their usual values. One that the sampler does not take is an
    /// error.
    pub given: BTreeMap<&'static str, f64>,
}

impl SamplerOptions {
    /// The same with one more option.
    pub fn with(mut self, name: &'static str, value: f64) -> Self {
        self.given.insert(name, value);
        self
    }

    /// The same with those of other options that it does not have.
    pub fn or(mut self, others: BTreeMap<&'static str, f64>) -> Self {
        for (name, value) in others {
            self.given.entry(name).or_insert(value);
        }
        self
    }

    /// The value of an option.
    pub fn value(&self, spec: &OptionSpec) -> f64 {
        self.given.get(spec.name).copied().unwrap_or(spec.usual)
    }
}
