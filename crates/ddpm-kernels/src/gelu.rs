//! The exact GELU (Hendrycks & Gimpel 2016), `x Phi(x)`, with its exact gradient.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
pub(crate) mod flex;

/// The activation `x * (1 + erf(x / sqrt 2)) / 2`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if crate::flex::is_f32_on_flex(&x) {
        return flex::gelu(x);
    }
    // Not Burn's own: on most backends its gradient is that of an approximation.
    let doubled = (x.clone() * FRAC_1_SQRT_2).erf() + 1.0;
    x * doubled * 0.5
}
