//! The convolution against Burn's, finite differences and itself.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::module::Param;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData, activation, module};
use ddpm_kernels::{Precision, conv2d, norm_silu};
use support::{Input, Loss, Outcome, assert_close, assert_independent_of_threads, floats, noise, run};

use crate::support;

fn conv(channels: [usize; 2], kernel_width: usize, device: &Device) -> Conv2d {
    let padding = kernel_width / 2;
    let mut conv = Conv2dConfig::new(channels, [kernel_width; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .init(device);
    let shape = [channels[1], channels[0], kernel_width, kernel_width];
    conv.weight = Param::from_tensor(noise(shape, 21, device) * 0.3);
    conv.bias = Some(Param::from_tensor(noise([channels[1]], 22, device)));
    conv
}

fn parameter_gradients(conv: &Conv2d, grads: &Gradients) -> Vec<(&'static str, Option<TensorData>)> {
    let bias = conv.bias.as_ref().and_then(|bias| bias.val().grad(grads));
    vec![("dweight", conv.weight.val().grad(grads).map(|g| g.to_data())), ("dbias", bias.map(|g| g.to_data()))]
}

fn ours(conv: &Conv2d, shape: [usize; 4], input: Input, loss: Loss, device: &Device) -> Outcome {
    run(shape, input, loss, device, &|x| conv2d(conv, x, Precision::F32), &|grads| parameter_gradients(conv, grads))
}

fn burns(conv: &Conv2d, shape: [usize; 4], input: Input, loss: Loss, device: &Device) -> Outcome {
    run(shape, input, loss, device, &|x| conv.forward(x), &|grads| parameter_gradients(conv, grads))
}

/// The last picture of a batch comes out the same, bit for bit, with all the others, with one of them, and alone. Only
/// with pictures of a single pixel is one alone another kind of product, a matrix with a vector.
#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let device = Device::flex();
    for kernel_width in [1, 3] {
        for (channels_out, shape) in SHAPES.into_iter().filter(|(_, [_, _, height, width])| height * width > 1) {
            let conv = conv([shape[1], channels_out], kernel_width, &device);
            let x = noise(shape, 1, &device);
            let last = |count: usize| {
                let y = conv2d(&conv, x.clone().narrow(0, shape[0] - count, count), Precision::F32);
                floats(y.narrow(0, count - 1, 1).to_data())
            };
            let alone = last(1);
            assert!(last(shape[0]) == alone && last(shape[0].min(2)) == alone, "{shape:?}, kernel {kernel_width}");
        }
    }
}

/// Output channels and `[batch, channels, height, width]`: every width class, several images a tile,
/// a last tile that is not full, several tiles an image, several blocks of channels.
const SHAPES: [(usize, [usize; 4]); 27] = [
    (1, [1, 1, 1, 1]),
    (5, [3, 3, 1, 1]),
    (3, [3, 2, 2, 2]),
    (4, [130, 5, 2, 2]),
    (7, [3, 5, 3, 3]),
    (8, [17, 8, 4, 4]),
    (6, [3, 7, 5, 5]),
    (9, [1, 3, 5, 2]),
    (33, [9, 34, 8, 8]),
    (12, [3, 11, 12, 12]),
    (16, [1, 16, 16, 16]),
    (3, [3, 5, 16, 17]),
    (10, [1, 3, 33, 33]),
    (4, [3, 2, 1, 40]),
    (4, [1, 2, 300, 1]),
    (2, [1, 3, 3, 301]),
    (65, [3, 70, 7, 9]),
    // By Winograd's algorithm: channels and tiles that fill no block, tiles over the border, several runs of tasks.
    (16, [2, 16, 16, 16]),
    (33, [3, 17, 15, 19]),
    (40, [1, 50, 22, 23]),
    (17, [34, 70, 4, 4]),
    (96, [9, 31, 8, 5]),
    (64, [2, 100, 32, 32]),
    (130, [40, 129, 8, 8]),
    // By it in images of one tile and of two.
    (40, [35, 50, 4, 4]),
    (33, [3, 96, 3, 4]),
    (64, [2, 65, 4, 7]),
];

#[test]
fn matches_burn_for_awkward_shapes() {
    let device = Device::flex().autodiff();
    for kernel_width in [1, 3] {
        for (channels_out, shape) in SHAPES {
            let conv = conv([shape[1], channels_out], kernel_width, &device);
            let ours = ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
            let burns = burns(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
            let what = format!("{kernel_width}x{kernel_width}, {shape:?} to {channels_out}");
            assert_close(&ours, &burns, 1e-5, &what);
        }
    }
}

/// Of Winograd's algorithm the rounding is of interest: the judge computes in f64.
#[test]
fn many_channels_are_as_exact_as_a_plain_sum_in_f32() {
    let device = Device::flex().autodiff();
    for (channels_out, shape) in [(64, [2, 64, 32, 32]), (32, [8, 256, 16, 16]), (17, [9, 130, 7, 7])] {
        let conv = conv([shape[1], channels_out], 3, &device);
        let ours = ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        let in_f64 = |x: Tensor<4>| {
            let weight = conv.weight.val().cast(DType::F64);
            let bias = conv.bias.as_ref().map(|bias| bias.val().cast(DType::F64));
            module::conv2d(x.cast(DType::F64), weight, bias, options.clone()).cast(DType::F32)
        };
        let exact =
            run(shape, Input::Contiguous, Loss::Weighted, &device, &in_f64, &|grads| parameter_gradients(&conv, grads));
        assert_close(&ours, &exact, 5e-6, &format!("{shape:?} to {channels_out}"));
    }
}

#[test]
fn matches_burn_with_more_channels_than_one_block() {
    let device = Device::flex().autodiff();
    let conv = conv([300, 3], 1, &device);
    let shape = [3, 300, 5, 5];
    let ours = ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
    let burns = burns(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_close(&ours, &burns, 1e-5, "1x1 of 300 channels");
}

#[test]
fn matches_burn_for_views_and_unused_gradients() {
    let device = Device::flex().autodiff();
    for kernel_width in [1, 3] {
        for shape in [[3, 10, 5, 7], [2, 3, 20, 15]] {
            let conv = conv([shape[1], 6], kernel_width, &device);
            for input in [Input::Contiguous, Input::Transposed, Input::Expanded, Input::Constant] {
                for loss in [Loss::Weighted, Loss::WeightedTransposed, Loss::Sum] {
                    let ours = ours(&conv, shape, input, loss, &device);
                    let burns = burns(&conv, shape, input, loss, &device);
                    assert_close(&ours, &burns, 1e-5, &format!("{input:?}, {loss:?}, {shape:?}"));
                }
            }
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient() {
    let device = Device::flex().autodiff();
    let shape = [2, 3, 5, 5];
    let all = conv([3, 4], 3, &device);
    let names = |outcome: &Outcome| outcome.iter().map(|(name, _)| *name).collect::<Vec<_>>();

    let mut frozen = all.clone();
    frozen.weight = frozen.weight.set_require_grad(false);
    let outcome = ours(&frozen, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_eq!(names(&outcome), ["y", "dx", "dbias"]);
    let expected = burns(&frozen, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_close(&outcome, &expected, 1e-5, "frozen weight");

    frozen.bias = frozen.bias.map(|bias| bias.set_require_grad(false));
    let outcome = ours(&frozen, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_eq!(names(&outcome), ["y", "dx"]);
    assert_close(&outcome[..2].to_vec(), &expected[..2].to_vec(), 1e-5, "all frozen");
}

#[test]
fn a_convolution_may_have_no_bias() {
    let device = Device::flex().autodiff();
    let shape = [2, 3, 5, 5];
    let mut conv = conv([3, 4], 3, &device);
    conv.bias = None;
    let ours = ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
    let burns = burns(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_close(&ours, &burns, 1e-5, "no bias");
}

#[test]
fn same_padding_is_taken_too() {
    let device = Device::flex().autodiff();
    let shape = [2, 3, 6, 5];
    let mut conv = conv([3, 4], 3, &device);
    conv.padding = PaddingConfig2d::Same;
    let ours = ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
    let burns = burns(&conv, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_close(&ours, &burns, 1e-5, "padding Same");
}

/// Kernel, stride, padding of top, left, bottom and right.
const OTHERS: [([usize; 2], [usize; 2], [usize; 4]); 9] = [
    // What a U-Net goes down with.
    ([3, 3], [2, 2], [1, 1, 1, 1]),
    ([3, 3], [2, 2], [0, 0, 1, 1]),
    ([3, 3], [1, 1], [1, 0, 1, 1]),
    ([3, 3], [1, 1], [0, 0, 0, 0]),
    ([1, 1], [1, 1], [1, 1, 1, 1]),
    ([1, 1], [2, 3], [0, 0, 0, 0]),
    ([5, 5], [1, 1], [2, 2, 2, 2]),
    ([2, 4], [3, 2], [1, 2, 0, 3]),
    ([1, 7], [1, 1], [0, 3, 0, 3]),
];

#[test]
fn other_kernels_strides_and_paddings_match_burn() {
    let device = Device::flex().autodiff();
    for (kernel, stride, [top, left, bottom, right]) in OTHERS {
        for (channels_out, shape) in [(1, [1, 1, 3, 4]), (5, [3, 7, 9, 8]), (33, [2, 40, 16, 15]), (64, [9, 24, 8, 8])]
        {
            let mut conv = Conv2dConfig::new([shape[1], channels_out], kernel)
                .with_stride(stride)
                .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right))
                .init(&device);
            conv.weight = Param::from_tensor(noise(conv.weight.dims(), 21, &device) * 0.3);
            conv.bias = Some(Param::from_tensor(noise([channels_out], 22, &device)));
            for (input, loss) in [(Input::Contiguous, Loss::Weighted), (Input::Transposed, Loss::WeightedTransposed)] {
                let ours = ours(&conv, shape, input, loss, &device);
                let burns = burns(&conv, shape, input, loss, &device);
                assert_close(&ours, &burns, 1e-5, &format!("{kernel:?} by {stride:?}, {shape:?}, {input:?}"));
            }
        }
    }
}

#[test]
fn strides_depend_on_neither_threads_nor_batch() {
    let [plain, tracked] = [Device::flex(), Device::flex().autodiff()];
    for padding in [PaddingConfig2d::Explicit(1, 1, 1, 1), PaddingConfig2d::Explicit(0, 0, 1, 1)] {
        for (channels_out, shape) in [(9, [9, 5, 8, 8]), (40, [7, 70, 20, 12])] {
            let config = Conv2dConfig::new([shape[1], channels_out], [3, 3]).with_stride([2, 2]);
            let config = config.with_padding(padding.clone());
            let conv = config.init(&tracked);
            let what = format!("stride 2, {shape:?}");
            assert_independent_of_threads(&what, || ours(&conv, shape, Input::Contiguous, Loss::Weighted, &tracked));

            let conv = config.init(&plain);
            let x = noise(shape, 1, &plain);
            let last = |count: usize| {
                let y = conv2d(&conv, x.clone().narrow(0, shape[0] - count, count), Precision::F32);
                floats(y.narrow(0, count - 1, 1).to_data())
            };
            assert!(last(shape[0]) == last(1) && last(2) == last(1), "{what}");
        }
    }
}

#[test]
fn other_convolutions_take_the_fallback() {
    let device = Device::flex();
    let x = noise([2, 4, 8, 8], 1, &device);
    let three = Conv2dConfig::new([4, 4], [3, 3]);
    let symmetric = PaddingConfig2d::Explicit(1, 1, 1, 1);
    let convolutions = [
        three.clone().with_dilation([2, 2]).with_padding(symmetric.clone()),
        three.with_groups(2).with_padding(symmetric),
        Conv2dConfig::new([4, 4], [4, 4]).with_padding(PaddingConfig2d::Same),
    ];
    for config in convolutions {
        let conv = config.init(&device);
        let (y, expected) = (conv2d(&conv, x.clone(), Precision::F32), conv.forward(x.clone()));
        assert_eq!(y.to_data(), expected.to_data(), "{config:?}");
    }

    let mut wide = conv([4, 4], 3, &device);
    wide.weight = Param::from_tensor(wide.weight.val().cast(DType::F64));
    wide.bias = None;
    assert_eq!(conv2d(&wide, x.cast(DType::F64), Precision::F32).dtype(), DType::F64);
}

#[test]
fn works_with_gradient_checkpointing() {
    let shape = [3, 12, 5, 7];
    let chain = |device: &Device, ours: bool| {
        let norm: GroupNorm = GroupNormConfig::new(3, 12).init(device);
        let three = conv([12, 9], 3, device);
        let one = conv([9, 5], 1, device);
        let layer = |x: Tensor<4>| {
            let x = activation::silu(x);
            if ours {
                let x = norm_silu(&norm, x).swap_dims(2, 3);
                activation::relu(conv2d(&one, conv2d(&three, x, Precision::F32), Precision::F32))
            } else {
                let x = activation::silu(norm.forward(x)).swap_dims(2, 3);
                activation::relu(one.forward(three.forward(x)))
            }
        };
        run(shape, Input::Contiguous, Loss::Weighted, device, &layer, &|grads| {
            [parameter_gradients(&three, grads), parameter_gradients(&one, grads)].concat()
        })
    };
    let plain = Device::flex().autodiff();
    let checkpointing = Device::flex().autodiff().gradient_checkpointing();
    let expected = chain(&plain, false);
    assert_close(&chain(&plain, true), &expected, 1e-5, "a chain");
    assert_close(&chain(&checkpointing, true), &expected, 1e-5, "a chain, checkpointed");
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let device = Device::flex().autodiff();
    for kernel_width in [1, 3] {
        for shape in [[37, 40, 8, 8], [9, 20, 4, 4], [2, 24, 33, 31], [1, 70, 16, 16]] {
            let conv = conv([shape[1], 24], kernel_width, &device);
            assert_independent_of_threads(&format!("{shape:?}"), || {
                ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device)
            });
        }
    }
}

#[test]
fn beyond_the_border_is_zero_even_next_to_infinity() {
    let device = Device::flex();
    let conv = conv([1, 1], 3, &device);
    let mut values = vec![1.0; 2 * 16];
    values[15] = f32::INFINITY;
    let x = Tensor::<4>::from_data(TensorData::new(values, [2, 1, 4, 4]), &device);
    let y = floats(conv2d(&conv, x, Precision::F32).to_data());
    let finite: Vec<usize> = (0..32).filter(|&i| y[i].is_finite()).collect();
    // Only the neighbours of the last pixel of the first image see it.
    let expected: Vec<usize> = (0..32).filter(|i| ![10, 11, 14, 15].contains(i)).collect();
    assert_eq!(finite, expected);
}

/// The formula in f64 on the host, for finite differences.
fn loss_in_f64(dims: [usize; 5], x: &[f64], weight: &[f64], bias: &[f64], w: &[f64]) -> f64 {
    let [batch, channels_in, channels_out, height, width] = dims;
    let mut loss = 0.0;
    let mut outputs = w.iter();
    for image in 0..batch {
        for out in 0..channels_out {
            for row in 0..height {
                for column in 0..width {
                    let mut y = bias[out];
                    for channel in 0..channels_in {
                        for (tap, weight) in weight[(out * channels_in + channel) * 9..][..9].iter().enumerate() {
                            let (row, column) = (row + tap / 3, column + tap % 3);
                            if (1..=height).contains(&row) && (1..=width).contains(&column) {
                                let plane = (image * channels_in + channel) * height * width;
                                y += weight * x[plane + (row - 1) * width + column - 1];
                            }
                        }
                    }
                    loss += y * outputs.next().unwrap();
                }
            }
        }
    }
    loss
}

#[test]
fn matches_finite_differences_of_the_formula() {
    let device = Device::flex().autodiff();
    let shape = [2, 3, 4, 3];
    let conv = conv([3, 2], 3, &device);
    let ours = ours(&conv, shape, Input::Contiguous, Loss::Weighted, &device);

    let host = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    let inputs = [
        host(floats(noise(shape, 1, &device).to_data())),
        host(floats(conv.weight.val().to_data())),
        host(floats(conv.bias.as_ref().unwrap().val().to_data())),
    ];
    let w = host(floats(noise([2, 2, 4, 3], 2, &device).to_data()));
    let mut expected = vec![ours[0].clone()];
    for (input, name) in ["dx", "dweight", "dbias"].into_iter().enumerate() {
        let gradient = (0..inputs[input].len())
            .map(|i| {
                let moved = |step: f64| {
                    let mut inputs = inputs.clone();
                    inputs[input][i] += step;
                    loss_in_f64([2, 3, 2, 4, 3], &inputs[0], &inputs[1], &inputs[2], &w)
                };
                // The formula is linear in each input: any step is exact.
                (moved(0.5) - moved(-0.5)) as f32
            })
            .collect();
        expected.push((name, gradient));
    }
    assert_close(&ours, &expected, 1e-5, "finite differences");
}
