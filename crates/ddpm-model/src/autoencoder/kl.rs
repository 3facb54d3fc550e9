//! The autoencoder of latent diffusion (Rombach et al. 2022), as diffusers' `AutoencoderKL` computes it.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{Precision, conv2d, norm_silu};

use super::config::{AutoencoderKLConfig, Level};
use super::diagonal_gaussian::DiagonalGaussian;
use crate::pass::Pass;
use crate::unet::attention::{SelfAttention, SelfAttentionConfig};
use crate::unet::block::{ResidualBlock, ResidualBlockConfig};
use crate::unet::layers::{Norm, Start, conv1x1, conv3x3};
use crate::unet::resample::{ConvDown, ConvUp, Resize};
use crate::unet::{DownsamplePadding, TimeShift};

/// Of every group normalization; diffusers has no key for it.
const NORM_EPS: f64 = 1e-6;

impl AutoencoderKLConfig {
    /// Builds the network. The config must have no [`problems`](Self::problems).
    ///
    /// Blocks begin as the identity, as in the U-Net; the last layers of encoder and decoder do not begin at zero.
    pub fn init(&self, device: &Device) -> AutoencoderKL {
        let moments = 2 * self.latent_channels;
        let quant = |used: bool, channels| used.then(|| conv1x1([channels; 2], Start::Random, device));
        AutoencoderKL {
            encoder: self.encoder(moments, device),
            decoder: self.decoder(device),
            quant_conv: quant(self.use_quant_conv, moments),
            post_quant_conv: quant(self.use_post_quant_conv, self.latent_channels),
            config: self.clone(),
            precision: Precision::F32,
        }
    }

    /// The encoder, to `moments` channels.
    pub(super) fn encoder(&self, moments: usize, device: &Device) -> Encoder {
        let [first, last] = self.ends();
        let down_block = |level: Level| DownBlock {
            resnets: level.channels().map(|channels| self.residual_block(channels, device)).collect(),
            downsamplers: resampler(level, |channels| ConvDown::new(channels, DownsamplePadding::RightBottom, device)),
        };
        Encoder {
            conv_in: conv3x3([self.in_channels, first], Start::Random, device),
            down_blocks: self.down_levels().into_iter().map(down_block).collect(),
            mid_block: self.middle_block(device),
            conv_norm_out: self.norm().init(last, device),
            conv_out: conv3x3([last, moments], Start::Random, device),
        }
    }

    pub(super) fn decoder(&self, device: &Device) -> Decoder {
        let [first, last] = self.ends();
        let up_block = |level: Level| UpBlock {
            resnets: level.channels().map(|channels| self.residual_block(channels, device)).collect(),
            upsamplers: resampler(level, |channels| ConvUp::new(channels, device)),
        };
        Decoder {
            conv_in: conv3x3([self.latent_channels, last], Start::Random, device),
            mid_block: self.middle_block(device),
            up_blocks: self.up_levels().into_iter().map(up_block).collect(),
            conv_norm_out: self.norm().init(first, device),
            conv_out: conv3x3([first, self.out_channels], Start::Random, device),
        }
    }

    fn middle_block(&self, device: &Device) -> MiddleBlock {
        let channels = self.middle_channels();
        let attention = SelfAttentionConfig { channels, heads: 1, norm: Some(self.norm()) };
        MiddleBlock {
            resnets: (0..2).map(|_| self.residual_block([channels; 2], device)).collect(),
            attentions: self.mid_block_add_attention.then(|| attention.init(device)).into_iter().collect(),
        }
    }

    fn residual_block(&self, [in_channels, out_channels]: [usize; 2], device: &Device) -> ResidualBlock {
        let config = ResidualBlockConfig {
            in_channels,
            out_channels,
            time_width: None,
            norm: self.norm(),
            time_shift: TimeShift::Additive,
            dropout: 0.0,
            resize: Resize::Keep,
        };
        config.init(device)
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.norm_num_groups, eps: NORM_EPS }
    }
}

/// The list of the resampler after a level, empty where it has none.
fn resampler<T>(level: Level, init: impl FnOnce(usize) -> T) -> Vec<T> {
    level.resamples.then(|| init(level.out_channels)).into_iter().collect()
}

/// The network.
#[derive(Module, Debug)]
pub struct AutoencoderKL {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    #[module(skip)]
    config: AutoencoderKLConfig,
    #[module(skip)]
    precision: Precision,
}

