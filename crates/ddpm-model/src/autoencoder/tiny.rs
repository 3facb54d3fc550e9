//! TAESD, a small autoencoder for previews of latents, as diffusers' `AutoencoderTiny` computes it.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{PaddingConfig2d, Relu};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, add, conv2d};
use serde::{Deserialize, Serialize};

use super::config::{check_images, check_latents, level_problem};
use crate::network::{NetworkError, Problem};
use crate::pass::Pass;
use crate::unet::layers::{Start, conv3x3, conv3x3_strided};
use crate::unet::resample::Resize;

/// The range that the decoder limits its latents to, softly.
const LATENT_LIMIT: f64 = 3.0;

/// An `AutoencoderTiny`, in the terms and with the defaults of diffusers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderTinyConfig {
    /// Channels of the images that are encoded.
    pub in_channels: usize,
    /// Channels of the images that are decoded.
    pub out_channels: usize,
    /// Channels of each level of the encoder, all the same.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of each level of the decoder, all the same.
    pub decoder_block_out_channels: Vec<usize>,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Blocks on each level of the encoder, from the image down.
    pub num_encoder_blocks: Vec<usize>,
    /// Blocks on each level of the decoder, from the latent up.
    pub num_decoder_blocks: Vec<usize>,
    /// Where latents lie, from minus this to this; for storing them as images.
    pub latent_magnitude: f64,
    /// Where a latent of 0 lies in such an image.
    pub latent_shift: f64,
    /// Factor of the latents that a latent model is trained on.
    pub scaling_factor: f64,
    /// Subtracted from the latents before they are scaled.
    pub shift_factor: f64,
    /// Whether pipelines should decode in f32. The network itself does not read it.
    pub force_upcast: bool,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            latent_channels: 4,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            scaling_factor: 1.0,
            shift_factor: 0.0,
            force_upcast: false,
        }
    }
}

