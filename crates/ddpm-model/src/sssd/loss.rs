//! What SSSD trains: the noise at missing places only. A mask is 1 where a value is observed and 0 where it is missing.

use burn::tensor::Tensor;

/// Observed places from `observed`, missing places from `missing`: data where they are known, noise or samples elsewhere.
pub fn at_missing_places<const D: usize>(missing: Tensor<D>, observed: Tensor<D>, mask: Tensor<D>) -> Tensor<D> {
    let hidden = mask.ones_like() - mask.clone();
    observed * mask + missing * hidden
}

/// The mean of the squared error over the missing places; 0 where nothing is missing.
pub fn missing_mse<const D: usize>(prediction: Tensor<D>, target: Tensor<D>, mask: Tensor<D>) -> Tensor<1> {
    let hidden = mask.ones_like() - mask;
    let count = hidden.clone().sum().clamp_min(1.0);
    ((prediction - target).square() * hidden).sum() / count
}
