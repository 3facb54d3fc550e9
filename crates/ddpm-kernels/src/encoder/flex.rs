//! The layer as an operation of Burn.

use burn::tensor::{Shape, Tensor};

use super::EncoderLayer;
use super::kernel::{self, Layer};
use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};

/// [`super::encoder_layer`] by the kernel.
pub(super) fn encoder_layer(x: Tensor<4>, layer: EncoderLayer) -> Option<Tensor<4>> {
    let EncoderLayer { heads, projection, output, feed_forward, norms, epsilon } = layer;
    let [batch, places, items, channels] = x.dims();
    let hidden = feed_forward[0].0.dims()[1];
    if x.dims().contains(&0) || hidden == 0 || !is_f32_on_flex(&x) || !is_f32_on_flex(&projection.0) {
        return None;
    }
    debug_assert_eq!(projection.0.dims(), [3 * channels, channels]);
    let [(first, first_bias), (second, second_bias)] = feed_forward;
    let [(scale_1, shift_1), (scale_2, shift_2)] = norms;
    let inputs = vec![
        x.into_dispatch(),
        projection.0.into_dispatch(),
        projection.1.into_dispatch(),
        output.0.into_dispatch(),
        output.1.into_dispatch(),
        scale_1.into_dispatch(),
        shift_1.into_dispatch(),
        first.into_dispatch(),
        first_bias.into_dispatch(),
        second.into_dispatch(),
        second_bias.into_dispatch(),
        scale_2.into_dispatch(),
        shift_2.into_dispatch(),
    ];
    let layer = Layer { sequences: batch * items, places, items, channels, heads, hidden, epsilon: epsilon as f32 };
    Some(apply(inputs, Encoder(layer)))
}

#[derive(Debug)]
struct Encoder(Layer);

impl Arithmetic for Encoder {
    fn names(&self) -> [Operation; 2] {
        [Operation::Encoder, Operation::EncoderBackward]
    }

    fn shape(&self) -> Shape {
        let Layer { sequences, places, items, channels, .. } = self.0;
        Shape::from([sequences / items, places, items, channels])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::forward(&self.0, inputs[0], &inputs[1..])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::backward(&self.0, inputs[0], &inputs[1..], dy).into_iter().map(Some).collect()
    }
}
