//! Values of two kinds, black and white; values between them are read as probabilities.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

/// `x l - ln(1 + exp(l))` for each value, with `x` in [0, 1] and the logit `l`: the log probability where `x` is 0 or 1,
/// and minus the binary cross-entropy between them.
pub fn log_prob<const D: usize>(x: Tensor<D>, logits: Tensor<D>) -> Tensor<D> {
    x * logits.clone() + log_sigmoid(-logits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn it_is_the_logarithm_of_the_probability_even_far_out() {
        let device = Device::default().autodiff();
        let logits = Tensor::<1>::from_floats([0.0, 1.5, -300.0, 300.0, 300.0], &device).require_grad();
        let x = Tensor::<1>::from_floats([1.0, 0.25, 1.0, 1.0, 0.0], &device);
        let log_p = log_prob(x, logits.clone());
        let gradient: Vec<f32> =
            logits.grad(&log_p.clone().sum().backward()).unwrap().into_data().try_to_vec().unwrap();
        let log_p: Vec<f32> = log_p.into_data().try_to_vec().unwrap();
        let p = 1.0 / (1.0 + (-1.5f32).exp());
        let wanted = [0.5f32.ln(), 0.25 * p.ln() + 0.75 * (1.0 - p).ln(), -300.0, 0.0, -300.0];
        let slopes = [0.5, 0.25 - p, 1.0, 0.0, -1.0];
        for k in 0..5 {
            assert!((log_p[k] - wanted[k]).abs() < 1e-5, "{log_p:?}");
            assert!((gradient[k] - slopes[k]).abs() < 1e-5, "{gradient:?}");
        }
    }
}
