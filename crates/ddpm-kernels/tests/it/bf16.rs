//! Products of operands in bf16 against those of f64.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Param, ParamId};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{DType, Device, Tensor, activation::softmax};
use ddpm_kernels::{Precision, attention, conv2d, dense, dense_channels};
use support::{Outcome, assert_independent_of_threads, floats, noise};

use crate::support;

/// What is computed, of `x` and two parameters.
type Layer = dyn Fn([Tensor<4>; 3], Precision) -> Tensor<4> + Sync;

/// A layer, and the shapes of its three inputs.
type Case = (String, [[usize; 4]; 3], Box<Layer>);

/// Output and gradients of the inputs; the gradient of the output is `dy`.
fn outcome(
    inputs: &[Tensor<4>; 3],
    precision: Precision,
    dy: impl Fn([usize; 4]) -> Tensor<4>,
    layer: &Layer,
) -> Outcome {
    let inputs = inputs.clone().map(|x| x.detach().require_grad());
    let y = layer(inputs.clone(), precision);
    let floats = |x: Tensor<4>| floats(x.cast(DType::F32).to_data());
    let gradients = (y.clone() * dy(y.dims()).cast(y.dtype())).sum().backward();
    let mut outcome = vec![("y", floats(y.inner()))];
    for (name, x) in ["first", "second", "third"].into_iter().zip(inputs) {
        outcome.push((name, floats(x.grad(&gradients).unwrap())));
    }
    outcome
}

/// The distance of each result from the right one, relative to its norm.
fn distances(found: &Outcome, right: &Outcome) -> Vec<(&'static str, f64)> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = found.iter().zip(right);
    let of = pairs.map(|((name, found), (_, right))| {
        assert_eq!(found.len(), right.len(), "{name}");
        let difference = norm(&mut found.iter().zip(right).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        (*name, difference / norm(&mut right.iter().map(|v| f64::from(*v))))
    });
    of.collect()
}

/// Whole numbers from -8 to 8, which are numbers of bf16; sums of their products are numbers of f32.
fn whole<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    (noise(shape, seed, device) * 8.0).round()
}

fn conv_of(weight: Tensor<4>, bias: Tensor<4>, stride: usize) -> Conv2d {
    let [channels_out, channels_in, height, width] = weight.dims();
    let padding = PaddingConfig2d::Explicit(height / 2, width / 2, height / 2, width / 2);
    let config = Conv2dConfig::new([channels_in, channels_out], [height, width]).with_stride([stride; 2]);
    let mut conv = config.with_padding(padding).init(&weight.device());
    conv.weight = Param::initialized(ParamId::new(), weight);
    conv.bias = Some(Param::initialized(ParamId::new(), bias.reshape([channels_out])));
    conv
}

fn linear_of(weight: Tensor<4>, bias: Tensor<4>) -> Linear {
    let [_, _, inputs, outputs] = weight.dims();
    let mut linear = LinearConfig::new(inputs, outputs).init(&weight.device());
    linear.weight = Param::initialized(ParamId::new(), weight.reshape([inputs, outputs]));
    linear.bias = Some(Param::initialized(ParamId::new(), bias.reshape([outputs])));
    linear
}

/// Layers with the shapes of their three inputs: odd sizes, one picture, channels that fill no vector, several blocks.
fn layers() -> Vec<Case> {
    let mut layers: Vec<Case> = Vec::new();
    let convolutions = [
        (1, 1, 5, [1, 3, 1, 1]),
        (1, 1, 33, [3, 70, 5, 7]),
        (3, 1, 4, [1, 1, 3, 3]),
        (3, 1, 10, [3, 300, 4, 4]),
        (3, 2, 7, [2, 5, 9, 8]),
        (3, 2, 40, [9, 33, 8, 8]),
        // By Winograd's algorithm.
        (3, 1, 16, [1, 16, 16, 16]),
        (3, 1, 33, [3, 17, 15, 19]),
        (3, 1, 40, [1, 50, 22, 23]),
        (3, 1, 17, [34, 70, 8, 8]),
        (3, 1, 64, [2, 100, 32, 32]),
        (3, 1, 130, [40, 129, 8, 8]),
    ];
    for (kernel, stride, outputs, shape) in convolutions {
        layers.push((
            format!("convolution {kernel}x{kernel} by {stride}, {shape:?} to {outputs}"),
            [shape, [outputs, shape[1], kernel, kernel], [1, outputs, 1, 1]],
            Box::new(move |[x, weight, bias], precision| conv2d(&conv_of(weight, bias, stride), x, precision)),
        ));
    }
    for (outputs, shape) in [(5, [1, 3, 1, 1]), (33, [3, 70, 5, 7]), (64, [8, 128, 16, 16])] {
        let shapes = [shape, [1, 1, shape[1], outputs], [1, outputs, 1, 1]];
        layers.push((
            format!("dense layer of channels, {shape:?} to {outputs}"),
            shapes,
            Box::new(|[x, weight, bias], precision| dense_channels(&linear_of(weight, bias), x, precision)),
        ));
        let rows = [1, shape[2], shape[0] * shape[3], shape[1]];
        layers.push((
            format!("dense layer, {rows:?} to {outputs}"),
            [rows, shapes[1], shapes[2]],
            Box::new(|[x, weight, bias], precision| dense(&linear_of(weight, bias), x, precision)),
        ));
    }
    for shape in [[1, 1, 3, 5], [2, 3, 8, 17], [2, 2, 33, 65], [1, 1, 128, 256]] {
        layers.push((
            format!("attention, {shape:?}"),
            [shape; 3],
            Box::new(|[q, k, v], precision| match q.dtype() {
                DType::F64 => {
                    let width = q.dims()[2] as f64;
                    let weights = softmax(q.transpose().matmul(k) / width.sqrt(), 3);
                    weights.matmul(v.transpose()).transpose()
                }
                _ => attention(q, k, v, precision),
            }),
        ));
    }
    layers
}

