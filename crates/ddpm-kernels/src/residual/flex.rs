//! The parts of a layer as operations of Burn.

use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Gated, Shifted, Sum};
use super::{DenseWeights, Gate};
use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};

pub(super) fn dense_sum<const D: usize>(terms: Vec<(Tensor<D>, Tensor<3>)>, bias: Tensor<1>) -> Option<Tensor<D>> {
    let mut shape = terms[0].0.shape();
    let outputs = bias.dims()[0];
    let rows = shape.num_elements() / shape[D - 1].max(1);
    if !terms.iter().all(|(x, weight)| is_f32_on_flex(x) && is_f32_on_flex(weight)) || rows * outputs == 0 {
        return None;
    }
    shape[D - 1] = outputs;
    let sum = Sum { rows, outputs, inputs: terms.iter().map(|(x, _)| x.dims()[D - 1]).collect() };
    if !terms.iter().zip(&sum.inputs).all(|((x, weight), &inputs)| {
        weight.dims() == [outputs, inputs, 1] && x.shape().num_elements() == rows * inputs && inputs > 0
    }) {
        return None;
    }
    let mut inputs: Vec<_> =
        terms.into_iter().flat_map(|(x, weight)| [x.into_dispatch(), weight.into_dispatch()]).collect();
    inputs.push(bias.into_dispatch());
    Some(apply(inputs, DenseSum { sum, shape }))
}

pub(super) fn shifted_state(carried: Tensor<3>, shift: Tensor<2>) -> Option<Tensor<3>> {
    let [batch, places, carried_width] = carried.dims();
    let [_, state] = shift.dims();
    if !is_f32_on_flex(&carried) || !is_f32_on_flex(&shift) || batch * places * state == 0 || state > carried_width {
        return None;
    }
    let shifted = Shifted { batch, places, state, carried: carried_width };
    Some(apply(vec![carried.into_dispatch(), shift.into_dispatch()], ShiftedState(shifted)))
}

pub(super) fn gated_residual<const D: usize>(
    carried: Tensor<D>,
    before: Tensor<D>,
    gate: Gate,
    (weight, bias): DenseWeights<3>,
    state: usize,
) -> Option<Tensor<D>> {
    let shape = carried.shape();
    let [width, twice] = [shape[D - 1], before.dims()[D - 1]];
    let rows = shape.num_elements() / width.max(1);
    let all_f32 = is_f32_on_flex(&carried) && is_f32_on_flex(&before) && is_f32_on_flex(&weight);
    if !all_f32 || rows * width * twice == 0 || weight.dims() != [width, twice / 2, 1] {
        return None;
    }
    let gated = Gated { rows, state, carried: width, width: twice / 2, gate };
    let inputs = vec![carried.into_dispatch(), before.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    Some(apply(inputs, GatedResidual { gated, shape }))
}

#[derive(Debug)]
struct DenseSum {
    sum: Sum,
    shape: Shape,
}

impl Arithmetic for DenseSum {
    fn names(&self) -> [Operation; 2] {
        [Operation::Rows, Operation::RowsBackward]
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::dense_sum(&self.sum, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], asked: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::dense_sum_backward(&self.sum, inputs, dy, asked)
    }
}

#[derive(Debug)]
struct ShiftedState(Shifted);

impl Arithmetic for ShiftedState {
    fn names(&self) -> [Operation; 2] {
        [Operation::Residual, Operation::ResidualBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.0.batch, self.0.places, self.0.state])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::shifted_state(&self.0, inputs[0], inputs[1])
    }

    fn backward(&self, _: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::shifted_state_backward(&self.0, dy).map(Some).into()
    }
}

#[derive(Debug)]
struct GatedResidual {
    gated: Gated,
    shape: Shape,
}

impl Arithmetic for GatedResidual {
    fn names(&self) -> [Operation; 2] {
        [Operation::Residual, Operation::ResidualBackward]
    }

    fn shape(&self) -> Shape {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::gated_residual(&self.gated, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::gated_residual_backward(&self.gated, inputs, dy).into_iter().map(Some).collect()
    }
}
