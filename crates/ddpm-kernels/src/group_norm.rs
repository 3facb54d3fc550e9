//! Group normalisation, alone or followed by SiLU (Wu & He 2018, arXiv:1803.08494).

use burn::nn::GroupNorm;
use burn::tensor::{DType, Tensor, activation};

use crate::precision::is_half;

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod cube_kernel;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// What follows the normalisation.
#[cfg(any(feature = "cube", feature = "flex"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Silu,
}

/// Group normalisation followed by SiLU, `silu(norm(x))`, of `[batch, channels, ..]`.
pub fn norm_silu<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(parameters) = cube_parameters(norm, &x) {
        return cube::group_norm(norm, parameters, x, Activation::Silu);
    }
    #[cfg(feature = "flex")]
    if let Some(parameters) = kernel_parameters(norm, &x) {
        return flex::group_norm(norm, parameters, x, Activation::Silu);
    }
    in_f32(x, |x| {
        #[cfg(feature = "torch")]
        if let Some(parameters) = torch_parameters(norm, &x) {
            return crate::torch::group_norm(norm, parameters, x, true);
        }
        activation::silu(norm.forward(x))
    })
}

/// Group normalisation of `[batch, channels, ..]`.
pub fn group_norm<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if let Some(parameters) = cube_parameters(norm, &x) {
        return cube::group_norm(norm, parameters, x, Activation::Identity);
    }
    #[cfg(feature = "flex")]
    if let Some(parameters) = kernel_parameters(norm, &x) {
        return flex::group_norm(norm, parameters, x, Activation::Identity);
    }
    in_f32(x, |x| {
        #[cfg(feature = "torch")]
        if let Some(parameters) = torch_parameters(norm, &x) {
            return crate::torch::group_norm(norm, parameters, x, false);
        }
        norm.forward(x)
    })
}

/// `silu(norm(x) * (1 + scale) + shift)` of `[batch, channels, ..]`, where every channel of a sample has its own scale and
/// shift: `scale_shift` is `[batch, 2 * channels]`, all scales first (Nichol & Dhariwal 2021, arXiv:2102.09672).
pub fn norm_scale_shift_silu<const D: usize>(norm: &GroupNorm, x: Tensor<D>, scale_shift: Tensor<2>) -> Tensor<D> {
    let scale_shift = if is_half(scale_shift.dtype()) { scale_shift.cast(DType::F32) } else { scale_shift };
    let [batch, outputs] = scale_shift.dims();
    #[cfg(feature = "cube")]
    if [batch, outputs] == [x.dims()[0], 2 * norm.num_channels]
        && crate::cube::is_f32_on_cube(&scale_shift)
        && let Some(parameters) = cube_parameters(norm, &x)
    {
        return cube::modulated_group_norm(norm, parameters, x, scale_shift);
    }
    let mut shape = [1; D];
    shape[0] = batch;
    shape[1] = outputs / 2;
    let [scale, shift] =
        [0, 1].map(|half| scale_shift.clone().narrow(1, half * (outputs / 2), outputs / 2).reshape(shape));
    in_f32(x, |x| activation::silu(group_norm(norm, x) * (scale + 1.0) + shift))
}

/// Statistics of half precision would be useless.
fn in_f32<const D: usize>(x: Tensor<D>, normalise: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if is_half(dtype) { normalise(x.cast(DType::F32)).cast(dtype) } else { normalise(x) }
}

/// Scale and shift of the channels, if the kernel for flex can do this normalisation of this tensor.
#[cfg(feature = "flex")]
fn kernel_parameters<const D: usize>(norm: &GroupNorm, x: &Tensor<D>) -> Option<(Tensor<1>, Tensor<1>)> {
    use crate::flex::is_f32_on_flex;

    parameters(norm, x, is_f32_on_flex(x), is_f32_on_flex)
}

/// The same for the kernel for GPUs, which takes half precision as well.
#[cfg(feature = "cube")]
fn cube_parameters<const D: usize>(norm: &GroupNorm, x: &Tensor<D>) -> Option<(Tensor<1>, Tensor<1>)> {
    use crate::cube::{is_f32_on_cube, is_on_cube};

    let takes = (x.dtype() == DType::F32 || is_half(x.dtype())) && is_on_cube(&x.device());
    parameters(norm, x, takes, is_f32_on_cube)
}

/// The same for LibTorch.
#[cfg(feature = "torch")]
fn torch_parameters<const D: usize>(norm: &GroupNorm, x: &Tensor<D>) -> Option<(Tensor<1>, Tensor<1>)> {
    use crate::torch::is_on_torch;

    let takes = x.dtype() == DType::F32 && is_on_torch(&x.device());
    parameters(norm, x, takes, |parameter| parameter.dtype() == DType::F32 && is_on_torch(&parameter.device()))
}

/// `takes` says whether the kernel takes this tensor, `takes_parameter` the same of a parameter.
#[cfg(any(feature = "cube", feature = "flex", feature = "torch"))]
fn parameters<const D: usize>(
    norm: &GroupNorm,
    x: &Tensor<D>,
    takes: bool,
    takes_parameter: impl Fn(&Tensor<1>) -> bool,
) -> Option<(Tensor<1>, Tensor<1>)> {
    // A wrong number of channels is left to Burn, which names it.
    let shape = x.dims();
    if D < 3 || shape.contains(&0) || shape[1] != norm.num_channels || !takes {
        return None;
    }
    let gamma = norm.gamma.as_ref()?.val();
    let beta = norm.beta.as_ref()?.val();
    (takes_parameter(&gamma) && takes_parameter(&beta)).then_some((gamma, beta))
}
