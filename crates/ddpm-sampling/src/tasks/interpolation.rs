//! From one noise to another on a sphere (Shoemake 1985; Song et al. 2021a, appendix D.5).
//!
//! The straight way between two noises passes through vectors that are shorter than any noise, which a denoiser
//! never saw; the arc does not. With a deterministic sampler the samples on the way are an interpolation of images.

use burn::tensor::Tensor;
use ddpm_model::noise_level::per_row;

/// Below this sine two directions are one, up to sign, and there is no single arc.
const PARALLEL: f64 = 1e-6;

/// What lies at each row's share of the way from that row of `from` (0) to that of `to` (1).
pub fn slerp<const D: usize>(from: &Tensor<D>, to: &Tensor<D>, shares: &[f64]) -> Tensor<D> {
    let norms = dots(from, from).into_iter().zip(dots(to, to)).map(|(a, b)| (a * b).sqrt());
    let cosines = dots(from, to).into_iter().zip(norms).map(|(dot, norms)| (dot / norms).clamp(-1.0, 1.0));
    // (67) of Song et al.
    let (a, b): (Vec<f64>, Vec<f64>) = cosines
        .zip(shares)
        .map(|(cosine, share)| {
            let theta = cosine.acos();
            match theta.sin() {
                sine if sine > PARALLEL => (((1.0 - share) * theta).sin() / sine, (share * theta).sin() / sine),
                _ => (1.0 - share, *share),
            }
        })
        .unzip();
    from.clone() * per_row(&a, from) + to.clone() * per_row(&b, to)
}

/// The inner product of every pair of rows, on the host.
fn dots<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> Vec<f64> {
    let rows = a.dims()[0];
    let products = (a.clone() * b.clone()).reshape([rows, a.shape().num_elements() / rows]);
    products.sum_dim(1).into_data().iter::<f64>().collect()
}
