//! The layers as operations of Burn.

use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Attention};
use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};
use crate::precision::Precision;

/// Whether a kernel takes this tensor.
pub(super) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    is_f32_on_flex(x) && !x.dims().contains(&0)
}

/// Whether these are queries, keys and values of one another that the kernel takes.
pub(super) fn takes_attention([q, k, v]: [&Tensor<3>; 3], heads: usize) -> bool {
    let ([batch, _, channels], [batch_k, _, channels_k]) = (q.dims(), k.dims());
    [q, k, v].into_iter().all(takes)
        && k.dims() == v.dims()
        && (batch, channels) == (batch_k, channels_k)
        && heads > 0
        && channels.is_multiple_of(heads)
}

pub(super) fn attention([q, k, v]: [Tensor<3>; 3], heads: usize, precision: Precision) -> Tensor<3> {
    let ([batch, queries, channels], [_, keys, _]) = (q.dims(), k.dims());
    let attention = Attention { operands: precision.into(), batch, queries, keys, channels, heads };
    apply([q, k, v].map(Tensor::into_dispatch).into(), attention)
}

pub(super) fn gated_gelu(x: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, channels] = x.dims();
    apply(vec![x.into_dispatch()], GatedGelu([batch, tokens, channels / 2]))
}

pub(super) fn tanh_gelu(x: Tensor<3>) -> Tensor<3> {
    let shape = x.dims();
    apply(vec![x.into_dispatch()], TanhGelu(shape))
}

pub(super) fn add_gated(x: Tensor<3>, y: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
    let shape = x.dims();
    apply(vec![x.into_dispatch(), y.into_dispatch(), gate.into_dispatch()], GatedSum(shape))
}

pub(super) fn transposed(x: Tensor<3>) -> Tensor<3> {
    let shape = x.dims();
    apply(vec![x.into_dispatch()], Transposed(shape))
}

impl Arithmetic for Attention {
    fn names(&self) -> [Operation; 2] {
        [Operation::Attention, Operation::AttentionBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.batch, self.queries, self.channels])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::attention(self, [inputs[0], inputs[1], inputs[2]])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::attention_backward(self, [inputs[0], inputs[1], inputs[2]], dy).map(Some).into()
    }
}

/// With the shape of its output.
#[derive(Debug)]
struct GatedGelu([usize; 3]);

impl Arithmetic for GatedGelu {
    fn names(&self) -> [Operation; 2] {
        [Operation::Gelu, Operation::GeluBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from(self.0)
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::gated_gelu(inputs[0], self.0[2])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        vec![Some(kernel::gated_gelu_backward(inputs[0], dy, self.0[2]))]
    }
}

#[derive(Debug)]
struct TanhGelu([usize; 3]);

impl Arithmetic for TanhGelu {
    fn names(&self) -> [Operation; 2] {
        [Operation::Gelu, Operation::GeluBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from(self.0)
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::tanh_gelu(inputs[0])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        vec![Some(kernel::tanh_gelu_backward(inputs[0], dy))]
    }
}

#[derive(Debug)]
struct GatedSum([usize; 3]);

impl Arithmetic for GatedSum {
    fn names(&self) -> [Operation; 2] {
        [Operation::Residual, Operation::ResidualBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from(self.0)
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::add_gated(self.0, [inputs[0], inputs[1], inputs[2]])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let [dy_gated, dgate] = kernel::add_gated_backward(self.0, inputs[1], inputs[2], dy);
        vec![Some(dy.to_vec()), Some(dy_gated), Some(dgate)]
    }
}

/// With the shape of its input.
#[derive(Debug)]
struct Transposed([usize; 3]);

impl Arithmetic for Transposed {
    fn names(&self) -> [Operation; 2] {
        [Operation::Transpose; 2]
    }

    fn shape(&self) -> Shape {
        let [batch, rows, columns] = self.0;
        Shape::from([batch, columns, rows])
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let [_, rows, columns] = self.0;
        kernel::transposed(inputs[0], rows, columns)
    }

    fn backward(&self, _: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let [_, rows, columns] = self.0;
        vec![Some(kernel::transposed(dy, columns, rows))]
    }
}
