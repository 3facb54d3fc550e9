//! The commands that sample from what was trained, evaluate it, and show what data hold.
//!
//! Start at [`Pipeline`], which samples a trained model in one expression; at [`SamplingJob`](ddpm_sampling::job::SamplingJob) for a
//! network of your own; at [`samplers`](ddpm_sampling::samplers) for the algorithms, which are functions over noise levels given as data. The
//! [`prelude`] has the names that these need. The modules that the commands of the program `ddpm-infer` live in are left
//! out of this documentation: they are no part of the library.
//!
//! Nothing here knows the trainer.

#[doc(hidden)]
pub mod commands;
pub mod pipeline;

pub use pipeline::{Pipeline, PipelineError};

/// The names that sampling needs, of this crate and of those below it.
pub mod prelude {
    pub use ddpm_families::snapshot::{Snapshot, SnapshotConfig, trained};
    pub use ddpm_kernels::Precision;
    pub use ddpm_model::network::{Network, NetworkConfig};
    pub use ddpm_sampling::prelude::*;

    pub use crate::pipeline::{Pipeline, PipelineError};
}
