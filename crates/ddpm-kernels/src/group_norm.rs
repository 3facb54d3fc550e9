//! Group normalisation, alone or followed by SiLU (Wu & He 2018, arXiv:1803.08494).

use burn::nn::GroupNorm;
use burn::tensor::{DType, Tensor, activation};

use crate::precision::is_half;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// Group normalisation followed by SiLU, `silu(norm(x))`, of `[batch, channels, ..]`.
pub fn norm_silu<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(parameters) = kernel_parameters(norm, &x) {
        return flex::group_norm(norm, parameters, x, kernel::Activation::Silu);
    }
    in_f32(x, |x| activation::silu(norm.forward(x)))
}

/// Group normalisation of `[batch, channels, ..]`.
pub fn group_norm<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(parameters) = kernel_parameters(norm, &x) {
        return flex::group_norm(norm, parameters, x, kernel::Activation::Identity);
    }
    in_f32(x, |x| norm.forward(x))
}

/// Statistics of half precision would be useless.
fn in_f32<const D: usize>(x: Tensor<D>, normalise: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if is_half(dtype) { normalise(x.cast(DType::F32)).cast(dtype) } else { normalise(x) }
}

/// Scale and shift of the channels, if the kernel can do this normalisation of this tensor.
#[cfg(feature = "flex")]
fn kernel_parameters<const D: usize>(norm: &GroupNorm, x: &Tensor<D>) -> Option<(Tensor<1>, Tensor<1>)> {
    use crate::flex::is_f32_on_flex;

    // A wrong number of channels is left to Burn, which names it.
    let shape = x.dims();
    if D < 3 || shape.contains(&0) || shape[1] != norm.num_channels || !is_f32_on_flex(x) {
        return None;
    }
    let gamma = norm.gamma.as_ref()?.val();
    let beta = norm.beta.as_ref()?.val();
    (is_f32_on_flex(&gamma) && is_f32_on_flex(&beta)).then_some((gamma, beta))
}
