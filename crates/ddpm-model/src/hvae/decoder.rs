//! The top-down network: every block draws a latent, from the posterior or the prior, and adds it to the state of its
//! resolution.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{add, concat};

use super::blocks::DecoderBlock;
use super::config::{HvaeConfig, Layout};
use super::layers::{BottleneckBlock, BottleneckConfig, apply, conv, upsampled};
use super::normal::DiagonalNormal;
use crate::pass::Pass;

/// Where the latent of a block comes from.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // One per block: a box would save nothing.
pub(super) enum Source {
    /// The posterior given this state of the encoder.
    Posterior { activation: Tensor<4>, noise: Tensor<4> },
    /// The prior, its standard deviation multiplied by the temperature.
    Prior { noise: Tensor<4>, temperature: f64 },
    /// It is given.
    Given(Tensor<4>),
}

/// The latent of one block of the decoder.
#[derive(Clone, Debug)]
pub struct Latent {
    /// Its value, `[B, Z, R, R]`.
    pub value: Tensor<4>,
    /// The prior given all latents above.
    pub prior: DiagonalNormal,
    /// The posterior, where the value was drawn from it.
    pub posterior: Option<DiagonalNormal>,
}

impl Latent {
    /// The divergence of the posterior from the prior, `[B]`; nothing where the prior gave the value.
    pub fn kl(&self) -> Option<Tensor<1>> {
        self.posterior.as_ref().map(|posterior| posterior.kl(&self.prior))
    }

    /// `ln q(z | x) - ln p(z)` at the value, `[B]`, for importance-weighted bounds; nothing where the prior gave the value.
    pub fn log_ratio(&self) -> Option<Tensor<1>> {
        let posterior = self.posterior.as_ref()?;
        Some(posterior.log_density(self.value.clone()) - self.prior.log_density(self.value.clone()))
    }
}

#[derive(Module, Debug)]
pub(super) struct Decoder {
    dec_blocks: Vec<TopDownBlock>,
    /// The state that a resolution starts with, lowest resolution first.
    bias_xs: Vec<Param<Tensor<4>>>,
    gain: Param<Tensor<4>>,
    bias: Param<Tensor<4>>,
    out_net: OutNet,
}

/// A module of its own so that the key of the convolution is `out_net.out_conv`, as in VDVAE's files.
#[derive(Module, Debug)]
struct OutNet {
    out_conv: Conv2d,
}

impl Decoder {
    pub(super) fn init(config: &HvaeConfig, layout: &Layout, device: &Device) -> Self {
        let zeros = |shape: [usize; 4]| Initializer::Zeros.init(shape, device);
        let with_bias = layout.resolutions().into_iter().filter(|&resolution| resolution <= config.no_bias_above);
        let outputs = config.likelihood.parameters(config.image_channels);
        Self {
            dec_blocks: layout.decoder.iter().map(|block| TopDownBlock::init(config, layout, block, device)).collect(),
            bias_xs: with_bias.map(|resolution| zeros([1, layout.width(resolution), resolution, resolution])).collect(),
            gain: Initializer::Ones.init([1, config.width, 1, 1], device),
            bias: zeros([1, config.width, 1, 1]),
            out_net: OutNet { out_conv: conv([config.width, outputs], 1, 1.0, device) },
        }
    }

    /// The last state of the image's resolution, and the latents; one source for each block.
    pub(super) fn forward(
        &self,
        sources: Vec<Source>,
        config: &HvaeConfig,
        layout: &Layout,
        pass: &Pass<'_>,
    ) -> (Tensor<4>, Vec<Latent>) {
        let mut states = self.first_states(&sources, layout);
        let mut latents = Vec::new();
        for (i, (block, source)) in self.dec_blocks.iter().zip(sources).enumerate() {
            let DecoderBlock { resolution, mixin } = layout.decoder[i];
            let mut state = states[&resolution].clone();
            if let Some(mixin) = mixin {
                let added = states[&mixin].clone().narrow(1, 0, layout.width(resolution));
                state = add(state, upsampled(added, resolution));
            }
            let pass = pass.inside(format_args!("dec_blocks.{i}"));
            let (state, latent) = block.forward(state, source, config, &pass);
            states.insert(resolution, state);
            latents.push(latent);
        }
        let state = states[&config.image_size].clone() * self.gain.val() + self.bias.val();
        (pass.joined("gain", state), latents)
    }

