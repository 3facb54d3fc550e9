//! From a snapshot to samples: samplers, jobs, snapshots and pictures.
//!
//! Nothing here knows the trainer.

mod bar;
pub mod choose;
pub mod device;
pub mod evaluate;
pub mod evaluation;
pub mod guidance;
pub mod inspect_data;
pub mod job;
pub mod levels;
pub mod likelihood;
pub mod measure_likelihood;
pub mod noise;
pub mod npy;
pub mod pictures;
pub mod runs;
pub mod sample;
pub mod samplers;
pub mod snapshot;
pub mod steps;
pub mod tasks;
