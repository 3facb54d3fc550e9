//! Tests of the whole network.
#![allow(clippy::unwrap_used)]

use burn::module::{ModuleMapper, Param};
use burn::tensor::{Distribution, Int};

use super::*;
use crate::condition::Tokens;

fn small() -> DiTConfig {
    DiTConfig {
        in_channels: 2,
        out_channels: 4,
        sample_size: 8,
        hidden_size: 8,
        depth: 2,
        heads: 2,
        classes: 3,
        ..DiTConfig::default()
    }
}

/// A network whose zero-initialised layers are not zero, so that everything has an effect.
fn shaken(config: &DiTConfig, device: &Device) -> DiT {
    struct Shake;
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|x| {
                let noise = x.random_like(Distribution::Normal(0.0, 0.2));
                (x + noise).detach()
            })
        }
    }
    config.init(device).map(&mut Shake)
}

fn noise(size: [usize; 2], device: &Device) -> Tensor<4> {
    Tensor::random([2, 2, size[0], size[1]], Distribution::Normal(0.0, 1.0), device)
}

#[test]
fn a_new_network_predicts_zero_in_the_right_shape() {
    let device = Device::default();
    let network = small().init(&device);
    for size in [[8, 8], [4, 12]] {
        let t = Tensor::from_floats([3.0, 250.5], &device);
        let y = network.forward(noise(size, &device), t, &Condition::None);
        assert_eq!(y.dims(), [2, 4, size[0], size[1]]);
        assert_eq!(y.abs().max().into_scalar::<f32>(), 0.0);
    }
}

#[test]
fn no_condition_is_the_null_class_or_a_token_of_zeros() {
    let device = Device::default();
    let x = noise([8, 8], &device);
    let run = |network: &DiT, condition: &Condition| {
        network.forward(x.clone(), Tensor::from_floats([3.0, 250.5], &device), condition).into_data()
    };
    let network = shaken(&small(), &device);
    let class = |class: i64| Condition::Class(Tensor::<1, Int>::from_ints([class, class], &device));
    assert_eq!(run(&network, &Condition::None), run(&network, &class(3)));
    assert_ne!(run(&network, &Condition::None), run(&network, &class(0)));

    let network = shaken(&DiTConfig { classes: 0, token_width: 5, ..small() }, &device);
    let tokens = |states| Condition::Tokens(Tokens::new(states));
    assert_eq!(run(&network, &Condition::None), run(&network, &tokens(Tensor::zeros([2, 1, 5], &device))));
    assert_ne!(run(&network, &Condition::None), run(&network, &tokens(Tensor::ones([2, 3, 5], &device))));
}

/// A patch is a token: a network whose blocks do nothing moves no value from one to another.
#[test]
fn patches_stay_in_their_place() {
    let device = Device::default();
    let config = DiTConfig { depth: 1, hidden_size: 16, in_channels: 4, out_channels: 4, classes: 0, ..small() };
    let mut network = config.init(&device);
    // Of the normalized token only what the last projection takes is left.
    network.proj_out_2.weight = shaken(&config, &device).proj_out_2.weight;
    let x = Tensor::random([1, 4, 8, 8], Distribution::Normal(0.0, 1.0), &device);
    let t = || Tensor::from_floats([3.0], &device);
    let changed = x.clone().slice_assign([0..1, 0..4, 2..4, 6..8], Tensor::zeros([1, 4, 2, 2], &device));
    let difference = network.forward(x, t(), &Condition::None) - network.forward(changed, t(), &Condition::None);
    let here = difference.clone().slice([0..1, 0..4, 2..4, 6..8]).abs().sum().into_scalar::<f32>();
    assert!(here > 0.0 && difference.abs().sum().into_scalar::<f32>() == here);
}

#[test]
fn positions_of_another_grid_are_stretched() {
    let [native, wide] = [[4, 4], [4, 8]].map(|grid| position_table(8, grid, 4));
    assert_eq!(native.len(), 16 * 8);
    // Column 3 of 4 is column 6 of 8; the second half is about the row.
    assert_eq!(native[3 * 8..4 * 8], wide[6 * 8..7 * 8]);
    assert_eq!(native[8..12], [1f64.sin(), 0.01f64.sin(), 1f64.cos(), 0.01f64.cos()]);
    assert_eq!(native[12..16], [0.0, 0.0, 1.0, 1.0]);
}
