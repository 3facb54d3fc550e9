//! Dense layers.

use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::precision::{Precision, is_half, rounded};

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;
#[cfg(feature = "flex")]
mod panels;

/// The dense layer, of the last dimension of `x`.
pub fn dense<const D: usize>(linear: &Linear, x: Tensor<D>, precision: Precision) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some((weight, bias)) = kernel_parameters(linear, &x, D - 1) {
        return flex::dense(x, weight, bias, kernel::Along::Last, precision);
    }
    composed(linear, x)
}

/// The dense layer, of the channels of `x`, `[batch, channels, height, width]`: for every pixel the same, as a convolution
/// of width 1 with the weight the other way round.
pub fn dense_channels(linear: &Linear, x: Tensor<4>, precision: Precision) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some((weight, bias)) = kernel_parameters(linear, &x, 1) {
        return flex::dense(x, weight, bias, kernel::Along::Channels, precision);
    }
    #[cfg(feature = "torch")]
    if let Some(y) = crate::torch::dense_channels(linear, &x) {
        return y;
    }
    composed(linear, x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

fn composed<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if !is_half(dtype) {
        return linear.forward(x);
    }
    let mut rounded_linear = linear.clone();
    rounded_linear.weight = rounded(&linear.weight, dtype);
    rounded_linear.bias = linear.bias.as_ref().map(|bias| rounded(bias, dtype));
    rounded_linear.forward(x)
}

/// Weight and bias, if the kernel can do this layer along this dimension of this tensor.
#[cfg(feature = "flex")]
fn kernel_parameters<const D: usize>(linear: &Linear, x: &Tensor<D>, along: usize) -> Option<(Tensor<2>, Tensor<1>)> {
    use crate::flex::is_f32_on_flex;
    use crate::kept::is_weight_on_flex;

    // A wrong number of channels is left to Burn, which names it.
    let weight = linear.weight.val();
    let [inputs, outputs] = weight.dims();
    let shape = x.dims();
    if shape.contains(&0) || shape[along] != inputs || outputs == 0 || !is_f32_on_flex(x) || !is_weight_on_flex(&weight)
    {
        return None;
    }
    let bias = match &linear.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([outputs], &x.device().without_autodiff()),
    };
    is_f32_on_flex(&bias).then_some((weight, bias))
}
