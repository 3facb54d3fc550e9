//! Layers of recurrent cells, as PyTorch's `GRU` (Cho et al. 2014) and `LSTM` (Hochreiter & Schmidhuber 1997).

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod cells;
#[cfg(feature = "flex")]
mod flex;

/// The outputs `[batch, steps, cells]` of a layer of gated recurrent units, given for each step the part of the gates that
/// depends on the input, `[batch, steps, 3 cells]`, the recurrent weight `[3 cells, cells]` and bias `[3 cells]`, and the
/// state before the first step `[batch, cells]`. Gates are in the order reset, update, new. None where there is no kernel for
/// it.
pub fn gated_recurrence(
    _from_inputs: Tensor<3>,
    _weight: Tensor<2>,
    _bias: Tensor<1>,
    _state: Tensor<2>,
) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::recurrence::<cells::Gru>(_from_inputs, _weight, _bias, _state);
    #[cfg(not(feature = "flex"))]
    None
}

/// The outputs `[batch, steps, cells]` of a layer of LSTM cells and their memory after the last step, given for each step the
/// part of the gates that depends on the input, `[batch, steps, 4 cells]`, the recurrent weight `[4 cells, cells]` and bias
/// `[4 cells]`, and the output and the memory before the first step, `[batch, cells]` each. Gates are in the order input,
/// forget, new, output. None where there is no kernel for it.
pub fn long_short_term_recurrence(
    _from_inputs: Tensor<3>,
    _weight: Tensor<2>,
    _bias: Tensor<1>,
    _state: [Tensor<2>; 2],
) -> Option<(Tensor<3>, Tensor<2>)> {
    #[cfg(feature = "flex")]
    return flex::long_short_term_recurrence(_from_inputs, _weight, _bias, _state);
    #[cfg(not(feature = "flex"))]
    None
}
