//! What networks with state-space layers (Gu et al. 2022) do to sequences, `[batch, places, channels]`: convolutions with short
//! kernels and with kernels as long as the sequence, and what follows these. Each function gives None where there is no
//! kernel for it.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod fft;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// The weight `g v / |v|` (Salimans & Kingma 2016) for `v` `[outputs, inputs, taps]` and `g` `[outputs, 1, 1]`.
pub fn weight_norm(_v: Tensor<3>, _g: Tensor<3>) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::weight_norm(_v, _g);
    #[cfg(not(feature = "flex"))]
    None
}

/// A convolution of odd width that keeps the length, with a weight `[outputs, inputs, taps]`.
pub fn short_convolution(_x: Tensor<3>, _weight: Tensor<3>, _bias: Tensor<1>) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::short_convolution(_x, _weight, _bias);
    #[cfg(not(feature = "flex"))]
    None
}

/// For each feature the product of rows of coefficients, `[directions, features, states, 2]`, with its basis,
/// `[features, 2 states, length]`: `[features, directions, length]`.
pub fn kernels_of_basis(_coefficients: Tensor<4>, _basis: Tensor<3>) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::kernels_of_basis(_coefficients, _basis);
    #[cfg(not(feature = "flex"))]
    None
}

/// `y_t = sum over s <= t of forward_(t-s) x_s + sum over s > t of backward_(s-t-1) x_s + skip x_t` for kernels
/// `[features, 1 or 2, places]`, the first forward and the second backward, and skips `[1, features]`: by Fourier transforms,
/// whose cost is all but linear in the length.
pub fn long_convolution(_x: Tensor<3>, _kernels: Tensor<3>, _skip: Tensor<2>) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::long_convolution(_x, _kernels, _skip);
    #[cfg(not(feature = "flex"))]
    None
}

/// `normalize(x + W gelu(y) + b)` over the channels, with a weight `[channels, channels]`, outputs first, a bias
/// `[channels, 1]`, and scale and shift of the normalization.
pub fn mixed_norm(
    _y: Tensor<3>,
    _x: Tensor<3>,
    _layer: (Tensor<2>, Tensor<2>),
    _norm: (Tensor<1>, Tensor<1>),
    _epsilon: f64,
) -> Option<Tensor<3>> {
    #[cfg(feature = "flex")]
    return flex::mixed_norm(_y, _x, _layer, _norm, _epsilon);
    #[cfg(not(feature = "flex"))]
    None
}
