//! The sum of a residual connection.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;

/// `a + b` for tensors of the same shape, on all cores.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if a.dims() == b.dims() && crate::flex::is_f32_on_flex(&a) && crate::flex::is_f32_on_flex(&b) {
        return flex::add(a, b);
    }
    a + b
}
