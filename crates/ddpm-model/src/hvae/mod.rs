//! The hierarchical VAE of Child (2021), VDVAE: latents at several resolutions, each given those above.
//!
//! Field names spell the keys of VDVAE's files, so that weights pass in and out by name. All noise is passed in.

pub mod blocks;
mod config;
mod decoder;
mod encoder;
mod layers;
mod normal;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ddpm_kernels::Precision;

use crate::network::NetworkError;
use crate::pass::Pass;
pub use config::{HvaeConfig, Layout};
pub use decoder::Latent;
use decoder::{Decoder, Source};
pub use encoder::Activations;
use encoder::Encoder;
pub use normal::DiagonalNormal;

impl HvaeConfig {
    /// Builds the network, for which channels and size of the images must be known.
    ///
    /// Parameters are drawn when they are first used: seed the device, then touch them all.
    pub fn init(&self, device: &Device) -> Result<Hvae, NetworkError> {
        let problems = self.problems(&[self.image_channels, self.image_size, self.image_size]);
        if !problems.is_empty() {
            return Err(NetworkError::Config { problems });
        }
        let layout = self.layout().map_err(|problems| NetworkError::Config { problems })?;
        Ok(self.build(&layout, device))
    }

    /// Builds the network of a config that has no problems, with its own layout.
    pub fn build(&self, layout: &Layout, device: &Device) -> Hvae {
        Hvae {
            encoder: Encoder::init(self, layout, device),
            decoder: Decoder::init(self, layout, device),
            config: self.clone(),
            layout: layout.clone(),
            precision: Precision::F32,
        }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Hvae {
    encoder: Encoder,
    decoder: Decoder,
    #[module(skip)]
    config: HvaeConfig,
    #[module(skip)]
    layout: Layout,
    #[module(skip)]
    precision: Precision,
}

/// What a pass through the decoder gives.
#[derive(Clone, Debug)]
pub struct TopDown {
    /// The parameters of the likelihood, `[B, P, H, W]`.
    pub output: Tensor<4>,
    /// The state that they are computed from, `[B, width, H, W]`.
    pub state: Tensor<4>,
    /// The latents, the uppermost first.
    pub latents: Vec<Latent>,
}

impl TopDown {
    /// The divergence of the posterior from the prior in nats, `[B]` for each block whose latent came from the posterior.
    pub fn kl_of_blocks(&self) -> Vec<Tensor<1>> {
        self.latents.iter().filter_map(Latent::kl).collect()
    }

    /// The same over all blocks, `[B]`: the rate of the ELBO in nats.
    pub fn kl(&self) -> Tensor<1> {
        self.summed(Latent::kl)
    }

    /// `ln q(z | x) - ln p(z)` at the latents that were drawn, `[B]`: `log_prob - log_ratio` is the log weight of an
    /// importance-weighted bound.
    pub fn log_ratio(&self) -> Tensor<1> {
        self.summed(Latent::log_ratio)
    }

    fn summed(&self, of: impl Fn(&Latent) -> Option<Tensor<1>>) -> Tensor<1> {
        let zeros = Tensor::zeros([self.output.dims()[0]], (&self.output.device(), self.output.dtype()));
        self.latents.iter().filter_map(of).fold(zeros, |sum, part| sum + part)
    }
}

impl Hvae {
    /// The config that this network was built from.
    pub fn config(&self) -> &HvaeConfig {
        &self.config
    }

    /// Has the convolutions compute in this precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Shapes of the standard normal noise of a batch: that of each latent, the uppermost first.
    pub fn noise_shapes(&self, batch: usize) -> Vec<[usize; 4]> {
        let shape = |resolution: usize| [batch, self.config.latent_channels, resolution, resolution];
        self.layout.decoder.iter().map(|block| shape(block.resolution)).collect()
    }

    /// The states of the encoder for images `[B, C, H, W]`, scaled as the network was trained.
    pub fn encode(&self, images: Tensor<4>, pass: &Pass<'_>) -> Activations {
        let pass = &pass.of(self.precision).inside(format_args!("encoder"));
        self.encoder.forward(images, &self.layout, pass)
    }

    /// All latents from the posterior, as in training.
    pub fn forward(&self, images: Tensor<4>, noises: Vec<Tensor<4>>, pass: &Pass<'_>) -> TopDown {
        let upper = noises.len();
        self.from_upper_latents(images, upper, noises, 1.0, pass)
    }

    /// The `upper` first latents from the posterior of the images, the others from the prior at this temperature.
    pub fn from_upper_latents(
        &self,
        images: Tensor<4>,
        upper: usize,
        noises: Vec<Tensor<4>>,
        temperature: f64,
        pass: &Pass<'_>,
    ) -> TopDown {
        let activations = self.encode(images, pass);
        let source = |(i, noise): (usize, Tensor<4>)| match activations.get(&noise.dims()[2]) {
            Some(activation) if i < upper => Source::Posterior { activation: activation.clone(), noise },
            _ => Source::Prior { noise, temperature },
        };
        self.decode_from(noises.into_iter().enumerate().map(source).collect(), pass)
    }

    /// All latents from the prior. The temperature multiplies every standard deviation; at 0 the noise has no effect.
    pub fn from_prior(&self, noises: Vec<Tensor<4>>, temperature: f64, pass: &Pass<'_>) -> TopDown {
        self.decode_from(noises.into_iter().map(|noise| Source::Prior { noise, temperature }).collect(), pass)
    }

    /// All latents are given, the uppermost first.
    pub fn decode(&self, latents: Vec<Tensor<4>>, pass: &Pass<'_>) -> TopDown {
        self.decode_from(latents.into_iter().map(Source::Given).collect(), pass)
    }

    /// The mean of the images that the decoder makes of latents from the posterior; the noise may be zeros.
    pub fn reconstruct(&self, images: Tensor<4>, noises: Vec<Tensor<4>>, pass: &Pass<'_>) -> Tensor<4> {
        let output = self.forward(images, noises, pass).output;
        self.config.likelihood.mean(output, self.config.image_channels)
    }

    fn decode_from(&self, sources: Vec<Source>, pass: &Pass<'_>) -> TopDown {
        debug_assert_eq!(sources.len(), self.layout.decoder.len(), "one noise or latent for each block");
        let pass = &pass.of(self.precision).inside(format_args!("decoder"));
        let (state, latents) = self.decoder.forward(sources, &self.config, &self.layout, pass);
        TopDown { output: self.decoder.output(state.clone(), pass), state, latents }
    }
}

#[cfg(test)]
mod tests;
