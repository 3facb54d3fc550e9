//! The approximate posterior of a variational autoencoder: a Gaussian with a diagonal covariance.

use std::f64::consts::TAU;

use burn::tensor::Tensor;

/// The bounds of the log variance in latent diffusion's autoencoders.
pub const LOG_VARIANCE_BOUNDS: [f64; 2] = [-30.0, 20.0];

/// `N(mean, diag(exp(log_variance)))` for each row of a batch (Kingma & Welling 2014).
///
/// # Shapes
///
/// Mean and log variance are `[B, ..]`, of any rank with the batch first.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use ddpm_model::autoencoder::diagonal_gaussian::DiagonalGaussian;
///
/// let draw = || Tensor::<2>::random([5, 3], Distribution::Normal(0.0, 1.0), &Device::default());
/// let posterior = DiagonalGaussian::new(draw(), draw());
/// let z = posterior.sample(draw());
/// assert_eq!((z.dims(), posterior.kl().dims(), posterior.log_prob(z).dims()), ([5, 3], [5], [5]));
/// ```
#[derive(Clone, Debug)]
pub struct DiagonalGaussian<const D: usize> {
    mean: Tensor<D>,
    log_variance: Tensor<D>,
}

impl<const D: usize> DiagonalGaussian<D> {
    /// From the mean and the logarithm of the variance, of one shape.
    pub fn new(mean: Tensor<D>, log_variance: Tensor<D>) -> Self {
        debug_assert_eq!(mean.dims(), log_variance.dims(), "mean and log variance have one shape");
        Self { mean, log_variance }
    }

    /// As [`new`](Self::new), with the log variance clamped to [`LOG_VARIANCE_BOUNDS`]: outside of them it has no
    /// gradient.
    pub fn clamped(mean: Tensor<D>, log_variance: Tensor<D>) -> Self {
        let [low, high] = LOG_VARIANCE_BOUNDS;
        Self::new(mean, log_variance.clamp(low, high))
    }

    /// The two halves of a network's output along dimension 1, the mean first, without a clamp.
    pub fn from_moments(moments: Tensor<D>) -> Self {
        let [mean, log_variance] = halves(moments);
        Self::new(mean, log_variance)
    }

    /// The two halves of a network's output along dimension 1, the mean first, with the clamp.
    pub fn from_moments_clamped(moments: Tensor<D>) -> Self {
        let [mean, log_variance] = halves(moments);
        Self::clamped(mean, log_variance)
    }

    /// The mean, which is also the mode.
    pub fn mean(&self) -> Tensor<D> {
        self.mean.clone()
    }

    /// The logarithm of the variance, after the clamp if there is one.
    pub fn log_variance(&self) -> Tensor<D> {
        self.log_variance.clone()
    }

    /// The standard deviation.
    pub fn std(&self) -> Tensor<D> {
        (self.log_variance() * 0.5).exp()
    }

    /// A draw by reparameterization: `mean + std noise`, where the noise is standard normal.
    pub fn sample(&self, noise: Tensor<D>) -> Tensor<D> {
        self.mean() + self.std() * noise
    }

    /// `KL(q || N(0, I))` of each row in nats, `[B]`.
    pub fn kl(&self) -> Tensor<1> {
        sum_of_rows(self.kl_by_dimension())
    }

    /// The terms of the divergence from the standard normal distribution, one for each dimension of the latent:
    /// `(mean^2 + variance - 1 - log variance) / 2`.
    pub fn kl_by_dimension(&self) -> Tensor<D> {
        (self.mean().square() + self.log_variance().exp() - 1.0 - self.log_variance()) * 0.5
    }

    /// The log density of `z` in nats, `[B]`.
    pub fn log_prob(&self, z: Tensor<D>) -> Tensor<1> {
        let squares = (z - self.mean()).square() * (-self.log_variance()).exp();
        sum_of_rows((squares + self.log_variance() + TAU.ln()) * -0.5)
    }

    /// The negative log-likelihood of `z` in nats, `[B]`.
    pub fn nll(&self, z: Tensor<D>) -> Tensor<1> {
        -self.log_prob(z)
    }
}

/// The halves of dimension 1.
fn halves<const D: usize>(moments: Tensor<D>) -> [Tensor<D>; 2] {
    let channels = moments.dims()[1] / 2;
    [moments.clone().narrow(1, 0, channels), moments.narrow(1, channels, channels)]
}

/// `[B, ..]` to `[B]`.
fn sum_of_rows<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let rows = x.dims()[0];
    let values: usize = x.dims()[1..].iter().product();
    x.reshape([rows, values]).sum_dim(1).reshape([rows])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tolerance};

    fn tensor(values: [[f32; 2]; 2]) -> Tensor<2> {
        Tensor::from_floats(values, &Device::default())
    }

    fn close<const D: usize>(found: Tensor<D>, wanted: Tensor<D>) {
        found.into_data().assert_approx_eq::<f32>(&wanted.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn divergence_and_density_are_those_computed_by_hand() {
        let ln4 = 4f32.ln();
        let posterior = DiagonalGaussian::new(tensor([[0.0, 0.0], [1.0, -2.0]]), tensor([[0.0, 0.0], [ln4, 0.0]]));
        let by_dimension = tensor([[0.0, 0.0], [2.0 - ln4 / 2.0, 2.0]]);
        close(posterior.kl_by_dimension(), by_dimension.clone());
        close(posterior.kl(), by_dimension.sum_dim(1).reshape([2]));
        close(posterior.sample(tensor([[1.0, -1.0], [0.5, 3.0]])), tensor([[1.0, -1.0], [2.0, 1.0]]));

        let tau = std::f32::consts::TAU.ln();
        let wanted = Tensor::from_floats([-tau, -tau - 0.5 - ln4 / 2.0 - 0.125], &Device::default());
        close(posterior.log_prob(tensor([[0.0, 0.0], [2.0, -1.0]])), wanted.clone());
        close(posterior.nll(tensor([[0.0, 0.0], [2.0, -1.0]])), -wanted);
    }

    #[test]
    fn the_clamp_is_an_option_and_has_no_gradient_outside() {
        let device = Device::default().autodiff();
        let wide = Tensor::<2>::from_floats([[-40.0, 1.0, 25.0]], &device).require_grad();
        let mean = wide.zeros_like();
        let log_variance = |posterior: DiagonalGaussian<2>| posterior.log_variance().into_data().try_to_vec().unwrap();
        let free: Vec<f32> = log_variance(DiagonalGaussian::new(mean.clone(), wide.clone()));
        assert_eq!(free, [-40.0, 1.0, 25.0]);
        let clamped = DiagonalGaussian::clamped(mean, wide.clone());
        assert_eq!(log_variance(clamped.clone()), [-30.0f32, 1.0, 20.0]);
        let grads = clamped.log_variance().sum().backward();
        let grads: Vec<f32> = wide.grad(&grads).unwrap().into_data().try_to_vec().unwrap();
        assert_eq!(grads, [0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_first_half_of_the_moments_is_the_mean() {
        let moments = Tensor::<2>::from_floats([[1.0, 2.0, 33.0, 4.0]], &Device::default());
        let posterior = DiagonalGaussian::from_moments(moments.clone());
        close(posterior.mean(), Tensor::from_floats([[1.0, 2.0]], &Device::default()));
        close(posterior.log_variance(), Tensor::from_floats([[33.0, 4.0]], &Device::default()));
        let clamped = DiagonalGaussian::from_moments_clamped(moments);
        close(clamped.log_variance(), Tensor::from_floats([[20.0, 4.0]], &Device::default()));
    }
}
