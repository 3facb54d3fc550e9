//! What a U-Net does to channels between its convolutions: joins them, and shifts them by the time.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;

/// The channels of `a` and then those of `b`: both are `[batch, channels, height, width]`.
pub fn concat(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    {
        let (shape_a, shape_b) = (a.dims(), b.dims());
        let fit = shape_a[0] == shape_b[0] && shape_a[2..] == shape_b[2..];
        if fit && crate::flex::is_f32_on_flex(&a) && crate::flex::is_f32_on_flex(&b) {
            return flex::concat(a, b);
        }
    }
    Tensor::cat(vec![a, b], 1)
}

/// Adds to every pixel of a channel of `x`, `[batch, channels, height, width]`, its number of `[batch, channels]`.
pub fn shift(x: Tensor<4>, by: Tensor<2>) -> Tensor<4> {
    let [batch, channels, _, _] = x.dims();
    #[cfg(feature = "flex")]
    if by.dims() == [batch, channels]
        && !x.dims().contains(&0)
        && crate::flex::is_f32_on_flex(&x)
        && crate::flex::is_f32_on_flex(&by)
    {
        return flex::shift(x, by);
    }
    x + by.reshape([batch, channels, 1, 1])
}
