//! What is for inference only, against Burn's: convolutions of any kind with a rectifier, and pools.
#![cfg(feature = "flex")]
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

use burn::module::Param;
use burn::nn::PaddingConfig2d::{self, Explicit, Same, Valid};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::tensor::{Device, Tensor, TensorData, activation};
use ddpm_kernels::{avg_pool2d, conv2d_relu, max_pool2d};
use support::{assert_close, assert_independent_of_threads, floats, noise};

use crate::support;

/// Numbers from 0 to below `end`, which depend on `seed` alone.
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn pair(&mut self, end: usize) -> [usize; 2] {
        [self.below(end), self.below(end)]
    }
}

fn conv(
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: PaddingConfig2d,
    device: &Device,
) -> Conv2d {
    let config = Conv2dConfig::new(channels, kernel).with_stride(stride).with_padding(padding);
    let mut conv = config.init(device);
    conv.weight = Param::from_tensor(noise([channels[1], channels[0], kernel[0], kernel[1]], 21, device) * 0.3);
    conv.bias = Some(Param::from_tensor(noise([channels[1]], 22, device)));
    conv
}

fn compare(ours: Tensor<4>, burns: Tensor<4>, what: &str) {
    assert_eq!(ours.dims(), burns.dims(), "{what}");
    let named = |tensor: Tensor<4>| vec![("y", floats(tensor.to_data()))];
    assert_close(&named(ours), &named(burns), 1e-5, what);
}

fn compare_conv(conv: &Conv2d, shape: [usize; 4], device: &Device) {
    let x = noise(shape, 1, device);
    let what = format!(
        "{:?} of {:?}, {:?}, {:?} on {shape:?}",
        conv.weight.dims(),
        conv.stride,
        conv.padding,
        conv.bias.is_some()
    );
    compare(conv2d_relu(conv, x.clone()), activation::relu(conv.forward(x)), &what);
}

#[test]
fn convolutions_of_any_kind() {
    let device = Device::flex();
    let mut draws = Draws(7);
    for _ in 0..120 {
        let kernel = draws.pair(7).map(|size| size + 1);
        let stride = draws.pair(3).map(|step| step + 1);
        // Pictures may be smaller than the kernel where the padding makes up for it.
        let [top, left] = draws.pair(5);
        let [bottom, right] = draws.pair(5);
        let least = [kernel[0].saturating_sub(top + bottom).max(1), kernel[1].saturating_sub(left + right).max(1)];
        let [height, width] = [least[0] + draws.below(24), least[1] + draws.below(24)];
        let shape = [draws.below(4) + 1, draws.below(40) + 1, height, width];
        let mut conv =
            conv([shape[1], draws.below(20) + 1], kernel, stride, Explicit(top, left, bottom, right), &device);
        if draws.below(4) == 0 {
            conv.bias = None;
        }
        compare_conv(&conv, shape, &device);
    }
}

/// Those of Inception: more channels than a block, one image in several tiles, several images in one.
#[test]
fn convolutions_of_inception() {
    let device = Device::flex();
    for (channels, kernel, stride, padding, shape) in [
        ([3, 32], [3, 3], 2, [0, 0], [2, 3, 61, 59]),
        ([300, 5], [1, 1], 1, [0, 0], [3, 300, 17, 17]),
        ([70, 9], [1, 7], 1, [0, 3], [5, 70, 17, 17]),
        ([70, 9], [7, 1], 1, [3, 0], [5, 70, 17, 17]),
        ([48, 64], [5, 5], 1, [2, 2], [1, 48, 35, 35]),
        ([40, 8], [3, 3], 2, [0, 0], [3, 40, 35, 35]),
        ([40, 8], [1, 3], 1, [0, 1], [17, 40, 8, 8]),
        ([40, 8], [3, 1], 1, [1, 0], [17, 40, 8, 8]),
        ([2, 3], [1, 1], 1, [0, 0], [2000, 2, 1, 1]),
    ] {
        let [rows, columns] = padding;
        compare_conv(
            &conv(channels, kernel, [stride; 2], Explicit(rows, columns, rows, columns), &device),
            shape,
            &device,
        );
    }
    for (kernel, padding) in [([5, 3], Same), ([4, 3], Same), ([4, 2], Valid)] {
        compare_conv(&conv([4, 6], kernel, [1, 1], padding, &device), [2, 4, 9, 8], &device);
    }
}

