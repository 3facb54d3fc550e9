//! The fused normalisation against Burn's operations, finite differences and itself.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::module::Param;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData, activation};
use ddpm_kernels::{group_norm, norm_silu};
use support::{Input, Loss, Outcome, assert_close, assert_independent_of_threads, floats, noise, run};

use crate::support;

/// A normalisation whose scales and shifts are no round numbers.
fn norm(groups: usize, channels: usize, device: &Device) -> GroupNorm {
    let mut norm = GroupNormConfig::new(groups, channels).with_epsilon(1e-5).init(device);
    norm.gamma = Some(Param::from_tensor(noise([channels], 11, device) + 1.25));
    norm.beta = Some(Param::from_tensor(noise([channels], 12, device)));
    norm
}

fn parameter_gradients(norm: &GroupNorm, grads: &Gradients) -> Vec<(&'static str, Option<TensorData>)> {
    let gradient =
        |parameter: &Option<Param<Tensor<1>>>| parameter.as_ref().unwrap().val().grad(grads).map(|g| g.to_data());
    vec![("dgamma", gradient(&norm.gamma)), ("dbeta", gradient(&norm.beta))]
}

fn fused_silu(norm: &GroupNorm, shape: [usize; 4], input: Input, loss: Loss, device: &Device) -> Outcome {
    let layer = |x| norm_silu(norm, x);
    run(shape, input, loss, device, &layer, &|grads| parameter_gradients(norm, grads))
}

fn composed_silu(norm: &GroupNorm, shape: [usize; 4], input: Input, loss: Loss, device: &Device) -> Outcome {
    let layer = |x| activation::silu(norm.forward(x));
    run(shape, input, loss, device, &layer, &|grads| parameter_gradients(norm, grads))
}

/// Groups, and `[batch, channels, height, width]`: planes of every remainder, channels that no vector
/// width divides, one group, one channel a group, and groups that share a task.
const SHAPES: [(usize, [usize; 4]); 14] = [
    (1, [1, 4, 1, 1]),
    (2, [3, 6, 1, 1]),
    (3, [1, 9, 2, 1]),
    (2, [3, 10, 3, 2]),
    (5, [1, 5, 3, 3]),
    (1, [3, 7, 5, 5]),
    (4, [3, 12, 8, 8]),
    (8, [1, 24, 12, 12]),
    (3, [3, 33, 16, 16]),
    (1, [1, 3, 33, 33]),
    (2, [1, 6, 4, 33]),
    (32, [3, 64, 4, 4]),
    (8, [5, 64, 8, 8]),
    (4, [1, 4, 130, 129]),
];

#[test]
fn matches_burn_for_awkward_shapes() {
    let device = Device::flex().autodiff();
    for (groups, shape) in SHAPES {
        let norm = norm(groups, shape[1], &device);
        let what = format!("{groups} groups of {shape:?}");
        let loss = Loss::Weighted;
        let fused = fused_silu(&norm, shape, Input::Contiguous, loss, &device);
        let composed = composed_silu(&norm, shape, Input::Contiguous, loss, &device);
        assert_close(&fused, &composed, 1e-5, &format!("norm and SiLU, {what}"));

        let parameters = |grads: &Gradients| parameter_gradients(&norm, grads);
        let layer = |x| group_norm(&norm, x);
        let fused = run(shape, Input::Contiguous, loss, &device, &layer, &parameters);
        let layer = |x| norm.forward(x);
        let composed = run(shape, Input::Contiguous, loss, &device, &layer, &parameters);
        assert_close(&fused, &composed, 1e-5, &format!("norm, {what}"));
    }
}

