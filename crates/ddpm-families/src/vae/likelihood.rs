//! The distribution of data given a latent: what the decoder's numbers mean.

use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData};
use ddpm_model::likelihood::{bernoulli, gaussian};
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
}

/// A likelihood for data of one kind.
///
/// Items are in the units of the networks, where images go from -1 to 1; densities and probabilities are of images from 0
/// to 1, and of standardized points.
#[derive(Clone, Copy, Debug)]
pub struct Likelihood {
    /// The distribution.
    pub kind: LikelihoodKind,
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
        match self.kind {
            LikelihoodKind::Bernoulli | LikelihoodKind::Gaussian => channels,
        }
    }

    /// Whether it gives probabilities to values of 8 bits, not densities.
    pub fn is_discrete(&self) -> bool {
        match self.kind {
            LikelihoodKind::Bernoulli | LikelihoodKind::Gaussian => false,
        }
    }

    /// The shape of the parameter `ln sigma` for items of this shape, if there is one.
    pub fn sigma_shape(&self, shape: [usize; 3]) -> Option<[usize; 4]> {
        let [channels, height, width] = shape;
        match (self.kind, self.variance) {
            (LikelihoodKind::Gaussian, DecoderVariance::LearnedByDimension) => Some([1, channels, height, width]),
            (LikelihoodKind::Gaussian, DecoderVariance::Learned | DecoderVariance::Optimal) => Some([1; 4]),
            (LikelihoodKind::Gaussian, DecoderVariance::Fixed) | (LikelihoodKind::Bernoulli, _) => None,
        }
    }

    /// `log p(x|z)` of each row in nats, `[B]`.
    pub fn log_prob(&self, x: Tensor<4>, decoded: Tensor<4>, log_sigma: Option<Tensor<4>>) -> Tensor<1> {
        let rows = x.dims()[0];
        let values = match self.kind {
            LikelihoodKind::Bernoulli => bernoulli::log_prob(self.unit(x), decoded),
            LikelihoodKind::Gaussian => {
                let log_sigma = log_sigma.unwrap_or_else(|| Tensor::full([1; 4], self.sigma.ln(), &decoded.device()));
                gaussian::log_prob(self.unit(x), self.unit(decoded), log_sigma)
            }
        };
        values.reshape([rows as i32, -1]).sum_dim(1).reshape([rows])
    }

    /// The `ln sigma` under which the errors of a batch are most likely.
    pub fn optimal_log_sigma(&self, x: Tensor<4>, decoded: Tensor<4>) -> Tensor<4> {
        gaussian::optimal_log_sigma(self.unit(x), self.unit(decoded))
    }

    /// The mean of the distribution, in the units of the networks.
    pub fn mean(&self, decoded: Tensor<4>) -> Tensor<4> {
        match self.kind {
            LikelihoodKind::Bernoulli => sigmoid(decoded).mul_scalar(2.0) - 1.0,
            LikelihoodKind::Gaussian => decoded,
        }
    }

    /// Images from [-1, 1] to [0, 1].
    fn unit(&self, x: Tensor<4>) -> Tensor<4> {
        if self.of_images { (x + 1.0).mul_scalar(0.5) } else { x }
    }
}

/// Items, one after the other, as a batch.
pub(super) fn batch_of(values: Vec<f32>, shape: [usize; 3], device: &burn::tensor::Device) -> Tensor<4> {
    let [channels, height, width] = shape;
    let rows = values.len() / (channels * height * width);
    Tensor::from_data(TensorData::new(values, [rows, channels, height, width]), device)
}
