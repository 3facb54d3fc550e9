//! The kernels for GPUs against Burn's operations in f64 on flex. `BURN_DEVICE` says which GPU.
#![cfg(all(feature = "cube", feature = "flex"))]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support;

use std::io::Write;
use std::panic::catch_unwind;

use burn::module::Param;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use ddpm_kernels::weights::{AdamStep, adam, blend};
use ddpm_kernels::{Precision, attention, group_norm, norm_scale_shift_silu, norm_silu};
use support::{Input, Loss, Outcome, assert_close, noise};

/// Every value, relative to the largest one.
const TOLERANCE: f32 = 1e-4;

/// Past the test harness, which would swallow it.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The GPU, or nothing, with a word, where there is none: nothing was tested then.
fn gpu() -> Option<Device> {
    // What Burn fuses together with autotune is wrong (tracel-ai/burn#5257); programs switch it off in the same way.
    for name in burn_cubecl::fusion::BUILTIN_NAMES {
        // An error says that a device is open already, and thus that this was done.
        let _ = burn_cubecl::fusion::remove(name);
    }
    let found = catch_unwind(|| {
        let device = Device::default();
        let sum = Tensor::<1>::ones([2], &device).sum().into_scalar::<f32>();
        (sum == 2.0 && format!("{:?}", device.as_dispatch()).contains("Cube")).then_some(device)
    });
    let device = found.ok().flatten();
    if device.is_none() {
        say("SKIPPED: there is no GPU here, so that its kernels are not tested");
    }
    device
}

/// What is normalised, and what follows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Silu,
    ScaleShiftSilu,
}

const KINDS: [Kind; 3] = [Kind::Plain, Kind::Silu, Kind::ScaleShiftSilu];

impl Kind {
    fn fused(self, norm: &GroupNorm, x: Tensor<4>, scale_shift: Tensor<2>) -> Tensor<4> {
        match self {
            Self::Plain => group_norm(norm, x),
            Self::Silu => norm_silu(norm, x),
            Self::ScaleShiftSilu => norm_scale_shift_silu(norm, x, scale_shift),
        }
    }

    fn composed(self, norm: &GroupNorm, x: Tensor<4>, scale_shift: Tensor<2>) -> Tensor<4> {
        let [batch, channels, _, _] = x.dims();
        let h = norm.forward(x);
        match self {
            Self::Plain => h,
            Self::Silu => activation::silu(h),
            Self::ScaleShiftSilu => {
                let scale_shift = scale_shift.reshape([batch, 2 * channels, 1, 1]);
                let scale = scale_shift.clone().narrow(1, 0, channels);
                activation::silu(h * (scale + 1.0) + scale_shift.narrow(1, channels, channels))
            }
        }
    }
}

/// One normalisation: where, of what, and in which numbers.
#[derive(Clone, Copy)]
struct Case<'a> {
    device: &'a Device,
    groups: usize,
    shape: [usize; 4],
    input: Input,
    loss: Loss,
    dtype: DType,
    /// What is added to the input: large means make small variances hard.
    mean: f64,
}

impl<'a> Case<'a> {
    fn new(device: &'a Device, groups: usize, shape: [usize; 4]) -> Self {
        Self { device, groups, shape, input: Input::Contiguous, loss: Loss::Weighted, dtype: DType::F32, mean: 0.0 }
    }

    /// Output and gradients, of the kernels or of Burn's operations in f64.
    fn run(&self, kind: Kind, fused: bool) -> Outcome {
        let Self { device, groups, shape, input, loss, dtype, mean } = *self;
        let (here, exact) = (device.clone().autodiff(), Device::flex().autodiff());
        let device = if fused { &here } else { &exact };
        let of = |dtype: DType| if fused { dtype } else { DType::F64 };
        let [batch, channels, height, width] = shape;
        let leaf = match input {
            Input::Contiguous | Input::Constant => drawn(shape, 1, of(dtype), device),
            Input::Transposed => drawn([batch, channels, width, height], 1, of(dtype), device),
            Input::Expanded => drawn([1, channels, height, width], 1, of(dtype), device),
        };
        let leaf = if matches!(input, Input::Constant) { leaf } else { leaf.require_grad() };
        let x = match input {
            Input::Contiguous | Input::Constant => leaf.clone(),
            Input::Transposed => leaf.clone().swap_dims(2, 3),
            Input::Expanded => leaf.clone().expand(shape),
        };
        let x = x * 2.0 + mean;
        let mut norm = GroupNormConfig::new(groups, channels).with_epsilon(1e-5).init(device);
        let gamma = (drawn([channels], 11, of(DType::F32), device) + 1.25).require_grad();
        let beta = drawn([channels], 12, of(DType::F32), device).require_grad();
        norm.gamma = Some(Param::from_tensor(gamma.clone()));
        norm.beta = Some(Param::from_tensor(beta.clone()));
        let scale_shift = drawn([batch, 2 * channels], 13, of(dtype), device).require_grad();
        let y = match fused {
            true => kind.fused(&norm, x, scale_shift.clone()),
            false => kind.composed(&norm, x, scale_shift.clone()),
        };
        assert_eq!((y.dims(), y.dtype()), (shape, of(dtype)));
        let mut outcome = vec![("y", host(y.clone()))];
        let scalar = match loss {
            Loss::Weighted => (y * drawn(shape, 2, of(dtype), device)).sum(),
            Loss::WeightedTransposed => {
                (y.swap_dims(2, 3) * drawn([batch, channels, width, height], 3, of(dtype), device)).sum()
            }
            Loss::Sum => y.sum(),
        };
        let gradients = scalar.backward();
        match (input, leaf.grad(&gradients)) {
            (Input::Constant, gradient) => assert!(gradient.is_none()),
            (_, gradient) => outcome.push(("dx", host(gradient.unwrap()))),
        }
        outcome.push(("dgamma", host(gamma.grad(&gradients).unwrap())));
        outcome.push(("dbeta", host(beta.grad(&gradients).unwrap())));
        if kind == Kind::ScaleShiftSilu {
            outcome.push(("dscale_shift", host(scale_shift.grad(&gradients).unwrap())));
        }
        outcome
    }

