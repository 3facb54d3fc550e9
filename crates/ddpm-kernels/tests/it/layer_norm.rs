//! Layer normalisation against Burn's operations in f64, which no kernel takes.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::module::Param;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{DType, Device, Tensor};
use ddpm_kernels::{layer_norm, modulated_layer_norm};
use support::{Outcome, assert_close, assert_independent_of_threads, floats, noise};

use crate::support;

const EPSILON: f64 = 1e-5;
/// Batch, tokens, channels: less than a vector, no multiple of one, several tasks.
const SHAPES: [[usize; 3]; 4] = [[1, 2, 3], [2, 5, 17], [3, 40, 64], [2, 130, 320]];

/// Output and gradients of an operation of `[batch, tokens, channels]` and of two parameters of a shape.
fn outcome<const D: usize>(
    shape: [usize; 3],
    of_parameters: [usize; D],
    dtype: DType,
    device: &Device,
    operation: impl Fn(Tensor<3>, Tensor<D>, Tensor<D>) -> Tensor<3>,
) -> Outcome {
    let x = (noise::<3>(shape, 1, device) * 2.0 + 3.0).cast(dtype).detach().require_grad();
    let [a, b] = [2, 3].map(|seed| noise::<D>(of_parameters, seed, device).cast(dtype).detach().require_grad());
    // As in a residual block: the input goes on next to the normalization, and the gradient is a view.
    let y = operation(x.clone().swap_dims(0, 1).swap_dims(0, 1), a.clone(), b.clone()) + x.clone();
    let weights = noise::<3>([shape[0], shape[2], shape[1]], 4, device).cast(dtype);
    let grads = (y.clone().swap_dims(1, 2) * weights).sum().backward();
    let read = |x: Tensor<3>| floats(x.cast(DType::F32).to_data());
    let mut outcome = vec![("y", read(y)), ("dx", read(x.grad(&grads).unwrap()))];
    for (name, parameter) in [("d scale", a), ("d shift", b)] {
        outcome.push((name, floats(parameter.grad(&grads).unwrap().cast(DType::F32).to_data())));
    }
    outcome
}

fn with_weights(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>) -> Tensor<3> {
    let channels = x.dims()[2];
    let mut norm: LayerNorm = LayerNormConfig::new(channels).with_epsilon(EPSILON).init(&x.device());
    norm.gamma = Param::initialized(norm.gamma.id, gamma);
    norm.beta = norm.beta.map(|drawn| Param::initialized(drawn.id, beta));
    layer_norm(&norm, EPSILON, x)
}

fn modulated(x: Tensor<3>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<3> {
    modulated_layer_norm(x, scale, shift, EPSILON)
}

#[test]
fn matches_the_definition_with_gradients() {
    for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
        for shape @ [batch, _, channels] in SHAPES {
            let what = format!("{shape:?}");
            let of = |dtype| outcome(shape, [channels], dtype, &device, with_weights);
            assert_close(&of(DType::F32), &of(DType::F64), 1e-5, &what);
            let of = |dtype| outcome(shape, [batch, channels], dtype, &device, modulated);
            assert_close(&of(DType::F32), &of(DType::F64), 1e-5, &what);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let device = Device::flex().autodiff();
    let shape @ [batch, _, channels] = SHAPES[3];
    assert_independent_of_threads("layer norm", || outcome(shape, [channels], DType::F32, &device, with_weights));
    assert_independent_of_threads("modulated", || outcome(shape, [batch, channels], DType::F32, &device, modulated));
}
