//! The integration tests of ddpm-data: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod any_series;
mod generated_series;
mod golden_augment;
mod golden_captions;
mod hostile_data;
mod parquet_images;
mod series_formats;
