//! The description of the network of SSSD, and its checks.

use serde::{Deserialize, Serialize};

use super::s4::{KernelKind, S4Config};
use super::state_space::KernelSum;
use crate::network::Problem;

/// What lets the steps of a series know of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SequenceLayer {
    /// S4 (Gu et al. 2022), of whose kernels only C is trained, as in SSSD.
    #[default]
    S4,
    /// S4D (Gu et al. 2022b): the state space is diagonal, and all of it is trained.
    S4d,
    /// Dilated convolutions, as in DiffWave (Kong et al. 2021).
    Dilated,
}

/// The network of SSSD with S4 layers (Lopez Alcaraz & Strodthoff 2022, arXiv:2208.09399). The defaults are its sizes, with
/// channels and length left to the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SssdConfig {
    /// Channels of the series; 0: as the data have.
    pub in_channels: usize,
    /// Channels of the output; 0: as the data have.
    pub out_channels: usize,
    /// The length that the kernels are stored for; 0: that of the data. Other lengths are possible.
    #[serde(alias = "s4_lmax")]
    pub length: usize,
    /// Channels between the residual blocks; inside there are twice as many.
    #[serde(alias = "res_channels")]
    pub residual_channels: usize,
    /// Channels of the sum over the blocks.
    pub skip_channels: usize,
    /// What lets the steps of a series know of each other.
    pub layer: SequenceLayer,
    /// Residual blocks, with two S4 layers each or one dilated convolution.
    #[serde(alias = "num_res_layers")]
    pub layers: usize,
    /// Blocks after which the dilations, which double from block to block, begin at 1 again. For `layer = "dilated"`.
    pub dilation_cycle: usize,
    /// Sinusoids that the diffusion step is embedded in.
    #[serde(alias = "diffusion_step_embed_dim_in")]
    pub step_sinusoids: usize,
    /// Features between the two layers of the embedding.
    #[serde(alias = "diffusion_step_embed_dim_mid")]
    pub step_hidden: usize,
    /// Features of the embedding.
    #[serde(alias = "diffusion_step_embed_dim_out")]
    pub step_features: usize,
    /// States of a feature of an S4 layer.
    #[serde(alias = "s4_d_state")]
    pub states: usize,
    /// Whether what comes after a step has a kernel of its own; otherwise a step sees only what comes before.
    pub bidirectional: bool,
    /// Whether a layer normalization follows every S4 layer.
    pub layer_norm: bool,
    /// Which states the sums inside the kernels go over.
    pub kernel_sum: KernelSum,
}

impl Default for SssdConfig {
    fn default() -> Self {
        Self {
            in_channels: 0,
            out_channels: 0,
            length: 0,
            residual_channels: 256,
            skip_channels: 256,
            layer: SequenceLayer::S4,
            layers: 36,
            dilation_cycle: 10,
            step_sinusoids: 128,
            step_hidden: 512,
            step_features: 512,
            states: 64,
            bidirectional: true,
            layer_norm: true,
            kernel_sum: KernelSum::Full,
        }
    }
}

impl SssdConfig {
    /// With channels and length of the data, `[channels, length]`, where they are left open.
    pub fn with_data(mut self, data_shape: &[usize]) -> Self {
        if let &[channels, length] = data_shape {
            let filled = [(&mut self.in_channels, channels), (&mut self.out_channels, channels)];
            for (value, with) in filled.into_iter().chain([(&mut self.length, length)]) {
                if *value == 0 {
                    *value = with;
                }
            }
        }
        self
    }

    /// Channels inside a residual block, which are the features of its S4 layers.
    pub fn features(&self) -> usize {
        2 * self.residual_channels
    }

    /// The sizes of its S4 layers.
    pub fn s4(&self) -> S4Config {
        let Self { states, length, bidirectional, layer_norm, .. } = *self;
        let kind =
            if self.layer == SequenceLayer::S4d { KernelKind::Diagonal } else { KernelKind::DiagonalPlusLowRank };
        S4Config { features: self.features(), states, length, bidirectional, layer_norm, kind }
    }

    /// The dilation of the convolution of a block.
    pub(super) fn dilation(&self, block: usize) -> usize {
        match self.layer {
            SequenceLayer::Dilated => 1 << (block % self.dilation_cycle.clamp(1, 16)),
            _ => 1,
        }
    }

    /// All reasons why this network cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let sizes = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("length", self.length),
            ("residual_channels", self.residual_channels),
            ("skip_channels", self.skip_channels),
            ("layers", self.layers),
            ("dilation_cycle", self.dilation_cycle),
            ("step_hidden", self.step_hidden),
            ("step_features", self.step_features),
        ];
        let zeros = sizes.into_iter().filter(|(_, size)| *size == 0);
        let mut problems: Vec<Problem> = zeros.map(|(key, _)| Problem::new(key, "is 0, expected at least 1")).collect();
        if self.states == 0 || !self.states.is_multiple_of(2) {
            let message = format!("is {}, expected an even number: states come in conjugate pairs", self.states);
            problems.push(Problem::new("states", message));
        }
        if let Some(message) = super::STEP_SINUSOIDS.problem(self.step_sinusoids) {
            problems.push(Problem::new("step_sinusoids", message));
        }
        problems
    }
}
