//! The convolution of a sequence with a kernel of the same length.

use burn::tensor::Tensor;

/// `y_t = sum_(s <= t) forward_(t-s) x_s + sum_(s > t) backward_(s-t-1) x_s`, for `x` and `y` `[B, H, L]` and kernels `[H, L]`.
/// The backward part starts at the next step.
///
/// A product with a Toeplitz matrix for each feature: `B H L^2` multiplications and a matrix of `H L^2` values, for any
/// backend and its gradients. A Fourier transform would need `B H L log L`.
pub fn convolve(x: Tensor<3>, forward: Tensor<2>, backward: Option<Tensor<2>>) -> Tensor<3> {
    let matrix = toeplitz(forward, backward);
    // [H, B, s] [H, s, t]
    x.swap_dims(0, 1).matmul(matrix.swap_dims(1, 2)).swap_dims(0, 1)
}

/// The matrices `[H, t, s]`.
///
/// Row t is `r[(s - t) mod 2L]` with `r = [forward_0, backward_0 .. backward_(L-2), 0, forward_(L-1) .. forward_1]`. Rows of
/// length 2L that are read with a stride of 2L - 1 are shifted by one each.
fn toeplitz(forward: Tensor<2>, backward: Option<Tensor<2>>) -> Tensor<3> {
    let [features, length] = forward.dims();
    let zero = Tensor::zeros([features, 1], (&forward.device(), forward.dtype()));
    let mut row = vec![forward.clone().narrow(1, 0, 1)];
    if length > 1 {
        row.push(match backward {
            Some(backward) => backward.narrow(1, 0, length - 1),
            None => zero.clone().expand([features, length - 1]),
        });
    }
    row.push(zero);
    if length > 1 {
        row.push(forward.narrow(1, 1, length - 1).flip([1]));
    }
    let row: Tensor<3> = Tensor::cat(row, 1).unsqueeze_dim(1);
    let rows: Tensor<2> = row.expand([features, length, 2 * length]).reshape([features, 2 * length * length]);
    let shifted = rows.narrow(1, 0, length * (2 * length - 1));
    shifted.reshape([features, length, 2 * length - 1]).narrow(2, 0, length)
}
