//! The commands of `ddpm-infer`, one file each, and what they share.

pub mod average_weights;
pub mod choose;
pub mod choose_task;
pub mod encode;
pub mod evaluate;
pub mod forecast;
mod given_items;
pub mod import;
mod import_series;
pub mod impute;
pub mod init_noise;
pub mod inspect;
pub mod inspect_data;
mod inspect_series;
mod latents;
pub mod list_devices;
mod measure_bound;
pub mod measure_likelihood;
mod output_folder;
pub mod reconstruct;
pub mod sample;
pub mod sample_prompts;
mod samples_folder;
pub mod sampling_args;
mod series_file;
pub mod shards;
pub mod task_files;
