//! A whole U-Net by the kernels in f32 against Burn's operations in f64, which no kernel takes: values and gradients.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use ddpm_model::condition::Condition;
use ddpm_model::unet::{Resampling, TimeShift, UNet, UNetConfig};
use ddpm_testing::gradients::{Matrices, gradients_by_path};

/// The same weights in f64.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(DType::F64).detach().require_grad(), mapper)
    }
}

/// Weights that are nowhere zero, so that every gradient is tested.
struct Randomise;

impl ModuleMapper for Randomise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let noise = value.random_like(Distribution::Normal(0.0, 0.1));
        Param::from_mapped_value(id, (value + noise).detach().require_grad(), mapper)
    }
}

fn values(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

/// The prediction, and the gradients of a weighted sum of it.
fn outcome(net: &UNet, x: Tensor<4>, t: Tensor<1>, weights: Tensor<4>) -> Vec<(String, Vec<f64>)> {
    let x = x.detach().require_grad();
    let y = net.forward(x.clone(), t, &Condition::None);
    let prediction = values(y.to_data());
    let gradients = (y * weights).sum().backward();
    let of_parameters = gradients_by_path(net, &gradients, Matrices::InOut);
    let input = values(x.grad(&gradients).unwrap().into_data());
    [vec![("prediction".into(), prediction), ("input".into(), input)], of_parameters].concat()
}

#[test]
fn kernels_give_what_the_definition_gives() {
    for (time_shift, resampling) in
        [(TimeShift::Additive, Resampling::Conv), (TimeShift::ScaleShift, Resampling::Residual)]
    {
        let config = UNetConfig {
            base_channels: 32,
            multipliers: vec![1.0, 1.5],
            blocks_per_level: 1,
            attention_resolutions: vec![8],
            norm_groups: 8,
            dropout: 0.0,
            sample_size: 16,
            time_shift,
            resampling,
            ..UNetConfig::cifar10()
        };
        let device = Device::flex().autodiff();
        device.seed(7);
        let net = config.init(&device).map(&mut Randomise);
        let wide = net.clone().map(&mut Wide);
        let normal = Distribution::Normal(0.0, 1.0);
        let [x, weights] = [0, 1].map(|_| Tensor::<4>::random([3, 3, 16, 16], normal, &device));
        let t = Tensor::<1>::from_floats([3.0, 500.0, 999.0], &device);

        let found = outcome(&net, x.clone(), t.clone(), weights.clone());
        let cast = |x: Tensor<4>| x.cast(DType::F64);
        let expected = outcome(&wide, cast(x), t.cast(DType::F64), cast(weights));
        assert_eq!(found.len(), expected.len());
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            // A shift in front of a normalisation or a softmax has no gradient but for rounding.
            let scale = largest.max(1e-2);
            for (found, expected) in found.iter().zip(expected) {
                let error = (found - expected).abs() / scale;
                assert!(error < 1e-4, "{name}, {time_shift:?}: {found}, not {expected}: off by {error:e}");
            }
        }
    }
}
