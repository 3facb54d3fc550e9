//! The layers of networks with gates and skip connections (van den Oord et al. 2016), in which a state goes from one layer to
//! the next and every layer adds to a sum. Both lie together as `[state | sum]` in the last dimension.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// Which half of the values before a gate is the gate, `sigmoid`; of the other the hyperbolic tangent is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The first half.
    First,
    /// The second half.
    Second,
}

/// A dense layer: the weight, outputs first, and what follows may be of size 1, as of a convolution; the bias.
pub type DenseWeights<const D: usize> = (Tensor<D>, Tensor<1>);

/// The sum of two dense layers, of the last dimensions of `x` and `y`, with one bias: `x V^T + y W^T + b`. None where there
/// is no kernel for it.
pub fn dense_sum<const D: usize>(
    _x: (Tensor<D>, Tensor<3>),
    _y: (Tensor<D>, Tensor<3>),
    _bias: Tensor<1>,
) -> Option<Tensor<D>> {
    #[cfg(feature = "flex")]
    return flex::dense_sum(vec![_x, _y], _bias);
    #[cfg(not(feature = "flex"))]
    None
}

/// A dense layer of the last dimension of `x` with a weight `[outputs, inputs, 1]`, for many rows. None where there is no
/// kernel for it.
pub fn dense_rows<const D: usize>(_x: Tensor<D>, _weight: Tensor<3>, _bias: Tensor<1>) -> Option<Tensor<D>> {
    #[cfg(feature = "flex")]
    return flex::dense_sum(vec![(_x, _weight)], _bias);
    #[cfg(not(feature = "flex"))]
    None
}

/// The state of `carried`, `[batch, places, state + sum]`, with its row of `shift`, `[batch, state]`, added to every place.
/// None where there is no kernel for it.
pub fn shifted_state(_carried: Tensor<3>, _shift: Tensor<2>) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::shifted_state(_carried, _shift);
    #[cfg(not(feature = "flex"))]
    None
}

/// The end of a layer: a gate over the values before it, `[.., 2 width]`, then a dense layer with outputs for state and sum,
/// which are added to those of `carried`, `[.., state + sum]`; the state is scaled by `sqrt(1/2)`. None where there is no
/// kernel for it.
pub fn gated_residual<const D: usize>(
    _carried: Tensor<D>,
    _before: Tensor<D>,
    _gate: Gate,
    _output: DenseWeights<3>,
    _state: usize,
) -> Option<Tensor<D>> {
    #[cfg(feature = "flex")]
    return flex::gated_residual(_carried, _before, _gate, _output, _state);
    #[cfg(not(feature = "flex"))]
    None
}