impl AutoencoderTinyConfig {
    /// All reasons why this network cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ];
        for (key, _) in counts.into_iter().filter(|&(_, count)| count == 0) {
            report(key, "must be at least 1".into());
        }
        for (key, channels) in [
            ("encoder_block_out_channels", &self.encoder_block_out_channels),
            ("decoder_block_out_channels", &self.decoder_block_out_channels),
        ] {
            if let Some(message) = level_problem(channels) {
                report(key, message);
            } else if channels.windows(2).any(|pair| pair[0] != pair[1]) {
                report(key, format!("{channels:?} are not the same on all levels"));
            }
        }
        for (key, blocks, channels) in [
            ("num_encoder_blocks", &self.num_encoder_blocks, &self.encoder_block_out_channels),
            ("num_decoder_blocks", &self.num_decoder_blocks, &self.decoder_block_out_channels),
        ] {
            if blocks.len() != channels.len() {
                report(key, format!("has {} entries for {} levels", blocks.len(), channels.len()));
            }
        }
        if !(self.latent_magnitude > 0.0 && self.latent_magnitude.is_finite()) {
            report("latent_magnitude", format!("{} is not a positive number", self.latent_magnitude));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            report("scaling_factor", format!("{} is not a number other than 0", self.scaling_factor));
        }
        problems
    }

    /// Whether a batch of images of this shape, batch first, can be encoded.
    pub fn check_images(&self, shape: &[usize]) -> Result<(), NetworkError> {
        check_images(shape, self.in_channels, self.encoder_block_out_channels.len())
    }

    /// Whether a batch of latents of this shape, batch first, can be decoded.
    pub fn check_latents(&self, shape: &[usize]) -> Result<(), NetworkError> {
        check_latents(shape, self.latent_channels)
    }

    /// Latents as the values of an image from 0 to 1; what lies outside is cut.
    pub fn scale_latents(&self, z: Tensor<4>) -> Tensor<4> {
        (z / (2.0 * self.latent_magnitude) + self.latent_shift).clamp(0.0, 1.0)
    }

    /// The inverse of [`scale_latents`](Self::scale_latents).
    pub fn unscale_latents(&self, x: Tensor<4>) -> Tensor<4> {
        (x - self.latent_shift) * (2.0 * self.latent_magnitude)
    }

    /// Builds the network. The config must have no [`problems`](Self::problems).
    pub fn init(&self, device: &Device) -> AutoencoderTiny {
        AutoencoderTiny {
            encoder: Layers { layers: self.encoder_layers(device) },
            decoder: Layers { layers: self.decoder_layers(device) },
            config: self.clone(),
            precision: Precision::F32,
        }
    }

    fn encoder_layers(&self, device: &Device) -> Vec<Layer> {
        let mut layers = Vec::new();
        let mut last = self.in_channels;
        for (level, (&channels, &blocks)) in
            self.encoder_block_out_channels.iter().zip(&self.num_encoder_blocks).enumerate()
        {
            layers.push(Layer::Conv(match level {
                0 => conv3x3([last, channels], Start::Random, device),
                _ => without_bias(conv3x3_strided([last, channels], PaddingConfig2d::Explicit(1, 1, 1, 1), device)),
            }));
            layers.extend((0..blocks).map(|_| Layer::Block(Block::new(channels, device))));
            last = channels;
        }
        layers.push(Layer::Conv(conv3x3([last, self.latent_channels], Start::Random, device)));
        layers
    }

    fn decoder_layers(&self, device: &Device) -> Vec<Layer> {
        let channels = self.decoder_block_out_channels.first().copied().unwrap_or_default();
        let mut layers = vec![
            Layer::Conv(conv3x3([self.latent_channels, channels], Start::Random, device)),
            Layer::Relu(Relu::new()),
        ];
        let last = self.decoder_block_out_channels.len().saturating_sub(1);
        for (level, (&channels, &blocks)) in
            self.decoder_block_out_channels.iter().zip(&self.num_decoder_blocks).enumerate()
        {
            layers.extend((0..blocks).map(|_| Layer::Block(Block::new(channels, device))));
            if level < last {
                let conv = without_bias(conv3x3([channels; 2], Start::Random, device));
                layers.extend([Layer::Double(Double), Layer::Conv(conv)]);
            } else {
                layers.push(Layer::Conv(conv3x3([channels, self.out_channels], Start::Random, device)));
            }
        }
        layers
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    encoder: Layers,
    decoder: Layers,
    #[module(skip)]
    config: AutoencoderTinyConfig,
    #[module(skip)]
    precision: Precision,
}

impl AutoencoderTiny {
    /// The config that this network was built from.
    pub fn config(&self) -> &AutoencoderTinyConfig {
        &self.config
    }

    /// Images `[B, C, H, W]` from -1 to 1 to latents `[B, L, h, w]`, which have the scale of a latent model's.
    pub fn encode(&self, x: Tensor<4>) -> Tensor<4> {
        self.encode_with(x, &Pass::default())
    }

    /// As [`encode`](Self::encode), with a pass that can observe every layer.
    pub fn encode_with(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        debug_assert_eq!(self.config.check_images(&x.dims()), Ok(()));
        let (pass, dtype) = (&pass.of(self.precision), x.dtype());
        let x = pass.precision.carried((x + 1.0) / 2.0);
        self.encoder.forward(x, &pass.inside(format_args!("encoder"))).cast(dtype)
    }

    /// Latents `[B, L, h, w]` to images `[B, C, H, W]` from -1 to 1.
    pub fn decode(&self, z: Tensor<4>) -> Tensor<4> {
        self.decode_with(z, &Pass::default())
    }

    /// As [`decode`](Self::decode), with a pass that can observe every layer.
    pub fn decode_with(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        debug_assert_eq!(self.config.check_latents(&z.dims()), Ok(()));
        let (pass, dtype) = (&pass.of(self.precision), z.dtype());
        let z = pass.precision.carried((z / LATENT_LIMIT).tanh() * LATENT_LIMIT);
        self.decoder.forward(z, &pass.inside(format_args!("decoder"))).cast(dtype) * 2.0 - 1.0
    }

