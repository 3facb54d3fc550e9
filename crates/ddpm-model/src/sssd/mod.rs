//! The network of SSSD (Lopez Alcaraz & Strodthoff 2022) for series with missing values: residual blocks with gates as in
//! DiffWave (Kong et al. 2021), with S4 layers in place of dilated convolutions.
//!
//! Field names spell the keys of SSSD's checkpoints, so that weights pass in and out by name. `omega` and `z` in those files
//! are nodes of a Fourier transform, which nothing here needs.
//!
//! Of an S4 kernel only C is trained and the kernel is linear in C: [`Sssd::bases`] computes on the host in f64 what it is
//! multiplied with, once for each length of the series. The bases hold as long as the weights that are not trained stay.

mod block;
pub mod complex;
mod config;
mod convolution;
pub mod hippo;
pub mod loss;
mod s4;
mod s4d;
pub mod state_space;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Initializer, Linear, LinearConfig, Relu};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::{dense, dense_rows, silu};

use crate::embedding::SinusoidConfig;
use crate::network::NetworkError;
use crate::pass::Pass;
use block::{Conv, ResidualBlock};
pub use config::{SequenceLayer, SssdConfig};
pub use convolution::convolve;
pub use s4::{KernelBasis, KernelKind, S4Config, S4Layer};
use state_space::KernelSum;

/// How the diffusion step is embedded.
const STEP_SINUSOIDS: SinusoidConfig = SinusoidConfig::ho();

impl SssdConfig {
    /// Builds the network, for which channels and length of the series must be known.
    ///
    /// Parameters are drawn when they are first used: seed the device, then touch them all.
    pub fn init(&self, device: &Device) -> Result<Sssd, NetworkError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(NetworkError::Config { problems });
        }
        Ok(Sssd {
            init_conv: (Conv::init([self.in_channels, self.residual_channels], 1, device), Relu::new()),
            residual_layer: ResidualLayers {
                fc_t1: LinearConfig::new(self.step_sinusoids, self.step_hidden).init(device),
                fc_t2: LinearConfig::new(self.step_hidden, self.step_features).init(device),
                residual_blocks: (0..self.layers).map(|number| ResidualBlock::init(self, number, device)).collect(),
            },
            final_conv: (
                Conv::init([self.skip_channels, self.skip_channels], 1, device),
                Relu::new(),
                ZeroConv::init([self.skip_channels, self.out_channels], device),
            ),
            config: self.clone(),
            computed: Computed::default(),
        })
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Sssd {
    // Tuples: the keys have the places of the layers in PyTorch's sequences.
    init_conv: (Conv, Relu),
    residual_layer: ResidualLayers,
    final_conv: (Conv, Relu, ZeroConv),
    #[module(skip)]
    config: SssdConfig,
    #[module(skip)]
    computed: Computed,
}

/// The bases that were computed last.
#[derive(Clone, Debug, Default)]
struct Computed(Arc<Mutex<Option<Found>>>);

/// Bases, and what they were computed of.
type Found = (BasesOf, Arc<KernelBases>);

/// What bases are computed of: as soon as one of these changes, they are others.
#[derive(Clone, Debug, PartialEq)]
struct BasesOf {
    length: usize,
    device: Device,
    /// The logarithms of the step sizes of all layers. The other constants of S4 are the same for all networks of one config.
    step_sizes: Vec<f32>,
}

#[derive(Module, Debug)]
struct ResidualLayers {
    fc_t1: Linear,
    fc_t2: Linear,
    residual_blocks: Vec<ResidualBlock>,
}

/// The last convolution, zero at first.
#[derive(Module, Debug)]
struct ZeroConv {
    conv: Conv1d,
}

/// What is known of the series: values `[B, C, L]`, and 1 where a value is observed, 0 where it is missing.
#[derive(Clone, Debug)]
pub struct Observations {
    /// The values; those at missing places do not matter.
    pub values: Tensor<3>,
    /// 1 where a value is observed, 0 where it is missing.
    pub mask: Tensor<3>,
}

impl Observations {
    /// The input of a network: the values at observed places, noisy ones elsewhere.
    pub fn with_noisy(&self, noisy: Tensor<3>) -> Tensor<3> {
        loss::at_missing_places(noisy, self.values.clone(), self.mask.clone())
    }

    /// Values at observed places, zeros elsewhere, and the mask: `[B, 2C, L]`.
    fn condition(&self) -> Tensor<3> {
        Tensor::cat(vec![self.values.clone() * self.mask.clone(), self.mask.clone()], 1)
    }
}

/// The bases of the kernels of a network for series of one length, two for each residual block.
#[derive(Clone, Debug)]
pub struct KernelBases {
    blocks: Vec<[KernelBasis; 2]>,
    length: usize,
}

impl KernelBases {
    /// The length of the series that they are for.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Sssd {
    /// The config that this network was built from.
    pub fn config(&self) -> &SssdConfig {
        &self.config
    }

    /// The [bases](Self::bases) for series of this length, computed once as long as the weights that are not trained stay.
    pub fn kept_bases(&self, length: usize) -> Result<Arc<KernelBases>, NetworkError> {
        if self.config.layer != SequenceLayer::S4 {
            return self.bases(length).map(Arc::new);
        }
        let step_sizes = self.residual_layer.residual_blocks.iter().flat_map(ResidualBlock::step_sizes);
        let step_sizes = Tensor::cat(step_sizes.collect(), 0);
        let device = step_sizes.device();
        let of = BasesOf { length, device, step_sizes: step_sizes.into_data().iter::<f32>().collect() };
        let mut computed = self.computed.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*computed {
            Some((found, bases)) if *found == of => Ok(bases.clone()),
            _ => {
                let bases = Arc::new(self.bases(length)?);
                *computed = Some((of, bases.clone()));
                Ok(bases)
            }
        }
    }

