//! What the terminals of the programs share: progress bars, numbers, `--set`, errors in one line.

pub mod bar;
pub mod errors;
pub mod numbers;
pub mod settings;