    /// Has the network compute in this precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }
}

/// A list of layers, so that their keys are `layers.0`, `layers.1` and so on, as in diffusers' files.
#[derive(Module, Debug)]
struct Layers {
    layers: Vec<Layer>,
}

impl Layers {
    fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let run = |x, (i, layer): (usize, &Layer)| layer.forward(x, &pass.inside(format_args!("layers.{i}")));
        self.layers.iter().enumerate().fold(x, run)
    }
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // A few dozen per network: a box would save nothing.
enum Layer {
    Conv(Conv2d),
    Relu(Relu),
    Double(Double),
    Block(Block),
}

impl Layer {
    fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        match self {
            Self::Conv(conv) => pass.layer("conv", x, |x| conv2d(conv, x, pass.precision)),
            Self::Relu(relu) => relu.forward(x),
            Self::Double(_) => Resize::Double.apply(x),
            Self::Block(block) => block.forward(x, pass),
        }
    }
}

/// Nearest-neighbor upsampling, which counts as a layer.
#[derive(Module, Debug)]
struct Double;

/// Three convolutions with a residual connection.
#[derive(Module, Debug)]
struct Block {
    // The activations count in diffusers' keys: `conv.0`, `conv.2`, `conv.4`.
    conv: Vec<ConvOrRelu>,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // As above.
enum ConvOrRelu {
    Conv(Conv2d),
    Relu(Relu),
}

impl Block {
    fn new(channels: usize, device: &Device) -> Self {
        let conv = || ConvOrRelu::Conv(conv3x3([channels; 2], Start::Random, device));
        let relu = || ConvOrRelu::Relu(Relu::new());
        Self { conv: vec![conv(), relu(), conv(), relu(), conv()] }
    }

    fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let run = |h, (i, layer): (usize, &ConvOrRelu)| match layer {
            ConvOrRelu::Conv(conv) => pass.layer(&format!("conv.{i}"), h, |h| conv2d(conv, h, pass.precision)),
            ConvOrRelu::Relu(relu) => relu.forward(h),
        };
        let h = self.conv.iter().enumerate().fold(x.clone(), run);
        pass.joined("sum", Relu::new().forward(add(h, x)))
    }
}

fn without_bias(conv: Conv2d) -> Conv2d {
    Conv2d { bias: None, ..conv }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As many as in <https://github.com/madebyollin/taesd>.
    #[test]
    fn taesd_has_its_number_of_parameters() {
        let config = AutoencoderTinyConfig::default();
        assert_eq!(config.problems(), vec![]);
        let network = config.init(&Device::default());
        assert_eq!([network.encoder.num_params(), network.decoder.num_params()], [1_222_532, 1_222_531]);
    }

    #[test]
    fn problems_and_shapes_are_reported_by_key() {
        let config = AutoencoderTinyConfig {
            encoder_block_out_channels: vec![8, 16],
            decoder_block_out_channels: vec![],
            num_encoder_blocks: vec![1],
            latent_channels: 0,
            latent_magnitude: 0.0,
            ..AutoencoderTinyConfig::default()
        };
        let found: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        for part in [
            "encoder_block_out_channels: [8, 16] are not the same",
            "decoder_block_out_channels: needs at least one level",
            "num_encoder_blocks: has 1 entries for 2 levels",
            "num_decoder_blocks: has 4 entries for 0 levels",
            "latent_channels: must be at least 1",
            "latent_magnitude: 0 is not",
        ] {
            assert!(found.iter().any(|message| message.starts_with(part)), "{part} is not in {found:?}");
        }
        let config = AutoencoderTinyConfig::default();
        assert_eq!(config.check_images(&[1, 3, 16, 24]), Ok(()));
        assert!(config.check_images(&[1, 3, 16, 20]).unwrap_err().to_string().contains("multiples of 8"));
        assert!(config.check_latents(&[1, 3, 2, 2]).unwrap_err().to_string().contains("4, height"));
    }
}
