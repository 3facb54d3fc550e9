//! Items between the host and a device: what families of models share.

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::{DataConfig, Split};

use crate::family::AnyError;

/// Items, one after the other, as a batch.
pub(crate) fn batch_of(values: Vec<f32>, shape: [usize; 3], device: &Device) -> Tensor<4> {
    let [channels, height, width] = shape;
    let rows = values.len() / (channels * height * width);
    Tensor::from_data(TensorData::new(values, [rows, channels, height, width]), device)
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