#[test]
fn matches_burn_for_views_and_unused_gradients() {
    let device = Device::flex().autodiff();
    let shape = [3, 10, 5, 7];
    let norm = norm(2, 10, &device);
    for input in [Input::Contiguous, Input::Transposed, Input::Expanded, Input::Constant] {
        for loss in [Loss::Weighted, Loss::WeightedTransposed, Loss::Sum] {
            let fused = fused_silu(&norm, shape, input, loss, &device);
            let composed = composed_silu(&norm, shape, input, loss, &device);
            assert_close(&fused, &composed, 1e-5, &format!("{input:?}, {loss:?}"));
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient() {
    let device = Device::flex().autodiff();
    let shape = [1, 4, 3, 3];
    let mut norm = norm(2, 4, &device);
    norm.gamma = norm.gamma.map(|gamma| gamma.set_require_grad(false));
    let fused = fused_silu(&norm, shape, Input::Contiguous, Loss::Weighted, &device);
    let composed = composed_silu(&norm, shape, Input::Contiguous, Loss::Weighted, &device);
    assert_eq!(fused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["y", "dx", "dbeta"]);
    assert_close(&fused, &composed, 1e-5, "frozen scale");
}

#[test]
fn works_without_autodiff_and_for_any_rank() {
    let device = Device::flex();
    let norm = norm(2, 6, &device);
    let x = noise([3, 6, 11], 5, &device);
    let fused = vec![("y", floats(norm_silu(&norm, x.clone()).to_data()))];
    let composed = vec![("y", floats(activation::silu(norm.forward(x)).to_data()))];
    assert_close(&fused, &composed, 1e-5, "three dimensions");
}

#[test]
fn matches_burn_when_the_mean_is_far_from_zero() {
    let device = Device::flex();
    let norm = norm(2, 6, &device);
    let x = noise([2, 6, 8, 8], 5, &device) + 1000.0;
    let fused = vec![("y", floats(group_norm(&norm, x.clone()).to_data()))];
    // In f64, because Burn's f32 mean is not good enough to be the judge here.
    let wide = |t: Tensor<1>| t.cast(DType::F64);
    let mut exact = norm.clone();
    exact.gamma = Some(Param::from_tensor(wide(norm.gamma.as_ref().unwrap().val())));
    exact.beta = Some(Param::from_tensor(wide(norm.beta.as_ref().unwrap().val())));
    let y = exact.forward(x.cast(DType::F64)).cast(DType::F32);
    assert_close(&fused, &vec![("y", floats(y.to_data()))], 1e-4, "mean 1000");
}

#[test]
fn other_dtypes_and_no_scales_take_the_fallback() {
    let device = Device::flex();
    let norm = GroupNormConfig::new(2, 6).with_affine(false).init(&device);
    let x = noise([3, 6, 4, 4], 5, &device);
    let y = norm_silu(&norm, x.clone()).to_data();
    assert_eq!(y, activation::silu(norm.forward(x.clone())).to_data());
    let y = norm_silu(&norm, x.cast(DType::F64));
    assert_eq!(y.dtype(), DType::F64);
}

#[test]
fn works_with_gradient_checkpointing() {
    let shape = [3, 12, 5, 5];
    let outcomes = [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()].map(|device| {
        let first = norm(3, 12, &device);
        let second = norm(4, 12, &device);
        // Between two recomputed operations of Burn, and with an input that both use.
        let layer = |x: Tensor<4>| {
            let x = activation::silu(x);
            let y = norm_silu(&first, x.clone()) * 0.5 + x;
            activation::relu(group_norm(&second, y) + 0.1)
        };
        run(shape, Input::Contiguous, Loss::Weighted, &device, &layer, &|grads| parameter_gradients(&first, grads))
    });
    assert_close(&outcomes[1], &outcomes[0], 1e-6, "gradient checkpointing");
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let device = Device::flex().autodiff();
    for (groups, shape) in [(8, [7, 64, 8, 8]), (4, [3, 24, 33, 31])] {
        let norm = norm(groups, shape[1], &device);
        assert_independent_of_threads(&format!("{shape:?}"), || {
            fused_silu(&norm, shape, Input::Contiguous, Loss::Weighted, &device)
        });
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    let device = Device::flex();
    let norm = norm(2, 4, &device);
    let mut values = vec![0.5; 4 * 9];
    values[3] = f32::NAN;
    let x = Tensor::<4>::from_data(TensorData::new(values, [1, 4, 3, 3]), &device);
    let y = floats(norm_silu(&norm, x).to_data());
    assert!(y[..18].iter().all(|v| v.is_nan()));
    assert!(y[18..].iter().all(|v| v.is_finite()));
}

/// The formula in f64 on the host, for finite differences.
fn loss_in_f64(groups: usize, shape: [usize; 4], x: &[f64], gamma: &[f64], beta: &[f64], w: &[f64]) -> f64 {
    let [_, channels, height, width] = shape;
    let plane = height * width;
    let n = channels / groups * plane;
    let mut loss = 0.0;
    for (group, x) in x.chunks(n).enumerate() {
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
        for (i, v) in x.iter().enumerate() {
            let channel = (group * n + i) / plane % channels;
            let z = (v - mean) / (variance + 1e-5).sqrt() * gamma[channel] + beta[channel];
            loss += w[group * n + i] * z / (1.0 + (-z).exp());
        }
    }
    loss
}

#[test]
fn matches_finite_differences_of_the_formula() {
    let (groups, shape) = (2, [2, 6, 3, 5]);
    let device = Device::flex().autodiff();
    let norm = norm(groups, shape[1], &device);
    let fused = fused_silu(&norm, shape, Input::Contiguous, Loss::Weighted, &device);

    let host = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    let inputs = [
        host(floats(noise(shape, 1, &device).to_data())),
        host(floats(norm.gamma.as_ref().unwrap().val().to_data())),
        host(floats(norm.beta.as_ref().unwrap().val().to_data())),
    ];
    let w = host(floats(noise(shape, 2, &device).to_data()));
    let mut expected = vec![fused[0].clone()];
    for (input, name) in ["dx", "dgamma", "dbeta"].into_iter().enumerate() {
        let gradient = (0..inputs[input].len())
            .map(|i| {
                let moved = |step: f64| {
                    let mut inputs = inputs.clone();
                    inputs[input][i] += step;
                    loss_in_f64(groups, shape, &inputs[0], &inputs[1], &inputs[2], &w)
                };
                let h = 1e-5;
                ((moved(h) - moved(-h)) / (2.0 * h)) as f32
            })
            .collect();
        expected.push((name, gradient));
    }
    assert_close(&fused, &expected, 1e-5, "finite differences");
}