#[test]
fn views_fallbacks_and_not_a_number() {
    let device = Device::flex();
    let conv = conv([4, 6], [3, 5], [2, 1], Explicit(1, 2, 1, 2), &device);
    let x: Tensor<4> = noise([2, 4, 9, 8], 1, &device);
    let turned = x.clone().swap_dims(2, 3);
    compare(conv2d_relu(&conv, turned.clone()), activation::relu(conv.forward(turned)), "a view");

    // What has no kernel is exactly Burn's, and can be differentiated.
    let dilated = Conv2dConfig::new([4, 4], [3, 3]).with_dilation([2, 2]).init(&device);
    let grouped = Conv2dConfig::new([4, 4], [3, 3]).with_groups(2).init(&device);
    for conv in [dilated, grouped] {
        let (ours, burns) = (conv2d_relu(&conv, x.clone()), activation::relu(conv.forward(x.clone())));
        assert_eq!(ours.to_data(), burns.to_data());
    }
    let leaf = Tensor::from_inner(x.clone()).require_grad();
    let gradients = conv2d_relu(&conv, leaf.clone()).sum().backward();
    assert_eq!(leaf.grad(&gradients).unwrap().dims(), [2, 4, 9, 8]);
    let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
    let gradients = max_pool2d(&pool, leaf.clone()).sum().backward();
    assert_eq!(leaf.grad(&gradients).unwrap().sum().into_scalar::<f32>(), 2.0 * 4.0 * 4.0 * 4.0);

    // Broken numbers stay visible, and zeros beyond the border do not meet infinity.
    let mut values = vec![1.0; 16];
    values[5] = f32::NAN;
    values[15] = f32::INFINITY;
    let x = Tensor::<4>::from_data(TensorData::new(values, [1, 1, 4, 4]), &device);
    let one = conv_of_ones(&device);
    let y = floats(conv2d_relu(&one, x.clone()).to_data());
    let found: Vec<usize> = (0..16).filter(|i| y[*i].is_nan()).collect();
    assert_eq!(found, [0, 1, 2, 4, 5, 6, 8, 9, 10]);
    assert_eq!([y[14], y[15], y[3], y[12]], [f32::INFINITY, f32::INFINITY, 4.0, 4.0]);
    let pooled = floats(max_pool2d(&MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(), x).to_data());
    assert!(pooled[0].is_nan() && pooled[1..] == [1.0, 1.0, f32::INFINITY], "{pooled:?}");
}

fn conv_of_ones(device: &Device) -> Conv2d {
    let mut conv = conv([1, 1], [3, 3], [1, 1], Explicit(1, 1, 1, 1), device);
    conv.weight = Param::from_tensor(Tensor::ones([1, 1, 3, 3], device));
    conv.bias = None;
    conv
}

#[test]
fn pools_of_any_kind() {
    let device = Device::flex();
    let mut draws = Draws(3);
    for _ in 0..80 {
        let kernel = draws.pair(5).map(|size| size + 1);
        let strides = draws.pair(3).map(|step| step + 1);
        // Burn refuses more than half of the window.
        let [rows, columns] = [draws.below(kernel[0] / 2 + 1), draws.below(kernel[1] / 2 + 1)];
        let padding = Explicit(rows, columns, rows, columns);
        let shape = [draws.below(3) + 1, draws.below(5) + 1, kernel[0] + draws.below(20), kernel[1] + draws.below(20)];
        let x = noise(shape, 5, &device);
        let what = format!("{kernel:?}, {strides:?}, {padding:?} on {shape:?}");
        let max = MaxPool2dConfig::new(kernel).with_strides(strides).with_padding(padding.clone()).init();
        compare(max_pool2d(&max, x.clone()), max.forward(x.clone()), &what);
        for counted in [true, false] {
            let mean = AvgPool2dConfig::new(kernel).with_strides(strides).with_padding(padding.clone());
            let mean = mean.with_count_include_pad(counted).init();
            compare(avg_pool2d(&mean, x.clone()), mean.forward(x.clone()), &what);
        }
    }
    for ceil_mode in [true, false] {
        let x = noise([1, 2, 8, 8], 5, &device);
        let max = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_ceil_mode(ceil_mode).init();
        compare(max_pool2d(&max, x.clone()), max.forward(x), "rounded up");
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let device = Device::flex();
    let conv = conv([40, 24], [3, 5], [1, 1], Explicit(1, 2, 1, 2), &device);
    assert_independent_of_threads("a convolution", || {
        vec![("y", floats(conv2d_relu(&conv, noise([9, 40, 15, 17], 1, &device)).to_data()))]
    });
}
