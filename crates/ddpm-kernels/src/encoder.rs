//! A layer of a transformer's encoder (Vaswani et al. 2017), normalized after its sums, with exact GELU.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// What a layer consists of. Weights are `[inputs, outputs]` except where it says otherwise.
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    /// Heads of attention, which share the channels.
    pub heads: usize,
    /// Queries, keys and values: the weight `[3 channels, channels]`, outputs first, and the bias.
    pub projection: (Tensor<2>, Tensor<1>),
    /// The output of attention.
    pub output: (Tensor<2>, Tensor<1>),
    /// The two layers of the feed-forward part.
    pub feed_forward: [(Tensor<2>, Tensor<1>); 2],
    /// Scale and shift of the normalizations after attention and after the feed-forward part.
    pub norms: [(Tensor<1>, Tensor<1>); 2],
    /// What is added to the variance in these.
    pub epsilon: f64,
}

/// The layer over the second dimension of `x`, `[batch, places, items, channels]`: for each item of the batch, its places
/// are one sequence. None where there is no kernel for it.
///
/// The kernel keeps nothing but its inputs for the gradients.
pub fn encoder_layer(_x: Tensor<4>, _layer: EncoderLayer) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    return flex::encoder_layer(_x, _layer);
    #[cfg(not(feature = "flex"))]
    None
}
