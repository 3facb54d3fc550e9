//! Encoder and decoder of dense layers, for points and small images.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{dense, silu};
use serde::{Deserialize, Serialize};

use super::diagonal_gaussian::DiagonalGaussian;
use crate::network::Problem;
use crate::pass::Pass;

/// A multi-layer perceptron in each direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerceptronConfig {
    /// Widths of the hidden layers of the encoder; the decoder has them in reverse. None: both are linear.
    pub hidden: Vec<usize>,
    /// Dimensions of the latent.
    pub latent: usize,
    /// The function between the layers.
    pub activation: Activation,
}

impl Default for PerceptronConfig {
    fn default() -> Self {
        Self { hidden: vec![256, 256], latent: 8, activation: Activation::Silu }
    }
}

/// The function between layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    #[default]
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `x Phi(x)`, with the exact distribution function of the normal distribution.
    Gelu,
}

impl Activation {
    fn apply(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Relu => relu(x),
            Self::Silu => silu(x),
            Self::Tanh => x.tanh(),
            Self::Gelu => gelu(x),
        }
    }
}

impl PerceptronConfig {
    /// All reasons why this network cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.hidden.contains(&0) {
            problems.push(Problem::new("hidden", "a layer needs at least one value"));
        }
        if self.latent == 0 {
            problems.push(Problem::new("latent", "must be at least 1, not 0"));
        }
        problems
    }

    /// Builds the network for items of this shape, whose decoder gives `outputs` numbers in place of each channel.
    pub fn init(&self, shape: [usize; 3], outputs: usize, device: &Device) -> Perceptron {
        let [channels, height, width] = shape;
        let given = [channels * height * width];
        let stack = |widths: &[usize]| {
            widths.windows(2).map(|pair| LinearConfig::new(pair[0], pair[1]).init(device)).collect::<Vec<Linear>>()
        };
        let down: Vec<usize> = given.iter().chain(&self.hidden).copied().collect();
        let up: Vec<usize> = [self.latent].iter().chain(self.hidden.iter().rev()).copied().collect();
        let linear = |inputs: usize, outputs: usize| LinearConfig::new(inputs, outputs).init(device);
        let (last, first) = (down[down.len() - 1], up[up.len() - 1]);
        Perceptron {
            encoder: stack(&down),
            mean: linear(last, self.latent),
            log_variance: linear(last, self.latent),
            decoder: stack(&up),
            out: linear(first, outputs * height * width),
            output: [outputs, height, width],
            activation: self.activation,
        }
    }

    /// Values that a training step keeps for one item.
    pub fn kept_values(&self, shape: [usize; 3], outputs: usize) -> usize {
        let [channels, height, width] = shape;
        4 * self.hidden.iter().sum::<usize>() + (channels + 3 * outputs) * height * width + 8 * self.latent
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Perceptron {
    encoder: Vec<Linear>,
    mean: Linear,
    log_variance: Linear,
    decoder: Vec<Linear>,
    out: Linear,
    #[module(skip)]
    output: [usize; 3],
    #[module(skip)]
    activation: Activation,
}

impl Perceptron {
    /// Items `[B, C, H, W]` to their posterior `[B, latent, 1, 1]`.
    pub fn encode(&self, x: Tensor<4>, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        let rows = x.dims()[0];
        let h = self.hidden(&self.encoder, x.reshape([rows as i32, -1]), &pass.inside(format_args!("encoder")));
        let head = |name: &str, layer: &Linear| {
            let y = pass.layer(name, h.clone(), |h| dense(layer, h, pass.precision));
            let latent = y.dims()[1];
            y.reshape([rows, latent, 1, 1])
        };
        DiagonalGaussian::new(head("mean", &self.mean), head("log_variance", &self.log_variance))
    }

    /// Latents `[B, latent, 1, 1]` to what the likelihood takes, `[B, outputs, H, W]`.
    pub fn decode(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let [rows, latent, ..] = z.dims();
        let h = self.hidden(&self.decoder, z.reshape([rows, latent]), &pass.inside(format_args!("decoder")));
        let [outputs, height, width] = self.output;
        pass.layer("out", h, |h| dense(&self.out, h, pass.precision)).reshape([rows, outputs, height, width])
    }

    fn hidden(&self, layers: &[Linear], x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        layers.iter().enumerate().fold(x, |h, (number, layer)| {
            self.activation.apply(pass.layer(&number.to_string(), h, |h| dense(layer, h, pass.precision)))
        })
    }
}
