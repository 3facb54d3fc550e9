//! The distribution of data given a latent: what the decoder's numbers mean.

use burn::tensor::Tensor;
use ddpm_model::likelihood::logistic_mixture::Tails;
use ddpm_model::likelihood::{PixelLikelihood, gaussian};
use serde::{Deserialize, Serialize};

use super::tables::DecoderVariance;

/// The distribution of data given a latent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LikelihoodKind {
    /// Black or white; values between them are read as probabilities. For images.
    Bernoulli,
    /// Gaussian errors; see `vae.variance`.
    #[default]
    Gaussian,
    /// One logistic for each value, which gives each of the `vae.levels` values of a pixel a probability. For images.
    DiscretizedLogistic,
    /// A mixture of `vae.mixtures` logistics for each pixel, which gives each of the `vae.levels` values a probability
    /// (Salimans et al. 2017). For images.
    LogisticMixture,
}

/// A likelihood for data of one kind.
///
/// Items are in the units of the networks, where images go from -1 to 1; densities and probabilities are of images from 0
/// to 1, and of standardized points.
#[derive(Clone, Copy, Debug)]
pub struct Likelihood {
    /// The distribution.
    pub kind: LikelihoodKind,
    /// Logistics of a mixture.
    pub mixtures: usize,
    /// Values that a pixel can have, where these have probabilities.
    pub levels: usize,
    /// Where the variance of a Gaussian comes from.
    pub variance: DecoderVariance,
    /// The standard deviation of a Gaussian where that is fixed.
    pub sigma: f64,
    /// Whether the data are images.
    pub of_images: bool,
}

impl Likelihood {
    /// Numbers that the decoder gives in place of so many channels.
    pub fn outputs(&self, channels: usize) -> usize {
        self.of_pixels().map_or(channels, |pixels| pixels.parameters(channels))
    }

    /// The likelihood of pixels, if it is one.
    fn of_pixels(&self) -> Option<PixelLikelihood> {
        let (mixtures, levels, tails) = (self.mixtures, self.levels, Tails::Density);
        match self.kind {
            LikelihoodKind::Gaussian => None,
            LikelihoodKind::Bernoulli => Some(PixelLikelihood::Bernoulli {}),
            LikelihoodKind::DiscretizedLogistic => Some(PixelLikelihood::DiscretizedLogistic { levels }),
            LikelihoodKind::LogisticMixture => Some(PixelLikelihood::LogisticMixture { mixtures, levels, tails }),
        }
    }

    /// The shape of the parameter `ln sigma` for items of this shape, if there is one.
    pub fn sigma_shape(&self, shape: [usize; 3]) -> Option<[usize; 4]> {
        let [channels, height, width] = shape;
        match (self.kind, self.variance) {
            (LikelihoodKind::Gaussian, DecoderVariance::LearnedByDimension) => Some([1, channels, height, width]),
            (LikelihoodKind::Gaussian, DecoderVariance::Learned | DecoderVariance::Optimal) => Some([1; 4]),
            _ => None,
        }
    }

    /// `log p(x|z)` of each row in nats, `[B]`.
    pub fn log_prob(&self, x: Tensor<4>, decoded: Tensor<4>, log_sigma: Option<Tensor<4>>) -> Tensor<1> {
        if let Some(pixels) = self.of_pixels() {
            return pixels.log_prob(decoded, x);
        }
        let log_sigma = log_sigma.unwrap_or_else(|| Tensor::full([1; 4], self.sigma.ln(), &decoded.device()));
        let of_values = gaussian::log_prob(self.unit(x), self.unit(decoded), log_sigma);
        of_values.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1)
    }

    /// The `ln sigma` under which the errors of a batch are most likely.
    pub fn optimal_log_sigma(&self, x: Tensor<4>, decoded: Tensor<4>) -> Tensor<4> {
        gaussian::optimal_log_sigma(self.unit(x), self.unit(decoded))
    }

    /// The mean of the distribution for items of so many channels, in the units of the networks.
    pub fn mean(&self, decoded: Tensor<4>, channels: usize) -> Tensor<4> {
        match self.of_pixels() {
            Some(pixels) => pixels.mean(decoded, channels),
            None => decoded,
        }
    }

    /// Images from [-1, 1] to [0, 1].
    fn unit(&self, x: Tensor<4>) -> Tensor<4> {
        if self.of_images { (x + 1.0).mul_scalar(0.5) } else { x }
    }
}
