//! Formats of files, and where a run keeps what. Nothing here needs Burn.

pub mod npy;
pub mod runs;
