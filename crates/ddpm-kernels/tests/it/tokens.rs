//! Layers of transformers against Burn's operations in f64, which no kernel takes.
#![cfg(feature = "flex")]

use burn::tensor::{DType, Device, Tensor};
use ddpm_kernels::{Precision, add_gated, gated_gelu, tanh_gelu, token_attention, transposed};
use support::{Outcome, assert_close, assert_independent_of_threads, floats, noise};

use crate::support;

type Operation = dyn Fn(&[Tensor<3>]) -> Tensor<3> + Sync;

/// Output and gradients of an operation on noise of these shapes, in f64 or as it is.
fn outcome(shapes: &[[usize; 3]], dtype: DType, device: &Device, operation: &Operation) -> Outcome {
    let leaves: Vec<_> =
        (5..).zip(shapes).map(|(seed, shape)| (noise(*shape, seed, device) * 2.0).require_grad()).collect();
    let inputs: Vec<_> = leaves.iter().map(|x| x.clone().cast(dtype)).collect();
    let y = operation(&inputs).cast(DType::F32);
    let gradients = (y.clone() * noise(y.dims(), 4, device)).sum().backward();
    let mut outcome = vec![("y", floats(y.to_data()))];
    outcome.extend(leaves.iter().map(|x| ("gradient", floats(x.grad(&gradients).unwrap().to_data()))));
    outcome
}

fn assert_exact(shapes: &[[usize; 3]], tolerance: f32, operation: &Operation) {
    let device = Device::flex().autodiff();
    let expected = outcome(shapes, DType::F64, &device, operation);
    let what = format!("{shapes:?}");
    assert_close(&outcome(shapes, DType::F32, &device, operation), &expected, tolerance, &what);
    let saving = device.clone().gradient_checkpointing();
    assert_close(&outcome(shapes, DType::F32, &saving, operation), &expected, tolerance, &what);
    assert_independent_of_threads(&what, || outcome(shapes, DType::F32, &device, operation));
}

#[test]
fn attention_is_that_of_the_definition() {
    // Batch, queries, keys, channels, heads: one task and several, one part of the gradients and several.
    for [batch, queries, keys, channels, heads] in
        [[2, 3, 5, 6, 2], [1, 65, 77, 16, 1], [3, 130, 2, 12, 4], [1, 300, 300, 16, 2], [1, 140, 1100, 8, 2]]
    {
        let shapes = [[batch, queries, channels], [batch, keys, channels], [batch, keys, channels]];
        assert_exact(&shapes, 1e-5, &move |x| {
            token_attention([x[0].clone(), x[1].clone(), x[2].clone()], heads, None, Precision::F32)
        });
    }
}

#[test]
fn attention_in_bf16_is_close_and_a_bias_of_zeros_changes_nothing() {
    let shapes = [[2, 70, 32], [2, 24, 32], [2, 24, 32]];
    let device = Device::flex().autodiff();
    let attention = |precision, is_biased: bool| {
        move |x: &[Tensor<3>]| {
            let bias = is_biased.then(|| Tensor::zeros([1, 1, 1, 24], &x[0].device()));
            token_attention([x[0].clone(), x[1].clone(), x[2].clone()], 4, bias, precision)
        }
    };
    let expected = outcome(&shapes, DType::F64, &device, &attention(Precision::F32, false));
    let rounded = outcome(&shapes, DType::F32, &device, &attention(Precision::Bf16, false));
    assert_close(&rounded, &expected, 3e-2, "bf16");
    let biased = outcome(&shapes, DType::F32, &device, &attention(Precision::F32, true));
    assert_close(&biased, &expected, 1e-5, "bias");
}

#[test]
fn activations_are_those_of_the_definition() {
    for shape in [[1, 1, 2], [2, 3, 10], [2, 9, 4000]] {
        assert_exact(&[shape], 5e-5, &|x| gated_gelu(x[0].clone() * 2.0));
        assert_exact(&[shape], 5e-5, &|x| tanh_gelu(x[0].clone() * 2.0));
    }
    // Large values do not overflow.
    let large = Tensor::<1>::from_floats([-90.0, 90.0], &Device::flex()).reshape([1, 1, 2]);
    let found = floats(tanh_gelu(large.clone()).to_data());
    assert!(found[0].abs() < 1e-30 && found[1] == 90.0, "{found:?}");
    assert_eq!(floats(gated_gelu(large).to_data()), [-8100.0]);
}

#[test]
fn sums_with_gates_are_those_of_the_definition() {
    for [batch, tokens, channels] in [[1, 2, 3], [3, 5, 7], [2, 100, 384]] {
        let shapes = [[batch, tokens, channels], [batch, tokens, channels], [batch, 1, channels]];
        assert_exact(&shapes, 1e-5, &move |x| {
            add_gated(x[0].clone(), x[1].clone(), x[2].clone().reshape([batch, channels]))
        });
    }
}

#[test]
fn transposition_moves_every_value() {
    for shape in [[1, 1, 5], [2, 3, 40], [3, 17, 16], [1, 100, 33]] {
        assert_exact(&[shape], 0.0, &|x| transposed(x[0].clone()));
    }
}
