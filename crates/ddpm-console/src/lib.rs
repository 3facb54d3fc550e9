//! What the terminals of the programs share: progress bars, numbers, `--set`, errors in one line, and output that
//! may be closed or full.

pub mod bar;
pub mod errors;
pub mod numbers;
pub mod output;
pub mod settings;
