//! What is known of a series and does not change along it, categories and numbers, as inputs of a network.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Tensor};

/// The widest embedding of a category.
const MOST_EMBEDDED: usize = 50;

/// How many of them there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StaticConfig {
    /// Categories of each kind.
    pub categories: Vec<usize>,
    /// Numbers.
    pub reals: usize,
}

impl StaticConfig {
    /// What a network is given of a series: for each kind as many places as it has categories, with a 1 at that of the series and
    /// else 0 (all 0: one that training did not have), then the numbers.
    pub fn given(&self) -> usize {
        self.categories.iter().sum::<usize>() + self.reals
    }

    /// What the network reads: an embedding of each category, and the numbers.
    pub fn width(&self) -> usize {
        self.categories.iter().copied().map(embedding_width).sum::<usize>() + self.reals
    }
}

/// Half as wide as there are categories, as in GluonTS.
fn embedding_width(categories: usize) -> usize {
    categories.div_ceil(2).min(MOST_EMBEDDED)
}

/// The embeddings of the categories.
#[derive(Module, Debug)]
pub struct StaticEmbeddings {
    kinds: Vec<Embedding>,
}

impl StaticEmbeddings {
    /// Embeddings before training.
    pub fn init(config: &StaticConfig, device: &Device) -> Self {
        let kind = |&categories: &usize| EmbeddingConfig::new(categories, embedding_width(categories)).init(device);
        Self { kinds: config.categories.iter().map(kind).collect() }
    }

    /// What the network reads, `[B, width]`, of what it is given, `[B, given]`: see [`StaticConfig`].
    pub fn forward(&self, given: Tensor<2>) -> Tensor<2> {
        let (mut start, mut parts) = (0, Vec::with_capacity(self.kinds.len() + 1));
        for kind in &self.kinds {
            let table = kind.weight.val();
            let categories = table.dims()[0];
            parts.push(given.clone().narrow(1, start, categories).matmul(table));
            start += categories;
        }
        let reals = given.dims()[1] - start;
        if reals > 0 {
            parts.push(given.narrow(1, start, reals));
        }
        Tensor::cat(parts, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    #[test]
    fn categories_become_rows_of_their_embeddings_and_numbers_stay() {
        let config = StaticConfig { categories: vec![3, 2], reals: 1 };
        assert_eq!((config.given(), config.width()), (6, 4));
        let embeddings = StaticEmbeddings::init(&config, &Device::flex());
        let given = [0.0, 1.0, 0.0, 1.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 1.0, -2.0f32];
        let given = Tensor::from_data(TensorData::new(given.to_vec(), [2, 6]), &Device::flex());
        let host = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        let [first, second] = [0, 1].map(|kind: usize| host(embeddings.kinds[kind].weight.val()));
        let found = host(embeddings.forward(given));
        assert_eq!(found, [first[2], first[3], second[0], 7.0, 0.0, 0.0, second[1], -2.0]);
    }
}
