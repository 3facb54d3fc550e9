//! What a network is conditioned on, apart from the noisy data and the time.

use burn::tensor::{Int, Tensor};

/// The condition of one batch.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per batch: a box would save nothing
pub enum Condition {
    /// Nothing: unconditional data, or every row under the null class.
    None,
    /// One class index per row, shape `[B]`. The null class of classifier-free guidance is one more index.
    Class(Tensor<1, Int>),
}
