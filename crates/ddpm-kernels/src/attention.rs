//! Attention (Vaswani et al. 2017).

use burn::tensor::module::attention as of_backend;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, activation::softmax};

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

/// Attention of `[batch, heads, pixels, width]`.
fn composed(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let (dtype, width) = (q.dtype(), q.dims()[3]);
    // The scale goes first, so that f16 has room for the products, and softmax sums in f32.
    let scores = (q / (width as f64).sqrt()).matmul(k.swap_dims(2, 3));
    let exact = if is_half(dtype) { DType::F32 } else { dtype };
    softmax(scores.cast(exact), 3).cast(dtype).matmul(v)
}

/// Burn's attention without gradients is not asked on GPUs: autotune may choose kernels there that multiply in f16, or that
/// give wrong values for pixels or widths of some sizes.
fn is_on_gpu(_device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return crate::cube::is_on_cube(_device);
    #[cfg(not(feature = "cube"))]
    return false;
}
