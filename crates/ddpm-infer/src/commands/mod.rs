//! The commands of `ddpm-infer`, one file each, and what they share.

pub mod average_weights;
pub mod choose;
pub mod choose_task;
pub mod evaluate;
pub mod import;
pub mod init_noise;
pub mod inspect;
pub mod inspect_data;
pub mod list_devices;
pub mod measure_likelihood;
pub mod sample;
pub mod samples_folder;
pub mod sampling_args;
pub mod shards;
pub mod task_files;
