//! Two-dimensional convolution.

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod columns;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub(crate) mod frame;
#[cfg(feature = "flex")]
pub(crate) mod gemm;
#[cfg(feature = "flex")]
mod general;
#[cfg(feature = "flex")]
pub(crate) mod kernel;
#[cfg(feature = "flex")]
mod pairs;
mod rectified;
#[cfg(feature = "flex")]
mod winograd;

pub use rectified::conv2d_relu;

use crate::precision::{Precision, is_half, rounded};

/// Convolution of `[batch, channels, height, width]`.
///
/// The kernel takes every kernel size, stride and padding; 3x3 with one pixel of padding and 1x1, both with stride 1, are the
/// fast ones. Dilation and groups go to Burn.
pub fn conv2d(conv: &Conv2d, x: Tensor<4>, precision: Precision) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(geometry) = general::Geometry::new(conv, x.dims())
        && let Some((weight, bias)) = parameters(conv, &x)
    {
        return flex::conv2d(x, weight, bias, geometry, precision);
    }
    let dtype = x.dtype();
    if !is_half(dtype) {
        return of_backend(conv, x);
    }
    let mut rounded_conv = conv.clone();
    rounded_conv.weight = rounded(&conv.weight, dtype);
    rounded_conv.bias = conv.bias.as_ref().map(|bias| rounded(bias, dtype));
    of_backend(&rounded_conv, x)
}

fn of_backend(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "torch")]
    if let Some(y) = crate::torch::conv2d(conv, &x) {
        return y;
    }
    conv.forward(x)
}

/// Weight and bias, if the kernel can take them and this tensor.
#[cfg(feature = "flex")]
fn parameters(conv: &Conv2d, x: &Tensor<4>) -> Option<(Tensor<4>, Tensor<1>)> {
    use crate::flex::is_f32_on_flex;
    use crate::kept::is_weight_on_flex;

    let weight = conv.weight.val();
    let bias = match &conv.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([weight.dims()[0]], &x.device().without_autodiff()),
    };
    (is_f32_on_flex(x) && is_weight_on_flex(&weight) && is_f32_on_flex(&bias)).then_some((weight, bias))
}
