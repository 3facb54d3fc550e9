//! What is done to sequences as operations of Burn.

use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Long, Mixed, Product, Short};
use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};

pub(super) fn weight_norm(v: Tensor<3>, g: Tensor<3>) -> Option<Tensor<3>> {
    let shape = v.dims();
    if !is_f32_on_flex(&v) || !is_f32_on_flex(&g) || shape.contains(&0) || g.dims() != [shape[0], 1, 1] {
        return None;
    }
    Some(apply(vec![v.into_dispatch(), g.into_dispatch()], WeightNorm(shape)))
}

pub(super) fn short_convolution(x: Tensor<3>, weight: Tensor<3>, bias: Tensor<1>) -> Option<Tensor<3>> {
    let ([batch, places, inputs], [outputs, weight_inputs, taps]) = (x.dims(), weight.dims());
    let all_f32 = is_f32_on_flex(&x) && is_f32_on_flex(&weight) && is_f32_on_flex(&bias);
    let sizes = [batch, places, inputs, outputs, taps];
    if !all_f32 || sizes.contains(&0) || weight_inputs != inputs || bias.dims() != [outputs] || taps % 2 == 0 {
        return None;
    }
    let short = Short { batch, places, inputs, outputs, taps };
    Some(apply(vec![x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()], ShortConvolution(short)))
}

pub(super) fn kernels_of_basis(coefficients: Tensor<4>, basis: Tensor<3>) -> Option<Tensor<3>> {
    let [directions, features, states, pair] = coefficients.dims();
    let [basis_features, rows, length] = basis.dims();
    let fit = features == basis_features && states * pair == rows && directions * features * rows * length > 0;
    if !fit || !is_f32_on_flex(&coefficients) || !is_f32_on_flex(&basis) {
        return None;
    }
    let product = Product { directions, features, rows, length };
    Some(apply(vec![coefficients.into_dispatch(), basis.into_dispatch()], KernelsOfBasis(product)))
}

pub(super) fn long_convolution(x: Tensor<3>, kernels: Tensor<3>, skip: Tensor<2>) -> Option<Tensor<3>> {
    let ([batch, places, features], [kernel_features, directions, length]) = (x.dims(), kernels.dims());
    let fit = kernel_features == features && length == places && [1, 2].contains(&directions);
    let all_f32 = is_f32_on_flex(&x) && is_f32_on_flex(&kernels) && is_f32_on_flex(&skip);
    if !fit || !all_f32 || batch * places * features == 0 || skip.dims() != [1, features] {
        return None;
    }
    let long = Long { batch, places, features, directions };
    Some(apply(vec![x.into_dispatch(), kernels.into_dispatch(), skip.into_dispatch()], LongConvolution(long)))
}

pub(super) fn mixed_norm(
    y: Tensor<3>,
    x: Tensor<3>,
    (weight, bias): (Tensor<2>, Tensor<2>),
    (scale, shift): (Tensor<1>, Tensor<1>),
    epsilon: f64,
) -> Option<Tensor<3>> {
    let shape = y.dims();
    let channels = shape[2];
    let all_f32 = is_f32_on_flex(&y) && is_f32_on_flex(&x) && is_f32_on_flex(&weight) && is_f32_on_flex(&scale);
    let fit = x.dims() == shape && weight.dims() == [channels; 2] && bias.dims() == [channels, 1];
    if !all_f32 || !fit || shape.contains(&0) {
        return None;
    }
    let inputs = vec![
        y.into_dispatch(),
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
    ];
    let mixed = Mixed { rows: shape[0] * shape[1], channels, epsilon: epsilon as f32 };
    Some(apply(inputs, MixedNorm { mixed, shape }))
}

#[derive(Debug)]
struct WeightNorm([usize; 3]);

impl Arithmetic for WeightNorm {
    fn names(&self) -> [Operation; 2] {
        [Operation::WeightNorm, Operation::WeightNorm]
    }

    fn shape(&self) -> Shape {
        Shape::from(self.0)
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::weight_norm(inputs[0], inputs[1])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::weight_norm_backward(inputs[0], inputs[1], dy).map(Some).into()
    }
}

#[derive(Debug)]
struct ShortConvolution(Short);

impl Arithmetic for ShortConvolution {
    fn names(&self) -> [Operation; 2] {
        [Operation::Short, Operation::ShortBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.0.batch, self.0.places, self.0.outputs])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::short_convolution(&self.0, inputs[0], inputs[1], inputs[2])
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::short_convolution_backward(&self.0, inputs[0], inputs[1], dy).map(Some).into()
    }
}

#[derive(Debug)]
struct KernelsOfBasis(Product);

impl Arithmetic for KernelsOfBasis {
    fn names(&self) -> [Operation; 2] {
        [Operation::Basis, Operation::BasisBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.0.features, self.0.directions, self.0.length])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::kernels_of_basis(&self.0, inputs[0], inputs[1])
    }

    /// The basis is a constant.
    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        vec![Some(kernel::kernels_of_basis_backward(&self.0, inputs[1], dy)), None]
    }
}

#[derive(Debug)]
struct LongConvolution(Long);

impl Arithmetic for LongConvolution {
    fn names(&self) -> [Operation; 2] {
        [Operation::Long, Operation::LongBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from([self.0.batch, self.0.places, self.0.features])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::long_convolution(&self.0, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::long_convolution_backward(&self.0, inputs, dy).map(Some).into()
    }
}

#[derive(Debug)]
struct MixedNorm {
    mixed: Mixed,
    shape: [usize; 3],
}

impl Arithmetic for MixedNorm {
    fn names(&self) -> [Operation; 2] {
        [Operation::Mixed, Operation::MixedBackward]
    }

    fn shape(&self) -> Shape {
        Shape::from(self.shape)
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::mixed_norm(&self.mixed, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::mixed_norm_backward(&self.mixed, inputs, dy).into_iter().map(Some).collect()
    }
}
