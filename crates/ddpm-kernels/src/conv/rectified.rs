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
    use burn::nn::PaddingConfig2d::{Explicit, Same, Valid};
    use burn::nn::conv::Conv2d;
    use burn::tensor::Tensor;

    use super::super::general::{self, Geometry};
    use crate::flex::{FlexTensor, contiguous, is_f32_on_flex, tensor, values};

    /// By the kernel, if it can do this convolution of this tensor.
    pub(super) fn conv2d_relu(conv: &Conv2d, x: &Tensor<4>) -> Option<Tensor<4>> {
        let weight = conv.weight.val();
        let [channels_out, channels_in, height, width] = weight.dims();
        let shape = x.dims();
        let plain = |tensor: &Tensor<4>| is_f32_on_flex(tensor) && !tensor.device().is_autodiff();
        let wrong = shape.contains(&0) || shape[1] != channels_in || conv.dilation != [1, 1] || conv.groups != 1;
        if wrong || !plain(x) || !plain(&weight) {
            return None;
        }
        let (before, after) = match conv.padding {
            Valid => ([0, 0], [0, 0]),
            Explicit(top, left, bottom, right) => ([top, left], [bottom, right]),
            Same if conv.stride == [1, 1] && height % 2 == 1 && width % 2 == 1 => {
                ([height / 2, width / 2], [height / 2, width / 2])
            }
            Same => return None,
        };
        let geometry = Geometry {
            batch: shape[0],
            channels_in,
            channels_out,
            size: [shape[2], shape[3]],
            kernel: [height, width],
            stride: conv.stride,
            before,
            after,
        };
        // A kernel larger than the picture is left to Burn, which names it.
        geometry.output()?;
        let bias = match &conv.bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([channels_out], &x.device()),
        };
        is_f32_on_flex(&bias).then(|| {
            Tensor::from_dispatch(<Dispatch as ConvReluOps>::conv_relu(
                x.clone().into_dispatch(),
                weight.into_dispatch(),
                bias.into_dispatch(),
                geometry,
            ))
        })
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
            let y = general::forward(&geometry, values(&x), values(&weight), values(&bias));
            let [height, width] = geometry.output().unwrap_or_default();
            tensor(y, [geometry.batch, geometry.channels_out, height, width])
        }
    }
}