#[test]
fn outputs_and_gradients_are_near_those_of_f64() {
    let device = Device::flex().autodiff();
    for (name, shapes, layer) in layers() {
        let mut seed = 0;
        let inputs = shapes.map(|shape| {
            seed += 1;
            noise(shape, seed, &device)
        });
        let dy = |shape| noise(shape, 9, &device);
        let found = outcome(&inputs, Precision::Bf16, dy, &*layer);
        let right = outcome(&inputs.map(|x| x.cast(DType::F64)), Precision::F32, dy, &*layer);
        for (what, distance) in distances(&found, &right) {
            println!("{name}: {what} {distance:.1e}");
            assert!(distance < 1e-2, "{name}: {what} is off by {distance:e}");
            let rounded = what == "y" || name.starts_with("attention") || what != "third";
            assert!(!rounded || distance > 1e-4, "{name}: {what} is that of f32");
        }
    }
}

/// Where nothing is rounded, the result is that of f32: all but Winograd's algorithm, which rounds what it makes of them,
/// and attention, whose weights are no whole numbers.
#[test]
fn whole_numbers_are_exact() {
    let device = Device::flex().autodiff();
    for (name, shapes, layer) in layers() {
        let [_, channels, height, width] = shapes[0];
        let tiles = height.div_ceil(4) * width.div_ceil(4);
        let winograd = name.starts_with("convolution 3x3 by 1") && channels >= 16 && tiles >= 4;
        if winograd || name.starts_with("attention") {
            continue;
        }
        let mut seed = 0;
        let inputs = shapes.map(|shape| {
            seed += 1;
            whole(shape, seed, &device)
        });
        let dy = |shape| whole(shape, 9, &device);
        let found = outcome(&inputs, Precision::Bf16, dy, &*layer);
        assert_eq!(found, outcome(&inputs, Precision::F32, dy, &*layer), "{name}");
    }
}

#[test]
fn neither_threads_nor_the_batch_change_a_bit() {
    let [plain, tracked] = [Device::flex(), Device::flex().autodiff()];
    for (name, shapes, layer) in layers() {
        let inputs = |device: &Device| {
            let mut seed = 0;
            shapes.map(|shape| {
                seed += 1;
                noise(shape, seed, device)
            })
        };
        let dy = |shape| noise(shape, 9, &tracked);
        assert_independent_of_threads(&name, || outcome(&inputs(&tracked), Precision::Bf16, dy, &*layer));

        let [x, weight, bias] = inputs(&plain);
        let batch = shapes[0][0];
        if name.starts_with("attention") || batch == 1 {
            continue;
        }
        let last = |count: usize| {
            let x = x.clone().narrow(0, batch - count, count);
            let y = layer([x, weight.clone(), bias.clone()], Precision::Bf16);
            floats(y.narrow(0, count - 1, 1).to_data())
        };
        assert!(last(batch) == last(1), "{name}: a picture depends on its batch");
    }
}

/// Weights that are kept in bf16 give what their values in f32 give.
#[test]
fn weights_kept_in_bf16_are_widened() {
    use burn::module::Param;
    use burn::nn::LinearConfig;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::DType;
    use ddpm_kernels::{conv2d, dense};

    let device = Device::flex();
    for precision in [Precision::F32, Precision::Bf16] {
        let mut linear = LinearConfig::new(20, 70).init(&device);
        let weight = Precision::Bf16.kept(linear.weight.val());
        assert_eq!(weight.dtype(), DType::BF16);
        let x = noise([3, 4, 20], 1, &device);
        linear.weight = Param::from_tensor(weight.clone().cast(DType::F32));
        let expected = floats(dense(&linear, x.clone(), precision).to_data());
        linear.weight = Param::from_tensor(weight);
        assert_eq!(floats(dense(&linear, x, precision).to_data()), expected);
        for size in [1, 3] {
            let padding = burn::nn::PaddingConfig2d::Explicit(size / 2, size / 2, size / 2, size / 2);
            let mut conv = Conv2dConfig::new([16, 20], [size; 2]).with_padding(padding).init(&device);
            let weight = Precision::Bf16.kept(conv.weight.val());
            let x = noise([2, 16, 8, 8], 2, &device);
            conv.weight = Param::from_tensor(weight.clone().cast(DType::F32));
            let expected = floats(conv2d(&conv, x.clone(), precision).to_data());
            conv.weight = Param::from_tensor(weight);
            assert_eq!(floats(conv2d(&conv, x, precision).to_data()), expected);
        }
    }
    // Where gradients are wanted they stay as they are.
    assert_eq!(Precision::Bf16.kept(noise([2, 2], 1, &device.autodiff())).dtype(), DType::F32);
}
