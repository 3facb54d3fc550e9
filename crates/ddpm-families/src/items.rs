//! Items between the host and a device: what families of models share.

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::series::SeriesInfo;
use ddpm_data::{DataConfig, OrderedLoader, Split, StreamItem};
use ddpm_model::statics::StaticConfig;

use crate::family::{AnyError, HeldOutSetup};

/// What is drawn for held-out data follows from this seed, whatever the run's is.
pub(crate) const HELD_OUT_SEED: u64 = 0;

/// Items, one after the other, as a batch.
pub(crate) fn batch_of(values: Vec<f32>, shape: [usize; 3], device: &Device) -> Tensor<4> {
    let [channels, height, width] = shape;
    let rows = values.len() / (channels * height * width);
    Tensor::from_data(TensorData::new(values, [rows, channels, height, width]), device)
}

/// Held-out items in batches, spread over all of the data, always the same.
pub(crate) fn held_out_batches(setup: &HeldOutSetup<'_>) -> Result<Vec<Vec<StreamItem>>, AnyError> {
    let count = setup.count.min(setup.data.items.len());
    let loader = OrderedLoader::new(setup.data, setup.batch_size, HELD_OUT_SEED)?.with_workers(0);
    Ok(loader.slice(0, count).iter().collect::<Result<_, _>>()?)
}

/// The sum of what was measured of the rows of a batch, `[B]`.
pub(crate) fn total(rows: Tensor<1>) -> f64 {
    rows.into_data().iter::<f64>().sum()
}

/// The first items of the test split, or of the train split where there is no other.
pub(crate) fn held_out_items(config: &DataConfig, count: usize) -> Result<Vec<f32>, AnyError> {
    let data = ddpm_data::open(config, Split::Test, 0).or_else(|_| ddpm_data::open(config, Split::Train, 0))?;
    let mut values = Vec::new();
    for item in 0..count.min(data.items.len()) {
        values.extend(data.items.get(item)?.values);
    }
    Ok(values)
}

/// How much of what does not change along a series a network can be given.
pub(crate) fn statics_of(info: &SeriesInfo) -> StaticConfig {
    StaticConfig {
        categories: info.static_categories.iter().map(Vec::len).collect(),
        reals: info.static_units.scale.len(),
    }
}
