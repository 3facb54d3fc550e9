//! Two-dimensional convolution.

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod columns;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod frame;
#[cfg(feature = "flex")]
pub(crate) mod gemm;
#[cfg(feature = "flex")]
mod general;
#[cfg(feature = "flex")]
pub(crate) mod kernel;
mod rectified;
#[cfg(feature = "flex")]
mod winograd;

pub use rectified::conv2d_relu;

/// Convolution of `[batch, channels, height, width]`.
///
/// The kernel takes 3x3 with one pixel of padding and 1x1, both with stride 1, of any picture size;
/// the rest (strides, dilation, groups, other kernel sizes and paddings) goes to Burn.
pub fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some((weight, bias)) = kernel_parameters(conv, &x) {
        return flex::conv2d(x, weight, bias);
    }
    conv.forward(x)
}

/// Weight and bias, if the kernel can do this convolution of this tensor.
#[cfg(feature = "flex")]
fn kernel_parameters(conv: &Conv2d, x: &Tensor<4>) -> Option<(Tensor<4>, Tensor<1>)> {
    use crate::flex::is_f32_on_flex;
    use burn::nn::PaddingConfig2d::{Explicit, Same, Valid};

    let supported_kernel = matches!(
        (conv.kernel_size, &conv.padding),
        ([3, 3], Same | Explicit(1, 1, 1, 1)) | ([1, 1], Same | Valid | Explicit(0, 0, 0, 0))
    );
    let plain = conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
    if !supported_kernel || !plain || !is_f32_on_flex(x) {
        return None;
    }

    let weight = conv.weight.val();
    let [channels_out, channels_in, _, _] = weight.dims();
    // A wrong number of channels is left to Burn, which names it.
    let shape = x.dims();
    if shape.contains(&0) || shape[1] != channels_in || !is_f32_on_flex(&weight) {
        return None;
    }
    let bias = match &conv.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([channels_out], &x.device().without_autodiff()),
    };
    is_f32_on_flex(&bias).then_some((weight, bias))
}
