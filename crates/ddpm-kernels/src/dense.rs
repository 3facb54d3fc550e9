//! The dense layer.

use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::precision::{Precision, is_half, rounded};

/// `x W + b` over the last dimension of `x`.
pub fn dense<const D: usize>(linear: &Linear, x: Tensor<D>, _precision: Precision) -> Tensor<D> {
    let dtype = x.dtype();
    if !is_half(dtype) {
        return linear.forward(x);
    }
    let mut rounded_linear = linear.clone();
    rounded_linear.weight = rounded(&linear.weight, dtype);
    rounded_linear.bias = linear.bias.as_ref().map(|bias| rounded(bias, dtype));
    rounded_linear.forward(x)
}
