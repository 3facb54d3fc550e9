//! What is done with a trained model: samplers and sampling jobs, snapshots, evaluation, weights and pipelines of
//! others, and the commands of `ddpm-infer`.
//!
//! Nothing here knows the trainer.

pub mod average_weights;
mod bar;
pub mod checksums;
pub mod choose;
pub mod choose_task;
pub mod device;
pub mod diffusers;
pub mod errors;
pub mod evaluate;
pub mod evaluation;
pub mod guidance;
pub mod import;
pub mod init_noise;
pub mod inspect;
pub mod inspect_data;
pub mod job;
pub mod levels;
pub mod likelihood;
pub mod list_devices;
pub mod measure_likelihood;
pub mod memory;
pub mod noise;
pub mod npy;
mod numbers;
pub mod pictures;
pub mod runs;
pub mod sample;
pub mod samplers;
pub mod samples_folder;
mod sampling_args;
pub mod settings;
pub mod shards;
pub mod snapshot;
pub mod steps;
pub mod task_files;
pub mod tasks;
pub mod torch_noise;
pub mod usual_sampling;
pub mod weights;
