//! The small layers that the network is made of, with PyTorch's initial values.

use burn::module::{Param, ParamId};
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{dense, dense_rows};

use crate::pass::Pass;

/// A dense layer.
pub(super) fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).init(device)
}

/// A convolution of width 1. Weights are drawn from a normal distribution of variance `2 / inputs` (He et al. 2015).
pub(super) fn pointwise(inputs: usize, outputs: usize, device: &Device) -> Conv1d {
    let mut layer = Conv1dConfig::new(inputs, outputs, 1).init(device);
    let weight = Initializer::Normal { mean: 0.0, std: (2.0 / inputs as f64).sqrt() };
    layer.weight = weight.init([outputs, inputs, 1], device);
    layer
}

/// A convolution of width 1 whose weights are 0.
pub(super) fn zero_pointwise(inputs: usize, outputs: usize, device: &Device) -> Conv1d {
    let mut layer = pointwise(inputs, outputs, device);
    layer.weight = Initializer::Zeros.init([outputs, inputs, 1], device);
    layer
}

/// A dense layer in the precision of the pass, with the output in the dtype of the input.
pub(super) fn apply<const D: usize>(name: &str, linear: &Linear, x: Tensor<D>, pass: &Pass<'_>) -> Tensor<D> {
    let dtype = x.dtype();
    pass.layer(name, pass.precision.carried(x), |x| dense(linear, x, pass.precision)).cast(dtype)
}

/// A convolution of width 1 over the last dimension.
pub(super) fn apply_pointwise(name: &str, conv: &Conv1d, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
    let weight = conv.weight.val().squeeze_dim::<2>(2);
    apply(name, &with_rows(weight, conv.bias.as_ref().map(Param::val)), x, pass)
}

/// The dense layer of a weight `[outputs, inputs]`, as PyTorch stores it, as a part of the graph.
pub(super) fn with_rows(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Linear {
    Linear {
        weight: Param::initialized(ParamId::new(), weight.transpose()),
        bias: bias.map(|bias| Param::initialized(ParamId::new(), bias)),
    }
}

/// Weight and bias of a convolution that has one.
pub(super) fn weights(conv: &Conv1d) -> Option<(Tensor<3>, Tensor<1>)> {
    Some((conv.weight.val(), conv.bias.as_ref()?.val()))
}

/// A convolution of width 1 over the last dimension, followed by the rectifier.
pub(super) fn rectified(name: &str, conv: &Conv1d, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
    let fused = match (pass.may_fuse(), weights(conv)) {
        (true, Some((weight, bias))) => dense_rows(x.clone(), weight, bias),
        _ => None,
    };
    relu(fused.unwrap_or_else(|| apply_pointwise(name, conv, x, pass)))
}
