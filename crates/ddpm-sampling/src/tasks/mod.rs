//! What can be done with a denoiser and a sampler besides drawing samples from noise.
//!
//! Every task takes the denoiser and the noise levels as samplers do, so any sampler and any guidance will do.
//! A job describes one of them by a [`Task`].

mod fill;
mod image_to_image;
mod inpainting;
mod interpolation;
mod inversion;
mod task;

pub use fill::Filled;
pub use image_to_image::{noised, remaining_levels};
pub use inpainting::{Inpainting, inpaint};
pub use interpolation::slerp;
pub use inversion::invert;
pub(crate) use task::Batch;
pub use task::{Task, TaskError};
