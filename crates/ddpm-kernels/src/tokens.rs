//! Layers of transformers on tokens, `[batch, tokens, channels]`: attention between them, gates, and tokens made of pixels.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use crate::attention::{attention, biased_attention};
use crate::gelu::gelu;
use crate::precision::Precision;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;

/// Attention of queries `[B, Q, C]` to keys and values `[B, K, C]`, with the channels shared among the heads; `bias` is added
/// to the scores, `[B, heads, Q, K]` or 1 in place of the first three. Gives `[B, Q, C]`.
///
/// Without a bias the kernel keeps nothing but its inputs for the gradients.
pub fn token_attention(
    [q, k, v]: [Tensor<3>; 3],
    heads: usize,
    bias: Option<Tensor<4>>,
    precision: Precision,
) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if bias.is_none() && flex::takes_attention([&q, &k, &v], heads) {
        return flex::attention([q, k, v], heads, precision);
    }
    let [batch, queries, channels] = q.dims();
    let [q, k, v] = [q, k, v].map(|x| {
        let tokens = x.dims()[1];
        x.swap_dims(1, 2).reshape([batch, heads, channels / heads, tokens])
    });
    let attended = match bias {
        None => attention(q, k, v, precision),
        Some(bias) => biased_attention(q, k, v, bias),
    };
    attended.reshape([batch, channels, queries]).swap_dims(1, 2)
}

/// A gated linear unit (Shazeer 2020, arXiv:2002.05202): the first half of the channels times the exact GELU of the second.
pub fn gated_gelu(x: Tensor<3>) -> Tensor<3> {
    let width = x.dims()[2] / 2;
    #[cfg(feature = "flex")]
    if x.dims()[2] == 2 * width && flex::takes(&x) {
        return flex::gated_gelu(x);
    }
    x.clone().narrow(2, 0, width) * gelu(x.narrow(2, width, width))
}

/// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, the tangent written as a sigmoid.
pub fn tanh_gelu(x: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::tanh_gelu(x);
    }
    let doubled = 2.0 * std::f64::consts::FRAC_2_PI.sqrt();
    let inner = x.clone() * (x.clone().square() * (0.044715 * doubled) + doubled);
    x * sigmoid(inner)
}

/// `x + gate * y`, where all tokens of a sample have the same gate, `[batch, channels]`.
pub fn add_gated(x: Tensor<3>, y: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) && flex::takes(&y) && flex::takes(&gate) && x.dims() == y.dims() {
        return flex::add_gated(x, y, gate);
    }
    x + y * gate.unsqueeze_dim::<3>(1)
}

/// Rows and columns of `[batch, rows, columns]` in each other's place, copied: pixels of `[batch, channels, pixels]` as
/// tokens, and back.
pub fn transposed(x: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::transposed(x);
    }
    x.swap_dims(1, 2)
}