impl AutoencoderKL {
    /// The config that this network was built from.
    pub fn config(&self) -> &AutoencoderKLConfig {
        &self.config
    }

    /// Images `[B, C, H, W]` to the posterior of their latents `[B, L, h, w]`, with the clamp.
    ///
    /// Shapes that [`check_images`](AutoencoderKLConfig::check_images) refuses are errors of the caller.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use ddpm_model::autoencoder::AutoencoderKLConfig;
    ///
    /// let config = AutoencoderKLConfig { block_out_channels: vec![32, 32], ..Default::default() };
    /// let autoencoder = config.init(&Device::default());
    /// let posterior = autoencoder.encode(Tensor::zeros([1, 3, 8, 12], &Device::default()));
    /// assert_eq!(posterior.mean().dims(), [1, 4, 4, 6]);
    /// assert_eq!(autoencoder.decode(posterior.mean()).dims(), [1, 3, 8, 12]);
    /// ```
    pub fn encode(&self, x: Tensor<4>) -> DiagonalGaussian<4> {
        self.encode_with(x, &Pass::default())
    }

    /// As [`encode`](Self::encode), with a pass that can observe every layer.
    pub fn encode_with(&self, x: Tensor<4>, pass: &Pass<'_>) -> DiagonalGaussian<4> {
        debug_assert_eq!(self.config.check_images(&x.dims()), Ok(()));
        let (pass, dtype) = (&pass.of(self.precision), x.dtype());
        let h = self.encoder.forward(pass.precision.carried(x), &pass.inside(format_args!("encoder")));
        let moments = quantize("quant_conv", &self.quant_conv, h, pass);
        DiagonalGaussian::from_moments_clamped(moments.cast(dtype))
    }

    /// Latents `[B, L, h, w]`, not scaled, to images `[B, C, H, W]`.
    pub fn decode(&self, z: Tensor<4>) -> Tensor<4> {
        self.decode_with(z, &Pass::default())
    }

    /// As [`decode`](Self::decode), with a pass that can observe every layer.
    pub fn decode_with(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        debug_assert_eq!(self.config.check_latents(&z.dims()), Ok(()));
        let (pass, dtype) = (&pass.of(self.precision), z.dtype());
        let h = quantize("post_quant_conv", &self.post_quant_conv, pass.precision.carried(z), pass);
        self.decoder.forward(h, &pass.inside(format_args!("decoder"))).cast(dtype)
    }

    /// The latents as a latent model is trained on them.
    pub fn scale_latents(&self, z: Tensor<4>) -> Tensor<4> {
        self.config.scale_latents(z)
    }

    /// The inverse of [`scale_latents`](Self::scale_latents).
    pub fn unscale_latents(&self, z: Tensor<4>) -> Tensor<4> {
        self.config.unscale_latents(z)
    }

    /// The same network with this scale of its latents, which is often measured after training.
    pub fn with_scaling_factor(mut self, scaling_factor: f64) -> Self {
        self.config.scaling_factor = scaling_factor;
        self
    }

    /// Has the network compute in this precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }
}

fn quantize(name: &str, conv: &Option<Conv2d>, h: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
    match conv {
        Some(conv) => pass.layer(name, h, |h| conv2d(conv, h, pass.precision)),
        None => h,
    }
}

#[derive(Module, Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MiddleBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn forward(&self, x: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let mut h = pass.layer("conv_in", x, |x| conv2d(&self.conv_in, x, pass.precision));
        for (i, block) in self.down_blocks.iter().enumerate() {
            let pass = pass.inside(format_args!("down_blocks.{i}"));
            h = residual_blocks(&block.resnets, h, &pass);
            for downsampler in &block.downsamplers {
                h = downsampler.forward(h, &pass.inside(format_args!("downsamplers.0")));
            }
        }
        let h = self.mid_block.forward(h, &pass.inside(format_args!("mid_block")));
        let h = pass.layer("conv_norm_out", h, |h| norm_silu(&self.conv_norm_out, h));
        pass.layer("conv_out", h, |h| conv2d(&self.conv_out, h, pass.precision))
    }
}

