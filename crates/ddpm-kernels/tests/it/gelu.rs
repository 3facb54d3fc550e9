//! GELU against Burn's operations in f64, which no kernel takes.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_kernels::gelu;
use support::{Input, Loss, assert_close, run};

use crate::support;

/// In more than one task of the kernel.
const COUNT: usize = 40_001;

/// Values and slopes from -10 to 10.
fn outcome(dtype: DType, device: &Device) -> [Vec<f64>; 2] {
    let x: Vec<f64> = (0..COUNT).map(|i| f64::from(20.0 * i as f32 / (COUNT - 1) as f32 - 10.0)).collect();
    let x = Tensor::<1>::from_data(TensorData::new(x, [COUNT]), (device, dtype)).require_grad();
    let y = gelu(x.clone());
    let slope = x.grad(&y.clone().sum().backward()).unwrap();
    [y, slope].map(|tensor| tensor.into_data().iter::<f64>().collect())
}

#[test]
fn values_and_slopes_are_exact() {
    for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
        let (found, wanted) = (outcome(DType::F32, &device), outcome(DType::F64, &device));
        for (found, wanted) in found.iter().zip(&wanted) {
            for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                // The error function is off by 5e-7 at most, and multiplied by half of x.
                let x = 20.0 * i as f64 / (COUNT - 1) as f64 - 10.0;
                let allowed = 3e-7 * (1.0 + x.abs());
                assert!((found - wanted).abs() <= allowed, "at {x}: {found} instead of {wanted}");
            }
        }
    }
}

#[test]
fn views_are_taken_as_they_are() {
    let device = Device::flex().autodiff();
    for input in [Input::Contiguous, Input::Transposed, Input::Expanded] {
        for loss in [Loss::Weighted, Loss::WeightedTransposed, Loss::Sum] {
            let outcomes = [gelu, burn::tensor::activation::gelu].map(|gelu: fn(Tensor<4>) -> Tensor<4>| {
                // As in a residual block: the input goes on next to the activation.
                let layer = |x: Tensor<4>| gelu(x.clone()) + x;
                run([3, 5, 2, 7], input, loss, &device, &layer, &|_| Vec::new())
            });
            assert_close(&outcomes[0], &outcomes[1], 1e-5, &format!("{input:?}, {loss:?}"));
        }
    }
}
