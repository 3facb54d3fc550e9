//! The compositions that other backends run in half precision, here on flex.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::module::Param;
use burn::nn::conv::Conv2dConfig;
use burn::nn::{GroupNormConfig, LinearConfig};
use burn::tensor::{DType, Device, Distribution, Tensor};
use ddpm_kernels::{Precision, add, attention, concat, conv2d, dense, group_norm, norm_silu, shift};

/// The norm of the difference beside that of what is right.
fn distance<const D: usize>(found: Tensor<D>, right: Tensor<D>) -> f64 {
    let norm = |x: Tensor<D>| x.square().sum().into_scalar::<f64>().sqrt();
    norm(found.cast(DType::F64) - right.clone().cast(DType::F64)) / norm(right.cast(DType::F64))
}

/// Compares `layer` of a half-precision tensor with that of the same tensor in f32: the output, the gradient of the input,
/// and that of a parameter, which stays in f32.
fn compare<const A: usize>(
    name: &str,
    shape: [usize; A],
    parameter: &Param<Tensor<A>>,
    layer: impl Fn(Tensor<A>) -> Tensor<A>,
) {
    let device = Device::default().autodiff();
    let x = Tensor::<A>::random(shape, Distribution::Normal(0.0, 1.0), &device).detach();
    let run = |dtype: DType| {
        let x = x.clone().cast(dtype).detach().require_grad();
        let y = layer(x.clone());
        assert_eq!(y.dtype(), dtype, "{name}");
        let pattern = Tensor::arange(0..y.shape().num_elements() as i64, &device).float().sin().reshape(y.dims());
        let grads = (y.clone().cast(DType::F32) * pattern).sum().backward();
        (y.inner(), x.grad(&grads).unwrap(), parameter.val().grad(&grads))
    };
    let (y, dx, dw) = run(DType::F32);
    for (dtype, bound) in [(DType::BF16, 3e-2), (DType::F16, 4e-3)] {
        let (y_half, dx_half, dw_half) = run(dtype);
        assert_eq!(dx_half.dtype(), dtype, "{name}");
        for (what, off) in [("output", distance(y_half, y.clone())), ("gradient", distance(dx_half, dx.clone()))] {
            assert!(off < bound, "{name} in {dtype:?}: the {what} is off by {off}");
            assert!(off > 1e-7, "{name} in {dtype:?}: the {what} is that of f32");
        }
        if let (Some(half), Some(full)) = (dw_half, dw.clone()) {
            assert_eq!(half.dtype(), DType::F32, "{name}");
            let off = distance(half, full);
            assert!(off < bound, "{name} in {dtype:?}: the gradient of the parameter is off by {off}");
        }
    }
}

#[test]
fn half_precision_goes_through_and_leaves_parameters_in_f32() {
    let device = Device::default().autodiff();
    device.seed(3);
    for stride in [1, 2] {
        let conv = Conv2dConfig::new([6, 5], [3, 3]).with_stride([stride; 2]).init(&device);
        compare("convolution", [2, 6, 8, 8], &conv.weight, |x| conv2d(&conv, x, Precision::F16));
    }
    let linear = LinearConfig::new(7, 9).init(&device);
    compare("dense layer", [3, 7], &linear.weight, |x| dense(&linear, x, Precision::F16));

    let none = Param::from_tensor(Tensor::<4>::zeros([1, 1, 1, 1], &device));
    let norm = GroupNormConfig::new(2, 6).init(&device);
    compare("group norm", [2, 6, 4, 4], &none, |x| group_norm(&norm, x));
    compare("group norm and SiLU", [2, 6, 4, 4], &none, |x| norm_silu(&norm, x));
    compare("attention", [2, 2, 12, 8], &none, |x| attention(x.clone(), x.clone() * 2.0, x, Precision::F16));
    compare("sum and join", [2, 6, 4, 4], &none, |x| concat(add(x.clone(), x.clone() * 3.0), x));
    compare("shift", [2, 6, 4, 4], &none, |x| {
        let by = x.clone().narrow(2, 0, 1).narrow(3, 0, 1).reshape([2, 6]);
        shift(x, by)
    });
}

#[test]
fn statistics_are_those_of_f32() {
    // In f16 the squares of such values are infinite, and in bf16 1000 and 1001 are the same.
    let device = Device::default();
    let norm = GroupNormConfig::new(1, 2).init(&device);
    let x = Tensor::<3>::from_data([[[1000.0, 1008.0], [1016.0, 1024.0]]], &device);
    let right = group_norm(&norm, x.clone());
    for dtype in [DType::BF16, DType::F16] {
        assert!(distance(group_norm(&norm, x.clone().cast(dtype)), right.clone()) < 1e-2);
    }
}

#[test]
fn flex_carries_f32_and_knows_no_f16() {
    let device = Device::flex();
    let x = Tensor::<2>::ones([1, 2], &device);
    assert_eq!(Precision::Bf16.carried(x.clone()).dtype(), DType::F32);
    assert_eq!(Precision::F32.carried(x.cast(DType::F64)).dtype(), DType::F64);
    assert_eq!(Precision::ALL.map(|precision| precision.is_supported(&device)), [true, false, true]);
}