    /// The parameters of the likelihood, `[B, P, H, W]`.
    pub(super) fn output(&self, state: Tensor<4>, pass: &Pass<'_>) -> Tensor<4> {
        apply("out_net.out_conv", &self.out_net.out_conv, state, pass)
    }

    /// The learned state of each resolution, or zeros, for the whole batch.
    fn first_states(&self, sources: &[Source], layout: &Layout) -> BTreeMap<usize, Tensor<4>> {
        let Some(reference) = sources.first().map(Source::tensor) else { return BTreeMap::new() };
        let batch = reference.dims()[0];
        let shape = |resolution| [batch, layout.width(resolution), resolution, resolution];
        let options = (&reference.device(), reference.dtype());
        let zeros = layout.resolutions().into_iter().map(|r| (r, Tensor::zeros(shape(r), options)));
        let mut states: BTreeMap<usize, Tensor<4>> = zeros.collect();
        for bias in &self.bias_xs {
            let bias = bias.val();
            let resolution = bias.dims()[2];
            states.insert(resolution, bias.expand(shape(resolution)));
        }
        states
    }
}

impl Source {
    fn tensor(&self) -> &Tensor<4> {
        match self {
            Self::Posterior { noise, .. } | Self::Prior { noise, .. } => noise,
            Self::Given(value) => value,
        }
    }
}

/// One block, named as in VDVAE.
#[derive(Module, Debug)]
struct TopDownBlock {
    enc: BottleneckBlock,
    prior: BottleneckBlock,
    z_proj: Conv2d,
    resnet: BottleneckBlock,
}

impl TopDownBlock {
    fn init(config: &HvaeConfig, layout: &Layout, block: &DecoderBlock, device: &Device) -> Self {
        let (resolution, latent) = (block.resolution, config.latent_channels);
        let width = layout.width(resolution);
        let last_scale = (1.0 / layout.decoder.len() as f64).sqrt();
        let bottleneck = |inputs, outputs, last_scale| {
            let inside = config.bottleneck(width);
            BottleneckConfig { inputs, inside, outputs, resolution, last_scale }.init(device)
        };
        Self {
            enc: bottleneck(2 * width, 2 * latent, 1.0),
            prior: bottleneck(width, 2 * latent + width, 0.0),
            z_proj: conv([latent, width], 1, last_scale, device),
            resnet: bottleneck(width, width, last_scale),
        }
    }

    fn forward(&self, state: Tensor<4>, source: Source, config: &HvaeConfig, pass: &Pass<'_>) -> (Tensor<4>, Latent) {
        let latent_channels = config.latent_channels;
        let features = self.prior.forward(state.clone(), &pass.inside(format_args!("prior")));
        let prior = normal(&features, latent_channels);
        let [_, channels, ..] = state.dims();
        let update = features.narrow(1, 2 * latent_channels, channels);

        let (value, posterior) = match source {
            Source::Given(value) => (value, None),
            Source::Prior { noise, temperature } => (prior.sample(noise, temperature), None),
            Source::Posterior { activation, noise } => {
                let input = concat(state.clone(), activation);
                let found = normal(&self.enc.forward(input, &pass.inside(format_args!("enc"))), latent_channels);
                let posterior = if config.residual_posterior { prior.moved_by(found) } else { found };
                (posterior.sample(noise, 1.0), Some(posterior))
            }
        };
        let projected = apply("z_proj", &self.z_proj, value.clone(), pass);
        let state = add(add(state, update), projected);
        let state = self.resnet.residual(state, &pass.inside(format_args!("resnet")));
        (state, Latent { value, prior, posterior })
    }
}

/// Mean and log scale in the first channels.
fn normal(features: &Tensor<4>, channels: usize) -> DiagonalNormal {
    let part = |i: usize| features.clone().narrow(1, i * channels, channels);
    DiagonalNormal { mean: part(0), log_scale: part(1) }
}
