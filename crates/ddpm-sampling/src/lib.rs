//! From a denoiser to samples: samplers, noise levels, guidance, editing tasks, likelihood, and jobs of these.

pub mod guidance;
pub mod job;
pub mod levels;
pub mod likelihood;
pub mod noise;
pub mod plan;
pub mod prompts;
pub mod samplers;
pub mod steps;
pub mod tasks;
pub mod torch_noise;

/// The names that sampling with a network of your own needs, of this crate and of those below it.
pub mod prelude {
    pub use ddpm_data::{DataInfo, Units};
    pub use ddpm_model::condition::Condition;
    pub use ddpm_model::denoiser::{Denoised, Denoiser, DiscreteDenoiser, Estimate, NetworkDenoiser};
    pub use ddpm_model::diffusion::Diffusion;
    pub use ddpm_model::gaussian::{Clip, GaussianDiffusion};
    pub use ddpm_model::noise_level::{NoiseLevel, NoiseRange};
    pub use ddpm_model::prediction::Prediction;
    pub use ddpm_model::schedule::{Schedule, ScheduleConfig};
    pub use ddpm_model::variance::Variance;

    pub use crate::guidance::Guidance;
    pub use crate::job::{ClassChoice, Predictor, Progress, Samples, SamplingJob, TrainedModel};
    pub use crate::levels::LevelSchedule;
    pub use crate::noise::SampleNoise;
    pub use crate::samplers::{NoiseSource, Sampler, SamplerOptions, Step};
    pub use crate::tasks::Task;
}
