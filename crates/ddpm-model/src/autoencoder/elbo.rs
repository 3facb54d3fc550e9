//! The evidence lower bound and its relatives, in nats per datum (Kingma & Welling 2014).

use burn::tensor::Tensor;

use super::diagonal_gaussian::DiagonalGaussian;

/// What the divergence `KL(q(z|x) || p(z))` adds to the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KlTerm {
    /// Nothing: an autoencoder.
    None,
    /// `beta KL` (Higgins et al. 2017). With `beta` = 1 the loss is minus the evidence lower bound; with `free_bits` no
    /// dimension of the latent is penalized below so many nats, on average over the batch (Kingma et al. 2016).
    Weighted {
        /// The weight.
        beta: f64,
        /// Nats that each dimension of the latent has for nothing.
        free_bits: f64,
    },
    /// `gamma |KL - capacity|`, where KL is the mean over the batch (Burgess et al. 2018).
    Capacity {
        /// The weight.
        gamma: f64,
        /// The nats that the latent is meant to have.
        capacity: f64,
    },
}

impl KlTerm {
    /// The term for the divergences `[B, Z]` of the dimensions of the latent, `[1]`.
    pub fn of(self, kl: Tensor<2>) -> Tensor<1> {
        match self {
            Self::None => Tensor::zeros([1], &kl.device()),
            Self::Weighted { beta, free_bits } if free_bits > 0.0 => {
                kl.mean_dim(0).clamp_min(free_bits).sum().mul_scalar(beta)
            }
            Self::Weighted { beta, .. } => kl.sum_dim(1).mean().mul_scalar(beta),
            Self::Capacity { gamma, capacity } => (kl.sum_dim(1).mean() - capacity).abs().mul_scalar(gamma),
        }
    }
}

/// The loss, `[1]`: minus the mean of `log p(x|z)` `[B]`, plus the term of the divergences `[B, Z]`.
pub fn loss(log_px: Tensor<1>, kl: Tensor<2>, term: KlTerm) -> Tensor<1> {
    match term {
        KlTerm::None => -log_px.mean(),
        term => -log_px.mean() + term.of(kl),
    }
}

/// `ln w = ln p(x|z) + ln p(z) - ln q(z|x)` of each row, `[B]`: its mean over `z` from `q` is the evidence lower bound,
/// and the logarithm of the mean of `w` is `ln p(x)`.
pub fn log_importance_weight<const D: usize>(
    log_px: Tensor<1>,
    posterior: &DiagonalGaussian<D>,
    z: Tensor<D>,
) -> Tensor<1> {
    let prior = DiagonalGaussian::new(z.zeros_like(), z.zeros_like());
    log_px + prior.log_prob(z.clone()) - posterior.log_prob(z)
}

/// The importance-weighted bound of each row, `[B]`: `ln (1/K) sum_k w_k` of the `ln w` `[K, B]` (Burda et al. 2016). It
/// rises with K on average, from the evidence lower bound to `ln p(x)`.
pub fn importance_weighted_bound(log_w: Tensor<2>) -> Tensor<1> {
    let [_, rows] = log_w.dims();
    let largest = log_w.clone().detach().max_dim(0);
    ((log_w - largest.clone()).exp().mean_dim(0).log() + largest).reshape([rows])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_terms_are_those_of_their_papers() {
        let kl = Tensor::<2>::from_floats([[1.0, 0.1], [3.0, 0.3]], &Device::default());
        let of = |term: KlTerm| term.of(kl.clone()).into_scalar::<f64>();
        let cases = [
            (KlTerm::None, 0.0),
            (KlTerm::Weighted { beta: 4.0, free_bits: 0.0 }, 8.8),
            (KlTerm::Weighted { beta: 1.0, free_bits: 0.5 }, 2.5),
            (KlTerm::Capacity { gamma: 10.0, capacity: 1.2 }, 10.0),
            (KlTerm::Capacity { gamma: 10.0, capacity: 3.2 }, 10.0),
        ];
        for (term, wanted) in cases {
            assert!((of(term) - wanted).abs() < 1e-5, "{term:?} {}", of(term));
        }
    }

    #[test]
    fn the_bound_of_one_weight_is_that_weight_and_of_many_the_log_of_their_mean() {
        let log_w = Tensor::<2>::from_floats([[-700.0, 1.0], [-701.0, 3.0]], &Device::default());
        let bound: Vec<f32> = importance_weighted_bound(log_w.clone()).into_data().try_to_vec().unwrap();
        let wanted = [-700.0 + ((1.0 + (-1f64).exp()) / 2.0).ln(), ((1f64.exp() + 3f64.exp()) / 2.0).ln()];
        assert!(bound.iter().zip(wanted).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4), "{bound:?}");
        let one: Vec<f32> = importance_weighted_bound(log_w.narrow(0, 0, 1)).into_data().try_to_vec().unwrap();
        assert_eq!(one, [-700.0, 1.0]);
    }
}
