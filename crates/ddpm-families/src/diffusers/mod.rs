//! The folders of diffusers, in and out.
//!
//! `unet_config.rs`, `condition_unet_config.rs`, `dit_config.rs`, `autoencoder_config.rs` and `scheduler_config.rs` convert the
//! JSON files to our configs and back; `autoencoder.rs` reads and writes the folder of an autoencoder, `pipeline.rs` that of a
//! pipeline; `plans.rs` translates a scheduler into a [`Plan`] for our samplers; `tables.rs` repeats diffusers' f32 arithmetic.
//! What cannot be converted is an error that names the key.

pub mod autoencoder;
pub mod autoencoder_config;
pub mod condition_unet_config;
pub mod dit_config;
pub mod json;
pub mod pipeline;
mod plans;
pub mod scheduler_config;
pub mod tables;
pub mod unet_config;

use ddpm_model::schedule::ScheduleError;
use ddpm_sampling::steps::StepsError;

pub use ddpm_sampling::plan::{Coordinates, Plan};
pub use tables::Tables;

/// The version of diffusers whose files these are, which was also compared with.
pub const VERSION: &str = "0.42.1";

/// What a file of diffusers says that cannot be followed here.
#[derive(Debug, thiserror::Error)]
pub enum DiffusersError {
    /// It cannot be read.
    #[error("it is not the JSON that was expected: {reason}")]
    Json {
        /// What the reader said.
        reason: String,
    },
    /// A key that has to be there.
    #[error("{key} is missing; expected {expected}")]
    Missing {
        /// The key.
        key: String,
        /// What it could be.
        expected: String,
    },
    /// A value that there is no word for here.
    #[error("{key} = {found} is not supported; expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it could be.
        expected: String,
    },
    /// A key that is not known.
    #[error("{key} = {found}: this key is not known here; take it out if nothing depends on it")]
    Unknown {
        /// The key.
        key: String,
        /// Its value.
        found: String,
    },
    /// A network that contradicts itself.
    #[error(transparent)]
    Network(#[from] ddpm_model::network::NetworkError),
    /// A schedule that is none.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Steps that cannot be chosen.
    #[error(transparent)]
    Steps(#[from] StepsError),
}
