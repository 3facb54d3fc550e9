//! Joining and shifting channels against Burn's operations.
#![cfg(feature = "flex")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, concat, group_norm, norm_silu, shift};
use support::{Input, Loss, assert_close, floats, noise, run};

use crate::support;

const SHAPES: [[usize; 4]; 5] = [[1, 1, 1, 1], [3, 5, 2, 7], [2, 33, 8, 8], [1, 9, 17, 3], [5, 64, 16, 16]];

#[test]
fn joined_channels_and_their_gradients_are_burns() {
    let device = Device::flex().autodiff();
    for shape in SHAPES {
        let [batch, channels, height, width] = shape;
        for input in [Input::Contiguous, Input::Transposed, Input::Expanded, Input::Constant] {
            for loss in [Loss::Weighted, Loss::WeightedTransposed] {
                let outcomes = [concat, |a, b| Tensor::cat(vec![a, b], 1)].map(|join: fn(_, _) -> _| {
                    let other = noise([batch, channels + 2, height, width], 7, &device).require_grad();
                    // As in the network: the same tensor goes on beside the way that it is joined in.
                    let layer = |x: Tensor<4>| {
                        let other = other.clone().reshape([batch, channels + 2, x.dims()[2], x.dims()[3]]);
                        join(join(x.clone() * 2.0, other), x)
                    };
                    let gradient = |grads: &_| vec![("d_other", other.grad(grads).map(|g| g.to_data()))];
                    run(shape, input, loss, &device, &layer, &gradient)
                });
                assert_eq!(outcomes[0], outcomes[1], "{shape:?}, {input:?}, {loss:?}");
            }
        }
    }
}

#[test]
fn shifted_channels_and_their_gradients_are_burns() {
    let device = Device::flex().autodiff();
    for shape in SHAPES {
        let [batch, channels, _, _] = shape;
        for input in [Input::Contiguous, Input::Transposed, Input::Expanded, Input::Constant] {
            for loss in [Loss::Weighted, Loss::WeightedTransposed, Loss::Sum] {
                let burns = |x: Tensor<4>, by: Tensor<2>| x + by.reshape([batch, channels, 1, 1]);
                let outcomes = [&shift as &(dyn Fn(_, _) -> _ + Sync), &burns].map(|shift| {
                    let by = noise([batch, channels], 8, &device).require_grad();
                    let layer = |x: Tensor<4>| shift(x, by.clone());
                    let gradient = |grads: &_| vec![("d_by", by.grad(grads).map(|g| g.to_data()))];
                    run(shape, input, loss, &device, &layer, &gradient)
                });
                assert_close(&outcomes[0], &outcomes[1], 1e-5, &format!("{shape:?}, {input:?}, {loss:?}"));
            }
        }
    }
}

#[test]
fn a_tensor_that_somebody_else_holds_is_not_shifted() {
    let device = Device::flex();
    let x = noise([2, 3, 4, 5], 1, &device);
    let before = floats(x.to_data());
    shift(x.clone(), noise([2, 3], 2, &device));
    assert_eq!(floats(x.to_data()), before);
}

#[test]
fn gradient_checkpointing_computes_the_same_again() {
    let shape = [3, 6, 5, 7];
    let outcomes = [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()].map(|device| {
        let norm: GroupNorm = GroupNormConfig::new(2, 6).init(&device);
        let wide: GroupNorm = GroupNormConfig::new(3, 12).init(&device);
        let by = noise([3, 6], 8, &device).require_grad();
        let layer = |x: Tensor<4>| {
            let h = shift(norm_silu(&norm, x.clone()), by.clone());
            let h = add(group_norm(&norm, h), x.clone());
            norm_silu(&wide, concat(h.clone(), add(h, x)))
        };
        let gradient = |grads: &_| vec![("d_by", by.grad(grads).map(|g| g.to_data()))];
        run(shape, Input::Contiguous, Loss::Weighted, &device, &layer, &gradient)
    });
    assert_eq!(outcomes[1], outcomes[0]);
}
