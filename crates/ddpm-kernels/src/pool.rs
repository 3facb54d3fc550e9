//! Pooling of pictures, for networks that are not trained: the kernels have no gradient.

use burn::nn::pool::{AvgPool2d, MaxPool2d};
use burn::tensor::Tensor;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// The largest value of every window of `[batch, channels, height, width]`.
///
/// The kernel takes windows of any size, stride and padding; dilation and rounding up go to Burn.
pub fn max_pool2d(pool: &MaxPool2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if pool.dilation == [1, 1] && !pool.ceil_mode {
        let window = flex::window(pool.kernel_size, pool.stride, &pool.padding, &x);
        if let Some(window) = window {
            return flex::pool(x, window, kernel::Kind::Max);
        }
    }
    pool.forward(x)
}

/// The mean of every window of `[batch, channels, height, width]`.
///
/// The kernel takes windows of any size, stride and padding whose padding is not counted; the rest goes to Burn.
pub fn avg_pool2d(pool: &AvgPool2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if !pool.count_include_pad && !pool.ceil_mode {
        let window = flex::window(pool.kernel_size, pool.stride, &pool.padding, &x);
        if let Some(window) = window {
            return flex::pool(x, window, kernel::Kind::Mean);
        }
    }
    pool.forward(x)
}