#[derive(Module, Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid_block: MiddleBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn forward(&self, z: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        let h = pass.layer("conv_in", z, |z| conv2d(&self.conv_in, z, pass.precision));
        let mut h = self.mid_block.forward(h, &pass.inside(format_args!("mid_block")));
        for (i, block) in self.up_blocks.iter().enumerate() {
            let pass = pass.inside(format_args!("up_blocks.{i}"));
            h = residual_blocks(&block.resnets, h, &pass);
            for upsampler in &block.upsamplers {
                h = upsampler.forward(h, &pass.inside(format_args!("upsamplers.0")));
            }
        }
        let h = pass.layer("conv_norm_out", h, |h| norm_silu(&self.conv_norm_out, h));
        pass.layer("conv_out", h, |h| conv2d(&self.conv_out, h, pass.precision))
    }
}

#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResidualBlock>,
    downsamplers: Vec<ConvDown>,
}

#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsamplers: Vec<ConvUp>,
}

/// Two residual blocks, with an attention between them where there is one.
#[derive(Module, Debug)]
struct MiddleBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<SelfAttention>,
}

impl MiddleBlock {
    fn forward(&self, mut h: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            h = resnet.forward_without_time(h, &pass.inside(format_args!("resnets.{i}")));
            if let Some(attention) = self.attentions.get(i) {
                h = attention.forward(h, &pass.inside(format_args!("attentions.{i}")));
            }
        }
        h
    }
}

fn residual_blocks(resnets: &[ResidualBlock], h: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
    let run = |h, (i, resnet): (usize, &ResidualBlock)| {
        resnet.forward_without_time(h, &pass.inside(format_args!("resnets.{i}")))
    };
    resnets.iter().enumerate().fold(h, run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::Trace;
    use burn::tensor::Distribution;

    fn config() -> AutoencoderKLConfig {
        AutoencoderKLConfig {
            block_out_channels: vec![4, 8],
            norm_num_groups: 2,
            latent_channels: 2,
            ..AutoencoderKLConfig::default()
        }
    }

    /// As many as in <https://huggingface.co/stabilityai/sd-vae-ft-mse>.
    #[test]
    fn the_autoencoder_of_stable_diffusion_has_its_number_of_parameters() {
        let config = AutoencoderKLConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..AutoencoderKLConfig::default()
        };
        assert_eq!(config.init(&Device::default()).num_params(), 83_653_863);
    }

    #[test]
    fn an_observed_pass_gives_the_same_values_under_the_names_of_the_parameters() {
        let device = Device::default();
        let network = config().init(&device);
        let x = Tensor::<4>::random([1, 3, 4, 6], Distribution::Default, &device);
        let posterior = network.encode(x.clone());
        let trace = Trace::default();
        let observed = network.encode_with(x, &trace.pass());
        assert_eq!(posterior.mean().into_data(), observed.mean().into_data());
        let y = network.decode_with(observed.mean(), &trace.pass());
        assert_eq!(y.into_data(), network.decode(posterior.mean()).into_data());
        let paths: Vec<String> = trace.into_layers().into_iter().map(|layer| layer.path).collect();
        for path in [
            "encoder.down_blocks.0.downsamplers.0.conv",
            "encoder.mid_block.attentions.0.to_out.0",
            "quant_conv",
            "decoder.up_blocks.1.resnets.1.conv2",
        ] {
            assert!(paths.iter().any(|found| found == path), "{path} is not in {paths:?}");
        }
    }

    #[test]
    fn half_precision_rounds_and_leaves_the_types_of_inputs_and_outputs() {
        let device = Device::default();
        let exact = config().init(&device);
        let mut rounded = exact.clone();
        rounded.set_precision(Precision::Bf16);
        let x = Tensor::<4>::random([2, 3, 4, 6], Distribution::Default, &device);
        let run = |network: &AutoencoderKL| network.decode(network.encode(x.clone()).mean());
        let [exact, rounded] = [run(&exact), run(&rounded)];
        assert_eq!(exact.dtype(), rounded.dtype());
        let error = (exact - rounded).abs().max().into_scalar::<f32>();
        assert!(error > 0.0 && error < 0.1, "{error}");
    }

    #[test]
    fn a_network_that_begins_encodes_and_decodes_something() {
        let device = Device::default();
        let network = config().init(&device);
        let x = Tensor::<4>::random([1, 3, 4, 6], Distribution::Normal(0.0, 1.0), &device);
        let deviation = |x: Tensor<4>| x.square().mean().sqrt().into_scalar::<f32>();
        let mean = network.encode(x).mean();
        assert!((0.05..5.0).contains(&deviation(mean.clone())));
        assert!((0.05..5.0).contains(&deviation(network.decode(mean))));
    }
}
