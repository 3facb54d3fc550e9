//! Layers of gated recurrent units (Cho et al. 2014), as PyTorch's `GRU`.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;

/// The outputs `[batch, steps, cells]` of a layer, given for each step the part of the gates that depends on the input,
/// `[batch, steps, 3 cells]`, the recurrent weight `[3 cells, cells]` and bias `[3 cells]`, and the state before the first
/// step `[batch, cells]`. Gates are in the order reset, update, new. None where there is no kernel for it.
pub fn gated_recurrence(
    _from_inputs: Tensor<3>,
    _weight: Tensor<2>,
    _bias: Tensor<1>,
    _state: Tensor<2>,
) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::gated_recurrence(_from_inputs, _weight, _bias, _state);
    #[cfg(not(feature = "flex"))]
    None
}
