//! From a denoiser to samples: samplers, noise levels, guidance, editing tasks, likelihood, and jobs of these.

pub mod guidance;
pub mod job;
pub mod levels;
pub mod likelihood;
pub mod noise;
pub mod plan;
pub mod samplers;
pub mod steps;
pub mod tasks;
pub mod torch_noise;
