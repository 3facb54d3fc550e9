//! The steps over all weights against Burn's optimiser and operations.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::weights::{AdamStep, adam, blend, scale, sum_of_squares};
use support::{assert_independent_of_threads, floats, noise};

use crate::support;

/// Less than a vector, more than one, several tasks.
const SHAPES: [[usize; 2]; 4] = [[1, 1], [3, 7], [17, 33], [201, 257]];

fn bits(x: Tensor<2>) -> Vec<u32> {
    floats(x.to_data()).into_iter().map(f32::to_bits).collect()
}

#[test]
fn adam_is_burns_adam_bit_for_bit() {
    let device = Device::flex();
    for shape in SHAPES {
        let mut linear: Linear = LinearConfig::new(shape[0], shape[1]).with_bias(false).init(&device);
        linear.weight = Param::from_tensor(noise(shape, 1, &device));
        let mut linear = linear.train();
        let mut burns = AdamConfig::new().with_beta_1(0.9).with_beta_2(0.999).with_epsilon(1e-8).init();
        let mut weight = noise(shape, 1, &device);
        let mut moments = [Tensor::zeros(shape, &device), Tensor::zeros(shape, &device)];
        for time in 1..=5 {
            let gradient = noise(shape, 10 + time as u64, &device);
            let mut grads = GradientsParams::new();
            grads.register(linear.weight.id, gradient.clone());
            linear = burns.step(1e-3, linear, grads);
            let step = AdamStep { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, rate: 1e-3, time };
            let shared = weight.clone();
            let before = bits(shared.clone());
            (weight, moments) = adam(weight, gradient, moments, &step);
            assert_eq!(bits(weight.clone()), bits(linear.weight.val().inner()), "{shape:?}, step {time}");
            assert_eq!(bits(shared), before, "the old weight, which somebody holds, has changed");
        }
    }
}

#[test]
fn views_are_taken_as_they_are() {
    let device = Device::flex();
    let step = AdamStep { beta_1: 0.5, beta_2: 0.5, epsilon: 1e-3, rate: 0.1, time: 1 };
    let x = || noise([7, 5], 1, &device);
    let plain = || x().swap_dims(0, 1) * 1.0;
    let zero = || Tensor::zeros([5, 7], &device);
    let (from_view, _) = adam(plain(), x().swap_dims(0, 1), [zero(), zero()], &step);
    let (expected, _) = adam(plain(), plain(), [zero(), zero()], &step);
    assert_eq!(bits(from_view), bits(expected));
    let part = noise::<2>([9, 5], 3, &device).slice([2..6, 0..5]);
    assert_eq!(bits(scale(part.clone(), 0.5)), bits(part.clone() * 0.5));
    assert_eq!(bits(blend(part.clone(), part.clone() * 1.0, 0.25)), bits(part.clone() * 0.25 + part * 0.75));
}

#[test]
fn averages_and_multiples_are_burns_bit_for_bit() {
    let device = Device::flex();
    for shape in SHAPES {
        let (average, weight) = (noise(shape, 1, &device), noise(shape, 2, &device));
        let expected = bits(average.clone() * 0.9993 + weight.clone() * (1.0 - 0.9993));
        assert_eq!(bits(blend(average, weight.clone(), 0.9993)), expected);
        assert_eq!(bits(scale(weight.clone(), 0.37)), bits(weight * 0.37));
    }
}

#[test]
fn squares_are_summed_as_exactly_as_f32_can_say() {
    let device = Device::flex();
    for shape in SHAPES {
        let x = noise(shape, 4, &device);
        let exact: f64 = floats(x.to_data()).into_iter().map(|v| f64::from(v) * f64::from(v)).sum();
        let found = f64::from(sum_of_squares(x).into_scalar::<f32>());
        assert!((found / exact - 1.0).abs() < 1e-6, "{found} instead of {exact}");
    }
    assert_independent_of_threads("sum of squares", || {
        vec![("sum", floats(sum_of_squares(noise([300, 301], 4, &device)).to_data()))]
    });
}
