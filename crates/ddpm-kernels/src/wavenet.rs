//! A network of convolutions with gates over places that lie on a circle (van den Oord et al. 2016), as TimeGrad has it.
//!
//! Between its parts values are `[groups, channels, places * lanes]`: a lane for each of some rows of the batch, so that there
//! are long vectors however few the places. [`lanes_for`] says how many lanes are good.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// Columns, places times lanes, that a group should have.
const COLUMNS: usize = 256;

/// Lanes of a group for so many places.
pub fn lanes_for(places: usize) -> usize {
    if places >= COLUMNS / 2 { 1 } else { COLUMNS.div_ceil(places) }
}

/// Slope of the leaky rectifiers for negative values.
#[derive(Clone, Copy, Debug)]
pub struct Slope(pub f64);

/// Weight and bias of a convolution.
pub type Convolution = (Tensor<3>, Tensor<1>);

/// What a block of the network consists of.
#[derive(Clone, Debug)]
pub struct CircleBlock {
    /// The convolution with three taps, `[2 channels, channels, 3]`.
    pub dilated: Convolution,
    /// The distance of its taps.
    pub dilation: usize,
    /// The dense layer of the embedding that is added before it, `[width, channels]`.
    pub embedding: (Tensor<2>, Tensor<1>),
    /// The convolution of the condition, `[2 channels, 1, 1]`.
    pub condition: Convolution,
    /// The convolution after the gate, `[2 channels, channels, 1]`.
    pub output: Convolution,
}

/// The state and the sum of a network at the start, `[groups, 2 channels, columns]`, from `x`, `[groups, 1, columns]`: a
/// convolution `[channels, 1, 1]` and a leaky rectifier; zeros. None where there is no kernel for it.
pub fn circle_start(_x: Tensor<3>, _convolution: Convolution, _slope: Slope) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::start(_x, _convolution, _slope);
    #[cfg(not(feature = "flex"))]
    None
}

/// A block: from state and sum to the next ones, given embeddings `[groups, width, lanes]`, or one for all, `[1, width, 1]`, and a condition
/// `[groups, 1, columns]`. None where there is no kernel for it.
pub fn circle_block(
    _carried: Tensor<3>,
    _embedding: Tensor<3>,
    _condition: Tensor<3>,
    _block: CircleBlock,
    _lanes: usize,
    _slope: Slope,
) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::block(_carried, _embedding, _condition, _block, _lanes, _slope);
    #[cfg(not(feature = "flex"))]
    None
}

/// The output `[groups, 1, columns - 4 lanes]`: of the sum times `scale` a convolution of three taps, a leaky rectifier, and
/// another convolution of three taps to one channel, neither of which pads. None where there is no kernel for it.
pub fn circle_end(
    _carried: Tensor<3>,
    _scale: f64,
    _convolutions: [Convolution; 2],
    _lanes: usize,
    _slope: Slope,
) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::end(_carried, _scale, _convolutions, _lanes, _slope);
    #[cfg(not(feature = "flex"))]
    None
}
