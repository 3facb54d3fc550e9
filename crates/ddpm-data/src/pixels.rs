//! Pictures kept as bytes and turned into values when asked for: a quarter of the memory.

use std::sync::Arc;

use burn_dataset::transform::{Mapper, MapperDataset};
use burn_dataset::{Dataset, InMemDataset};

use crate::example::Example;

/// A picture as bytes, in the shape of the dataset.
#[derive(Clone, Debug)]
pub(crate) struct ByteImage {
    pub(crate) pixels: Vec<u8>,
    pub(crate) label: usize,
}

/// Examples whose pictures lie in memory as bytes.
pub(crate) fn byte_images(images: Vec<ByteImage>) -> Arc<dyn Dataset<Example>> {
    Arc::new(MapperDataset::new(InMemDataset::new(images), BytesToValues))
}

/// 0..=255 to [-1, 1].
pub(crate) fn value_of_byte(byte: u8) -> f32 {
    f32::from(byte) / 127.5 - 1.0
}

/// The same of all.
pub(crate) fn values_of_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&byte| value_of_byte(byte)).collect()
}

struct BytesToValues;

impl Mapper<ByteImage, Example> for BytesToValues {
    fn map(&self, image: &ByteImage) -> Example {
        Example { values: values_of_bytes(&image.pixels), label: Some(image.label), window: None, caption: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_fill_the_interval() {
        assert_eq!(value_of_byte(0), -1.0);
        assert_eq!(value_of_byte(255), 1.0);
        assert!((0..255).all(|byte| value_of_byte(byte) < value_of_byte(byte + 1)));
    }
}
