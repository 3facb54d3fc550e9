//! Files: written complete or not at all, formats, checksums, and where a run keeps what. Nothing here needs Burn.

pub mod atomic;
pub mod checksums;
mod error;
pub mod npy;
pub mod runs;

pub use error::{FileError, WriteError};
