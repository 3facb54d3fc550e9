//! Encoder and decoder of strided convolutions with batch normalization: the network of PyTorch-VAE's `VanillaVAE`.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{conv2d, dense};
use serde::{Deserialize, Serialize};

use super::diagonal_gaussian::DiagonalGaussian;
use crate::batch_norm::BatchNorm;
use crate::network::Problem;
use crate::pass::Pass;

/// Strided convolutions with batch normalization, each of which halves the image, and transposed ones back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VanillaConfig {
    /// Channels after each halving of the image.
    pub hidden_dims: Vec<usize>,
    /// Dimensions of the latent.
    pub latent: usize,
    /// Whether the decoder ends with a hyperbolic tangent, which keeps images in [-1, 1]; left out: where `vae.likelihood` is
    /// `"gaussian"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tanh: Option<bool>,
}

impl Default for VanillaConfig {
    fn default() -> Self {
        Self { hidden_dims: vec![32, 64, 128], latent: 8, tanh: None }
    }
}

/// Slope of the leaky rectifier below 0.
const SLOPE: f64 = 0.01;

impl VanillaConfig {
    /// All reasons why this network cannot be built for items of this shape.
    pub fn problems(&self, [_, height, width]: [usize; 3]) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.hidden_dims.is_empty() || self.hidden_dims.contains(&0) {
            problems.push(Problem::new("hidden_dims", "one number of at least 1 for each halving of the image"));
        }
        if self.latent == 0 {
            problems.push(Problem::new("latent", "must be at least 1, not 0"));
        }
        let halvings = self.hidden_dims.len();
        let unit = u32::try_from(halvings).ok().and_then(|halvings| 1usize.checked_shl(halvings));
        if !unit.is_some_and(|unit| height.is_multiple_of(unit) && width.is_multiple_of(unit)) {
            let message = format!("images of {height}x{width} cannot be halved {halvings} times");
            problems.push(Problem::new("hidden_dims", message));
        }
        problems
    }

    /// Builds the network for items of this shape, whose decoder gives `outputs` numbers in place of each channel.
    pub fn init(&self, [channels, height, width]: [usize; 3], outputs: usize, device: &Device) -> Vanilla {
        let halvings = self.hidden_dims.len();
        let [first, last] = [self.hidden_dims[0], self.hidden_dims[halvings - 1]];
        let coarse = [last, height >> halvings, width >> halvings];
        let size = coarse.iter().product();
        let down: Vec<usize> = std::iter::once(channels).chain(self.hidden_dims.iter().copied()).collect();
        let up: Vec<usize> = self.hidden_dims.iter().rev().copied().collect();
        let linear = |inputs: usize, outputs: usize| LinearConfig::new(inputs, outputs).init(device);
        let last_conv = Conv2dConfig::new([first, outputs], [3, 3]).with_padding(PADDING);
        Vanilla {
            encoder: down.windows(2).map(|pair| Down::new([pair[0], pair[1]], device)).collect(),
            fc_mu: linear(size, self.latent),
            fc_var: linear(size, self.latent),
            decoder_input: linear(self.latent, size),
            decoder: up.windows(2).map(|pair| Up::new([pair[0], pair[1]], device)).collect(),
            final_layer: Up::new([first, first], device),
            final_conv: last_conv.init(device),
            coarse,
            tanh: self.tanh.unwrap_or_default(),
        }
    }

    /// Values that a training step keeps for one item.
    pub fn kept_values(&self, [channels, height, width]: [usize; 3], outputs: usize) -> usize {
        // Convolution, normalization and rectifier, on the way down and on the way up.
        let level = |level: usize, channels: usize| 3 * channels * ((height * width) >> (2 * level));
        let down = self.hidden_dims.iter().enumerate().map(|(number, &channels)| level(number + 1, channels));
        let up = self.hidden_dims.iter().enumerate().map(|(number, &channels)| level(number, channels));
        (channels + 3 * outputs) * height * width + down.sum::<usize>() + up.sum::<usize>()
    }
}

const PADDING: PaddingConfig2d = PaddingConfig2d::Explicit(1, 1, 1, 1);

/// The network. The names of its layers are those of PyTorch-VAE, where it numbers them not.
#[derive(Module, Debug)]
pub struct Vanilla {
    encoder: Vec<Down>,
    fc_mu: Linear,
    fc_var: Linear,
    decoder_input: Linear,
    decoder: Vec<Up>,
    final_layer: Up,
    final_conv: Conv2d,
    /// Shape of the lowest resolution.
    #[module(skip)]
    coarse: [usize; 3],
    #[module(skip)]
    tanh: bool,
}

impl Vanilla {
    /// Images `[B, C, H, W]` to their posterior `[B, latent, 1, 1]`.
    pub fn encode(&self, x: Tensor<4>, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        let rows = x.dims()[0];
        let h = self
            .encoder
            .iter()
            .enumerate()
            .fold(x, |h, (number, level)| level.forward(h, &pass.inside(format_args!("encoder.{number}"))));
        let h: Tensor<2> = h.reshape([rows as i32, -1]);
        let head = |name: &str, layer: &Linear| {
            let y = pass.layer(name, h.clone(), |h| dense(layer, h, pass.precision));
            let latent = y.dims()[1];
            y.reshape([rows, latent, 1, 1])
        };
        DiagonalGaussian::new(head("fc_mu", &self.fc_mu), head("fc_var", &self.fc_var))
    }