    /// The bases of all kernels for series of this length, in the dtype of the weights: `states * features * length` values
    /// for each S4 layer.
    pub fn bases(&self, length: usize) -> Result<KernelBases, NetworkError> {
        let input = |reason: String| NetworkError::Input { shape: vec![self.config.in_channels, length], reason };
        if length == 0 {
            return Err(input("a series has at least one step".into()));
        }
        if self.config.kernel_sum == KernelSum::Half && length > self.config.length {
            let stored = self.config.length;
            return Err(input(format!("kernels of half the states have {stored} values, expected no longer series")));
        }
        let blocks = self.residual_layer.residual_blocks.iter();
        Ok(KernelBases { blocks: blocks.map(|block| block.bases(&self.config, length)).collect(), length })
    }

    /// The noise in `x` `[B, C, L]` at the steps `t` `[B]`, given what is observed.
    pub fn forward(
        &self,
        x: Tensor<3>,
        observations: &Observations,
        t: Tensor<1>,
        bases: &KernelBases,
        pass: &Pass<'_>,
    ) -> Tensor<3> {
        if let Some(noise) = self.fused(&x, observations, &t, bases, pass) {
            return noise;
        }
        let (first, relu) = &self.init_conv;
        let h = pass.layer("init_conv", x, |x| relu.forward(first.forward(x)));
        let inside = pass.inside(format_args!("residual_layer"));
        let step = self.residual_layer.embed(t, self.config.step_sinusoids, &inside);
        let layers = &self.residual_layer;
        let sum =
            pass.layer("residual_layer", h, |h| layers.forward(h, observations.condition(), step, bases, &inside));
        let (second, relu, last) = &self.final_conv;
        let h = relu.forward(second.forward(sum));
        pass.layer("final_conv.2", h, |h| last.forward(h))
    }

    /// The same by kernels, where there are some, with places before channels.
    fn fused(
        &self,
        x: &Tensor<3>,
        observations: &Observations,
        t: &Tensor<1>,
        bases: &KernelBases,
        pass: &Pass<'_>,
    ) -> Option<Tensor<3>> {
        if !pass.may_fuse() {
            return None;
        }
        let (layers, (first, relu)) = (&self.residual_layer, &self.init_conv);
        let h = relu.forward(first.of_rows(x.clone().swap_dims(1, 2))?);
        let step = layers.embed(t.clone(), self.config.step_sinusoids, pass);
        let condition = observations.condition().swap_dims(1, 2);
        let [batch, length, residual] = h.dims();
        let skip = self.config.skip_channels;
        let nothing = Tensor::zeros([batch, length, skip], (&h.device(), h.dtype()));
        let mut carried = Tensor::cat(vec![h, nothing], 2);
        let count = layers.residual_blocks.len();
        for (i, (block, bases)) in layers.residual_blocks.iter().zip(&bases.blocks).enumerate() {
            carried = block.fused(carried, condition.clone(), step.clone(), bases, i + 1 == count, pass)?;
        }
        let sum = carried.narrow(2, residual, skip) * (1.0 / count as f64).sqrt();
        let (second, relu, last) = &self.final_conv;
        let h = relu.forward(second.of_rows(sum)?);
        let weight = last.conv.weight.val();
        Some(dense_rows(h, weight, last.conv.bias.as_ref()?.val())?.swap_dims(1, 2))
    }
}

impl ResidualLayers {
    fn embed(&self, t: Tensor<1>, width: usize, pass: &Pass<'_>) -> Tensor<2> {
        let layer = |name: &str, linear: &Linear, x| pass.layer(name, x, |x| dense(linear, x, pass.precision));
        let hidden = silu(layer("fc_t1", &self.fc_t1, STEP_SINUSOIDS.embed(t, width)));
        silu(layer("fc_t2", &self.fc_t2, hidden))
    }

    fn forward(
        &self,
        mut h: Tensor<3>,
        condition: Tensor<3>,
        step: Tensor<2>,
        bases: &KernelBases,
        pass: &Pass<'_>,
    ) -> Tensor<3> {
        let mut sum: Option<Tensor<3>> = None;
        for (i, (block, bases)) in self.residual_blocks.iter().zip(&bases.blocks).enumerate() {
            let inside = pass.inside(format_args!("residual_blocks.{i}"));
            let [next, skip] = block.forward(h, condition.clone(), step.clone(), bases, &inside);
            h = pass.joined(&format!("residual_blocks.{i}"), next);
            sum = Some(match sum {
                Some(sum) => sum + skip,
                None => skip,
            });
        }
        sum.unwrap_or(h) * (1.0 / self.residual_blocks.len() as f64).sqrt()
    }
}

impl ZeroConv {
    fn init([inputs, outputs]: [usize; 2], device: &Device) -> Self {
        Self { conv: Conv1dConfig::new(inputs, outputs, 1).with_initializer(Initializer::Zeros).init(device) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.conv.weight.val();
        let bias = match &self.conv.bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([weight.dims()[0]], (&weight.device(), weight.dtype())),
        };
        block::convolution(x, weight, bias, 1)
    }
}
