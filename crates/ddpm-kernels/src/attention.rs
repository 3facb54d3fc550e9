//! Attention (Vaswani et al. 2017).

use burn::tensor::module::attention as composed;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Tensor, activation::softmax};

use crate::precision::{Precision, is_half};

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// `softmax(q k^T / sqrt(width)) v` for pixels as rows. All three are `[batch, heads, width, pixels]`, as the channels of a
/// picture lie in memory, and so is the result.
///
/// The kernel keeps nothing but its inputs for the gradients: the scores, which grow with the square of the pixels,
/// are computed again.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, precision: Precision) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if [&q, &k, &v].into_iter().all(|x| crate::flex::is_f32_on_flex(x) && x.dims() == q.dims())
        && !q.dims().contains(&0)
    {
        return flex::attention(q, k, v, precision);
    }
    let (dtype, width) = (q.dtype(), q.dims()[2]);
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(2, 3));
    if is_half(dtype) {
        // The scale goes first, so that f16 has room for the products, and softmax sums in f32.
        let scores = (q / (width as f64).sqrt()).matmul(k.swap_dims(2, 3));
        return softmax(scores.cast(DType::F32), 3).cast(dtype).matmul(v).swap_dims(2, 3);
    }
    composed(q, k, v, None, None, AttentionModuleOptions::default()).swap_dims(2, 3)
}