    /// Latents `[B, latent, 1, 1]` to what the likelihood takes, `[B, outputs, H, W]`.
    pub fn decode(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let ([rows, latent, ..], [channels, height, width]) = (z.dims(), self.coarse);
        let z = z.reshape([rows, latent]);
        let h = pass.layer("decoder_input", z, |z| dense(&self.decoder_input, z, pass.precision));
        let h = h.reshape([rows, channels, height, width]);
        let h = self
            .decoder
            .iter()
            .enumerate()
            .fold(h, |h, (number, level)| level.forward(h, &pass.inside(format_args!("decoder.{number}"))));
        let h = self.final_layer.forward(h, &pass.inside(format_args!("final_layer")));
        let y = pass.layer("final_conv", h, |h| conv2d(&self.final_conv, h, pass.precision));
        if self.tanh { y.tanh() } else { y }
    }
}

/// To half the height and width.
#[derive(Module, Debug)]
struct Down {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Down {
    fn new(channels: [usize; 2], device: &Device) -> Self {
        let conv = Conv2dConfig::new(channels, [3, 3]).with_stride([2, 2]).with_padding(PADDING);
        Self { conv: conv.init(device), norm: BatchNorm::new(channels[1], device) }
    }

    fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let h = pass.layer("conv", x, |x| conv2d(&self.conv, x, pass.precision));
        leaky_relu(pass.layer("norm", h, |h| self.norm.forward(h, pass)), SLOPE)
    }
}

/// To double the height and width.
#[derive(Module, Debug)]
struct Up {
    conv: ConvTranspose2d,
    norm: BatchNorm,
}

impl Up {
    fn new(channels: [usize; 2], device: &Device) -> Self {
        let conv = ConvTranspose2dConfig::new(channels, [3, 3]).with_stride([2, 2]).with_padding([1, 1]);
        Self { conv: conv.with_padding_out([1, 1]).init(device), norm: BatchNorm::new(channels[1], device) }
    }

    /// The transposed convolution is Burn's, whatever the precision of the others.
    fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let h = pass.layer("conv", x, |x| self.conv.forward(x));
        leaky_relu(pass.layer("norm", h, |h| self.norm.forward(h, pass)), SLOPE)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pass::Trace;
    use burn::tensor::Distribution;

    #[test]
    fn shapes_are_those_of_the_items_whatever_their_size_and_channels() {
        let device = Device::default();
        for (hidden_dims, shape, outputs) in
            [(vec![3], [1, 4, 6], 1), (vec![4, 2], [3, 8, 8], 10), (vec![2, 3, 4], [1, 8, 16], 1)]
        {
            let config = VanillaConfig { hidden_dims, latent: 5, tanh: Some(outputs == 1) };
            assert_eq!(config.problems(shape), []);
            let network = config.init(shape, outputs, &device);
            let [channels, height, width] = shape;
            let x = Tensor::random([2, channels, height, width], Distribution::Default, &device);
            let posterior = network.encode(x, &Pass::default());
            assert_eq!(posterior.log_variance().dims(), [2, 5, 1, 1]);
            let y = network.decode(posterior.mean().mul_scalar(100.0), &Pass::default());
            assert_eq!(y.dims(), [2, outputs, height, width]);
            let largest = y.abs().max().into_scalar::<f32>();
            assert!(outputs > 1 || largest <= 1.0, "{largest}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = VanillaConfig { hidden_dims: vec![8, 0], latent: 0, tanh: None };
        let found: Vec<String> = config.problems([1, 8, 6]).iter().map(ToString::to_string).collect();
        for part in
            ["hidden_dims: one number", "latent: must be", "hidden_dims: images of 8x6 cannot be halved 2 times"]
        {
            assert!(found.iter().any(|message| message.starts_with(part)), "{part} is not in {found:?}");
        }
        let many = VanillaConfig { hidden_dims: vec![1; 80], ..VanillaConfig::default() };
        assert_eq!(many.problems([1, 8, 8]).len(), 1);
    }

    #[test]
    fn layers_are_observed_under_the_names_of_their_parameters() {
        let device = Device::default();
        let network = VanillaConfig { hidden_dims: vec![2, 3], ..VanillaConfig::default() }.init([1, 4, 4], 1, &device);
        let trace = Trace::default();
        let x = Tensor::random([1, 1, 4, 4], Distribution::Default, &device);
        network.decode(network.encode(x, &trace.pass()).mean(), &trace.pass());
        let paths: Vec<String> = trace.into_layers().into_iter().map(|layer| layer.path).collect();
        for path in ["encoder.1.norm", "fc_var", "decoder_input", "decoder.0.conv", "final_layer.norm", "final_conv"] {
            assert!(paths.iter().any(|found| found == path), "{path} is not in {paths:?}");
        }
    }
}
