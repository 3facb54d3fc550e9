//! Pooling as an operation of Burn.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::nn::PaddingConfig2d::{self, Explicit, Valid};
use burn::tensor::Tensor;

use super::kernel::{self, Kind, Window};
use crate::flex::{FlexTensor, contiguous, is_f32_on_flex, tensor, values};

/// The window, if the kernel can take it and the tensor.
pub(super) fn window(size: [usize; 2], stride: [usize; 2], padding: &PaddingConfig2d, x: &Tensor<4>) -> Option<Window> {
    let padding = match *padding {
        Valid => [0, 0],
        Explicit(top, left, bottom, right) if top == bottom && left == right => [top, left],
        _ => return None,
    };
    let [_, _, height, width] = x.dims();
    let window = Window { size, stride, padding };
    // Every window must hold a pixel.
    let fits = padding[0] < size[0] && padding[1] < size[1] && window.output([height, width]).is_some();
    let plain = is_f32_on_flex(x) && !x.device().is_autodiff();
    (fits && plain && !x.dims().contains(&0)).then_some(window)
}

/// By the kernel; `x` must be `f32` on flex and the window one of [`window`].
pub(super) fn pool(x: Tensor<4>, window: Window, kind: Kind) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as PoolOps>::pool(x.into_dispatch(), window, kind))
}

#[backend_extension(Flex: cfg(feature = "flex"))]
pub(crate) trait PoolOps: Backend {
    fn pool(x: FloatTensor<Self>, window: Window, kind: Kind) -> FloatTensor<Self>;
}

impl PoolOps for Flex {
    fn pool(x: FlexTensor, window: Window, kind: Kind) -> FlexTensor {
        let x = contiguous(x);
        let shape = x.shape();
        let size = [shape[2], shape[3]];
        let [height, width] = window.output(size).unwrap_or_default();
        let y = kernel::pool(values(&x), size, window, kind);
        tensor(y, [shape[0], shape[1], height, width])
    }
}
