//! Layer normalisation of tokens (Ba et al. 2016, arXiv:1607.06450), with weights of its own or scaled and shifted by a
//! condition.

use burn::nn::LayerNorm;
use burn::tensor::module::layer_norm as of_backend;
use burn::tensor::{DType, Tensor};

use crate::precision::is_half;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// The layer normalisation of `[batch, tokens, channels]`; `epsilon` is that of the module, which does not show it.
pub fn layer_norm(norm: &LayerNorm, epsilon: f64, x: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if let Some(beta) = &norm.beta {
        let (gamma, beta, [batch, tokens, channels]) = (norm.gamma.val(), beta.val(), x.dims());
        if takes(&x) && gamma.dims() == [channels] && takes(&gamma) && takes(&beta) {
            let rows = x.reshape([1, batch * tokens, channels]);
            let [gamma, beta] = [gamma, beta].map(|x| x.reshape([1, channels]));
            return flex::layer_norm(rows, gamma, beta, epsilon).reshape([batch, tokens, channels]);
        }
    }
    let _ = epsilon;
    norm.forward(x)
}

/// `norm(x) * (1 + scale) + shift` of `[batch, tokens, channels]`, where all tokens of a sample have the same scale and shift,
/// `[batch, channels]` (Peebles & Xie 2023, arXiv:2212.09748).
pub fn modulated_layer_norm(x: Tensor<3>, scale: Tensor<2>, shift: Tensor<2>, epsilon: f64) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if takes(&x) && takes(&scale) && takes(&shift) {
        return flex::layer_norm(x, scale + 1.0, shift, epsilon);
    }
    let (dtype, width) = (x.dtype(), x.dims()[2]);
    // Statistics of half precision would be useless.
    let exact = if is_half(dtype) { DType::F32 } else { dtype };
    let x = x.cast(exact);
    let ones = Tensor::ones([width], (&x.device(), exact));
    let [scale, shift] = [scale, shift].map(|x| x.cast(exact).unsqueeze_dim::<3>(1));
    (of_backend(x, ones, None, epsilon) * (scale + 1.0) + shift).cast(dtype)
}

/// Whether the kernel takes this tensor.
#[cfg(feature = "flex")]
fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    crate::flex::is_f32_on_flex(x) && !x.dims().contains(&0)
}
