//! Convolution with the rectifier after it, for networks that are not trained.

use burn::nn::conv::Conv2d;
use burn::tensor::{Tensor, activation};

/// `relu(conv(x))` of `[batch, channels, height, width]`.
///
/// The kernel takes every kernel size, stride and padding, but no dilation and no groups, and has no gradient; the rest
/// goes to Burn.
pub fn conv2d_relu(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = flex::conv2d_relu(conv, &x) {
        return y;
    }
    activation::relu(conv.forward(x))
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, Dispatch, Flex, backend_extension};
    use burn::nn::conv::Conv2d;
    use burn::tensor::Tensor;

    use super::super::general::{self, Geometry};
    use super::super::parameters;
    use crate::flex::{FlexTensor, contiguous, tensor, values};
    use crate::kept::wide;

    /// By the kernel, if it can do this convolution of this tensor.
    pub(super) fn conv2d_relu(conv: &Conv2d, x: &Tensor<4>) -> Option<Tensor<4>> {
        let geometry = Geometry::new(conv, x.dims())?;
        let (weight, bias) = parameters(conv, x)?;
        if x.device().is_autodiff() || weight.device().is_autodiff() {
            return None;
        }
        Some(Tensor::from_dispatch(<Dispatch as ConvReluOps>::conv_relu(
            x.clone().into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            geometry,
        )))
    }

    #[backend_extension(Flex: cfg(feature = "flex"))]
    pub(crate) trait ConvReluOps: Backend {
        fn conv_relu(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            geometry: Geometry,
        ) -> FloatTensor<Self>;
    }

    impl ConvReluOps for Flex {
        fn conv_relu(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, geometry: Geometry) -> FlexTensor {
            let [x, weight, bias] = [x, weight, bias].map(contiguous);
            let y = general::forward_rectified(&geometry, values(&x), &wide(&weight), values(&bias));
            let [height, width] = geometry.output().unwrap_or_default();
            tensor(y, [geometry.batch, geometry.channels_out, height, width])
        }
    }
}
