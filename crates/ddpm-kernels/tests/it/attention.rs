//! Attention and sums against Burn's operations.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device, Tensor, activation::softmax};
use ddpm_kernels::{Precision, add, attention, biased_attention};
use support::{Input, Loss, Outcome, assert_close, assert_independent_of_threads, floats, noise, run};

use crate::support;

/// Batch, heads, width, pixels: less than a vector, no multiple of one, several tasks.
const SHAPES: [[usize; 4]; 7] =
    [[1, 1, 1, 1], [2, 3, 5, 4], [3, 1, 8, 17], [1, 2, 3, 64], [2, 2, 16, 65], [1, 1, 33, 100], [2, 1, 32, 256]];

fn in_f32(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    attention(q, k, v, Precision::F32)
}

fn composed(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let width = q.dims()[2] as f64;
    softmax(q.transpose().matmul(k) / width.sqrt(), 3).matmul(v.transpose()).transpose()
}

/// Output and gradients of an operation of three tensors that all come from `x`.
fn outcome(
    shape: [usize; 4],
    input: Input,
    loss: Loss,
    device: &Device,
    operation: fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> Outcome {
    let others = [30, 31, 32].map(|seed| (noise(shape, seed, device) * 2.0).require_grad());
    let layer = |x: Tensor<4>| {
        let shape = x.dims();
        let [q, k, v] = others.clone().map(|other| x.clone() * other.reshape(shape));
        operation(q, k, v)
    };
    run(shape, input, loss, device, &layer, &|grads| {
        let names = ["dq", "dk", "dv"];
        names.into_iter().zip(&others).map(|(name, x)| (name, x.grad(grads).map(|g| g.to_data()))).collect()
    })
}

#[test]
fn matches_the_definition_with_gradients() {
    let device = Device::flex().autodiff();
    for shape in SHAPES {
        // With one pixel the scores change nothing, and their gradients are 0.
        if shape[3] == 1 {
            let [q, k, v] = [1, 2, 3].map(|seed| noise(shape, seed, &device));
            assert_eq!(floats(in_f32(q, k, v.clone()).to_data()), floats(v.to_data()));
            continue;
        }
        for loss in [Loss::Weighted, Loss::WeightedTransposed] {
            let ours = outcome(shape, Input::Contiguous, loss, &device, in_f32);
            let expected = outcome(shape, Input::Contiguous, loss, &device, composed);
            assert_close(&ours, &expected, 1e-5, &format!("{shape:?}, {loss:?}"));
        }
    }
}

#[test]
fn matches_the_definition_for_views_and_without_autodiff() {
    let device = Device::flex().autodiff();
    let shape = [2, 3, 20, 7];
    for input in [Input::Transposed, Input::Constant] {
        let ours = outcome(shape, input, Loss::Weighted, &device, in_f32);
        assert_close(&ours, &outcome(shape, input, Loss::Weighted, &device, composed), 1e-5, "views");
    }
    let device = Device::flex();
    let [q, k, v] = [1, 2, 3].map(|seed| noise::<4>([2, 20, 3, 7], seed, &device).swap_dims(1, 2));
    let ours = vec![("y", floats(in_f32(q.clone(), k.clone(), v.clone()).to_data()))];
    assert_close(&ours, &vec![("y", floats(composed(q, k, v).to_data()))], 1e-5, "no autodiff");
}

/// Batch, heads, width, queries, keys.
const CROSS_SHAPES: [[usize; 5]; 4] = [[2, 3, 5, 4, 7], [1, 2, 16, 130, 77], [3, 1, 8, 5, 2], [1, 1, 33, 9, 200]];

#[test]
fn keys_may_be_more_or_fewer_than_queries() {
    let device = Device::flex().autodiff();
    for [batch, heads, width, queries, keys] in CROSS_SHAPES {
        let sizes = [(queries, 5), (keys, 6), (keys, 7)];
        let run = |operation: fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>| {
            let inputs = sizes.map(|(pixels, seed)| noise([batch, heads, width, pixels], seed, &device).require_grad());
            let [q, k, v] = inputs.clone();
            let y = operation(q, k, v);
            assert_eq!(y.dims(), [batch, heads, width, queries]);
            let weights = noise(y.dims(), 8, &device);
            let grads = (y.clone() * weights).sum().backward();
            let mut outcome = vec![("y", floats(y.to_data()))];
            outcome.extend(inputs.iter().map(|x| ("gradient", floats(x.grad(&grads).unwrap().to_data()))));
            outcome
        };
        let expected = run(composed);
        assert_close(&run(in_f32), &expected, 1e-5, &format!("{queries} queries, {keys} keys"));
        let unbiased = |q: Tensor<4>, k: Tensor<4>, v: Tensor<4>| {
            let bias = Tensor::zeros([1, 1, 1, k.dims()[3]], &k.device());
            biased_attention(q, k, v, bias)
        };
        assert_close(&run(unbiased), &expected, 1e-5, "a bias of zeros");
    }
}

#[test]
fn a_bias_hides_keys() {
    let device = Device::flex();
    let [q, k, v] = [1, 2, 3].map(|seed| noise::<4>([1, 2, 4, 6], seed, &device));
    let bias = Tensor::<1>::from_floats([0.0, 0.0, 0.0, 0.0, -1e4, -1e4], &device).reshape([1, 1, 1, 6]);
    let hidden = biased_attention(q.clone(), k.clone(), v.clone(), bias);
    let expected = in_f32(q, k.narrow(3, 0, 4), v.narrow(3, 0, 4));
    assert_close(&vec![("y", floats(hidden.to_data()))], &vec![("y", floats(expected.to_data()))], 1e-6, "hidden");
}

#[test]
fn large_scores_do_not_overflow_and_nan_is_not_hidden() {
    let device = Device::flex();
    let [q, k, v] = [1, 2, 3].map(|seed| noise::<4>([1, 1, 33, 8], seed, &device));
    let ours = vec![("y", floats(in_f32(q.clone() * 300.0, k.clone(), v.clone()).to_data()))];
    let expected =
        composed((q.clone() * 300.0).cast(DType::F64), k.clone().cast(DType::F64), v.clone().cast(DType::F64));
    assert_close(&ours, &vec![("y", floats(expected.cast(DType::F32).to_data()))], 1e-5, "large scores");
    let y = in_f32(q * f32::NAN, k, v);
    assert!(floats(y.to_data()).iter().all(|value| value.is_nan()));
}

#[test]
fn works_with_gradient_checkpointing_and_any_number_of_threads() {
    let shape = [3, 2, 70, 16];
    let [plain, saving] = [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()];
    let expected = outcome(shape, Input::Contiguous, Loss::Weighted, &plain, in_f32);
    let found = outcome(shape, Input::Contiguous, Loss::Weighted, &saving, in_f32);
    assert_close(&found, &expected, 1e-6, "gradient checkpointing");
    assert_independent_of_threads("attention", || outcome(shape, Input::Contiguous, Loss::Weighted, &plain, in_f32));
}

#[test]
fn sums_are_burns_bit_for_bit() {
    let device = Device::flex().autodiff();
    let of_three = |q: Tensor<4>, k: Tensor<4>, v: Tensor<4>| add(add(q, k.clone()), add(k, v));
    let composed = |q: Tensor<4>, k: Tensor<4>, v: Tensor<4>| (q + k.clone()) + (k + v);
    for shape in [[1, 1, 1, 1], [2, 3, 4, 5], [2, 64, 20, 20]] {
        for input in [Input::Contiguous, Input::Transposed, Input::Expanded, Input::Constant] {
            let ours = outcome(shape, input, Loss::Weighted, &device, of_three);
            assert_eq!(ours, outcome(shape, input, Loss::Weighted, &device, composed), "{shape:?}, {input:?}");
        }
    }
    // What somebody else holds stays as it is.
    let a = noise::<2>([3, 4], 1, &Device::flex());
    let b = noise::<2>([3, 4], 2, &Device::flex());
    let before = [floats(a.to_data()), floats(b.to_data())];
    add(a.clone(), b.clone());
    assert_eq!([floats(a.to_data()), floats(b.to_data())], before);
}
