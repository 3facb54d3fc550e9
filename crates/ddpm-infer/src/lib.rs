//! From a snapshot to samples: samplers, jobs, snapshots and pictures.
//!
//! Start at [`Pipeline`], which samples a trained model in one expression; at [`SamplingJob`](job::SamplingJob) for a
//! network of your own; at [`samplers`] for the algorithms, which are functions over noise levels given as data. The
//! [`prelude`] has the names that these need. The modules that the commands of the program `ddpm-infer` live in are left
//! out of this documentation: they are no part of the library.
//!
//! Nothing here knows the trainer.

#[doc(hidden)]
pub mod average_weights;
mod bar;
pub mod checksums;
#[doc(hidden)]
pub mod choose;
#[doc(hidden)]
pub mod choose_task;
pub mod device;
pub mod diffusers;
#[doc(hidden)]
pub mod errors;
#[doc(hidden)]
pub mod evaluate;
pub mod evaluation;
pub mod guidance;
#[doc(hidden)]
pub mod import;
pub mod init_noise;
#[doc(hidden)]
pub mod inspect;
#[doc(hidden)]
pub mod inspect_data;
pub mod job;
pub mod levels;
pub mod likelihood;
#[doc(hidden)]
pub mod list_devices;
#[doc(hidden)]
pub mod measure_likelihood;
pub mod memory;
pub mod noise;
pub mod npy;
mod numbers;
pub mod pictures;
pub mod pipeline;
pub mod runs;
#[doc(hidden)]
pub mod sample;
pub mod samplers;
#[doc(hidden)]
pub mod samples_folder;
mod sampling_args;
pub mod settings;
pub mod shards;
pub mod snapshot;
pub mod steps;
#[doc(hidden)]
pub mod task_files;
pub mod tasks;
pub mod torch_noise;
pub mod usual_sampling;
pub mod weights;

pub use pipeline::{Pipeline, PipelineError};

/// The names that sampling needs, of this crate and of those below it.
pub mod prelude {
    pub use ddpm_data::{DataInfo, Units};
    pub use ddpm_kernels::Precision;
    pub use ddpm_model::condition::Condition;
    pub use ddpm_model::denoiser::{Denoised, Denoiser, DiscreteDenoiser, Estimate, NetworkDenoiser};
    pub use ddpm_model::diffusion::Diffusion;
    pub use ddpm_model::gaussian::{Clip, GaussianDiffusion};
    pub use ddpm_model::network::{Network, NetworkConfig};
    pub use ddpm_model::noise_level::{NoiseLevel, NoiseRange};
    pub use ddpm_model::prediction::Prediction;
    pub use ddpm_model::schedule::{Schedule, ScheduleConfig};
    pub use ddpm_model::variance::Variance;

    pub use crate::guidance::Guidance;
    pub use crate::job::{ClassChoice, Predictor, Progress, Samples, SamplingJob, TrainedModel};
    pub use crate::levels::Ladder;
    pub use crate::noise::SampleNoise;
    pub use crate::pipeline::{Pipeline, PipelineError};
    pub use crate::samplers::{NoiseSource, Sampler, SamplerOptions, Step};
    pub use crate::snapshot::{Snapshot, SnapshotConfig, trained};
    pub use crate::tasks::Task;
}
