//! Families of models: what each reads of an experiment, how it is trained, and the snapshots that hold it.

pub mod checksums;
mod crps;
pub mod diffusers;
pub mod diffusion;
pub mod family;
pub mod hvae;
mod items;
pub mod latent;
pub mod loss_sum;
pub mod masked;
pub mod parameters;
mod series_bound;
pub(crate) mod series_sampling;
pub mod snapshot;
pub mod text_encoder;
pub mod timegrad;
pub mod usual_sampling;
pub mod vae;
