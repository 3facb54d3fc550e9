//! Attention (Vaswani et al. 2017).

use burn::tensor::Tensor;
use burn::tensor::module::attention as composed;
use burn::tensor::ops::AttentionModuleOptions;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// `softmax(q k^T / sqrt(width)) v` of `[batch, heads, pixels, width]`, all three of the same shape.
///
/// The kernel keeps nothing but its inputs for the gradients: the scores, which grow with the square of the pixels,
/// are computed again.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if [&q, &k, &v].into_iter().all(|x| crate::flex::is_f32_on_flex(x) && x.dims() == q.dims())
        && !q.dims().contains(&0)
    {
        return flex::attention(q, k, v);
    }
    composed(q, k, v, None, None, AttentionModuleOptions::default())
}
