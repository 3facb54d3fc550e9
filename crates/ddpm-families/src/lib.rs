//! Families of models, and the snapshots that hold them.

pub mod checksums;
pub mod diffusers;
pub mod snapshot;
pub mod usual_sampling;
