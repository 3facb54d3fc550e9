//! Attention (Vaswani et al. 2017).

use burn::tensor::module::attention as of_backend;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, activation::softmax};

use crate::precision::{Precision, is_half};

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub(crate) mod kernel;

/// `softmax(q k^T / sqrt(width)) v` for pixels as rows. All three are `[batch, heads, width, pixels]`, as the channels of an
/// image lie in memory, and so is the result. Keys and values may have another number of pixels than queries: then this is
/// cross-attention, and the result has those of the queries.
///
/// The kernel keeps nothing but its inputs for the gradients: the scores, which grow with the square of the pixels,
/// are computed again.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, precision: Precision) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if [&q, &k, &v].into_iter().all(crate::flex::is_f32_on_flex) && shapes_fit([&q, &k, &v]) {
        return flex::attention(q, k, v, precision);
    }
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(2, 3));
    #[cfg(feature = "torch")]
    if crate::torch::is_on_torch(&q.device()) {
        return crate::torch::attention(q, k, v).swap_dims(2, 3);
    }
    let y = match is_half(q.dtype()) || is_on_gpu(&q.device()) {
        true => composed(q, k, v),
        false => of_backend(q, k, v, None, None, AttentionModuleOptions::default()),
    };
    y.swap_dims(2, 3)
}

/// As [`attention`], with `bias` added to the scores in front of the softmax. It is `[batch, heads, queries, keys]`, or 1 in
/// place of any of the first three. There is no kernel for it: the scores are kept for the gradients.
pub fn biased_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Tensor<4>) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(2, 3));
    let scores = scores(q, k);
    let bias = bias.cast(scores.dtype());
    weighted(scores + bias, v).swap_dims(2, 3)
}

/// Whether these are queries, keys and values of one another.
#[cfg(feature = "flex")]
fn shapes_fit([q, k, v]: [&Tensor<4>; 3]) -> bool {
    !q.dims().contains(&0) && k.dims()[3] > 0 && k.dims() == v.dims() && k.dims()[..3] == q.dims()[..3]
}

/// Attention of `[batch, heads, pixels, width]`.
fn composed(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    weighted(scores(q, k), v)
}

/// The scores, in f32 where the tensors are narrower, so that softmax sums in it.
fn scores(q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
    let (dtype, width) = (q.dtype(), q.dims()[3]);
    // The scale goes first, so that f16 has room for the products.
    let scores = (q / (width as f64).sqrt()).matmul(k.swap_dims(2, 3));
    scores.cast(if is_half(dtype) { DType::F32 } else { dtype })
}

/// The values weighted by the softmax of the scores.
fn weighted(scores: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    softmax(scores, 3).cast(v.dtype()).matmul(v)
}

/// Burn's attention without gradients is not asked on GPUs: autotune may choose kernels there that multiply in f16, or that
/// give wrong values for pixels or widths of some sizes.
fn is_on_gpu(_device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return crate::cube::is_on_cube(_device);
    #[cfg(not(feature = "cube"))]
    return false;
}