    fn check(&self, kind: Kind, tolerance: f32) {
        let Self { groups, shape, input, loss, dtype, mean, .. } = *self;
        let what = format!("{kind:?} of {shape:?} in {groups} groups, {input:?}, {loss:?}, {dtype:?}, mean {mean}");
        assert_close(&self.run(kind, true), &self.run(kind, false), tolerance, &what);
    }
}

/// The same numbers on every device, rounded to `bf16`, which all dtypes can say.
fn drawn<const D: usize>(shape: [usize; D], seed: u64, dtype: DType, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = noise(shape, seed, &Device::flex()).into_data().try_to_vec().unwrap();
    let rounded: Vec<f32> = values.into_iter().map(|value| f32::from_bits(value.to_bits() & 0xffff_0000)).collect();
    Tensor::from_data(TensorData::new(rounded, shape), (device, dtype))
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// Groups, and `[batch, channels, height, width]`: planes of every remainder, groups of one channel and one of all, of
/// widths that are no power of two, a group larger than a cube, one with more channels than a cube has rows, single pixels.
const CASES: [(usize, [usize; 4]); 10] = [
    (1, [1, 1, 1, 3]),
    (2, [1, 4, 3, 5]),
    (3, [2, 9, 7, 7]),
    (5, [3, 5, 6, 6]),
    (1, [2, 6, 5, 2]),
    (4, [3, 24, 33, 31]),
    (32, [2, 64, 8, 8]),
    (2, [1, 70, 2, 2]),
    (1, [2, 40, 1, 1]),
    (2, [1, 4, 96, 100]),
];

#[test]
fn values_and_gradients_are_those_of_burn() {
    let Some(device) = gpu() else { return };
    for (groups, shape) in CASES {
        for kind in KINDS {
            Case::new(&device, groups, shape).check(kind, TOLERANCE);
        }
    }
}

#[test]
fn views_and_constants_are_taken_as_they_are() {
    let Some(device) = gpu() else { return };
    for (input, loss) in
        [(Input::Transposed, Loss::WeightedTransposed), (Input::Expanded, Loss::Sum), (Input::Constant, Loss::Weighted)]
    {
        for kind in [Kind::Silu, Kind::ScaleShiftSilu] {
            Case { input, loss, ..Case::new(&device, 3, [2, 6, 5, 4]) }.check(kind, TOLERANCE);
        }
    }
}

/// The mean of a million squares would say nothing of a variance of one.
#[test]
fn large_means_leave_the_variance_alone() {
    let Some(device) = gpu() else { return };
    Case { mean: 300.0, ..Case::new(&device, 2, [2, 8, 16, 16]) }.check(Kind::Silu, 10.0 * TOLERANCE);
}

/// Statistics and gradients of parameters are f32; what comes in and goes out is rounded.
#[test]
fn half_precision_is_rounded_at_the_ends_only() {
    let Some(device) = gpu() else { return };
    for (dtype, tolerance) in [(DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        let half = if dtype == DType::F16 { burn::tensor::FloatDType::F16 } else { burn::tensor::FloatDType::BF16 };
        if !device.supports_dtype(half) {
            say(&format!("SKIPPED: this GPU does not compute in {dtype:?}"));
            continue;
        }
        for kind in KINDS {
            Case { dtype, ..Case::new(&device, 4, [2, 12, 9, 8]) }.check(kind, tolerance);
        }
    }
}

/// Between operations of Burn, with an input that both use, and computed again in the backward pass.
#[test]
fn it_works_among_others_and_under_gradient_checkpointing() {
    let Some(gpu) = gpu() else { return };
    let run = |device: &Device, dtype: DType| {
        let x = drawn([3, 12, 5, 5], 1, dtype, device).require_grad();
        let mut norm = GroupNormConfig::new(3, 12).init(device);
        let gamma = (drawn([12], 2, dtype, device) + 1.25).require_grad();
        norm.gamma = Some(Param::from_tensor(gamma.clone()));
        norm.beta = Some(Param::from_tensor(drawn([12], 3, dtype, device)));
        let h = activation::silu(x.clone());
        let y = norm_silu(&norm, h.clone()) * 0.5 + h;
        let y = activation::relu(norm_scale_shift_silu(&norm, y, drawn([3, 24], 4, dtype, device)) + 0.1);
        let gradients = (y.clone() * drawn([3, 12, 5, 5], 5, dtype, device)).sum().backward();
        let gradient = |of: Option<Vec<f32>>| of.unwrap();
        vec![
            ("y", host(y)),
            ("dx", gradient(x.grad(&gradients).map(host))),
            ("dgamma", gradient(gamma.grad(&gradients).map(host))),
        ]
    };
    let expected = run(&Device::flex().autodiff(), DType::F64);
    let device = gpu.autodiff();
    assert_close(&run(&device, DType::F32), &expected, TOLERANCE, "a chain");
    assert_close(&run(&device.gradient_checkpointing(), DType::F32), &expected, TOLERANCE, "computed again");
}

/// Sums have one order, whichever cube is done first.
#[test]
fn a_gpu_repeats_itself_bit_for_bit() {
    let Some(device) = gpu() else { return };
    let run = || Case::new(&device, 4, [3, 24, 33, 31]).run(Kind::ScaleShiftSilu, true);
    let once = run();
    for (again, once) in run().into_iter().zip(once) {
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(again.1), bits(once.1), "{}", once.0);
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    let Some(device) = gpu() else { return };
    let norm = GroupNormConfig::new(2, 4).init(&device);
    let mut values = vec![0.5_f32; 4 * 9];
    values[3] = f32::NAN;
    let x = Tensor::<4>::from_data(TensorData::new(values, [1, 4, 3, 3]), &device);
    let y = host(norm_silu(&norm, x));
    assert!(y[..18].iter().all(|v| v.is_nan()));
    assert!(y[18..].iter().all(|v| v.is_finite()));
}

/// Without gradients, as in sampling. What Burn's autotune would choose there is wrong for some of these sizes.
#[test]
fn attention_without_gradients_is_that_of_burn_in_f64() {
    let Some(device) = gpu() else { return };
    let run = |[heads, width, pixels]: [usize; 3], device: &Device, dtype: DType| {
        let [q, k, v] = [1, 2, 3].map(|seed| drawn([2, heads, width, pixels], seed, dtype, device));
        vec![("y", host(attention(q, k, v, Precision::F32)))]
    };
    for case in [[1, 4, 4], [1, 8, 16], [2, 8, 16], [1, 16, 64], [4, 3, 49], [3, 5, 7], [2, 64, 256], [1, 40, 1]] {
        let expected = run(case, &Device::flex(), DType::F64);
        assert_close(&run(case, &device, DType::F32), &expected, TOLERANCE, &format!("heads, width, pixels {case:?}"));
    }
}

/// Five steps on one device, each on the results of the one before.
fn optimised(shape: [usize; 2], device: &Device, dtype: DType) -> Outcome {
    let zero = || Tensor::<2>::zeros(shape, (device, dtype));
    let (mut weight, mut moments) = (drawn(shape, 1, dtype, device), [zero(), zero()]);
    let mut average = drawn(shape, 2, dtype, device);
    let first = weight.clone();
    for time in 1..=5 {
        let step = AdamStep { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, rate: 1e-2, time };
        (weight, moments) = adam(weight, drawn(shape, 10 + time as u64, dtype, device), moments, &step);
        average = blend(average, weight.clone(), 0.75);
    }
    assert_eq!(host(first), host(drawn::<2>(shape, 1, dtype, device)), "a weight that somebody holds has changed");
    let [moment_1, moment_2] = moments;
    [("weight", weight), ("moment 1", moment_1), ("moment 2", moment_2), ("average", average)]
        .map(|(name, tensor)| (name, host(tensor)))
        .into()
}

#[test]
fn adam_and_the_average_are_those_of_burn() {
    let Some(device) = gpu() else { return };
    for shape in [[1, 1], [3, 7], [16, 64], [201, 257]] {
        let expected = optimised(shape, &Device::flex(), DType::F64);
        assert_close(&optimised(shape, &device, DType::F32), &expected, TOLERANCE, &format!("{shape:?}"));
    }
}

#[test]
fn adam_takes_views_as_they_are() {
    let Some(device) = gpu() else { return };
    let run = |device: &Device, dtype: DType| {
        let view = |seed| drawn([7, 5], seed, dtype, device).swap_dims(0, 1);
        let zero = || Tensor::<2>::zeros([5, 7], (device, dtype));
        let step = AdamStep { beta_1: 0.5, beta_2: 0.5, epsilon: 1e-3, rate: 0.1, time: 1 };
        let (weight, _) = adam(view(1), view(2), [zero(), zero()], &step);
        vec![("weight", host(weight)), ("average", host(blend(view(3), view(4), 0.25)))]
    };
    assert_close(&run(&device, DType::F32), &run(&Device::flex(), DType::F64), TOLERANCE, "views");
}
