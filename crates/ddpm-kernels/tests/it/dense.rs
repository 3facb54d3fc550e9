//! Dense layers against Burn's.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use ddpm_kernels::{Precision, dense, dense_channels};
use support::{Input, Loss, Outcome, assert_close, assert_independent_of_threads, floats, noise, run};

use crate::support;

/// Outputs and `[batch, inputs, height, width]`.
const SHAPES: [(usize, [usize; 4]); 9] = [
    (1, [1, 1, 1, 1]),
    (5, [3, 2, 1, 1]),
    (7, [1, 3, 4, 5]),
    (33, [2, 17, 3, 7]),
    (16, [3, 32, 16, 16]),
    (130, [9, 65, 1, 1]),
    (3, [70, 300, 1, 2]),
    (96, [2, 64, 17, 19]),
    (600, [3, 520, 2, 2]),
];

fn linear([inputs, outputs]: [usize; 2], device: &Device) -> Linear {
    let mut linear = LinearConfig::new(inputs, outputs).init(device);
    linear.weight = Param::from_tensor(noise([inputs, outputs], 21, device) * 0.3);
    linear.bias = Some(Param::from_tensor(noise([outputs], 22, device)));
    linear
}

fn parameter_gradients(linear: &Linear, grads: &Gradients) -> Vec<(&'static str, Option<TensorData>)> {
    let bias = linear.bias.as_ref().and_then(|bias| bias.val().grad(grads));
    vec![("dweight", linear.weight.val().grad(grads).map(|g| g.to_data())), ("dbias", bias.map(|g| g.to_data()))]
}

/// The layer of the channels, by Burn.
fn composed(linear: &Linear, x: Tensor<4>) -> Tensor<4> {
    linear.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

/// The layer of the last dimension of the same tensor.
fn last(linear: &Linear, x: Tensor<4>, layer: impl Fn(&Linear, Tensor<3>) -> Tensor<3>) -> Tensor<4> {
    let [batch, inputs, height, width] = x.dims();
    let x = x.permute([0, 2, 3, 1]).reshape([batch, height * width, inputs]);
    let y = layer(linear, x);
    let outputs = y.dims()[2];
    y.reshape([batch, height, width, outputs]).permute([0, 3, 1, 2])
}

type Layer = fn(&Linear, Tensor<4>) -> Tensor<4>;

const OURS: [(&str, Layer); 2] = [
    ("channels", |linear, x| dense_channels(linear, x, Precision::F32)),
    ("last", |linear, x| last(linear, x, |linear, x| dense(linear, x, Precision::F32))),
];

fn outcome(layer: Layer, linear: &Linear, shape: [usize; 4], input: Input, loss: Loss, device: &Device) -> Outcome {
    run(shape, input, loss, device, &|x| layer(linear, x), &|grads| parameter_gradients(linear, grads))
}

#[test]
fn matches_burn_for_awkward_shapes() {
    let device = Device::flex().autodiff();
    for (outputs, shape) in SHAPES {
        let linear = linear([shape[1], outputs], &device);
        for (input, loss) in [(Input::Contiguous, Loss::Weighted), (Input::Expanded, Loss::WeightedTransposed)] {
            let expected = outcome(composed, &linear, shape, input, loss, &device);
            for (name, layer) in OURS {
                let ours = outcome(layer, &linear, shape, input, loss, &device);
                assert_close(&ours, &expected, 1e-5, &format!("{name}, {shape:?} to {outputs}, {input:?}"));
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let device = Device::flex();
    // And of so many inputs that they are summed in parts.
    let sizes = SHAPES.map(|(outputs, [rows, inputs, ..])| [rows, inputs, outputs]).into_iter();
    for [rows, inputs, outputs] in sizes.chain([[130, 1540, 600]]) {
        let linear = linear([inputs, outputs], &device);
        let x = noise([rows, inputs], 1, &device);
        for precision in [Precision::F32, Precision::Bf16] {
            let of_last = |count: usize| {
                let y = dense(&linear, x.clone().narrow(0, rows - count, count), precision);
                floats(y.narrow(0, count - 1, 1).to_data())
            };
            let among_all = of_last(rows);
            for count in [1, 2, 8, 40].into_iter().filter(|count| *count < rows) {
                assert!(
                    of_last(count) == among_all,
                    "{rows} rows of {inputs} to {outputs}, {count} alone, {precision:?}"
                );
            }
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_a_bias_may_be_missing() {
    let device = Device::flex().autodiff();
    let shape = [2, 6, 3, 5];
    for (name, layer) in OURS {
        let mut linear = linear([6, 7], &device);
        linear.weight = linear.weight.set_require_grad(false);
        let ours = outcome(layer, &linear, shape, Input::Contiguous, Loss::Weighted, &device);
        assert_eq!(ours.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["y", "dx", "dbias"]);
        linear.bias = None;
        let ours = outcome(layer, &linear, shape, Input::Contiguous, Loss::Weighted, &device);
        let expected = outcome(composed, &linear, shape, Input::Contiguous, Loss::Weighted, &device);
        assert_close(&ours, &expected, 1e-5, name);
    }
}

#[test]
fn works_with_gradient_checkpointing_and_any_number_of_threads() {
    let [plain, saving] = [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()];
    for (name, layer) in OURS {
        let of = |device: &Device| {
            let linear = linear([40, 33], device);
            outcome(layer, &linear, [5, 40, 9, 11], Input::Contiguous, Loss::Weighted, device)
        };
        assert_eq!(of(&saving), of(&plain), "{name}");
        assert_independent_of_threads(name, || of(&plain));
    }
}

#[test]
fn other_dtypes_go_to_burn() {
    let device = Device::flex();
    let mut linear = linear([3, 4], &device);
    linear.weight = Param::from_tensor(linear.weight.val().cast(DType::F64));
    linear.bias = None;
    let y = dense(&linear, noise::<2>([2, 3], 1, &device).cast(DType::F64), Precision::F32);
    assert_eq!(y.dtype(), DType::F64);
}
