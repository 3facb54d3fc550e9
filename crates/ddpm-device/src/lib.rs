//! Devices by name: which there are, what a backend needs, how much memory there is. Backends are named in [`device`] only.

pub mod device;
pub mod memory;
